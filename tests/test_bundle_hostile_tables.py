"""Tables and indexes that lie with every digest correct: found by a check, never followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hostile import CLUSTER, Cases, Edit, Hostile, complaints, good_bundle
from vmpack.formats.qcow2.structs import compressed_entry

CASES = Cases()
case = CASES.case


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests write is thrown away; waiting for the disk is most of their time."""
    monkeypatch.setattr("os.fsync", lambda _fd: None)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return good_bundle(tmp_path_factory.mktemp("good"))


def entry(name: str, clause: str, value: Callable[[Hostile, int], int], slot: int = 0) -> None:
    """A case: an L2 entry of disk ``a`` becomes ``value(parts, old entry)``."""

    def edit(h: Hostile) -> None:
        at = h.l2(0) + 8 * slot
        h.put(at, value(h, h.word(at)))

    CASES.add(f"L2 entry: {name}", clause, edit)


COPIED, COMPRESSED = 1 << 63, 1 << 62
entry("into the middle of a frame", "VMP-VIEW-5", lambda h, old: old + 1)
entry("one sector too many", "VMP-VIEW-5", lambda h, old: old + (1 << 58))
entry("most sectors", "VMP-VIEW-5", lambda h, old: old | 15 << 58)
entry("at 0", "QCOW2-MAP-4", lambda h, old: COMPRESSED)
entry("into the view header", "QCOW2-MAP-4", lambda h, old: COMPRESSED | 512)
entry("into the other disk's view header", "VMP-VIEW-5", lambda h, old: COMPRESSED | CLUSTER)
entry("past the window", "QCOW2-MAP-4", lambda h, old: COMPRESSED | 1 << 40)
entry("into its own L2 table", "QCOW2-MAP-5", lambda h, old: COMPRESSED | h.l2(0) - h.view(0, 0))
entry("plain data", "VMP-VIEW-3", lambda h, old: COPIED | 2 * CLUSTER)
entry("plain data: the view header", "VMP-VIEW-3", lambda h, old: COPIED | CLUSTER)
entry("plain data, past the window", "QCOW2-MAP-4", lambda h, old: COPIED | 1 << 50)
entry("plain data, unaligned", "QCOW2-MAP-3", lambda h, old: COPIED | 512 * 3)
entry("reserved bits", "QCOW2-MAP-3", lambda h, old: 0x3E << 56)
entry("compressed and copied", "QCOW2-MAP-3", lambda h, old: old | COPIED)
entry("zero cluster", "VMP-VIEW-3", lambda h, old: 1)
entry("zero cluster where nothing was", "VMP-VIEW-3", lambda h, old: 1, slot=3)
entry("zero cluster, allocated", "VMP-VIEW-3", lambda h, old: COPIED | 2 * CLUSTER | 1)
entry("dropped", "QCOW2-REFC-2", lambda h, old: 0)
entry("past the disk's end", "QCOW2-REFC-2", lambda h, old: h.word(h.l2(0)), slot=500)
entry("a blob", "VMP-VIEW-5", lambda h, old: _blob_entry(h))
entry("another cluster of the disk", "VMP-ID-3", lambda h, old: h.word(h.l2(0) + 8))


def _blob_entry(h: Hostile) -> int:
    blob = h.blobs[0]
    return compressed_entry(blob["offset"] - h.view(0, 0), blob["stored-size"], 12)


def table(name: str, clause: str, value: int, where: str = "l1") -> None:
    """A case: the first entry of disk ``a``'s L1 or refcount table is ``value``."""

    def edit(h: Hostile) -> None:
        h.put(h.l1(0) if where == "l1" else h.refcount_table(0), value)

    CASES.add(f"{where}: {name}", clause, edit)


table("no L2 table", "QCOW2-REFC-2", 0)
table("unaligned", "QCOW2-MAP-2", COPIED | 512)
table("past the window", "QCOW2-MAP-2", COPIED | 1 << 50)
table("the view header as a table", "QCOW2-MAP-2", COPIED)
table("the pool as a table", "QCOW2-REFC-2", COPIED | 2 * CLUSTER)
table("reserved bits", "QCOW2-MAP-2", 0x3F << 56 | 2 * CLUSTER)
table("no block", "QCOW2-REFC-2", 0, "refcounts")
table("unaligned", "QCOW2-REFC-1", 513, "refcounts")
table("past the window", "QCOW2-REFC-1", 1 << 50, "refcounts")
table("the header as a block", "QCOW2-REFC-2", 0, "refcounts")


@case("refcounts: one too many", "QCOW2-REFC-2")
def _(h: Hostile) -> None:
    block = h.view(0, h.word(h.refcount_table(0)))
    h.put(block + 4 * 7, 5, 4)


@case("refcounts: what another disk owns", "QCOW2-REFC-2")
def _(h: Hostile) -> None:
    block = h.view(0, h.word(h.refcount_table(0)))
    h.put(block + 4, 1, 4)


def record(name: str, clause: str, edit: Edit) -> None:
    CASES.add(f"index: {name}", clause, edit)


def _set(kind: str, number: int, field: int, value: int | bytes) -> Edit:
    return lambda h: getattr(h, kind)[number].__setitem__(field, value)


record("frame of no bytes", "VMP-IDX-4", _set("frames", 0, 1, 0))
record("frame of 4 GiB", "VMP-IDX-2", _set("frames", 0, 1, 0xFFFFFFFF))
record("frame larger than a descriptor says", "VMP-IDX-4", _set("frames", 0, 1, 2 * CLUSTER - 511))
record("frame longer than its place", "VMP-IDX-2", lambda h: _longer(h, 1))
record("frame shorter than it is", "VMP-POOL-2", lambda h: _longer(h, -1))
record("frame before the pool", "VMP-IDX-2", _set("frames", 0, 0, 4096))
record("frame at 2**64 - 1", "VMP-IDX-2", _set("frames", -1, 0, (1 << 64) - 1))
record("frames in another order", "VMP-IDX-2", lambda h: h.frames.reverse())
record("frame twice", "VMP-IDX-2", lambda h: h.frames.__setitem__(1, h.frames[0]))
for bits in (0, 11, 22, 63, 0xFFFFFFFF):
    record(f"cluster bits {bits}", "VMP-IDX-2", _set("frames", 0, 2, bits))
for bits in (13, 16, 21):
    record(f"cluster bits {bits}", "VMP-VIEW-5", _set("frames", 0, 2, bits))
record("a frame's digest", "VMP-FRAME-2", _set("frames", 0, 3, bytes(32)))
record("a segment missing at the start", "VMP-IDX-3", _set("segments", 0, 0, 8192))
record("a segment of nothing", "VMP-IDX-3", _set("segments", 0, 1, 0))
record("a segment of 4 GiB", "VMP-IDX-3", _set("segments", 0, 1, 0xFFFFFFFF))
record("a segment's reserved bytes", "VMP-IDX-3", _set("segments", 0, 2, 1))
record("segments end early", "VMP-IDX-3", lambda h: h.segments[-1].__setitem__(1, 100))
record("segments in another order", "VMP-IDX-3", lambda h: h.segments.reverse())


def _longer(h: Hostile, by: int) -> None:
    h.frames[0][1] += by


@case("a disk of 8 PiB in clusters of 4 KiB", "VMP-VIEW-8")
def _(h: Hostile) -> None:
    h.disks[0]["exact-size"] = h.disks[0]["virtual-size"] = (1 << 53) - 512


@case("padding is not zero", "VMP-SEG-2")
def _(h: Hostile) -> None:
    h.body[h.manifest["pool"]["offset"] + h.manifest["pool"]["size"]] = 1


@case("a byte of a frame", "VMP-FRAME-2")
def _(h: Hostile) -> None:
    h.body[h.frames[0][0] + 20] ^= 1


@case("a byte of a blob", "VMP-BLOB-3")
def _(h: Hostile) -> None:
    h.body[h.blobs[0]["offset"] + 20] ^= 1


@case("an unaligned disk with data behind its end", "VMP-VIEW-4")
def _(h: Hostile) -> None:
    # Disk b has 12,692 bytes; its view 12,800. The first cluster of a goes where b's last one was.
    h.put(h.l2(1) + 8 * 3, h.word(h.l2(0)) - CLUSTER)


@pytest.mark.parametrize(("edit", "clause"), CASES)
def test_a_lie_is_refused_or_found(edit: Edit, clause: str, good: bytes, tmp_path: Path) -> None:
    """VMP-VIEW-3 to VMP-VIEW-8, VMP-IDX-2 to VMP-IDX-4, VMP-POOL-2, VMP-SEG-2; hostile: 9, 10."""
    said = complaints(edit, good, tmp_path)
    assert clause in said, sorted(set(said))
