"""Snapshot table and bitmap directory of hostile qcow2 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.images import open_qcow2, patch, to_qcow2, u32, u64, word
from tests.support.qemu import QemuImg
from vmpack.errors import DamagedError
from vmpack.ops.info import info

pytestmark = pytest.mark.qemu


@pytest.fixture
def image(tmp_path: Path, qemu_img: QemuImg) -> Path:
    """64 KiB clusters, 400 KB of data, uncompressed."""
    raw = tmp_path / "disk.raw"
    random_disk(raw, 400_000, seed=21)
    return to_qcow2(qemu_img, raw)


def with_snapshot(image: Path, qemu_img: QemuImg) -> tuple[Path, int]:
    qemu_img.run("snapshot", "-c", "before", image)
    return image, word(image, 64)


def test_snapshot_entries_are_bounded(image: Path, qemu_img: QemuImg) -> None:
    # hostile: 15
    image, table = with_snapshot(image, qemu_img)
    bad = patch(image, {table + 36: u32(1025)})
    with pytest.raises(DamagedError) as caught:
        open_qcow2(bad, snapshot="before")
    assert caught.value.clause == "QCOW2-SNAP-2"
    for offset, value in ((8, u32(1 << 23)), (0, u64(512)), (0, u64(1 << 50)), (8, u32(0))):
        bad = patch(image, {table + offset: value})
        with pytest.raises(DamagedError) as caught:
            open_qcow2(bad, snapshot="before")
        assert caught.value.clause == "QCOW2-SNAP-3"


def test_snapshot_names_cannot_write_to_the_terminal(image: Path, qemu_img: QemuImg) -> None:
    # hostile: 11
    from vmpack.binary import escape

    image, table = with_snapshot(image, qemu_img)
    at = image.read_bytes().index(b"before", table)
    document: Any = info(patch(image, {at: b"\x1b[31m\xff"})).as_dict()
    shown = escape(document["snapshots"][0]["name"])
    assert shown.isprintable()


def test_bitmap_granularity_is_checked_before_it_shifts(image: Path, qemu_img: QemuImg) -> None:
    # hostile: 23
    qemu_img.run("bitmap", "--add", image, "changes")
    at = image.read_bytes().index(u32(0x23852875))
    directory = word(image, at + 24)
    for bits in (0, 8, 32, 255):
        bad = patch(image, {directory + 17: bytes([bits])})
        with pytest.raises(DamagedError, match=f"granularity bits {bits}") as caught:
            info(bad)
        assert caught.value.clause == "QCOW2-BMP-1"
    # QCOW2-EXT-4
    for change in ({at + 16: u64(1)}, {at + 24: u64(513)}, {at + 8: u32(1 << 20)}):
        with pytest.raises(DamagedError) as caught:
            info(patch(image, change))
        assert caught.value.clause == "QCOW2-EXT-4"
    off = patch(image, {88: u64(0), at + 24: u64(513)})
    document: Any = info(off).as_dict()
    assert "bitmaps" not in document["format-specific"]["data"]
