"""Damaged and hostile VHDX files: each field changed, checksums made right again."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.support.vhdx import DISK_ID, Made, MiB, header, open_vhdx, patch
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.formats.vhdx.reader import VhdxReader
from vmpack.ops.check import check

NEW = UUID(int=0xABCDEF)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Made]:
    made = Made(4 * MiB, blocks={0: (6, b"a" * MiB), 2: (6, b"b" * MiB)})
    return made.write(tmp_path / "disk.vhdx"), made


def both(path: Path, offset: int, raw: bytes) -> None:
    """Change both headers, or both region tables, at ``offset`` of the first."""
    patch(path, offset, raw)
    patch(path, offset + 0x10000, raw)


def refused(path: Path) -> VmpackError:
    with pytest.raises(VmpackError) as caught:
        open_vhdx(path)
    assert isinstance(caught.value, DamagedError | UnsupportedError)
    assert check(path, format="vhdx").exit_code in (2, 63)
    return caught.value


u16, u32, u64 = (struct.Struct(code).pack for code in ("<H", "<I", "<Q"))


@pytest.mark.parametrize(
    ("offset", "raw", "clause"),
    [
        (0, b"vhdxfilf", "VHDX-HDR-1"),
        (0x10000 + 66, u16(2), "VHDX-HDR-4"),
        (0x10000 + 68, u32(MiB + 4096), "VHDX-HDR-5"),
        (0x10000 + 68, u32(64 * MiB), "VHDX-HDR-5"),
        (0x10000 + 72, u64(0), "VHDX-HDR-5"),
        (0x10000 + 72, u64(MiB + 512), "VHDX-HDR-5"),
        (0x10000 + 72, u64(1 << 63), "VHDX-HDR-5"),
        (0x10000 + 72, u64(2 * MiB), "VHDX-REG-4"),
        (0x30000 + 8, u32(2048), "VHDX-REG-2"),
        (0x30000 + 8, u32(0xFFFF_FFFF), "VHDX-REG-2"),
        (0x30000 + 8, u32(1), "VHDX-REG-6"),
        (0x30000 + 8, u32(0), "VHDX-REG-6"),
        (0x30000 + 16 + 16, u64(0), "VHDX-REG-3"),
        (0x30000 + 16 + 16, u64(3 * MiB + 512), "VHDX-REG-3"),
        (0x30000 + 16 + 16, u64(1 << 50), "VHDX-REG-3"),
        (0x30000 + 16 + 16, u64((1 << 64) - MiB), "VHDX-REG-3"),
        (0x30000 + 16 + 16, u64(2 * MiB), "VHDX-REG-4"),
        (0x30000 + 16 + 16, u64(MiB), "VHDX-REG-4"),
        (0x30000 + 16 + 24, u32(0), "VHDX-REG-3"),
        (0x30000 + 16 + 24, u32(4096), "VHDX-REG-3"),
        (0x30000 + 16 + 24, u32(0xFFF0_0000), "VHDX-REG-3"),
        (0x30000 + 16, NEW.bytes_le, "VHDX-REG-5"),
        (0x30000 + 48, Made(0).region_table()[16:32], "VHDX-REG-4"),
    ],
)
def test_headers_and_regions(offset: int, raw: bytes, clause: str, disk: tuple[Path, Made]) -> None:
    # hostile: 38
    path, _ = disk
    if offset:
        both(path, offset, raw)
    else:
        patch(path, offset, raw)
    assert refused(path).clause == clause


def test_checksums_are_checked(disk: tuple[Path, Made]) -> None:
    # hostile: 38
    # VHDX-HDR-2, VHDX-REG-1
    path, _ = disk
    whole = path.read_bytes()
    for offset, clause in ((0x10000, "VHDX-HDR-2"), (0x30000, "VHDX-REG-1")):
        for at in (0, 5, 900, 4095):
            raw = bytearray(whole)
            raw[offset + at] ^= 1
            raw[offset + 0x10000 + at] ^= 1
            path.write_bytes(raw)
            assert refused(path).clause == clause


def test_the_newer_header_is_current(disk: tuple[Path, Made]) -> None:
    # VHDX-HDR-2, VHDX-HDR-3
    path, _ = disk
    patch(path, 0x10000, header(9, data_write=UUID(int=1)))
    patch(path, 0x20000, header(8, data_write=UUID(int=2)))
    reader = open_vhdx(path)
    assert reader.image.header.data_write_guid == UUID(int=1)
    reader.close()
    patch(path, 0x20000, header(9, data_write=UUID(int=1)))
    open_vhdx(path).close()
    patch(path, 0x20000, header(9, data_write=UUID(int=2)))
    assert refused(path).clause == "VHDX-HDR-3"


def test_regions_that_nobody_knows(disk: tuple[Path, Made]) -> None:
    # hostile: 38
    # VHDX-REG-5: an optional one is left alone, but no block may lie in it.
    path, made = disk
    place = made.data_at
    for at in (0x30000, 0x40000):
        patch(path, at, made.region_table([(NEW, place, MiB, 0)]))
    reader = open_vhdx(path)
    with pytest.raises(DamagedError) as caught:
        reader.read(0, 1)
    assert caught.value.clause == "VHDX-BAT-4"
    assert reader.read(2 * MiB, 1) == b"b"
    reader.close()
    for at in (0x30000, 0x40000):
        patch(path, at, made.region_table([(NEW, place, MiB, 1)]))
    error = refused(path)
    assert (error.clause, str(NEW) in error.message) == ("VHDX-REG-5", True)
    patch(path, 0x40000, made.region_table())
    patch(path, 0x30000, made.region_table())
    assert check(path).exit_code == 0
    patch(path, 0x40000, made.region_table([(NEW, place, MiB, 0)]))
    assert [one.clause for one in check(path).findings] == ["VHDX-REG-1"]


def test_two_thousand_regions_and_items(disk: tuple[Path, Made], tmp_path: Path) -> None:
    # hostile: 7
    path, made = disk
    rows = [(UUID(int=n), (100 + n) * MiB, MiB, 0) for n in range(1, 2046)]
    for at in (0x30000, 0x40000):
        patch(path, at, made.region_table(rows))
    with path.open("r+b") as out:
        out.truncate(3000 * MiB)
    reader = open_vhdx(path)
    assert reader.read(0, 1) == b"a"
    reader.close()
    items = [(UUID(int=n), 0, b"x") for n in range(1, 2043)]
    open_vhdx(Made(MiB, items=items).write(path)).close()


METADATA: list[tuple[str, Callable[[Made], tuple[int, bytes]], str]] = [
    ("signature", lambda m: (0, b"metadatb"), "VHDX-META-1"),
    ("count", lambda m: (10, u16(2048)), "VHDX-META-1"),
    ("no items", lambda m: (10, u16(0)), "VHDX-META-4"),
    ("four items", lambda m: (10, u16(4)), "VHDX-META-4"),
    ("twice", lambda m: (32, DISK_ID.bytes_le), "VHDX-META-1"),
    ("unknown", lambda m: (32, NEW.bytes_le), "VHDX-META-3"),
    ("user's", lambda m: (32 + 24, u32(5)), "VHDX-META-3"),
    ("user's, optional", lambda m: (32 + 24, u32(1)), "VHDX-META-4"),
    ("low", lambda m: (32 + 16, u32(65535)), "VHDX-META-2"),
    ("high", lambda m: (32 + 16, u32(MiB - 7)), "VHDX-META-2"),
    ("far", lambda m: (32 + 16, u32(0xFFFF_FFFF)), "VHDX-META-2"),
    ("long", lambda m: (32 + 20, u32(0xFFFF_FFFF)), "VHDX-META-2"),
    ("overlap", lambda m: (32 + 16, u32(65540)), "VHDX-META-2"),
    ("empty", lambda m: (32 + 16, bytes(8)), "VHDX-META-4"),
    ("length", lambda m: (32 + 20, u32(4)), "VHDX-META-4"),
    ("block 0", lambda m: (65536, u32(0)), "VHDX-META-5"),
    ("block 512K", lambda m: (65536, u32(MiB // 2)), "VHDX-META-5"),
    ("block 3M", lambda m: (65536, u32(3 * MiB)), "VHDX-META-5"),
    ("block 512M", lambda m: (65536, u32(512 * MiB)), "VHDX-META-5"),
    ("flags", lambda m: (65540, u32(8)), "VHDX-META-8"),
    ("size", lambda m: (65544, u64(4 * MiB + 1)), "VHDX-META-7"),
    ("64 TiB", lambda m: (65544, u64((64 << 40) + 512)), "VHDX-META-7"),
    ("size 2**64", lambda m: (65544, u64((1 << 64) - 512)), "VHDX-META-7"),
    ("1 TiB", lambda m: (65544, u64(1 << 40)), "VHDX-BAT-1"),
    ("logical", lambda m: (65568, u32(1024)), "VHDX-META-6"),
    ("logical 0", lambda m: (65568, u32(0)), "VHDX-META-6"),
    ("physical", lambda m: (65572, u32(8192)), "VHDX-META-6"),
]


@pytest.mark.parametrize(
    ("change", "clause"), [row[1:] for row in METADATA], ids=[r[0] for r in METADATA]
)
def test_metadata(
    change: Callable[[Made], tuple[int, bytes]], clause: str, disk: tuple[Path, Made]
) -> None:
    # hostile: 38
    path, made = disk
    offset, raw = change(made)
    patch(path, made.metadata_at + offset, raw)
    assert refused(path).clause == clause


def test_too_many_items_of_the_user(tmp_path: Path) -> None:
    # VHDX-META-1
    items = [(UUID(int=n), 1, b"") for n in range(1025)]
    path = Made(MiB, items=items[:1024]).write(tmp_path / "disk.vhdx")
    open_vhdx(path).close()
    Made(MiB, items=items).write(path)
    assert refused(path).clause == "VHDX-META-1"


@pytest.mark.parametrize(
    ("word", "clause"),
    [
        (6, "VHDX-BAT-4"),
        (6 | MiB, "VHDX-BAT-4"),
        (6 | 2 * MiB, "VHDX-BAT-4"),
        (6 | 3 * MiB, "VHDX-BAT-4"),
        (6 | 6 * MiB, "VHDX-BAT-3"),
        (6 | (1 << 64) - MiB, "VHDX-BAT-3"),
        (6 | 8 | 5 * MiB, "VHDX-BAT-2"),
        (2 | 0x80000, "VHDX-BAT-2"),
        (4, "VHDX-BAT-2"),
        (5, "VHDX-BAT-2"),
        (7 | 5 * MiB, "VHDX-BAT-2"),
    ],
)
def test_bat_entries(word: int, clause: str, disk: tuple[Path, Made]) -> None:
    # hostile: 38
    path, made = disk
    patch(path, made.entry_at(1), u64(word))
    reader = open_vhdx(path)
    assert reader.read(0, MiB) == b"a" * MiB
    for call in (lambda: reader.read(MiB, 1), lambda: list(reader.extents())):
        with pytest.raises(DamagedError) as caught:
            call()
        assert caught.value.clause == clause
        assert caught.value.offset == made.entry_at(1)
    assert [(one.clause, one.guest_offset) for one in reader.check()] == [(clause, MiB)]
    reader.close()


def test_blocks_that_overlap(tmp_path: Path) -> None:
    # VHDX-BAT-6: found by check; a reader meets the same bytes twice, and nothing else.
    made = Made(8 * MiB, block=2 * MiB, blocks={n: (6, bytes([n]) * 2 * MiB) for n in range(4)})
    path = made.write(tmp_path / "disk.vhdx")
    assert check(path).exit_code == 0
    patch(path, made.entry_at(2), u64(6 | made.data_at + MiB))
    (found,) = check(path).findings[:1]
    assert (found.clause, found.guest_offset) == ("VHDX-BAT-6", 4 * MiB)


def test_a_bitmap_in_a_disk_without_parent(disk: tuple[Path, Made]) -> None:
    # VHDX-BAT-7
    path, made = disk
    patch(path, made.bitmap_entry_at(0), u64(6 | made.data_at))
    reader = open_vhdx(path)
    assert reader.read(0, 1) == b"a"
    assert [one.clause for one in reader.check()] == ["VHDX-BAT-7"]
    reader.close()


def test_cuts(disk: tuple[Path, Made], tmp_path: Path) -> None:
    path, _ = disk
    raw = path.read_bytes()
    marks = (0, 7, 8, 520, 0x10000, 0x20FFF, 0x30000, MiB, 2 * MiB, 3 * MiB, 4 * MiB, 5 * MiB)
    for mark in marks:
        for length in (mark, mark + 1):
            path.write_bytes(raw[:length])
            try:
                reader = open_vhdx(path)
            except VmpackError:
                continue
            with pytest.raises(DamagedError):
                reader.read(0, reader.virtual_size)
            reader.close()


def everything(path: Path) -> None:
    """What a user may do: each ends well or in vmpack's own error, fit for a terminal."""
    for options in ({}, {"metadata_only": True}, {"allow_backing": True}):
        try:
            reader = open_vhdx(path, **options)
        except VmpackError as exc:
            assert str(exc).isprintable()  # noqa: PT017 - success is as good
            continue
        calls: tuple[Callable[[VhdxReader], object], ...] = (
            lambda one: one.info(),
            lambda one: list(islice(one.check(), 9)),
            lambda one: list(islice(one.extents(), 9)),
            lambda one: one.read(0, min(one.virtual_size, 5 * MiB)),
        )
        for call in calls:
            with suppress(VmpackError):
                call(reader)
        reader.close()


def test_mutations(disk: tuple[Path, Made], tmp_path: Path) -> None:
    # hostile: 10
    # Fields of every structure, checksums made right again.
    path, made = disk
    whole = path.read_bytes()
    rng = Random(38)
    meta = made.metadata_at
    hot = [(0, 520), (0x10000, 80), (0x30000, 80), (meta, 192), (meta + 65536, 40)]
    hot += [(made.entry_at(0), 40), (made.bitmap_entry_at(0), 8)]
    target = tmp_path / "mutated.vhdx"
    target.write_bytes(whole)
    for _ in range(400):
        undo = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            start, length = rng.choice(hot)
            at = start + rng.randrange(length)
            raw = rng.choice((bytes([rng.randrange(256)]), u32(rng.choice((0, 1, MiB, 1 << 31)))))
            undo.append((at, len(raw)))
            for place in (at, at + 0x10000) if 0x10000 <= at < 0x40000 else (at,):
                patch(target, place, raw)
                undo.append((place, len(raw)))
        everything(target)
        for at, length in undo:
            patch(target, at, whole[at : at + length])
    assert target.read_bytes() == whole
