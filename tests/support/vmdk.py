"""VMDK images of the kinds that qemu-img cannot write, built from the byte tables of VMware.

Nothing here uses vmpack's own structures: what these builders write is what its readers are held
to. Places and sizes are sectors unless said otherwise.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.qemu import QemuImg
from vmpack.errors import DamagedError
from vmpack.extent import Kind
from vmpack.formats.base import Finding, OpenOptions
from vmpack.formats.vmdk.reader import VmdkReader
from vmpack.ops.check import check
from vmpack.source import ByteSource

SECTOR = 512
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
FIELDS = (
    *("magic", "version", "flags", "capacity", "grain", "descriptor_at", "descriptor_size"),
    *("entries", "rgd", "gd", "overhead", "unclean", "newlines", "algorithm"),
)
SUBFORMATS = {
    "sparse": "subformat=monolithicSparse",
    "zeroed": "subformat=monolithicSparse,zeroed_grain=on",
    "stream": "subformat=streamOptimized",
    "flat": "subformat=monolithicFlat",
    "split": "subformat=twoGbMaxExtentSparse",
    "split-flat": "subformat=twoGbMaxExtentFlat",
}
"""The ways in which qemu-img writes a VMDK."""


@dataclass
class Image:
    """A file under construction, and where its tables are (bytes)."""

    data: bytearray
    places: dict[str, int] = field(default_factory=dict)

    def put(self, offset: int, value: bytes) -> Image:
        self.data[offset : offset + len(value)] = value
        return self

    def set_header(self, at: int = 0, **values: object) -> Image:
        """Other values of a header's fields."""
        found = dict(zip(FIELDS, HEADER.unpack(bytes(self.data[at : at + SECTOR])), strict=True))
        return self.put(at, HEADER.pack(*(found | values).values()))

    def word(self, name: str, index: int = 0) -> int:
        at = self.places[name] + index * 4
        return int.from_bytes(self.data[at : at + 4], "little")

    def set_word(self, name: str, index: int, value: int) -> Image:
        return self.put(self.places[name] + index * 4, u32(value))

    def save(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def words(values: Iterable[int]) -> bytes:
    return b"".join(map(u32, values))


def header(**values: object) -> bytes:
    """The header of a hosted sparse extent; 512 bytes."""
    plain: dict[str, object] = {
        "magic": b"KDMV",
        "version": 1,
        "flags": 1,
        "capacity": 0,
        "grain": 128,
        "descriptor_at": 0,
        "descriptor_size": 0,
        "entries": 512,
        "rgd": 0,
        "gd": 0,
        "overhead": 128,
        "unclean": 0,
        "newlines": b"\n \r\n",
        "algorithm": 0,
    }
    return HEADER.pack(*(plain | values).values())


def text(
    create_type: str,
    extents: Iterable[str],
    *,
    cid: str = "12345678",
    parent: str = "ffffffff",
    hint: str | None = None,
    more: str = "",
    newline: str = "\n",
) -> bytes:
    """A descriptor with these extent lines."""
    lines = ["# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent}"]
    lines += [f'createType="{create_type}"']
    lines += [] if hint is None else [f'parentFileNameHint="{hint}"']
    lines += [*more.splitlines(), "", "# Extent description", *extents]
    lines += ["", "# The Disk Data Base", "#DDB", 'ddb.adapterType = "lsilogic"', ""]
    return newline.join(lines).encode()


def padded(data: bytes, unit: int = SECTOR) -> bytes:
    return data + bytes(-len(data) % unit)


def grains_of(data: bytes, size: int) -> list[bytes]:
    """The disk in grains of ``size`` bytes, the last one padded with zeros."""
    return [padded(data[at : at + size], size) for at in range(0, len(data), size)]


def sparse(
    data: bytes,
    *,
    descriptor: bytes | None = None,
    grain: int = 8,
    entries: int = 512,
    version: int = 1,
    flags: int = 3,
    zeros: Collection[int] = (),
    holes: Collection[int] = (),
    name: str = "disk.vmdk",
) -> Image:
    """A hosted sparse extent of ``data``, all-zero grains left out.

    The grains of ``zeros`` are zeroed-grain entries, those of ``holes`` are left out whatever they
    hold. ``descriptor``: empty bytes for none, by default one for a disk of this extent alone.
    """
    capacity = len(data) // SECTOR
    if descriptor is None:
        descriptor = text("monolithicSparse", [f'RW {capacity} SPARSE "{name}"'])
    pieces = grains_of(data, grain * SECTOR)
    count = -(-len(pieces) // entries)
    table_sectors, directory_sectors = -(-entries * 4 // SECTOR), -(-count * 4 // SECTOR)
    redundant = 21
    main = redundant + directory_sectors + count * table_sectors
    first = main + directory_sectors + count * table_sectors
    table: list[int] = []
    stored: list[bytes] = []
    for number, piece in enumerate(pieces):
        if number in zeros:
            table.append(1)
        elif number in holes or not piece.strip(b"\0"):
            table.append(0)
        else:
            table.append(first + len(stored) * grain)
            stored.append(piece)
    table += [0] * (count * entries - len(table))
    image = Image(bytearray(main * SECTOR))
    image.put(0, header(version=version, flags=flags, capacity=capacity, grain=grain))
    image.set_header(entries=entries, rgd=redundant, gd=main, overhead=first)
    if descriptor:
        image.set_header(descriptor_at=1, descriptor_size=20).put(SECTOR, descriptor)
    for name_, at in (("rgd", redundant), ("gd", main)):
        tables = at + directory_sectors
        image.places |= {name_: at * SECTOR, name_.replace("d", "t"): tables * SECTOR}
        image.put(at * SECTOR, padded(words(tables + n * table_sectors for n in range(count))))
        for number in range(count):
            part = words(table[number * entries : (number + 1) * entries])
            image.put((tables + number * table_sectors) * SECTOR, padded(part))
    image.data += b"".join(stored)
    image.places["grains"] = first * SECTOR
    return image


def stream(
    data: bytes, *, grain: int = 128, version: int = 3, footer: bool = True, level: int = 6
) -> Image:
    """A stream-optimized disk as VMware's tools write it: markers, tables behind their grains."""
    capacity, size = len(data) // SECTOR, grain * SECTOR
    described = text("streamOptimized", [f'RDONLY {capacity} SPARSE "out.vmdk"'])
    top: dict[str, object] = {"version": version, "flags": 0x30001, "capacity": capacity}
    top |= {"grain": grain, "descriptor_at": 1, "descriptor_size": 127, "algorithm": 1}
    image = Image(bytearray(128 * SECTOR))
    image.put(0, header(**top, gd=(1 << 64) - 1)).put(SECTOR, described)
    directory: list[int] = []
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    for base in range(0, len(pieces), 512):
        table = []
        for number, piece in enumerate(pieces[base : base + 512], base):
            if not piece.strip(b"\0"):
                table.append(0)
                continue
            table.append(len(image.data) // SECTOR)
            image.places[f"grain {number}"] = len(image.data)
            packed = zlib.compress(piece, level)
            image.data += padded(struct.pack("<QI", number * grain, len(packed)) + packed)
        if any(table):
            image.data += marker(4, 1)
            directory.append(len(image.data) // SECTOR)
            image.places[f"gt {base // 512}"] = len(image.data)
            image.data += padded(words(table), 2048)
        else:
            directory.append(0)
    image.data += marker(-(-len(directory) * 4 // SECTOR), 2)
    at = len(image.data) // SECTOR
    image.places["gd"] = at * SECTOR
    image.data += padded(words(directory))
    if footer:
        image.data += marker(1, 3)
        image.places["footer"] = len(image.data)
        image.data += header(**top, gd=at) + bytes(SECTOR)
    else:
        image.set_header(gd=at)
    return image


def marker(value: int, kind: int) -> bytes:
    return padded(struct.pack("<QII", value, 0, kind))


def cowd(data: bytes, *, grain: int = 1, flags: int = 3, holes: Collection[int] = ()) -> Image:
    """An ESX Server sparse extent of ``data``, all-zero grains left out."""
    capacity = len(data) // SECTOR
    pieces = grains_of(data, grain * SECTOR)
    count = max(1, -(-len(pieces) // 4096))
    directory_sectors = -(-count * 4 // SECTOR)
    image = Image(bytearray(2048 + directory_sectors * SECTOR))
    image.places = {"gd": 2048}
    next_sector = 4 + directory_sectors
    for number in range(count):
        part = pieces[number * 4096 : (number + 1) * 4096]
        used = [
            bool(any(piece)) and number * 4096 + index not in holes
            for index, piece in enumerate(part)
        ]
        if not any(used):
            continue
        image.set_word("gd", number, next_sector)
        image.places[f"gt {number}"] = next_sector * SECTOR
        next_sector += 32
        table: list[int] = []
        stored: list[bytes] = []
        for piece, wanted in zip(part, used, strict=True):
            table.append(next_sector + len(stored) * grain if wanted else 0)
            stored += [piece] if wanted else []
        image.data += padded(words(table), 32 * SECTOR) + b"".join(stored)
        next_sector += len(stored) * grain
    values = (1, flags, capacity, grain, 4, count, next_sector)
    return image.put(0, struct.pack("<4s7I", b"COWD", *values))


def sesparse(data: bytes, states: Mapping[int, int] | None = None, *, first: int = 0) -> Image:
    """A seSparse extent of ``data``; grain n is ``states[n]``: 0 hole, 1 unmapped, 2 zero, 3 data.

    Grains without a state are data, or holes if they are zero. ``first`` is the number of the
    file's grain that comes first.
    """
    capacity = len(data) // SECTOR
    pieces = grains_of(data, 4096)
    count = max(1, -(-len(pieces) // 4096))
    places = {"volatile": 1, "gd": 16, "tables": 24, "grains": 24 + count * 64}
    image = Image(bytearray(places["grains"] * SECTOR + first * 4096))
    image.places = {name: at * SECTOR for name, at in places.items()}
    stored: list[bytes] = []
    for table in range(-(-len(pieces) // 4096)):
        image.put(image.places["gd"] + table * 8, u64(1 << 60 | table))
    for number, piece in enumerate(pieces):
        state = (states or {}).get(number, 3 if any(piece) else 0)
        entry = state << 60
        if state == 3:
            index = first + len(stored)
            entry |= (index & 0xFFF) << 48 | index >> 12
            stored.append(piece)
        image.put(image.places["tables"] + number * 8, u64(entry))
    image.data += b"".join(stored)
    fields = [0xCAFEBABE, 0x2_0000_0001, capacity, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 2, 4, 4]
    fields += [16, 8, 24, count * 64, 0, 0, 0, 0, places["grains"], (first + len(stored)) * 8]
    image.put(0, struct.pack("<26Q", *fields))
    return image.put(SECTOR, struct.pack("<4Q", 0xCAFECAFE, count, 1, 0))


def described(folder: Path, kind: str, image: Image, sectors: int, **more: str) -> Path:
    """``image`` as the one extent of a disk whose descriptor is a file of its own."""
    types = {"SPARSE": "twoGbMaxExtentSparse", "VMFSSPARSE": "vmfsSparse", "SESPARSE": "seSparse"}
    path = folder / "disk.vmdk"
    image.save(folder / "disk-data.vmdk")
    path.write_bytes(text(types[kind], [f'RW {sectors} {kind} "disk-data.vmdk"'], **more))
    return path


def open_vmdk(path: str | os.PathLike[str], **options: object) -> VmdkReader:
    """A reader of the image, ``options`` those of :class:`OpenOptions`."""
    return VmdkReader(ByteSource.open(path), OpenOptions(**options))  # type: ignore[arg-type]


def to_vmdk(qemu_img: QemuImg, raw: Path, options: str, name: str = "disk.vmdk") -> Path:
    """``raw`` as a VMDK beside it, by qemu-img."""
    image = raw.with_name(name)
    qemu_img.run("convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, image)
    return image


def contents(path: str | os.PathLike[str], **options: object) -> bytes:
    """The whole disk of an image."""
    reader = open_vmdk(path, **options)
    try:
        return reader.read(0, reader.virtual_size)
    finally:
        reader.close()


def read_like(reader: VmdkReader, want: bytes) -> None:
    """The reader's disk is ``want``, read whole, in pieces, and by its extents."""
    assert reader.virtual_size == len(want)
    assert reader.read(0, len(want)) == want
    position, previous = 0, None
    for extent in reader.extents():
        assert (extent.offset, extent.kind is previous) == (position, False)
        if extent.kind is not Kind.DATA:
            assert want.count(0, extent.offset, extent.end) == extent.length
        position, previous = extent.end, extent.kind
    assert position == len(want)
    rng = random.Random(7)
    for _ in range(30):
        start = rng.randrange(len(want))
        length = min(rng.choice((1, 511, 4096, 70_000, 300_000)), len(want) - start)
        assert reader.read(start, length) == want[start : start + length]
        assert sum(one.length for one in reader.extents(start, length)) == length
        assert sum(one.length for one in reader.map_runs(start, length)) == length
    reader.close()
    reader.close()


def facts_of_qemu(qemu_img: QemuImg, image: Path) -> dict[str, Any]:
    found: dict[str, Any] = qemu_img.json("info", "-f", "vmdk", image)
    for name in ("children", "full-backing-filename", "actual-size"):
        found.pop(name, None)
    return found


def damage(image: Image, folder: Path) -> DamagedError:
    """The error that reading all of the image ends in."""
    path = image.save(folder / "disk.vmdk")
    with pytest.raises(DamagedError) as caught:
        contents(path)
    assert str(caught.value).isprintable()
    return caught.value


def findings(path: Path) -> list[Finding]:
    return list(check(path, format="vmdk").findings)


def found(image: Image, folder: Path) -> list[str | None]:
    """The clauses of what a check finds."""
    return [one.clause for one in findings(image.save(folder / "disk.vmdk"))]
