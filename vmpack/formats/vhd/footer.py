"""Finds a VHD's footer, and has the one rule for how large its disk is.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format";
QEMU, block/vpc.c, for the sizes. Profile: specs/vhd.md, VHD-FTR and VHD-SIZE.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.vhd.structs import (
    COOKIE,
    FOOTER_SIZE,
    OLD_FOOTER_SIZE,
    SECTOR,
    TYPE_FIXED,
    TYPE_NAMES,
    Footer,
)
from vmpack.source import ByteSource

CHS_CREATORS = (b"vpc ", b"qemu")
"""Creators whose disks are as large as their geometry: Virtual PC, and QEMU without force_size."""
CHS_MAX = 65535 * 16 * 255
"""Sectors of the largest geometry; it stands for any disk that is larger."""
_IDENTITY = ("disk_type", "unique_id", "current_size", "data_offset", "creator")
_RAW_HINT = "if the data is known to be good: -f raw reads all of the file, footer included"


@dataclass(frozen=True, slots=True)
class Found:
    """The footer that counts."""

    footer: Footer
    end: int
    """Where the footer at the file's end begins; the file's size where there is none."""
    problem: DamagedError | None = None
    """Why the copy at the file's start is used; ``None`` where the footer itself is sound."""


def find_footer(source: ByteSource) -> Found:
    """The footer at the file's end or, where that is not sound, its copy at the start.

    Raises :class:`DamagedError` when neither is sound (VHD-FTR-1, -2), or when both are and they
    are of different disks (VHD-FTR-4); :class:`UnsupportedError` for versions and types that
    vmpack lacks (VHD-FTR-5, -6).
    """
    copy = _copy(source)
    offset, raw = _tail(source)
    try:
        footer = Footer.decode(raw, path=source.path, offset=offset)
    except DamagedError as exc:
        if copy is None:
            exc.hint = _RAW_HINT
            raise
        _require_known(copy, source.path)
        end = offset if raw.startswith(COOKIE) else source.size
        return Found(copy, end, exc)
    _require_known(footer, source.path)
    if copy is not None and offset:
        _require_same(footer, copy, source.path)
    return Found(footer, offset)


def _tail(source: ByteSource) -> tuple[int, bytes]:
    """Offset and bytes of what the file ends with: a footer of 512 bytes, or of 511."""
    size = source.size
    if size < OLD_FOOTER_SIZE:
        raise DamagedError(
            f"{size} bytes are less than a VHD footer",
            path=source.path,
            offset=0,
            clause="VHD-FTR-1",
        )
    length = min(FOOTER_SIZE, size)
    raw = source.pread(size - length, length)
    if not raw.startswith(COOKIE) and raw[length - OLD_FOOTER_SIZE :].startswith(COOKIE):
        return size - OLD_FOOTER_SIZE, raw[length - OLD_FOOTER_SIZE :]
    return size - length, raw


def _copy(source: ByteSource) -> Footer | None:
    """The copy at the file's start, if there is a sound one; a fixed disk has none."""
    if source.size < FOOTER_SIZE:
        return None
    raw = source.pread(0, FOOTER_SIZE)
    if not raw.startswith(COOKIE):
        return None
    try:
        found = Footer.decode(raw, path=source.path, offset=0)
    except DamagedError:
        return None
    return None if found.disk_type == TYPE_FIXED else found


def _require_known(footer: Footer, path: str) -> None:
    if footer.version >> 16 != 1:
        raise UnsupportedError(
            f"VHD version {footer.version >> 16}.{footer.version & 0xFFFF}",
            path=path,
            clause="VHD-FTR-5",
        )
    if footer.disk_type not in TYPE_NAMES:
        raise UnsupportedError(f"VHD type {footer.disk_type}", path=path, clause="VHD-FTR-6")


def _require_same(footer: Footer, copy: Footer, path: str) -> None:
    different = [name for name in _IDENTITY if getattr(footer, name) != getattr(copy, name)]
    if different:
        raise DamagedError(
            "its footer and the copy at its start are of different disks:"
            f" {', '.join(name.replace('_', ' ') for name in different)}",
            path=path,
            offset=0,
            clause="VHD-FTR-4",
            hint="one of the two was written by a guest or left behind; -f raw shows the bytes",
        )


def disk_size(footer: Footer) -> tuple[int, str]:
    """Bytes of the disk, and what they come from: ``current-size`` or ``chs`` (VHD-SIZE-1).

    Virtual PC shows its guest the geometry's sectors, fewer than the size; everybody else shows
    the size. The largest geometry stands for any larger disk.
    """
    sectors = footer.cylinders * footer.heads * footer.sectors
    if footer.creator in CHS_CREATORS and sectors != CHS_MAX:
        return sectors * SECTOR, "chs"
    return footer.current_size // SECTOR * SECTOR, "current-size"


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors for each track of a disk of ``size`` bytes.

    Source: "Appendix: CHS Calculation".
    """
    sectors = min(size // SECTOR, CHS_MAX)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    tracks = sectors // 17
    heads = max(4, -(-tracks // 1024))
    for per_track in (17, 31):
        if per_track != 17:
            tracks, heads = sectors // per_track, 16
        if tracks < heads * 1024 and heads <= 16:
            return tracks // heads, heads, per_track
    return sectors // 63 // 16, 16, 63


def creator_text(creator: bytes) -> str:
    """A creator's four bytes as text, fit for a terminal."""
    return escape(creator.rstrip(b"\0").decode("latin-1"))
