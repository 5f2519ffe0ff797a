"""Runs commands in turn and compares what they cost: seconds, CPU seconds, peak memory.

Sides take turns (A, B, A, B, ...) so that a machine that slows down slows all of them. The first
turn warms the page cache and is dropped. What is compared is the median of the ratios of each turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One run of one command."""

    wall_s: float
    """With the time spent in fsync left out."""
    cpu_s: float
    """User and system time of the process and its children."""
    peak_bytes: int
    """Largest resident set. It cannot show less than this process's own (see ``floor_bytes``)."""
    sync_s: float = 0.0
    """Time that the command says it waited in fsync."""
    steal_s: float = 0.0
    """CPU time that the host gave to other machines meanwhile, over all cores."""
    others_s: float = 0.0
    """CPU time that other processes of this machine took meanwhile: the noise."""
    minor_faults: int = 0

    def as_dict(self) -> dict[str, object]:
        """The JSON form, times rounded to what the clock can tell."""
        return {
            "seconds": round(self.wall_s, 4),
            "cpu-seconds": round(self.cpu_s, 4),
            "peak-bytes": self.peak_bytes,
            "sync-seconds": round(self.sync_s, 3),
            "steal-seconds": round(self.steal_s, 2),
            "others-seconds": round(self.others_s, 2),
            "minor-faults": self.minor_faults,
        }


@dataclass(frozen=True)
class Side:
    """A command that takes its turn. ``outputs`` are removed before each run.

    ``stdin`` names a file; ``accept`` raises for output that means failure in spite of exit code 0.
    """

    name: str
    argv: Sequence[str]
    outputs: Sequence[Path] = ()
    stdin: Path | None = None
    accept: Callable[[str], None] | None = None


Samples = Mapping[str, Sequence[Sample]]


def alternate(
    sides: Sequence[Side], turns: int, scratch: Path, *, warm: bool = True
) -> dict[str, list[Sample]]:
    """``turns`` samples of each side, taken in turn, after one turn that is dropped (``warm``).

    Another side begins each time: who writes after a large file was written and removed gets
    memory that the host has to bring back, which can double its time.

    Raises :class:`RuntimeError` when a command fails.
    """
    taken: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for turn in range(0 if warm else 1, turns + 1):
        first = turn % len(sides)
        for side in (*sides[first:], *sides[:first]):
            sample = run(side, scratch)
            if turn:
                taken[side.name].append(sample)
    return taken


def run(side: Side, scratch: Path) -> Sample:
    """One run, begun when nothing waits to be written to the disk any more."""
    for path in side.outputs:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.sync()
    out, err = scratch / "stdout", scratch / "stderr"
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.fspath(side.stdin or os.devnull), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.fspath(out), writing, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, os.fspath(err), writing, 0o600),
    ]
    (busy, stolen), started = _machine_s(), time.perf_counter()
    pid = os.posix_spawnp(side.argv[0], list(side.argv), os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    busy_after, stolen_after = _machine_s()
    said = out.read_text(errors="replace")
    if status:
        complaint = err.read_text(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"{' '.join(side.argv)}: exit code {code}\n{said}{complaint}")
    if side.accept is not None:
        side.accept(said)
    sync, cpu = sync_seconds(said), usage.ru_utime + usage.ru_stime
    return Sample(
        wall_s=wall - sync,
        cpu_s=cpu,
        peak_bytes=usage.ru_maxrss * 1024,
        sync_s=sync,
        steal_s=stolen_after - stolen,
        others_s=max(0.0, busy_after - busy - cpu),
        minor_faults=usage.ru_minflt,
    )


def sync_seconds(said: str) -> float:
    """``sync-milliseconds`` of a JSON document, in seconds; 0 for other output."""
    if not said.startswith("{"):
        return 0.0
    document = json.loads(said)
    return float(document.get("sync-milliseconds", 0)) / 1000


def _machine_s() -> tuple[float, float]:
    """CPU time that all processes took since the start, and that other machines took."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS


def disturbance(taken: Samples) -> float:
    """Share of one core that other processes took while these samples were taken."""
    every = [sample for samples in taken.values() for sample in samples]
    return sum(one.others_s for one in every) / sum(one.wall_s + one.sync_s for one in every)


def floor_bytes() -> int:
    """This process's resident set: a child's peak begins at it (exec counts the old image)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def seconds(samples: Sequence[Sample]) -> float:
    """Median wall time."""
    return statistics.median(sample.wall_s for sample in samples)


def cpu_seconds(samples: Sequence[Sample]) -> float:
    """Median CPU time."""
    return statistics.median(sample.cpu_s for sample in samples)


def sync_median(samples: Sequence[Sample]) -> float:
    """Median time in fsync."""
    return statistics.median(sample.sync_s for sample in samples)


def peak_bytes(samples: Sequence[Sample]) -> int:
    """The largest resident set of all runs."""
    return max(sample.peak_bytes for sample in samples)


def ratio(
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    of: Callable[[Sample], float] = lambda sample: sample.wall_s,
) -> float:
    """The median of the turns' ratios."""
    return statistics.median(of(a) / of(b) for a, b in zip(ours, theirs, strict=True))


def cpu_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """As :func:`ratio`, of CPU time: on a noisy machine it says more."""
    return ratio(ours, theirs, lambda sample: sample.cpu_s)


def samples_dict(taken: Samples) -> dict[str, object]:
    """All samples by side, and how disturbed they were, for the JSON results."""
    return {
        "others-share": round(disturbance(taken), 3),
        "samples": {name: [one.as_dict() for one in samples] for name, samples in taken.items()},
    }
