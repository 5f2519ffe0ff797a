"""Finds what of the log has to be replayed: its active sequence.

Source: [MS-VHDX] 2.3. Profile: specs/vhdx.md, VHDX-LOG.

An entry is valid or not, whatever surrounds it, so each is checked once. The entries that follow
one another end in one head; the head's sequence is valid when the entry that it names as its tail
leads to it. Of the valid ones the sequence with the greatest head is the active one: what the
specification's scan from every sector finds, without walking any entry twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import google_crc32c

from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.formats.vhdx.structs import (
    DATA_DESCRIPTOR_MAGIC,
    DATA_SECTOR_MAGIC,
    DESCRIPTOR_BYTES,
    LOG_HEADER,
    LOG_HEADER_BYTES,
    LOG_MAGIC,
    SECTOR,
    ZERO_MAGIC,
    Header,
    MiB,
)
from vmpack.source import ByteSource

MAX_LOG = 256 * MiB
"""Bytes of a log that is replayed; Hyper-V and QEMU write logs of 1 MiB."""
MAX_UPDATES = 1 << 18
"""Descriptors of an active sequence: what a log of 8 MiB can hold."""
_DESCRIPTOR = struct.Struct("<4s4s8sQQ")
"""Signature, trailing bytes, leading bytes (or the zeros' length), file offset, sequence number:
ZERO_DESCRIPTOR and DATA_DESCRIPTOR in one, for tables of them."""


@dataclass(frozen=True, slots=True)
class Update:
    """One descriptor: ``[start, end)`` of the file becomes zero, or gets one logged sector."""

    start: int
    end: int
    sector: int = -1
    """Where in the file the logged sector's middle lies; -1 for zeros."""
    leading: bytes = b""
    trailing: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry. ``offset``, ``end`` and ``tail`` count from the log's start."""

    offset: int
    end: int
    """Where the next entry would begin: behind this one, or at the log's start."""
    length: int
    tail: int
    sequence: int
    count: int
    flushed: int
    last: int


class Ring:
    """The log's bytes: behind its end comes its start."""

    def __init__(self, source: ByteSource, header: Header):
        self.source = source
        self.start = header.log_offset
        self.size = header.log_length

    def place(self, offset: int) -> int:
        """Where in the file the log's byte ``offset`` lies."""
        return self.start + offset % self.size

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """``length`` bytes from ``offset``, at most 1 MiB at a time."""
        while length:
            begin = offset % self.size
            take = min(length, self.size - begin, MiB)
            yield self.source.pread(self.start + begin, take)
            offset += take
            length -= take

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes, at most as many as the log has."""
        return b"".join(self.pieces(offset, length))


def active_sequence(source: ByteSource, header: Header) -> tuple[Entry, list[Update]]:
    """The head of the active sequence and the updates of all its entries, oldest first.

    Raises :class:`DamagedError` when there is none or the file has been cut,
    :class:`UnsupportedError` for another log version or a log beyond the limits.
    """
    if header.log_version:
        raise UnsupportedError(
            f"VHDX log version {header.log_version}", path=source.path, clause="VHDX-LOG-1"
        )
    if header.log_length > MAX_LOG:
        raise UnsupportedError(
            f"a log of {header.log_length} bytes that has to be replayed",
            path=source.path,
            offset=header.log_offset,
            clause="VHDX-LOG-8",
            hint="attach the disk once where it was made, and detach it",
        )
    ring = Ring(source, header)
    chosen = _newest(_valid_entries(ring, header.log_guid))
    if chosen is None:
        raise DamagedError(
            "its log has to be replayed and holds no valid sequence",
            path=source.path,
            offset=header.log_offset,
            clause="VHDX-LOG-5",
            hint="restore the file from a copy, or attach it where it was made",
        )
    head = chosen[-1]
    if source.size < head.flushed:
        raise DamagedError(
            f"its log says that it had {head.flushed} bytes at least, it has {source.size}",
            path=source.path,
            offset=ring.place(head.offset),
            clause="VHDX-LOG-6",
            hint="the file is cut short",
        )
    if sum(entry.count for entry in chosen) > MAX_UPDATES:
        raise UnsupportedError(
            f"a log of more than {MAX_UPDATES} updates", path=source.path, clause="VHDX-LOG-8"
        )
    updates: list[Update] = []
    for entry in chosen:
        found = _updates(ring, entry)
        assert found is not None
        updates += found
    return head, updates


def _newest(entries: dict[int, Entry]) -> list[Entry] | None:
    """The valid sequence whose head is the newest, from its tail on. ``entries`` by offset."""
    heads: dict[int, Entry] = {}
    following: dict[int, Entry] = {}
    # Newest first: what follows an entry has its head already.
    for entry in sorted(entries.values(), key=lambda one: one.sequence, reverse=True):
        after = entries.get(entry.end)
        if after is not None and after.sequence == entry.sequence + 1:
            following[entry.offset] = after
            heads[entry.offset] = heads[after.offset]
        else:
            heads[entry.offset] = entry
    whole = [
        head
        for offset, head in heads.items()
        if head.offset == offset and head.tail in entries and heads[head.tail] is head
    ]
    if not whole:
        return None
    best = max(whole, key=lambda one: one.sequence)
    chosen = [entries[best.tail]]
    while chosen[-1] is not best:
        chosen.append(following[chosen[-1].offset])
    return chosen


def _valid_entries(ring: Ring, guid: UUID) -> dict[int, Entry]:
    """Every valid entry, by its offset in the log."""
    # Entries do not share bytes, but for a few old ones that were overwritten in part. What
    # claims otherwise would have the same bytes summed up again and again.
    budget, descriptors = 4 * ring.size, 4 * MAX_UPDATES
    entries: dict[int, Entry] = {}
    for offset in _starts(ring):
        raw = ring.read(offset, LOG_HEADER_BYTES)
        found = LOG_HEADER.parse(raw)
        length, count = found.entry_length, found.descriptor_count
        fits = SECTOR <= length <= ring.size and length % SECTOR == 0
        fits = fits and LOG_HEADER_BYTES + count * DESCRIPTOR_BYTES <= length
        tail_fits = found.tail < ring.size and found.tail % SECTOR == 0
        ours = found.log_guid == guid.bytes_le and found.sequence_number > 0
        if not (fits and tail_fits and ours) or found.reserved:
            continue
        budget -= length
        descriptors -= count
        if budget < 0 or descriptors < 0:
            raise UnsafeError(
                "its log has too many updates, or entries that overlap many times over",
                path=ring.source.path,
                offset=ring.place(offset),
                clause="VHDX-LOG-8",
            )
        entry = Entry(
            offset=offset,
            end=(offset + length) % ring.size,
            length=length,
            tail=found.tail,
            sequence=found.sequence_number,
            count=count,
            flushed=found.flushed_file_offset,
            last=found.last_file_offset,
        )
        if _sum(ring, entry) == found.checksum and _updates(ring, entry) is not None:
            entries[offset] = entry
    return entries


def _starts(ring: Ring) -> Iterator[int]:
    """Where an entry may begin: at sectors with its signature."""
    offset = 0
    for piece in ring.pieces(0, ring.size):
        at = piece.find(LOG_MAGIC)
        while at >= 0:
            if at % SECTOR == 0:
                yield offset + at
            at = piece.find(LOG_MAGIC, (at // SECTOR + 1) * SECTOR)
        offset += len(piece)


def _sum(ring: Ring, entry: Entry) -> int:
    """The CRC-32C of a whole entry, its own field taken as zero."""
    total, first = 0, True
    for piece in ring.pieces(entry.offset, entry.length):
        total = google_crc32c.extend(total, piece[:4] + bytes(4) + piece[8:] if first else piece)
        first = False
    return total


def _updates(ring: Ring, entry: Entry) -> list[Update] | None:
    """What the entry's descriptors say; ``None`` where one of them is not valid."""
    head = LOG_HEADER_BYTES + entry.count * DESCRIPTOR_BYTES
    data = -(-head // SECTOR) * SECTOR
    raw = ring.read(entry.offset, head)
    updates: list[Update] = []
    descriptors = _DESCRIPTOR.iter_unpack(raw[LOG_HEADER_BYTES:])
    for signature, trailing, leading, start, sequence in descriptors:
        if signature == ZERO_MAGIC:
            update = Update(start, start + int.from_bytes(leading, "little"))
        elif signature == DATA_DESCRIPTOR_MAGIC and data + SECTOR <= entry.length:
            place = ring.place(entry.offset + data) + 8
            update = Update(start, start + SECTOR, place, leading, trailing)
            if not _sector_is_right(ring, entry, data):
                return None
            data += SECTOR
        else:
            return None
        if sequence != entry.sequence or update.start % SECTOR or update.end % SECTOR:
            return None
        updates.append(update)
    return updates


def _sector_is_right(ring: Ring, entry: Entry, at: int) -> bool:
    """Whether the entry's sector at ``at`` is a data sector written with the entry."""
    place = ring.place(entry.offset + at)
    high, low = divmod(entry.sequence, 1 << 32)
    head = DATA_SECTOR_MAGIC + high.to_bytes(4, "little")
    if ring.source.pread(place, 8) != head:
        return False
    return ring.source.pread(place + SECTOR - 4, 4) == low.to_bytes(4, "little")
