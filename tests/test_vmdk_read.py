"""The VMDK reader against qemu-img and against built images, over every kind of extent."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.qemu import QemuImg
from tests.support.vmdk import (
    SUBFORMATS,
    cowd,
    described,
    facts_of_qemu,
    header,
    open_vmdk,
    read_like,
    sesparse,
    sparse,
    stream,
    text,
    to_vmdk,
    words,
)
from vmpack.errors import UsageError
from vmpack.extent import Kind
from vmpack.ops.check import check
from vmpack.ops.info import describe, info
from vmpack.ops.map import map_image
from vmpack.source import ByteSource

SIZES = (512, 65536, 66048, 3_000_320)
MiB = 1 << 20


@pytest.mark.qemu
@pytest.mark.parametrize("variant", SUBFORMATS)
def test_reads_what_qemu_img_wrote(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VMDK-MAP-2, VMDK-PART-4
    for size in SIZES:
        raw = tmp_path / f"{size}.raw"
        data = random_disk(raw, size, seed=size)
        image = to_vmdk(qemu_img, raw, SUBFORMATS[variant], f"{size}.vmdk")
        read_like(open_vmdk(image), data)
        assert check(image, format="vmdk").exit_code == 0


def sparse_disk(path: Path, size: int, offsets: tuple[int, ...]) -> dict[int, bytes]:
    """A raw disk with 70,000 bytes of noise at each offset (or up to its end)."""
    pieces = {}
    with path.open("wb") as out:
        out.truncate(size)
        for number, offset in enumerate(offsets):
            pieces[offset] = random.Random(number).randbytes(min(70_000, size - offset))
            out.seek(offset)
            out.write(pieces[offset])
    return pieces


@pytest.mark.qemu
@pytest.mark.parametrize("variant", SUBFORMATS)
def test_boundaries_of_tables_and_extents(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    edge = (2 << 30) - 65536
    places = (0, 32 * MiB - 35_000, 64 * MiB, edge - 35_000, 2 * edge - 1000, 4 << 30)
    size = (4 << 30) + 66_048
    pieces = sparse_disk(raw, size, places)
    image = to_vmdk(qemu_img, raw, SUBFORMATS[variant])
    reader = open_vmdk(image)
    assert reader.virtual_size == size
    for offset, data in pieces.items():
        start = max(0, offset - 1000)
        end = min(size, offset + len(data) + 1000)
        before, after = bytes(offset - start), bytes(end - offset - len(data))
        assert reader.read(start, end - start) == before + data + after
    stored = sum(one.length for one in reader.extents() if one.kind is Kind.DATA)
    assert sum(map(len, pieces.values())) <= stored < 12 * 131_072
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("variant", SUBFORMATS)
def test_map_agrees_with_qemu_img(variant: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    write_sparse(raw, two_tables(11))
    image = to_vmdk(each_qemu_img, raw, SUBFORMATS[variant])
    keys = ("start", "length", "zero", "data")
    theirs = [[row[key] for key in keys] for row in each_qemu_img.json("map", "-f", "vmdk", image)]
    ours = [[row[key] for key in keys] for row in map_image(image, format="vmdk")]
    assert joined(ours) == joined(theirs)


def two_tables(seed: int) -> bytes:
    """A disk that needs two grain tables and holds little."""
    start = disk_bytes(MiB, seed=seed, block=65536)
    return start + bytes(32 * MiB - 65536) + disk_bytes(131_584, seed=seed + 1, block=512)


def joined(rows: list[list[Any]]) -> list[list[Any]]:
    out: list[list[Any]] = []
    for start, length, *state in rows:
        if out and out[-1][2:] == state:
            out[-1][1] += length
        else:
            out.append([start, length, *state])
    return out


@pytest.mark.qemu
@pytest.mark.parametrize("variant", SUBFORMATS)
def test_info_is_qemu_imgs(variant: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 3 * MiB, seed=12)
    image = to_vmdk(each_qemu_img, raw, SUBFORMATS[variant])
    reader = open_vmdk(image)
    ours = describe(reader)
    reader.close()
    del ours["actual-size"]
    theirs = facts_of_qemu(each_qemu_img, image)
    assert ours == theirs
    # Without the extents' own headers: all that the descriptor says.
    brief = info(image, format="vmdk").as_dict()
    for name in ("virtual-size", "format", "dirty-flag"):
        assert brief[name] == theirs[name]
    mine, other = brief["format-specific"], theirs["format-specific"]
    assert isinstance(mine, dict)
    for one in other["data"]["extents"] if "split" in variant else ():
        one.pop("cluster-size", None)
    assert mine == other


@pytest.mark.qemu
def test_reads_of_many_threads_agree(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 9 * MiB, seed=4)
    for variant in ("sparse", "stream"):
        reader = open_vmdk(to_vmdk(qemu_img, raw, SUBFORMATS[variant], f"{variant}.vmdk"))
        pieces = [(at, min(434_567, len(data) - at)) for at in range(0, len(data), 434_567)]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(reader.read, *zip(*pieces, strict=True)))
        assert b"".join(got) == data
        reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("grain", [8, 16, 128, 4096])
@pytest.mark.parametrize("size", [512, 4096 * 600 + 512, 3_000_320])
def test_built_sparse_extent(grain: int, size: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VMDK-SPARSE-1, VMDK-MAP-1, VMDK-MAP-2
    data = disk_bytes(size, seed=grain, block=512)
    image = sparse(data, grain=grain).save(tmp_path / "disk.vmdk")
    read_like(open_vmdk(image), data)
    assert check(image, format="vmdk").exit_code == 0
    raw = write_sparse(tmp_path / "disk.raw", data)
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


@pytest.mark.qemu
@pytest.mark.parametrize("entries", [1, 100, 512])
def test_tables_of_fewer_entries(entries: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VMDK-SPARSE-4
    data = disk_bytes(700_416, seed=entries)
    image = sparse(data, entries=entries, flags=1).save(tmp_path / "disk.vmdk")
    read_like(open_vmdk(image), data)
    raw = write_sparse(tmp_path / "disk.raw", data)
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


@pytest.mark.qemu
def test_zeroed_grains(tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VMDK-MAP-2
    data = disk_bytes(200_704, seed=1, block=512)
    zeros = {1, 2, 3, 17}
    want = b"".join(
        bytes(4096) if at // 4096 in zeros else data[at : at + 4096]
        for at in range(0, len(data), 4096)
    )
    image = sparse(data, version=2, flags=7, zeros=zeros).save(tmp_path / "disk.vmdk")
    reader = open_vmdk(image)
    kinds = {one.offset: one.kind for one in reader.extents()}
    assert kinds[4096] is Kind.ZERO
    read_like(reader, want)
    assert check(image, format="vmdk").exit_code == 0
    raw = write_sparse(tmp_path / "disk.raw", want)
    each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "footer"), [(1, True), (2, True), (3, True), (1, False), (3, False)]
)
def test_built_stream(version: int, footer: bool, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VMDK-STREAM-1, VMDK-STREAM-2, VMDK-STREAM-4, VMDK-CHECK-2
    for data in (disk_bytes(65536 * 3 + 512, seed=version), two_tables(version)):
        image = stream(data, version=version, footer=footer).save(tmp_path / "disk.vmdk")
        read_like(open_vmdk(image), data)
        assert check(image, format="vmdk", full=True).exit_code == 0
    raw = write_sparse(tmp_path / "disk.raw", data)
    each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


def test_incompressible_grains_are_longer_than_a_grain(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(65536 * 4)
    image = stream(data, level=0)
    assert image.places["grain 1"] - image.places["grain 0"] > 65536
    read_like(open_vmdk(image.save(tmp_path / "disk.vmdk")), data)


@pytest.mark.qemu
@pytest.mark.parametrize("grain", [1, 2, 128])
@pytest.mark.parametrize("size", [512, 2 * MiB + 512, 5_000_192])
def test_copy_on_write_extent(grain: int, size: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VMDK-COWD-1, VMDK-COWD-2
    data = disk_bytes(size, seed=grain, block=512)
    image = described(tmp_path, "VMFSSPARSE", cowd(data, grain=grain), size // 512)
    read_like(open_vmdk(image), data)
    read_like(open_vmdk(tmp_path / "disk-data.vmdk"), data)
    for one in (image, tmp_path / "disk-data.vmdk"):
        assert check(one, format="vmdk").exit_code == 0
    raw = write_sparse(tmp_path / "disk.raw", data)
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


@pytest.mark.qemu
@pytest.mark.parametrize("first", [0, 4090])
def test_sesparse_extent(first: int, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VMDK-SE-1, VMDK-SE-3, VMDK-SE-5
    size = 16 * MiB + 4096 * 3
    data = bytearray(size)
    data[:MiB] = disk_bytes(MiB, seed=9)
    data[-MiB:] = disk_bytes(MiB, seed=10)
    states = {5: 1, 6: 2, 7: 0, 8: 2, 4096: 1}
    for number in states:
        data[number * 4096 : (number + 1) * 4096] = bytes(4096)
    built = sesparse(bytes(data), states, first=first)
    image = described(tmp_path, "SESPARSE", built, size // 512)
    reader = open_vmdk(image)
    assert {one.kind for one in reader.extents(5 * 4096, 8192)} == {Kind.ZERO}
    read_like(reader, bytes(data))
    read_like(open_vmdk(tmp_path / "disk-data.vmdk"), bytes(data))
    assert check(image, format="vmdk").exit_code == 0
    raw = write_sparse(tmp_path / "disk.raw", bytes(data))
    # QEMU opens such a disk for reading only, which is how compare opens both.
    each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")


def test_extents_of_every_kind_in_one_disk(tmp_path: Path) -> None:
    # VMDK-PART-4, VMDK-DESC-7, VMDK-DESC-8
    data = disk_bytes(5 * 65536, seed=21, block=512)
    parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    (tmp_path / "a.bin").write_bytes(bytes(512) + parts[0] + parts[4])
    sparse(parts[1], descriptor=b"").save(tmp_path / "b.vmdk")
    cowd(parts[2]).save(tmp_path / "c.vmdk")
    sesparse(parts[3]).save(tmp_path / "d.vmdk")
    lines = ['RW 128 FLAT "a.bin" 1', 'RDONLY 128 SPARSE "b.vmdk"', "RW 128 ZERO"]
    lines += ['RW 128 VMFSSPARSE "c.vmdk"', 'RW 128 SESPARSE "d.vmdk"', 'RW 128 FLAT "a.bin" 129']
    image = tmp_path / "disk.vmdk"
    image.write_bytes(text("monolithicFlat", lines))
    want = b"".join((parts[0], parts[1], bytes(65536), *parts[2:5]))
    reader = open_vmdk(image)
    zero = list(reader.extents(2 * 65536, 65536))
    assert [one.kind for one in zero] == [Kind.ZERO]
    assert len(reader.part_sources) == 5
    read_like(reader, want)
    rows = map_image(image, format="vmdk")
    at = next(row for row in rows if row["data"])
    assert at["offset"] == 512 + int(str(at["start"]))


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["vmfs", "vmfsThin", "vmfsPreallocated", "vmfsEagerZeroedThick"])
def test_disks_of_esx(kind: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    data = disk_bytes(300_032, seed=2)
    write_sparse(tmp_path / "guest-flat.vmdk", data)
    image = tmp_path / "guest.vmdk"
    image.write_bytes(text(kind, ['RW 586 VMFS "guest-flat.vmdk"']))
    read_like(open_vmdk(image), data)
    if kind == "vmfs":
        qemu_img.assert_identical(tmp_path / "guest-flat.vmdk", image, fmt_a="raw", fmt_b="vmdk")


def test_extents_that_the_caller_has_open(tmp_path: Path) -> None:
    """Members of an archive take the place of files beside the descriptor."""
    data = disk_bytes(65536, seed=2)
    (tmp_path / "archive").write_bytes(bytes(1000) + data)
    image = tmp_path / "guest.vmdk"
    image.write_bytes(text("monolithicFlat", ['RW 128 FLAT "guest-flat.vmdk" 0']))
    with ByteSource.open(tmp_path / "archive") as archive:
        given = {"guest-flat.vmdk": archive.slice(1000, 65536)}
        read_like(open_vmdk(image, given=given), data)
        assert archive.pread(1000, 512) == data[:512]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["UTF-8", "windows-1252", "GBK", "Shift_JIS"])
def test_descriptor_texts(newline: str, encoding: str, tmp_path: Path) -> None:
    # VMDK-DESC-3, VMDK-DESC-4
    name = {"UTF-8": "disk ü № 1", "windows-1252": "Gerät", "GBK": "磁盘", "Shift_JIS": "表ソ"}
    flat = f"{name[encoding]}-flat.vmdk"
    data = disk_bytes(65536, seed=1)
    (tmp_path / flat).write_bytes(data)
    body = text(
        "monolithicFlat",
        ["  # a comment", "", f'\tRW  128 FLAT  "{flat}" 0 '],
        more=f'encoding="{encoding}"\nisNativeSnapshot="no"\nchangeTrackPath="x-ctk.vmdk"',
        newline=newline,
    )
    image = tmp_path / "disk.vmdk"
    codec = {"windows-1252": "cp1252"}.get(encoding, encoding)
    image.write_bytes(body.decode().encode(codec) + b"\0" * 100)
    read_like(open_vmdk(image), data)
    assert open_vmdk(image).descriptor.ddb["adapterType"] == "lsilogic"  # type: ignore[union-attr]


def test_large_and_nearly_empty(tmp_path: Path) -> None:
    """8 TiB with all tables in place, all but one in a hole of the file: read in no time."""
    # VMDK-MAP-5
    size = 8 << 40
    tables = size // (32 * MiB)
    image = tmp_path / "disk.vmdk"
    first = 21 + tables * 4 // 512
    described_ = text("monolithicSparse", [f'RW {size // 512} SPARSE "disk.vmdk"'])
    end = first + tables * 4
    with image.open("wb") as out:
        out.write(header(capacity=size // 512, gd=21, descriptor_at=1, descriptor_size=20))
        out.write(described_)
        out.seek(21 * 512)
        out.write(words(first + number * 4 for number in range(tables)))
        out.seek((first + (tables - 1) * 4) * 512 + 2044)
        out.write(words([end]))
        out.seek(end * 512)
        out.write(b"\x5a" * 65536)
    reader = open_vmdk(image)
    found = list(reader.extents())
    assert [(one.offset, one.kind) for one in found] == [
        (0, Kind.HOLE),
        (size - 65536, Kind.DATA),
    ]
    assert reader.read(size - 512, 512) == b"\x5a" * 512
    assert image.stat().st_blocks * 512 < 4 * MiB
    assert list(reader.check()) == []
    reader.close()


def test_no_snapshots_inside(tmp_path: Path) -> None:
    image = sparse(bytes(512)).save(tmp_path / "disk.vmdk")
    with pytest.raises(UsageError, match="no snapshots inside"):
        open_vmdk(image, snapshot="1")
