"""XVA, XenServer's and XCP-ng's export, read in place. Profile: specs/xva.md.

A tar archive of ``ova.xml`` and a folder for each disk, ``Ref:NN/``, with pieces of 1 MiB. Pieces
of zeros are left out; each that is there has a checksum beside it.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from vmpack.binary import escape
from vmpack.containers.base import Member, safe_member
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError
from vmpack.formats.base import Finding, Format, ImageInfo, ImageReader, OpenOptions
from vmpack.formats.mapped import DATA, ZERO, MappedReader, Run
from vmpack.source import ByteSource
from vmpack.units import MiB

CHUNK = MiB
CONFIG = "ova.xml"
MAX_CONFIG = 16 * MiB
MAX_DISKS = 256
MAX_DISK = 64 << 40
"""Bytes: the largest disk of a config."""
_BLOCK = 512
_PIECE = re.compile(
    r"(Ref:[0-9]{1,19}|OpaqueRef:[0-9a-f-]{1,64})/([0-9]{8,10})(\.checksum|\.xxhash)?"
)


def is_xva(head: bytes) -> bool:
    """Whether a tar archive that begins with ``head`` is an XVA: its config is the first member."""
    return head[:100].rstrip(b"\0") in (CONFIG.encode(), b"./" + CONFIG.encode()) and (
        head[257:262] == b"ustar" or not any(head[257:262])
    )


@dataclass(slots=True)
class Pieces:
    """The pieces of one disk, ascending: where each begins in the disk and in the file."""

    name: str
    starts: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("L"))
    size: int = 0
    """Bytes up to the end of the last piece."""
    is_empty: bool = True
    """The last piece has no bytes."""
    last: int = -1
    """The last piece's number, also of one that is empty."""
    sum_places: array[int] = field(default_factory=lambda: array("Q"))
    """Twice the place of each piece's checksum, plus 1 where it is XXH64; 0: it has none."""

    def add(self, number: int, place: int, length: int) -> bool:
        """Note piece ``number``; whether it comes behind the one before it.

        Numbers count pieces and are no offsets: one that is left out stands for 1 MiB of zeros,
        one of no bytes for none at all (XenServer writes it to keep a connection alive).
        """
        if number <= self.last:
            return False
        start = self.size + (number - self.last - 1) * CHUNK
        self.last, self.size, self.is_empty = number, start + length, not length
        if length:
            self.starts.append(start)
            self.places.append(place)
            self.lengths.append(length)
            self.sum_places.append(0)
        return True


Sizes = Callable[[bytes], Mapping[str, int]]
"""What an ``ova.xml`` says of the disks' sizes, by the names of their folders."""


def members(source: ByteSource, sizes_of: Sizes) -> dict[str, Member]:
    """``ova.xml`` and the archive's disks, which are called as their folders are.

    Raises :class:`DamagedError` for a broken or cut archive, :class:`UnsafeError` for names that
    lead out of a folder, links and devices.
    """
    config: Member | None = None
    disks: dict[str, Pieces] = {}
    for name, place, size in _walk(source):
        found = _PIECE.fullmatch(name)
        if found is None:
            if name != CONFIG:
                raise _damaged(source, f"has a member {escape(name)!r}", place, "XVA-READ-2")
            if config is not None or size > MAX_CONFIG:
                raise UnsafeError(
                    f"its {CONFIG} comes twice, or has {size} bytes",
                    path=source.path,
                    offset=place,
                    clause="XVA-READ-2",
                )
            config = Member(CONFIG, place, size)
            continue
        disk = disks.setdefault(found[1], Pieces(found[1]))
        if len(disks) > MAX_DISKS:
            raise UnsafeError(f"has more than {MAX_DISKS} disks", path=source.path)
        if found[3]:
            _note_sum(source, disk, int(found[2]), place, size, is_xxh=found[3] == ".xxhash")
            continue
        if size > CHUNK or disk.size > MAX_DISK or not disk.add(int(found[2]), place, size):
            what = f"piece {escape(name)!r} of {size} bytes is too large or out of order"
            raise _damaged(source, what, place, "XVA-READ-3")
    if config is None:
        raise _damaged(source, f"has no {CONFIG}", 0, "XVA-READ-2")
    sizes = sizes_of(source.pread(config.offset, config.size))
    result = {CONFIG: config}
    for name, disk in disks.items():
        size = sizes.get(name, disk.size)
        if not 0 < size <= MAX_DISK or (disk.starts and disk.starts[-1] >= size):
            what = f"disk {escape(name)!r} of {size} bytes has pieces behind its end, or no size"
            raise _damaged(source, what, 0, "XVA-READ-4")
        result[name] = Member(name, 0, size, partial(_open, source, disk, size))
    return result


def _note_sum(
    source: ByteSource, disk: Pieces, number: int, place: int, size: int, *, is_xxh: bool
) -> None:
    if size != (16 if is_xxh else 40) or number != disk.last:
        raise _damaged(source, "a checksum that belongs to no piece", place, "XVA-READ-5")
    # One of an empty piece says nothing.
    if not disk.is_empty:
        disk.sum_places[-1] = 2 * place + is_xxh


def _walk(source: ByteSource) -> Iterator[tuple[str, int, int]]:
    """``(name, place, size)`` of every file. XenServer writes plain ustar headers."""
    position = 0
    while position + _BLOCK <= source.size:
        head = source.pread(position, _BLOCK)
        if not any(head):
            return
        name, kind, size = _header(source, head, position)
        place = position + _BLOCK
        position = place + -(-size // _BLOCK) * _BLOCK
        if position > source.size and place + size > source.size:
            raise _damaged(
                source, f"its member {escape(name)!r} goes past its end", place, "XVA-READ-1"
            )
        if kind != b"5":
            yield (
                safe_member(name, path=source.path, offset=place, clause="XVA-READ-1"),
                place,
                size,
            )
    raise _damaged(source, "has no end", position, "XVA-READ-1")


def _header(source: ByteSource, head: bytes, offset: int) -> tuple[str, bytes, int]:
    """Name, type and size; its checksum is right."""
    total = sum(head) - sum(head[148:156]) + 8 * 0x20
    try:
        stated = int(head[148:156].strip(b"\0 ") or b"0", 8)
        size = int(head[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        stated = size = -1
    if stated != total or size < 0:
        raise _damaged(source, "has no header where one should be", offset, "XVA-READ-1")
    kind = head[156:157]
    if kind not in (b"0", b"\0", b"5"):
        raise UnsafeError(
            "has a member that is no regular file",
            path=source.path,
            offset=offset,
            clause="XVA-READ-1",
            hint="XenServer writes none: was it packed by hand?",
        )
    name = head[:100].split(b"\0", 1)[0]
    if head[257:263] == b"ustar\0" and head[345]:
        name = head[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "replace"), kind, size if kind != b"5" else 0


def _open(source: ByteSource, disk: Pieces, size: int, options: OpenOptions) -> ImageReader:
    return XvaDisk(source, disk, size, options)


def _not_alone(source: ByteSource, _: OpenOptions) -> ImageReader:
    source.close()
    raise UnsupportedError(
        "an XVA is a machine, not a disk image",
        path=source.path,
        hint="pack it: vmpack pack FILE.xva -o NAME.vmpack",
    )


FORMAT = Format("xva", "raw", (), lambda _source: False, _not_alone)
"""What a disk's reader says that it is; in no registry, for no file is one."""


class XvaDisk(MappedReader):
    """One disk of an archive; the archive in ``source`` stays the caller's."""

    def __init__(self, source: ByteSource, disk: Pieces, size: int, options: OpenOptions):
        self.format = FORMAT
        self.path = f"{source.path}:{disk.name}"
        self.virtual_size = size
        self.cluster_size = CHUNK
        self.source = source.slice(0, source.size)
        self._disk = disk
        if options.snapshot is not None:
            raise UsageError("an XVA has no snapshots", path=self.path)
        if options.max_size is not None and size > options.max_size:
            raise UnsafeError(
                f"a disk of {size} bytes, {options.max_size} are allowed",
                path=self.path,
                clause="RAW-SIZE-1",
                hint="raise --max-size",
            )

    def lookup(self, offset: int, length: int) -> Iterator[Run]:
        disk, position, end = self._disk, offset, min(offset + length, self.virtual_size)
        index = max(0, bisect_right(disk.starts, offset) - 1)
        while position < end:
            while index < len(disk.starts) and disk.starts[index] + disk.lengths[index] <= position:
                index += 1
            start = disk.starts[index] if index < len(disk.starts) else end
            if start > position:
                until = min(start, end)
                yield Run(position, until - position, ZERO)
                position = until
                continue
            stop = min(start + disk.lengths[index], self.virtual_size)
            yield Run(start, stop - start, DATA, disk.places[index])
            position = stop

    def read(self, offset: int, length: int) -> bytes:
        """As every reader's; pieces that are read whole are held against their checksums."""
        data = super().read(offset, length)
        disk = self._disk
        index = max(0, bisect_right(disk.starts, offset) - 1)
        while index < len(disk.starts) and disk.starts[index] < offset + length:
            start, size = disk.starts[index], disk.lengths[index]
            if start >= offset and start + size <= offset + length:
                piece = memoryview(data)[start - offset : start - offset + size]
                self._verify(index, piece)
            index += 1
        return data

    def _verify(self, index: int, piece: memoryview) -> None:
        place = self._disk.sum_places[index]
        if not place:
            return
        if place & 1:
            import xxhash

            found, size = xxhash.xxh64(piece).hexdigest(), 16
        else:
            found, size = hashlib.sha1(piece, usedforsecurity=False).hexdigest(), 40
        stated = self.source.pread(place >> 1, size).decode("ascii", "replace").lower()
        if found != stated:
            raise DamagedError(
                f"the piece at {self._disk.starts[index]} of its disk has the checksum {found}, "
                f"{escape(stated)} is stated",
                path=self.path,
                offset=self._disk.places[index],
                clause="XVA-READ-5",
                hint="the archive was damaged on its way: export it again",
            )

    def info(self) -> ImageInfo:
        return ImageInfo(format="raw", virtual_size=self.virtual_size, cluster_size=CHUNK)

    def check(self) -> Iterator[Finding]:
        """Read every piece; raises :class:`DamagedError` for the first with a wrong checksum."""
        for start, size in zip(self._disk.starts, self._disk.lengths, strict=True):
            self.read(start, min(size, self.virtual_size - start))
        return iter(())


def _damaged(source: ByteSource, message: str, offset: int, clause: str) -> DamagedError:
    return DamagedError(
        message,
        path=source.path,
        offset=offset,
        clause=clause,
        hint="the archive was cut or damaged: export the machine again",
    )
