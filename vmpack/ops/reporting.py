"""Writes the report of an import or export to a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from vmpack.copy import write_all
from vmpack.formats.base import Job
from vmpack.output import Output


def write_report(path: str | os.PathLike[str], report: Mapping[str, object]) -> None:
    """Write ``report`` as JSON to ``path``, in place of an older report.

    Raises :class:`OutputError` when it cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=True) + "\n"
    with Output(path, force=True) as out:
        write_all(out.fd, Job(0, text.encode()), out.name)
        out.commit()
