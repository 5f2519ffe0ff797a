"""VMA archives: read in place, and refused where they are not whole. Clauses: specs/vma.md."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from tests.support.disks import disk_bytes
from tests.support.spec_tables import byte_tables, clauses, struct_rows
from tests.support.vma import CLUSTER, UUID, Vma, extents, signed, signed_extent
from vmpack.containers import vma
from vmpack.containers.base import Member
from vmpack.containers.vma import structs
from vmpack.containers.vma.device import DeviceReader
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.extent import Kind
from vmpack.formats.base import OpenOptions
from vmpack.ops.containers import open_container
from vmpack.source import ByteSource

MIB = 1 << 20
DEVICES = {
    "drive-scsi0": disk_bytes(3 * MIB, seed=1),
    "drive-virtio1": disk_bytes(CLUSTER * 5 + 4096 * 3, seed=2),
    "drive-efidisk0": disk_bytes(540672, seed=3),
    "drive-empty": bytes(34 * MIB),
}
CONFIGS = {"qemu-server.conf": b"cores: 2\n", "qemu-server.fw": b""}
SMALL = {"drive-scsi0": disk_bytes(3 * CLUSTER, seed=4)}


@contextmanager
def opened(path: Path, data: bytes) -> Iterator[tuple[ByteSource, dict[str, Member]]]:
    path.write_bytes(data)
    source = ByteSource.open(path)
    try:
        yield source, vma.members(source)
    finally:
        source.close()


def disk(members: dict[str, Member], name: str, options: OpenOptions | None = None) -> DeviceReader:
    open_disk = members[name].disk
    assert open_disk is not None
    found = open_disk(options or OpenOptions())
    assert isinstance(found, DeviceReader)
    return found


@pytest.mark.parametrize("shuffle", [None, 1, 2])
def test_every_device_reads_as_it_was(tmp_path: Path, shuffle: int | None) -> None:
    """VMA-READ-3, VMA-READ-4: clusters in any order, of several devices, any range."""
    rng = random.Random(shuffle)
    with opened(tmp_path / "a.vma", Vma(CONFIGS, DEVICES, shuffle=shuffle).build()) as (_, members):
        for name, content in DEVICES.items():
            reader = disk(members, name)
            assert reader.virtual_size == len(content) == members[name].size
            assert reader.read(0, len(content)) == content
            for _ in range(40):
                start = rng.randrange(len(content))
                length = rng.randrange(min(len(content) - start, 300_000) + 1)
                assert reader.read(start, length) == content[start : start + length]
            position = 0
            for extent in reader.extents():
                assert extent.offset == position
                position += extent.length
                if extent.kind is not Kind.DATA:
                    assert not any(content[extent.offset : position])
            assert position == len(content)
            assert not list(reader.check())
            assert reader.info().virtual_size == len(content)
            reader.close()


def test_configs_are_slices_of_the_header(tmp_path: Path) -> None:
    """VMA-READ-1."""
    with opened(tmp_path / "a.vma", Vma(CONFIGS, DEVICES).build()) as (source, members):
        for name, content in CONFIGS.items():
            one = members[name]
            assert one.disk is None
            assert source.pread(one.offset, one.size) == content
        assert list(members) == [*CONFIGS, *DEVICES]


def test_map_names_the_place_in_the_file(tmp_path: Path) -> None:
    with opened(tmp_path / "a.vma", Vma(CONFIGS, DEVICES).build()) as (source, members):
        reader = disk(members, "drive-scsi0")
        runs = list(reader.map_runs(0, reader.virtual_size))
        assert sum(run.length for run in runs) == reader.virtual_size
        for run in runs:
            if run.data:
                assert run.host is not None
                there = source.pread(run.host, run.length)
                assert there == DEVICES["drive-scsi0"][run.offset : run.offset + run.length]


def test_zeros_of_a_large_disk_cost_nothing(tmp_path: Path) -> None:
    """VMA-READ-4: a terabyte of zeros is a bit for each cluster."""
    size = 1 << 34
    body = [struct.pack(">4sHH16s16x", b"VMAE", 0, 0, UUID)]
    count = size // CLUSTER
    parts = [Vma({}, {"drive-a": b""}, sizes={"drive-a": size}).header()]
    for start in range(0, count, 59):
        infos = [1 << 32 | number for number in range(start, min(start + 59, count))]
        infos += [0] * (59 - len(infos))
        parts.append(signed_extent(body[0] + struct.pack(">59Q", *infos)))
    with opened(tmp_path / "a.vma", b"".join(parts)) as (_, members):
        reader = disk(members, "drive-a")
        assert not reader._map.pages
        assert [one.kind for one in reader.extents()] == [Kind.ZERO]
        assert reader.read(size - 8192, 8192) == bytes(8192)


def test_vmstate_is_no_disk(tmp_path: Path) -> None:
    """VMA-READ-6: its clusters may be more than its size says."""
    made = Vma({}, {"vmstate": disk_bytes(CLUSTER * 3, seed=9)} | SMALL, sizes={"vmstate": 1 << 45})
    with opened(tmp_path / "a.vma", made.build()) as (_, members):
        assert list(members) == list(SMALL)
        assert disk(members, "drive-scsi0").read(0, 3 * CLUSTER) == SMALL["drive-scsi0"]


def test_options_of_other_formats(tmp_path: Path) -> None:
    # hostile: 8
    with opened(tmp_path / "a.vma", Vma({}, SMALL).build()) as (_, members):
        with pytest.raises(UsageError, match="no snapshots"):
            disk(members, "drive-scsi0", OpenOptions(snapshot="a"))
        with pytest.raises(UnsafeError, match="are allowed"):
            disk(members, "drive-scsi0", OpenOptions(max_size=CLUSTER))


@pytest.mark.parametrize("missing", [(1, 0), (1, 2), (1, 1)])
def test_missing_cluster(tmp_path: Path, missing: tuple[int, int]) -> None:
    """VMA-READ-5: a backup that was cut at the end of an extent."""
    made = Vma({}, SMALL, leave_out=[missing])
    with (
        opened(tmp_path / "a.vma", made.build()) as (_, members),
        pytest.raises(DamagedError, match=f"cluster {missing[1]} of 'drive-scsi0' is missing"),
    ):
        disk(members, "drive-scsi0")


BLANK = bytes(CLUSTER)
BROKEN_EXTENTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "VMA-EXT-1": ("no extent", lambda head: head.replace(b"VMAE", b"VMAF", 1)),
    "VMA-EXT-2": ("another archive", lambda head: signed_extent(head[:8] + b"x" * 16 + head[24:])),
    "VMA-EXT-3": ("MD5", lambda head: head[:500] + bytes([head[500] ^ 1]) + head[501:]),
    "VMA-EXT-4": ("blocks", lambda head: signed_extent(head[:6] + b"\0\1" + head[8:])),
}


@pytest.mark.parametrize("clause", BROKEN_EXTENTS)
def test_broken_extent(tmp_path: Path, clause: str) -> None:
    # hostile: 10
    words, change = BROKEN_EXTENTS[clause]
    header = Vma({}, SMALL).header()
    body = b"".join(extents(Vma({}, SMALL).clusters()))
    with (
        opened(tmp_path / "a.vma", header + change(body)) as (_, members),
        pytest.raises(DamagedError, match=words) as caught,
    ):
        disk(members, "drive-scsi0")
    assert caught.value.clause == clause


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ((1, 3, BLANK), "lies outside it, or comes twice"),
        ((1, 0xFFFFFFFF, BLANK), "lies outside it"),
        ((1, 0, BLANK), "comes twice"),
        ((2, 0, BLANK), "device 2, which is none"),
    ],
)
def test_clusters_that_are_nobodys(
    tmp_path: Path, extra: tuple[int, int, bytes], words: str
) -> None:
    """VMA-EXT-5."""
    # hostile: 9
    with (
        opened(tmp_path / "a.vma", Vma({}, SMALL, extra=[extra]).build()) as (_, members),
        pytest.raises(DamagedError, match=words) as caught,
    ):
        disk(members, "drive-scsi0")
    assert caught.value.clause == "VMA-EXT-5"


def changed(data: bytes, offset: int, value: bytes) -> bytes:
    """The header with other bytes, and the right MD5."""
    return signed(data[:offset] + value + data[offset + len(value) :])


HEADERS: dict[str, tuple[str, Callable[[bytes], bytes], type[VmpackError]]] = {
    "VMA-HDR-1": ("no VMA header", lambda head: b"VMB" + head[3:], DamagedError),
    "VMA-HDR-2": ("version 2", lambda head: changed(head, 4, b"\0\0\0\2"), UnsupportedError),
    "VMA-HDR-3": ("MD5 is wrong", lambda head: head[:20] + b"x" + head[21:], DamagedError),
    "VMA-HDR-4": ("header of", lambda head: changed(head, 56, b"\x7f\0\0\0"), DamagedError),
    "VMA-HDR-5": ("no blob", lambda head: changed(head, 4096 + 32, b"\0\0\0\7"), DamagedError),
}


@pytest.mark.parametrize("clause", HEADERS)
def test_broken_header(tmp_path: Path, clause: str) -> None:
    # hostile: 7, 10
    words, change, error = HEADERS[clause]
    with (
        pytest.raises(error, match=words) as caught,
        opened(tmp_path / "a.vma", change(Vma(CONFIGS, SMALL).header())),
    ):
        pass
    assert caught.value.clause == clause


@pytest.mark.parametrize(
    ("offset", "value"), [(48, 0), (48, 12287), (48, 1 << 31), (52, 1 << 31), (56, 12288)]
)
def test_places_of_the_header(tmp_path: Path, offset: int, value: int) -> None:
    """VMA-HDR-4."""
    head = changed(Vma(CONFIGS, SMALL).header(), offset, value.to_bytes(4, "big"))
    with pytest.raises(DamagedError) as caught, opened(tmp_path / "a.vma", head):
        pass
    assert caught.value.clause == "VMA-HDR-4"


def test_a_name_without_its_zero(tmp_path: Path) -> None:
    """VMA-HDR-5."""
    data = Vma({}, SMALL, zero_names=False).build()
    with pytest.raises(DamagedError, match="zero byte"), opened(tmp_path / "a.vma", data):
        pass


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "", "a\\b", "C:x"])
def test_names_lead_nowhere(tmp_path: Path, name: str) -> None:
    """VMA-READ-1."""
    # hostile: 40
    with pytest.raises(UnsafeError), opened(tmp_path / "a", Vma({name: b"x"}, SMALL).build()):
        pass


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    # hostile: 40
    data = Vma({"drive-scsi0": b"x"}, SMALL).build()
    with pytest.raises(UnsafeError, match="comes twice"), opened(tmp_path / "a.vma", data):
        pass


def test_a_device_that_the_file_cannot_hold(tmp_path: Path) -> None:
    """VMA-READ-2: nothing is allocated for what a header only says."""
    # hostile: 7
    data = Vma({}, SMALL, sizes={"drive-scsi0": 1 << 62}).build()
    with pytest.raises(DamagedError, match="fit into the file"), opened(tmp_path / "a.vma", data):
        pass


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    # hostile: 10
    data = Vma(CONFIGS, SMALL).build()
    for end in [*range(0, 14000, 611), *range(14000, len(data), 4099), len(data) - 1]:
        with (
            pytest.raises(DamagedError),
            opened(tmp_path / "a.vma", data[:end]) as (_, members),
        ):
            disk(members, "drive-scsi0")


def test_flipped_bytes_give_errors_or_the_disk(tmp_path: Path) -> None:
    """Blocks have no digest in a VMA; every other byte is under one, or changes nothing."""
    # hostile: 10
    data = Vma(CONFIGS, SMALL).build()
    rng = random.Random(5)
    for _ in range(200):
        at = rng.randrange(len(data))
        broken = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        try:
            with opened(tmp_path / "a.vma", broken) as (_, members):
                found = disk(members, "drive-scsi0").read(0, 3 * CLUSTER)
        except VmpackError:
            continue
        differ = int.from_bytes(found) ^ int.from_bytes(SMALL["drive-scsi0"])
        assert differ.bit_count() <= 1


@pytest.mark.parametrize("suffix", ["vma", "vma.zst", "vma.gz"])
def test_compressed_archives_are_spooled(tmp_path: Path, suffix: str) -> None:
    """VMA-READ-7."""
    data = Vma(CONFIGS, DEVICES).build()
    pack: Callable[[bytes], bytes] = {
        "vma": bytes,
        "vma.zst": lambda data: zstandard.compress(data),
        "vma.gz": lambda data: gzip.compress(data, 1),
    }[suffix]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(pack(data))
    found = open_container(str(path), path.read_bytes()[:65536], None)
    assert found is not None
    source, members = found
    one = members["drive-scsi0"]
    assert one.disk is not None
    reader = one.disk(OpenOptions())
    assert reader.read(0, 3 * MIB) == DEVICES["drive-scsi0"]
    source.close()


def test_a_bomb_stops_at_max_size(tmp_path: Path) -> None:
    """VMA-READ-7."""
    # hostile: 7, 8, 45
    path = tmp_path / "a.vma.zst"
    path.write_bytes(zstandard.compress(Vma({}, SMALL).header() + bytes(64 * MIB)))
    with pytest.raises(UnsafeError, match="larger than the"):
        open_container(str(path), path.read_bytes()[:65536], 16 * MIB)


def test_what_is_compressed_and_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zstandard.compress(b"no archive" * 1000))
    assert open_container(str(path), path.read_bytes(), None) is None


def test_lzop_is_refused_by_name(tmp_path: Path) -> None:
    """VMA-READ-7."""
    with pytest.raises(UnsupportedError, match="lzop") as caught:
        open_container("a.vma.lzo", b"\x89LZO\0\r\n\x1a\n" + bytes(100), None)
    assert caught.value.hint == "decompress it first: lzop -d a.vma.lzo"


def test_the_page_says_what_the_structs_say() -> None:
    tables = byte_tables("vma.md")
    expected = [struct_rows(one) for one in (structs.HEADER, structs.DEVICE, structs.EXTENT)]
    assert tables == expected
    assert structs.HEADER.sizeof() == 12288
    assert structs.EXTENT.sizeof() == 512


def test_the_fast_parser_reads_what_the_struct_says() -> None:
    raw = extents([(1, 0, b"x" * CLUSTER), (2, 7, BLANK)])[0][:512]
    slow = structs.EXTENT.parse(raw)
    assert structs.parse_extent(raw) == (
        slow.uuid,
        slow.block_count,
        slow.md5,
        True,
        tuple(slow.clusters),
    )


def test_every_clause_is_tested() -> None:
    text = Path(__file__).read_text()
    assert {one for one in clauses("vma.md") if one not in text} == set()
