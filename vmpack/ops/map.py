"""Which ranges of a disk hold data, and where they lie: ``qemu-img map --output=json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmpack.formats.base import MapRun, OpenOptions
from vmpack.ops.opening import Path, open_image
from vmpack.progress import SILENT, Progress

Row = dict[str, object]


def map_image(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
    progress: Progress = SILENT,  # noqa: ARG001 - every operation takes it; this one reads tables only
) -> list[Row]:
    """The whole disk as rows that ascend and are contiguous; equal neighbours are joined.

    A row has ``start``, ``length``, ``depth`` (0 is the image itself, 1 its backing file, ...),
    ``present``, ``zero``, ``data``, ``compressed``, and ``offset`` in the file where the guest's
    bytes lie there as they are.
    """
    options = OpenOptions(
        allow_backing=allow_backing, backing_dirs=tuple(backing_dirs), parents=tuple(parents)
    )
    reader = open_image(path, format=format, options=options)
    try:
        return _joined(_row(run) for run in reader.map_runs(0, reader.virtual_size))
    finally:
        reader.close()


def _row(run: MapRun) -> Row:
    row: Row = {
        "start": run.offset,
        "length": run.length,
        "depth": run.depth,
        "present": run.present,
        "zero": run.file_hole or not run.data,
        "data": run.data,
        "compressed": run.compressed,
    }
    if run.host is not None:
        row["offset"] = run.host
    return row


_SAME = ("depth", "present", "zero", "data", "compressed")


def _joined(rows: Iterator[Row]) -> list[Row]:
    joined: list[Row] = []
    for row in rows:
        last = joined[-1] if joined else None
        if last is not None and all(last[key] == row[key] for key in _SAME):
            length = last["length"]
            size = row["length"]
            assert isinstance(length, int)
            assert isinstance(size, int)
            here, there = last.get("offset"), row.get("offset")
            follows = here is None and there is None
            if isinstance(here, int) and isinstance(there, int):
                follows = there == here + length
            if follows:
                last["length"] = length + size
                continue
        joined.append(row)
    return joined
