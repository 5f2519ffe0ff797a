"""``python -m bench [--only pack,unpack,check,boot,run,startup] [--pairs N] [--quick]``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import boot_reads, running, startup
from bench.bundle import Bench
from bench.machine import describe
from bench.measure import floor_bytes
from bench.table import Row, markdown, noise, plain, summary
from fixtures.build.cache import cache_dir
from fixtures.build.debian import NAME

RESULTS = Path(__file__).with_name("results")
GROUPS = ("pack", "unpack", "check", "boot", "run", "startup")
PAIRS, QUICK = 5, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print one table; write the results when everything was measured in full."""
    arguments = _parse(argv)
    disk = cache_dir() / NAME
    if not disk.exists():
        print(f"{disk} is missing: run `make bench`, which builds it", file=sys.stderr)
        return 1
    machine = describe()
    folder = Path(tempfile.mkdtemp(prefix=".bench.", dir=cache_dir()))
    try:
        rows = _measure(disk, folder, arguments.turns, arguments.groups)
    finally:
        shutil.rmtree(folder)
    machine["peak-floor-bytes"] = floor_bytes()
    shown = [f"{key}: {value}" for key, value in machine.items()]
    print("\n".join(["", plain(rows), "", summary(rows), noise(rows), "", *shown]))
    if arguments.groups == GROUPS and arguments.turns >= PAIRS:
        _write(rows, machine, arguments.turns)
        print(f"\nwritten to {RESULTS}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--only", metavar="GROUPS", default=",".join(GROUPS))
    parser.add_argument("--pairs", dest="turns", metavar="N", type=int, default=PAIRS)
    parser.add_argument("--quick", dest="turns", action="store_const", const=QUICK)
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",")
    unknown = sorted(set(wanted) - set(GROUPS))
    if unknown or arguments.turns < 1:
        parser.error(f"groups are {', '.join(GROUPS)}; N is at least 1")
    arguments.groups = tuple(group for group in GROUPS if group in wanted)
    return arguments


def _measure(disk: Path, folder: Path, turns: int, groups: Sequence[str]) -> list[Row]:
    bench = Bench(disk, folder, turns)

    def boot() -> list[Row]:
        bench.need_inputs()
        return boot_reads.rows(bench.bundle, disk, turns, folder)

    def run() -> list[Row]:
        bench.need_inputs()
        return running.rows(bench.bundle, disk, turns, folder)

    def start() -> list[Row]:
        bench.need_inputs()
        return startup.rows(bench.bundle, disk, turns, folder)

    runners: dict[str, Callable[[], list[Row]]] = {
        "pack": bench.pack,
        "unpack": bench.unpack,
        "check": bench.check,
        "boot": boot,
        "run": run,
        "startup": start,
    }
    rows: list[Row] = []
    for group in groups:
        print(f"measuring {group} ...", file=sys.stderr, flush=True)
        rows += runners[group]()
    return rows


def _write(rows: Sequence[Row], machine: dict[str, object], turns: int) -> None:
    RESULTS.mkdir(exist_ok=True)
    document = {"turns": turns, "machine": machine, "rows": [row.as_dict() for row in rows]}
    (RESULTS / "bundle.json").write_text(json.dumps(document, indent=1) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    text = (
        "# The bundle, measured\n\n"
        f"What `make bench` printed on the machine below: the Debian guest, medians of {turns} "
        "turns after a warm one,\neach side in turn. A result in `x` is the median of the turns' "
        "ratios, fsync left out. All samples are in\n`bundle.json`.\n\n"
        f"{markdown(rows)}\n\n{summary(rows)}.\n\n{noise(rows)}.\n\n{facts}\n"
    )
    (RESULTS / "bundle.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
