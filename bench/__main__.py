"""``python -m bench [--only GROUPS] [--pairs N] [--quick] [--cells raw:qcow2,vhd:*]``.

Groups: pack, unpack, check, boot, run, observe, startup (written to ``bundle.*``) and matrix.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import boot_reads, matrix, observation, running, startup
from bench.bundle import Bench
from bench.machine import describe
from bench.measure import floor_bytes
from bench.table import Row, markdown, noise, plain, summary
from fixtures.build.cache import cache_dir
from fixtures.build.debian import NAME

RESULTS = Path(__file__).with_name("results")
BUNDLE = ("pack", "unpack", "check", "boot", "run", "observe", "startup")
GROUPS = (*BUNDLE, "matrix")
PAIRS, QUICK = 5, 2
MATRIX_PAIRS = 3
"""At most: 56 cells, in which qemu-img takes 12 s as often as not, take half an hour with these."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print one table; write the results when everything was measured in full."""
    arguments = _parse(argv)
    disk = cache_dir() / NAME
    if not disk.exists():
        print(f"{disk} is missing: run `make bench`, which builds it", file=sys.stderr)
        return 1
    machine = describe()
    # Whoever ends the bench gets the gigabytes back that it holds.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix=".bench.", dir=cache_dir()))
    try:
        groups = [group for group in arguments.groups if group in BUNDLE]
        if groups:
            _bundle(disk, folder, arguments, groups, machine)
        if "matrix" in arguments.groups:
            _matrix(disk, folder, arguments, machine)
    finally:
        shutil.rmtree(folder)
    return 0


def _bundle(
    disk: Path,
    folder: Path,
    arguments: argparse.Namespace,
    groups: Sequence[str],
    machine: dict[str, object],
) -> None:
    rows = _measure(disk, folder, arguments.turns, groups)
    facts = {**machine, "peak-floor-bytes": floor_bytes()}
    shown = [f"{key}: {value}" for key, value in facts.items()]
    print("\n".join(["", plain(rows), "", summary(rows), noise(rows), "", *shown]))
    if tuple(groups) == BUNDLE and arguments.turns >= PAIRS:
        _write(rows, facts, arguments.turns)
        print(f"\nwritten to {RESULTS}")


def _matrix(
    disk: Path, folder: Path, arguments: argparse.Namespace, machine: dict[str, object]
) -> None:
    turns = min(arguments.turns, MATRIX_PAIRS)
    bench = matrix.Matrix(disk, folder, turns)
    cells = list(bench.measure(arguments.cells, _say))
    if not cells:
        print("no cell could be measured")
        return
    full = len(cells) == len(matrix.CELLS)
    rows = matrix.summary_rows(cells)
    if full:
        _say("measuring 4 GiB ...")
        rows += bench.big()
    facts = {**machine, "peak-floor-bytes": floor_bytes()}
    each = [cell.row() for cell in cells]
    shown = [f"{key}: {value}" for key, value in facts.items()]
    tables = [plain(each), matrix.grids(cells), plain(rows), summary(rows), noise(each)]
    print("\n\n".join(["", *tables, "\n".join(shown)]))
    if full and turns >= MATRIX_PAIRS:
        _write_matrix(cells, rows, facts, turns)
        print(f"\nwritten to {RESULTS}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--only", metavar="GROUPS", default=",".join(GROUPS))
    parser.add_argument("--pairs", dest="turns", metavar="N", type=int, default=PAIRS)
    parser.add_argument("--quick", dest="turns", action="store_const", const=QUICK)
    parser.add_argument("--cells", metavar="SOURCE:TARGET,...", help="of the matrix; * is any")
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",")
    unknown = sorted(set(wanted) - set(GROUPS))
    if unknown or arguments.turns < 1:
        parser.error(f"groups are {', '.join(GROUPS)}; N is at least 1")
    arguments.groups = tuple(group for group in GROUPS if group in wanted)
    try:
        arguments.cells = matrix.cells_of(arguments.cells)
    except ValueError as exc:
        parser.error(str(exc))
    return arguments


def _measure(disk: Path, folder: Path, turns: int, groups: Sequence[str]) -> list[Row]:
    bench = Bench(disk, folder, turns)

    def boot() -> list[Row]:
        bench.need_inputs()
        return boot_reads.rows(bench.bundle, disk, turns, folder)

    def run() -> list[Row]:
        bench.need_inputs()
        return running.rows(bench.bundle, disk, turns, folder)

    def observe() -> list[Row]:
        bench.need_inputs()
        return observation.rows(bench.bundle, turns, folder)

    def start() -> list[Row]:
        bench.need_inputs()
        return startup.rows(bench.bundle, disk, turns, folder)

    runners: dict[str, Callable[[], list[Row]]] = {
        "pack": bench.pack,
        "unpack": bench.unpack,
        "check": bench.check,
        "boot": boot,
        "run": run,
        "observe": observe,
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_matrix(
    cells: Sequence[matrix.Cell], rows: Sequence[Row], machine: dict[str, object], turns: int
) -> None:
    RESULTS.mkdir(exist_ok=True)
    each = [cell.row() for cell in cells]
    document = {
        "turns": turns,
        "machine": machine,
        "rows": [row.as_dict() for row in rows],
        "cells": [row.as_dict() for row in each],
    }
    (RESULTS / "matrix.json").write_text(json.dumps(document, indent=1) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    text = (
        "# The conversion matrix, measured\n\n"
        "`python -m bench --only matrix` on the machine below: the Debian guest from every format "
        "to every\nformat, vmpack with and without verification and `qemu-img convert` in turn, "
        f"medians of {turns} turns ({turns + matrix.MORE_TURNS}\nfor uncompressed targets). "
        "Figures are vmpack's share of qemu-img's: the median of the turns'\nratios, fsync left "
        "out. All samples are in `matrix.json`.\n\n"
        f"{markdown(rows)}\n\n{summary(rows)}.\n\n{matrix.grids(cells)}\n\n"
        f"{noise(each)}.\n\n{facts}\n"
    )
    (RESULTS / "matrix.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
