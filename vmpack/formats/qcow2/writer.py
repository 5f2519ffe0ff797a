"""Writes qcow2 images: uncompressed, zlib or zstd clusters; version 3, or 2 on request.

Data first, tables after it, the header last. Profile: specs/qcow2.md, QCOW2-WRITE-*.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmpack.codecs import Compressor, deflate_compressor, level_of
from vmpack.copy import write_all
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.qcow2.layout import Layout, encode_header
from vmpack.formats.qcow2.request import Backing, requested
from vmpack.formats.qcow2.structs import (
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    ENTRY_COPIED,
    compressed_entry,
)
from vmpack.formats.qcow2.tables import TableWriter
from vmpack.units import round_up

DEFAULT_CLUSTER_BITS = 16
_MOST = 0xFFFF_FFFF
"""Refcounts of 32 bits, which a writer takes where 16 are too few."""
_DEFLATE_WINDOW_BITS = 12
"""QEMU's decoder reaches no further back."""


DEFAULT_LEVEL = 3
_SMALLEST = 22
_TUNED = {"chain_log": 12, "hash_log": 15, "min_match": 4}
"""Level 3 for clusters of 64 KiB: 0.55% fewer bytes for 3% more time than libzstd's own choice
(specs/decisions/0004-zstd-parameters.md)."""


def zstd_compressor(level: int, cluster_size: int) -> Compressor:
    """One zstd frame per call, with content size and checksum; one context per thread.

    Each call gets ``cluster_size`` bytes, or fewer (a blob).
    """
    import zstandard

    tuned = _TUNED if level == DEFAULT_LEVEL and cluster_size == 1 << 16 else {}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=cluster_size,
        write_checksum=True,
        write_content_size=True,
        write_dict_id=False,
        **tuned,
    )
    local = threading.local()

    def compress(data: bytes | memoryview) -> bytes:
        context: zstandard.ZstdCompressor | None = getattr(local, "context", None)
        if context is None:
            context = local.context = zstandard.ZstdCompressor(compression_params=parameters)
        return context.compress(data)

    return compress


@dataclass(frozen=True, slots=True)
class _Prepared:
    """On its way: one compressed cluster, or plain ones in a row; the number of the first."""

    index: int
    data: bytes | memoryview
    compressed: bool


class Qcow2Writer:
    """An image under construction on a file descriptor. Data arrives in whole clusters."""

    seed = None

    def __init__(
        self,
        fd: int,
        *,
        virtual_size: int,
        cluster_bits: int = DEFAULT_CLUSTER_BITS,
        version: int = 3,
        compression: int = COMPRESSION_ZLIB,
        compress: Compressor | None = None,
        refcount_order: int | None = None,
        backing: Backing | None = None,
        path: str = "output",
    ):
        self.unit = 1 << cluster_bits
        self._fd = fd
        self._path = path
        self._compress = compress
        self._compression = compression
        self._version = version
        self._refcount_order = refcount_order
        self._backing = backing
        self._most_frames = _MOST if refcount_order is None else (1 << (1 << refcount_order)) - 1
        self._frames = 0
        """Compressed clusters, up to now, in the host cluster that the next one would begin in."""
        self._zero = bytes(self.unit)
        self._position = self.unit
        """Where the next data goes; the first cluster is the header's."""
        self.tables = TableWriter(
            cluster_bits=cluster_bits, virtual_size=round_up(virtual_size, 512)
        )

    def prepare(self, offset: int, data: bytes) -> object:
        size, first = self.unit, offset // self.unit
        if len(data) % size:
            data += bytes(size - len(data) % size)
        # Slices of the view are not copied: plain clusters are written from where they were read.
        view = memoryview(data)
        if self._compress is None:
            return [
                _Prepared(first + begin // size, view[begin:end], False)
                for begin, end in self._filled(data)
            ]
        clusters: list[_Prepared] = []
        for number, begin in enumerate(range(0, len(data), size), first):
            if data.startswith(self._zero, begin):
                continue
            plain = view[begin : begin + size]
            small = self._compress(plain)
            # A cluster that does not shrink is stored plain, as qemu-img does.
            shrunk = len(small) < size
            clusters.append(_Prepared(number, small if shrunk else plain, shrunk))
        return clusters

    def _filled(self, data: bytes) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of the clusters in a row that are not all zero."""
        start, size, zero = 0, self.unit, self._zero
        for begin in range(0, len(data), size):
            if data.startswith(zero, begin):
                if begin > start:
                    yield start, begin
                start = begin + size
        if len(data) > start:
            yield start, len(data)

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, list)
        jobs: list[Job] = []
        run: list[bytes | memoryview] = []
        start = self._position
        for cluster in prepared:
            if not cluster.compressed or self._must_align():
                if run:
                    jobs.append(Job(start, b"".join(run)))
                run, start = [], round_up(self._position, self.unit)
                self._position = start
            if not cluster.compressed:
                jobs.append(Job(start, cluster.data))
                self._place_plain(cluster)
                start = self._position
                continue
            self._place(cluster)
            run.append(cluster.data)
        if run:
            jobs.append(Job(start, run[0] if len(run) == 1 else b"".join(run)))
        return jobs

    def _must_align(self) -> bool:
        """Refcounts of few bits count few compressed clusters in one of the file."""
        return bool(self._position % self.unit) and self._frames >= self._most_frames

    def _place(self, cluster: _Prepared) -> None:
        position, length = self._position, len(cluster.data)
        entry = compressed_entry(position, length, self.tables.cluster_bits)
        inside = position % self.unit
        self._frames = self._frames + 1 if inside and inside + length <= self.unit else 1
        self.tables.set(cluster.index, entry)
        self._position = position + length

    def _place_plain(self, run: _Prepared) -> None:
        position, end = self._position, self._position + len(run.data)
        places = range(position, end, self.unit)
        for index, place in enumerate(places, run.index):
            self.tables.set(index, ENTRY_COPIED | place)
        self._position = end

    def place_frame(self, index: int, offset: int, length: int) -> None:
        """Map guest cluster ``index`` to a compressed frame that the caller puts at ``offset``."""
        self.tables.set(index, compressed_entry(offset, length, self.tables.cluster_bits))

    def finish(self) -> None:
        self.finish_at(self._position)

    def finish_at(self, data_end: int) -> Layout:
        """Write tables and header after data that ends at ``data_end``."""
        layout = self.tables.layout(
            round_up(data_end, self.unit), refcount_order=self._refcount_order
        )
        position = layout.l1_offset
        for piece in self.tables.pieces():
            write_all(self._fd, Job(position, piece), self._path)
            position += len(piece)
        head = encode_header(
            layout,
            compression=self._compression,
            version=self._version,
            backing=self._backing,
        )
        write_all(self._fd, Job(0, head), self._path)
        self.tables.close()
        return layout


def create(fd: int, options: CreateOptions) -> Qcow2Writer:
    """The registry's writer: ``-o`` options by qemu-img's names.

    Raises :class:`UsageError` for a value that an option does not take.
    """
    wanted = requested(options)
    compress: Compressor | None = None
    if options.compressed and wanted.compression == COMPRESSION_ZSTD:
        level = level_of("zstd", options.level, default=DEFAULT_LEVEL, smallest=_SMALLEST)
        compress = zstd_compressor(level, 1 << wanted.cluster_bits)
    elif options.compressed:
        compress = deflate_compressor(options.level, _DEFLATE_WINDOW_BITS)
    return Qcow2Writer(
        fd,
        virtual_size=options.virtual_size,
        cluster_bits=wanted.cluster_bits,
        version=wanted.version,
        compression=wanted.compression,
        compress=compress,
        refcount_order=wanted.refcount_order,
        backing=wanted.backing,
    )
