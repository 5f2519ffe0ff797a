"""Reading VHD images beside qemu-img, and the samples of other hypervisors."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, random_disk
from tests.support.qemu import QemuImg
from tests.support.tools import missing
from tests.support.vhd import change_bytes, change_footer, open_image, reseal, write
from vmpack.errors import UsageError
from vmpack.extent import Kind
from vmpack.formats.vhd.footer import CHS_MAX, disk_size, geometry
from vmpack.formats.vhd.structs import Footer
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.info import info
from vmpack.ops.map import map_image

VARIANTS = {
    "dynamic": "subformat=dynamic,force_size=on",
    "fixed": "subformat=fixed,force_size=on",
    "dynamic-chs": "subformat=dynamic",
    "fixed-chs": "subformat=fixed",
}
BLOCK = 2 << 20


def facts(path: Path) -> dict[str, Any]:
    found: Any = info(path).as_dict()
    specific: dict[str, Any] = found["format-specific"]["data"]
    return specific


@pytest.mark.qemu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [512, BLOCK, BLOCK + 512, 5 * BLOCK - 512])
def test_what_qemu_writes(variant: str, size: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-SIZE-1, VHD-BAT-1, VHD-BMP-2, VHD-INFO-1
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    data = random_disk(raw, size, seed=size, block=512)
    qemu_img.run("convert", "-f", "raw", "-O", "vpc", "-o", VARIANTS[variant], raw, image)
    theirs = qemu_img.json("info", "-f", "vpc", image)
    document = info(image).as_dict()
    for field in ("virtual-size", "actual-size", "format", "cluster-size", "dirty-flag"):
        assert document.get(field) == theirs.get(field), field
    assert facts(image)["size-from"] == ("chs" if variant.endswith("chs") else "current-size")
    reader = open_image(image)
    whole = data + bytes(reader.virtual_size - size)
    assert reader.read(0, len(whole)) == whole
    rng = random.Random(size)
    for _ in range(60):
        start = rng.randrange(len(whole))
        length = rng.choice((1, 511, 4096, 70_001, BLOCK))
        end = min(len(whole), start + length)
        assert reader.read(start, end - start) == whole[start:end]
        covered = list(reader.extents(start, end - start))
        assert (covered[0].offset, covered[-1].end) == (start, end)
    for extent in reader.extents():
        if extent.kind is not Kind.DATA:
            assert not any(whole[extent.offset : extent.end])
    reader.close()
    assert check(image).exit_code == 0


@pytest.mark.qemu
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_map_is_qemu_imgs(subformat: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    with raw.open("wb") as out:
        out.truncate(9 * BLOCK)
        for offset in (0, BLOCK - 512, 3 * BLOCK + 7000, 4 * BLOCK, 9 * BLOCK - 1):
            out.seek(offset)
            out.write(b"x")
    options = f"subformat={subformat},force_size=on"
    each_qemu_img.run("convert", "-f", "raw", "-O", "vpc", "-o", options, raw, image)
    theirs = each_qemu_img.json("map", "-f", "vpc", image)
    ours = map_image(image)
    names = ["start", "length", "zero", "depth", "offset"]
    if subformat == "dynamic":
        # QEMU calls a fixed disk's holes data that are zeros.
        names.append("data")
    assert [[row.get(n) for n in names] for row in ours] == [
        [row.get(n) for n in names] for row in theirs
    ]


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("creator", "from_size"),
    [
        (b"vpc ", False), (b"qemu", False), (b"qem2", True), (b"win ", True), (b"d2v ", True),
        (b"tap\0", True), (b"CTXS", True), (b"wa\0\0", True), (b"vs  ", True), (b"conv", True),
        (b"vbox", True), (b"\xff\x1b\0\0", True),
    ],
)  # fmt: skip
def test_the_one_size_rule(
    creator: bytes, from_size: bool, tmp_path: Path, each_qemu_img: QemuImg
) -> None:
    # hostile: 35
    # VHD-SIZE-1, VHD-INFO-1
    image = change_footer(write(tmp_path / "a.vhd", disk_bytes(3_000_320)), "creator", creator)
    reader = open_image(image)
    cylinders, heads, sectors = geometry(3_000_320)
    wanted = 3_000_320 if from_size else cylinders * heads * sectors * 512
    assert reader.virtual_size == wanted
    assert reader.size_from == ("current-size" if from_size else "chs")
    reader.close()
    assert facts(image)["creator"].isprintable()
    known = creator in (b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS")
    if known or each_qemu_img.version >= (10,):
        assert each_qemu_img.json("info", "-f", "vpc", image)["virtual-size"] == wanted


def test_the_largest_geometry_means_the_size(tmp_path: Path) -> None:
    # VHD-SIZE-1
    image = write(tmp_path / "a.vhd", bytes(BLOCK))
    footer = open_image(image).found.footer
    changed = Footer.decode(
        reseal(footer, creator=b"vpc ", cylinders=65535, heads=16, sectors=255), path="", offset=0
    )
    assert disk_size(changed) == (BLOCK, "current-size")
    changed = Footer.decode(reseal(footer, current_size=BLOCK + 511), path="", offset=0)
    assert disk_size(changed) == (BLOCK, "current-size")


@pytest.mark.parametrize("sectors", [0, 1, 68, 20480, 1044223, 1044224, 1044225, 10**6, 2**24])
def test_geometry_never_exceeds_the_disk(sectors: int) -> None:
    # VHD-WRITE-2
    cylinders, heads, per_track = geometry(sectors * 512)
    assert cylinders * heads * per_track <= sectors
    assert sectors - cylinders * heads * per_track < 16 * 255 + 64
    assert (cylinders, heads, per_track) < (65536, 256, 256)


def test_geometry_of_large_disks_and_of_hyper_v() -> None:
    # VHD-WRITE-2: what Hyper-V wrote for 10 MiB
    assert geometry(10 << 20) == (301, 4, 17)
    assert geometry(127 << 30) == (65278, 16, 255)
    cylinders, heads, sectors = geometry(2 << 40)
    assert cylinders * heads * sectors == CHS_MAX


def test_an_old_footer_of_511_bytes(tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-FTR-1
    data = disk_bytes(1_000_448, seed=4)
    for subformat in ("fixed", "dynamic"):
        image = write(tmp_path / f"{subformat}.vhd", data, subformat=subformat)
        image.write_bytes(image.read_bytes()[:-1])
        reader = open_image(image)
        assert reader.read(0, len(data)) == data
        reader.close()
        assert facts(image)["footer"] == "end"
        assert check(image).exit_code == 0


def test_a_vhd_has_no_snapshots(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no snapshots"):
        open_image(write(tmp_path / "a.vhd", bytes(512)), snapshot="1")


def test_facts_that_change_nothing(tmp_path: Path) -> None:
    # VHD-INFO-1
    image = write(tmp_path / "a.vhd", disk_bytes(BLOCK))
    image = change_footer(image, "saved_state", b"\x01")
    image = change_footer(image, "features", b"\x03")
    found = facts(image)
    assert (found["saved-state"], found["temporary"]) == (True, True)
    assert found["timestamp"] == 946684800
    assert tuple(found["geometry"].values()) == geometry(BLOCK)
    json.dumps(found)


def test_a_fixed_disk_of_azures_size_is_read(tmp_path: Path) -> None:
    """Azure's disks reach 32 TiB: no reader of a fixed one needs a limit."""
    image = write(tmp_path / "a.vhd", disk_bytes(4096), subformat="fixed")
    footer = open_image(image).found.footer
    size = 3 << 40
    with image.open("r+b") as out:
        out.truncate(size)
        out.seek(size)
        out.write(reseal(footer, current_size=size))
    reader = open_image(image)
    assert reader.virtual_size == size
    assert reader.read(size - 512, 512)[:8] == bytes(8)
    assert [extent.kind for extent in reader.extents()][-1] is Kind.HOLE
    reader.close()


def unpacked(samples: Path, name: str, folder: Path) -> Path:
    packed = samples / f"{name}.xz"
    if not packed.exists():
        missing(name, "the samples' folder lacks it")
    target = folder / name
    with lzma.open(packed) as source:
        target.write_bytes(source.read())
    return target


def test_sample_of_hyper_v(samples: Path, tmp_path: Path) -> None:
    # VHD-PROBE-2, VHD-SIZE-1
    image = unpacked(samples, "hyperv-fixed.vhd", tmp_path)
    reader = open_image(image)
    assert reader.virtual_size == 10_485_760
    digest = hashlib.sha256(reader.read(0, 10_485_760)).hexdigest()
    assert digest == "459325ab1fcd1d5ec9854cba790ee26378317cda177ffc1072008a1df88e6463"
    reader.close()
    assert facts(image)["creator"] == "win "
    assert check(image).exit_code == 0


def test_sample_of_virtual_pc(samples: Path, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-SIZE-1
    image = unpacked(samples, "virtualpc-dynamic.vhd", tmp_path)
    found = facts(image)
    assert (found["creator"], found["size-from"]) == ("vpc ", "chs")
    assert found["current-size"] == 136_365_211_648
    reader = open_image(image)
    assert reader.virtual_size == 136_363_130_880
    assert [extent.kind for extent in reader.extents()] == [Kind.HOLE]
    reader.close()
    assert qemu_img.json("info", "-f", "vpc", image)["virtual-size"] == 136_363_130_880
    assert check(image).exit_code == 0


def test_blocks_in_any_order_and_bitmaps_that_say_nothing(tmp_path: Path) -> None:
    # VHD-BMP-2, VHD-BAT-2
    data = disk_bytes(4 * BLOCK, seed=9)
    image = write(tmp_path / "a.vhd", data)
    raw = bytearray(image.read_bytes())
    table = raw[1536 : 1536 + 16]
    first, second = table[:4], table[4:8]
    raw[1536:1544] = second + first
    swapped = change_bytes(image, 0, bytes(raw))
    reader = open_image(swapped)
    assert reader.read(0, 2 * BLOCK) == data[BLOCK : 2 * BLOCK] + data[:BLOCK]
    reader.close()
    assert check(swapped).exit_code == 0
    start = int.from_bytes(first, "big") * 512
    cleared = change_bytes(image, start, bytes(512))
    assert compare(image, cleared).identical
    result = check(cleared)
    assert (result.exit_code, result.findings[0].clause) == (2, "VHD-BMP-2")
