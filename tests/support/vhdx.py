"""VHDX files made by hand: any sector size, parents, logs; and changes that keep checksums right.

Independent of vmpack's writer: structures are packed here, after [MS-VHDX].
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import google_crc32c

from vmpack.formats.base import OpenOptions
from vmpack.formats.vhdx.reader import VhdxReader
from vmpack.source import ByteSource

MiB = 1 << 20
HEADERS = (0x10000, 0x20000)
REGION_TABLES = (0x30000, 0x40000)
LOG = MiB
BAT_GUID = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_GUID = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
VHDX_PARENT = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")
NO_LOG = UUID(int=0)
LOG_GUID = UUID(int=0x1111)
DATA_WRITE = UUID(int=0x2222)

Zeros = tuple[int, int]
"""``(file offset, length)`` that a log entry makes zero."""
Sector = tuple[int, bytes]
"""``(file offset, 4,096 bytes)`` that a log entry writes."""


def summed(raw: bytes) -> bytes:
    """``raw`` with its CRC-32C at bytes 4 to 7."""
    value = google_crc32c.value(raw[:4] + bytes(4) + raw[8:])
    return raw[:4] + struct.pack("<I", value) + raw[8:]


def header(
    sequence: int,
    *,
    log_guid: UUID = NO_LOG,
    data_write: UUID = DATA_WRITE,
    log_length: int = MiB,
    log_version: int = 0,
    version: int = 1,
) -> bytes:
    raw = struct.pack(
        "<4sIQ16s16s16sHHIQ",
        b"head", 0, sequence, UUID(int=1).bytes_le, data_write.bytes_le, log_guid.bytes_le,
        log_version, version, log_length, LOG,
    )  # fmt: skip
    return summed(raw.ljust(4096, b"\0"))


def locator(pairs: Sequence[tuple[str, str]], kind: UUID = VHDX_PARENT) -> bytes:
    head = struct.pack("<16sHH", kind.bytes_le, 0, len(pairs))
    at = 20 + 12 * len(pairs)
    table, texts = b"", b""
    for key, value in pairs:
        raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
        place = at + len(texts)
        table += struct.pack("<IIHH", place, place + len(raw_key), len(raw_key), len(raw_value))
        texts += raw_key + raw_value
    return head + table + texts


@dataclass
class Made:
    """A VHDX file to be. ``blocks`` maps a block to its state and, where it has them, its bytes."""

    size: int
    block: int = MiB
    sector: int = 512
    flags: int = 0
    log_length: int = MiB
    blocks: Mapping[int, tuple[int, bytes | None]] = field(default_factory=dict)
    bitmaps: Mapping[int, bytes] = field(default_factory=dict)
    """Sector bitmap blocks by chunk; each is padded to 1 MiB."""
    parent: Sequence[tuple[str, str]] | None = None
    locator: bytes | None = None
    data_write: UUID = DATA_WRITE
    log_guid: UUID = NO_LOG
    items: Sequence[tuple[UUID, int, bytes]] = ()
    """More metadata items: id, flags, bytes."""

    @property
    def ratio(self) -> int:
        return (self.sector << 23) // self.block

    @property
    def metadata_at(self) -> int:
        return LOG + self.log_length

    @property
    def bat_at(self) -> int:
        return self.metadata_at + MiB

    @property
    def bat_length(self) -> int:
        count = -(-self.size // self.block)
        entries = -(-count // self.ratio) * (self.ratio + 1)
        return -(-entries * 8 // MiB) * MiB or MiB

    @property
    def data_at(self) -> int:
        return self.bat_at + self.bat_length

    def entry_at(self, block: int) -> int:
        return self.bat_at + 8 * (block + block // self.ratio)

    def bitmap_entry_at(self, chunk: int) -> int:
        return self.bat_at + 8 * ((chunk + 1) * (self.ratio + 1) - 1)

    def write(self, path: Path) -> Path:
        with path.open("wb") as out:
            put = _putter(out)
            put(0, b"vhdxfile" + "made by hand".encode("utf-16-le"))
            for number, at in enumerate(HEADERS):
                put(
                    at,
                    header(
                        number,
                        log_guid=self.log_guid,
                        data_write=self.data_write,
                        log_length=self.log_length,
                    ),
                )
            for at in REGION_TABLES:
                put(at, self.region_table())
            put(self.metadata_at, self.metadata())
            place = self.data_at
            for number, (state, data) in self.blocks.items():
                put(self.entry_at(number), struct.pack("<Q", state | (place if data else 0)))
                if data is not None:
                    put(place, data)
                    place += self.block
            for chunk, bits in self.bitmaps.items():
                put(self.bitmap_entry_at(chunk), struct.pack("<Q", 6 | place))
                put(place, bits)
                place += MiB
            out.truncate(place)
        return path

    def region_table(self, more: Sequence[tuple[UUID, int, int, int]] = ()) -> bytes:
        rows = [
            (BAT_GUID, self.bat_at, self.bat_length, 1),
            (METADATA_GUID, self.metadata_at, MiB, 1),
            *more,
        ]
        raw = struct.pack("<4sIII", b"regi", 0, len(rows), 0)
        for guid, offset, length, required in rows:
            raw += struct.pack("<16sQII", guid.bytes_le, offset, length, required)
        return summed(raw.ljust(65536, b"\0"))

    def metadata(self) -> bytes:
        flags = self.flags | (2 if self.parent is not None or self.locator is not None else 0)
        items = [
            (PARAMETERS, 4, struct.pack("<II", self.block, flags)),
            (SIZE, 6, struct.pack("<Q", self.size)),
            (DISK_ID, 6, UUID(int=7).bytes_le),
            (LOGICAL, 6, struct.pack("<I", self.sector)),
            (PHYSICAL, 6, struct.pack("<I", 4096)),
            *self.items,
        ]
        if self.locator is not None:
            items.append((LOCATOR, 4, self.locator))
        elif self.parent is not None:
            items.append((LOCATOR, 4, locator(self.parent)))
        table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
        data = b""
        for guid, bits, value in items:
            place = 65536 + len(data) if value else 0
            table += struct.pack("<16sIIII", guid.bytes_le, place, len(value), bits, 0)
            data += value
        return table.ljust(65536, b"\0") + data


def _putter(out: object) -> Callable[[int, bytes], None]:
    def put(at: int, raw: bytes) -> None:
        out.seek(at)  # type: ignore[attr-defined]
        out.write(raw)  # type: ignore[attr-defined]

    return put


def log_entry(
    updates: Sequence[Zeros | Sector],
    *,
    sequence: int,
    tail: int,
    guid: UUID = LOG_GUID,
    flushed: int = 0,
    last: int = 0,
    padding: int = 0,
) -> bytes:
    """One entry of the log; ``padding`` adds sectors behind its data."""
    descriptors, sectors = b"", b""
    for offset, what in updates:
        if isinstance(what, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, offset, sequence)
            continue
        assert len(what) == 4096
        descriptors += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], offset, sequence)
        high, low = divmod(sequence, 1 << 32)
        sectors += struct.pack("<4sI4084sI", b"data", high, what[8:-4], low)
    head = 64 + len(descriptors)
    filled = -(-head // 4096) * 4096
    length = filled + len(sectors) + 4096 * padding
    raw = struct.pack(
        "<4sIIIQII16sQQ",
        b"loge", 0, length, tail, sequence, len(updates), 0, guid.bytes_le, flushed, last,
    )  # fmt: skip
    return summed(((raw + descriptors).ljust(filled, b"\0") + sectors).ljust(length, b"\0"))


def put_log(path: Path, at: int, *entries: bytes, log_length: int = MiB) -> int:
    """Write entries one behind the other from the log's byte ``at``, around its end."""
    with path.open("r+b") as out:
        for raw in entries:
            for begin in range(0, len(raw), 4096):
                out.seek(LOG + (at + begin) % log_length)
                out.write(raw[begin : begin + 4096])
            at = (at + len(raw)) % log_length
    return at


def patch(path: Path, offset: int, raw: bytes) -> None:
    """Write ``raw``; headers and region tables get right checksums again."""
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(raw)
        for at, length in [*((at, 4096) for at in HEADERS), *((at, 65536) for at in REGION_TABLES)]:
            if at <= offset < at + length:
                out.seek(at)
                whole = out.read(length)
                out.seek(at)
                out.write(summed(whole))


def open_vhdx(path: Path, **options: object) -> VhdxReader:
    return VhdxReader(ByteSource.open(path), OpenOptions(**options))  # type: ignore[arg-type]
