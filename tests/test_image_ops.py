"""``info``, ``map``, ``compare``, ``measure`` and ``create`` beside qemu-img's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.images import VARIANTS, patch, to_qcow2, u64
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.errors import OutputError, UsageError
from vmpack.ops.compare import compare, first_difference
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.map import map_image
from vmpack.ops.measure import measure

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("variant", VARIANTS)
def test_info_has_qemu_imgs_fields(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 500_224, seed=1)
    image = to_qcow2(qemu_img, raw, *VARIANTS[variant])
    if not variant.startswith(("v2", "refcount-1")):
        qemu_img.run("snapshot", "-c", "one", image)
        qemu_img.run("bitmap", "--add", "-g", "32K", image, "b")
        qemu_img.run("bitmap", "--disable", image, "b")
    theirs = qemu_img.json("info", "-f", "qcow2", image)
    ours = info(image).as_dict()
    for field in ("filename", "format", "virtual-size", "actual-size", "cluster-size"):
        assert ours[field] == theirs[field], field
    assert ours["dirty-flag"] == theirs["dirty-flag"]
    assert ours["format-specific"] == theirs["format-specific"]
    assert ours.get("snapshots") == theirs.get("snapshots")
    json.dumps(ours)


def test_info_of_raw_and_of_a_chain(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "base.raw"
    random_disk(raw, 500_224, seed=1)
    theirs = qemu_img.json("info", "-f", "raw", raw)
    ours = info(raw).as_dict()
    for field in ("filename", "format", "virtual-size", "actual-size", "dirty-flag"):
        assert ours[field] == theirs[field]
    top = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", top)
    seen = qemu_img.json("info", "-f", "qcow2", top)
    ours = info(top).as_dict()
    assert ours["backing-filename"] == seen["backing-filename"] == "base.raw"
    assert ours["backing-filename-format"] == seen["backing-filename-format"]
    assert "chain" not in ours
    chain: Any = info(top, allow_backing=True).as_dict()["chain"]
    assert [one["filename"] for one in chain] == [str(raw)]


def test_digest_is_of_the_content(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 500_001, seed=1)
    image = to_qcow2(qemu_img, raw, "-c")
    digests = [info(one, digest=True).as_dict()["content-digest"] for one in (raw, image)]
    assert digests[0] == digests[1]
    assert str(digests[0]).startswith("vmpack-content-v1:")


def coalesced(rows: list[dict[str, Any]]) -> list[tuple[int, int, bool, bool]]:
    """``(start, length, zero, data)``, equal neighbours joined."""
    found: list[tuple[int, int, bool, bool]] = []
    for row in rows:
        here = (row["start"], row["length"], row["zero"], row["data"])
        if found and found[-1][2:] == here[2:]:
            here = (found[-1][0], found.pop()[1] + here[1], *here[2:])
        found.append(here)
    return found


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "metadata"])
def test_map_agrees(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 2_000_384, seed=6)
    image = to_qcow2(qemu_img, raw, *VARIANTS[variant])
    if variant != "refcount-1":
        words = ["-f", "qcow2", "-c", "write -z 100k 200k", "-c", "discard 600k 100k", image]
        run([require_tool("qemu-io"), *words])
    theirs = qemu_img.json("map", "-f", "qcow2", image)
    ours: Any = map_image(image)
    assert coalesced(ours) == coalesced(theirs)
    places = {row["start"]: row["offset"] for row in theirs if "offset" in row and row["data"]}
    for row in ours:
        if row["data"] and row["start"] in places:
            assert row["offset"] == places[row["start"]]


def test_map_of_raw_and_of_chains(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "base.raw"
    random_disk(raw, 1 << 20, seed=6)
    ours: Any = map_image(raw)
    assert coalesced(ours) == coalesced(qemu_img.json("map", "-f", "raw", raw))
    top = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", top, "2M")
    run([require_tool("qemu-io"), "-f", "qcow2", "-c", "write 200k 70k", top])
    theirs = qemu_img.json("map", "-f", "qcow2", top)
    ours = map_image(top, allow_backing=True)
    assert coalesced(ours) == coalesced(theirs)
    assert {row["depth"] for row in ours} == {row["depth"] for row in theirs}


@pytest.mark.parametrize("sizes", [(300_032, 300_032), (300_032, 600_064), (65536, 1 << 20)])
def test_compare_agrees(sizes: tuple[int, int], tmp_path: Path, qemu_img: QemuImg) -> None:
    a, b = tmp_path / "a.raw", tmp_path / "b.raw"
    data = random_disk(a, sizes[0], seed=2)
    b.write_bytes(data + bytes(sizes[1] - sizes[0]))
    image = to_qcow2(qemu_img, b, "-c")
    grown = sizes[0] != sizes[1]
    verdicts = []
    for change in (None, 0, 65535, sizes[0] - 1, sizes[1] - 1):
        if change is not None:
            b.write_bytes(data + bytes(sizes[1] - sizes[0]))
            image = to_qcow2(qemu_img, patch_byte(b, change), "-c")
        done = qemu_img.run("compare", "-f", "raw", "-F", "qcow2", a, image, check=False)
        found = compare(a, image)
        assert found.identical == (done.returncode == 0)
        assert found.offset == change
        # qemu-img's strict mode compares allocation too: here it is about the sizes alone.
        assert compare(a, image, strict=True).identical == (found.identical and not grown)
        verdicts.append(found.identical)
    assert verdicts[0]
    assert not verdicts[-1]


def patch_byte(path: Path, offset: int) -> Path:
    return patch(path, {offset: bytes([path.read_bytes()[offset] ^ 1])})


def test_first_difference() -> None:
    for at in (0, 1, 511, 4096, 9999):
        a = bytes(10_000)
        b = bytearray(a)
        b[at] = 1
        assert first_difference(a, bytes(b)) == at


@pytest.mark.parametrize("cluster", ["512", "4096", "65536", "2097152"])
def test_measure_is_exact(cluster: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 3_000_320, seed=3)
    options = {"cluster_size": cluster}
    found = measure(raw, "qcow2", options)
    out = tmp_path / "out.qcow2"
    convert(raw, out, options=options)
    assert found["required"] == out.stat().st_size
    words = ("-O", "qcow2", "-o", f"cluster_size={cluster}", "-f", "raw")
    theirs = qemu_img.json("measure", *words, raw)
    assert found["fully-allocated"] == theirs["fully-allocated"]
    assert found["required"] <= theirs["required"]


@pytest.mark.parametrize("size", [0, 512, 1 << 30, (1 << 40) + 512])
def test_measure_of_an_empty_disk(size: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    found = measure(size, "qcow2")
    create(tmp_path / "empty.qcow2", size, "qcow2")
    assert found["required"] == (tmp_path / "empty.qcow2").stat().st_size
    theirs = qemu_img.json("measure", "-O", "qcow2", "--size", str(size))
    assert found["fully-allocated"] == theirs["fully-allocated"]
    assert measure(size, "raw") == {"required": size, "fully-allocated": size}


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("raw", {}),
        ("qcow2", {}),
        ("qcow2", {"cluster_size": "512"}),
        ("qcow2", {"compat": "0.10"}),
        ("qcow2", {"compression_type": "zstd"}),
    ],
)
def test_created_images_are_empty_and_clean(
    fmt: str, options: dict[str, str], tmp_path: Path, qemu_img: QemuImg
) -> None:
    path = tmp_path / "new"
    size = (40 << 20) + 512
    create(path, size, fmt, options=options)
    seen = qemu_img.json("info", "-f", fmt, path)
    assert (seen["virtual-size"], seen["actual-size"] < 1 << 20) == (size, True)
    assert coalesced(qemu_img.json("map", "-f", fmt, path)) == [(0, size, True, False)]
    if fmt == "qcow2":
        qemu_img.assert_clean(path, fmt=fmt)
    with pytest.raises(OutputError):
        create(path, 512, fmt)
    with pytest.raises(UsageError):
        create(tmp_path / "other", 512, fmt, options={"colour": "red"})
    create(path, 512, fmt, force=True)


def test_disk_sizes_that_are_no_multiple_of_a_sector(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 70_000, seed=4)
    image = patch(to_qcow2(qemu_img, raw), {24: u64(70_000)})
    assert info(image).as_dict()["virtual-size"] == 70_000
    convert(image, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == data
