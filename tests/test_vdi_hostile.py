"""Hostile and damaged VDI images."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.images import patch
from tests.support.qemu import QemuImg
from tests.support.vdi import FREE, MIB, ZERO, field, le, open_vdi, write_vdi
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.extent import Kind
from vmpack.ops.check import check
from vmpack.ops.info import info


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Three blocks stored out of order, one free, one zero, one at the end of the disk."""
    path = tmp_path / "a.vdi"
    stored = {number: bytes([number + 1]) * 4096 for number in range(4)}
    write_vdi(path, [2, FREE, 0, ZERO, 1, 3], stored, block=4096, size=5 * 4096 + 512)
    return path


@pytest.mark.parametrize(
    ("name", "value", "clause"),
    [
        # hostile: 39
        ("header_size", 383, "VDI-HDR-3"),
        ("header_size", 441, "VDI-HDR-3"),
        ("header_size", 0xFFFFFFFF, "VDI-HDR-3"),
        ("offset_map", 0, "VDI-HDR-3"),
        ("offset_map", 513, "VDI-HDR-5"),
        ("offset_map", 1 << 20, "VDI-HDR-5"),
        ("offset_map", 0xFFFFFE00, "VDI-HDR-5"),
        ("offset_data", 512, "VDI-HDR-6"),
        ("offset_data", 1025, "VDI-HDR-6"),
        ("offset_data", 0, "VDI-HDR-6"),
        ("sector_size", 4096, "VDI-HDR-7"),
        ("sector_size", 0, "VDI-HDR-7"),
        ("disk_size", 1 << 63, "VDI-HDR-8"),
        ("disk_size", (1 << 64) - 1, "VDI-HDR-8"),
        ("block_size", 0, "VDI-HDR-9"),
        ("block_size", 2048, "VDI-HDR-9"),
        ("block_size", 4097, "VDI-HDR-9"),
        ("block_size", 1 << 29, "VDI-HDR-9"),
        ("block_extra", 512, "VDI-HDR-10"),
        ("disk_size", 6 * 4096 + 1, "VDI-HDR-11"),
        ("disk_size", 1 << 50, "VDI-HDR-11"),
        ("blocks", 5, "VDI-HDR-11"),
        ("blocks", 0, "VDI-HDR-11"),
        ("blocks", 0xFFFFFFFF, "VDI-HDR-11"),
        ("blocks", 0x1FFFFFFF, "VDI-HDR-5"),
        ("blocks_allocated", 7, "VDI-HDR-12"),
    ],
)
def test_header_field_out_of_bounds(name: str, value: int, clause: str, image: Path) -> None:
    # hostile: 39
    with pytest.raises((DamagedError, UnsupportedError)) as caught:
        open_vdi(patch(image, field(name, value)))
    assert caught.value.clause == clause


def test_parents_uuids_belong_to_differencing_images(image: Path) -> None:
    # hostile: 39, VDI-HDR-13
    for changes in ({0x1A8: b"\1"}, {0x1B8: b"\1"}, field("image_type", 4)):
        with pytest.raises(DamagedError) as caught:
            open_vdi(patch(image, changes))
        assert caught.value.clause == "VDI-HDR-13"


def test_no_header_at_all(tmp_path: Path, image: Path) -> None:
    # VDI-HDR-1
    whole = image.read_bytes()
    cut = tmp_path / "cut.vdi"
    for content in (b"", whole[:71], whole[:455], whole[:511], bytes(512)):
        cut.write_bytes(content)
        with pytest.raises(DamagedError) as caught:
            open_vdi(cut)
        assert caught.value.clause == "VDI-HDR-1"


@pytest.mark.parametrize(
    ("slot", "entry", "clause"),
    [
        (0, 4, "VDI-MAP-2"),
        (0, 0xFFFFFFFD, "VDI-MAP-2"),
        (1, 6, "VDI-MAP-2"),
        (1, 3, "VDI-MAP-3"),
        (2, 2, "VDI-MAP-3"),
    ],
)
def test_map_entries_out_of_bounds(slot: int, entry: int, clause: str, image: Path) -> None:
    # hostile: 39
    # hostile: 7: blocks that are stored once and mapped often would be terabytes of data
    bad = patch(image, {512 + 4 * slot: le(entry)})
    reader = open_vdi(bad)
    for _ in range(2):
        with pytest.raises(DamagedError) as caught:
            reader.read(0, 4096)
        assert caught.value.clause == clause
        with pytest.raises(DamagedError):
            list(reader.extents())
    reader.close()
    assert check(bad).exit_code == 2


def test_a_map_of_one_block_is_no_petabyte(tmp_path: Path) -> None:
    # hostile: 7
    image = tmp_path / "a.vdi"
    write_vdi(image, [0], {})
    count = 3 << 20
    with image.open("r+b") as out:
        # The map itself a hole of the file: zeros, each of them block 0.
        out.truncate(512 + 4 * count + MIB)
    changes = field("blocks", count) | field("offset_data", 512 + 4 * count)
    with image.open("r+b") as out:
        for offset, value in (changes | field("disk_size", count * MIB)).items():
            out.seek(offset)
            out.write(value)
    tracemalloc.start()
    reader = open_vdi(image)
    with pytest.raises(DamagedError, match="where another one does"):
        list(reader.extents())
    reader.close()
    assert info(image).as_dict()["virtual-size"] == count * MIB
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_an_empty_disk_of_half_a_petabyte(tmp_path: Path) -> None:
    # hostile: 8
    from vmpack.ops.create import create

    image = tmp_path / "a.vdi"
    size = 32 << 40
    create(image, size, "vdi")
    reader = open_vdi(image)
    assert [(one.length, one.kind) for one in reader.extents()] == [(size, Kind.HOLE)]
    assert reader.read(size - 512, 512) == bytes(512)
    reader.close()
    # hostile: 8, VDI-WRITE-6
    with pytest.raises(UnsupportedError, match="VDI holds") as caught:
        create(tmp_path / "b.vdi", 1 << 49, "vdi")
    assert caught.value.clause == "VDI-WRITE-6"
    assert not (tmp_path / "b.vdi").exists()


def test_mutated_headers_and_maps_end_in_success_or_vmpacks_own_error(image: Path) -> None:
    # hostile: 10
    rng = random.Random(39)
    data = image.read_bytes()
    bad = image.with_name("bad.vdi")
    values = (0, 1, 2, 511, 512, 4096, 1 << 20, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)
    for _ in range(400):
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(0x40, 512 + 24) // 4 * 4
            out[at : at + 4] = le(rng.choice(values) ^ (rng.random() < 0.2))
        bad.write_bytes(out)
        for step in (info, check, read_some):
            with suppress(VmpackError):
                step(bad)


def read_some(path: Path) -> None:
    reader = open_vdi(path)
    try:
        for number, extent in enumerate(reader.extents()):
            if number == 16:
                break
            reader.read(extent.offset, min(extent.length, 65536))
    finally:
        reader.close()


def test_cut_anywhere_is_damage_or_whole(image: Path) -> None:
    reader = open_vdi(image)
    want = reader.read(0, reader.virtual_size)
    reader.close()
    data = image.read_bytes()
    cut = image.with_name("cut.vdi")
    refused = 0
    for length in range(0, len(data), 509):
        cut.write_bytes(data[:length])
        try:
            reader = open_vdi(cut)
        except DamagedError:
            refused += 1
            continue
        try:
            assert reader.read(0, reader.virtual_size) == want
        except DamagedError:
            refused += 1
        finally:
            reader.close()
    # Only what lies behind the disk's end, in its last block, may be missing.
    assert refused >= (len(data) - 4096) // 509


@pytest.mark.qemu
def test_check_judges_as_qemu_img_does(tmp_path: Path, qemu_img: QemuImg) -> None:
    # VDI-CHECK-1, VDI-CHECK-2
    image = tmp_path / "a.vdi"
    write_vdi(image, [2, FREE, 0, ZERO, 1], {2: b"x" * MIB})
    cases: dict[str, dict[int, bytes]] = {
        "sound": {},
        "said to be more": field("blocks_allocated", 4),
        "said to be fewer": field("blocks_allocated", 2),
        "one twice": {512: le(1)},
        "beyond": {512: le(3)},
        "far beyond": {512: le(0xFFFFFFF0)},
        "one lost": {512: le(FREE)},
    }
    for name, changes in cases.items():
        bad = patch(image, changes)
        theirs = qemu_img.run("check", "-f", "vdi", bad, check=False).returncode
        found = check(bad)
        assert found.exit_code == (2 if changes else 0), (name, found.findings)
        # QEMU does not look where the file ends, nor at the block that it would allocate next.
        assert theirs == (0 if name == "beyond" else found.exit_code)
    clauses = {one.clause for one in check(patch(image, {512: le(3)})).findings}
    assert clauses == {"VDI-CHECK-1", "VDI-MAP-2"}
    clauses = {one.clause for one in check(patch(image, {512: le(FREE)})).findings}
    assert clauses == {"VDI-CHECK-2"}
