"""The VMDK reader against qemu-img and against built images, over every kind of extent."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vmdk import (
    SUBFORMATS,
    contents,
    cowd,
    described,
    header,
    open_vmdk,
    sesparse,
    sparse,
    stream,
    text,
    to_vmdk,
    words,
)
from vmpack.errors import UsageError
from vmpack.extent import Kind
from vmpack.formats.vmdk.reader import VmdkReader
from vmpack.ops.check import check
from vmpack.ops.info import describe, info
from vmpack.ops.map import map_image
from vmpack.source import ByteSource

SIZES = (512, 65536, 66048, 3_000_320)
MiB = 1 << 20


def read_like(reader: VmdkReader, want: bytes) -> None:
    """The reader's disk is ``want``, read whole, in pieces, and by its extents."""
    assert reader.virtual_size == len(want)
    assert reader.read(0, len(want)) == want
    position, previous = 0, None
    for extent in reader.extents():
        assert (extent.offset, extent.kind is previous) == (position, False)
        if extent.kind is not Kind.DATA:
            assert not any(want[extent.offset : extent.end])
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
    # Of a hole in a flat extent QEMU says that it is data and reads as zeros; vmpack, that it is
    # no data, as both say of a raw image's.
    keys = ("start", "length", "zero") if "flat" in variant else ("start", "length", "zero", "data")
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


def facts_of_qemu(qemu_img: QemuImg, image: Path) -> dict[str, Any]:
    found: dict[str, Any] = qemu_img.json("info", "-f", "vmdk", image)
    for name in ("children", "full-backing-filename", "actual-size"):
        found.pop(name, None)
    return found


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
def test_info_of_an_overlay_is_qemu_imgs(tmp_path: Path, each_qemu_img: QemuImg) -> None:
    base, top = make_chain(each_qemu_img, tmp_path)
    theirs = facts_of_qemu(each_qemu_img, top)
    reader = open_vmdk(top, allow_backing=True)
    ours = describe(reader)
    reader.close()
    del ours["actual-size"]
    assert ours == theirs
    assert ours["backing-filename"] == base.name


def make_chain(qemu_img: QemuImg, folder: Path) -> tuple[Path, Path]:
    raw = folder / "disk.raw"
    random_disk(raw, 2 * MiB, seed=13)
    base = to_vmdk(qemu_img, raw, "subformat=monolithicSparse", "base.vmdk")
    top = folder / "base-000001.vmdk"
    qemu_img.run("create", "-f", "vmdk", "-b", base, "-F", "vmdk", top)
    text_of_top = top.read_bytes().replace(os.fsencode(folder) + b"/", b"")
    top.write_bytes(text_of_top[: 21 * 512].ljust(21 * 512, b"\0") + top.read_bytes()[21 * 512 :])
    return base, top


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
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("footer", [True, False])
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


def deltas(folder: Path) -> tuple[Path, bytes]:
    """A base, a copy-on-write snapshot of it, and a seSparse one on top."""
    size = 600_064
    base = disk_bytes(size, seed=31, block=512)
    first, second = disk_bytes(size, seed=32, block=512), disk_bytes(size, seed=33, block=4096)
    write_sparse(folder / "vm-flat.vmdk", base)
    line = f'RW {size // 512} VMFS "vm-flat.vmdk"'
    (folder / "vm.vmdk").write_bytes(text("vmfs", [line], cid="aaaaaaaa"))
    kept = {n for n in range(size // 512) if n % 3}
    cowd(first, holes=kept).save(folder / "vm-000002-delta.vmdk")
    line = f'RW {size // 512} VMFSSPARSE "vm-000002-delta.vmdk"'
    (folder / "vm-000002.vmdk").write_bytes(
        text("vmfsSparse", [line], cid="bbbbbbbb", parent="aaaaaaaa", hint="vm.vmdk")
    )
    states = {n: 0 if n % 2 else 2 if n % 5 == 0 else 3 for n in range(-(-size // 4096))}
    sesparse(second, states).save(folder / "vm-000001-sesparse.vmdk")
    line = f'RW {size // 512} SESPARSE "vm-000001-sesparse.vmdk"'
    (folder / "vm-000001.vmdk").write_bytes(
        text("seSparse", [line], parent="BBBBBBBB", hint="/vmfs/volumes/x/vm/vm-000002.vmdk")
    )
    middle = bytearray(base)
    for number in range(size // 512):
        piece = first[number * 512 : (number + 1) * 512]
        if number % 3 == 0 and any(piece):
            middle[number * 512 : (number + 1) * 512] = piece
    want = bytearray(middle)
    for number, state in states.items():
        low, high = number * 4096, min(size, (number + 1) * 4096)
        if state:
            want[low:high] = second[low:high] if state == 3 else bytes(high - low)
    return folder / "vm-000001.vmdk", bytes(want)


def test_snapshot_chain_is_flattened_in_the_descriptors_order(tmp_path: Path) -> None:
    """The names are in another order than the chain, as VMware leaves them after a revert."""
    # VMDK-REF-1, VMDK-REF-6
    top, want = deltas(tmp_path)
    read_like(open_vmdk(top, allow_backing=True), want)
    named = (str(tmp_path / "vm-000002.vmdk"), str(tmp_path / "vm.vmdk"))
    read_like(open_vmdk(top, parents=named), want)
    reader = open_vmdk(top, allow_backing=True)
    depths = {run.depth for run in reader.map_runs(0, reader.virtual_size)}
    assert depths == {0, 1, 2}
    reader.close()
    chain = info(top, format="vmdk", allow_backing=True).as_dict()["chain"]
    assert isinstance(chain, list)
    assert [os.path.basename(one["filename"]) for one in chain] == ["vm-000002.vmdk", "vm.vmdk"]


@pytest.mark.qemu
def test_snapshot_chain_is_qemus(tmp_path: Path, qemu_img: QemuImg) -> None:
    top, want = deltas(tmp_path)
    data = top.read_bytes()
    top.write_bytes(data.replace(b"/vmfs/volumes/x/vm/", b""))
    raw = write_sparse(tmp_path / "want.raw", want)
    qemu_img.assert_identical(raw, top, fmt_a="raw", fmt_b="vmdk")
    assert contents(top, allow_backing=True) == want


@pytest.mark.qemu
def test_overlay_of_qemu_img(tmp_path: Path, qemu_img: QemuImg) -> None:
    base, top = make_chain(qemu_img, tmp_path)
    program = require_tool("qemu-io")
    run([program, "-f", "vmdk", "-c", "write -P 9 100k 300k", top])
    want = bytearray(contents(base))
    want[102_400 : 102_400 + 307_200] = b"\x09" * 307_200
    read_like(open_vmdk(top, allow_backing=True), bytes(want))


def test_parent_of_a_split_disk(tmp_path: Path) -> None:
    """Each extent of the child sees the parent at its own place on the disk."""
    # VMDK-REF-7
    data = disk_bytes(4 * 65536, seed=41, block=512)
    other = disk_bytes(4 * 65536, seed=42)
    write_sparse(tmp_path / "base-flat.vmdk", data[: 3 * 65536])
    (tmp_path / "base.vmdk").write_bytes(
        text("monolithicFlat", ['RW 384 FLAT "base-flat.vmdk" 0'], cid="1")
    )
    for number in range(2):
        part = other[number * 131_072 : (number + 1) * 131_072]
        holes = {n for n in range(32) if n % 2}
        image = sparse(part, descriptor=b"", holes=holes)
        image.save(tmp_path / f"top-s00{number + 1}.vmdk")
    lines = [f'RW 256 SPARSE "top-s00{number}.vmdk"' for number in (1, 2)]
    top = tmp_path / "top.vmdk"
    top.write_bytes(text("twoGbMaxExtentSparse", lines, parent="00000001", hint="base.vmdk"))
    want = bytearray(data[: 3 * 65536] + bytes(65536))
    for at in range(0, len(other), 8192):
        if any(other[at : at + 4096]):
            want[at : at + 4096] = other[at : at + 4096]
    read_like(open_vmdk(top, allow_backing=True), bytes(want))


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
