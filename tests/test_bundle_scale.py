"""Bundles far out: one cluster 70,000 times, terabytes of nothing, half of a file lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import prove_bundle, write_bundle
from tests.support.hostile import Hostile, good_bundle
from vmpack.bundle.index import FrameIndex
from vmpack.bundle.reader import Bundle
from vmpack.errors import UnsupportedError
from vmpack.ops.pack import pack

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def _digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def test_the_index_finds_everything_after_it_grew() -> None:
    index = FrameIndex()
    for number in range(30_000):
        assert index.find(_digest(number)) is None
        assert index.add(number, 1, 12, _digest(number)) == number
    assert all(index.find(_digest(number)) == number for number in range(30_000))
    assert index.find(_digest(30_000)) is None


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
