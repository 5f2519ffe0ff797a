"""Exports again and again, killed by SIGKILL at each step; says what each death left.

Run as a program, so that its forks have one thread:
``python -m tests.support.crashing_export BUNDLE TARGET FOLDER`` prints a JSON array.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path

from tests.support.crashing import die_at, in_child
from tests.support.hv import tree
from vmpack.ops.transfer import export_bundle


def main(bundle: str, target: str, name: str) -> None:
    """A death at each step, and what is in the folder then."""
    folder = Path(name)
    report = []
    for step in itertools.count(1):
        shutil.rmtree(folder, ignore_errors=True)

        def mortal(step: int = step) -> None:
            die_at(step, torn=False)
            export_bundle(bundle, folder, target, workers=1)

        ended = in_child(mortal)
        report.append({"ended": ended, "left": tree(folder) if folder.exists() else {}})
        if ended:
            break
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
