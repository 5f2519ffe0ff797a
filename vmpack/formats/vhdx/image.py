"""Opens a VHDX file as far as its structures go: headers, log, regions, metadata.

Source: [MS-VHDX] 2.2. Profile: specs/vhdx.md, VHDX-HDR and VHDX-REG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.base import Finding
from vmpack.formats.vhdx.log import active_sequence
from vmpack.formats.vhdx.metadata import Metadata, load_metadata
from vmpack.formats.vhdx.replay import replayed
from vmpack.formats.vhdx.structs import (
    BAT_REGION,
    FILE_MAGIC,
    HEADER_MAGIC,
    HEADER_OFFSETS,
    MAX_ENTRIES,
    METADATA_REGION,
    REGION_MAGIC,
    REGION_OFFSETS,
    SECTOR,
    TABLE_BYTES,
    Header,
    MiB,
    Region,
    checksum_is_right,
    count_of_regions,
)
from vmpack.source import ByteSource

_KNOWN_REGIONS = {BAT_REGION: "BAT", METADATA_REGION: "metadata"}


@dataclass(frozen=True, slots=True)
class Image:
    """What is known of a VHDX file before its BAT is looked at."""

    source: ByteSource
    """The file as it is once its log is replayed."""
    creator: str
    header: Header
    metadata: Metadata
    bat: Region
    reserved: Sequence[tuple[int, int]]
    """``(start, end)`` of header section, log and regions, ascending: no block lies there."""
    faults: Sequence[Finding]
    """What is wrong with copies that were not needed."""

    @property
    def dirty(self) -> bool:
        """The log was not empty: what is read is the file after the replay."""
        return bool(self.header.log_guid.int)


def load_image(source: ByteSource) -> Image:
    """Read and check everything that has to hold before a block is looked up.

    Raises :class:`DamagedError` for what breaks the format, :class:`UnsupportedError` for what
    vmpack does not have.
    """
    creator = _creator(source)
    faults: list[Finding] = []
    header = _current_header(source, faults)
    _check_log_place(source, header)
    if header.log_guid.int:
        source = replayed(source, header, active_sequence(source, header))
    regions = _regions(source, faults)
    found = {one.guid: one for one in regions}
    for guid, name in _KNOWN_REGIONS.items():
        if guid not in found:
            raise DamagedError(
                f"has no {name} region",
                path=source.path,
                offset=REGION_OFFSETS[0],
                clause="VHDX-REG-6",
            )
    metadata = load_metadata(source, found[METADATA_REGION])
    reserved = _reserved(source, header, regions)
    return Image(source, creator, header, metadata, found[BAT_REGION], reserved, faults)


def _creator(source: ByteSource) -> str:
    raw = source.pread(0, min(source.size, 520))
    if raw[:8] != FILE_MAGIC:
        raise DamagedError(
            "has no vhdxfile signature", path=source.path, offset=0, clause="VHDX-HDR-1"
        )
    return raw[8:].decode("utf-16-le", "replace").split("\0", 1)[0]


def _current_header(source: ByteSource, faults: list[Finding]) -> Header:
    """The valid header with the greater sequence number."""
    valid: list[tuple[int, bytes, Header]] = []
    for offset in HEADER_OFFSETS:
        raw = source.pread_padded(offset, SECTOR)
        if raw[:4] == HEADER_MAGIC and checksum_is_right(raw):
            valid.append((offset, raw, Header.decode(raw)))
        else:
            text = "one of the two headers has a wrong signature or checksum"
            faults.append(Finding("corruption", text, offset, clause="VHDX-HDR-2"))
    if not valid:
        raise DamagedError(
            "neither header has a right signature and checksum",
            path=source.path,
            offset=HEADER_OFFSETS[0],
            clause="VHDX-HDR-2",
        )
    offset, raw, header = max(valid, key=lambda one: one[2].sequence_number)
    # Twice the same header does no harm; two that differ leave open which one is current.
    if any(one[2].sequence_number == header.sequence_number and one[1] != raw for one in valid):
        raise DamagedError(
            "two different headers have one sequence number",
            path=source.path,
            offset=offset,
            field="sequence_number",
            clause="VHDX-HDR-3",
        )
    if header.version != 1:
        raise UnsupportedError(
            f"VHDX version {header.version}",
            path=source.path,
            offset=offset + 66,
            field="version",
            clause="VHDX-HDR-4",
        )
    return header


def _check_log_place(source: ByteSource, header: Header) -> None:
    inside = MiB <= header.log_offset <= source.size - header.log_length
    if header.log_offset % MiB or header.log_length % MiB or (header.log_length and not inside):
        raise DamagedError(
            f"its log ({header.log_length} bytes at {header.log_offset}) is not inside the file "
            "in whole MiB",
            path=source.path,
            field="log_offset",
            clause="VHDX-HDR-5",
        )


def _regions(source: ByteSource, faults: list[Finding]) -> list[Region]:
    """The regions of the first region table whose checksum is right."""
    valid = []
    for offset in REGION_OFFSETS:
        raw = source.pread_padded(offset, TABLE_BYTES)
        if raw[:4] == REGION_MAGIC and checksum_is_right(raw):
            valid.append((offset, raw))
        else:
            text = "one of the two region tables has a wrong signature or checksum"
            faults.append(Finding("corruption", text, offset, clause="VHDX-REG-1"))
    if not valid:
        raise DamagedError(
            "neither region table has a right signature and checksum",
            path=source.path,
            offset=REGION_OFFSETS[0],
            clause="VHDX-REG-1",
        )
    offset, raw = valid[0]
    if len(valid) == 2 and _entries(valid[1][1]) != _entries(raw):
        text = "the two region tables differ"
        faults.append(Finding("corruption", text, valid[1][0], clause="VHDX-REG-1"))
    count = count_of_regions(raw)
    if count > MAX_ENTRIES:
        raise DamagedError(
            f"its region table counts {count} regions, at most {MAX_ENTRIES} fit",
            path=source.path,
            offset=offset + 8,
            field="entry_count",
            clause="VHDX-REG-2",
        )
    regions = Region.decode_table(raw[16:], count)
    for number, region in enumerate(regions):
        _check_region(region, source, offset + 16 + number * 32)
    if len({one.guid for one in regions}) < len(regions):
        raise DamagedError(
            "its region table has one region twice",
            path=source.path,
            offset=offset,
            clause="VHDX-REG-4",
        )
    return regions


def _entries(raw: bytes) -> bytes:
    """The part of a region table that says something."""
    return raw[8 : 16 + 32 * min(count_of_regions(raw), MAX_ENTRIES)]


def _check_region(region: Region, source: ByteSource, where: int) -> None:
    if region.required and region.guid not in _KNOWN_REGIONS:
        raise UnsupportedError(
            f"required region {region.guid}",
            path=source.path,
            offset=where,
            clause="VHDX-REG-5",
            hint="the tool that wrote the file may read it",
        )
    inside = MiB <= region.offset and region.end <= source.size
    if region.offset % MiB or region.length % MiB or not region.length or not inside:
        name = _KNOWN_REGIONS.get(region.guid, str(region.guid))
        raise DamagedError(
            f"its {name} region ({region.length} bytes at {region.offset}) is not inside the "
            f"file's {source.size} bytes in whole MiB",
            path=source.path,
            offset=where,
            clause="VHDX-REG-3",
        )


def _reserved(
    source: ByteSource, header: Header, regions: Sequence[Region]
) -> list[tuple[int, int]]:
    """Header section, log and regions in order; they may not overlap."""
    ranges = [(0, MiB), (header.log_offset, header.log_offset + header.log_length)]
    ranges = sorted(ranges[: 2 if header.log_length else 1] + [(r.offset, r.end) for r in regions])
    for (_, end), (start, _) in pairwise(ranges):
        if start < end:
            raise DamagedError(
                "its regions, or a region and the log, overlap",
                path=source.path,
                offset=start,
                clause="VHDX-REG-4",
            )
    return ranges
