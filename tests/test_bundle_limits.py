"""What a bundle costs, and where it ends: memory of the index, offsets, refcounts, table limits."""

from __future__ import annotations

import os
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.qemu import QemuImg
from vmpack.bundle.index import FrameIndex
from vmpack.errors import UnsupportedError
from vmpack.formats.qcow2.layout import encode_header
from vmpack.formats.qcow2.structs import COMPRESSION_ZSTD, compressed_entry, compressed_range
from vmpack.formats.qcow2.tables import TableWriter
from vmpack.formats.qcow2.writer import zstd_compressor

KIB, MIB, GIB, TIB, PIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40, 1 << 50


def test_the_index_takes_at_most_64_bytes_a_frame() -> None:
    """VMP-WRITE-4: at every moment, growing included."""
    index = FrameIndex()
    count = 150_000
    worst = 0.0
    tracemalloc.start()
    try:
        for number in range(count):
            index.add(4096 + number * 100, 100, 16, sha256(number.to_bytes(8, "little")).digest())
            if number > 20_000 and number % 512 == 0:
                worst = max(worst, tracemalloc.get_traced_memory()[1] / (number + 1))
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    # The growing array's own reserve (an eighth) is address space that nothing has touched.
    assert worst <= 64 + 48 / 8


@given(st.lists(st.integers(0, 40), max_size=200))
def test_the_index_finds_what_was_added_and_nothing_else(numbers: list[int]) -> None:
    index = FrameIndex()
    model: dict[bytes, int] = {}
    for number in numbers:
        # Digests that share their low bytes meet in one slot.
        digest = (
            bytes(8) + number.to_bytes(24, "big") if number % 2 else sha256(b"%d" % number).digest()
        )
        assert index.find(digest) == model.get(digest)
        if digest not in model:
            model[digest] = index.add(number * 1000, number + 1, 12, digest)
    assert len(index) == len(model)
    for digest, number in model.items():
        assert index.frame(number).sha256 == digest


@given(st.integers(12, 21), st.integers(0, 1 << 48), st.integers(1, 1 << 12))
def test_descriptors_of_compressed_clusters_give_back_what_they_hold(
    bits: int, offset: int, length: int
) -> None:
    """VMP-VIEW-5."""
    start, size = compressed_range(compressed_entry(offset, length, bits), bits)
    assert start == offset
    assert offset + length <= start + size < offset + length + 512
    assert (start + size) % 512 == 0


@pytest.mark.qemu
def test_frames_beyond_five_tebibytes(tmp_path: Path, qemu_img: QemuImg) -> None:
    """Refcount table entries of 0 for ranges that the view does not touch (VMP-VIEW-6)."""
    path, raw = tmp_path / "far.qcow2", tmp_path / "far.raw"
    cluster = 64 * KIB
    compress = zstd_compressor(3, cluster)
    places = {0: 9 * GIB + 77, 5: 5 * TIB + 4095, 1000: 5 * TIB + 3 * MIB + 1}
    tables = TableWriter(cluster_bits=16, virtual_size=GIB)
    with path.open("wb") as out, raw.open("wb") as plain:
        plain.truncate(GIB)
        for index, offset in places.items():
            data = bytes([index % 251 + 1]) * cluster
            frame = compress(data)
            out.seek(offset)
            out.write(frame)
            tables.set(index, compressed_entry(offset, len(frame), 16))
            plain.seek(index * cluster)
            plain.write(data)
        layout = tables.layout(6 * TIB, refcount_order=5)
        out.seek(layout.l1_offset)
        for piece in tables.pieces():
            out.write(piece)
        out.seek(0)
        out.write(encode_header(layout, compression=COMPRESSION_ZSTD, names=False))
    tables.close()
    assert layout.end - layout.l1_offset < 2 * MIB
    qemu_img.assert_clean(path, fmt="qcow2")
    qemu_img.assert_identical(raw, {"driver": "qcow2", "file": _file(path)}, fmt_a="raw")


def _file(path: Path) -> dict[str, object]:
    return {"driver": "file", "filename": os.fspath(path), "read-only": True}


@pytest.mark.qemu
@pytest.mark.parametrize("order", [None, 5])
def test_more_references_than_16_bits_count(
    order: int | None, tmp_path: Path, qemu_img: QemuImg
) -> None:
    """VMP-VIEW-6: one frame that 100,000 clusters share."""
    path = tmp_path / "many.qcow2"
    cluster = 4 * KIB
    frame = zstd_compressor(3, cluster)(b"x" * cluster)
    tables = TableWriter(cluster_bits=12, virtual_size=100_000 * cluster)
    for index in range(100_000):
        tables.set(index, compressed_entry(cluster, len(frame), 12))
    layout = tables.layout(2 * cluster, refcount_order=order)
    assert layout.refcount_order == 5
    with path.open("wb") as out:
        out.write(encode_header(layout, compression=COMPRESSION_ZSTD))
        out.write(frame.ljust(cluster, b"\0"))
        for piece in tables.pieces():
            out.write(piece)
    tables.close()
    qemu_img.assert_clean(path, fmt="qcow2")


@pytest.mark.parametrize(("bits", "size"), [(12, 8 * TIB), (16, 2 * PIB), (21, 1 << 61)])
def test_a_disk_beyond_the_limit_is_refused_with_what_helps(bits: int, size: int) -> None:
    """VMP-LIMIT-1: the L1 table of the page's largest disk fits, one sector more does not."""
    TableWriter(cluster_bits=bits, virtual_size=size).close()
    with pytest.raises(UnsupportedError, match="too large") as caught:
        TableWriter(cluster_bits=bits, virtual_size=size + 512)
    assert "cluster size" in (caught.value.hint or "")


def test_a_window_beyond_the_limit_is_refused() -> None:
    """VMP-LIMIT-1: at 4 KiB clusters a window ends at 4 TiB."""
    tables = TableWriter(cluster_bits=12, virtual_size=MIB)
    tables.set(0, compressed_entry(4096, 100, 12))
    with pytest.raises(UnsupportedError, match="too many") as caught:
        tables.layout(4 * TIB, refcount_order=5)
    assert "cluster size" in (caught.value.hint or "")
    tables.close()
    near = TableWriter(cluster_bits=12, virtual_size=MIB)
    near.set(0, compressed_entry(4096, 100, 12))
    assert near.layout(4 * TIB - 64 * MIB, refcount_order=5).end < 4 * TIB
    near.close()
