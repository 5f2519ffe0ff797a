"""The console of a record beside that of a boot, as blocks of rows that a page can afford."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from vmpack.verify.report.diff import Row, folded, side_by_side
from vmpack.verify.report.text import clip

if TYPE_CHECKING:
    from vmpack.verify.model import Facts, Observation

__all__ = ["WIDTH", "Block", "Diff", "console_diff"]

WIDTH = 300
"""Characters of a console line."""

BUDGET = 400_000
"""Characters of one console diff, equal lines that are folded away included."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of the console diff that stand together; equal ones are folded away."""

    fold: bool
    rows: tuple[Row, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Diff:
    """The console of the record beside that of a boot."""

    blocks: tuple[Block, ...]
    missing: int
    added: int
    moved: int
    cut: bool


def _lines(facts: Facts, key: str) -> list[str]:
    found = facts.get(key)
    if not isinstance(found, list):
        return []
    return [line for line in found if isinstance(line, str)]


def console_diff(expected: Observation | None, observed: Observation | None) -> Diff | None:
    """The rows of both; nothing where one of them has no console."""
    if expected is None or observed is None:
        return None
    before, now = (one.layers.get("console") for one in (expected, observed))
    if before is None or now is None:
        return None
    sometimes = {*_lines(before, "sometimes"), *_lines(now, "sometimes")}
    rows = side_by_side(_lines(before, "lines"), _lines(now, "lines"), sometimes)
    count = {sort: sum(row.sort == sort for row in rows) for sort in ("missing", "added", "moved")}
    clipped = [Row(row.sort, _cut(row.left), _cut(row.right)) for row in rows]
    kept = list(_affordable(clipped))
    blocks = tuple(_blocks(folded(kept)))
    return Diff(blocks, count["missing"], count["added"], count["moved"], len(kept) < len(rows))


def _blocks(rows: Sequence[Row]) -> Iterator[Block]:
    for fold, group in groupby(rows, key=lambda row: row.sort == "fold"):
        for row in group if fold else [Row("same", rows=tuple(group))]:
            yield Block(fold, row.rows, len(row.rows))


def _cut(line: str | None) -> str | None:
    return None if line is None else clip(line, WIDTH)


def _affordable(rows: Sequence[Row]) -> Iterator[Row]:
    left = BUDGET
    for row in rows:
        left -= len(row.left or "") + len(row.right or "") + 40
        if left < 0:
            return
        yield row
