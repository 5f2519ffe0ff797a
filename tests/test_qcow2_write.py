"""The qcow2 writer's options: refcounts of every width, overlays, the feature-name table."""

from __future__ import annotations

import os
import random
import re
import struct
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.images import open_qcow2, patch, u32, u64
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.errors import UnsupportedError, UsageError, VmpackError
from vmpack.formats.qcow2 import refcounts
from vmpack.formats.qcow2.refcounts import PAGE, Counts
from vmpack.formats.qcow2.structs import ENTRY_COPIED, FEATURE_NAMES, L1_OFFSET_MASK
from vmpack.formats.qcow2.writer import Qcow2Writer
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.measure import measure

WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def small_clusters(path: Path, size: int) -> Path:
    """A disk whose clusters compress to a few bytes each, with some that do not."""
    rng = random.Random(3)
    parts = [rng.randbytes(512) if n % 37 == 0 else bytes([n % 255 + 1]) * 512 for n in range(size)]
    return write_sparse(path, b"".join(parts))


@pytest.mark.qemu
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("compressed", [False, True])
def test_refcounts_of_every_width(
    width: int, compressed: bool, tmp_path: Path, qemu_img: QemuImg
) -> None:
    # QCOW2-WRITE-8
    raw = small_clusters(tmp_path / "disk.raw", 3000)
    for cluster in ("512", "4K", "64K"):
        out = tmp_path / "out.qcow2"
        options = {"refcount_bits": str(width), "cluster_size": cluster}
        if not compressed or cluster != "64K":
            options["compression_type"] = "zlib"
        result = convert(raw, out, options=options, compressed=compressed, force=True)
        assert result.verified
        seen = qemu_img.json("info", "-f", "qcow2", out)
        assert seen["format-specific"]["data"]["refcount-bits"] == width
        qemu_img.assert_clean(out, fmt="qcow2")
        qemu_img.assert_identical(raw, out, fmt_a="raw", fmt_b="qcow2")
        assert check(out).exit_code == 0
        if not compressed:
            assert measure(raw, "qcow2", options)["required"] == out.stat().st_size


def test_more_compressed_clusters_in_one_than_sixteen_bits_count(tmp_path: Path) -> None:
    # QCOW2-WRITE-8
    sizes = {}
    for width, limit in ((None, None), (4, 65535)):
        fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        writer = Qcow2Writer(
            fd,
            virtual_size=66_000 << 21,
            cluster_bits=21,
            compress=lambda _data: b"tiny",
            refcount_order=width,
        )
        cluster = writer.prepare(0, b"x" * (1 << 21))
        for index in range(66_000):
            one = [part.__class__(index, part.data, True) for part in cluster]  # type: ignore[attr-defined]
            jobs = writer.emit(one)
            assert len(jobs) == 1
        layout = writer.finish_at(writer._position)
        sizes[width] = (layout.refcount_order, layout.l1_offset >> 21)
        os.close(fd)
        assert limit is None or max(map(max, writer.tables._counts.values())) == limit
    assert sizes == {None: (5, 2), 4: (4, 3)}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"refcount_bits": "3"}, "refcount_bits: '3'"),
        ({"refcount_bits": "128"}, "refcount_bits: '128'"),
        ({"refcount_bits": "8", "compat": "0.10"}, "needs compat 1.1"),
        ({"compression_type": "zstd", "compat": "0.10"}, "needs compat 1.1"),
        ({"backing_file": "a", "backing_fmt": "raw"}, "gets data"),
        ({"backing_file": "a"}, "backing_fmt is missing"),
        ({"backing_fmt": "raw"}, "backing_file is missing"),
        ({"encryption": "on"}, "no option 'encryption'"),
        ({"encrypt.format": "luks"}, "no option 'encrypt.format'"),
        ({"data_file": "x"}, "no option 'data_file'"),
        ({"preallocation": "full"}, "no option 'preallocation'"),
    ],
)
def test_options_that_are_refused(options: dict[str, str], text: str, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(512))
    with pytest.raises(UsageError, match=re.escape(text)):
        convert(raw, tmp_path / "out.qcow2", options=options)
    assert not (tmp_path / "out.qcow2").exists()


@pytest.mark.qemu
@pytest.mark.parametrize("compat", ["1.1", "0.10"])
def test_qemu_reads_overlays(compat: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # QCOW2-WRITE-9
    base = tmp_path / "base.raw"
    data = random_disk(base, 1_000_448, seed=2)
    for cluster in ("512", "64K"):
        top = tmp_path / "top.qcow2"
        options = {
            "backing_file": "base.raw",
            "backing_fmt": "raw",
            "compat": compat,
            "cluster_size": cluster,
        }
        create(top, 2_000_384, "qcow2", options=options, force=True)
        seen = each_qemu_img.json("info", "-f", "qcow2", top)
        assert seen["backing-filename"] == "base.raw"
        assert seen["backing-filename-format"] == "raw"
        assert seen["virtual-size"] == 2_000_384
        each_qemu_img.assert_clean(top, fmt="qcow2")
        flat = tmp_path / "flat.raw"
        each_qemu_img.run("convert", "-f", "qcow2", "-O", "raw", top, flat)
        assert flat.read_bytes() == data + bytes(2_000_384 - len(data))
        assert compare(flat, top, allow_backing=True).identical
        # What QEMU writes into it later stays over its backing file.
        words = ["-f", "qcow2", "-c", "write -P 9 100k 5k", top]
        run([require_tool("qemu-io"), *words])
        each_qemu_img.assert_clean(top, fmt="qcow2")


def test_the_backing_file_is_named_and_not_opened(tmp_path: Path) -> None:
    # QCOW2-WRITE-9
    top = tmp_path / "top.qcow2"
    long = "d/" * 400 + "base.vhd"
    for name, given, stored in (
        ("/not/here/base.vhd", "vhd", "vpc"),
        ("../a b,c=d\u00e9.qcow2", "QCOW2", "qcow2"),
        ("./with:colon", "raw", "raw"),
        (long, "vpc", "vpc"),
    ):
        options = {"backing_file": name, "backing_fmt": given}
        create(top, 1 << 20, "qcow2", options=options, force=True)
        facts = info(top).as_dict()
        assert (facts["backing-filename"], facts["backing-filename-format"]) == (name, stored)
    refused = ["", "nbd:host:10809", "json:{}", "http://x/y", "x" * 1024, "a\0b"]
    for name in refused:
        with pytest.raises(UsageError, match="not the name of a file"):
            create(
                tmp_path / "x",
                1 << 20,
                "qcow2",
                options={"backing_file": name, "backing_fmt": "raw"},
            )
    small = {"backing_file": long, "backing_fmt": "raw", "cluster_size": "512"}
    with pytest.raises(UsageError, match="does not fit in a cluster of 512"):
        create(tmp_path / "small.qcow2", 1 << 20, "qcow2", options=small)
    for format_name in ("bananas", "luks"):
        options = {"backing_file": "a", "backing_fmt": format_name}
        with pytest.raises(VmpackError):
            create(tmp_path / "x.qcow2", 1 << 20, "qcow2", options=options)
    assert sorted(os.listdir(tmp_path)) == ["top.qcow2"]


@pytest.mark.qemu
def test_qemu_takes_names_from_the_feature_table(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-WRITE-6
    raw = tmp_path / "disk.raw"
    random_disk(raw, 100_352, seed=1)
    image = tmp_path / "disk.qcow2"
    convert(raw, image)
    table = b"".join(one.encode() for one in FEATURE_NAMES)
    assert image.read_bytes()[112:120] == u32(0x6803F857) + u32(len(table))
    assert image.read_bytes()[120 : 120 + len(table)] == table
    # Bit 30 gets the name of bit 4: QEMU refuses the image by what the table says.
    at = image.read_bytes().index(b"extended L2 entries") - 1
    future = patch(image, {at: bytes([30]), 72: u64(1 << 30)})
    done = qemu_img.run("info", "-f", "qcow2", future, check=False)
    assert b"extended L2 entries" in done.stderr
    convert(raw, image, options={"compat": "0.10"}, force=True)
    assert b"dirty bit" not in image.read_bytes()[:65536]


@pytest.mark.parametrize("options", [{}, {"compat": "0.10"}, {"cluster_size": "4K"}], ids=str)
@pytest.mark.parametrize("compressed", [False, True])
def test_libqcow_sees_the_same_image(
    options: dict[str, str], compressed: bool, tmp_path: Path
) -> None:
    program = require_tool("qcowinfo")
    raw = tmp_path / "disk.raw"
    random_disk(raw, 3_000_320, seed=8)
    image = tmp_path / "disk.qcow2"
    zlib = {**options, "compression_type": "zlib"}
    convert(raw, image, options=zlib, compressed=compressed)
    text = run([program, image]).stdout.decode()
    assert "(3000320 bytes)" in text
    version = 2 if options.get("compat") == "0.10" else 3
    assert re.search(rf"Format version\s*:\s*{version}", text), text


def spread_out(path: Path, count: int, step: int) -> Path:
    """An image with ``count`` clusters of 4 KiB, ``step`` bytes apart in its (sparse) file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = Qcow2Writer(fd, virtual_size=count << 12, cluster_bits=12, refcount_order=0)
    for index in range(count):
        writer.tables.set(index, ENTRY_COPIED | step * (index + 1))
    writer.finish_at(step * (count + 1))
    os.close(fd)
    return path


@pytest.mark.qemu
def test_check_of_a_file_of_300_gib(tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 7: more than 2**14 pages of clusters, of which each holds one
    image = spread_out(tmp_path / "wide.qcow2", 18_000, PAGE << 12)
    assert image.stat().st_size > 280 << 30
    assert image.stat().st_blocks * 512 < 64 << 20
    qemu_img.assert_clean(image, fmt="qcow2")
    # One cluster lost is the one thing that is wrong.
    reader = open_qcow2(image)
    (l2,) = struct.unpack(">Q", reader.source.pread(reader.header.fields.l1_table_offset, 8))
    reader.close()
    with image.open("r+b") as out:
        out.seek(l2 & L1_OFFSET_MASK)
        out.write(bytes(8))
    found = check(image)
    assert [(one.kind, one.offset) for one in found.findings] == [("leak", PAGE << 12)]


def test_counts_are_bounded_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    # hostile: 7
    rng = random.Random(5)
    counts, want = Counts("x"), dict[int, int]()
    for _ in range(3000):
        first = rng.choice((0, 5, PAGE - 2, 7 * PAGE, 1 << 40)) + rng.randrange(4)
        last = first + rng.choice((0, 0, 1, 9))
        counts.add(first, last)
        for cluster in range(first, last + 1):
            want[cluster] = want.get(cluster, 0) + 1
    assert max(want.values()) > 256
    assert {cluster: counts.get(cluster) for cluster in want} == want
    assert counts.get(3 * PAGE) == 0
    for number in (*counts.pages(), 2):
        page = counts.page(number)
        assert len(page) == PAGE
        assert {number * PAGE + slot: value for slot, value in enumerate(page) if value} == {
            cluster: value for cluster, value in want.items() if cluster // PAGE == number
        }
    monkeypatch.setattr(refcounts, "MAX_MEMORY", 1 << 20)
    counts = Counts("x")
    for number in range(1 << 11):
        counts.add(number * PAGE, number * PAGE)
    with pytest.raises(UnsupportedError, match="too far apart"):
        counts.add(1 << 40, 1 << 40)


@pytest.mark.qemu
def test_snapshots_by_id_and_by_name_are_qemu_imgs(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-SNAP-1
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    write_sparse(raw, disk_bytes(2_000_384, seed=3))
    convert(raw, image)
    program = require_tool("qemu-io")
    # The second's name is the first's id: an id wins.
    for number, name in enumerate(("clean", "1", "last one"), 1):
        qemu_img.run("snapshot", "-c", name, image)
        run([program, "-f", "qcow2", "-c", f"write -P {number} {number * 300}k 100k", image])
    listed = info(image).as_dict()["snapshots"]
    assert listed == qemu_img.json("info", "-f", "qcow2", image)["snapshots"]
    theirs, ours = tmp_path / "theirs.raw", tmp_path / "ours.raw"
    for asked, id_ in (("clean", 1), ("1", 1), ("2", 2), ("last one", 3), ("3", 3)):
        qemu_img.run("convert", "-f", "qcow2", "-l", f"snapshot.id={id_}", image, theirs)
        convert(image, ours, snapshot=asked, force=True)
        assert ours.read_bytes() == theirs.read_bytes(), asked
    with pytest.raises(VmpackError, match="no snapshot"):
        convert(image, tmp_path / "x.raw", snapshot="absent")


@pytest.mark.qemu
def test_bitmaps_are_listed_as_qemu_img_lists_them(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-BMP-1
    image = tmp_path / "disk.qcow2"
    create(image, 64 << 20, "qcow2")
    for words in (["--add", "-g", "64K", "first"], ["--add", "second"], ["--disable", "first"]):
        qemu_img.run("bitmap", *words[:-1], image, words[-1])
    theirs = qemu_img.json("info", "-f", "qcow2", image)["format-specific"]["data"]["bitmaps"]
    ours = info(image).as_dict()["format-specific"]
    assert isinstance(ours, dict)
    assert ours["data"]["bitmaps"] == theirs
    assert len(theirs) == 2
