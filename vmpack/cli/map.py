"""``vmpack map``: where an image has data, as ``qemu-img map``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack.cli.human import table
from vmpack.cli.options import ALLOW_BACKING, BACKING_DIR, FORMAT, PARENT, PATH, Command, backing

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Print the ranges."""
    from vmpack.ops.map import map_image

    rows = map_image(arguments.path, format=arguments.format, **backing(arguments))
    console.result(rows, _lines(rows))


def _lines(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    header = ("start", "length", "kind", "depth", "file offset")
    yield from table(header, map(_cells, rows), right=("start", "length", "depth", "file offset"))


def _cells(row: Mapping[str, object]) -> Sequence[str]:
    if row["data"]:
        kind = "compressed" if row.get("compressed") else "data"
    else:
        kind = "zero" if row.get("present", True) else "unallocated"
    offset = row.get("offset")
    shown = "" if offset is None else f"{offset}"
    return f"{row['start']}", f"{row['length']}", kind, f"{row['depth']}", shown


COMMAND = Command(
    "map",
    "Show which ranges of a disk hold data, and where in the file it is. Numbers are bytes.",
    (PATH, FORMAT, ALLOW_BACKING, BACKING_DIR, PARENT),
    run,
)
