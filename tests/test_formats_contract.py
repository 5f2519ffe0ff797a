"""What every format promises, tried on each of the registry's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from vmpack import formats
from vmpack.copy import copy_image
from vmpack.digest import content_digest
from vmpack.errors import UsageError, VmpackError
from vmpack.extent import Kind
from vmpack.formats.base import CreateOptions, Format, ImageReader, OpenOptions
from vmpack.formats.raw import RawReader
from vmpack.ops.convert import convert
from vmpack.source import ByteSource

SIZES = (0, 1, 511, 512, 513, 65535, 65536, 65537, 1_234_567)
UNCHECKED = ("raw", "vhd")
"""Formats that qemu-img check does not know."""
LARGE = {"vdi": 128 << 30, "vhd": 400 << 30}
"""Bytes of a large disk: 8 TiB, what ext4 lets a sparse raw file be, unless the format holds less
or stores its whole table."""
pytestmark = pytest.mark.parametrize("name", formats.names())


def written(name: str, tmp_path: Path, data: bytes, **values: str) -> Path:
    """``data`` as an image of the format, by the registry's own writer."""
    raw, image = tmp_path / "source.raw", tmp_path / f"image.{name}"
    write_sparse(raw, data)
    found = formats.get(name)
    assert found.create is not None
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        writer = found.create(fd, CreateOptions(len(data), values))
        source = RawReader(ByteSource.open(raw))
        copy_image(source, writer, fd)
        source.close()
    finally:
        os.close(fd)
    return image


def opened(name: str, image: Path) -> ImageReader:
    return formats.get(name).open(ByteSource.open(image), OpenOptions())


def test_record_is_complete(name: str) -> None:
    found: Format = formats.get(name)
    assert found.name == name
    assert all(suffix.startswith(".") for suffix in found.suffixes)
    assert all(text for text in found.options.values())


@pytest.mark.parametrize("size", SIZES)
def test_round_trip_and_extents(name: str, size: int, tmp_path: Path) -> None:
    # RAW-READ-1, RAW-WRITE-1, QCOW2-WRITE-3
    data = disk_bytes(size, seed=size + 1)
    reader = opened(name, written(name, tmp_path, data))
    assert reader.virtual_size in (size, -(-size // 512) * 512)
    want = data + bytes(reader.virtual_size - size)
    assert reader.read(0, len(want)) == want
    position = 0
    previous = None
    for extent in reader.extents():
        assert (extent.offset, extent.length > 0) == (position, True)
        assert extent.kind is not previous
        if extent.kind is not Kind.DATA:
            assert not any(want[extent.offset : extent.end])
        position, previous = extent.end, extent.kind
    assert position == reader.virtual_size
    reader.close()
    reader.close()


def test_odd_reads_and_ranges(name: str, tmp_path: Path) -> None:
    data = disk_bytes(300_032, seed=3)
    reader = opened(name, written(name, tmp_path, data))
    for offset in (0, 1, 511, 4095, 65535, 65536, 131_071, 300_031):
        for length in (0, 1, 513, 65537):
            end = min(offset + length, len(data))
            assert reader.read(offset, end - offset) == data[offset:end]
            covered = list(reader.extents(offset, end - offset))
            assert sum(one.length for one in covered) == end - offset
            assert not covered or covered[0].offset == offset
    for offset, length in ((-1, 2), (300_032, 1), (0, 300_033), (1 << 62, 1 << 62)):
        with pytest.raises(VmpackError):
            reader.read(offset, length)
        with pytest.raises(VmpackError):
            list(reader.extents(offset, length))
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("size", [0, 512, 65536, 1_234_944])
def test_qemu_reads_what_is_written(
    name: str, size: int, tmp_path: Path, each_qemu_img: QemuImg
) -> None:
    data = disk_bytes(size, seed=5)
    image = written(name, tmp_path, data)
    raw = tmp_path / "source.raw"
    each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b=formats.get(name).qemu_name)
    if name not in UNCHECKED:
        each_qemu_img.assert_clean(image, fmt=formats.get(name).qemu_name)


def test_content_digest_is_the_sources(name: str, tmp_path: Path) -> None:
    image = written(name, tmp_path, disk_bytes(200_001, seed=6))
    source, reader = opened("raw", tmp_path / "source.raw"), opened(name, image)
    assert content_digest(reader) == content_digest(source)
    source.close()
    reader.close()


def test_same_bytes_for_any_number_of_workers(name: str, tmp_path: Path) -> None:
    # QCOW2-WRITE-4
    raw = tmp_path / "source.raw"
    write_sparse(raw, disk_bytes(9_000_000, seed=7))
    outputs = []
    for workers in (1, 2, 5):
        # One name: some formats store it.
        out = tmp_path / str(workers) / f"image.{name}"
        out.parent.mkdir()
        convert(raw, out, output_format=name, workers=workers, compressed=name == "qcow2")
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_cut_images_are_damaged_or_whole(name: str, tmp_path: Path) -> None:
    data = disk_bytes(200_192, seed=8)
    image = written(name, tmp_path, data)
    whole = image.read_bytes()
    cut = tmp_path / f"cut.{name}"
    cut.write_bytes(whole)
    # Each cut is a shorter file than the one before: formats whose files have many MiB stay cheap.
    for length in reversed(range(0, len(whole), max(1777, len(whole) // 600 | 1))):
        os.truncate(cut, length)
        try:
            reader = opened(name, cut)
        except VmpackError:
            continue
        try:
            got = reader.read(0, reader.virtual_size)
            assert got == data[: len(got)]
        except VmpackError:
            pass
        finally:
            reader.close()


def test_unknown_options_are_refused(name: str, tmp_path: Path) -> None:
    raw = tmp_path / "source.raw"
    raw.write_bytes(bytes(512))
    with pytest.raises(UsageError, match="no option 'bananas'"):
        convert(raw, tmp_path / "out", output_format=name, options={"bananas": "1"})
    assert not (tmp_path / "out").exists()


def test_opening_reads_no_data(name: str, tmp_path: Path) -> None:
    """A large disk opens, and says where its data is, without reading it."""
    from vmpack.ops.create import create

    image = tmp_path / "huge"
    size = LARGE.get(name, 8 << 40) - 512
    try:
        create(image, size, name)
    except VmpackError as exc:
        pytest.fail(f"{exc}")
    reader = opened(name, image)
    assert reader.virtual_size == size
    assert all(extent.kind is not Kind.DATA for extent in reader.extents())
    assert reader.read(size - 512, 512) == bytes(512)
    reader.close()
    assert image.stat().st_blocks * 512 < 1 << 20
