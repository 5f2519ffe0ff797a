"""VMDKs that vmpack writes: every kind, read by QEMU, by libvmdk and by vmpack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import random_disk
from tests.support.qemu import QemuImg, qemu_imgs
from tests.support.tools import missing, require_tool, run
from vmpack import formats
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions, ImageReader, OpenOptions
from vmpack.formats.vmdk.descriptor import Descriptor, parse
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.source import ByteSource

SPARSE = ("monolithicSparse", "streamOptimized", "twoGbMaxExtentSparse")
FLAT = ("monolithicFlat", "twoGbMaxExtentFlat")
SUBFORMATS = (*SPARSE, *FLAT)
ONE_FILE = ("monolithicSparse", "streamOptimized")
TABLE = 512 * 65536
SPLIT = 4_192_256 * 512


def write(raw: Path, out: Path, subformat: str, **options: str) -> Path:
    """``raw`` as a VMDK, read back and compared by vmpack."""
    values = {"subformat": subformat, **options}
    assert convert(raw, out, output_format="vmdk", options=values).verified
    return out


def described(image: Path) -> Descriptor:
    """The image's descriptor, wherever it is."""
    with image.open("rb") as file:
        data = file.read(1 << 16)
    if data.startswith(b"KDMV"):
        data = data[512 : 21 * 512]
    return parse(data.rstrip(b"\0"), path=str(image))


def opened(image: Path) -> ImageReader:
    return formats.get("vmdk").open(ByteSource.open(image), OpenOptions())


def sparse_raw(path: Path, size: int, places: dict[int, bytes]) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
        for offset, data in places.items():
            out.seek(offset)
            out.write(data)
    return path


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("subformat", "size"),
    [
        (subformat, size)
        for subformat in SUBFORMATS
        for size in (0, 1000, 65536 + 512, TABLE - 512, TABLE + 65536 + 1)
        if size or subformat in ONE_FILE
    ],
)
def test_qemu_reads_every_kind(
    subformat: str, size: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    """Every qemu-img here does; the image is the same for all."""
    # VMDK-WRITE-1, VMDK-WRITE-2, VMDK-WRITE-3
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    random_disk(raw, size, seed=size, block=65536 if size > TABLE // 2 else 4096)
    write(raw, image, subformat)
    assert qemu_img in qemu_imgs()
    for program in qemu_imgs():
        seen = program.json("info", "-f", "vmdk", image)
        assert seen["virtual-size"] == -(-size // 512) * 512
        assert seen["format-specific"]["data"]["create-type"] == subformat
        program.assert_clean(image, fmt="vmdk")
        done = program.run("compare", "-f", "raw", "-F", "vmdk", raw, image)
        assert b"identical" in done.stdout


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_every_kind_is_what_qemu_would_have_read(
    subformat: str, tmp_path: Path, qemu_img: QemuImg
) -> None:
    """There and back: QEMU's image, vmpack's of it, and QEMU's raw of that."""
    raw, theirs, ours = (tmp_path / name for name in ("disk.raw", "theirs.vmdk", "ours.vmdk"))
    data = random_disk(raw, 3_000_320, seed=11)
    options = ("-o", f"subformat={subformat}")
    qemu_img.run("convert", "-f", "raw", "-O", "vmdk", *options, raw, theirs)
    write(theirs, ours, subformat)
    back = tmp_path / "back.raw"
    qemu_img.run("convert", "-f", "vmdk", "-O", "raw", ours, back)
    assert back.read_bytes() == data


PLACES = {
    0: b"first",
    TABLE - 65536: b"last of a table" * 8000,
    2 * TABLE + 70_000: b"a table between has nothing",
    SPLIT - 3: b"over the edge",
    SPLIT + 65536: bytes(range(256)) * 300,
    2 * SPLIT - 65536: b"end of the second",
    2 * SPLIT + 99_999: b"end",
}
"""Data at the boundaries of grains, tables and extents; the last byte is the disk's."""
EXTENT_FILES = {"monolithicFlat": 1, "twoGbMaxExtentSparse": 3, "twoGbMaxExtentFlat": 3}


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_boundaries(subformat: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VMDK-WRITE-6
    raw = sparse_raw(tmp_path / "disk.raw", 2 * SPLIT + 100_352, PLACES)
    image = write(raw, tmp_path / "disk.vmdk", subformat)
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vmdk")
    qemu_img.assert_clean(image, fmt="vmdk")
    files = sorted(path.name for path in tmp_path.glob("disk-*.vmdk"))
    assert len(files) == EXTENT_FILES.get(subformat, 0)
    assert sum(path.stat().st_blocks for path in tmp_path.glob("disk*.vmdk")) * 512 < 4 << 20


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The disk as libvmdk reads it: a file."""
    program = require_tool("vmdkmount")
    if os.geteuid() or not Path("/dev/fuse").exists():
        missing("FUSE", "run the tests as root where /dev/fuse is")
    folder.mkdir()
    run([program, image, folder])
    try:
        # Mounted before the program goes into the background: looking waits until it answers.
        yield folder / "vmdk1"
    finally:
        run(["umount", folder])


@pytest.mark.parametrize("subformat", [*SPARSE, "twoGbMaxExtentFlat"])
def test_libvmdk_reads_every_kind_it_knows(subformat: str, tmp_path: Path) -> None:
    """libvmdk knows all but monolithicFlat, QEMU's too."""
    # VMDK-WRITE-1, VMDK-WRITE-5
    data = random_disk(tmp_path / "disk.raw", 5_000_192, seed=4)
    image = write(tmp_path / "disk.raw", tmp_path / "disk.vmdk", subformat)
    told = run([require_tool("vmdkinfo"), image]).stdout.decode()
    assert f"0x{described(image).cid:08x}" in told
    assert "(5000192 bytes)" in told
    with mounted(image, tmp_path / "mounted") as disk:
        assert disk.read_bytes() == data


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_options_are_what_info_and_descriptor_say(
    subformat: str, tmp_path: Path, qemu_img: QemuImg
) -> None:
    # VMDK-WRITE-8, VMDK-WRITE-9
    raw = tmp_path / "disk.raw"
    random_disk(raw, 200_192, seed=5)
    image = write(
        raw,
        tmp_path / "named.vmdk",
        subformat,
        adapter_type="IDE",
        hwversion="21",
        toolsversion="12345",
        uuid="6000C29a-0102-0304-0506-0708090a0b0c",
        cid="0xABCdef01",
    )
    found = described(image)
    assert (found.cid, found.parent_cid, found.encoding) == (0xABCDEF01, 0xFFFFFFFF, "UTF-8")
    assert found.ddb["adapterType"] == "ide"
    assert found.ddb["virtualHWVersion"] == "21"
    assert found.ddb["toolsVersion"] == "12345"
    assert found.ddb["uuid"] == "60 00 c2 9a 01 02 03 04-05 06 07 08 09 0a 0b 0c"
    assert found.ddb["longContentID"].endswith("abcdef01")
    assert len(found.ddb["longContentID"]) == 32
    assert found.ddb["geometry.heads"] == "16"
    seen = qemu_img.json("info", "-f", "vmdk", image)["format-specific"]["data"]
    assert (seen["create-type"], seen["cid"]) == (subformat, 0xABCDEF01)
    names = [Path(one["filename"]).name for one in seen["extents"]]
    stem = {"monolithicFlat": "-flat", "twoGbMaxExtentFlat": "-f001"}
    stem["twoGbMaxExtentSparse"] = "-s001"
    assert names == [f"named{stem.get(subformat, '')}.vmdk"]
    assert [one.name for one in found.extents] == names
    if subformat == "streamOptimized":
        assert seen["extents"][0]["compressed"] is True
        assert found.extents[0].access == "RDONLY"
    if subformat in SPARSE:
        assert seen["extents"][0]["cluster-size"] == 65536


def test_identifiers_derive_from_the_content(tmp_path: Path) -> None:
    # VMDK-WRITE-9
    raw = tmp_path / "disk.raw"
    random_disk(raw, 300_032, seed=6)
    found = [described(write(raw, tmp_path / f"{one}.vmdk", one)) for one in SUBFORMATS]
    assert len({(one.cid, one.ddb["uuid"], one.ddb["longContentID"]) for one in found}) == 1
    assert found[0].ddb["uuid"].startswith("60 00 c2 9")
    assert found[0].ddb["longContentID"].endswith(f"{found[0].cid:08x}")
    random_disk(raw, 300_032, seed=7)
    other = described(write(raw, tmp_path / "other.vmdk", SUBFORMATS[0]))
    assert other.cid != found[0].cid
    assert other.ddb["uuid"] != found[0].ddb["uuid"]


DEFAULTS = {
    "adapterType": "lsilogic",
    "toolsVersion": "2147483647",
    "virtualHWVersion": "4",
    "geometry.heads": "64",
    "geometry.sectors": "32",
    "geometry.cylinders": "1",
}


def test_defaults_and_compat6(tmp_path: Path) -> None:
    # VMDK-WRITE-1, VMDK-WRITE-8
    create(tmp_path / "disk.vmdk", 1 << 20, "vmdk")
    found = described(tmp_path / "disk.vmdk")
    assert found.create_type == "monolithicSparse"
    assert DEFAULTS.items() <= found.ddb.items()
    create(tmp_path / "old.vmdk", 1 << 20, "vmdk", options={"compat6": "on"})
    assert described(tmp_path / "old.vmdk").ddb["virtualHWVersion"] == "6"
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(512))
    convert(raw, tmp_path / "small.vmdk", compressed=True, level=9)
    assert described(tmp_path / "small.vmdk").create_type == "streamOptimized"


REFUSED: dict[str, dict[str, str]] = {
    "subformat": {"subformat": "vmfs"},
    "adapter_type": {"adapter_type": "nvme"},
    "hwversion": {"hwversion": "latest"},
    "hwversion-large": {"hwversion": "100"},
    "compat6": {"compat6": "maybe"},
    "compat6-twice": {"compat6": "on", "hwversion": "8"},
    "toolsversion": {"toolsversion": "-1"},
    "toolsversion-large": {"toolsversion": "4294967296"},
    "toolsversion-digits": {"toolsversion": "²"},
    "uuid": {"uuid": "60 00 c2"},
    "cid": {"cid": "xyz"},
    "cid-large": {"cid": "123456789"},
    "cid-none": {"cid": "FFFFFFFF"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_refused_by_name(case: str, tmp_path: Path) -> None:
    # VMDK-WRITE-8
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(512))
    with pytest.raises(UsageError) as caught:
        convert(raw, tmp_path / "out.vmdk", options=REFUSED[case])
    assert caught.value.field == case.partition("-")[0]
    assert os.listdir(tmp_path) == ["disk.raw"]


def test_what_does_not_go_together(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(512))
    with pytest.raises(UsageError, match="not compressed"):
        convert(raw, tmp_path / "o.vmdk", compressed=True, options={"subformat": FLAT[0]})
    with pytest.raises(UsageError, match="level"):
        convert(raw, tmp_path / "o.vmdk", level=3)
    found = formats.get("vmdk")
    assert found.create is not None
    for subformat in ("twoGbMaxExtentSparse", *FLAT):
        with pytest.raises(UsageError, match="more than one file"):
            found.create(-1, CreateOptions(512, {"subformat": subformat}))
        with pytest.raises(UsageError, match="at least one sector"):
            create(tmp_path / "o.vmdk", 0, "vmdk", options={"subformat": subformat})
    assert os.listdir(tmp_path) == ["disk.raw"]


@pytest.mark.parametrize(
    ("size", "subformat"),
    [(1 << 46, "monolithicSparse"), (999 * SPLIT, "twoGbMaxExtentSparse")],
)
def test_sizes_beyond_the_limit_are_refused(size: int, subformat: str, tmp_path: Path) -> None:
    # VMDK-WRITE-10
    with pytest.raises(UnsupportedError) as caught:
        create(tmp_path / "o.vmdk", size + 1, "vmdk", options={"subformat": subformat})
    assert caught.value.hint
    assert not os.listdir(tmp_path)
