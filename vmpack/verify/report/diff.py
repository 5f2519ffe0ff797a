"""Two consoles side by side: which lines go together, in time that no console can stretch.

The lines are normalised already. Of two texts with the same lines in another order, as kernels
print them, the lines that moved are told from those that only one side has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Row", "folded", "side_by_side"]

ANCHORS = 16
"""A line that stands in a text more often than this does not tell where one is: it is matched only
beside others. Bounds the work at so many steps for each line."""

LINES = 6000
"""Lines of each side that are compared; a Debian boot has some 600."""

CONTEXT = 3
"""Equal lines that stay visible around others."""

Sort = Literal["same", "moved", "sometimes", "missing", "added", "fold"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a line of the record, of the boot, or both."""

    sort: Sort
    left: str | None = None
    right: str | None = None
    count: int = 0
    """Of a ``fold``: the equal lines that stand there."""
    rows: tuple[Row, ...] = ()
    """They themselves."""


def side_by_side(
    left: Sequence[str], right: Sequence[str], sometimes: Container[str] = ()
) -> list[Row]:
    """The rows of both texts; ``sometimes`` are lines that are no difference.

    Takes time and memory in proportion to the number of lines.
    """
    left, right = left[:LINES], right[:LINES]
    spare_left, spare_right = Counter(left), Counter(right)
    for line in set(spare_left) & set(spare_right):
        both = min(spare_left[line], spare_right[line])
        spare_left[line] -= both
        spare_right[line] -= both
    rows: list[Row] = []
    i = j = 0
    for a, b in [*_matches(left, right), (len(left), len(right))]:
        gone = [(line, _sort(line, spare_left, sometimes, "missing")) for line in left[i:a]]
        come = [(line, _sort(line, spare_right, sometimes, "added")) for line in right[j:b]]
        rows += [Row(sort, left=line) for line, sort in gone]
        rows += [Row(sort, right=line) for line, sort in come]
        if a < len(left) and b < len(right):
            rows.append(Row("same", left[a], right[b]))
        i, j = a + 1, b + 1
    return rows


def _sort(line: str, spare: Counter[str], sometimes: Container[str], alone: Sort) -> Sort:
    if line in sometimes:
        return "sometimes"
    if spare[line] > 0:
        spare[line] -= 1
        return alone
    return "moved"


def _matches(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of equal lines, both sides ascending.

    The longest such row of rare lines, and then those beside them.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(right):
        places[line].append(number)
    # The longest ascending row over all pairs (Hunt and Szymanski): for each length, the smallest
    # place at which a row of it can end, and the pair it ended with.
    ends: list[int] = []
    chain: list[tuple[int, int, int]] = []
    tails: list[int] = []
    for number, line in enumerate(left):
        found = places.get(line, ())
        if len(found) > ANCHORS:
            continue
        for place in reversed(found):
            at = bisect_left(ends, place)
            before = tails[at - 1] if at else -1
            if at == len(ends):
                ends.append(place)
                tails.append(len(chain))
            elif place < ends[at]:
                ends[at], tails[at] = place, len(chain)
            else:
                continue
            chain.append((number, place, before))
    anchors: list[tuple[int, int]] = []
    at = tails[-1] if tails else -1
    while at >= 0:
        a, b, at = chain[at]
        anchors.append((a, b))
    return list(_filled(left, right, anchors[::-1]))


def _filled(
    left: Sequence[str], right: Sequence[str], anchors: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The anchors, and equal lines that follow or precede one without a gap."""
    i = j = 0
    for a, b in [*anchors, (len(left), len(right))]:
        while i < a and j < b and left[i] == right[j]:
            yield i, j
            i, j = i + 1, j + 1
        back = 0
        while a - back > i and b - back > j and left[a - back - 1] == right[b - back - 1]:
            back += 1
        for k in range(back, 0, -1):
            yield a - k, b - k
        if a < len(left) or b < len(right):
            yield a, b
        i, j = a + 1, b + 1


def folded(rows: Sequence[Row], context: int = CONTEXT) -> list[Row]:
    """``rows`` with long runs of equal lines as one ``fold`` each."""
    result: list[Row] = []
    run: list[Row] = []
    for row in [*rows, None]:
        if row is not None and row.sort == "same":
            run.append(row)
            continue
        first = 0 if not result else context
        last = 0 if row is None else context
        if len(run) > first + last + 1:
            middle = tuple(run[first : len(run) - last])
            result += run[:first]
            result.append(Row("fold", count=len(middle), rows=middle))
            result += run[len(run) - last :]
        else:
            result += run
        run = []
        if row is not None:
            result.append(row)
    return result
