"""A VMA archive: its header, its configs, and where each cluster of each device lies."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from vmpack.binary import escape, require_range
from vmpack.containers.base import Member, safe_member
from vmpack.containers.vma import structs
from vmpack.containers.vma.structs import BLOCK, CLUSTER, CLUSTERS, EXTENT_HEADER_SIZE
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader, OpenOptions
    from vmpack.source import ByteSource

MAX_HEADER = 32 * MiB
"""256 configs and 512 names of 64 KiB each are the most that one can refer to."""
VMSTATE = "vmstate"
"""The device that holds a running machine's memory: it is no disk."""
PAGE = 512
"""Clusters of one page of a device's map: 32 MiB of disk, 4 KiB of map."""
FULL = 0xFFFF
_WHERE = EXTENT_HEADER_SIZE
"""Places of clusters are multiples of this."""


@dataclass(slots=True)
class DeviceMap:
    """Where a device's clusters lie; clusters of zeros cost a bit."""

    name: str
    size: int
    seen: bytearray = field(repr=False)
    """A bit for each cluster that the archive has."""
    pages: dict[int, array[int]] = field(default_factory=dict, repr=False)
    """Entries: place in the file / 512 << 16 | mask of the blocks that are stored there."""

    def add(self, number: int, place: int, mask: int) -> bool:
        """Note cluster ``number``; whether it is the device's and came for the first time."""
        bit = 1 << (number & 7)
        if number * CLUSTER >= self.size or self.seen[number >> 3] & bit:
            return False
        self.seen[number >> 3] |= bit
        if mask:
            page = self.pages.get(number // PAGE)
            if page is None:
                page = self.pages[number // PAGE] = array("Q", bytes(8 * PAGE))
            page[number % PAGE] = place // _WHERE << 16 | mask
        return True

    def missing(self) -> int | None:
        """The first cluster that the archive does not have."""
        count = -(-self.size // CLUSTER)
        for index, byte in enumerate(self.seen):
            if byte == 0xFF:
                continue
            for number in range(8 * index, min(8 * index + 8, count)):
                if not byte >> (number & 7) & 1:
                    return number
        return None


class Archive:
    """An archive in ``source``, which stays the caller's; its header is read at once."""

    def __init__(self, source: ByteSource):
        self.source = source
        self.path = source.path
        self._lock = threading.Lock()
        self._maps: dict[int, DeviceMap] | None = None
        head = structs.parse_header(
            source.pread(0, min(structs.HEADER_SIZE, source.size)), path=self.path
        )
        self._check(head)
        self._head = head
        whole = source.pread(0, head.header_size)
        if structs.digest_of_header(whole) != head.md5:
            raise self._damaged("the header's MD5 is wrong", 0, "VMA-HDR-3")
        self._blobs = dict(self._walk_blobs(whole))
        self._devices = self._named_devices(whole)

    def _check(self, head: structs.Header) -> None:
        if head.version != structs.VERSION:
            raise UnsupportedError(
                f"VMA version {head.version}",
                path=self.path,
                offset=4,
                clause="VMA-HDR-2",
                hint="restore it with the Proxmox VE that wrote it, and take its disks",
            )
        if not structs.HEADER_SIZE < head.header_size <= MAX_HEADER:
            raise self._damaged(f"a header of {head.header_size} bytes", 56, "VMA-HDR-4")
        limits = {"the header": (0, head.header_size, self.source.size)}
        limits["the blob buffer"] = (head.blob_offset, head.blob_size, head.header_size)
        for what, (start, length, limit) in limits.items():
            require_range(start, length, limit, what=what, path=self.path, clause="VMA-HDR-4")
        if head.blob_offset < structs.HEADER_SIZE:
            raise self._damaged("the blob buffer lies in the header", 48, "VMA-HDR-4")

    def _walk_blobs(self, whole: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
        """Place in the blob buffer -> (offset in the file, length), for every blob."""
        start, end = self._head.blob_offset, self._head.blob_offset + self._head.blob_size
        position = start + 1
        while position + 2 <= end:
            length = int.from_bytes(whole[position : position + 2], "little")
            if position + 2 + length > end:
                return
            yield position - start, (position + 2, length)
            position += 2 + length

    def _name(self, whole: bytes, place: int) -> str:
        offset, length = self._blob(place)
        raw = whole[offset : offset + length]
        if not raw.endswith(b"\0"):
            raise self._damaged("a name does not end with a zero byte", offset, "VMA-HDR-5")
        text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return safe_member(text, path=self.path, offset=offset, clause="VMA-READ-1")

    def _blob(self, place: int) -> tuple[int, int]:
        if place not in self._blobs:
            at = self._head.blob_offset + place
            raise self._damaged(f"no blob begins at {place} of the blob buffer", at, "VMA-HDR-5")
        return self._blobs[place]

    def _named_devices(self, whole: bytes) -> dict[int, tuple[str, int]]:
        found = {
            number: (self._name(whole, place), size) for number, place, size in self._head.devices
        }
        room = (self.source.size - self._head.header_size) // EXTENT_HEADER_SIZE * CLUSTERS
        wanted = sum(-(-size // CLUSTER) for name, size in found.values() if name != VMSTATE)
        if wanted > room:
            raise self._damaged(
                f"its devices have {wanted} clusters, and at most {room} fit into the file",
                0,
                "VMA-READ-2",
            )
        self._configs: dict[str, tuple[int, int]] = {}
        for name_place, data_place in self._head.configs:
            name = self._name(whole, name_place)
            self._add(self._configs, name, self._blob(data_place))
        return found

    def _add(self, found: dict[str, tuple[int, int]], name: str, what: tuple[int, int]) -> None:
        if name in found:
            raise UnsafeError(f"{escape(name)!r} comes twice", path=self.path, clause="VMA-READ-1")
        found[name] = what

    def members(self) -> dict[str, Member]:
        """Configs, then devices; raises :class:`UnsafeError` where two have the same name."""
        places = dict(self._configs)
        found = {name: Member(name, offset, size) for name, (offset, size) in places.items()}
        for number, (name, size) in self._devices.items():
            self._add(places, name, (0, size))
            if name != VMSTATE:
                found[name] = Member(name, 0, size, partial(self.open_device, number))
        return found

    def open_device(self, number: int, options: OpenOptions) -> ImageReader:
        """Device ``number`` as a disk. The archive's extents are walked once, for all devices."""
        from vmpack.containers.vma.device import DeviceReader

        with self._lock:
            if self._maps is None:
                self._maps = self._scan()
        found = self._maps[number]
        lost = found.missing()
        if lost is not None:
            raise DamagedError(
                f"cluster {lost} of {escape(found.name)!r} is missing",
                path=self.path,
                clause="VMA-READ-5",
                hint="the backup was cut short or not finished: make it again",
            )
        return DeviceReader(self.source, found, options)

    def _scan(self) -> dict[int, DeviceMap]:
        """Walk all extents. Raises :class:`DamagedError` for the first that is not sound."""
        maps = {
            number: DeviceMap(
                name, size, bytearray(-(-size // CLUSTER // 8) if name != VMSTATE else 0)
            )
            for number, (name, size) in self._devices.items()
        }
        position = self._head.header_size
        while position < self.source.size:
            position += self._extent(position, maps)
        return maps

    def _extent(self, position: int, maps: dict[int, DeviceMap]) -> int:
        """Note the clusters of the extent at ``position``; its length."""
        if position + EXTENT_HEADER_SIZE > self.source.size:
            raise self._damaged("the last extent's header is cut", position, "VMA-EXT-1")
        head = structs.parse_extent(self.source.pread(position, EXTENT_HEADER_SIZE))
        if head is None:
            raise self._damaged("no extent where one should begin", position, "VMA-EXT-1")
        uuid, blocks, _, is_whole, clusters = head
        if uuid != self._head.uuid:
            raise self._damaged("an extent of another archive", position, "VMA-EXT-2")
        if not is_whole:
            raise self._damaged("an extent header's MD5 is wrong", position, "VMA-EXT-3")
        place = position + EXTENT_HEADER_SIZE
        end = place + blocks * BLOCK
        if end > self.source.size:
            raise self._damaged("the last extent is cut", position, "VMA-EXT-4")
        for info in clusters:
            device = info >> 32 & 0xFF
            if not device:
                continue
            mask = info >> 48
            self._cluster(maps, device, info & 0xFFFFFFFF, place, mask)
            place += mask.bit_count() * BLOCK
        if place != end:
            raise self._damaged(
                f"an extent of {blocks} blocks, and clusters of {(place - end) // BLOCK + blocks}",
                position,
                "VMA-EXT-4",
            )
        return end - position

    def _cluster(
        self, maps: dict[int, DeviceMap], device: int, number: int, place: int, mask: int
    ) -> None:
        found = maps.get(device)
        if found is None:
            raise self._damaged(f"a cluster of device {device}, which is none", place, "VMA-EXT-5")
        if found.name != VMSTATE and not found.add(number, place, mask):
            raise self._damaged(
                f"cluster {number} of {escape(found.name)!r} lies outside it, or comes twice",
                place,
                "VMA-EXT-5",
            )

    def _damaged(self, message: str, offset: int, clause: str) -> DamagedError:
        return DamagedError(
            message,
            path=self.path,
            offset=offset,
            clause=clause,
            hint="copy it again; 'vma verify FILE' on a Proxmox host says whether it is whole",
        )
