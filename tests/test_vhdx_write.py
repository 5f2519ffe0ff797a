"""VHDX files that vmpack writes, as QEMU sees them and byte by byte."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg, qemu_io
from tests.support.qemu import image as image_node
from tests.support.tools import missing, require_tool, run
from tests.support.vhdx import DISK_ID, METADATA_GUID, MiB, open_vhdx
from vmpack import formats
from vmpack.errors import DamagedError, UsageError
from vmpack.formats.base import CreateOptions, Job
from vmpack.formats.vhdx.structs import checksum_is_right
from vmpack.formats.vhdx.writer import VhdxWriter
from vmpack.ops.check import check
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.measure import measure

RandomDisk = Callable[..., tuple[Path, bytes]]


def facts(path: Path) -> dict[str, object]:
    found: dict[str, object] = info(path).as_dict()["format-specific"]["data"]  # type: ignore[index]
    return found


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("block", ["", "1M", "4M", "256M"])
def test_every_option_as_qemu_sees_it(
    subformat: str, block: str, tmp_path: Path, each_qemu_img: QemuImg
) -> None:
    # VHDX-WRITE-1
    data = disk_bytes(MiB + 4096, seed=1) + bytes(5 * MiB) + disk_bytes(70_144, seed=2)
    raw, image = write_sparse(tmp_path / "disk.raw", data), tmp_path / "disk.vhdx"
    options = {"subformat": subformat, "log_size": "2M"}
    if block:
        options["block_size"] = block
    convert(raw, image, options=options)
    each_qemu_img.assert_clean(image, fmt="vhdx")
    each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vhdx")
    theirs = each_qemu_img.json("info", "-f", "vhdx", image)
    size = int(block[:-1] or 1) * MiB
    assert (theirs["cluster-size"], theirs["virtual-size"]) == (size, len(data))
    mine = facts(image)
    assert (mine["subformat"], mine["block-size"]) == (subformat, size)
    assert (mine["log-size"], mine["creator"]) == (2 * MiB, "vmpack")
    assert (mine["logical-sector-size"], mine["physical-sector-size"]) == (512, 4096)
    assert check(image).exit_code == 0


@pytest.fixture
def vhdi_mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """The disk of a file as libvhdi shows it, until the test ends."""
    program = require_tool("vhdimount")
    made: list[Path] = []

    def mount(image: Path) -> Path:
        if not os.path.exists("/dev/fuse"):
            missing("/dev/fuse", "vhdimount is a FUSE file system")
        point = tmp_path / f"vhdi-{len(made)}"
        point.mkdir()
        run([program, image, point])
        made.append(point)
        return point / "vhdi1"

    yield mount
    for point in made:
        run(["umount", point])


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_libvhdi_reads_the_same(
    subformat: str, tmp_path: Path, vhdi_mounted: Callable[[Path], Path]
) -> None:
    # VHDX-WRITE-1
    data = disk_bytes(MiB, seed=5) + bytes(3 * MiB) + disk_bytes(99_840, seed=6)
    raw, image = write_sparse(tmp_path / "disk.raw", data), tmp_path / "disk.vhdx"
    convert(raw, image, options={"subformat": subformat})
    text = run([require_tool("vhdiinfo"), image]).stdout.decode()
    assert f"{len(data)} bytes" in text
    assert subformat.capitalize() in text
    assert str(facts(image)["data-write-guid"]) in text
    assert vhdi_mounted(image).read_bytes() == data


@pytest.mark.qemu
def test_qemu_writes_into_what_vmpack_wrote(
    tmp_path: Path, qemu_img: QemuImg, random_disk: RandomDisk
) -> None:
    # VHDX-WRITE-5: the log is empty and its own.
    raw, data = random_disk(3 * MiB, seed=12)
    image = tmp_path / "disk.vhdx"
    convert(raw, image)
    words = ["qemu-io", "-f", "vhdx", "-c", "write -P 7 100k 3k", "-c", "write -P 8 2900k 100k"]
    run([*words, image])
    qemu_img.assert_clean(image, fmt="vhdx")
    want = bytearray(data)
    want[100 << 10 : 103 << 10] = b"\7" * 3072
    want[2900 << 10 : 3000 << 10] = b"\10" * (100 << 10)
    reader = open_vhdx(image)
    assert reader.read(0, reader.virtual_size) == want
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("zero_state", ["on", "off"])
def test_states_of_blocks_without_data(zero_state: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHDX-WRITE-2
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    write_sparse(raw, b"x" * 512 + bytes(9 * MiB))
    convert(raw, image, options={"block_state_zero": zero_state})
    reader = open_vhdx(image)
    words = struct.unpack("<10Q", reader.bat.entries(0))
    assert words == (reader.image.bat.end | 6, *[2 if zero_state == "on" else 0] * 9)
    reader.close()
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vhdx")
    create(tmp_path / "empty.vhdx", 9 * MiB, "vhdx")
    reader = open_vhdx(tmp_path / "empty.vhdx")
    assert not any(reader.bat.entries(0))
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("block", [MiB, 32 * MiB, 256 * MiB])
def test_sizes_around_chunks(block: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHDX-WRITE-3: 4 GiB of disk have one sector bitmap entry in the BAT.
    chunk = 4 << 30
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    for size in (chunk - 512, chunk, chunk + 512, 2 * chunk + block + 512):
        marks = {0, chunk - 4096, min(chunk, size - 512), size - 512}
        with raw.open("wb") as out:
            for at in marks:
                out.seek(at)
                out.write(bytes([at // 512 % 250 + 1]) * 512)
            out.truncate(size)
        options = {"block_size": str(block), "block_state_zero": "off"}
        assert convert(raw, image, options=options, force=True).verified
        qemu_img.assert_clean(image, fmt="vhdx")
        reads = [f"read -P {at // 512 % 250 + 1} {at} 512" for at in marks]
        out_text = qemu_io(image_node(image, "vhdx"), *reads, f"read -P 0 512 {block - 4608}")
        assert "failed" not in out_text
        assert out_text.count("512 bytes at") == len(marks)


def test_holes_stay_holes(tmp_path: Path) -> None:
    # VHDX-WRITE-4: a block is allocated whole, its zeros take no room on disk.
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    with raw.open("wb") as out:
        out.write(b"x" * 4096)
        out.seek(700 * MiB)
        out.write(b"y" * 4096)
    for subformat, blocks in (("dynamic", 2), ("fixed", 3)):
        options = {"subformat": subformat, "block_size": "256M"}
        convert(raw, image, options=options, force=True, verify=subformat == "dynamic")
        assert image.stat().st_size == 4 * MiB + blocks * 256 * MiB
        assert image.stat().st_blocks * 512 < MiB


def test_measure_is_exact(tmp_path: Path, random_disk: RandomDisk) -> None:
    # VHDX-WRITE-6
    raw, _ = random_disk(9 * MiB + 512, seed=3)
    for options in ({}, {"block_size": "2M"}, {"subformat": "fixed", "log_size": "5M"}):
        image = tmp_path / "disk.vhdx"
        convert(raw, image, options=options, force=True)
        found = measure(raw, "vhdx", options=options)
        assert found["required"] == image.stat().st_size
        assert found["fully-allocated"] >= found["required"]


def test_limits_and_values(tmp_path: Path) -> None:
    # VHDX-WRITE-7
    image = tmp_path / "disk.vhdx"
    bad = {
        "block_size": ("512K", "512M", "3M", "x"),
        "log_size": ("0", "1000K", "4G"),
        "subformat": ("sparse",),
        "block_state_zero": ("maybe",),
        "uuid": ("1234",),
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(UsageError, match=name):
                create(image, MiB, "vhdx", options={name: value})
    with pytest.raises(UsageError, match="64 TiB"):
        create(image, (64 << 40) + 512, "vhdx")
    with pytest.raises(UsageError, match="compressed"):
        VhdxWriter(0, CreateOptions(MiB, compressed=True))
    assert not image.exists()
    create(image, 64 << 40, "vhdx")
    assert facts(image)["block-size"] == 32 * MiB
    assert image.stat().st_blocks * 512 < MiB


def test_sixty_four_tebibytes(tmp_path: Path) -> None:
    # hostile: 8
    # VHDX-WRITE-3: time and memory go with the data.
    image = tmp_path / "disk.vhdx"
    size = 64 << 40
    fd = os.open(image, os.O_RDWR | os.O_CREAT)
    writer = VhdxWriter(fd, CreateOptions(size, {"block_state_zero": "off"}))
    for at in (0, 5 << 40, size - 65536):
        for job in writer.emit(writer.prepare(at, b"d" * 65536)):
            os.pwrite(fd, job.data, job.offset)
    writer.finish()
    os.close(fd)
    reader = open_vhdx(image)
    for at in (0, 5 << 40, size - 65536):
        assert reader.read(at, 65536) == b"d" * 65536
    assert reader.read(6 << 40, 4096) == bytes(4096)
    assert list(reader.check()) == []
    reader.close()


def test_identifiers(tmp_path: Path, random_disk: RandomDisk) -> None:
    # VHDX-WRITE-8: from the content, unless given; never of this moment.
    found = []
    for number, seed in enumerate((1, 1, 2)):
        raw, _ = random_disk(MiB, seed=seed, name=f"{number}.raw")
        image = tmp_path / f"{number}.vhdx"
        convert(raw, image)
        one = facts(image)
        ids = (one["virtual-disk-id"], one["data-write-guid"], one["file-write-guid"])
        assert len(set(ids)) == 3
        found.append(ids)
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])
    given = "12345678-9abc-4def-8123-456789abcdef"
    image = tmp_path / "given.vhdx"
    convert(tmp_path / "0.raw", image, options={"uuid": given})
    assert facts(image)["virtual-disk-id"] == given
    assert UUID(given).bytes_le in image.read_bytes()


def test_batches_do_not_show(tmp_path: Path) -> None:
    # VHDX-WRITE-8
    data = disk_bytes(5 * MiB + 512, seed=44)
    digests = set()
    for seed in range(4):
        rng = Random(seed)
        image = tmp_path / "disk.vhdx"
        fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        writer = VhdxWriter(fd, CreateOptions(len(data), {"block_size": "2M"}))
        at = 0
        while at < len(data):
            take = rng.randrange(1, 40) * writer.unit
            for job in writer.emit(writer.prepare(at, data[at : at + take])):
                os.pwrite(fd, job.data, job.offset)
            at += take
        writer.seed.add([])
        writer.finish()
        os.close(fd)
        digests.add(hashlib.sha256(image.read_bytes()).hexdigest())
    assert len(digests) == 1


GOLDEN = {
    "dynamic": "a3b5ad0d826b40cfb4dabcd4b6f99d40e8b3e63a18b57dba9649fd57c168d594",
    "fixed": "09d3fff79086ce33f257a11556601e92ed48f1e6d4c7ae97906da54bec7a50a3",
}


@pytest.mark.parametrize("subformat", GOLDEN)
def test_golden_bytes(subformat: str, tmp_path: Path) -> None:
    """A change of what is written is a decision."""
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    lines = b"".join(b"%06d golden\n" % number for number in range(20_000))
    write_sparse(raw, lines + bytes(2 * MiB) + lines[:512])
    convert(raw, image, options={"subformat": subformat})
    assert hashlib.sha256(image.read_bytes()).hexdigest() == GOLDEN[subformat]


class CrashError(Exception):
    pass


def test_what_a_crash_leaves_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # VHDX-WRITE-10: whichever write is the last that happens.
    from vmpack.copy import write_all
    from vmpack.formats.vhdx import writer as module

    image = tmp_path / "disk.vhdx"
    # BAT, metadata, two region tables, two headers, and the signature.
    for allowed in range(7):
        left = [allowed]

        def write(fd: int, job: Job, path: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            write_all(fd, job, path)

        monkeypatch.setattr(module, "write_all", write)
        fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        writer = VhdxWriter(fd, CreateOptions(MiB))
        with pytest.raises(CrashError):
            writer.finish()
        os.close(fd)
        with pytest.raises(DamagedError):
            open_vhdx(image)


def test_structures_byte_by_byte(tmp_path: Path) -> None:
    # VHDX-WRITE-5, VHDX-WRITE-9
    image = tmp_path / "disk.vhdx"
    create(image, 10 * MiB, "vhdx")
    raw = image.read_bytes()
    assert raw[:8] == b"vhdxfile"
    assert raw[8:22].decode("utf-16-le") == "vmpack\0"
    for number, at in enumerate((0x10000, 0x20000), 1):
        assert checksum_is_right(raw[at : at + 4096])
        assert struct.unpack_from("<4s4xQ32x16sHHIQ", raw, at) == (
            b"head", number, bytes(16), 0, 1, MiB, MiB,
        )  # fmt: skip
    assert raw[0x30000:0x40000] == raw[0x40000:0x50000]
    assert checksum_is_right(raw[0x30000:0x40000])
    assert not any(raw[MiB : 2 * MiB])
    assert raw[2 * MiB :].startswith(b"metadata")
    assert METADATA_GUID.bytes_le in raw[0x30000:0x30100]
    assert DISK_ID.bytes_le in raw[2 * MiB : 2 * MiB + 512]
    assert len(raw) % MiB == 0


@pytest.mark.qemu
def test_qemu_io_reads_every_byte_of_a_block(tmp_path: Path) -> None:
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    raw.write_bytes(b"\x2a" * (3 * MiB))
    convert(raw, image, options={"block_size": "2M"})
    out = qemu_io(image_node(image, "vhdx"), f"read -P 42 0 {3 * MiB}")
    assert "failed" not in out


def test_the_registrys_record() -> None:
    found = formats.get("vhdx")
    assert formats.by_suffix("a.VHDX") is found
    assert set(found.options) == {"subformat", "block_size", "log_size", "block_state_zero", "uuid"}
