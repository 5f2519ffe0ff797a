"""How large an output would be: exact for an uncompressed one, so the guest's data is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from vmpack.batches import Spans
from vmpack.errors import UnsupportedError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.create import require_options, writable
from vmpack.ops.opening import Path, open_image
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress
from vmpack.units import round_up


def measure(
    path_or_size: Path | int,
    output_format: str,
    options: Mapping[str, str] | None = None,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """``required`` and ``fully-allocated``: bytes of the file that ``convert`` would write.

    ``required`` is exact for this source without compression: its zero clusters are found by
    reading. qemu-img's figure is larger where it sets tables aside for data that is not there.
    A size in place of a path stands for an empty disk.
    """
    target = writable(output_format)
    values = require_options(target, options or {})
    if isinstance(path_or_size, int):
        return _sizes(target.name, path_or_size, values, iter(()))
    allowed = OpenOptions(allow_backing=allow_backing, backing_dirs=tuple(backing_dirs))
    reader = open_image(os.fspath(path_or_size), format=format, options=allowed)
    try:
        size = reader.virtual_size
        if target.name == "raw":
            return _sizes(target.name, size, values, iter(()))
        found = _data_clusters(reader, _cluster_size(values), workers, progress)
        return _sizes(target.name, size, values, found)
    finally:
        reader.close()


def _cluster_size(values: Mapping[str, str]) -> int:
    from vmpack.formats.qcow2.writer import cluster_bits_of
    from vmpack.units import parse_size

    size = parse_size(values.get("cluster_size", "64K"), name="cluster_size")
    return 1 << cluster_bits_of(size)


def _data_clusters(
    reader: ImageReader, cluster: int, workers: int | None, progress: Progress
) -> Iterator[int]:
    """Numbers of the clusters that are not all zero, ascending."""
    zero = bytes(cluster)

    def work(batch: tuple[int, int]) -> tuple[int, list[int]]:
        offset, length = batch
        data = reader.read(offset, length)
        first = offset // cluster
        starts = range(0, length, cluster)
        return length, [
            number
            for number, start in enumerate(starts, first)
            if data[start : start + cluster] != zero[: length - start]
        ]

    spans = Spans(reader, cluster)
    progress.stage("measuring", spans.total)
    count = worker_count(workers)
    with executor(count) as pool:
        for length, numbers in ordered(pool, work, spans.batches(), 2 * count):
            yield from numbers
            progress.advance(length)


def _sizes(name: str, size: int, values: Mapping[str, str], data: Iterator[int]) -> dict[str, int]:
    if name == "raw":
        return {"required": size, "fully-allocated": size}
    if name != "qcow2":
        raise UnsupportedError(f"measuring {name}")
    cluster = _cluster_size(values)
    wide = values.get("refcount_bits") == "32"
    guest = round_up(size, 512)
    per_table = cluster // 8
    clusters = tables = 0
    last = -1
    for number in data:
        clusters += 1
        if number // per_table != last:
            last = number // per_table
            tables += 1
    every = -(-guest // cluster)
    every_table = -(-every // per_table)
    return {
        "required": qcow2_size(guest, cluster, clusters, tables, wide=wide),
        "fully-allocated": qcow2_size(guest, cluster, every, every_table, wide=wide),
    }


def qcow2_size(size: int, cluster: int, data: int, tables: int, *, wide: bool = False) -> int:
    """Bytes of the qcow2 file with ``data`` uncompressed clusters and ``tables`` L2 tables."""
    per_block = cluster // (4 if wide else 2)
    l1_entries = -(-size // (cluster // 8 * cluster))
    fixed = 1 + data + tables + -(-l1_entries * 8 // cluster)
    blocks = table = 1
    while True:
        total = fixed + blocks + table
        need = -(-total // per_block)
        need_table = -(-need * 8 // cluster)
        if (need, need_table) == (blocks, table):
            return total * cluster
        blocks, table = need, need_table
