"""Decodes compressed clusters: raw deflate, and zstd frames.

Output and window are capped before anything is allocated, whatever the stream says of itself.
Source: QEMU, docs/interop/qcow2.rst ("Compressed Clusters Descriptor", "compression_type").
Profile: specs/qcow2.md, QCOW2-CMP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vmpack.codecs import CodecError, inflate
from vmpack.errors import DamagedError
from vmpack.formats.mapped import Run
from vmpack.formats.qcow2.structs import COMPRESSION_ZSTD
from vmpack.source import ByteSource

if TYPE_CHECKING:
    import zstandard

MAX_ZSTD_WINDOW = 8 << 20
"""Bytes: what RFC 8878 asks every decoder to support; no encoder needs more for a cluster."""
_DEFLATE_WINDOW_BITS = 12
_GAP = 64 << 10
_GROUP = 8 << 20


class Inflater:
    """Decodes the compressed clusters of one image. Safe for threads."""

    def __init__(self, source: ByteSource, cluster_size: int, compression_type: int):
        self._source = source
        self._cluster = cluster_size
        self._local = threading.local()
        zstd = compression_type == COMPRESSION_ZSTD
        self._decode: Callable[[memoryview], bytes] = self._zstd if zstd else self._deflate

    def decode(self, runs: Sequence[Run]) -> list[bytes]:
        """The clusters of ``runs`` (all COMPRESSED), each exactly one cluster long.

        Frames that lie near each other are read in one go. Raises :class:`DamagedError`.
        """
        clusters: list[bytes] = []
        decode, size = self._decode, self._cluster
        for group, base, length in _groups(runs):
            stored = memoryview(self._source.pread(base, length))
            for run in group:
                start = run.host - base
                try:
                    data = decode(stored[start : start + run.host_length])
                except CodecError as exc:
                    raise self._damaged(run, str(exc)) from exc
                if len(data) != size:
                    raise self._damaged(run, f"decodes to {len(data)} bytes, not {size}")
                clusters.append(data)
        return clusters

    def _damaged(self, run: Run, why: str) -> DamagedError:
        return DamagedError(
            f"guest offset {run.offset}: compressed cluster: {why}",
            path=self._source.path,
            offset=self._source.base + run.host,
            clause="QCOW2-CMP-2",
        )

    def _deflate(self, stored: memoryview) -> bytes:
        # Input is clipped to sectors; QEMU takes a stream without an end once the cluster is full.
        return inflate(
            stored,
            self._cluster,
            wrapped=False,
            trailing=True,
            unended=True,
            window_bits=_DEFLATE_WINDOW_BITS,
        )

    def _zstd(self, stored: memoryview) -> bytes:
        import zstandard

        decoder = self._decoder()
        try:
            # The library allocates what a frame claims: so the claim comes first. QEMU's frames
            # make none (-1), and then the library takes ours.
            if zstandard.frame_content_size(stored) in (self._cluster, -1):
                data = decoder.decompress(stored, max_output_size=self._cluster)
                if len(data) == self._cluster:
                    return data
            return self._zstd_stream(stored, decoder)
        except zstandard.ZstdError as exc:
            raise CodecError(str(exc)) from exc

    def _zstd_stream(self, stored: memoryview, decoder: zstandard.ZstdDecompressor) -> bytes:
        """Several frames in a row, or a frame of another length than a cluster's."""
        with decoder.stream_reader(stored, closefd=False) as reader:
            data = reader.read(self._cluster + 1)
        if len(data) > self._cluster:
            raise CodecError("holds more than one cluster")
        if 0 < len(data) < self._cluster:
            with decoder.stream_reader(stored, closefd=False, read_across_frames=True) as reader:
                data = reader.read(self._cluster)
        return data

    def _decoder(self) -> zstandard.ZstdDecompressor:
        """The decompressor of this thread: the library's are not safe to share."""
        found: zstandard.ZstdDecompressor | None = getattr(self._local, "zstd", None)
        if found is None:
            import zstandard

            found = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
            self._local.zstd = found
        return found


def _groups(runs: Sequence[Run]) -> list[tuple[list[Run], int, int]]:
    """Runs whose stored bytes lie near each other: ``(runs, host offset, length)``."""
    groups: list[tuple[list[Run], int, int]] = []
    group: list[Run] = []
    low = high = 0
    for run in runs:
        near = low <= run.host <= high + _GAP and run.host + run.host_length - low <= _GROUP
        if group and near:
            group.append(run)
            high = max(high, run.host + run.host_length)
            continue
        if group:
            groups.append((group, low, high - low))
        group, low, high = [run], run.host, run.host + run.host_length
    if group:
        groups.append((group, low, high - low))
    return groups
