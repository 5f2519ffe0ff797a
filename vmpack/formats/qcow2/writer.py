"""Writes qcow2 images: uncompressed, zlib or zstd clusters; version 3, or 2 on request.

Data first, tables after it, the header last. Profile: specs/qcow2.md, QCOW2-WRITE-*.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmpack.codecs import Compressor, deflate_compressor
from vmpack.copy import write_all
from vmpack.errors import UsageError
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.qcow2.layout import Layout, encode_header
from vmpack.formats.qcow2.structs import (
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    ENTRY_COPIED,
    compressed_entry,
)
from vmpack.formats.qcow2.tables import TableWriter
from vmpack.units import parse_size, round_up

DEFAULT_CLUSTER_BITS = 16
_NAMES = {"zlib": COMPRESSION_ZLIB, "zstd": COMPRESSION_ZSTD}
_DEFLATE_WINDOW_BITS = 12
"""QEMU's decoder reaches no further back."""


def cluster_bits_of(size: int, *, name: str = "cluster_size") -> int:
    """The binary logarithm of a cluster size from 512 B to 2 MiB, or :class:`UsageError`."""
    if size & (size - 1) or not 512 <= size <= 2 << 20:
        raise UsageError(
            f"{name}: {size} is not a cluster size", hint="choose a power of two from 512 to 2M"
        )
    return size.bit_length() - 1


DEFAULT_LEVEL = 3
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
    """One cluster on its way: its number and its bytes, compressed or plain."""

    index: int
    data: bytes
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
        path: str = "output",
    ):
        self.unit = 1 << cluster_bits
        self._fd = fd
        self._path = path
        self._compress = compress
        self._compression = compression
        self._version = version
        self._refcount_order = refcount_order
        self._zero = bytes(self.unit)
        self._position = self.unit
        """Where the next data goes; the first cluster is the header's."""
        self.tables = TableWriter(
            cluster_bits=cluster_bits, virtual_size=round_up(virtual_size, 512)
        )

    def prepare(self, offset: int, data: bytes) -> object:
        size, first = self.unit, offset // self.unit
        clusters: list[_Prepared] = []
        for number, begin in enumerate(range(0, len(data), size), first):
            cluster = data[begin : begin + size]
            if len(cluster) < size:
                cluster += bytes(size - len(cluster))
            if cluster == self._zero:
                continue
            small = self._compress(cluster) if self._compress else None
            # A cluster that does not shrink is stored plain, as qemu-img does.
            if small is not None and len(small) < size:
                clusters.append(_Prepared(number, small, True))
            else:
                clusters.append(_Prepared(number, cluster, False))
        return clusters

    def emit(self, prepared: object) -> Sequence[Job]:
        assert isinstance(prepared, list)
        jobs: list[Job] = []
        run: list[bytes] = []
        start = self._position
        for cluster in prepared:
            if not cluster.compressed and self._position % self.unit:
                if run:
                    jobs.append(Job(start, b"".join(run)))
                run, start = [], round_up(self._position, self.unit)
                self._position = start
            self._place(cluster)
            run.append(cluster.data)
        if run:
            jobs.append(Job(start, run[0] if len(run) == 1 else b"".join(run)))
        return jobs

    def _place(self, cluster: _Prepared) -> None:
        position = self._position
        if cluster.compressed:
            entry = compressed_entry(position, len(cluster.data), self.tables.cluster_bits)
        else:
            entry = ENTRY_COPIED | position
        self.tables.set(cluster.index, entry)
        self._position = position + len(cluster.data)

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
        head = encode_header(layout, compression=self._compression, version=self._version)
        write_all(self._fd, Job(0, head), self._path)
        self.tables.close()
        return layout


def create(fd: int, options: CreateOptions) -> Qcow2Writer:
    """The registry's writer: ``-o`` options by qemu-img's names.

    Raises :class:`UsageError` for a value that an option does not take.
    """
    values = options.values
    bits = cluster_bits_of(parse_size(values.get("cluster_size", "64K"), name="cluster_size"))
    version = _choice(values, "compat", {"1.1": 3, "v3": 3, "0.10": 2, "v2": 2}, "1.1")
    # zlib by default where the version allows no other; zstd otherwise, half the time to read.
    default = "zlib" if version == 2 or not options.compressed else "zstd"
    compression = _choice(values, "compression_type", _NAMES, default)
    if version == 2 and compression == COMPRESSION_ZSTD:
        raise UsageError("compression_type zstd needs compat 1.1", field="compression_type")
    order = _choice(values, "refcount_bits", {"16": 4, "32": 5}, "16")
    if version == 2 and order != 4:
        raise UsageError("refcount_bits other than 16 needs compat 1.1", field="refcount_bits")
    compress: Compressor | None = None
    if options.compressed and compression == COMPRESSION_ZSTD:
        level = DEFAULT_LEVEL if options.level is None else options.level
        compress = zstd_compressor(level, 1 << bits)
    elif options.compressed:
        compress = deflate_compressor(options.level, _DEFLATE_WINDOW_BITS)
    return Qcow2Writer(
        fd,
        virtual_size=options.virtual_size,
        cluster_bits=bits,
        version=version,
        compression=compression,
        compress=compress,
        refcount_order=order if "refcount_bits" in values else None,
    )


def _choice(values: Mapping[str, str], name: str, choices: Mapping[str, int], default: str) -> int:
    text = values.get(name, default)
    if text not in choices:
        raise UsageError(
            f"{name}: {text!r} is not one of {', '.join(choices)}", field=name, hint="see --help"
        )
    return choices[text]
