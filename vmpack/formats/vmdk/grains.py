"""Compressed grains of a stream-optimized extent: a marker, zlib data, zeros to the next sector.

Source: VMware, Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents". Profile:
specs/vmdk.md, VMDK-STREAM.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmpack.codecs import CodecError, inflate
from vmpack.formats.mapped import Run
from vmpack.formats.vmdk.structs import SECTOR

if TYPE_CHECKING:
    from vmpack.errors import DamagedError
    from vmpack.formats.vmdk.tables import TableExtent

_MARKER = struct.Struct("<QI")
"""As ``structs.GRAIN_MARKER``: where the grain belongs, bytes of zlib data."""
_GAP = 64 << 10
_GROUP = 8 << 20


def decode_grains(extent: TableExtent, runs: Sequence[Run]) -> list[bytes]:
    """The grains of ``runs`` (all COMPRESSED), each padded with zeros to a whole grain.

    Grains that lie near each other are read in one go. Raises :class:`DamagedError` unless the
    marker is the grain's own and lies whole in the file, and its data inflates to all that the
    guest sees of the grain, and to no more than a grain.
    """
    grains: list[bytes] = []
    for group, base, length in _groups(extent, runs):
        stored = memoryview(extent.source.pread(base, length))
        grains += [_decode(extent, run, stored[run.host - base :]) for run in group]
    return grains


def _decode(extent: TableExtent, run: Run, stored: memoryview) -> bytes:
    size = _marked_size(extent, run, bytes(stored[: _MARKER.size]))
    end = _MARKER.size + size
    if end > len(stored):
        stored = memoryview(extent.source.pread(run.host, end))
    try:
        data = inflate(stored[_MARKER.size : end], run.length, wrapped=True, trailing=True)
    except CodecError as exc:
        raise _damaged(extent, run, f"compressed data: {exc}", "STREAM-6") from exc
    if len(data) == run.length:
        return data
    visible = min(run.length, extent.capacity - run.offset)
    if len(data) < visible:
        raise _damaged(extent, run, f"inflates to {len(data)} bytes, not {visible}", "STREAM-6")
    return data + bytes(run.length - len(data))


def _marked_size(extent: TableExtent, run: Run, marker: bytes) -> int:
    """Bytes of zlib data behind a marker that is the run's own."""
    lba, size = _MARKER.unpack(marker)
    assert isinstance(size, int)
    if lba * SECTOR != run.offset:
        raise _damaged(extent, run, f"its marker says sector {lba}", "STREAM-4")
    if not 0 < size <= 2 * run.length:
        raise _damaged(extent, run, f"{size} bytes of compressed data", "STREAM-5")
    if run.host + _MARKER.size + size > extent.source.size:
        raise _damaged(
            extent, run, f"{size} bytes of compressed data end behind the file's", "STREAM-5"
        )
    return size


def stored_length(extent: TableExtent, run: Run) -> int:
    """Bytes of the file that a compressed grain takes, up to the next sector."""
    size = _marked_size(extent, run, extent.source.pread(run.host, _MARKER.size))
    return -(-(_MARKER.size + size) // SECTOR) * SECTOR


def _damaged(extent: TableExtent, run: Run, why: str, clause: str) -> DamagedError:
    return extent.damaged(f"guest offset {run.offset}: grain: {why}", clause, run.host)


def _groups(extent: TableExtent, runs: Sequence[Run]) -> list[tuple[list[Run], int, int]]:
    """Grains whose stored bytes lie near each other: ``(runs, host offset, length)``.

    How long a grain is its marker says; the last of a group is taken to be a whole grain's length.
    """
    most = extent.cluster_size + SECTOR
    groups: list[tuple[list[Run], int, int]] = []
    group: list[Run] = []
    low = high = 0
    for run in runs:
        if group and high <= run.host <= high + most + _GAP and run.host + most - low <= _GROUP:
            group.append(run)
            high = run.host
            continue
        if group:
            groups.append((group, low, min(high + most, extent.source.size) - low))
        group, low, high = [run], run.host, run.host
    if group:
        groups.append((group, low, min(high + most, extent.source.size) - low))
    return groups
