"""Which ranges of a disk hold data, and where they lie: ``qemu-img map --output=json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmpack.extent import Kind
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.bundle_disk import BundleDisk
from vmpack.ops.opening import Path, open_image
from vmpack.progress import SILENT, Progress

Row = dict[str, object]


def map_image(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    progress: Progress = SILENT,  # noqa: ARG001 - every operation takes it; this one reads tables only
) -> list[Row]:
    """The whole disk as rows that ascend and are contiguous; equal neighbours are joined.

    A row has ``start``, ``length``, ``depth`` (0 is the image itself, 1 its backing file, ...),
    ``present``, ``zero``, ``data``, ``compressed``, and ``offset`` in the file where the guest's
    bytes lie there as they are.
    """
    options = OpenOptions(allow_backing=allow_backing, backing_dirs=tuple(backing_dirs))
    reader = open_image(path, format=format, options=options)
    try:
        inner = reader.view if isinstance(reader, BundleDisk) else reader
        return _joined(_rows(inner, 0, reader.virtual_size, 0))
    finally:
        reader.close()


def _rows(reader: ImageReader, offset: int, length: int, depth: int) -> Iterator[Row]:
    from vmpack.formats.qcow2.reader import Qcow2Reader

    if isinstance(reader, Qcow2Reader):
        yield from _qcow2_rows(reader, offset, length, depth)
        return
    for extent in reader.extents(offset, length):
        data = extent.kind is Kind.DATA
        yield _row(extent.offset, extent.length, depth, data=data, host=extent.offset)


def _qcow2_rows(reader: object, offset: int, length: int, depth: int) -> Iterator[Row]:
    from vmpack.formats.qcow2 import mapping as m
    from vmpack.formats.qcow2.reader import Qcow2Reader

    assert isinstance(reader, Qcow2Reader)
    base = 0 if reader.data_source else reader.source.base
    for start, size, state, host, _ in reader.runs(offset, length):
        if state == m.HOLE and reader.backing is not None:
            inside = max(0, min(size, reader.backing.virtual_size - start))
            if inside:
                yield from _rows(reader.backing, start, inside, depth + 1)
            if size > inside:
                yield _row(start + inside, size - inside, depth, data=False)
        elif state == m.HOLE:
            yield _row(start, size, depth, data=False, present=False)
        elif state == m.COMPRESSED:
            yield _row(start, size, depth, data=True, compressed=True)
        else:
            place = None if state == m.ZERO else base + host
            yield _row(start, size, depth, data=state == m.DATA, host=place)


def _row(
    start: int,
    length: int,
    depth: int,
    *,
    data: bool,
    present: bool = True,
    compressed: bool = False,
    host: int | None = None,
) -> Row:
    row: Row = {
        "start": start,
        "length": length,
        "depth": depth,
        "present": present,
        "zero": not data,
        "data": data,
        "compressed": compressed,
    }
    if host is not None:
        row["offset"] = host
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
