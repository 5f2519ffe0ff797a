"""Plain text for people: aligned fields and tables. Whatever a file says is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from vmpack.binary import escape
from vmpack.units import format_size

WIDTH = 80
DIGESTS = ("sha256:", "vmpack-content-v1:")
LONGEST = 400
"""Characters of one value; what a file says may be megabytes."""
MOST = 100
"""Rows of a table, items of a list."""


def exact_size(size_bytes: int) -> str:
    """``4 GiB (4294967296 bytes)``; just ``512 bytes`` where that says it all."""
    if size_bytes < 1000:
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    return f"{format_size(size_bytes)} ({size_bytes} bytes)"


def plain(value: object) -> str:
    """A JSON value in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        pairs = islice(value.items(), MOST)
        words = [f"{escape(clip(str(key)))} {plain(item)}" for key, item in pairs if item != ""]
        return clip(", ".join([*words, *_more(len(value))]))
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value[:MOST]]
        return clip(", ".join([*items, *_more(len(value))]) or "none")
    return escape(clip(str(value)))


def clip(text: str) -> str:
    """``text``, cut where it is longer than :data:`LONGEST`, with a word about that."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def seconds(duration_s: float) -> str:
    """``0.3 s``, ``12 s``, ``3 min 20 s``."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _more(count: int) -> list[str]:
    return [f"and {count - MOST} more"] if count > MOST else []


def fields(rows: Iterable[tuple[str, str]], *, indent: int = 0) -> Iterator[str]:
    """``name  value`` lines, the values in one column.

    A digest that is too long for the line gets one of its own.
    """
    kept = list(rows)
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        if indent + width + 2 + len(value) > WIDTH and value.startswith(DIGESTS):
            yield f"{'':{indent}}{name}"
            yield f"{'':{indent}}  {value}"
        else:
            yield f"{'':{indent}}{name:<{width}}  {value}".rstrip()


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    most: int | None = None,
) -> Iterator[str]:
    """Columns as wide as their widest cell; those named in ``right`` are right-aligned.

    Rows beyond ``most`` are counted only.
    """
    found = list(rows)
    cells = [list(header), *(list(row) for row in (found if most is None else found[:most]))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        yield "  ".join(
            f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
    if most is not None and len(found) > most:
        yield f"and {len(found) - most} more"


def disk_rows(disks: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """``fields`` rows for the disks of a bundle, from the manifest's entries."""
    for disk in disks:
        virtual, stored = disk["virtual-size"], disk["stored-size"]
        assert isinstance(virtual, int)
        assert isinstance(stored, int)
        text = f"{format_size(virtual)}, stored in {format_size(stored)}"
        yield f"disk {escape(str(disk['id']))}", text
