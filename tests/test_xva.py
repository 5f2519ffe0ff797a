"""XVA archives: read in place, refused where they are not whole. Clauses: specs/xva.md."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.disks import disk_bytes
from tests.support.xva import machine, members_of, ova_xml, tar, xva
from vmpack.containers import xva as container
from vmpack.containers.base import Member
from vmpack.errors import DamagedError, UnsafeError, UsageError, VmpackError
from vmpack.extent import Kind
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.hypervisors.xen.ova import virtual_sizes
from vmpack.ops.pack import pack
from vmpack.ops.unpack import unpack
from vmpack.source import ByteSource

MIB = 1 << 20
HOLES = disk_bytes(2 * MIB, seed=1) + bytes(3 * MIB) + disk_bytes(MIB, seed=2) + bytes(512)
DISKS = {"Ref:3": HOLES, "Ref:7": disk_bytes(MIB + 4096, seed=3)}


@contextmanager
def opened(path: Path, data: bytes) -> Iterator[dict[str, Member]]:
    path.write_bytes(data)
    with ByteSource.open(path) as source:
        yield container.members(source, virtual_sizes)


def disk(members: dict[str, Member], name: str, options: OpenOptions | None = None) -> ImageReader:
    found = members[name].disk
    assert found is not None
    return found(options or OpenOptions())


@pytest.mark.parametrize("sums", ["xxhash", "checksum", ""])
@pytest.mark.parametrize("keep_alive", [-1, 1, 4])
def test_every_disk_reads_as_it_was(tmp_path: Path, sums: str, keep_alive: int) -> None:
    """XVA-READ-3: numbers count pieces and are no offsets; an empty one stands for nothing."""
    rng = random.Random(1)
    data = xva(DISKS, sums=sums, keep_alive=keep_alive)
    with opened(tmp_path / "a.xva", data) as members:
        for name, content in DISKS.items():
            reader = disk(members, name)
            assert reader.virtual_size == members[name].size == len(content)
            assert reader.read(0, len(content)) == content
            for _ in range(40):
                start = rng.randrange(len(content))
                length = rng.randrange(len(content) - start + 1)
                assert reader.read(start, length) == content[start : start + length]
            assert not list(reader.check())
            for extent in reader.extents():
                if extent.kind is not Kind.DATA:
                    assert not any(content[extent.offset : extent.offset + extent.length])
            reader.close()


def test_zeros_at_the_end_are_there(tmp_path: Path) -> None:
    """XVA-READ-4: ova.xml says how large a disk is."""
    content = disk_bytes(MIB, seed=5)
    config = ova_xml(machine({"Ref:1": 4 * MIB}))
    data = tar([("ova.xml", config), *members_of("Ref:1", content, sums="xxhash")])
    with opened(tmp_path / "a.xva", data) as members:
        assert disk(members, "Ref:1").read(0, 4 * MIB) == content + bytes(3 * MIB)


@pytest.mark.parametrize("sums", ["xxhash", "checksum"])
def test_a_flipped_bit_is_found(tmp_path: Path, sums: str) -> None:
    """XVA-READ-5."""
    data = bytearray(xva({"Ref:1": disk_bytes(2 * MIB, seed=6)}, sums=sums))
    data[data.index(b"Ref:1/00000001") + 512 + 77] ^= 1
    with opened(tmp_path / "a.xva", bytes(data)) as members:
        reader = disk(members, "Ref:1")
        reader.read(0, MIB)
        with pytest.raises(DamagedError, match="checksum"):
            reader.read(0, 2 * MIB)
        with pytest.raises(DamagedError, match="checksum"):
            list(reader.check())


@pytest.mark.parametrize("compress", [False, True])
def test_there_and_unpacked(tmp_path: Path, compress: bool) -> None:
    """XVA-READ-6: the machine and its disks, in place or spooled once."""
    data = xva(DISKS)
    path = tmp_path / ("a.xva.gz" if compress else "a.xva")
    path.write_bytes(gzip.compress(data, 1, mtime=0) if compress else data)
    result = pack([path], tmp_path / "a.vmpack")
    assert [one["id"] for one in result.disks] == ["disk-0", "disk-1"]
    unpack(tmp_path / "a.vmpack", tmp_path / "out", to="raw")
    assert (tmp_path / "out" / "disk-0.raw").read_bytes() == HOLES


def test_xva_img_and_vmpack_agree(tmp_path: Path) -> None:
    """XVA-READ-7: an archive that Debian's xva-img packed, and its export of one."""
    program = tools.require_tool("xva-img")
    content = disk_bytes(3 * MIB, seed=8)
    (tmp_path / "disk.raw").write_bytes(content)
    (tmp_path / "ova.xml").write_bytes(ova_xml(machine({"Ref:4": len(content)})))
    (tmp_path / "Ref:4").mkdir()
    tools.run([program, "disk-import", "Ref:4", "disk.raw"], cwd=tmp_path)
    tools.run([program, "package", "a.xva", "./ova.xml", "./Ref:4/"], cwd=tmp_path)
    with opened(tmp_path / "b.xva", (tmp_path / "a.xva").read_bytes()) as members:
        reader = disk(members, "Ref:4")
        assert reader.read(0, len(content)) == content
        assert not list(reader.check())
    (tmp_path / "Ref:5").mkdir()
    for name, data in members_of("Ref:5", content, sums="checksum"):
        (tmp_path / name).write_bytes(data)
    tools.run([program, "disk-export", "Ref:5", "again.raw"], cwd=tmp_path)
    assert (tmp_path / "again.raw").read_bytes() == content


CONFIG = ("ova.xml", ova_xml(machine({"Ref:1": MIB})))
PIECE = ("Ref:1/00000000", bytes(MIB))


@pytest.mark.parametrize(
    ("members", "error", "clause"),
    [
        ([CONFIG, CONFIG], UnsafeError, "XVA-READ-2"),
        ([CONFIG, ("other", b"")], DamagedError, "XVA-READ-2"),
        ([CONFIG, ("../x", b"")], UnsafeError, "XVA-READ-1"),
        ([CONFIG, PIECE, PIECE], DamagedError, "XVA-READ-3"),
        ([CONFIG, ("Ref:1/00000000", bytes(MIB + 1))], DamagedError, "XVA-READ-3"),
        ([CONFIG, ("Ref:1/00000001", bytes(MIB))], DamagedError, "XVA-READ-4"),
        ([CONFIG, ("Ref:2/99999999", bytes(MIB))], DamagedError, "XVA-READ-4"),
        ([CONFIG, ("Ref:1/00000000.checksum", bytes(40))], DamagedError, "XVA-READ-5"),
        ([CONFIG, PIECE, ("Ref:1/00000000.xxhash", bytes(40))], DamagedError, "XVA-READ-5"),
    ],
)
def test_broken_archives(
    tmp_path: Path, members: list[tuple[str, bytes]], error: type[VmpackError], clause: str
) -> None:
    # hostile: 40
    with pytest.raises(error) as caught, opened(tmp_path / "a.xva", tar(members)):
        pass
    assert caught.value.clause == clause


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def test_every_byte_of_a_header(tmp_path: Path) -> None:
    data = tar([CONFIG, PIECE])
    for at in range(0, 512, 3):
        with suppress(VmpackError), opened(tmp_path / "a.xva", flipped(at)(data)):
            pass
    for end in range(0, len(data), 40_000):
        with suppress(VmpackError), opened(tmp_path / "a.xva", data[:end]):
            pass


def test_options_of_other_formats(tmp_path: Path) -> None:
    # hostile: 8
    with opened(tmp_path / "a.xva", tar([CONFIG, PIECE])) as members:
        with pytest.raises(UsageError, match="no snapshots"):
            disk(members, "Ref:1", OpenOptions(snapshot="a"))
        with pytest.raises(UnsafeError, match="are allowed"):
            disk(members, "Ref:1", OpenOptions(max_size=4096))
