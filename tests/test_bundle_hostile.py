"""Manifests and headers that lie with every digest correct: refused, never believed.

Whoever writes the file writes its digests: what holds for a stranger's bundle needs none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import (
    CLUSTER,
    RECORD_SIZE,
    Cases,
    Edit,
    Hostile,
    complaints,
    good_bundle,
)

CASES = Cases()
case = CASES.case


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests write is thrown away; waiting for the disk is most of their time."""
    monkeypatch.setattr("os.fsync", lambda _fd: None)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return good_bundle(tmp_path_factory.mktemp("good"))


def member(path: str, value: object, clause: str = "VMP-MAN-2") -> None:
    """A case: one member of the manifest has another value; ``path`` as in ``disks.0.id``."""

    def edit(h: Hostile) -> None:
        *parents, last = path.split(".")
        target: Any = h.manifest
        for name in parents:
            target = target[int(name) if isinstance(target, list) else name]
        target[int(last) if isinstance(target, list) else last] = value

    shown = repr(value) if len(repr(value)) < 30 else f"{repr(value)[:20]}..."
    CASES.add(f"{path}={shown}", clause, edit)


def members(paths: str, values: Iterable[object], clause: str = "VMP-MAN-2") -> None:
    """A case for each of the members and each of the values."""
    for value in values:
        for path in paths.split():
            member(path, value, clause)


members("version", [0, 2, True, "1", None, [1]])
members("format", ["qcow2", "", 1, None])
members(
    "config provenance behaviour pool index disks.0 disks.0.window disks.0.view blobs.0",
    [[], "x", None, 7],
)
members("disks blobs", [{}, None, "a", 1])
member("surprise", 1)
member("disks.0.backing", "/etc/shadow")
member("disks.0.window.filename", "/etc/shadow")
member("blobs.0.path", "/etc/shadow")
member("pool.x-more", 1)
members(
    "machine-id blobs.0.digest disks.0.content-digest",
    ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "md5:" + "0" * 64, 5],
)
member("machine-id", "sha256:" + "0" * 64, "VMP-ID-2")
member("disks.0.content-digest", "vmpack-content-v1:" + "0" * 64, "VMP-ID-3")
members(
    "disks.0.id",
    ["", "../a", "a/b", "/a", "A", "a" * 33, "a\n", "a\x1b[2J", "-a", ".", "ä", 3, None],
)
member("disks.0.id", "b", "VMP-MAN-5")
members(
    "blobs.0.name",
    ["", "../../etc/passwd", "a/b", "..", ".x", "x" * 65, "a\n", "a\0b", "-rf", None],
)
member("blobs.0.name", "notes.txt", "VMP-BLOB-1")
member("blobs.0.name", "tpm-state", "VMP-ID-2")
member("blobs.0.size", (256 << 20) + 1)
member("blobs.0.size", 2999, "VMP-BLOB-3")
member("blobs.0.size", 256 << 20, "VMP-BLOB-3")
member("blobs.0.size", 0, "VMP-BLOB-3")
member("blobs.1.size", 0, "VMP-BLOB-2")
member("blobs.0.digest", "sha256:" + "0" * 64, "VMP-BLOB-3")
member("blobs.0.offset", 0)
member("blobs.0.offset", 4096, "VMP-BLOB-2")
member("blobs.0.stored-size", 0)
member("blobs.0.stored-size", 1, "VMP-POOL-2")
members("blobs.0.offset blobs.0.stored-size", [1 << 40, (1 << 53) - 1], "VMP-BLOB-2")
members("disks.0.cluster-size", [512, 2048, 4 << 20, -4096, 0])
member("disks.0.cluster-size", 12288, "VMP-VIEW-2")
member("disks.0.cluster-size", 8192, "VMP-WIN-1")
members(
    "disks.0.exact-size disks.0.virtual-size", [0, 1, 17_920, 18_433, (1 << 53) - 1], "VMP-VIEW-4"
)
member("disks.0.virtual-size", -512)
member("disks.0.window.offset", 0)
members("disks.0.window.offset", [8192, 12288, 4097, 1 << 40], "VMP-WIN-1")
members("disks.0.window.size", [0, -1])
members("disks.0.window.size", [4096, 1 << 40], "VMP-WIN-1")
members("disks.0.view.l1-offset", [0, 1, 4095])
members("disks.0.view.l1-offset", [4096, 8192], "VMP-MAN-4")
member("disks.0.view.l1-offset", 1 << 40, "VMP-VIEW-7")
members("disks.0.view.refcount-table-offset", [4096, 1 << 40, (1 << 53) - 1], "VMP-VIEW-7")
members("disks.0.view.end", [4096, (1 << 53) - 1], "VMP-VIEW-7")
member("disks.0.view.end", 1 << 40, "VMP-MAN-4")
members("disks.0.view.refcount-table-clusters", [0, 2049, 1 << 40])
members("disks.0.view.refcount-table-clusters", [2, 2048], "VMP-VIEW-7")
member("disks.0.stored-size", 0, "VMP-MAN-6")
member("disks.0.stored-size", (1 << 53) - 1, "VMP-MAN-6")
members("pool.offset", [4096, 1 << 50], "VMP-MAN-4")
member("pool.size", 0, "VMP-MAN-4")
member("pool.size", (1 << 53) - 1, "VMP-MAN-4")
member("index.offset", 4096, "VMP-MAN-3")
member("index.size", 48, "VMP-MAN-3")
member("index.frames", 1 << 40, "VMP-IDX-1")
member("index.frames", 0, "VMP-IDX-3")
member("config.disk", [{"id": "a"}, {"id": "zebra"}], "VMP-MAN-7")
member("config.disk", [{"id": "a", "bus": "/dev/mem"}, {"id": "b"}], "CFG-VER-2")
member("config.memory", "all of it", "CFG-VER-2")
member("config.surprise", 1, "CFG-VER-2")


@case("manifest is an array", "VMP-MAN-2")
def _(h: Hostile) -> None:
    h.manifest_raw = b"[]"


@case("manifest nests 1,000,000 arrays", "CFG-JSON-7")
def _(h: Hostile) -> None:
    h.manifest_raw = b"[" * 1_000_000 + b"]" * 1_000_000


@case("manifest has a million keys", "CFG-JSON-7")
def _(h: Hostile) -> None:
    h.manifest_raw = b"{" + b",".join(b'"%07d":0' % n for n in range(1_000_000)) + b"}"


@case("manifest has a number of a million digits", "CFG-JSON-4")
def _(h: Hostile) -> None:
    h.manifest_raw = b'{"format":' + b"9" * 1_000_000 + b"}"


@case("manifest is not UTF-8", "CFG-JSON-1")
def _(h: Hostile) -> None:
    h.manifest_raw = b'{"format":"\xff"}'


@case("manifest ends early", "CFG-JSON-1")
def _(h: Hostile) -> None:
    h.manifest_raw = b'{"format":'


@case("manifest has a key twice", "CFG-JSON-3")
def _(h: Hostile) -> None:
    h.manifest_raw = b'{"format":"vmpack","format":"vmpack"}'


@case("manifest is empty", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.manifest_raw = b""


@case("manifest has 257 disks", "VMP-MAN-2")
def _(h: Hostile) -> None:
    h.manifest["disks"] = [h.disks[0]] * 257


@case("no disks, but tables", "VMP-MAN-4")
def _(h: Hostile) -> None:
    h.manifest["disks"] = []


@case("file longer than the header says", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.tail = b"more"


@case("manifest of 16 MiB and a byte", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.header["manifest_size"] = (16 << 20) + 1


@case("total size of 2**64 - 1", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.header["total_size"] = (1 << 64) - 1


@case("sizes that wrap around 2**64", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.header["index_size"] = (1 << 64) - RECORD_SIZE * 16
    h.header["manifest_offset"] = h.header["index_offset"] - RECORD_SIZE * 16


@case("index inside the header", "VMP-HDR-6")
def _(h: Hostile) -> None:
    h.header["index_offset"] = 0


def view_header(name: str, offset: int, value: int, size: int) -> None:
    """A case: a field of the first view header, a qcow2 header, has another value."""

    def edit(h: Hostile) -> None:
        h.put(h.view(0, offset), value, size)

    CASES.add(f"view header: {name}", "VMP-VIEW-1", edit)


view_header("version 2", 4, 2, 4)
view_header("backing file", 8, 200, 8)
view_header("backing name", 16, 11, 4)
view_header("cluster bits", 20, 31, 4)
view_header("size", 24, 1 << 60, 8)
view_header("encryption", 32, 2, 4)
view_header("L1 size", 36, 0x7FFFFFFF, 4)
view_header("L1 offset", 40, 4096, 8)
view_header("refcount table", 48, 0, 8)
view_header("snapshots", 60, 0xFFFF, 4)
view_header("external data file", 72, 0b1100, 8)
view_header("corrupt", 72, 0b1010, 8)
view_header("refcount order", 96, 6, 4)
view_header("header length", 100, 4096, 4)
view_header("compression type", 104, 0, 1)
view_header("padding", 111, 1, 1)
view_header("extension", 112, 0xE2792ACA, 4)
view_header("last byte of the cluster", CLUSTER - 1, 1, 1)


@case("view header: a backing file by name", "VMP-VIEW-1")
def _(h: Hostile) -> None:
    start = h.view(0, 0)
    h.put(start + 8, 512)
    h.put(start + 16, 11, 4)
    h.patch(start + 512, b"/etc/shadow")


@pytest.mark.parametrize(("edit", "clause"), CASES)
def test_a_lie_is_refused_or_found(edit: Edit, clause: str, good: bytes, tmp_path: Path) -> None:
    """VMP-HDR-6, VMP-MAN-2 to VMP-MAN-7, VMP-BLOB-1, VMP-WIN-1; hostile: 4, 7, 9, 10."""
    said = complaints(edit, good, tmp_path)
    assert clause in said, sorted(set(said))
