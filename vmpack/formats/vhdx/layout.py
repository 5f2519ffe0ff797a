"""Where the parts of a VHDX file that vmpack writes lie, and their bytes.

Header section, log, metadata, BAT, payload blocks: each at a multiple of 1 MiB.
Source: [MS-VHDX] 2.2 to 2.6. Profile: specs/vhdx.md, VHDX-WRITE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from vmpack.errors import UsageError
from vmpack.formats.base import CreateOptions
from vmpack.formats.vhdx.structs import (
    BAT_REGION,
    DISK_ID_ITEM,
    DISK_SIZE_ITEM,
    FILE_MAGIC,
    FILE_PARAMETERS,
    FILE_PARAMETERS_ITEM,
    HEADER_OFFSETS,
    IDENTIFIER,
    IS_REQUIRED,
    IS_VIRTUAL_DISK,
    LEAVE_ALLOCATED,
    LOGICAL_SECTOR_ITEM,
    MAX_BLOCK,
    MAX_DISK,
    METADATA_ENTRY,
    METADATA_HEADER,
    METADATA_MAGIC,
    METADATA_REGION,
    MIN_BLOCK,
    PHYSICAL_SECTOR_ITEM,
    REGION_ENTRY,
    REGION_HEADER,
    REGION_MAGIC,
    REGION_OFFSETS,
    SECTOR_BITS,
    TABLE_BYTES,
    Header,
    MiB,
    with_checksum,
)
from vmpack.units import parse_size, round_up

UNIT = 64 << 10
"""Bytes of guest disk that arrive together: less than a block, so that little is read in vain."""
LOGICAL_SECTOR, PHYSICAL_SECTOR = 512, 4096
_SMALL_BLOCKS_UP_TO = 1 << 40
_CREATOR = "vmpack"
_EMPTY_IN_QEMU = (1 << 32) - 1


def _choice(values: Mapping[str, str], name: str, choices: Mapping[str, bool], value: bool) -> bool:
    if name not in values:
        return value
    if values[name] not in choices:
        raise UsageError(
            f"{name}: {values[name]!r} is not one of {', '.join(choices)}",
            field=name,
            hint="see --help",
        )
    return choices[values[name]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for. Sizes and offsets in bytes."""

    virtual_size: int
    block_size: int
    log_size: int
    fixed: bool
    zero_state: bool
    """Blocks without data are in the state ZERO, not in NOT_PRESENT."""
    disk_id: UUID | None

    @classmethod
    def of(cls, options: CreateOptions) -> Plan:
        """Raises :class:`UsageError` for what VHDX cannot hold and for values out of range."""
        if options.compressed:
            raise UsageError("vhdx cannot be compressed", hint="choose -O qcow2 with -c")
        size = round_up(options.virtual_size, LOGICAL_SECTOR)
        if size > MAX_DISK:
            raise UsageError(
                f"a VHDX disk has at most 64 TiB, not {size} bytes", hint="choose -O qcow2"
            )
        values = options.values
        block = parse_size(values.get("block_size", "0"), name="block_size")
        if block and (block & (block - 1) or not MIN_BLOCK <= block <= MAX_BLOCK):
            raise UsageError(
                f"block_size: {block} is not a block size",
                field="block_size",
                hint="choose a power of two from 1M to 256M",
            )
        log = parse_size(values.get("log_size", "1M"), name="log_size")
        if log % MiB or not 0 < log < 1 << 32:
            raise UsageError(f"log_size: {log} is not a multiple of 1M below 4G", field="log_size")
        return cls(
            virtual_size=size,
            block_size=block or (MIN_BLOCK if size <= _SMALL_BLOCKS_UP_TO else 32 * MiB),
            log_size=log,
            fixed=_choice(values, "subformat", {"dynamic": False, "fixed": True}, False),
            zero_state=_choice(
                values, "block_state_zero", {"on": True, "off": False}, not options.empty
            ),
            disk_id=_uuid(values.get("uuid")),
        )

    @property
    def chunk_ratio(self) -> int:
        """Payload entries of the BAT between two sector bitmap entries."""
        return SECTOR_BITS * LOGICAL_SECTOR // self.block_size

    @property
    def blocks(self) -> int:
        return -(-self.virtual_size // self.block_size)

    @property
    def metadata_offset(self) -> int:
        return MiB + self.log_size

    @property
    def bat_offset(self) -> int:
        return self.metadata_offset + MiB

    @property
    def bat_length(self) -> int:
        blocks = self.blocks
        if not blocks:
            # QEMU takes the blocks before the last one as a 32-bit number: of a disk without any
            # it wants to see a BAT for 2**32 - 1. The room is a hole of the file.
            return round_up(_EMPTY_IN_QEMU // self.chunk_ratio * 8, MiB)
        return round_up((blocks + -(-blocks // self.chunk_ratio)) * 8, MiB)

    @property
    def data_offset(self) -> int:
        return self.bat_offset + self.bat_length

    def file_size(self, blocks: int) -> int:
        """Bytes of a file with ``blocks`` payload blocks."""
        return self.data_offset + (self.blocks if self.fixed else blocks) * self.block_size


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError as exc:
        raise UsageError(f"uuid: {text!r} is not a UUID", field="uuid") from exc


def encode_sections(
    plan: Plan, disk_id: UUID, data_write: UUID, file_write: UUID
) -> Iterator[tuple[int, bytes]]:
    """``(offset, bytes)`` of all structures but the BAT; the file's signature comes last."""
    yield plan.metadata_offset, _metadata(plan, disk_id)
    table = _region_table(plan)
    for offset in REGION_OFFSETS:
        yield offset, table
    for number, offset in enumerate(HEADER_OFFSETS, 1):
        header = Header(
            sequence_number=number,
            file_write_guid=file_write,
            data_write_guid=data_write,
            log_guid=UUID(int=0),
            log_version=0,
            version=1,
            log_length=plan.log_size,
            log_offset=MiB,
        )
        yield offset, header.encode()
    creator = _CREATOR.encode("utf-16-le").ljust(512, b"\0")
    yield 0, IDENTIFIER.build({"signature": FILE_MAGIC, "creator": creator})


def _region_table(plan: Plan) -> bytes:
    regions = (
        (BAT_REGION, plan.bat_offset, plan.bat_length),
        (METADATA_REGION, plan.metadata_offset, MiB),
    )
    head = {"signature": REGION_MAGIC, "checksum": 0, "entry_count": 2, "reserved": 0}
    raw: bytes = REGION_HEADER.build(head)
    for guid, offset, length in regions:
        fields = {"guid": guid.bytes_le, "file_offset": offset, "length": length, "required": 1}
        raw += REGION_ENTRY.build(fields)
    return with_checksum(raw.ljust(TABLE_BYTES, b"\0"))


def _metadata(plan: Plan, disk_id: UUID) -> bytes:
    """The metadata table and its items."""
    flags = LEAVE_ALLOCATED if plan.fixed else 0
    own, disk = IS_REQUIRED, IS_REQUIRED | IS_VIRTUAL_DISK
    parameters = FILE_PARAMETERS.build({"block_size": plan.block_size, "flags": flags})
    items = (
        (FILE_PARAMETERS_ITEM, own, parameters),
        (DISK_SIZE_ITEM, disk, plan.virtual_size.to_bytes(8, "little")),
        (DISK_ID_ITEM, disk, disk_id.bytes_le),
        (LOGICAL_SECTOR_ITEM, disk, LOGICAL_SECTOR.to_bytes(4, "little")),
        (PHYSICAL_SECTOR_ITEM, disk, PHYSICAL_SECTOR.to_bytes(4, "little")),
    )
    head = {"signature": METADATA_MAGIC, "reserved": 0, "entry_count": len(items)}
    table: bytes = METADATA_HEADER.build({**head, "reserved2": bytes(20)})
    data = b""
    for guid, bits, value in items:
        table += METADATA_ENTRY.build(
            {
                "item_id": guid.bytes_le,
                "offset": TABLE_BYTES + len(data),
                "length": len(value),
                "flags": bits,
                "reserved2": 0,
            }
        )
        data += value
    return table.ljust(TABLE_BYTES, b"\0") + data


class VhdxMeasurer:
    """Counts the blocks that hold data; exact."""

    unit = UNIT

    def __init__(self, options: CreateOptions):
        self._plan = Plan.of(options)
        self._blocks = 0
        self._last = -1

    def add(self, number: int) -> None:
        block = number * UNIT // self._plan.block_size
        if block != self._last:
            self._last = block
            self._blocks += 1

    def sizes(self) -> tuple[int, int]:
        return self._plan.file_size(self._blocks), self._plan.file_size(self._plan.blocks)
