"""What Azure imports: whole MiB, 20 at least, a GPT whose backup is at the end."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vhd import open_image
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.measure import measure

MiB = 1 << 20
AZURE = {"azure": "on"}
TABLE = "label: gpt\nstart=2048,size=18000,name=one\nstart=22528,size=4096,name=two\n"


def gpt_disk(path: Path, size: int) -> Path:
    """A disk with two partitions and some data."""
    with path.open("wb") as out:
        out.truncate(size)
    run([require_tool("sfdisk"), "-q", path], stdin=TABLE.encode())
    with path.open("r+b") as out:
        out.seek(3 * MiB)
        out.write(b"data")
    return path


def partitions(path: Path) -> list[str]:
    """What sfdisk says of each partition."""
    text = run([require_tool("sfdisk"), "-d", path]).stdout.decode()
    return [line.split(":", 1)[1] for line in text.splitlines() if "start=" in line]


def vmpack(*words: object) -> str:
    done = run([sys.executable, "-m", "vmpack", *words])
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (0, 20 * MiB),
        (512, 20 * MiB),
        (20 * MiB, 20 * MiB),
        (20 * MiB + 1, 21 * MiB),
        (33 * MiB, 33 * MiB),
        (33 * MiB - 512, 33 * MiB),
    ],
)
def test_whole_mebibytes_and_no_more(
    size: int, wanted: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    # VHD-AZURE-1
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    data = disk_bytes(min(size, MiB), seed=3) + bytes(max(0, size - MiB))
    write_sparse(raw, data)
    result = convert(raw, image, options=AZURE)
    assert image.stat().st_size == wanted + 512
    assert image.read_bytes()[-512:].startswith(b"conectix")
    found = open_image(image)
    assert (found.virtual_size, found.size_from) == (wanted, "current-size")
    assert found.read(0, wanted) == data + bytes(wanted - size)
    found.close()
    grown = wanted > -(-size // 512) * 512
    assert result.verified
    assert result.virtual_size in (wanted, size)
    assert len(result.notes) == grown
    assert not grown or f"{wanted - size} bytes larger" in result.notes[0]
    assert qemu_img.json("info", "-f", "vpc", image)["virtual-size"] == wanted
    assert measure(raw, "vhd", AZURE)["required"] == wanted + 512


def test_a_bare_option_is_on(tmp_path: Path) -> None:
    # VHD-AZURE-1
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"x" * 1000)
    text = vmpack("convert", raw, tmp_path / "a.vhd", "-o", "azure")
    assert "bytes larger than its source" in text
    vmpack("convert", raw, tmp_path / "b.vhd", "-o", "subformat=fixed,azure=on")
    vmpack("convert", raw, tmp_path / "c.vhd", "-o", "subformat=fixed,force_size")
    assert (tmp_path / "a.vhd").read_bytes() == (tmp_path / "b.vhd").read_bytes()
    assert (tmp_path / "c.vhd").stat().st_size == 1024 + 512
    assert "20971520 bytes" in vmpack(
        "create", tmp_path / "d.vhd", "1M", "-O", "vhd", "-o", "azure"
    )
    assert (tmp_path / "d.vhd").stat().st_size == 20 * MiB + 512


def test_created_disks_say_how_large_they_are(tmp_path: Path) -> None:
    # VHD-AZURE-1
    made = create(tmp_path / "a.vhd", 5, "vhd", options=AZURE)
    assert made.virtual_size == 20 * MiB
    assert create(tmp_path / "b.vhd", 512, "vhd").virtual_size == 512


@pytest.mark.parametrize("extra", [512, 40 * 512, MiB - 512])
def test_the_backup_gpt_moves_to_the_new_end(extra: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-AZURE-2
    raw = gpt_disk(tmp_path / "disk.raw", 21 * MiB - extra)
    image, flat = tmp_path / "disk.vhd", tmp_path / "flat.raw"
    result = convert(raw, image, options=AZURE)
    assert "its GPT's backup was moved to the new end" in result.notes
    flat.write_bytes(image.read_bytes()[:-512])
    program = require_tool("sfdisk")
    done = run([program, "--verify", flat])
    assert b"No errors detected" in done.stdout
    assert done.stderr == b""
    before, after = (
        [
            line
            for line in run([program, "-d", path]).stdout.decode().splitlines()
            if "start=" in line
        ]
        for path in (raw, flat)
    )
    assert [line.split(":", 1)[1] for line in before] == [line.split(":", 1)[1] for line in after]
    data = flat.read_bytes()
    old, last = raw.stat().st_size // 512 - 1, len(data) // 512 - 1
    assert not data[old * 512 : old * 512 + 512].startswith(b"EFI PART")
    for here, there in ((1, last), (last, 1)):
        sector = data[here * 512 : here * 512 + 512]
        assert sector.startswith(b"EFI PART")
        mine, alternate = struct.unpack_from("<QQ", sector, 24)
        assert (mine, alternate) == (here, there)
        first, count, size, crc = struct.unpack_from("<QIII", sector, 72)
        assert zlib.crc32(data[first * 512 : first * 512 + count * size]) == crc
    assert struct.unpack_from("<I", data, 446 + 12)[0] == last
    # All else is as it was.
    touched = {0, 1, old, *range(last - 32, last + 1)}
    source = bytearray(raw.read_bytes().ljust(len(data), b"\0"))
    for number in touched:
        at = slice(number * 512, number * 512 + 512)
        source[at] = data[at]
    assert source == data


def test_an_aligned_disk_keeps_its_gpt(tmp_path: Path) -> None:
    # VHD-AZURE-1, VHD-AZURE-2
    raw = gpt_disk(tmp_path / "disk.raw", 21 * MiB)
    result = convert(raw, tmp_path / "disk.vhd", options=AZURE)
    assert result.notes == ()
    assert (tmp_path / "disk.vhd").read_bytes()[:-512] == raw.read_bytes()


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (512 + 16, "header is damaged"),
        (1024 + 3, "table of partitions is damaged"),
    ],
)
def test_a_damaged_gpt_is_left_alone(offset: int, text: str, tmp_path: Path) -> None:
    # VHD-AZURE-2
    raw = gpt_disk(tmp_path / "disk.raw", 21 * MiB - 512)
    data = bytearray(raw.read_bytes())
    data[offset] ^= 1
    raw.write_bytes(data)
    result = convert(raw, tmp_path / "disk.vhd", options=AZURE)
    assert text in result.notes[1]
    assert (tmp_path / "disk.vhd").read_bytes()[: len(data)] == data


def sealed_header(data: bytearray, **values: tuple[int, str]) -> None:
    """Other values in the first GPT header, and its checksum right."""
    places = {"alternate_lba": 32, "last_usable_lba": 48, "entries_lba": 72, "entry_count": 80}
    for name, (value, code) in values.items():
        struct.pack_into(code, data, 512 + places[name], value)
    data[528:532] = bytes(4)
    data[528:532] = zlib.crc32(data[512 : 512 + 92]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"alternate_lba": (5, "<Q")}, "was not at the disk's end"),
        ({"entries_lba": (1 << 60, "<Q")}, "not where it could be"),
        ({"entry_count": (1 << 31, "<I")}, "not where it could be"),
        ({"last_usable_lba": (21 * 2048 - 5, "<Q")}, "no room"),
    ],
)
def test_a_gpt_that_is_not_as_it_says(
    values: dict[str, tuple[int, str]], text: str, tmp_path: Path
) -> None:
    # VHD-AZURE-2
    raw = gpt_disk(tmp_path / "disk.raw", 21 * MiB - 512)
    data = bytearray(raw.read_bytes())
    sealed_header(data, **values)
    raw.write_bytes(data)
    result = convert(raw, tmp_path / "disk.vhd", options=AZURE)
    assert text in result.notes[1]
    assert (tmp_path / "disk.vhd").read_bytes()[: len(data)] == data
