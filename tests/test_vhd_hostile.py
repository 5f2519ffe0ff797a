"""Damaged and hostile VHD images: what must hold whatever a byte says."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes
from tests.support.vhd import (
    HEADER_FIELDS,
    change_bytes,
    change_footer,
    change_header,
    difference,
    open_image,
    reseal,
    seal,
    write,
)
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.formats.vhd.structs import TYPE_DIFFERENCING
from vmpack.ops.check import check
from vmpack.ops.info import info
from vmpack.ops.opening import open_image as open_path

BLOCK = 2 << 20
SIZE = 3 * BLOCK + 512
TABLE = 1536


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    return write(tmp_path / "disk.vhd", disk_bytes(SIZE, seed=1))


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    return write(tmp_path / "fixed.vhd", disk_bytes(SIZE, seed=1), subformat="fixed")


def footer_facts(path: Path) -> tuple[str, str | None]:
    document: Any = info(path).as_dict()
    found = document["format-specific"]["data"]
    return found["footer"], found.get("footer-problem")


def test_a_damaged_footer_is_replaced_by_its_copy(dynamic: Path) -> None:
    # hostile: 32
    # VHD-FTR-2, VHD-FTR-3
    assert footer_facts(dynamic) == ("end", None)
    broken = change_bytes(dynamic, -512 + 64, b"\0\0\0\1")
    where, problem = footer_facts(broken)
    assert where == "copy"
    assert "footer checksum is 0x00000001" in (problem or "")
    reader = open_image(broken)
    assert reader.read(0, SIZE) == disk_bytes(SIZE, seed=1)
    reader.close()
    result = check(broken)
    assert (result.exit_code, result.findings[0].clause) == (2, "VHD-FTR-3")


def test_a_missing_footer_is_replaced_by_its_copy(dynamic: Path) -> None:
    # hostile: 32
    # VHD-FTR-3
    cut = change_bytes(dynamic, 0, b"")
    cut.write_bytes(dynamic.read_bytes()[:-512])
    assert footer_facts(cut) == ("copy", "no VHD footer")
    reader = open_image(cut)
    assert reader.read(0, SIZE) == disk_bytes(SIZE, seed=1)
    reader.close()


def test_both_footers_wrong_is_refused(dynamic: Path, fixed: Path) -> None:
    # hostile: 32
    # VHD-FTR-1, VHD-FTR-2
    both = change_footer(dynamic, "checksum", b"\0\0\0\1")
    with pytest.raises(DamagedError, match="checksum") as caught:
        open_image(both)
    assert caught.value.clause == "VHD-FTR-2"
    with pytest.raises(DamagedError, match="checksum"):
        open_image(change_bytes(fixed, -512 + 300, b"x"))
    with pytest.raises(DamagedError, match="no VHD footer") as caught:
        open_image(change_bytes(fixed, -512, b"x"))
    assert caught.value.clause == "VHD-FTR-1"
    short = fixed.with_name("short.vhd")
    short.write_bytes(b"conectix" * 60)
    with pytest.raises(DamagedError, match="less than a VHD footer"):
        open_image(short)


def test_a_differencing_disk_needs_its_parent(dynamic: Path) -> None:
    # hostile: 33
    # VHD-REF-1
    child = difference(dynamic.with_name("child.vhd"), dynamic, SIZE, {3: b"x" * 512})
    with pytest.raises(UnsafeError) as caught:
        open_image(child)
    assert caught.value.exit_code == 4
    # What QEMU 7.2 reads as if it stood alone.
    claimed = change_footer(dynamic, "disk_type", bytes([TYPE_DIFFERENCING]))
    with pytest.raises(UnsafeError):
        open_image(claimed)
    with pytest.raises(VmpackError):
        open_image(claimed, allow_backing=True)


@pytest.mark.parametrize("size", [0, 1, 256, 3 << 20, (2 << 20) - 1, 512 << 20, 0xFFFFFFFF])
def test_block_sizes_that_cannot_be(size: int, dynamic: Path) -> None:
    # hostile: 34
    # VHD-DYN-3
    with pytest.raises(DamagedError, match="power of two") as caught:
        open_image(change_header(dynamic, "block_size", size.to_bytes(4, "big")))
    assert (caught.value.clause, caught.value.offset) == ("VHD-DYN-3", 512 + 32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table_offset", 1 << 62),
        ("table_offset", (1 << 64) - 1),
        ("max_table_entries", 0xFFFF_FFFF),
        ("max_table_entries", 3),
        ("max_table_entries", 0),
    ],
)
def test_a_table_outside_the_file_or_too_small(field: str, value: int, dynamic: Path) -> None:
    # hostile: 34
    # hostile: 9
    # VHD-BAT-1
    changed = change_header(dynamic, field, value.to_bytes(HEADER_FIELDS[field][1], "big"))
    with pytest.raises(DamagedError) as caught:
        open_image(changed)
    assert caught.value.clause == "VHD-BAT-1"


@pytest.mark.parametrize("entry", [0, 1, 2, 3, 0xFFFF_FFFE, 0x7FFF_FFFF, 1 << 20, "last", "beyond"])
def test_blocks_outside_the_file_or_over_its_tables(entry: int | str, dynamic: Path) -> None:
    # hostile: 34
    # VHD-BAT-2
    end = dynamic.stat().st_size // 512
    last = {"last": end - 4096, "beyond": end}
    number = last[entry] if isinstance(entry, str) else entry
    changed = change_bytes(dynamic, TABLE + 4, number.to_bytes(4, "big"))
    reader = open_image(changed)
    assert reader.read(0, BLOCK) == disk_bytes(SIZE, seed=1)[:BLOCK]
    with pytest.raises(DamagedError, match="block 1") as caught:
        reader.read(BLOCK - 1, 2)
    assert (caught.value.clause, caught.value.offset) == ("VHD-BAT-2", TABLE + 4)
    reader.close()
    result = check(changed)
    assert result.exit_code == 2
    assert "VHD-BAT-2" in {finding.clause for finding in result.findings}


def test_overlapping_blocks_are_found(dynamic: Path) -> None:
    # VHD-BAT-3
    raw = dynamic.read_bytes()
    first = int.from_bytes(raw[TABLE : TABLE + 4], "big")
    for entry in (first, first + 1):
        changed = change_bytes(dynamic, TABLE + 4, entry.to_bytes(4, "big"))
        result = check(changed)
        assert result.exit_code == 2
        assert result.findings[-1].clause == "VHD-BAT-3"


def test_a_small_file_cannot_be_a_huge_disk(dynamic: Path) -> None:
    # hostile: 7
    # VHD-BAT-3
    raw = bytearray(dynamic.read_bytes())
    entry = raw[TABLE : TABLE + 4]
    where, blocks = len(raw) - 512, 1 << 20
    footer = open_image(dynamic).found.footer
    sealed = reseal(footer, current_size=blocks * BLOCK)
    raw[512 + 16 : 512 + 24] = where.to_bytes(8, "big")
    raw[512 + 28 : 512 + 32] = blocks.to_bytes(4, "big")
    seal(raw, 512, 36, 1024)
    raw[:512] = sealed
    bomb = change_bytes(dynamic, 0, bytes(raw[:where]) + bytes(entry) * blocks + sealed)
    began = time.monotonic()
    tracemalloc.start()
    reader = open_image(bomb)
    with pytest.raises(DamagedError, match="more than the file can hold") as caught:
        list(reader.extents())
    assert caught.value.clause == "VHD-BAT-3"
    reader.close()
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert time.monotonic() - began < 10


def test_too_many_blocks_are_refused(dynamic: Path) -> None:
    # hostile: 8
    # VHD-BAT-1
    raw = bytearray(dynamic.read_bytes())
    footer = open_image(dynamic).found.footer
    blocks = (1 << 22) + 1
    where = len(raw) - 512
    raw[512 + 16 : 512 + 24] = where.to_bytes(8, "big")
    raw[512 + 28 : 512 + 32] = blocks.to_bytes(4, "big")
    seal(raw, 512, 36, 1024)
    sealed = reseal(footer, current_size=blocks * BLOCK)
    raw[:512] = sealed
    image = change_bytes(dynamic, 0, bytes(raw[:where]))
    with image.open("r+b") as out:
        out.truncate(where + 4 * blocks)
        out.seek(0, 2)
        out.write(sealed)
    with pytest.raises(UnsupportedError, match="blocks"):
        open_image(image)


def test_two_disks_in_one_file_are_refused(dynamic: Path, fixed: Path) -> None:
    # hostile: 3
    # VHD-FTR-4, VHD-CHECK-1
    other = write(dynamic.with_name("other.vhd"), disk_bytes(SIZE, seed=7))
    mixed = change_bytes(dynamic, -512, other.read_bytes()[-512:])
    with pytest.raises(DamagedError, match="different disks: unique id") as caught:
        open_image(mixed)
    assert caught.value.clause == "VHD-FTR-4"
    # A guest writes a dynamic disk's start into its fixed disk: QEMU would follow it.
    nested = change_bytes(fixed, 0, dynamic.read_bytes()[:4096])
    with pytest.raises(DamagedError) as caught:
        open_image(nested)
    assert caught.value.clause == "VHD-FTR-4"
    # A mere magic there is a guest's data.
    data = change_bytes(fixed, 0, b"conectix")
    reader = open_image(data)
    assert reader.read(0, 8) == b"conectix"
    reader.close()
    slightly = change_footer(dynamic, "saved_state", b"\1", copy=False)
    result = check(slightly)
    assert (result.exit_code, result.findings[0].clause) == (2, "VHD-CHECK-1")


@pytest.mark.parametrize("number", [0, 1, 5, 6, 7, 0xFFFF_FFFF])
def test_types_that_are_not_read(number: int, dynamic: Path) -> None:
    # VHD-FTR-6
    with pytest.raises(UnsupportedError, match=f"type {number}") as caught:
        open_image(change_footer(dynamic, "disk_type", number.to_bytes(4, "big")))
    assert caught.value.clause == "VHD-FTR-6"


def test_versions_that_are_not_read(dynamic: Path, fixed: Path) -> None:
    # VHD-FTR-5, VHD-DYN-2
    for image in (dynamic, fixed):
        with pytest.raises(UnsupportedError, match=r"version 2\.0") as caught:
            open_image(change_footer(image, "version", b"\0\2\0\0"))
        assert caught.value.clause == "VHD-FTR-5"
    with pytest.raises(UnsupportedError) as caught:
        open_image(change_header(dynamic, "version", b"\0\2\0\0"))
    assert caught.value.clause == "VHD-DYN-2"
    open_image(change_footer(dynamic, "version", b"\0\1\0\1")).close()


def test_a_header_that_is_none(dynamic: Path) -> None:
    # VHD-DYN-1
    for changed in (
        change_header(dynamic, "cookie", b"cxsparsE"),
        change_header(dynamic, "checksum", b"\0\0\0\1"),
        change_footer(dynamic, "data_offset", (1 << 63).to_bytes(8, "big")),
        change_footer(dynamic, "data_offset", b"\xff" * 8),
        change_footer(dynamic, "data_offset", (4096).to_bytes(8, "big")),
    ):
        with pytest.raises(DamagedError) as caught:
            open_image(changed)
        assert caught.value.clause == "VHD-DYN-1"


def test_a_fixed_disk_larger_or_smaller_than_its_file(fixed: Path) -> None:
    # VHD-SIZE-2, VHD-CHECK-2
    for size in (SIZE + 512, 1 << 62, (1 << 64) - 1):
        with pytest.raises(DamagedError) as caught:
            open_image(change_footer(fixed, "current_size", size.to_bytes(8, "big")))
        assert caught.value.clause == "VHD-SIZE-2"
    result = check(change_footer(fixed, "current_size", (SIZE - 1024).to_bytes(8, "big")))
    assert (result.exit_code, result.findings[0].clause) == (3, "VHD-CHECK-2")
    larger = change_footer(fixed, "current_size", (SIZE + 512).to_bytes(8, "big"))
    larger = change_footer(larger, "creator", b"vpc ")
    result = check(larger)
    assert (result.exit_code, result.findings[0].clause) == (2, "VHD-SIZE-2")


def test_a_name_finds_a_fixed_disk_and_nothing_else_does(
    fixed: Path, dynamic: Path, loop_device: Callable[[Path], str]
) -> None:
    # hostile: 36
    # VHD-PROBE-1, VHD-PROBE-2
    for name in ("other.vhd", "other.VHD", "other.vpc"):
        named = fixed.with_name(name)
        named.write_bytes(fixed.read_bytes())
        reader = open_path(named)
        assert (reader.format.name, reader.virtual_size) == ("vhd", SIZE)
        reader.close()
    for name in ("disk.raw", "disk.img"):
        named = fixed.with_name(name)
        named.write_bytes(fixed.read_bytes())
        with pytest.raises(UnsafeError, match="magic of vhd"):
            open_path(named)
        open_path(named, format="vhd").close()
    bare = fixed.with_name("disk")
    bare.write_bytes(fixed.read_bytes())
    with pytest.raises(UnsupportedError, match="not recognised"):
        open_path(bare)
    device = loop_device(bare)
    with pytest.raises(UnsupportedError, match="not recognised"):
        open_path(device)
    for format_name, size in (("vhd", SIZE), ("vpc", SIZE), ("raw", SIZE + 512)):
        reader = open_path(device, format=format_name)
        assert reader.virtual_size == size
        reader.close()
    bare.write_bytes(dynamic.read_bytes())
    reader = open_path(bare)
    assert reader.format.name == "vhd"
    reader.close()


def test_a_vhd_by_name_alone_is_damaged(tmp_path: Path) -> None:
    # VHD-PROBE-2
    path = tmp_path / "disk.vhd"
    path.write_bytes(bytes(4096))
    with pytest.raises(DamagedError, match="no vhd magic"):
        open_path(path)


def test_cut_at_every_structure(dynamic: Path, fixed: Path) -> None:
    data = disk_bytes(SIZE, seed=1)
    for image in (dynamic, fixed):
        raw = image.read_bytes()
        places = {0, 1, 511, 512, 1535, 1536, 1540, 2048, 4096, len(raw) // 2}
        places |= {len(raw) - n for n in (1, 2, 511, 512, 513, 1024, 4096)}
        for length in sorted(places):
            cut = change_bytes(image, 0, b"")
            cut.write_bytes(raw[:length])
            try:
                reader = open_image(cut)
            except VmpackError:
                continue
            try:
                assert reader.read(0, reader.virtual_size) == data
            except VmpackError:
                pass
            finally:
                reader.close()
