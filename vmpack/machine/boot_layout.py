"""How a disk would start: partition table, boot code, EFI system partition. Read, never run.

A small bounded reader for disks of strangers: whatever the bytes say, it looks at no more than
about 4 MiB of them, and damage is a finding in the result, not an exception.
Sources: UEFI Specification 2.10, chapter 5. Profile: ``specs/config-v1.md``, "Boot layout".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vmpack.machine.partition_structs import GptEntry, GptHeader, Mbr

__all__ = ["BootLayout", "Partition", "guess_family", "read_boot_layout"]

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: bytes of the disk; called within its size only."""

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_MICROSOFT_RESERVED = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
_LINUX = ("0fc63daf-8483-4772-8e79-3d69d8477de4", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
_MBR_ESP = 0xEF
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
_MBR_WINDOWS = (0x07, 0x27)
_MBR_LINUX = (0x83, 0x8E)
_MAX_LOGICAL = 64
_MAX_ENTRY_BYTES = 1 << 20
_MAX_PARTITIONS = 1024
_SECTOR_SIZES = (512, 4096)


@dataclass(frozen=True)
class Partition:
    """A partition: ``offset`` and ``size`` in bytes; ``type`` a GUID or ``0x83``.

    ``name`` is what the disk says: escape it before you show it.
    """

    offset: int
    size: int
    type: str
    name: str = ""
    bootable: bool = False


@dataclass(frozen=True)
class BootLayout:
    """What starting from a disk would find on it."""

    table: Literal["none", "mbr", "gpt"]
    boot_signature: bool
    """The first sector ends in 55 AA."""
    boot_code: bool
    """The first 440 bytes are not all zero, and the boot signature is there."""
    protective_mbr: bool
    partitions: tuple[Partition, ...]
    problems: tuple[str, ...] = ()
    """What is damaged, in words; the rest was read all the same."""

    @property
    def active(self) -> Partition | None:
        """The active partition of an MBR disk, or the legacy-bootable one of a GPT disk."""
        return next((one for one in self.partitions if one.bootable), None)

    @property
    def bios_boot(self) -> Partition | None:
        """The BIOS boot partition of a GPT disk, where GRUB keeps its core."""
        return next((one for one in self.partitions if one.type == BIOS_BOOT), None)

    @property
    def esp(self) -> Partition | None:
        """The EFI system partition."""
        wanted = (ESP, f"0x{_MBR_ESP:02x}")
        return next((one for one in self.partitions if one.type in wanted), None)

    @property
    def starts_by_bios(self) -> bool:
        """Whether a BIOS finds code that leads anywhere.

        The protective MBR of a GPT disk may hold code that only prints an error, as Windows
        writes it: it counts where something says that BIOS boots are meant, a BIOS boot partition
        or a partition marked bootable.
        """
        if not self.boot_code:
            return False
        return self.table != "gpt" or self.bios_boot is not None or self.active is not None


def guess_family(layout: BootLayout) -> Literal["linux", "windows"] | None:
    """The operating system that the partition types speak of, if they do."""
    types = {one.type for one in layout.partitions}
    if types & {*_LINUX, *(f"0x{one:02x}" for one in _MBR_LINUX)}:
        return "linux"
    active = layout.active
    windows = active is not None and active.type in {f"0x{one:02x}" for one in _MBR_WINDOWS}
    return "windows" if windows or _MICROSOFT_RESERVED in types else None


def read_boot_layout(read: Read, size: int) -> BootLayout:
    """The layout of a disk of ``size`` bytes; raises only what ``read`` raises."""
    head = read(0, min(size, 512))
    mbr = Mbr.decode(head) if len(head) == 512 else None
    problems: list[str] = []
    protective = mbr is not None and any(one.type == 0xEE for one in mbr.entries)
    # Without a protective MBR a GPT is a remnant: UEFI and Linux go by the MBR.
    gpt = _read_gpt(read, size, problems) if protective else None
    signature = mbr is not None
    code = mbr is not None and any(mbr.code)
    if gpt is not None:
        partitions = list(gpt)
        if mbr is not None:
            # A hybrid MBR's active record is how BIOS starts a GPT disk without a GRUB partition.
            partitions += [
                one for one in _mbr_partitions(read, size, mbr, []) if one.bootable and one.size
            ]
        return BootLayout("gpt", signature, code, protective, tuple(partitions), tuple(problems))
    if protective and not problems:
        problems.append("protective MBR, but no GPT")
    found = tuple(_mbr_partitions(read, size, mbr, problems)) if mbr is not None else ()
    table: Literal["none", "mbr"] = "mbr" if found or protective else "none"
    return BootLayout(table, signature, code, protective, found, tuple(problems))


def _mbr_partitions(read: Read, size: int, mbr: Mbr, problems: list[str]) -> Iterator[Partition]:
    for entry in mbr.entries:
        if entry.type in (0, 0xEE) or entry.sectors == 0:
            continue
        part = Partition(
            entry.first_lba * 512,
            entry.sectors * 512,
            f"0x{entry.type:02x}",
            bootable=entry.active,
        )
        if part.offset == 0 or part.offset + part.size > size:
            problems.append(f"an MBR partition at {part.offset} lies outside the disk")
            continue
        yield part
        if entry.type in _MBR_EXTENDED:
            yield from _logical(read, size, part, problems)


def _logical(
    read: Read, size: int, extended: Partition, problems: list[str]
) -> Iterator[Partition]:
    """The logical partitions of a chain that goes forward only, and not for ever."""
    at = extended.offset
    for _ in range(_MAX_LOGICAL):
        record = Mbr.decode(read(at, 512)) if at + 512 <= size else None
        if record is None:
            problems.append(f"no extended boot record at {at}")
            return
        entry, following = record.entries[:2]
        part = Partition(
            at + entry.first_lba * 512,
            entry.sectors * 512,
            f"0x{entry.type:02x}",
            bootable=entry.active,
        )
        if entry.type and part.size and part.offset + part.size <= size:
            yield part
        after = extended.offset + following.first_lba * 512
        if following.type not in _MBR_EXTENDED or not following.first_lba:
            return
        if after <= at:
            problems.append(f"the chain of logical partitions goes back at {at}")
            return
        at = after
    problems.append(f"more than {_MAX_LOGICAL} logical partitions")


def _read_gpt(read: Read, size: int, problems: list[str]) -> tuple[Partition, ...] | None:
    """The partitions of the first sound GPT: primary, then backup, for both sector sizes."""
    for sector in _SECTOR_SIZES:
        sectors = size // sector
        if sectors < 3:
            continue
        for lba, name in ((1, "primary"), (sectors - 1, "backup")):
            raw = read(lba * sector, sector)
            if raw[:8] != b"EFI PART":
                continue
            found = _gpt_at(read, sector, sectors, lba, raw)
            if isinstance(found, tuple):
                if lba != 1:
                    problems.append("only the backup GPT is sound")
                return found
            problems.append(f"{name} GPT: {found}")
    return None


def _gpt_at(
    read: Read, sector: int, sectors: int, lba: int, raw: bytes
) -> tuple[Partition, ...] | str:
    """The partitions of the GPT whose header is ``raw``, or what is wrong with it."""
    header = GptHeader.decode(raw)
    if header is None:
        return "the header's checksum is wrong"
    if header.my_lba != lba:
        return f"the header says that it is in sector {header.my_lba}"
    entry_size, count = header.entry_size, header.entry_count
    length = entry_size * count
    if entry_size < 128 or entry_size & (entry_size - 1) or length > _MAX_ENTRY_BYTES:
        return f"{count} entries of {entry_size} bytes"
    if header.entries_lba * sector + length > sectors * sector:
        return "the entries lie outside the disk"
    entries = read(header.entries_lba * sector, length)
    if zlib.crc32(entries) != header.entries_crc:
        return "the entries' checksum is wrong"
    return tuple(_gpt_partitions(entries, entry_size, sector, sectors))


def _gpt_partitions(
    entries: bytes, entry_size: int, sector: int, sectors: int
) -> Iterator[Partition]:
    used = 0
    for at in range(0, len(entries), entry_size):
        entry = GptEntry.decode(entries[at : at + 128])
        if entry is None or not 0 < entry.first_lba <= entry.last_lba < sectors:
            continue
        used += 1
        if used > _MAX_PARTITIONS:
            return
        yield Partition(
            entry.first_lba * sector,
            (entry.last_lba - entry.first_lba + 1) * sector,
            entry.type,
            entry.name,
            entry.legacy_bootable,
        )
