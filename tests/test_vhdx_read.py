"""VHDX files of QEMU, of Hyper-V and made by hand: what they read as, and what info and map say."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import run
from tests.support.vhdx import Made, MiB, open_vhdx
from vmpack.errors import DamagedError, UsageError
from vmpack.extent import Kind
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.info import info
from vmpack.ops.map import map_image

RandomDisk = Callable[..., tuple[Path, bytes]]


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options",
    [
        "",
        "block_size=1M",
        "block_size=2M,log_size=3M",
        "block_size=256M",
        "block_size=1M,block_state_zero=off",
        "block_size=1M,subformat=fixed",
        "subformat=fixed",
    ],
)
def test_what_qemu_writes(options: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHDX-READ-1, VHDX-READ-2
    data = disk_bytes(300_032, seed=8) + bytes(3 * MiB) + disk_bytes(2 * MiB, seed=9)
    raw = write_sparse(tmp_path / "disk.raw", data)
    image = tmp_path / "disk.vhdx"
    words = ["-o", options] if options else []
    qemu_img.run("convert", "-f", "raw", "-O", "vhdx", *words, raw, image)
    reader = open_vhdx(image)
    assert reader.read(0, reader.virtual_size) == data
    rng = Random(1)
    for _ in range(50):
        low, high = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
        assert reader.read(low, high - low) == data[low:high]
    stored = image.read_bytes()
    for one in reader.map_runs(0, len(data)):
        if one.data:
            assert one.host is not None
            assert stored[one.host : one.host + one.length] == data[one.offset :][: one.length]
        else:
            assert not any(data[one.offset : one.offset + one.length])
    reader.close()
    assert check(image).exit_code == 0
    mine, theirs = info(image).as_dict(), qemu_img.json("info", "-f", "vhdx", image)
    for key in ("format", "virtual-size", "cluster-size", "dirty-flag", "actual-size"):
        assert mine[key] == theirs[key], key
    kind = "fixed" if "fixed" in options else "dynamic"
    facts = mine["format-specific"]["data"]  # type: ignore[index]
    assert (facts["subformat"], facts["logical-sector-size"]) == (kind, 512)
    assert facts["creator"].startswith("QEMU")


@pytest.mark.qemu
def test_map_says_more_than_qemus(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QEMU 7.2 shows a VHDX disk as one run of data, so there is nothing to disagree with but the
    # total; which parts are data is checked by their bytes above.
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    write_sparse(raw, disk_bytes(MiB, seed=2) + bytes(30 * MiB))
    qemu_img.run("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, image)
    (theirs,) = json.loads(qemu_img.run("map", "-f", "vhdx", "--output=json", image).stdout)
    mine = map_image(image)
    assert mine[0]["start"] == theirs["start"] == 0
    assert sum(int(str(one["length"])) for one in mine) == theirs["length"]
    assert [one["data"] for one in mine] == [True, False]


def test_states_of_blocks(tmp_path: Path) -> None:
    # VHDX-BAT-2, VHDX-READ-2: what is undefined or unmapped may be anything, and is zeros here.
    ones = b"\1" * MiB
    states = {0: (6, ones), 1: (0, None), 2: (1, ones), 3: (2, None), 4: (3, ones), 5: (6, ones)}
    path = Made(6 * MiB - 512, blocks=states).write(tmp_path / "disk.vhdx")
    reader = open_vhdx(path)
    assert reader.read(0, reader.virtual_size) == ones + bytes(4 * MiB) + ones[:-512]
    kinds = [(one.offset // MiB, one.kind) for one in reader.extents()]
    assert kinds == [(0, Kind.DATA), (1, Kind.HOLE), (2, Kind.ZERO), (5, Kind.DATA)]
    reader.close()
    for state in (4, 5, 7):
        Made(2 * MiB, blocks={1: (state, ones)}).write(path)
        reader = open_vhdx(path)
        assert reader.read(0, MiB) == bytes(MiB)
        with pytest.raises(DamagedError) as caught:
            reader.read(MiB - 1, 2)
        assert caught.value.clause == "VHDX-BAT-2"
        reader.close()
        assert check(path).exit_code == 2


@pytest.mark.qemu
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("block", [MiB, 32 * MiB, 256 * MiB])
def test_around_chunks(sector: int, block: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHDX-BAT-1: a sector bitmap entry stands behind each chunk of payload entries.
    chunk = sector << 23
    image = tmp_path / "disk.vhdx"
    for size in (chunk - sector, chunk, chunk + sector, 2 * chunk, 3 * chunk + block + sector):
        last = -(-size // block) - 1
        ratio = chunk // block
        spots = sorted({0, ratio - 1, ratio, 2 * ratio - 1, 2 * ratio, last} & set(range(last + 1)))
        marks = {spot: bytes([number + 1]) * 8192 for number, spot in enumerate(spots)}
        made = Made(size, block=block, sector=sector)
        made.blocks = {spot: (6, mark) for spot, mark in marks.items()}
        made.write(image)
        with image.open("r+b") as out:
            out.truncate(made.data_at + len(spots) * block)
        reader = open_vhdx(image)
        for spot, mark in marks.items():
            take = min(8192, size - spot * block)
            assert reader.read(spot * block, take) == mark[:take]
        data = [one for one in reader.extents() if one.kind is Kind.DATA]
        covered = {one.offset // block + n for one in data for n in range(-(-one.length // block))}
        assert covered == set(spots)
        reader.close()
        assert check(image).exit_code == 0
        if sector == 512:
            qemu_img.assert_clean(image, fmt="vhdx")
            for number, spot in enumerate(spots, 1):
                argv = ["qemu-io", "-r", "-f", "vhdx", "-c"]
                take = min(8192, size - spot * block)
                done = run([*argv, f"read -P {number} {spot * block} {take}", image])
                assert b"failed" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (
            "hyperv-dynamic-1g.vhdx",
            "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478",
        )
    ],
)
def test_the_samples(name: str, digest: str, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(run(["xz", "-dc", samples / f"{name}.xz"]).stdout)
    reader = open_vhdx(path)
    found = hashlib.sha256()
    for at in range(0, reader.virtual_size, 8 * MiB):
        found.update(reader.read(at, 8 * MiB))
    assert found.hexdigest() == digest
    facts = reader.info()
    assert (facts.virtual_size, facts.cluster_size) == (1 << 30, 32 * MiB)
    assert facts.specific["creator"] == "Microsoft Windows 6.2.9200.16384"
    assert list(reader.check()) == []
    reader.close()


def test_threads_read_the_same(tmp_path: Path) -> None:
    data = {n: (6, bytes([n + 1]) * MiB) for n in range(0, 40, 3)}
    path = Made(40 * MiB, blocks=data).write(tmp_path / "disk.vhdx")
    reader = open_vhdx(path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: reader.read(n * MiB, MiB), [*range(40)] * 3))
    assert [piece[0] for piece in found] == [0 if n % 3 else n + 1 for n in range(40)] * 3
    reader.close()


def test_a_large_sparse_disk_is_quick(tmp_path: Path) -> None:
    # hostile: 8
    # VHDX-READ-3: 64 TiB in blocks of 1 MiB: a BAT of 512 MiB, read in pieces and not kept.
    size = 64 << 40
    made = Made(size, blocks={0: (6, b"a" * MiB), (size // MiB) - 1: (6, b"z" * MiB)})
    reader = open_vhdx(made.write(tmp_path / "disk.vhdx"))
    assert reader.read(size - 3, 3) == b"zzz"
    kinds = [one.kind for one in reader.extents()]
    assert kinds == [Kind.DATA, Kind.HOLE, Kind.DATA]
    assert sum(len(one) for one in reader.bat._chunks.values()) <= 8 * MiB
    reader.close()


def test_blocks_in_any_order_are_read_together(tmp_path: Path) -> None:
    made = Made(8 * MiB, blocks={n: (6, bytes([n]) * MiB) for n in (1, 2, 3, 0, 6, 5)})
    reader = open_vhdx(made.write(tmp_path / "disk.vhdx"))
    runs = [(run.offset // MiB, run.length // MiB) for run in reader.lookup(0, 8 * MiB)]
    assert runs == [(0, 1), (1, 3), (4, 1), (5, 1), (6, 1), (7, 1)]
    assert reader.read(0, 8 * MiB)[::MiB] == bytes([0, 1, 2, 3, 0, 5, 6, 0])
    reader.close()


def test_a_last_block_cut_at_the_disks_end(tmp_path: Path) -> None:
    # VHDX-BAT-3: what the guest sees has to be there, not the rest of the block.
    path = Made(MiB + 512, blocks={1: (6, b"e" * MiB)}).write(tmp_path / "disk.vhdx")
    with path.open("r+b") as out:
        out.truncate(path.stat().st_size - MiB + 512)
    reader = open_vhdx(path)
    assert reader.read(MiB, 512) == b"e" * 512
    reader.close()
    with path.open("r+b") as out:
        out.truncate(path.stat().st_size - 1)
    reader = open_vhdx(path)
    with pytest.raises(DamagedError, match="past the end"):
        reader.read(MiB, 512)
    reader.close()


def test_holes_of_the_file_are_not_read(tmp_path: Path) -> None:
    # VHDX-READ-5
    made = Made(512 * MiB, block=256 * MiB, blocks={0: (6, b"a" * 4096), 1: (6, b"b" * MiB)})
    path = made.write(tmp_path / "disk.vhdx")
    reader = open_vhdx(path)
    data = [(one.offset, one.end) for one in reader.extents() if one.kind is Kind.DATA]
    assert sum(end - start for start, end in data) < 3 * MiB
    assert (data[0][0], data[-1][0] // MiB) == (0, 256)
    assert [one.kind for one in reader.extents(4 * MiB, 4096)] == [Kind.ZERO]
    assert sum(one.length for one in reader.extents(3, 400 * MiB)) == 400 * MiB
    reader.close()


def test_snapshots_are_refused(tmp_path: Path) -> None:
    path = Made(MiB).write(tmp_path / "disk.vhdx")
    with pytest.raises(UsageError, match="no snapshots"):
        open_vhdx(path, snapshot="1")


@pytest.mark.qemu
def test_second_copies_serve(tmp_path: Path, qemu_img: QemuImg, random_disk: RandomDisk) -> None:
    # VHDX-HDR-2, VHDX-REG-1: a header or table that was torn; check reports it.
    raw, _ = random_disk(2 * MiB, seed=4)
    image = tmp_path / "disk.vhdx"
    for at in (0x10000, 0x20000, 0x30000, 0x40000):
        qemu_img.run("convert", "-f", "raw", "-O", "vhdx", raw, image)
        with image.open("r+b") as out:
            out.seek(at + 100)
            out.write(struct.pack("<Q", 0x1234))
        assert compare(raw, image).identical
        found = check(image)
        assert (found.exit_code, found.corruptions) == (2, 1), hex(at)
