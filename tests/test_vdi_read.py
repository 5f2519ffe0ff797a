"""The VDI reader against qemu-img, and blocks that no other tool would place as they are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.disks import random_disk
from tests.support.images import patch
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vdi import FREE, MIB, ZERO, field, open_vdi, write_vdi
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError
from vmpack.extent import Kind
from vmpack.formats.vdi.blockmap import CHUNK
from vmpack.formats.vdi.reader import VdiReader
from vmpack.ops.convert import convert
from vmpack.ops.info import info
from vmpack.ops.map import map_image

SIZES = (0, 512, 1000, MIB - 512, MIB, MIB + 512, 5_000_192)
KINDS = ("off", "on")


def made_by_qemu(qemu_img: QemuImg, raw: Path, static: str) -> Path:
    image = raw.with_suffix(".vdi")
    words = ["-f", "raw", "-O", "vdi", "-o", f"static={static}"]
    qemu_img.run("convert", *words, raw, image)
    return image


def agrees(reader: VdiReader, data: bytes) -> None:
    """The disk reads as ``data`` and then zeros, whole and in pieces, and its extents fit."""
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
        length = min(rng.choice((1, 511, 4096, 70_000, 2_300_000)), len(want) - start)
        assert reader.read(start, length) == want[start : start + length]
        assert sum(one.length for one in reader.extents(start, length)) == length
    reader.close()


@pytest.mark.qemu
@pytest.mark.parametrize("static", KINDS)
def test_reads_what_qemu_img_wrote(static: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VDI-MAP-1, VDI-HDR-8
    raw = tmp_path / "disk.raw"
    for size in SIZES:
        data = random_disk(raw, size, seed=size)
        image = made_by_qemu(each_qemu_img, raw, static)
        agrees(open_vdi(image), data)
        theirs = each_qemu_img.json("info", "-f", "vdi", image)
        ours: Any = info(image).as_dict()
        for name in ("filename", "format", "virtual-size", "actual-size", "cluster-size"):
            assert ours[name] == theirs[name], name
        kind = "static" if static == "on" else "dynamic"
        assert ours["format-specific"]["data"]["image-type"] == kind


def rows(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """Start, length and the named facts of each row, equal neighbours joined."""
    joined: list[tuple[Any, ...]] = []
    for row in found:
        here = (row["start"], row["length"], *(row[name] for name in names))
        if joined and joined[-1][2:] == here[2:]:
            here = (joined[-1][0], joined.pop()[1] + here[1], *here[2:])
        joined.append(here)
    return joined


@pytest.mark.qemu
@pytest.mark.parametrize("static", KINDS)
def test_map_agrees_with_qemu_imgs(static: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vdi"
    random_disk(raw, 3 * MIB + 512, seed=6)
    made_by_qemu(qemu_img, raw, static)
    qemu_img.run("resize", "-f", "raw", raw, "9M")
    holes = tmp_path / "holes.vdi"
    qemu_img.run("create", "-q", "-f", "vdi", "-o", f"static={static}", holes, "9M")
    words = ["-f", "vdi", "-c", "write -P 3 5M 64k", "-c", "write -P 4 1200k 8k", holes]
    run([require_tool("qemu-io"), *words])
    names = ("zero", "data")
    for one in (image, holes):
        theirs, ours = qemu_img.json("map", "-f", "vdi", one), map_image(one)
        assert rows(ours, *names) == rows(theirs, *names)
        places = {row["start"]: row["offset"] for row in theirs if "offset" in row}
        for row in ours:
            if row["data"] and row["start"] in places:
                assert row["offset"] == places[row["start"]]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(9)),
    kinds=st.lists(st.sampled_from(["data", "free", "zero"]), min_size=9, max_size=9),
    cut=st.integers(0, 4095),
)
def test_any_order_of_blocks(order: list[int], kinds: list[str], cut: int, tmp_path: Path) -> None:
    # VDI-HDR-9: blocks of 4 KiB, in any place
    states = {"free": FREE, "zero": ZERO}
    entries = [states.get(kind, place) for kind, place in zip(kinds, order, strict=True)]
    stored = {place: bytes([place + 1]) * 4096 for place in range(9)}
    want = b"".join(stored.get(entry, bytes(4096)) for entry in entries)
    size = len(want) - cut
    write_vdi(tmp_path / "a.vdi", entries, stored, block=4096, size=size)
    reader = open_vdi(tmp_path / "a.vdi")
    assert reader.virtual_size == -(-size // 512) * 512
    kinds_seen = {Kind.HOLE: FREE, Kind.ZERO: ZERO}
    for extent in reader.extents():
        for block in range(extent.offset // 4096, -(-extent.end // 4096)):
            want_entry = kinds_seen.get(extent.kind)
            assert entries[block] == want_entry if want_entry else entries[block] < ZERO
    agrees(reader, want[: reader.virtual_size])


def test_runs_cross_the_chunks_of_the_map(tmp_path: Path) -> None:
    entries = [FREE] * (3 * CHUNK + 5)
    for place, block in enumerate((CHUNK - 1, CHUNK, 3 * CHUNK, 3 * CHUNK + 4)):
        entries[block] = place
    stored = {place: bytes([place + 1]) * 4096 for place in range(4)}
    write_vdi(tmp_path / "a.vdi", entries, stored, block=4096)
    reader = open_vdi(tmp_path / "a.vdi")
    found = [(one.offset // 4096, one.length // 4096, one.kind) for one in reader.extents()]
    assert found == [
        (0, CHUNK - 1, Kind.HOLE),
        (CHUNK - 1, 2, Kind.DATA),
        (CHUNK + 1, 2 * CHUNK - 1, Kind.HOLE),
        (3 * CHUNK, 1, Kind.DATA),
        (3 * CHUNK + 1, 3, Kind.HOLE),
        (3 * CHUNK + 4, 1, Kind.DATA),
    ]
    assert reader.read((CHUNK - 1) * 4096, 8192) == stored[0] + stored[1]
    reader.close()


def test_the_last_block_may_be_cut_behind_the_disks_end(tmp_path: Path) -> None:
    # VDI-MAP-2
    image = tmp_path / "a.vdi"
    write_vdi(image, [0, 1], {0: b"a" * MIB, 1: b"b" * 512}, size=MIB + 512)
    whole = image.read_bytes()
    image.write_bytes(whole[: 1024 + MIB + 512])
    agrees(open_vdi(image), b"a" * MIB + b"b" * 512)
    image.write_bytes(whole[: 1024 + MIB + 511])
    with pytest.raises(DamagedError, match="past the end") as caught:
        open_vdi(image).read(MIB, 1)
    assert caught.value.clause == "VDI-MAP-2"


def test_chain_of_differencing_images(tmp_path: Path) -> None:
    # VDI-MAP-1, VDI-REF-1, VDI-REF-3
    base, middle, top = (tmp_path / f"{name}.vdi" for name in ("base", "middle", "top"))
    block = {n: bytes([n + 1]) * MIB for n in range(6)}
    one = write_vdi(base, [0, 1, 2, FREE, FREE], {0: block[0], 1: block[1], 2: block[2]}, number=1)
    two = write_vdi(middle, [FREE, 0, ZERO, FREE, FREE], {0: block[3]}, parent=one, number=2)
    write_vdi(top, [FREE, FREE, FREE, 0, FREE, 1], {0: block[4], 1: block[5]}, parent=two, number=3)
    want = block[0] + block[3] + bytes(MIB) + block[4] + bytes(MIB) + block[5]
    agrees(open_vdi(top, parents=(str(middle), str(base))), want)
    result = convert(top, tmp_path / "flat.raw", parents=(str(middle), str(base)))
    assert result.verified
    assert (tmp_path / "flat.raw").read_bytes() == want
    depths: Any = map_image(top, parents=(str(middle), str(base)))
    assert [row["depth"] for row in depths] == [2, 1, 1, 0, 2, 0]
    with pytest.raises(UnsafeError, match="needs its parent") as caught:
        open_vdi(top)
    assert caught.value.clause == "VDI-REF-1"
    facts: Any = info(top).as_dict()
    assert facts["format-specific"]["data"]["parent-uuid"] == str(two.uuid_image)
    # VirtualBox's own name for a snapshot's file is all that a UUID can be looked for under.
    middle.rename(tmp_path / f"{{{two.uuid_image}}}.vdi")
    with pytest.raises(UnsafeError, match="not in the image's folder") as caught:
        open_vdi(top, allow_backing=True)
    assert caught.value.clause == "VDI-REF-3"
    base.rename(tmp_path / f"{{{one.uuid_image}}}.vdi")
    agrees(open_vdi(top, allow_backing=True), want)


def test_a_parent_is_proved_by_its_uuids(tmp_path: Path) -> None:
    # VDI-REF-5, VDI-REF-6, VDI-REF-7
    base, top = tmp_path / "base.vdi", tmp_path / "top.vdi"
    one = write_vdi(base, [0], {0: b"a" * MIB}, number=1)
    write_vdi(top, [FREE], {}, parent=one, number=2)
    write_vdi(tmp_path / "other.vdi", [0], {0: b"b" * MIB}, number=5)
    for parent, clause in ((tmp_path / "other.vdi", 6), (patch(base, {0x198: b"\1"}), 7)):
        with pytest.raises(UnsafeError) as caught:
            open_vdi(top, parents=(str(parent),))
        assert caught.value.clause == f"VDI-REF-{clause}"
    with pytest.raises(DamagedError, match="comes back") as cycle:
        open_vdi(top, parents=(str(top), str(top)))
    assert cycle.value.clause == "VDI-REF-5"
    raw = tmp_path / "x.raw"
    raw.write_bytes(bytes(4096))
    with pytest.raises(DamagedError, match="signature"):
        open_vdi(top, parents=(str(raw),))
    # An image from before VirtualBox kept the second UUID names none.
    agrees(open_vdi(patch(top, {0x1B8: bytes(16)}), parents=(str(base),)), b"a" * MIB)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    # VDI-HDR-2, VDI-HDR-4
    image = tmp_path / "a.vdi"
    write_vdi(image, [FREE], {})
    for value, text in ((1, "0.1"), (0x1_0000, "1.0"), (0x1_0002, "1.2"), (0x2_0001, "2.1")):
        with pytest.raises(UnsupportedError, match=f"version {text}") as caught:
            open_vdi(patch(image, {68: value.to_bytes(4, "little")}))
        assert caught.value.clause == "VDI-HDR-2"
    for kind, text in ((3, "undo"), (0, "type 0"), (5, "type 5")):
        with pytest.raises(UnsupportedError, match=text) as caught:
            open_vdi(patch(image, field("image_type", kind)))
        assert caught.value.clause == "VDI-HDR-4"
    with pytest.raises(UsageError, match="no snapshots"):
        open_vdi(image, snapshot="1")
