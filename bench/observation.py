"""What observing a boot costs: the same boot with and without, to the same end, in turn.

``python -m bench.observation BUNDLE observed|plain`` boots once, and prints what it took.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import Sample, Side, alternate, cpu_ratio, cpu_seconds, samples_dict, seconds
from bench.table import Row, Target
from vmpack.bundle import Bundle
from vmpack.runner.options import RunOptions
from vmpack.verify.boot import boot_once

SHARE = 0.05
"""Of a plain boot's wall time, which observation may take; :data:`TARGETS` is what it may take
beyond that."""
TARGETS = {"observation": Target(1.0, "s")}
BOOT_S = 900.0


def rows(bundle: Path, turns: int, scratch: Path) -> list[Row]:
    """Boot ``turns`` times on each side, after one warm turn."""
    spent: dict[str, list[float]] = {"observed": [], "plain": []}

    def side(name: str) -> Side:
        words = [sys.executable, "-m", "bench.observation", str(bundle), name]
        return Side(name, words, accept=lambda said: spent[name].append(json.loads(said)["wall"]))

    taken = alternate([side(name) for name in spent], turns, scratch)
    # The boot's own time: starting Python is no part of it. The warm turn is dropped.
    timed = {
        name: [
            dataclasses.replace(sample, wall_s=wall)
            for sample, wall in zip(samples, spent[name][1:], strict=True)
        ]
        for name, samples in taken.items()
    }
    return [row(timed)]


def row(taken: Mapping[str, Sequence[Sample]]) -> Row:
    """Seconds that an observed boot takes beyond a plain one and :data:`SHARE` of it."""
    ours, plain = taken["observed"], taken["plain"]
    beyond = [a.wall_s - (1 + SHARE) * b.wall_s for a, b in zip(ours, plain, strict=True)]
    return Row(
        "observation",
        f"observing a boot, beyond {SHARE:.0%} of it",
        statistics.median(beyond),
        "s",
        f"observed {seconds(ours):.1f} s ({cpu_seconds(ours):.1f} s CPU)",
        f"plain {seconds(plain):.1f} s ({cpu_seconds(plain):.1f} s CPU)",
        TARGETS["observation"],
        {"cpu-ratio": round(cpu_ratio(ours, plain), 3), **samples_dict(taken)},
    )


def main() -> None:
    """Boot once; one JSON object on stdout."""
    name, how = sys.argv[1:]
    options = RunOptions(accel="tcg", timeout_s=BOOT_S)
    with Bundle.open(name) as bundle:
        begun = time.perf_counter()
        boot = asyncio.run(boot_once(bundle, options, observe=how == "observed", end="login"))
        wall = time.perf_counter() - begun
    if not boot.good or boot.problems:
        raise SystemExit(f"{boot.ending.message}; {', '.join(boot.problems)}")
    if (boot.observation is not None) != (how == "observed"):
        raise SystemExit(f"not {how}")
    if boot.observation is not None and "guest" not in boot.observation.layers:
        raise SystemExit("the guest was not asked")
    print(json.dumps({"wall": wall}))


if __name__ == "__main__":
    main()
