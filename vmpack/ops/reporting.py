"""Writes the report of an import or export to a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from vmpack.copy import write_all
from vmpack.errors import OutputError, from_os_error
from vmpack.formats.base import Job
from vmpack.output import Output

_STARTS = (b'{\n  "direction": "', b'{\n  "import": {')
"""How the reports begin that are written here."""


def require_place(path: str | os.PathLike[str]) -> None:
    """Raise :class:`OutputError` where a report cannot go: only an older report is replaced.

    Said before the work begins: the name of a disk or bundle here must not cost it.
    """
    name = os.fspath(path)
    try:
        if not os.path.lexists(name):
            return
        if os.path.isfile(name):
            with open(name, "rb") as file:
                if file.read(len(max(_STARTS, key=len))).startswith(_STARTS):
                    return
    except OSError as exc:
        raise from_os_error(exc, path=name) from exc
    raise OutputError(
        "exists already, and is no report", path=name, hint="name another file for --report"
    )


def write_report(path: str | os.PathLike[str], report: Mapping[str, object]) -> None:
    """Write ``report`` as JSON to ``path``, in place of an older report.

    Raises :class:`OutputError` when it cannot be written, or something else is there.
    """
    require_place(path)
    text = json.dumps(report, indent=2, ensure_ascii=True) + "\n"
    with Output(path, force=True) as out:
        write_all(out.fd, Job(0, text.encode()), out.name)
        out.commit()
