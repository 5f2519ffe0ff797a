"""Stores a behaviour record in a bundle again and again, killed at each step; says what was left.

Run as a program, so that its forks have one thread:
``python -m tests.support.crashing_record BUNDLE RECORD.json`` prints a JSON array.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support import crashing
from vmpack.bundle.reader import Bundle
from vmpack.ops.verify_record import own_record, store
from vmpack.verify.record import Record, read_record

crashing.STEPS = (*crashing.STEPS, "fchmod", "fchown")


def keep(target: Path, record: Record) -> None:
    """What ``vmpack verify --record`` does after its boots."""
    with Bundle.open(target) as bundle:
        store(bundle, target, record)


def left(target: Path) -> dict[str, Any]:
    """The bundle as it is found after a death."""
    with Bundle.open(target) as bundle:
        record = own_record(bundle)
        return {
            "machine-id": bundle.machine_id,
            "boots": None if record is None else record.observation.boots,
            "sound": not list(bundle.check(full=True, workers=1)),
            "mode": target.stat().st_mode & 0o7777,
            "files": sorted(os.listdir(target.parent)),
        }


def main(name: str, record_name: str) -> None:
    target, record = Path(name), read_record(record_name)
    plain, mode = target.read_bytes(), target.stat().st_mode
    report = []
    for step in itertools.count(1):
        target.unlink()
        target.write_bytes(plain)
        target.chmod(mode)

        def mortal(step: int = step) -> None:
            crashing.die_at(step, torn=True)
            keep(target, record)

        ended = crashing.in_child(mortal)
        after = left(target)
        # A part's name is only cleared away by the next run.
        crashing.in_child(lambda: keep(target, record))
        report.append({"step": step, "ended": ended, "after": after, "next": left(target)})
        if ended:
            break
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
