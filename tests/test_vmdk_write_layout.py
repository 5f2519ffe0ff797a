"""The bytes of the VMDKs that vmpack writes, walked as VMware's document describes them."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import zlib
from array import array
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.disks import disk_bytes
from tests.support.qemu import image as node
from tests.support.qemu import qemu_io
from tests.support.tools import require_tool
from tests.test_vmdk_write import SUBFORMATS, TABLE, described, opened, sparse_raw
from vmpack import formats
from vmpack.content_seed import ContentSeed
from vmpack.errors import UnsupportedError
from vmpack.extent import Kind
from vmpack.formats.base import CreateOptions, ImageWriter
from vmpack.formats.vmdk.geometry import geometry
from vmpack.formats.vmdk.layout import GRAIN, MAX_SECTORS, SparseLayout
from vmpack.formats.vmdk.sparse_writer import data_runs, require_room
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.measure import measure

SECTOR = 512
ALL_ONES = (1 << 64) - 1
MIB = 2048
"""Sectors."""


class Header(NamedTuple):
    """VMware Virtual Disk Format 5.0, SparseExtentHeader."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    spare: int
    directory: int
    overhead: int
    unclean: int
    newlines: bytes
    algorithm: int

    @classmethod
    def at(cls, data: bytes, offset: int) -> Header:
        assert not any(data[offset + 79 : offset + 512])
        return cls(*struct.unpack_from("<4sIIQQQQIQQQB4sH", data, offset))


def words(data: bytes, sector: int, count: int) -> array[int]:
    return array("I", data[sector * SECTOR : sector * SECTOR + 4 * count])


def data_at(places: dict[int, bytes], size: int) -> bytes:
    data = bytearray(size)
    for offset, piece in places.items():
        data[offset : offset + len(piece)] = piece
    return bytes(data)


PLACES = {0: b"a" * 70_000, TABLE - 9: b"over the edge", 2 * TABLE + 5: b"z", 3 * TABLE: b"end"}
SIZE = 3 * TABLE + 1024


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_raw(tmp_path_factory.mktemp("raw") / "disk.raw", SIZE, PLACES)


def test_a_sparse_extent_part_by_part(raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-4, VMDK-WRITE-5
    image = tmp_path / "disk.vmdk"
    convert(raw, image)
    data = image.read_bytes()
    head = Header.at(data, 0)
    assert head[:9] == (b"KDMV", 1, 3, SIZE // SECTOR, 128, 1, 20, 512, 21)
    assert head[11:] == (0, b"\n \r\n", 0)
    assert (head.directory, head.overhead) == (21 + 1 + 16, 128)
    spare, used = words(data, head.spare, 4), words(data, head.directory, 4)
    assert list(spare) == [22, 26, 30, 34]
    assert list(used) == [39, 43, 47, 51]
    tables = [words(data, sector, 512) for sector in used]
    assert tables == [words(data, sector, 512) for sector in spare]
    found = {number: sector for number, sector in enumerate(sum(tables, array("I"))) if sector}
    assert list(found.items()) == [
        (0, 128),
        (1, 256),
        (511, 384),
        (512, 512),
        (1024, 640),
        (1536, 768),
    ]
    want = data_at(PLACES, 3 * TABLE + GRAIN)
    for number, sector in found.items():
        grain = data[sector * SECTOR : sector * SECTOR + GRAIN]
        assert grain == want[number * GRAIN : number * GRAIN + GRAIN]
    assert len(data) == (768 + 128) * SECTOR


def test_a_stream_part_by_part(raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-4, VMDK-WRITE-7
    image = tmp_path / "disk.vmdk"
    convert(raw, image, compressed=True)
    data = image.read_bytes()
    head = Header.at(data, 0)
    assert head[:9] == (b"KDMV", 3, 0x30001, SIZE // SECTOR, 128, 1, 20, 512, 0)
    assert head[9:] == (ALL_ONES, 128, 0, b"\n \r\n", 1)
    grains, tables, directory, position = walk(data, 128)
    want = data_at(PLACES, 3 * TABLE + GRAIN)
    assert sorted(grains) == [number * 128 for number in (0, 1, 511, 512, 1024, 1536)]
    for lba, (_, content) in grains.items():
        assert content == want[lba * SECTOR : lba * SECTOR + GRAIN]
    for number, entry in enumerate(directory[:4]):
        where = {number * 512 + slot: to for slot, to in enumerate(tables.pop(entry)) if to}
        assert where == {
            lba // 128: at for lba, (at, _) in grains.items() if lba // 128 // 512 == number
        }
    assert not tables
    assert not any(directory[4:])
    footer = Header.at(data, position - 2 * SECTOR)
    assert footer == head._replace(directory=footer.directory)
    assert position == len(data)


def walk(
    data: bytes, sector: int
) -> tuple[dict[int, tuple[int, bytes]], dict[int, array[int]], array[int], int]:
    """``(grains by LBA, tables by sector, directory, end)`` of a stream, front to back."""
    grains: dict[int, tuple[int, bytes]] = {}
    tables: dict[int, array[int]] = {}
    directory: array[int] = array("I")
    kinds: list[int] = []
    while True:
        at = sector * SECTOR
        value, size, kind = struct.unpack_from("<QII", data, at)
        if size:
            assert not kinds or kinds[-1] == 1
            assert not grains or value > max(grains)
            end = at + 12 + size
            grains[value] = (sector, zlib.decompress(data[at + 12 : end]))
            sector += -(-(12 + size) // SECTOR)
            assert not any(data[end : sector * SECTOR])
            continue
        assert not any(data[at + 16 : at + SECTOR])
        kinds.append(kind)
        if kind == 0:
            assert kinds == [*[1] * len(tables), 2, 3, 0]
            return grains, tables, directory, at + SECTOR
        if kind == 1:
            tables[sector + 1] = words(data, sector + 1, 512)
        elif kind == 2:
            directory = words(data, sector + 1, value * 128)
            assert Header.at(data, len(data) - 2 * SECTOR).directory == sector + 1
        sector += 1 + value


@pytest.mark.parametrize(
    ("adapter", "capacity", "want"),
    [
        ("ide", 1, (1, 16, 63)),
        ("ide", 14_336_000, (14_222, 16, 63)),
        ("ide", 1 << 30, (16_383, 16, 63)),
        ("lsilogic", 100 * MIB, (100, 64, 32)),
        ("lsilogic", 1023 * MIB, (1023, 64, 32)),
        ("buslogic", 1024 * MIB, (512, 128, 32)),
        ("buslogic", 2046 * MIB, (1023, 128, 32)),
        ("legacyESX", 2048 * MIB, (261, 255, 63)),
        ("lsilogic", 33_554_432, (2088, 255, 63)),
        ("lsilogic", 1 << 37, (65_535, 255, 63)),
    ],
)
def test_geometry(adapter: str, capacity: int, want: tuple[int, int, int]) -> None:
    """The second and the ninth are what VMware wrote into descriptors of that size."""
    # VMDK-WRITE-8
    assert geometry(adapter, capacity) == want


def emitted(writer: ImageWriter, fd: int, data: bytes, step: int) -> None:
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        if any(piece):
            if writer.seed is not None:
                writer.seed.add(ContentSeed.leaves(offset, piece))
            for job in writer.emit(writer.prepare(offset, piece)):
                os.pwrite(fd if job.fd is None else job.fd, job.data, job.offset)
    writer.finish()


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_same_bytes_whatever_the_batches(subformat: str, tmp_path: Path) -> None:
    # VMDK-WRITE-11
    data = disk_bytes(TABLE + 1_000_000, seed=8, block=65536)
    found = formats.get("vmdk").create
    assert found is not None
    outputs = set()
    for number, step in enumerate((65536, 3 * 65536, 1 << 30)):
        folder = tmp_path / str(number)
        folder.mkdir()
        files: dict[str, int] = {}

        def sibling(name: str, folder: Path = folder, files: dict[str, int] = files) -> int:
            files[name] = os.open(folder / name, os.O_RDWR | os.O_CREAT)
            return files[name]

        options = CreateOptions(
            len(data), {"subformat": subformat}, name="disk.vmdk", sibling=sibling
        )
        fd = sibling("disk.vmdk")
        emitted(found(fd, options), fd, data, step)
        outputs.add(tuple((folder / name).read_bytes() for name in sorted(files)))
        for one in files.values():
            os.close(one)
    assert len(outputs) == 1


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_same_bytes_for_any_number_of_workers(subformat: str, raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-11
    outputs = set()
    for workers in (1, 2, 5):
        folder = tmp_path / str(workers)
        folder.mkdir()
        values = {"subformat": subformat}
        convert(raw, folder / "disk.vmdk", options=values, workers=workers, verify=False)
        outputs.add(tuple(path.read_bytes() for path in sorted(folder.iterdir())))
    assert len(outputs) == 1


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_measure(subformat: str, raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-12
    values = {"subformat": subformat}
    want = convert(raw, tmp_path / "disk.vmdk", options=values, verify=False).size
    assert want is not None
    found = measure(raw, "vmdk", values)
    if subformat == "streamOptimized":
        assert want <= found["required"] <= found["fully-allocated"]
        noise = tmp_path / "noise.raw"
        noise.write_bytes(hashlib.shake_256(b"y").digest(1 << 20))
        large = convert(noise, tmp_path / "noise.vmdk", options=values, verify=False).size
        assert large == measure(noise, "vmdk", values)["required"]
    else:
        assert found["required"] == want
    empty = create(tmp_path / "empty.vmdk", SIZE, "vmdk", options=values)
    stem = empty.filename.removesuffix(".vmdk")
    total = sum(path.stat().st_size for path in tmp_path.glob(f"{Path(stem).name}*"))
    assert abs(measure(SIZE, "vmdk", values)["required"] - total) <= len("empty") * 2


def test_grains_that_do_not_compress_stay_within_the_bound(tmp_path: Path) -> None:
    # VMDK-WRITE-7
    raw = tmp_path / "noise.raw"
    raw.write_bytes(hashlib.shake_256(b"x").digest(1 << 18))
    for level in (1, 5, 12):
        out = tmp_path / f"{level}.vmdk"
        convert(raw, out, compressed=True, level=level)
        assert out.stat().st_size == (128 + 4 * 129 + 5 + 2 + 3) * SECTOR


def test_zero_grains_are_not_stored() -> None:
    # VMDK-WRITE-6
    for mask in range(32):
        data = b"".join(
            (bytes(GRAIN - 1) + b"x") if mask >> bit & 1 else bytes(GRAIN) for bit in range(5)
        )
        for tail in (b"", bytes(700), bytes(699) + b"y"):
            runs = data_runs(7 * GRAIN, data + tail)
            have = {
                first - 7 + number: bytes(view[number * GRAIN : (number + 1) * GRAIN])
                for first, view in runs
                for number in range(-(-len(view) // GRAIN))
            }
            want = {bit: bytes(GRAIN - 1) + b"x" for bit in range(5) if mask >> bit & 1}
            if any(tail):
                want[5] = tail
            assert have == want
            assert all(a[0] + len(a[1]) // GRAIN < b[0] for a, b in itertools.pairwise(runs))


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_eight_tebibytes_cost_what_their_data_costs(subformat: str, tmp_path: Path) -> None:
    # VMDK-WRITE-10
    size = (8 << 40) - (1 << 20)
    places = {1: b"a" * 70_000, (3 << 40) - 9: b"over an edge", size - 1: b"z"}
    raw = sparse_raw(tmp_path / "disk.raw", size, places)
    image = tmp_path / "disk.vmdk"
    convert(raw, image, options={"subformat": subformat})
    assert image.stat().st_size < 8 << 20
    assert image.stat().st_blocks * SECTOR < 2 << 20
    reader = opened(image)
    assert reader.virtual_size == size
    assert sum(one.kind is Kind.DATA for one in reader.extents()) == 3
    assert list(reader.check()) == []
    reader.close()
    require_tool("qemu-io")
    told = qemu_io(
        node(image, "vmdk"),
        "read -P 97 1 70000",
        f"read -P 122 {size - 1} 1",
        f"read -P 0 {5 << 40} 1M",
        f"read -P 0 {(3 << 40) + 3} 60000",
    )
    assert "failed" not in told
    assert told.count("read ") == 4


def test_two_tebibytes_have_all_their_tables(tmp_path: Path) -> None:
    # VMDK-WRITE-5, VMDK-WRITE-10
    image = tmp_path / "disk.vmdk"
    create(image, 2 << 40, "vmdk")
    layout = SparseLayout(MAX_SECTORS, descriptor=True)
    assert image.stat().st_size == layout.overhead * SECTOR
    assert image.stat().st_blocks * SECTOR < 1 << 20
    assert described(image).virtual_size == 2 << 40
    create(tmp_path / "more.vmdk", (2 << 40) + 512, "vmdk")
    assert (tmp_path / "more.vmdk").stat().st_size < 2 << 20
    reader = opened(image)
    assert [one.kind for one in reader.extents()] == [Kind.HOLE]
    reader.close()


def test_an_extent_ends_where_its_sector_numbers_do() -> None:
    # VMDK-WRITE-10
    require_room(MAX_SECTORS)
    with pytest.raises(UnsupportedError, match="at most 2 TiB"):
        require_room(MAX_SECTORS + 1)
