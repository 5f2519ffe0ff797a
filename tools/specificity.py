"""``python tools/specificity.py``: boot what nobody changed, on every QEMU; count false alarms.

At least 30 boots of three guests over three versions of QEMU; prints a table, and writes each boot
to ``.cache/specificity.json``, one line each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.build.cache import cache_dir
from tests.support.runner import HOSTS
from tests.support.specificity import DEBIAN, SMALL_BIOS, SMALL_UEFI, Seen, recorded, seen

GUESTS = {guest.name: guest for guest in (SMALL_BIOS, SMALL_UEFI, DEBIAN)}
ROUNDS = 4
"""Boots of each guest on each QEMU: 36."""


def main(argv: Sequence[str] | None = None) -> int:
    """Boot, print, and fail when there was a false alarm."""
    parser = argparse.ArgumentParser(prog="tools/specificity.py", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--guests", default=",".join(GUESTS), metavar="NAMES")
    arguments = parser.parse_args(argv)
    names = arguments.guests.split(",")
    if arguments.rounds < 1 or not set(names) <= set(GUESTS):
        parser.error(f"guests are {', '.join(GUESTS)}; N is at least 1")
    log = cache_dir() / "specificity.json"
    taken: list[Seen] = []
    folder = Path(tempfile.mkdtemp(prefix=".specificity.", dir=cache_dir()))
    try:
        with log.open("w") as out:
            for name in names:
                for boot in _boots(name, folder, arguments.rounds):
                    out.write(json.dumps(boot.as_dict()) + "\n")
                    out.flush()
                    taken.append(boot)
    finally:
        shutil.rmtree(folder)
    print(table(taken))
    return 1 if any(not boot.good or boot.alarms for boot in taken) else 0


def _boots(name: str, folder: Path, rounds: int) -> list[Seen]:
    guest = GUESTS[name]
    print(f"{name}: recording", file=sys.stderr, flush=True)
    bundle = recorded(guest, folder, boots=3)
    taken: list[Seen] = []
    for boot in seen(guest, bundle, HOSTS * rounds):
        taken.append(boot)
        found = ", ".join(f"{one.layer} {one.code} {one.item}" for one in boot.alarms)
        shown = found or "no difference"
        print(f"{name} on {boot.qemu}: {shown}", file=sys.stderr, flush=True)
    bundle.unlink()
    return taken


def table(taken: Sequence[Seen]) -> str:
    """Guests and versions, how many boots, how many false alarms."""
    groups: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for boot in taken:
        groups[boot.guest, boot.qemu].append(boot)
    lines = [
        "| guest | QEMU | boots | as expected | false alarms, equality | false alarms, likeness |",
        "|---|---|---|---|---|---|",
    ]
    for (guest, qemu), boots in groups.items():
        good = sum(boot.good for boot in boots)
        equal = sum(len(boot.false) for boot in boots)
        like = sum(len(boot.alarms) for boot in boots) - equal
        lines.append(f"| {guest} | {qemu} | {len(boots)} | {good} | {equal} | {like} |")
    found = {(one.layer, one.code, one.item) for boot in taken for one in boot.alarms}
    lines += [f"{layer} {code} {item}" for layer, code, item in sorted(found)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
