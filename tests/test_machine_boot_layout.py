"""Boot layout: real partition tables by sfdisk, and tables that lie."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmpack.machine import BootLayout, read_boot_layout
from vmpack.machine.boot_layout import ESP, guess_family
from vmpack.units import MiB

SIZE = 64 * MiB
Tool = Callable[[str], str]


def partition(path: Path, script: str, require_tool: Tool, size: int = SIZE) -> bytearray:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(
        [require_tool("sfdisk"), "--quiet", str(path)],
        input=script.encode(),
        check=True,
        capture_output=True,
    )
    return bytearray(path.read_bytes())


def layout_of(data: bytes | bytearray) -> BootLayout:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data), "reads past the end"
        return bytes(data[offset : offset + length])

    return read_boot_layout(read, len(data))


GPT = """label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=4096, size=32768, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=efi
start=36864, size=40960, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
"""
GPT_UEFI = "\n".join(line for line in GPT.splitlines() if "bios" not in line)
MBR = """label: dos
start=2048, size=32768, type=83, bootable
start=34816, size=65536, type=5
start=36864, size=8192, type=82
start=47104, size=8192, type=8e
"""


def test_gpt(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", GPT, require_tool)
    found = layout_of(data)
    assert (found.table, found.protective_mbr, found.problems) == ("gpt", True, ())
    assert [(p.offset, p.size, p.name) for p in found.partitions] == [
        (1 * MiB, 1 * MiB, "bios"),
        (2 * MiB, 16 * MiB, "efi"),
        (18 * MiB, 20 * MiB, "root"),
    ]
    assert found.esp is not None
    assert found.esp.type == ESP
    assert found.bios_boot is not None
    assert not found.starts_by_bios
    data[:2] = b"\xeb\x63"
    assert layout_of(data).starts_by_bios
    assert guess_family(found) == "linux"


def test_mbr_with_logical_partitions(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", MBR, require_tool)
    found = layout_of(data)
    assert (found.table, found.problems, found.esp) == ("mbr", (), None)
    assert [(p.offset // 512, p.size // 512, p.type) for p in found.partitions] == [
        (2048, 32768, "0x83"),
        (34816, 65536, "0x05"),
        (36864, 8192, "0x82"),
        (47104, 8192, "0x8e"),
    ]
    assert found.active is not None
    assert found.active.offset == 2048 * 512
    assert (found.boot_signature, found.boot_code) == (True, False)


def test_an_efi_system_partition_of_an_mbr(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", "label: dos\nstart=2048, type=ef\n", require_tool)
    esp = layout_of(data).esp
    assert esp is not None
    assert esp.offset == MiB


def test_windows_code_in_a_protective_mbr_starts_nothing(
    tmp_path: Path, require_tool: Tool
) -> None:
    data = partition(tmp_path / "d", GPT_UEFI, require_tool)
    data[:2] = b"\x33\xc0"
    found = layout_of(data)
    assert found.boot_code
    assert not found.starts_by_bios


def test_a_legacy_bootable_gpt_partition_starts_by_bios(tmp_path: Path, require_tool: Tool) -> None:
    script = GPT_UEFI.replace("name=root", "name=root, attrs=LegacyBIOSBootable")
    data = partition(tmp_path / "d", script, require_tool)
    data[:2] = b"\x33\xc0"
    assert layout_of(data).starts_by_bios


@pytest.mark.parametrize(
    ("type_", "family"),
    [
        ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "windows"),
        ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "linux"),
        ("516E7CB4-6ECF-11D6-8FF8-00022D09712B", None),
    ],
)
def test_family_by_gpt(tmp_path: Path, require_tool: Tool, type_: str, family: str | None) -> None:
    data = partition(tmp_path / "d", f"label: gpt\nsize=2048, type={type_}\n", require_tool)
    assert guess_family(layout_of(data)) == family


def test_family_by_mbr(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", "label: dos\nsize=2048, type=7, bootable\n", require_tool)
    assert guess_family(layout_of(data)) == "windows"


def test_the_backup_gpt_stands_in(tmp_path: Path, require_tool: Tool) -> None:
    """CFG-BOOT-1."""
    data = partition(tmp_path / "d", GPT, require_tool)
    whole = layout_of(data)
    for offset, problem in ((512 + 40, "header's checksum"), (1024 + 56, "entries' checksum")):
        damaged = data.copy()
        damaged[offset] ^= 1
        found = layout_of(damaged)
        assert found.partitions == whole.partitions
        assert problem in found.problems[0]
        damaged[-512:] = bytes(512)
        assert layout_of(damaged).table == "mbr"


def test_a_gpt_of_4096_byte_sectors(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", GPT, require_tool)
    entries = data[1024 : 1024 + 128 * 128]
    big = bytearray(SIZE)
    big[:512] = data[:512]
    header = bytearray(data[512 : 512 + 92])
    big[8192 : 8192 + len(entries)] = entries
    header[16:20] = bytes(4)
    header[16:20] = struct.pack("<I", zlib.crc32(header))
    big[4096 : 4096 + 92] = header
    found = layout_of(big)
    assert found.table == "gpt"
    assert found.partitions[0].offset == 2048 * 4096


def test_a_gpt_left_over_under_an_mbr_does_not_count(tmp_path: Path, require_tool: Tool) -> None:
    data = partition(tmp_path / "d", GPT, require_tool)
    data[:512] = partition(tmp_path / "e", "label: dos\nstart=2048\n", require_tool)[:512]
    assert layout_of(data).table == "mbr"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 4096, 12288])
def test_small_disks(size: int) -> None:
    assert layout_of(bytes(size)) == BootLayout("none", False, False, False, ())


def test_a_boot_sector_without_partitions() -> None:
    found = layout_of(b"\xf4" + bytes(509) + b"\x55\xaa")
    assert (found.table, found.starts_by_bios) == ("none", True)


def test_a_chain_of_logical_partitions_that_bites_its_tail(
    tmp_path: Path, require_tool: Tool
) -> None:
    """CFG-BOOT-2."""
    data = partition(tmp_path / "d", MBR, require_tool)
    second = 34816 * 512 + 446 + 16
    following = struct.unpack_from("<I", data, second + 8)[0]
    again = (34816 + following) * 512 + 446 + 16
    data[again : again + 16] = struct.pack("<B3xB3xII", 0, 5, following, 8192)
    assert "goes back" in layout_of(data).problems[0]


def test_huge_counts_are_refused_before_they_are_read(tmp_path: Path, require_tool: Tool) -> None:
    """CFG-BOOT-2: the header is valid, its numbers are not."""
    data = partition(tmp_path / "d", GPT_UEFI, require_tool)
    for count, size in ((0xFFFFFFFF, 128), (128, 0x80000000), (128, 1), (128, 0), (1 << 13, 256)):
        for at in (512, len(data) - 512):
            struct.pack_into("<II", data, at + 80, count, size)
            struct.pack_into("<I", data, at + 16, 0)
            struct.pack_into("<I", data, at + 16, zlib.crc32(data[at : at + 92]))
        found = layout_of(data)
        assert found.table == "mbr"
        assert f"{count} entries of {size} bytes" in found.problems[0]


def test_mutated_tables_never_raise(tmp_path: Path, require_tool: Tool) -> None:
    """CFG-BOOT-2, hostile-input rule 10."""
    seeds = [
        partition(tmp_path / "d", one, require_tool, 4 * MiB) for one in (GPT_SMALL, MBR_SMALL)
    ]
    rng = random.Random(2)
    for seed in seeds:
        for _ in range(400):
            data = seed.copy()
            for _ in range(rng.randint(1, 8)):
                spot = rng.choice((446, 512, 1024, len(data) - 512, 2048 * 512))
                data[spot + rng.randrange(64)] = rng.randrange(256)
            layout_of(data[: rng.choice((len(data), rng.randrange(1, 3000)))])


GPT_SMALL = "label: gpt\nsize=1024\nsize=1024, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
MBR_SMALL = "label: dos\nstart=2048, size=4096, type=5\nstart=2050, size=100\nstart=3000\n"


@given(st.binary(min_size=512, max_size=512))
def test_any_first_sector(sector: bytes) -> None:
    layout_of(sector[:510] + b"\x55\xaa" + bytes(8192))
