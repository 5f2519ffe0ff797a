"""How large an output would be: exact for an uncompressed one, so the guest's data is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from vmpack.batches import Spans
from vmpack.errors import UnsupportedError
from vmpack.formats.base import CreateOptions, ImageReader, Measurer, OpenOptions
from vmpack.ops.create import require_options, writable
from vmpack.ops.opening import Path, open_image
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress


def measure(
    path_or_size: Path | int,
    output_format: str,
    options: Mapping[str, str] | None = None,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    compressed: bool = False,
    level: int | None = None,
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """``required`` and ``fully-allocated``: bytes of the file that ``convert`` would write.

    ``required`` is exact for this source without compression (its zero clusters are found by
    reading), an upper bound with it. qemu-img's figure is larger where it sets tables aside for
    data that is not there.
    A size in place of a path stands for an empty disk.
    """
    target = writable(output_format)
    values = dict(require_options(target, options or {}))
    if target.measure is None:
        raise UnsupportedError(f"measuring {target.name}")
    if isinstance(path_or_size, int):
        wanted = CreateOptions(path_or_size, values, compressed, level)
        return _document(target.measure(wanted))
    allowed = OpenOptions(
        allow_backing=allow_backing, backing_dirs=tuple(backing_dirs), parents=tuple(parents)
    )
    reader = open_image(os.fspath(path_or_size), format=format, options=allowed)
    try:
        wanted = CreateOptions(reader.virtual_size, values, compressed, level)
        measurer = target.measure(wanted)
        if target.name != "raw":
            for number in _data_units(reader, measurer.unit, workers, progress):
                measurer.add(number)
        return _document(measurer)
    finally:
        reader.close()


def _document(measurer: Measurer) -> dict[str, int]:
    required, fully = measurer.sizes()
    return {"required": required, "fully-allocated": fully}


def _data_units(
    reader: ImageReader, unit: int, workers: int | None, progress: Progress
) -> Iterator[int]:
    """Numbers of the units that are not all zero, ascending."""
    zero = bytes(unit)

    def work(batch: tuple[int, int]) -> tuple[int, list[int]]:
        offset, length = batch
        data = reader.read(offset, length)
        first = offset // unit
        starts = range(0, length, unit)
        return length, [
            number
            for number, start in enumerate(starts, first)
            if data[start : start + unit] != zero[: length - start]
        ]

    spans = Spans(reader, unit)
    progress.stage("measuring", spans.total)
    count = worker_count(workers)
    with executor(count) as pool:
        for length, numbers in ordered(pool, work, spans.batches(), 2 * count):
            yield from numbers
            progress.advance(length)
