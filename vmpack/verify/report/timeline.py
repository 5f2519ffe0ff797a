"""When a host's boots reached their milestones, beside the times of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.verify.report.text import clip

if TYPE_CHECKING:
    from vmpack.verify.boot import Boot
    from vmpack.verify.model import Comparison

__all__ = ["Dot", "Milestone", "Timeline", "timeline"]

ROWS = 120
TICKS = 6
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Dot:
    """One boot's time of a milestone; ``x`` is a place on the track in tenths of a percent."""

    boot: int
    x: str
    label: str


@dataclass(frozen=True, slots=True)
class Milestone:
    """One row."""

    name: str
    expected: bool
    missing: bool
    added: bool
    dots: tuple[Dot, ...]
    record: Dot | None
    told: str
    """All of it in words."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows in the order of their times, and the axis's ``(place, label)``."""

    rows: tuple[Milestone, ...]
    ticks: tuple[tuple[str, str], ...]
    boots: int
    has_record: bool
    left_out: int = 0


def _times(boot: Boot) -> dict[str, int]:
    times: dict[str, int] = {}
    for one in (*boot.reached, *boot.seen):
        times.setdefault(one.name, round(one.seconds * 1000))
    return times


def timeline(
    boots: Sequence[Boot], record: Mapping[str, int], comparison: Comparison | None
) -> Timeline | None:
    """The timeline of these boots of one host; nothing where no milestone is known."""
    told: dict[str, set[str]] = {"missing": set(), "added": set()}
    for one in comparison.differences if comparison is not None else ():
        if one.layer == "milestones" and one.code in told:
            told[one.code].add(one.item)
    each = [_times(boot) for boot in boots]
    wanted = {name for boot in boots for name in boot.expectation.names}
    never = {name for boot in boots for name in boot.missing} | told["missing"]
    names = dict.fromkeys([name for times in each for name in times])
    names |= dict.fromkeys(sorted(never | set(record)))
    last = max((value for times in (*each, record) for value in times.values()), default=0)
    if not names:
        return None
    scale = _Scale(last)
    ordered = sorted(names, key=lambda name: _place(name, each, record))
    rows = [
        _row(name, each, record, scale, wanted=name in wanted, never=never, added=told["added"])
        for name in ordered[:ROWS]
    ]
    return Timeline(
        tuple(rows), scale.ticks(), len(boots), bool(record), max(len(ordered) - ROWS, 0)
    )


def _place(name: str, each: Sequence[Mapping[str, int]], record: Mapping[str, int]) -> int:
    found = [times[name] for times in each if name in times]
    return found[0] if found else record.get(name, DAY_MS)


def _row(
    name: str,
    each: Sequence[Mapping[str, int]],
    record: Mapping[str, int],
    scale: _Scale,
    *,
    wanted: bool,
    never: set[str],
    added: set[str],
) -> Milestone:
    dots = tuple(
        Dot(number, scale.x(times[name]), _seconds(times[name]))
        for number, times in enumerate(each, 1)
        if name in times
    )
    recorded = None
    if name in record:
        recorded = Dot(0, scale.x(record[name]), _seconds(record[name]))
    if not dots:
        told = "never"
    else:
        values = [times[name] for times in each if name in times]
        ends = [_seconds(value) for value in (min(values), max(values))]
        told = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return Milestone(
        clip(name, 120),
        wanted,
        not dots or name in never,
        name in added,
        dots,
        recorded,
        told,
    )


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s"


class _Scale:
    """Times to places between 2% and 98% of the track, so that no dot is cut in half."""

    def __init__(self, last: int) -> None:
        self.last = max(last, 1)

    def x(self, milliseconds: int) -> str:
        return f"{2 + 96 * min(milliseconds / self.last, 1):.1f}%"

    def ticks(self) -> tuple[tuple[str, str], ...]:
        step = next(
            size * 10**power
            for power in range(1, 10)
            for size in (1, 2, 5)
            if size * 10**power * TICKS >= self.last
        )
        unit = [(at, f"{at / 1000:g} s") for at in range(0, self.last + 1, step)]
        return tuple((self.x(at), label) for at, label in unit)
