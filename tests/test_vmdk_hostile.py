"""Damaged and hostile VMDK extents: each ends in the project's own error, in bounded work."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.vmdk import (
    Image,
    contents,
    cowd,
    damage,
    found,
    header,
    open_vmdk,
    padded,
    sesparse,
    sparse,
    text,
    u32,
    u64,
)
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.ops.info import info

DATA = random.Random(5).randbytes(65536)
GRAIN = 4096
Change = Callable[[Image], object]


HEADERS: dict[str, tuple[Change, type[VmpackError], str]] = {
    "version 0": (lambda i: i.set_header(version=0), UnsupportedError, "SPARSE-1"),
    "version 4": (lambda i: i.set_header(version=4), UnsupportedError, "SPARSE-1"),
    "flag 18": (lambda i: i.set_header(flags=1 << 18 | 3), UnsupportedError, "SPARSE-2"),
    "newlines": (lambda i: i.set_header(newlines=b"\r\n \n"), DamagedError, "SPARSE-3"),
    "no entries": (lambda i: i.set_header(entries=0), DamagedError, "SPARSE-4"),
    "513 entries": (lambda i: i.set_header(entries=513), DamagedError, "SPARSE-4"),
    "2**32-1 entries": (lambda i: i.set_header(entries=2**32 - 1), DamagedError, "SPARSE-4"),
    "grain 0": (lambda i: i.set_header(grain=0), DamagedError, "MAP-1"),
    "grain 12": (lambda i: i.set_header(grain=12), DamagedError, "MAP-1"),
    "grain 8192": (lambda i: i.set_header(grain=8192), DamagedError, "MAP-1"),
    "grain 2**63": (lambda i: i.set_header(grain=1 << 63), DamagedError, "MAP-1"),
    "8 EiB": (lambda i: i.set_header(capacity=1 << 54), DamagedError, "MAP-1"),
    "directory": (lambda i: i.set_header(capacity=1 << 50), DamagedError, "SPARSE-4"),
    "algorithm 2": (lambda i: i.set_header(algorithm=2), UnsupportedError, "STREAM-1"),
    "deflate without flag": (lambda i: i.set_header(algorithm=1), DamagedError, "STREAM-1"),
    "flag without deflate": (lambda i: i.set_header(flags=0x30003), DamagedError, "STREAM-1"),
    "no markers": (
        lambda i: i.set_header(flags=0x10003, algorithm=1),
        UnsupportedError,
        "STREAM-1",
    ),
    "markers alone": (lambda i: i.set_header(flags=0x20003), UnsupportedError, "STREAM-1"),
    "end": (lambda i: i.set_header(gd=(1 << 64) - 1), DamagedError, "STREAM-2"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str, tmp_path: Path) -> None:
    # hostile: 27
    # VMDK-SPARSE-1, VMDK-SPARSE-2, VMDK-SPARSE-3, VMDK-SPARSE-4, VMDK-MAP-1, VMDK-STREAM-1
    change, kind, clause = HEADERS[name]
    image = sparse(DATA)
    change(image)
    path = image.save(tmp_path / "disk.vmdk")
    with pytest.raises(kind) as caught:
        open_vmdk(path)
    assert caught.value.clause == f"VMDK-{clause}"


def test_flags_that_readers_may_ignore(tmp_path: Path) -> None:
    # VMDK-SPARSE-2
    image = sparse(DATA).set_header(flags=0xFFF2, newlines=b"none", unclean=1)
    path = image.save(tmp_path / "disk.vmdk")
    assert contents(path) == DATA
    assert info(path).as_dict()["dirty-flag"] is True


TABLES: dict[str, tuple[Change, str]] = {
    "no directory": (lambda i: i.set_header(gd=0), "SPARSE-5"),
    "directory in the header": (lambda i: i.set_header(gd=1), "SPARSE-5"),
    "directory far away": (lambda i: i.set_header(gd=1 << 62), "SPARSE-5"),
    "table far away": (lambda i: i.set_word("gd", 0, 2**32 - 1), "MAP-3"),
    "table in the header": (lambda i: i.set_word("gd", 0, 1), "MAP-3"),
    "table in its directory": (lambda i: i.set_word("gd", 0, i.places["gd"] // 512), "MAP-3"),
    "grain far away": (lambda i: i.set_word("gt", 3, 2**32 - 1), "MAP-4"),
    "grain half behind the end": (
        lambda i: i.set_word("gt", 3, len(i.data) // 512 - 4),
        "MAP-4",
    ),
    "grain in the header": (lambda i: i.set_word("gt", 3, 1), "MAP-4"),
    "grain in the directory": (
        lambda i: i.set_word("gt", 3, i.places["gd"] // 512 - 7),
        "MAP-4",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path: Path) -> None:
    # hostile: 27
    # VMDK-SPARSE-5, VMDK-MAP-3, VMDK-MAP-4
    change, clause = TABLES[name]
    image = sparse(DATA, flags=1)
    change(image)
    assert damage(image, tmp_path).clause == f"VMDK-{clause}"
    assert f"VMDK-{clause}" in found(image, tmp_path)


def test_tables_that_share_their_place(tmp_path: Path) -> None:
    # VMDK-MAP-3
    image = sparse(DATA * 40)
    image.set_word("gd", 1, image.word("gd") + 3)
    assert damage(image, tmp_path).clause == "VMDK-MAP-3"
    assert found(image, tmp_path) == ["VMDK-MAP-3"]


def test_redundant_directory_takes_over(tmp_path: Path) -> None:
    # VMDK-SPARSE-5
    data = DATA * 40
    changes: tuple[Change, ...] = (
        lambda i: i.set_header(gd=1 << 40),
        lambda i: i.set_word("gd", 1, 1 << 30),
        lambda i: i.set_word("gd", 0, 1 << 30).set_word("gd", 1, 1 << 31),
    )
    for change in changes:
        image = sparse(data)
        change(image)
        assert contents(image.save(tmp_path / "disk.vmdk")) == data
        assert set(found(image, tmp_path)) == {"VMDK-SPARSE-5"}
    image.set_word("rgd", 0, 1 << 30)
    assert damage(image, tmp_path).clause == "VMDK-MAP-3"


def test_redundant_tables_differ(tmp_path: Path) -> None:
    # VMDK-SPARSE-6
    image = sparse(DATA)
    assert found(image, tmp_path) == []
    image.set_word("rgt", 5, 0)
    assert found(image, tmp_path) == ["VMDK-SPARSE-6"]
    image.set_header(rgd=1 << 40)
    assert found(image, tmp_path) == ["VMDK-SPARSE-5"]


def test_check_finds_all_that_is_wrong(tmp_path: Path) -> None:
    # VMDK-CHECK-1, VMDK-MAP-4
    image = sparse(DATA, flags=1)
    image.set_word("gt", 2, 1 << 31).set_word("gt", 9, 1).set_word("gt", 4, image.word("gt", 5))
    image.set_word("gt", 12, image.word("gt", 13) - 1)
    assert sorted(map(str, found(image, tmp_path))) == [
        *["VMDK-CHECK-1"] * 2,
        *["VMDK-MAP-4"] * 2,
    ]


def test_disk_of_no_sectors(tmp_path: Path) -> None:
    # VMDK-SPARSE-7
    own = text("monolithicSparse", ['RW 0 SPARSE "disk.vmdk"'])
    path = tmp_path / "disk.vmdk"
    for top in (header(), header(descriptor_at=1, descriptor_size=2)):
        path.write_bytes(padded(top + own, 2048))
        assert contents(path) == b""
    path.write_bytes(header())
    with pytest.raises(UnsafeError, match="is one extent of an image"):
        open_vmdk(path)


def test_extent_on_its_own_is_no_disk(tmp_path: Path) -> None:
    # VMDK-PART-6
    path = sparse(DATA, descriptor=b"").save(tmp_path / "disk-s001.vmdk")
    with pytest.raises(UnsafeError, match="its descriptor is another file") as caught:
        open_vmdk(path)
    assert "name the descriptor" in str(caught.value.hint)
    path = cowd(DATA, flags=2).save(tmp_path / "disk-delta.vmdk")
    with pytest.raises(UnsafeError, match="changes to a parent"):
        open_vmdk(path)


COWDS: dict[str, tuple[Change, type[VmpackError], str]] = {
    "version": (lambda i: i.put(4, u32(2)), UnsupportedError, "COWD-1"),
    "inconsistent": (lambda i: i.put(8, u32(7)), DamagedError, "COWD-1"),
    "grain": (lambda i: i.put(16, u32(0)), DamagedError, "MAP-1"),
    "grain 3": (lambda i: i.put(16, u32(3)), DamagedError, "MAP-1"),
    "directory 0": (lambda i: i.put(20, u32(0)), DamagedError, "COWD-2"),
    "directory far away": (lambda i: i.put(20, u32(2**32 - 1)), DamagedError, "COWD-2"),
    "no tables": (lambda i: i.put(24, u32(0)), DamagedError, "COWD-2"),
    "capacity": (lambda i: i.put(12, u32(2**32 - 1)), DamagedError, "COWD-2"),
    "table": (lambda i: i.set_word("gd", 0, 2**32 - 1), DamagedError, "MAP-3"),
    "grain far away": (lambda i: i.set_word("gt 0", 0, 2**32 - 1), DamagedError, "MAP-4"),
    "grain in the header": (lambda i: i.set_word("gt 0", 0, 3), DamagedError, "MAP-4"),
}


@pytest.mark.parametrize("name", COWDS)
def test_copy_on_write_extents(name: str, tmp_path: Path) -> None:
    # VMDK-COWD-1, VMDK-COWD-2
    change, kind, clause = COWDS[name]
    image = cowd(DATA)
    change(image)
    with pytest.raises(kind) as caught:
        contents(image.save(tmp_path / "disk.vmdk"))
    assert caught.value.clause == f"VMDK-{clause}"


SESPARSES: dict[str, tuple[Change, type[VmpackError], str]] = {
    "version": (lambda i: i.put(8, u64(1)), UnsupportedError, "SE-1"),
    "grain": (lambda i: i.put(24, u64(16)), UnsupportedError, "SE-1"),
    "table": (lambda i: i.put(32, u64(65)), UnsupportedError, "SE-1"),
    "flags": (lambda i: i.put(40, u64(1)), UnsupportedError, "SE-1"),
    "reserved": (lambda i: i.put(64, u64(1)), UnsupportedError, "SE-1"),
    "padding": (lambda i: i.put(504, u64(1)), UnsupportedError, "SE-1"),
    "journal": (lambda i: i.put(512 + 24, u64(1)), UnsupportedError, "SE-2"),
    "volatile 0": (lambda i: i.put(80, u64(0)), DamagedError, "SE-3"),
    "volatile far away": (lambda i: i.put(80, u64(1 << 62)), DamagedError, "SE-3"),
    "directory far away": (lambda i: i.put(128, u64(1 << 62)), DamagedError, "SE-3"),
    "directory long": (lambda i: i.put(136, u64(1 << 62)), DamagedError, "SE-3"),
    "directory short": (lambda i: i.put(16, u64(1 << 40)), DamagedError, "SE-3"),
    "entry 2": (lambda i: i.put(i.places["gd"], u64(2 << 60)), DamagedError, "SE-4"),
    "table 1": (lambda i: i.put(i.places["gd"], u64(1 << 60 | 1)), DamagedError, "SE-4"),
    "tables far away": (lambda i: i.put(144, u64(1 << 60)), DamagedError, "SE-4"),
    "state 4": (lambda i: i.put(i.places["tables"], u64(4 << 60)), DamagedError, "SE-5"),
    "state 15": (lambda i: i.put(i.places["tables"], u64(15 << 60)), DamagedError, "SE-5"),
    "hole": (lambda i: i.put(i.places["tables"], u64(7)), DamagedError, "SE-5"),
    "grain 2**60": (lambda i: i.put(i.places["tables"], u64((1 << 62) - 1)), DamagedError, "SE-5"),
    "grains far away": (lambda i: i.put(192, u64(1 << 60)), DamagedError, "MAP-4"),
}


@pytest.mark.parametrize("name", SESPARSES)
def test_sesparse_extents(name: str, tmp_path: Path) -> None:
    # VMDK-SE-1, VMDK-SE-2, VMDK-SE-3, VMDK-SE-4, VMDK-SE-5
    change, kind, clause = SESPARSES[name]
    image = sesparse(DATA)
    change(image)
    with pytest.raises(kind) as caught:
        contents(image.save(tmp_path / "disk.vmdk"))
    assert caught.value.clause == f"VMDK-{clause}"


def test_sesparse_volatile_magic(tmp_path: Path) -> None:
    image = sesparse(DATA).put(512, u64(0))
    assert "volatile header: wrong magic" in damage(image, tmp_path).message


def test_a_directory_is_bounded(tmp_path: Path) -> None:
    """The most tables that a directory may name, none of them there: seconds and MiBs at most."""
    # hostile: 7
    # hostile: 8
    # VMDK-SPARSE-4
    path = tmp_path / "disk.vmdk"
    for tables, match in ((1 << 20, None), ((1 << 22) + 1, "a directory of 4194305 tables")):
        sectors = tables * 512 * 128
        own = text("monolithicSparse", [f'RW {sectors} SPARSE "disk.vmdk"'])
        with path.open("wb") as out:
            out.write(header(capacity=sectors, gd=21, descriptor_at=1, descriptor_size=20) + own)
            out.truncate(1 << 35)
        if match is not None:
            with pytest.raises(DamagedError, match=match):
                open_vmdk(path)
            continue
        tracemalloc.start()
        reader = open_vmdk(path)
        assert [one.length for one in reader.extents()] == [sectors * 512]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        reader.close()
        assert peak < 32 << 20
