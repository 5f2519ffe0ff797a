"""FAT file systems made by dosfstools and filled by mtools, read as mtools reads them; and lies."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import raw_reader
from tests.support.tools import require_tool, run
from vmpack.errors import DamagedError, UnsafeError, VmpackError
from vmpack.machine.fat import MAX_ENTRIES, FatFile, FatVolume
from vmpack.units import MiB

KINDS = {
    "fat12": (4 * MiB, ["-F", "12"], 12),
    "fat12-odd": (MiB + 512 * 511, ["-F", "12", "-s", "1", "-r", "512", "-f", "1"], 12),
    "fat16": (20 * MiB, ["-F", "16"], 16),
    "fat16-large": (33 * MiB, ["-F", "16", "-s", "8", "-S", "1024"], 16),
    "fat32": (40 * MiB, ["-F", "32"], 32),
    "fat32-4k": (264 * MiB, ["-F", "32", "-S", "4096", "-s", "1"], 32),
}
LONG = "A long name, with blanks and a café.tar.gz"
FILES = {
    "EFI/BOOT/BOOTX64.EFI": 70_000,
    f"EFI/{LONG}": 5,
    "loader/entries/debian-6.1.conf": 513,
    "empty": 0,
    "lower.txt": 4096,
    "MixedCase.Text": 100,
    "x" * 200: 1,
}


def read_of(data: bytes | bytearray) -> Callable[[int, int], bytes]:
    """Reads that may not leave ``data``, nor be of any size."""

    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data), "reads past the end"
        return bytes(data[offset : offset + length])

    return read


def make(folder: Path, size: int, words: list[str]) -> tuple[Path, dict[str, bytes]]:
    """An image with :data:`FILES` in it, some of them in pieces."""
    image = folder / "fat.img"
    with image.open("wb") as file:
        file.truncate(size)
    run([require_tool("mkfs.vfat"), "-n", "LABEL", "-i", "12345678", *words, image])
    rng = random.Random(7)
    contents = {name: rng.randbytes(length) for name, length in FILES.items()}
    mcopy, mmd = require_tool("mcopy"), require_tool("mmd")
    env = {"MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}
    run([mmd, "-i", image, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries"], env=env)
    source = folder / "source"
    for number in range(6):
        source.write_bytes(bytes(20_000))
        run([mcopy, "-i", image, source, f"::gap{number}"], env=env)
    for number in (0, 2, 4):
        run([require_tool("mdel"), "-i", image, f"::gap{number}"], env=env)
    for name, data in contents.items():
        source.write_bytes(data)
        run([mcopy, "-i", image, source, f"::{name}"], env=env)
    return image, contents


@pytest.fixture(scope="module", params=KINDS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes], int]:
    size, words, kind = KINDS[request.param]
    image, contents = make(tmp_path_factory.mktemp(request.param), size, words)
    return image, contents, kind


def test_it_reads_what_mtools_wrote(made: tuple[Path, dict[str, bytes], int]) -> None:
    """FAT-KIND-1, FAT-DIR-1: kinds, labels, long names, folders, files in pieces."""
    image, contents, kind = made
    volume = FatVolume(raw_reader(image).read, 0, image.stat().st_size)
    assert (volume.kind, volume.label) == (kind, "LABEL")
    for name, wanted in contents.items():
        found = volume.find(name)
        assert found is not None, name
        assert found.name == name.rsplit("/", 1)[-1]
        assert volume.read_file(found, limit=1 << 20) == wanted
    assert volume.find("efi\\boot\\bootx64.efi") == volume.find("EFI/BOOT/BOOTX64.EFI")
    assert volume.find("EFI/none") is None
    assert volume.find("empty/none") is None
    assert volume.find("gap0") is None
    assert volume.find("/".join(["EFI"] * 40)) is None
    assert [one.name for one in volume.list("EFI")] == ["BOOT", LONG]
    assert volume.list("none") == volume.list("empty") == []


def test_folders_are_listed_as_mdir_lists_them(made: tuple[Path, dict[str, bytes], int]) -> None:
    image, _, _ = made
    volume = FatVolume(raw_reader(image).read, 0, image.stat().st_size)

    def walk(folder: str) -> list[str]:
        found = []
        for one in volume.list(folder):
            path = f"{folder}/{one.name}"
            found += [f"{path}/", *walk(path)] if one.is_folder else [path]
        return found

    env = {"MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}
    listed = run([require_tool("mdir"), "-b", "-/", "-i", image, "::"], env=env).stdout.decode()
    assert sorted(walk("")) == sorted(line.removeprefix("::") for line in listed.splitlines())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image, _ = make(tmp_path_factory.mktemp("small"), 4 * MiB, ["-F", "12"])
    return image.read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image, _ = make(tmp_path_factory.mktemp("large"), 34 * MiB, ["-F", "32"])
    return image.read_bytes()


HEADER_LIES = [
    (510, b"\0\0", "FAT-BOOT-1"),
    (11, b"\0\0", "FAT-BOOT-2"),
    (11, b"\x01\x02", "FAT-BOOT-2"),
    (13, b"\0", "FAT-BOOT-2"),
    (13, b"\x03", "FAT-BOOT-2"),
    (14, b"\0\0", "FAT-BOOT-3"),
    (16, b"\0", "FAT-BOOT-3"),
    (16, b"\x09", "FAT-BOOT-3"),
    (36, b"\0\0\0\0", "FAT-BOOT-3"),
    (42, b"\x01\0", "FAT-BOOT-3"),
    (17, b"\x01\0", "FAT-BOOT-3"),
    (40, b"\x83\0", "FAT-BOOT-3"),
    (32, b"\xff\xff\xff\xff", "FAT-BOOT-4"),
    (32, b"\0\0\0\0", "FAT-BOOT-4"),
    (36, b"\xff\xff\xff\0", "FAT-BOOT-4"),
    (32, b"\x64\0\0\0", "FAT-BOOT-4"),
]


@pytest.mark.parametrize(("offset", "value", "clause"), HEADER_LIES)
def test_a_boot_sector_that_lies(offset: int, value: bytes, clause: str, large: bytes) -> None:
    """Line by line what a boot sector may say. hostile: 7 and 9."""
    head = bytearray(large[:512])
    head[offset : offset + len(value)] = value
    data = bytes(head) + large[512:]
    with pytest.raises(DamagedError) as caught:
        FatVolume(read_of(data), 0, len(data))
    assert caught.value.clause == clause


def test_a_volume_of_no_size() -> None:
    """FAT-BOOT-1, FAT-BOOT-4: less than a sector; a FAT without room."""
    with pytest.raises(DamagedError, match="no room"):
        FatVolume(read_of(b""), 0, 100)


def test_a_chain_in_a_circle(small: bytes) -> None:
    """FAT-CHAIN-2: every entry of both FATs points at the one before. hostile: 7."""
    data = bytearray(small)
    volume = FatVolume(read_of(small), 0, len(small))
    found = volume.find("EFI/BOOT/BOOTX64.EFI")
    assert found is not None
    first = found.cluster
    at = 512 * struct.unpack_from("<H", data, 14)[0] + first * 3 // 2
    both = int.from_bytes(data[at : at + 2], "little")
    both = (both & 0x000F) | first << 4 if first & 1 else (both & 0xF000) | first
    data[at : at + 2] = both.to_bytes(2, "little")
    looping = FatVolume(read_of(data), 0, len(data))
    # The file's size bounds it; a folder has none.
    assert len(looping.read_file(found, limit=1 << 20)) == found.size
    folder = FatFile("x", True, 0, first, "X")
    with pytest.raises(DamagedError) as caught:
        list(looping.entries(folder))
    assert caught.value.clause in {"FAT-CHAIN-2", "FAT-DIR-2"}


def test_a_cluster_that_is_none(small: bytes) -> None:
    """FAT-CHAIN-1, FAT-FILE-1."""
    volume = FatVolume(read_of(small), 0, len(small))
    for cluster in (0, 1, volume.clusters + 2, 0xFFFFFFFF):
        with pytest.raises(DamagedError) as caught:
            volume.read_file(FatFile("x", False, 10, cluster, "X"), limit=100)
        assert caught.value.clause == "FAT-CHAIN-1"
    found = volume.find("lower.txt")
    assert found is not None
    for size, limit in ((found.size * 9, 1 << 20), (1 << 31, 1 << 32)):
        with pytest.raises(DamagedError) as caught:
            volume.read_file(FatFile("x", False, size, found.cluster, "X"), limit=limit)
        assert caught.value.clause == "FAT-FILE-1"
    with pytest.raises(UnsafeError, match="at most 5"):
        volume.read_file(found, limit=5)


def test_folders_without_end(large: bytes) -> None:
    """FAT-DIR-2, FAT-DIR-3: bounded in one folder, and in all of them together. hostile: 7."""
    volume = FatVolume(read_of(large), 0, len(large))
    data = bytearray(large)
    sectors = struct.unpack_from("<I", data, 36)[0]
    table = 512 * struct.unpack_from("<H", data, 14)[0]
    data_at = table + 2 * sectors * 512
    # Every cluster is a folder's, full of files that are not there, each leading to the next.
    for cluster in range(2, volume.clusters + 2):
        struct.pack_into("<I", data, table + 4 * cluster, cluster + 1)
    slot = b"FILE    TXT\x20" + bytes(20)
    area = volume.clusters * volume.cluster_size
    data[data_at : data_at + area] = slot * (area // 32)
    full = FatVolume(read_of(data), 0, len(data))
    with pytest.raises(DamagedError) as caught:
        full.list("")
    assert caught.value.clause == "FAT-DIR-2"
    struct.pack_into("<I", data, table + 4 * 3000, 0x0FFFFFFF)
    full = FatVolume(read_of(data), 0, len(data))
    with pytest.raises(UnsafeError) as unsafe:
        full.list("")
    assert unsafe.value.clause == "FAT-DIR-3"
    assert 3000 * volume.cluster_size // 32 > MAX_ENTRIES


def test_a_long_name_of_another_entry_is_not_its_name(small: bytes) -> None:
    """FAT-DIR-1: the checksum is wrong, so the short name counts."""
    at = small.index("MixedC".encode("utf-16-le")[:2] + b"i\0x\0e\0")
    slot = bytearray(small)
    slot[at - 1 + 13] ^= 0xFF
    names = [one.name for one in FatVolume(read_of(slot), 0, len(slot)).list("")]
    assert "MixedCase.Text" not in names
    assert any(name.upper().startswith("MIXEDC~") for name in names)


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_mutations_end_in_the_projects_own_errors(seed: int, count: int) -> None:
    """Bytes of boot sector, FATs and folders changed at random. hostile: 10."""
    data = bytearray(_mutable())
    rng = random.Random(seed)
    for _ in range(count):
        area = rng.choice((64, 512, 8192, len(data)))
        data[rng.randrange(area)] = rng.choice(
            (0, 1, 0x0F, 0x10, 0x20, 0xE5, 0xFF, rng.randrange(256))
        )
    try:
        volume = FatVolume(read_of(data), 0, len(data))
        for one in [*volume.list(""), *volume.list("EFI"), *volume.list("EFI/BOOT")]:
            if not one.is_folder:
                volume.read_file(one, limit=1 << 20)
    except VmpackError:
        return


def _mutable() -> bytes:
    """A FAT12 of 64 KiB, made by hand: quick to change and to read."""
    boot = bytearray(512)
    struct.pack_into("<HBHBHHBH", boot, 11, 512, 1, 1, 1, 16, 128, 0xF8, 1)
    boot[510:] = b"\x55\xaa"
    table = bytearray(512)
    for cluster, value in ((2, 0xFFF), (3, 0xFFF), (4, 5), (5, 0xFFF)):
        at = cluster * 3 // 2
        both = int.from_bytes(table[at : at + 2], "little")
        both |= value << 4 if cluster & 1 else value
        table[at : at + 2] = both.to_bytes(2, "little")

    def entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
        return struct.pack("<11sB14xHI", name, attributes, cluster, size)

    root = entry(b"EFI        ", 0x10, 2, 0) + entry(b"HELLO   TXT", 0x20, 4, 700)
    efi = entry(b"BOOT       ", 0x10, 3, 0)
    inner = entry(b"BOOTX64 EFI", 0x20, 5, 10)
    clusters = b"".join(part.ljust(512, b"\0") for part in (efi, inner, b"x" * 512, b"y" * 512))
    return (bytes(boot + table) + root.ljust(512, b"\0") + clusters).ljust(65536, b"\0")


def test_the_volume_made_by_hand_is_one() -> None:
    data = _mutable()
    volume = FatVolume(read_of(data), 0, len(data))
    found = volume.find("efi/boot/bootx64.efi")
    assert found is not None
    assert volume.read_file(found, limit=99) == b"y" * 10
