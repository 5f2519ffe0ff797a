"""Compressed raw disks: decoded to the byte, and never more than their file can stand for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.disks import disk_bytes, write_sparse
from tests.support.tools import require_tool, run
from vmpack import formats
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.extent import Kind
from vmpack.formats.raw_stream import spool
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert
from vmpack.ops.info import info
from vmpack.ops.map import map_image
from vmpack.ops.opening import open_image

MIB = 1 << 20


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "zst": zstd,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=1),
    "bz2": bz2.compress,
}
NAMES = {"zst": "zstd", "gz": "gzip", "xz": "xz", "bz2": "bzip2"}
SIZES = (0, 1, 511, 4096, MIB - 1, MIB, MIB + 1, 3_141_593)
codecs = pytest.mark.parametrize("codec", CODECS)


@codecs
def test_reads_as_what_was_compressed(codec: str, tmp_path: Path) -> None:
    # RAW-STREAM-1
    for size in SIZES:
        data = disk_bytes(size, seed=size)
        image = tmp_path / f"disk.raw.{codec}"
        image.write_bytes(CODECS[codec](data))
        reader = open_image(image)
        assert (reader.virtual_size, reader.format.name) == (size, f"raw.{codec}")
        assert reader.read(0, size) == data
        position = 0
        for extent in reader.extents():
            assert extent.offset == position
            assert extent.kind is Kind.DATA or not any(data[position : extent.end])
            position = extent.end
        assert position == size
        reader.close()
        reader.close()


@codecs
def test_every_verb_takes_it(codec: str, tmp_path: Path) -> None:
    data = bytes(MIB) + disk_bytes(2 * MIB + 4096, seed=3)
    raw = write_sparse(tmp_path / "disk.raw", data)
    image = tmp_path / f"other.IMG.{codec.upper()}"
    image.write_bytes(CODECS[codec](data))
    assert compare(raw, image).identical
    facts: Any = info(image, digest=True).as_dict()
    assert (facts["format"], facts["virtual-size"]) == ("raw", len(data))
    assert facts["actual-size"] == image.stat().st_blocks * 512
    assert facts["format-specific"]["data"] == {"compression": NAMES[codec]}
    assert facts["content-digest"] == info(raw, digest=True).as_dict()["content-digest"]
    rows: Any = map_image(image)
    assert rows[0]["length"] >= MIB
    assert rows[0]["zero"]
    assert all(row["compressed"] == row["data"] and "offset" not in row for row in rows)
    for target in ("qcow2", "raw"):
        assert convert(image, tmp_path / f"out.{target}").verified
        assert compare(raw, tmp_path / f"out.{target}").identical
    assert check(image).exit_code == 63
    with pytest.raises(UsageError, match="same file"):
        convert(image, image, output_format="raw", force=True)
    assert image.read_bytes() == CODECS[codec](data)


def test_packs_into_a_bundle(tmp_path: Path) -> None:
    from vmpack.ops.pack import pack

    raw = write_sparse(tmp_path / "disk.raw", disk_bytes(MIB, seed=4))
    image = tmp_path / "root.raw.zst"
    image.write_bytes(zstd(raw.read_bytes()))
    pack([image], tmp_path / "a.vmpack")
    assert compare(raw, tmp_path / "a.vmpack").identical
    with pytest.raises(UnsafeError) as caught:
        pack([image], tmp_path / "b.vmpack", max_size=MIB - 512)
    assert caught.value.clause == "RAW-SIZE-1"


@codecs
def test_from_standard_input_by_an_explicit_name(codec: str, tmp_path: Path) -> None:
    data = disk_bytes(300_000, seed=5)
    out = tmp_path / "out.raw"
    words = [sys.executable, "-m", "vmpack", "convert", "-O", "raw"]
    run([*words, "-f", f"raw.{codec}", "-", out], stdin=CODECS[codec](data))
    assert out.read_bytes() == data
    # Content does not choose the parser: without a name it is no compressed disk.
    assert run([*words, "-", tmp_path / "x"], stdin=zstd(data), check=False).returncode == 2
    run([*words, "-f", "raw", "-", out, "--force"], stdin=zstd(data))
    assert out.read_bytes() == zstd(data)


@codecs
def test_frames_follow_one_another(codec: str, tmp_path: Path) -> None:
    # RAW-STREAM-1
    data = disk_bytes(700_000, seed=6)
    image = tmp_path / f"disk.raw.{codec}"
    frames = [CODECS[codec](part) for part in (data[:1], b"", data[1:400_001], data[400_001:])]
    between = {
        "zst": b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello",
        "xz": bytes(8),
    }.get(codec, b"")
    image.write_bytes(between.join([*frames, b""]))
    reader = open_image(image)
    assert reader.read(0, reader.virtual_size) == data
    reader.close()
    if codec == "zst":
        # As pzstd begins its files.
        image.write_bytes(between + b"".join(frames))
        assert info(image).as_dict()["virtual-size"] == len(data)


@codecs
@pytest.mark.parametrize("tail", [b"\1", b"garbage behind the disk", bytes(512), bytes(3)])
def test_anything_behind_is_damage(codec: str, tail: bytes, tmp_path: Path) -> None:
    # RAW-STREAM-1
    image = tmp_path / f"disk.raw.{codec}"
    image.write_bytes(CODECS[codec](disk_bytes(70_000, seed=7)) + tail)
    if codec == "xz" and tail == bytes(512):
        assert info(image).as_dict()["virtual-size"] == 70_000
        return
    with pytest.raises(DamagedError) as caught:
        open_image(image)
    assert caught.value.clause == "RAW-STREAM-1"


@codecs
def test_cut_anywhere_is_damage(codec: str, tmp_path: Path) -> None:
    # RAW-STREAM-1
    whole = CODECS[codec](disk_bytes(60_000, seed=8))
    image = tmp_path / f"disk.raw.{codec}"
    for length in {0, 1, 3, 9, *range(17, len(whole), len(whole) // 60), len(whole) - 1}:
        image.write_bytes(whole[:length])
        with pytest.raises(DamagedError) as caught:
            open_image(image)
        assert caught.value.clause == "RAW-STREAM-1"


@codecs
def test_flipped_bits_are_damage_or_change_nothing(codec: str, tmp_path: Path) -> None:
    # hostile: 10
    data = disk_bytes(60_000, seed=9)
    whole = CODECS[codec](data)
    image = tmp_path / f"disk.raw.{codec}"
    rng = random.Random(codec)
    for _ in range(120):
        bad = bytearray(whole)
        bad[rng.choice((rng.randrange(len(bad)), rng.randrange(20)))] ^= 1 << rng.randrange(8)
        image.write_bytes(bad)
        try:
            reader = open_image(image)
        except VmpackError as exc:
            wanted: Any = (DamagedError, UnsafeError)
            assert isinstance(exc, wanted), exc  # noqa: PT017 - most of them raise, not all
            continue
        # A time stamp, a name, a reserved bit: the checksums hold what matters.
        assert reader.read(0, reader.virtual_size) == data
        reader.close()


def zeros(codec: str, size: int) -> bytes:
    """``size`` zero bytes, compressed as far as the codec goes."""
    makers: dict[str, Callable[[], Any]] = {
        "zst": lambda: zstandard.ZstdCompressor().compressobj(),
        "gz": lambda: __import__("zlib").compressobj(9, wbits=31),
        "xz": lambda: lzma.LZMACompressor(preset=1),
        "bz2": bz2.BZ2Compressor,
    }
    maker = makers[codec]()
    out = [maker.compress(bytes(8 * MIB)) for _ in range(size // (8 * MIB))]
    return b"".join(out) + bytes(maker.flush())


BOMB = """
import resource, sys
from vmpack.errors import UnsafeError
from vmpack.formats.raw_stream import spool
from vmpack.ops.info import info
# The floors of the limits, lowered: decoding gigabytes shows nothing more, and takes longer.
spool.FREE_SIZE, spool.FREE_DATA, spool.SIZE_RATIO = 64 << 20, 16 << 20, 100
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    info(sys.argv[1])
except UnsafeError as exc:
    print(exc.clause, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@codecs
@pytest.mark.parametrize("kind", ["zeros", "ones"])
def test_bombs_are_refused_before_they_go_off(codec: str, kind: str, tmp_path: Path) -> None:
    # hostile: 7, RAW-STREAM-2
    # hostile: 8
    image = tmp_path / f"disk.raw.{codec}"
    once = zeros(codec, 16 * MIB) if kind == "zeros" else CODECS[codec](b"\1" * (8 * MIB))
    image.write_bytes(once * 16)
    out = run([sys.executable, "-c", BOMB, image], env={"TMPDIR": str(tmp_path)}).stdout.split()
    assert out[0] == b"RAW-STREAM-2"
    assert int(out[1]) < 180 << 10
    assert os.listdir(tmp_path) == [image.name]


def test_the_limits_grow_with_the_file_and_max_size_stands_for_them(tmp_path: Path) -> None:
    # RAW-STREAM-2
    stored = 100 * MIB
    spool.Limits("x", stored, None).check(spool.SIZE_RATIO * stored, spool.DATA_RATIO * stored)
    for size, data in ((spool.SIZE_RATIO * stored + 1, 0), (1, spool.DATA_RATIO * stored + 1)):
        with pytest.raises(UnsafeError, match="far beyond its own size"):
            spool.Limits("x", stored, None).check(size, data)
    spool.Limits("x", 10, None).check(spool.FREE_SIZE, spool.FREE_DATA)
    spool.Limits("x", 10, 1 << 40).check(1 << 40, 1 << 40)
    image = tmp_path / "disk.raw.zst"
    image.write_bytes(zeros("zst", 16 * MIB))
    # RAW-SIZE-1
    with pytest.raises(UnsafeError, match="larger than the 4096 bytes") as caught:
        convert(image, tmp_path / "out.raw", max_size=4096)
    assert caught.value.clause == "RAW-SIZE-1"
    convert(image, tmp_path / "out.raw", max_size=16 * MIB)
    assert (tmp_path / "out.raw").stat().st_blocks == 0


def test_zeros_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = tmp_path / "disk.raw.zst"
    image.write_bytes(zstd(bytes(64 * MIB) + b"x" * 100))
    reader: Any = open_image(image)
    assert reader.disk.source.allocated_bytes <= 64 << 10
    assert sum(one.length for one in reader.extents() if one.kind is Kind.DATA) <= 64 << 10
    reader.close()
    assert os.listdir(tmp_path) == [image.name]


def test_windows_are_bounded(tmp_path: Path) -> None:
    # hostile: 45, RAW-STREAM-3
    data = disk_bytes(70_000, seed=1)
    image = tmp_path / "disk.raw.zst"
    for log, fine in ((27, True), (28, False), (31, False)):
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, window_log=log, write_content_size=False
        )
        codec = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        image.write_bytes(codec.compress(data) + codec.flush())
        if fine:
            assert info(image).as_dict()["virtual-size"] == len(data)
            continue
        with pytest.raises(UnsafeError) as caught:
            open_image(image)
        assert caught.value.clause == "RAW-STREAM-3"
    other = tmp_path / "disk.raw.xz"
    for size, fine in ((128 * MIB, True), (256 * MIB, False)):
        head = lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
        other.write_bytes(with_dictionary(head, size))
        if fine:
            assert info(other).as_dict()["virtual-size"] == len(data)
            continue
        with pytest.raises(UnsafeError) as caught:
            open_image(other)
        assert caught.value.clause == "RAW-STREAM-3"


def with_dictionary(stream: bytes, size: int) -> bytes:
    """The xz stream with another dictionary size in its block header, and that header's CRC.

    Source: The .xz File Format 1.2, 3.1 and 5.3.1.
    """
    import zlib

    out = bytearray(stream)
    length = (out[12] + 1) * 4
    assert out[13:16] == b"\x00\x21\x01"
    out[16] = 2 * (size.bit_length() - 1) - 24
    out[12 + length - 4 : 12 + length] = zlib.crc32(out[12 : 12 + length - 4]).to_bytes(4, "little")
    return bytes(out)


@codecs
def test_content_that_is_another_format_is_refused_until_told(codec: str, tmp_path: Path) -> None:
    # hostile: 1, RAW-STREAM-4
    tail = bytes(100_000 - 512) + b"conectix".ljust(512, b"\0")
    for content in (b"QFI\xfb".ljust(100_000, b"\0"), tail):
        image = tmp_path / f"disk.raw.{codec}"
        image.write_bytes(CODECS[codec](content))
        with pytest.raises(UnsafeError, match="magic of") as caught:
            open_image(image)
        assert caught.value.clause == "RAW-STREAM-4"
        reader = open_image(image, format=f"raw.{codec}")
        assert reader.read(0, 4) == content[:4]
        reader.close()
    other = tmp_path / f"other.raw.{codec}"
    other.write_bytes(b"QFI\xfb".ljust(4096, b"\0"))
    with pytest.raises(UnsafeError, match="magic of qcow2"):
        open_image(other)
    with pytest.raises(DamagedError):
        open_image(other, format=f"raw.{codec}")
    # A name that says nothing of a raw disk.
    plain = tmp_path / f"disk.{codec}"
    plain.write_bytes(CODECS[codec](bytes(4096)))
    with pytest.raises(UnsupportedError) as refused:
        open_image(plain)
    assert f"-f raw.{codec}" in str(refused.value.hint)
    assert open_image(plain, format=f"RAW.{codec}").virtual_size == 4096


def test_they_are_not_written(tmp_path: Path) -> None:
    # RAW-STREAM-5
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(4096))
    with pytest.raises(UsageError, match=r"raw\.zst cannot be written"):
        convert(raw, tmp_path / "out", output_format="raw.zst")
    assert "raw.zst" not in formats.names()
    image = tmp_path / "a.raw.zst"
    image.write_bytes(zstd(bytes(512)))
    with pytest.raises(UsageError, match="no snapshots"):
        convert(image, tmp_path / "out", output_format="raw", snapshot="1")


def test_no_room_in_the_temporary_folder(tmp_path: Path) -> None:
    # hostile: 50
    image = tmp_path / "a.raw.zst"
    image.write_bytes(zstd(disk_bytes(8 * MIB, seed=2)))
    program = (
        "import resource, signal, sys; from vmpack.ops.convert import convert;"
        "from vmpack.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: convert(sys.argv[1], sys.argv[2])\n"
        "except OutputError as exc: print(exc.path, exc.hint)"
    )
    words = [sys.executable, "-c", program, image, tmp_path / "out.raw"]
    out = run(words, env={"TMPDIR": str(tmp_path)}).stdout.decode()
    assert str(tmp_path) in out
    assert "limit" in out
    assert os.listdir(tmp_path) == [image.name]


def test_standard_input_without_end_stops_at_max_size(tmp_path: Path) -> None:
    # hostile: 7, RAW-SIZE-1
    words = [sys.executable, "-m", "vmpack", "convert", "-f", "raw", "--max-size", "64K"]
    endless = f"exec 3< <(yes); exec {' '.join(words)} - {tmp_path}/out.raw <&3"
    done = run([require_tool("bash"), "-c", endless], check=False)
    assert done.returncode == 4
    assert b"larger than the 65536 bytes" in done.stderr
    assert os.listdir(tmp_path) == []
