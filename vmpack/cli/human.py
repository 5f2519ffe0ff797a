"""Plain text for people: aligned fields and tables. Whatever a file says is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vmpack.binary import escape
from vmpack.units import format_size


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
        return ", ".join(f"{escape(str(key))} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return escape(str(value))


def fields(rows: Iterable[tuple[str, str]], *, indent: int = 0) -> Iterator[str]:
    """``name  value`` lines, the values in one column."""
    kept = list(rows)
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        yield f"{'':{indent}}{name:<{width}}  {value}".rstrip()


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> Iterator[str]:
    """Columns as wide as their widest cell; those named in ``right`` are right-aligned."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        yield "  ".join(
            f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()


def disk_rows(disks: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """``fields`` rows for the disks of a bundle, from the manifest's entries."""
    for disk in disks:
        virtual, stored = disk["virtual-size"], disk["stored-size"]
        assert isinstance(virtual, int)
        assert isinstance(stored, int)
        text = f"{format_size(virtual)}, stored in {format_size(stored)}"
        yield f"disk {escape(str(disk['id']))}", text
