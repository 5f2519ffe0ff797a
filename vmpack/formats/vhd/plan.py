"""Lays out the VHD that a writer was asked for. Profile: specs/vhd.md, VHD-WRITE and VHD-AZURE."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions
from vmpack.formats.vhd.footer import geometry
from vmpack.formats.vhd.structs import (
    EPOCH,
    FOOTER_SIZE,
    HEADER_SIZE,
    NO_OFFSET,
    SECTOR,
    TYPE_DYNAMIC,
    TYPE_FIXED,
    Footer,
    Header,
    bitmap_size,
)
from vmpack.units import MiB, format_size, parse_size, round_up

CREATOR = b"qem2"
"""QEMU's name for a disk of exact size: every QEMU since 2.6 takes its size for what it is."""
CREATOR_VERSION = 0x0001_0000
MAX_SIZE = 2040 << 30
"""Bytes of a disk: what Virtual PC, Hyper-V and QEMU take."""
AZURE_LEAST = 20 * MiB
DATA_ALIGN = 4096
"""Bytes: blocks' data lies on pages, as XenServer's does, so that their zeros can be holes."""
_BLOCK_SIZES = (512 << 10, 2 << 20)
_SWITCH = {"on": True, "off": False, "yes": True, "no": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where what goes. Sizes and offsets in bytes."""

    disk_size: int
    """Bytes of the disk, what Azure wants included."""
    fixed: bool
    block_size: int
    timestamp: int
    """Seconds since 2000."""
    unique_id: uuid.UUID | None
    """``None``: derives from the content."""

    @classmethod
    def of(cls, options: CreateOptions) -> Plan:
        """The plan for these options.

        Raises :class:`UsageError` for a value that an option does not take, and
        :class:`UnsupportedError` for a disk that is too large for a VHD (VHD-WRITE-3).
        """
        values = options.values
        if options.compressed:
            raise UsageError("vhd cannot be compressed", hint="choose -O qcow2 with -c")
        azure = _switch(values, "azure")
        subformat = values.get("subformat", "fixed" if azure else "dynamic")
        if subformat not in ("fixed", "dynamic"):
            raise UsageError(
                f"subformat: {subformat!r} is not one of dynamic, fixed", field="subformat"
            )
        if azure and subformat != "fixed":
            raise UsageError("Azure imports fixed disks only", field="subformat")
        if not _switch(values, "force_size", default=True):
            raise UsageError(
                "sizes are never rounded to cylinders", field="force_size", hint="leave it away"
            )
        size = round_up(options.virtual_size, SECTOR)
        if azure:
            size = max(AZURE_LEAST, round_up(size, MiB))
        if size > MAX_SIZE:
            raise UnsupportedError(
                f"a VHD of {format_size(size)}: it holds 2,040 GiB at most",
                clause="VHD-WRITE-3",
                hint="choose -O vhdx",
            )
        return cls(
            size,
            subformat == "fixed",
            _block_size(values, subformat),
            max(0, (options.timestamp or 0) - EPOCH),
            _uuid(values),
        )

    @property
    def blocks(self) -> int:
        """Blocks of a dynamic disk."""
        return -(-self.disk_size // self.block_size)

    @property
    def bitmap_size(self) -> int:
        """Bytes before each block's data."""
        return bitmap_size(self.block_size)

    @property
    def table_offset(self) -> int:
        """Of a dynamic disk's block allocation table."""
        return FOOTER_SIZE + HEADER_SIZE

    @property
    def table_size(self) -> int:
        """Bytes of the table, whole sectors."""
        return round_up(4 * self.blocks, SECTOR)

    def block_offset(self, place: int) -> int:
        """Where the block lies that is stored as number ``place``: its bitmap, then its data."""
        first = round_up(self.table_offset + self.table_size + self.bitmap_size, DATA_ALIGN)
        span = round_up(self.bitmap_size + self.block_size, DATA_ALIGN)
        return first + place * span - self.bitmap_size

    def footer_offset(self, stored: int) -> int:
        """Of the footer, behind ``stored`` blocks of a dynamic disk."""
        if self.fixed:
            return self.disk_size
        if not stored:
            return self.table_offset + self.table_size
        return self.block_offset(stored - 1) + self.bitmap_size + self.block_size

    def file_size(self, stored: int) -> int:
        """Bytes of the file with ``stored`` blocks."""
        return self.footer_offset(stored) + FOOTER_SIZE

    def footer(self, unique_id: uuid.UUID) -> bytes:
        """The footer's bytes; a dynamic disk's copy of it is the same."""
        cylinders, heads, sectors = geometry(self.disk_size)
        return Footer(
            data_offset=NO_OFFSET if self.fixed else FOOTER_SIZE,
            timestamp=self.timestamp,
            current_size=self.disk_size,
            original_size=self.disk_size,
            cylinders=cylinders,
            heads=heads,
            sectors=sectors,
            disk_type=TYPE_FIXED if self.fixed else TYPE_DYNAMIC,
            unique_id=(self.unique_id or unique_id).bytes,
            creator=CREATOR,
            creator_version=CREATOR_VERSION,
        ).encode()

    def header(self) -> bytes:
        """The dynamic disk header's bytes."""
        return Header(self.table_offset, self.blocks, self.block_size).encode()


def _switch(values: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = values.get(name)
    if text is None:
        return default
    if text.lower() not in _SWITCH:
        raise UsageError(f"{name}: {text!r} is not on or off", field=name)
    return _SWITCH[text.lower()]


def _block_size(values: Mapping[str, str], subformat: str) -> int:
    text = values.get("block_size")
    if text is None:
        return _BLOCK_SIZES[-1]
    if subformat == "fixed":
        raise UsageError("a fixed disk has no blocks", field="block_size")
    found = parse_size(text, name="block_size")
    if found not in _BLOCK_SIZES:
        raise UsageError(f"block_size: {text!r} is not 512K or 2M", field="block_size")
    return found


def _uuid(values: Mapping[str, str]) -> uuid.UUID | None:
    text = values.get("uuid")
    if text is None:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        raise UsageError(f"uuid: {text!r} is not a UUID", field="uuid") from None


class VhdMeasurer:
    """Counts a dynamic disk's blocks with data; a fixed disk has them all."""

    def __init__(self, options: CreateOptions):
        self._plan = Plan.of(options)
        self.unit = self._plan.block_size
        self._blocks = 0

    def add(self, number: int) -> None:  # noqa: ARG002 - blocks count, not their places
        self._blocks += 1

    def sizes(self) -> tuple[int, int]:
        plan = self._plan
        return plan.file_size(self._blocks), plan.file_size(plan.blocks)
