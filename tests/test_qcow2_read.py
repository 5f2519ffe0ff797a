"""The qcow2 reader against qemu-img, over every way in which an image stores a disk."""

from __future__ import annotations

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.disks import disk_bytes, random_disk
from tests.support.images import VARIANTS, open_qcow2, patch, to_qcow2, u64, word
from tests.support.qemu import QemuImg, qemu_io
from tests.support.tools import require_tool, run
from vmpack.errors import DamagedError
from vmpack.extent import Kind
from vmpack.formats.base import CreateOptions
from vmpack.formats.qcow2 import FORMAT
from vmpack.formats.qcow2.reader import Qcow2Reader

SIZES = (0, 512, 1000, 65536, 65537, 3_000_003)


@pytest.mark.qemu
@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_what_qemu_img_wrote(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-MAP-1, QCOW2-CMP-1
    raw = tmp_path / "disk.raw"
    for size in SIZES:
        data = random_disk(raw, size, seed=size)
        with_image(open_qcow2(to_qcow2(qemu_img, raw, *VARIANTS[variant])), data)


def with_image(reader: Qcow2Reader, data: bytes) -> None:
    want = data + bytes(reader.virtual_size - len(data))
    assert reader.read(0, len(want)) == want
    position = 0
    for extent in reader.extents():
        assert extent.offset == position
        if extent.kind is not Kind.DATA:
            assert not any(want[extent.offset : extent.end])
        position = extent.end
    assert position == len(want)
    rng = random.Random(7)
    for _ in range(30 if want else 0):
        start = rng.randrange(len(want))
        length = min(rng.choice((1, 511, 4096, 70_000, 300_000)), len(want) - start)
        assert reader.read(start, length) == want[start : start + length]
        covered = sum(extent.length for extent in reader.extents(start, length))
        assert covered == length
    reader.close()


@pytest.mark.qemu
def test_reads_of_many_threads_agree(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 8 << 20, seed=4)
    reader = open_qcow2(to_qcow2(qemu_img, raw, *VARIANTS["4K-zstd"]))
    pieces = [(at, min(123_457, len(data) - at)) for at in range(0, len(data), 123_457)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda piece: reader.read(*piece), pieces))
    assert b"".join(got) == data
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["0.10", "1.1"])
def test_snapshot_reads_as_it_was(version: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-SNAP-1
    raw = tmp_path / "disk.raw"
    before = random_disk(raw, 1 << 20, seed=9)
    image = to_qcow2(qemu_img, raw, "-o", f"compat={version}")
    qemu_img.run("snapshot", "-c", "clean install", image)
    require_tool("qemu-io")
    write(image, "write -P 7 100k 300k")
    qemu_img.run("snapshot", "-c", "1", image)
    if version == "1.1":
        qemu_img.run("resize", "-f", "qcow2", image, "2M")
    for name, length in (("1", 1 << 20), ("clean install", 1 << 20)):
        with_image(open_qcow2(image, snapshot=name), before[:length])
    now = open_qcow2(image, snapshot="2")
    assert now.read(100 << 10, 300 << 10) == b"\7" * (300 << 10)
    now.close()


def write(image: Path, *commands: str) -> None:
    words = [part for command in commands for part in ("-c", command)]
    run([require_tool("qemu-io"), "-f", "qcow2", *words, image])


@pytest.mark.qemu
def test_zero_clusters_hide_what_lies_below(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "base.raw"
    base = bytearray(random_disk(raw, 1 << 20, seed=2))
    overlay = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", overlay, "2M")
    write(overlay, "write -z 64k 128k", "write -P 3 300k 5k", "write -z -u 512k 64k")
    base[64 << 10 : 192 << 10] = bytes(128 << 10)
    base[300 << 10 : 305 << 10] = b"\3" * (5 << 10)
    base[512 << 10 : 576 << 10] = bytes(64 << 10)
    with_image(open_qcow2(overlay, allow_backing=True), bytes(base) + bytes(1 << 20))


@pytest.mark.qemu
def test_subclusters_over_a_backing_file(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-MAP-6: each of the three states of a subcluster, in one cluster
    raw = tmp_path / "base.raw"
    base = bytearray(random_disk(raw, 1 << 20, seed=3))
    overlay = tmp_path / "top.qcow2"
    options = ("-o", "extended_l2=on", "-b", "base.raw", "-F", "raw")
    qemu_img.run("create", "-q", "-f", "qcow2", *options, overlay)
    write(overlay, "write -P 9 6k 4k", "write -z 20k 6k")
    base[6 << 10 : 10 << 10] = b"\x09" * (4 << 10)
    base[20 << 10 : 26 << 10] = bytes(6 << 10)
    with_image(open_qcow2(overlay, allow_backing=True), bytes(base))


@pytest.mark.qemu
def test_external_data_file_where_it_is_allowed(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 1 << 20, seed=5)
    image = tmp_path / "disk.qcow2"
    options = "data_file=disk.data,data_file_raw=on"
    # qemu-img looks for the data file in its own working directory.
    run([*qemu_img.prefix, "create", "-f", "qcow2", "-o", options, image, "1M"], cwd=tmp_path)
    words = ["convert", "-n", "-f", "raw", "-O", "qcow2", raw, image]
    run([*qemu_img.prefix, *words], cwd=tmp_path)
    with_image(open_qcow2(image, allow_backing=True), data)


def zstd_image(path: Path, frames: list[bytes], *, cluster_bits: int = 12) -> Path:
    """An image whose clusters are ``frames``, written by vmpack's own tables."""
    import os

    from vmpack.formats.qcow2.writer import Qcow2Writer

    size = 1 << cluster_bits
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = Qcow2Writer(
        fd, virtual_size=len(frames) * size, cluster_bits=cluster_bits, compression=1
    )
    position = size
    for number, frame in enumerate(frames):
        os.pwrite(fd, frame, position)
        writer.place_frame(number, position, len(frame))
        position += len(frame)
    writer.finish_at(position)
    os.close(fd)
    return path


def test_zstd_frames_of_every_kind(tmp_path: Path) -> None:
    # QCOW2-CMP-2: without content size, several in a row; QEMU's decoder takes them as well
    data = disk_bytes(4 * 4096, seed=6)
    parts = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    plain = zstandard.ZstdCompressor(write_checksum=True)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    two = plain.compress(parts[2][:1000]) + plain.compress(parts[2][1000:])
    frames = [plain.compress(parts[0]), unsized.compress(parts[1]), two, plain.compress(parts[3])]
    image = zstd_image(tmp_path / "a.qcow2", frames)
    with_image(open_qcow2(image), data)
    node = {"driver": "qcow2", "file": {"driver": "file", "filename": str(image)}}
    require_tool("qemu-io")
    assert "failed" not in qemu_io(node, f"read 0 {len(data)}")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(zstandard.compress(bytes(4097)), id="one byte more than a cluster"),
        pytest.param(zstandard.compress(bytes(4095)), id="one byte less"),
        pytest.param(zstandard.compress(bytes(1 << 26)), id="a bomb"),
        pytest.param(
            zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26)),
            id="a bomb that does not say so",
        ),
        pytest.param(bytes.fromhex("28b52ffd e0 ffffffffffffff7f"), id="claims 2**63 bytes"),
        pytest.param(bytes.fromhex("28b52ffd 00 ff 0100 00"), id="a window of terabytes"),
        pytest.param(b"no frame at all", id="no frame"),
        pytest.param(
            zstandard.ZstdCompressor(write_checksum=True).compress(b"ab" * 2048)[:-6], id="cut"
        ),
    ],
)
def test_bad_zstd_frame_is_damage(frame: bytes, tmp_path: Path) -> None:
    # hostile: 21
    # hostile: 7
    good = zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 4096)
    # A whole sector of zeros follows, so that what lies behind a cut frame does not complete it.
    image = zstd_image(tmp_path / "a.qcow2", [good, (frame + bytes(512))[:4096]])
    reader = open_qcow2(image)
    assert reader.read(0, 4096) == b"x" * 4096
    with pytest.raises(DamagedError, match="guest offset 4096: compressed cluster") as caught:
        reader.read(4096, 1)
    assert caught.value.clause == "QCOW2-CMP-2"
    reader.close()


@pytest.mark.qemu
def test_deflate_bomb_is_damage(tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 21
    raw = tmp_path / "disk.raw"
    raw.write_bytes(disk_bytes(65536, seed=11))
    image = to_qcow2(qemu_img, raw, "-c")
    l2 = word(image, word(image, 40)) & 0x00FF_FFFF_FFFF_FE00
    host = word(image, l2) & (1 << 54) - 1
    codec = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = codec.compress(bytes(1 << 24)) + codec.flush()
    reader = open_qcow2(patch(image, {host: bomb}))
    with pytest.raises(DamagedError, match="holds more than 65536 bytes"):
        reader.read(0, 512)
    reader.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    clusters=st.lists(st.sampled_from([0, 1, 2, 3]), min_size=0, max_size=40),
    cut=st.integers(0, 511),
    zstd=st.booleans(),
)
def test_own_writer_and_reader_agree(
    clusters: list[int], cut: int, zstd: bool, tmp_path: Path
) -> None:
    import os

    from vmpack.copy import copy_image
    from vmpack.formats.raw import RawReader
    from vmpack.source import ByteSource

    kinds = [bytes(512), b"\xaa" * 512, random.Random(1).randbytes(512), b"text " * 102 + b"ab"]
    data = b"".join(kinds[kind] for kind in clusters)
    data = data[: max(0, len(data) - cut)]
    raw, image = tmp_path / "p.raw", tmp_path / "p.qcow2"
    raw.write_bytes(data)
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    options = {"cluster_size": "512", "compression_type": "zstd" if zstd else "zlib"}
    assert FORMAT.create is not None
    writer = FORMAT.create(fd, CreateOptions(len(data), options, compressed=True))
    source = RawReader(ByteSource.open(raw))
    copy_image(source, writer, fd, workers=2)
    source.close()
    os.close(fd)
    with_image(open_qcow2(image), data)


@pytest.mark.qemu
def test_window_of_a_file_reads_as_the_file(tmp_path: Path, qemu_img: QemuImg) -> None:
    from vmpack.source import ByteSource

    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 300_000, seed=8)
    image = to_qcow2(qemu_img, raw, "-c")
    padded = tmp_path / "padded"
    padded.write_bytes(b"\xff" * 65536 + image.read_bytes() + b"\xff" * 512)
    with ByteSource.open(padded) as whole:
        with_image(Qcow2Reader(whole.slice(65536, image.stat().st_size)), data)


@pytest.mark.qemu
def test_compressed_frames_are_where_they_say(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 1 << 20, seed=12)
    reader = open_qcow2(to_qcow2(qemu_img, raw, *VARIANTS["zstd"]))
    found = list(reader.compressed_frames(0, reader.virtual_size))
    assert found
    for guest, host, length in found:
        frame = reader.source.pread(host, length)
        decoded = zstandard.ZstdDecompressor().decompress(frame, max_output_size=65536)
        assert decoded == data[guest : guest + 65536]
    reader.close()


@pytest.mark.qemu
def test_64_tib_disk_reads_in_the_time_of_its_data(tmp_path: Path, qemu_img: QemuImg) -> None:
    image = tmp_path / "huge.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", image, "64T")
    write(image, "write -P 5 40T 4k")
    reader = open_qcow2(image)
    data = [extent for extent in reader.extents() if extent.kind is Kind.DATA]
    assert [(one.offset, one.length) for one in data] == [(40 << 40, 65536)]
    assert reader.read(40 << 40, 4096) == b"\5" * 4096
    reader.close()


@pytest.mark.qemu
def test_header_extensions_of_unknown_type_are_skipped(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-EXT-2
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 100_000, seed=1)
    image = to_qcow2(qemu_img, raw)
    extension = struct.pack(">II", 0x12345678, 5) + b"hello\0\0\0" + u64(0)
    with_image(open_qcow2(patch(image, {112: extension})), data)
