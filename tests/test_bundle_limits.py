"""Limits of the format and of the writer: memory, offsets, refcounts, sizes; giants of zeros."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bundles import prove_bundle, write_bundle
from tests.support.hostile import Hostile, good_bundle
from tests.support.qemu import QemuImg, image, qemu_io
from vmpack.bundle.index import FrameIndex
from vmpack.bundle.reader import Bundle
from vmpack.errors import UnsupportedError
from vmpack.formats.qcow2.layout import encode_header
from vmpack.formats.qcow2.structs import COMPRESSION_ZSTD, compressed_entry
from vmpack.formats.qcow2.tables import TableWriter
from vmpack.formats.qcow2.writer import zstd_compressor
from vmpack.ops.pack import pack

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def _digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def test_the_index_costs_at_most_64_bytes_a_frame() -> None:
    """VMP-WRITE-4: at every size, while it grows as well. A dict costs four times that."""
    index = FrameIndex()
    tracemalloc.start()
    try:
        for number in range(100_000):
            index.add(number * 100, 100, 16, _digest(number))
            if number % 1000 == 999:
                # A mebibyte is the interpreter's own and the first table.
                _, peak = tracemalloc.get_traced_memory()
                assert peak <= 64 * (number + 1) + (1 << 20), number
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == 100_000
    assert peak <= 64 * 100_000 + (1 << 20)


# Few different tails and few different slots, so that most of them collide.
DIGESTS = st.builds(
    lambda low, high: low.to_bytes(8, "little") + bytes([high]) * 24,
    st.one_of(st.integers(0, 3), st.integers(4090, 4100), st.just((1 << 64) - 1)),
    st.integers(0, 9),
)


@settings(max_examples=200)
@given(st.lists(DIGESTS, max_size=200))
def test_the_index_is_a_dict(digests: list[bytes]) -> None:
    """VMP-POOL-1: what it finds is what was added, whatever collides."""
    index, model = FrameIndex(), dict[bytes, int]()
    for digest in digests:
        assert index.find(digest) == model.get(digest)
        if digest not in model:
            model[digest] = index.add(len(model) * 7, 7, 12, digest)
    assert len(index) == len(model)
    for digest, number in model.items():
        frame = index.frame(number)
        assert (index.find(digest), frame.offset, frame.sha256) == (number, number * 7, digest)


def test_the_index_finds_everything_after_it_grew() -> None:
    index = FrameIndex()
    for number in range(30_000):
        assert index.find(_digest(number)) is None
        assert index.add(number, 1, 12, _digest(number)) == number
    assert all(index.find(_digest(number)) == number for number in range(30_000))
    assert index.find(_digest(30_000)) is None


def _view(
    path: Path, bits: int, size: int, frames: dict[int, tuple[int, bytes]], start: int
) -> TableWriter:
    """A qcow2 image: guest cluster -> (offset, frame), tables from ``start``."""
    tables = TableWriter(cluster_bits=bits, virtual_size=size)
    with path.open("wb") as file:
        for cluster in sorted(frames):
            offset, frame = frames[cluster]
            file.seek(offset)
            file.write(frame)
            tables.set(cluster, compressed_entry(offset, len(frame), bits))
        layout = tables.layout(start)
        file.seek(start)
        for piece in tables.pieces():
            file.write(piece)
        assert file.tell() == layout.end
        file.seek(0)
        file.write(encode_header(layout, compression=COMPRESSION_ZSTD))
    tables.close()
    return tables


@pytest.mark.qemu
def test_frames_beyond_five_tebibytes(tmp_path: Path, each_qemu_img: QemuImg) -> None:
    """Design rule 8: a window that far costs the tables of what it touches."""
    compress = zstd_compressor(3, 2 * MIB)
    cluster = [bytes([value]) * (2 * MIB) for value in (1, 2, 3)]
    path, raw = tmp_path / "far.qcow2", tmp_path / "far.raw"
    offsets = (2 * MIB, 3 * TIB + 12345, 5 * TIB + GIB + 1)
    frames = {
        number * 7: (offset, compress(data))
        for number, (offset, data) in enumerate(zip(offsets, cluster, strict=True))
    }
    _view(path, 21, 40 * MIB, frames, 5 * TIB + 2 * GIB)
    with raw.open("wb") as file:
        file.truncate(40 * MIB)
        for number, data in zip(frames, cluster, strict=True):
            file.seek(number * 2 * MIB)
            file.write(data)
    assert path.stat().st_blocks * 512 < 32 * MIB
    each_qemu_img.assert_clean(path, fmt="qcow2")
    each_qemu_img.assert_identical(raw, path, fmt_a="raw", fmt_b="qcow2")


@pytest.mark.qemu
def test_a_frame_with_a_hundred_thousand_references(tmp_path: Path, qemu_img: QemuImg) -> None:
    """VMP-VIEW-6: more than 16 bits hold."""
    frame = zstd_compressor(3, 4096)(b"a" * 4096)
    frames = dict.fromkeys(range(100_000), (4096, frame))
    path = tmp_path / "many.qcow2"
    _view(path, 12, 100_000 * 4096, frames, 8192)
    qemu_img.assert_clean(path, fmt="qcow2")
    text = qemu_io(image(path, "qcow2"), "read -P 0x61 409595904 4096", "read -P 0x61 0 1M")
    assert "failed" not in text, text


@pytest.mark.qemu
def test_a_bundle_of_one_cluster_seventy_thousand_times(tmp_path: Path) -> None:
    """VMP-POOL-1, VMP-VIEW-6, with disks that share the frame as well."""
    source = tmp_path / "same.raw"
    with source.open("wb") as file:
        for _ in range(70):
            file.write((b"same" * 1024) * 1000)
    bundle = write_bundle(tmp_path / "x.vmpack", [("a", source, 4096), ("b", source, 4096)])
    prove_bundle(bundle)
    with Bundle.open(bundle) as opened:
        assert opened.index().frame_count == 1
        assert list(opened.check()) == []
    assert bundle.stat().st_size < 4 * MIB


@pytest.mark.parametrize(
    ("bits", "size"), [(12, 8 * TIB + 512), (16, (2 << 50) + 512), (9, GIB * 1024)]
)
def test_disks_whose_l1_table_would_be_too_long(bits: int, size: int) -> None:
    """VMP-VIEW-8."""
    with pytest.raises(UnsupportedError, match="too large for clusters") as caught:
        TableWriter(cluster_bits=bits, virtual_size=size)
    assert caught.value.hint == "choose a larger cluster size"


@pytest.mark.parametrize(("bits", "start"), [(12, 4 * TIB), (16, 1 << 50)])
def test_windows_whose_refcount_table_would_be_too_long(bits: int, start: int) -> None:
    """VMP-VIEW-8."""
    tables = TableWriter(cluster_bits=bits, virtual_size=1 << bits)
    with pytest.raises(UnsupportedError, match="too many for clusters") as caught:
        tables.layout(start, refcount_order=5)
    assert caught.value.hint == "choose a larger cluster size"


def test_a_disk_too_large_for_its_clusters_writes_nothing(tmp_path: Path) -> None:
    """VMP-VIEW-8, VMP-WRITE-1; hostile: 8."""
    huge = tmp_path / "huge.raw"
    with huge.open("wb") as file:
        file.truncate(9 * TIB)
    with pytest.raises(UnsupportedError, match="too large for clusters of 4096"):
        pack([huge], tmp_path / "x.vmpack", cluster_size=4096)
    assert os.listdir(tmp_path) == ["huge.raw"]


@pytest.mark.qemu
def test_15_tib_of_nothing_takes_no_time(tmp_path: Path) -> None:
    """Design rule 15: a sparse disk costs what its data costs."""
    huge = tmp_path / "huge.raw"
    with huge.open("wb") as file:
        file.truncate(15 * TIB)
    begin = time.process_time()
    pack([huge], tmp_path / "x.vmpack")
    assert time.process_time() - begin < 5
    prove_bundle(tmp_path / "x.vmpack")


SURVEY = """
import resource, sys
from pathlib import Path
from tests.support.hostile import survey
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
print(*survey(Path(sys.argv[1]), take_out=False))
"""


def _giant(change: Callable[[Hostile], int], folder: Path) -> str:
    """What is said of a sparse file as long as ``change`` says; in 2 GiB of address space."""
    hostile = Hostile(good_bundle(folder))
    size = change(hostile)
    path = folder / "giant.vmpack"
    raw = hostile.signed()
    end = len(raw) - int.from_bytes(raw[72:80], "little")
    with path.open("wb") as file:
        file.write(raw[:end])
        file.seek(size)
        file.write(raw[end:])
    done = subprocess.run(
        [sys.executable, "-c", SURVEY, str(path)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_an_index_of_a_tebibyte_of_zeros(tmp_path: Path) -> None:
    """VMP-READ-1; hostile: 7: refused where memory ends, not killed."""

    def change(h: Hostile) -> int:
        start, length = h.header["index_offset"], 48 * (1 << 34)
        h.header["index_size"] = h.manifest["index"]["size"] = length
        h.header["manifest_offset"] = start + length
        raw = len(h.signed()) - h.header["index_offset"] - 48 * len(h.frames + h.segments)
        h.header["total_size"] = start + length + raw
        return int(start + length)

    assert "bytes of memory" in _giant(change, tmp_path)


def test_half_of_a_bundle_zeroed_is_told_in_time(tmp_path: Path) -> None:
    """VMP-SEG-1: an interrupted download; the tables are walked once, not for every segment."""
    source = tmp_path / "disk.raw"
    source.write_bytes(os.urandom(48 * MIB))
    path = write_bundle(tmp_path / "x.vmpack", [("root", source, 4096), ("more", source, 4096)])
    path.chmod(0o644)
    with Bundle.open(path) as opened:
        start, size = opened.manifest.pool_offset, opened.manifest.pool_size
        frames = opened.index().frame_count
    with path.open("r+b") as file:
        file.seek(start + size // 2)
        file.write(bytes(size - size // 2))
    begin = time.process_time()
    with Bundle.open(path) as opened:
        found = list(opened.check(workers=2))
    assert time.process_time() - begin < 10
    assert len(found) == 1001
    assert all(one.guest_offset is not None for one in found[:1000])
    told = int(found[-1].message.split()[1])
    assert abs(told + 1000 - frames) <= 4, "both disks have each of half of the clusters"
