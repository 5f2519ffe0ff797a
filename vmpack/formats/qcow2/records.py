"""Snapshot table and bitmap directory: records of variable length, walked with every bound checked.

Source: QEMU, docs/interop/qcow2.rst ("Snapshots", "Bitmaps"). Profile: specs/qcow2.md,
QCOW2-SNAP and QCOW2-BMP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vmpack.binary import require_range
from vmpack.errors import DamagedError, UsageError
from vmpack.formats.qcow2.header import BitmapDirectory, ImageHeader
from vmpack.formats.qcow2.structs import MAX_L1_BYTES
from vmpack.source import ByteSource

MAX_SNAPSHOT_EXTRA = 1024
MAX_BITMAP_NAME = 1023
MIN_GRANULARITY_BITS, MAX_GRANULARITY_BITS = 9, 31
MAX_BITMAP_TABLE_ENTRIES = 1 << 27
BITMAP_IN_USE, BITMAP_AUTO = 1, 2

SNAPSHOT = struct.Struct(">QIHHIIQII")
"""L1 offset u64, L1 entries u32, id length u16, name length u16, seconds u32, nanoseconds u32,
guest clock in nanoseconds u64, VM state size u32, extra data size u32."""
SNAPSHOT_EXTRA = struct.Struct(">QQ")
"""VM state size u64, virtual disk size u64; an instruction count u64 may follow."""
BITMAP = struct.Struct(">QIIBBHI")
"""Table offset u64, table entries u32, flags u32, type u8, granularity bits u8, name length u16,
extra data size u32."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One internal snapshot. Sizes in bytes."""

    l1_offset: int
    l1_size: int
    id: str
    name: str
    seconds: int
    nanoseconds: int
    clock_ns: int
    vm_state_size: int
    virtual_size: int
    icount: int | None = None
    end_offset: int = 0
    """Where the table's next entry begins."""


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One persistent bitmap. ``granularity`` in bytes of guest disk per bit."""

    name: str
    table_offset: int
    table_entries: int
    flags: int
    granularity: int


def snapshots(source: ByteSource, header: ImageHeader) -> Iterator[Snapshot]:
    """The snapshot table's entries, one after the other; the count was checked with the header.

    Raises :class:`DamagedError` at the first entry that breaks a bound.
    """
    position = header.fields.snapshots_offset
    for number in range(header.fields.nb_snapshots):
        raw = source.pread(position, SNAPSHOT.size)
        (l1_offset, l1_size, id_len, name_len, sec, nsec, clock, state32, extra_len) = (
            SNAPSHOT.unpack(raw)
        )
        if extra_len > MAX_SNAPSHOT_EXTRA:
            raise DamagedError(
                f"snapshot {number} has {extra_len} bytes of extra data",
                path=source.path,
                offset=position,
                clause="QCOW2-SNAP-2",
            )
        rest = source.pread(position + SNAPSHOT.size, extra_len + id_len + name_len)
        extra = rest[:extra_len]
        state, size = state32, header.fields.size
        if extra_len >= SNAPSHOT_EXTRA.size:
            state, size = SNAPSHOT_EXTRA.unpack_from(extra)
        icount = struct.unpack_from(">Q", extra, 16)[0] if extra_len >= 24 else None
        position += -(-(SNAPSHOT.size + len(rest)) // 8) * 8
        yield Snapshot(
            l1_offset,
            l1_size,
            _text(rest[extra_len : extra_len + id_len]),
            _text(rest[extra_len + id_len :]),
            sec,
            nsec,
            clock,
            state,
            size,
            icount,
            position,
        )


def check_snapshot_l1(snapshot: Snapshot, source: ByteSource, header: ImageHeader) -> None:
    """The snapshot's L1 table is bounded, aligned, inside the file, and covers its own disk."""
    size = snapshot.l1_size * 8
    if size > MAX_L1_BYTES:
        raise DamagedError(
            f"snapshot {snapshot.id!r} has an L1 table of {size} bytes",
            path=source.path,
            clause="QCOW2-SNAP-3",
        )
    require_range(
        snapshot.l1_offset,
        size,
        source.size,
        what=f"L1 table of snapshot {snapshot.id!r}",
        align=header.cluster_size,
        path=source.path,
        clause="QCOW2-SNAP-3",
    )
    needed = -(-snapshot.virtual_size // header.l2_coverage)
    if snapshot.virtual_size >= 1 << 63 or snapshot.l1_size < needed:
        raise DamagedError(
            f"snapshot {snapshot.id!r} of {snapshot.virtual_size} bytes has {snapshot.l1_size} "
            "L1 entries, too few",
            path=source.path,
            clause="QCOW2-SNAP-3",
        )


def find_snapshot(source: ByteSource, header: ImageHeader, wanted: str) -> Snapshot:
    """The snapshot whose id is ``wanted``, else the first whose name is. Its L1 is checked.

    Raises :class:`UsageError` when there is none.
    """
    by_name = None
    for snapshot in snapshots(source, header):
        if snapshot.id == wanted:
            by_name = snapshot
            break
        if by_name is None and snapshot.name == wanted:
            by_name = snapshot
    if by_name is None:
        raise UsageError(
            f"no snapshot {wanted!r}", path=source.path, hint="`vmpack info` lists the snapshots"
        )
    check_snapshot_l1(by_name, source, header)
    return by_name


def bitmaps(source: ByteSource, directory: BitmapDirectory) -> Iterator[Bitmap]:
    """The bitmap directory's entries. Raises :class:`DamagedError`."""
    position, end = directory.offset, directory.offset + directory.size
    for number in range(directory.count):
        if position + BITMAP.size > end:
            raise _bad_bitmap(source, position, f"bitmap {number} lies beyond the directory's end")
        table, entries, flags, kind, bits, name_len, extra_len = BITMAP.unpack(
            source.pread(position, BITMAP.size)
        )
        length = BITMAP.size + extra_len + name_len
        if name_len > MAX_BITMAP_NAME or not name_len or position + length > end:
            raise _bad_bitmap(source, position, f"bitmap {number} has a name of {name_len} bytes")
        if not MIN_GRANULARITY_BITS <= bits <= MAX_GRANULARITY_BITS:
            raise _bad_bitmap(source, position, f"bitmap {number} has granularity bits {bits}")
        if kind != 1 or flags & ~7 or entries > MAX_BITMAP_TABLE_ENTRIES:
            raise _bad_bitmap(
                source,
                position,
                f"bitmap {number} has type {kind}, flags {flags:#x}, {entries} table entries",
            )
        name = _text(source.pread(position + BITMAP.size + extra_len, name_len))
        yield Bitmap(name, table, entries, flags, 1 << bits)
        position += -(-length // 8) * 8


def _bad_bitmap(source: ByteSource, offset: int, message: str) -> DamagedError:
    return DamagedError(message, path=source.path, offset=offset, clause="QCOW2-BMP-1")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
