"""Stream-optimized disks: grains, markers and footers that lie."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes
from tests.support.vmdk import Image, contents, damage, found, stream, u32, u64
from vmpack.ops.check import check

DATA = random.Random(5).randbytes(65536)
Change = Callable[[Image], object]


def checksum(image: Image) -> int:
    """Where the zlib checksum of grain 1 is."""
    at = image.places["grain 1"]
    return at + 12 + int.from_bytes(image.data[at + 8 : at + 12], "little") - 4


STREAMS: dict[str, tuple[Change, str]] = {
    "lba": (lambda i: i.put(i.places["grain 1"], u64(127)), "STREAM-4"),
    "size 0": (lambda i: i.put(i.places["grain 1"] + 8, u32(0)), "STREAM-5"),
    "size of two grains": (lambda i: i.put(i.places["grain 1"] + 8, u32(131_073)), "STREAM-5"),
    "size 4 GiB": (lambda i: i.put(i.places["grain 1"] + 8, u32(2**32 - 1)), "STREAM-5"),
    "garbage": (lambda i: i.put(i.places["grain 1"] + 12, b"\xff" * 8), "STREAM-6"),
    "checksum": (lambda i: i.put(checksum(i), b"\0\0\0\0"), "STREAM-6"),
    "cut data": (lambda i: i.put(i.places["grain 1"] + 8, u32(60)), "STREAM-6"),
    "other grain": (
        lambda i: i.set_word("gt 0", 0, i.places["grain 1"] // 512),
        "STREAM-4",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_compressed_grains(name: str, tmp_path: Path) -> None:
    # hostile: 30
    # VMDK-STREAM-4, VMDK-STREAM-5, VMDK-STREAM-6
    change, clause = STREAMS[name]
    image = stream(disk_bytes(3 * 65536, seed=3))
    change(image)
    assert damage(image, tmp_path).clause == f"VMDK-{clause}"
    done = check(tmp_path / "disk.vmdk", format="vmdk", full=True)
    assert done.exit_code == 2
    assert done.findings[0].clause == f"VMDK-{clause}"


def with_grain(packed: bytes, sectors: int = 128) -> Image:
    """A stream whose one grain is ``packed``, whatever that is."""
    image = stream(b"x" * (sectors * 512))
    at = image.places["grain 0"]
    before = int.from_bytes(image.data[at + 8 : at + 12], "little")
    room = (12 + before + 511) // 512 * 512
    assert len(packed) + 12 <= room
    return image.put(at, struct.pack("<QI", 0, len(packed)) + packed.ljust(room - 12, b"\0"))


def test_grains_inflate_to_at_most_a_grain(tmp_path: Path) -> None:
    # hostile: 30
    # hostile: 7
    # VMDK-STREAM-6
    for length in (65537, 100 << 10, 300 << 10):
        error = damage(with_grain(zlib.compress(bytes(length), 9)), tmp_path)
        assert error.clause == "VMDK-STREAM-6"
    short = with_grain(zlib.compress(bytes(65535), 9))
    assert "inflates to 65535 bytes, not 65536" in damage(short, tmp_path).message
    # The last grain of a disk may be a whole one all the same, or end with the disk.
    for length in (65536, 32768):
        image = with_grain(zlib.compress(b"a" * length, 9), sectors=64)
        assert contents(image.save(tmp_path / "disk.vmdk")) == b"a" * 32768
    trailing = with_grain(zlib.compress(b"a" * 65536, 9) + b"\0\0\0\0")
    assert contents(trailing.save(tmp_path / "disk.vmdk")) == b"a" * 65536


def test_grain_at_the_end_of_the_file(tmp_path: Path) -> None:
    # hostile: 30
    image = stream(b"x" * 65536, footer=False)
    end = len(image.data)
    grain = bytes(image.data[image.places["grain 0"] :][:512])
    length = 12 + int.from_bytes(grain[8:12], "little")
    image.data += grain[:length]
    image.set_word("gt 0", 0, end // 512)
    assert contents(image.save(tmp_path / "disk.vmdk")) == b"x" * 65536
    for cut in (length - 1, 13, 12, 11, 0):
        image.data = image.data[: end + cut]
        assert damage(image, tmp_path).clause in ("VMDK-STREAM-5", "VMDK-MAP-4")


FOOTERS: dict[str, tuple[Change, str]] = {
    "none": (lambda i: i.data.__delitem__(slice(i.places["footer"] - 512, None)), "STREAM-2"),
    "cut": (lambda i: i.data.__delitem__(slice(-512, None)), "STREAM-2"),
    "odd": (lambda i: i.data.extend(b"\0"), "STREAM-2"),
    "more": (lambda i: i.data.extend(bytes(512)), "STREAM-2"),
    "marker": (lambda i: i.put(i.places["footer"] - 500, u32(2)), "STREAM-2"),
    "marker size": (lambda i: i.put(i.places["footer"] - 504, u32(1)), "STREAM-2"),
    "end": (lambda i: i.put(i.places["footer"] + 512, u64(1)), "STREAM-2"),
    "version": (lambda i: i.set_header(i.places["footer"], version=1), "STREAM-3"),
    "flags": (lambda i: i.set_header(i.places["footer"], flags=0x30005), "STREAM-3"),
    "capacity": (lambda i: i.set_header(i.places["footer"], capacity=1 << 40), "STREAM-3"),
    "grain": (lambda i: i.set_header(i.places["footer"], grain=64), "STREAM-3"),
    "entries": (lambda i: i.set_header(i.places["footer"], entries=256), "STREAM-3"),
    "algorithm": (lambda i: i.set_header(i.places["footer"], algorithm=0), "STREAM-3"),
    "footer": (lambda i: i.set_header(i.places["footer"], gd=(1 << 64) - 1), "STREAM-3"),
    "directory": (lambda i: i.set_header(i.places["footer"], gd=1 << 33), "SPARSE-5"),
}


@pytest.mark.parametrize("name", FOOTERS)
def test_footers(name: str, tmp_path: Path) -> None:
    # hostile: 29
    # VMDK-STREAM-2, VMDK-STREAM-3
    change, clause = FOOTERS[name]
    image = stream(disk_bytes(3 * 65536, seed=3))
    change(image)
    assert damage(image, tmp_path).clause == f"VMDK-{clause}"


def test_footer_without_magic(tmp_path: Path) -> None:
    # hostile: 29
    image = stream(DATA)
    image.put(image.places["footer"], b"KDMW")
    assert "wrong magic" in damage(image, tmp_path).message


def test_markers_before_tables(tmp_path: Path) -> None:
    # VMDK-CHECK-2
    for place in ("gd", "gt 0"):
        image = stream(DATA)
        assert found(image, tmp_path) == []
        image.put(image.places[place] - 512, u64(77))
        assert found(image, tmp_path) == ["VMDK-CHECK-2"]
