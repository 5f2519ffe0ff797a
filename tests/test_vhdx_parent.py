"""Differencing disks: read with the parent that the caller names or allows, else refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.support.vhdx import DATA_WRITE, Made, MiB, locator, open_vhdx, patch
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.extent import Kind
from vmpack.formats.base import OpenOptions
from vmpack.ops.check import check
from vmpack.ops.convert import convert
from vmpack.ops.info import info

BRACED = "{" + str(DATA_WRITE) + "}"
PATHS = (
    ("relative_path", r"..\disks\parent.vhdx"),
    ("absolute_win32_path", r"\\?\d:\disks\other.vhdx"),
)
LINK = (("parent_linkage", BRACED), *PATHS)


def bits(sectors: set[int]) -> bytes:
    raw = bytearray(max(sectors, default=0) // 8 + 1)
    for sector in sectors:
        raw[sector // 8] |= 1 << sector % 8
    return bytes(raw)


def parent(path: Path, **changes: object) -> Path:
    blocks = {0: (6, b"p" * MiB), 2: (6, b"q" * MiB)}
    made = Made(4 * MiB, blocks=blocks, **changes)  # type: ignore[arg-type]
    return made.write(path)


def child(path: Path, **changes: object) -> Path:
    fields: dict[str, object] = {"parent": LINK, "data_write": UUID(int=0x3333), **changes}
    return Made(4 * MiB, **fields).write(path)  # type: ignore[arg-type]


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Files opened in the block, by an audit hook (which cannot be taken out again)."""
    seen: list[str] = []
    on = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if on and event == "open" and isinstance(args[0], str) and args[0].endswith(".vhdx"):
            seen.append(args[0])

    sys.addaudithook(hook)
    yield seen
    on.clear()


@pytest.mark.parametrize("sector", [512, 4096])
def test_every_state_over_a_parent(sector: int, tmp_path: Path) -> None:
    # VHDX-BAT-5, VHDX-READ-4
    rng = Random(sector)
    per_block = MiB // sector
    here = {s for s in range(3 * per_block, 4 * per_block) if rng.random() < 0.3}
    # Bits of a block that is fully present are not looked at.
    stale = {0, 5}
    blocks = {
        0: (0, None),
        1: (6, b"c" * MiB),
        2: (2, None),
        3: (7, b"d" * MiB),
        4: (1, None),
        5: (3, None),
        6: (0, None),
    }
    base = Made(
        7 * MiB, sector=sector, blocks={n: (6, rng.randbytes(MiB)) for n in range(5)}
    ).write(tmp_path / "parent.vhdx")
    path = Made(
        7 * MiB,
        sector=sector,
        blocks=blocks,
        bitmaps={0: bits(here | {per_block + one for one in stale})},
        parent=LINK,
    ).write(tmp_path / "child.vhdx")
    reader = open_vhdx(path, parents=(str(base),))
    below = open_vhdx(base)
    want = bytearray(below.read(0, 7 * MiB))
    want[MiB : 2 * MiB] = b"c" * MiB
    want[2 * MiB : 3 * MiB] = bytes(MiB)
    for one in here:
        want[one * sector : (one + 1) * sector] = b"d" * sector
    want[4 * MiB :] = bytes(3 * MiB)
    assert reader.read(0, 7 * MiB) == want
    for _ in range(100):
        low, high = sorted((rng.randrange(7 * MiB + 1), rng.randrange(7 * MiB + 1)))
        assert reader.read(low, high - low) == want[low:high]
    for extent in reader.extents():
        if extent.kind is not Kind.DATA:
            assert not any(want[extent.offset : extent.end])
    depths = {one.depth for one in reader.map_runs(0, 7 * MiB) if one.data}
    assert depths == {0, 1}
    assert list(reader.check()) == []
    reader.close()
    below.close()


def test_large_blocks_in_a_later_chunk(tmp_path: Path) -> None:
    # VHDX-BAT-5: the bits of a block lie in its chunk's bitmap, at its place in the chunk.
    block, size = 256 * MiB, 9 << 30
    number = (4 << 30) // block + 3
    mark = b"z" * 512
    sectors = {3 * block // 512 + 9, 3 * block // 512 + block // 512 - 1}
    raw = bytes(9 * 512) + mark
    path = Made(
        size, block=block, blocks={number: (7, raw)}, bitmaps={1: bits(sectors)}, parent=LINK
    ).write(tmp_path / "child.vhdx")
    Made(size, block=block).write(tmp_path / "parent.vhdx")
    reader = open_vhdx(path, allow_backing=True)
    assert reader.read(number * block + 9 * 512 - 1, 514) == b"\0" + mark + b"\0"
    runs = [one for one in reader.map_runs(number * block, block) if one.depth == 0 and one.data]
    assert [one.offset - number * block for one in runs] == [9 * 512, block - 512]
    reader.close()


def test_only_what_the_caller_allows_is_opened(tmp_path: Path) -> None:
    # hostile: 4
    # hostile: 38
    # VHDX-REF-1, VHDX-REF-3: without permission info works and opens one file.
    folder = tmp_path / "vm"
    folder.mkdir()
    path = child(folder / "child.vhdx")
    parent(tmp_path / "parent.vhdx")
    (tmp_path / "disks").mkdir()
    parent(tmp_path / "disks" / "parent.vhdx")
    with opened_files() as seen:
        document = info(path).as_dict()
        with pytest.raises(UnsafeError) as caught:
            open_vhdx(path)
        assert caught.value.clause == "VHDX-REF-1"
        with pytest.raises(UnsafeError) as caught:
            open_vhdx(path, allow_backing=True)
        assert caught.value.clause == "VHDX-REF-3"
    assert set(seen) == {str(path)}
    assert document["backing-filename"] == PATHS[0][1]
    assert document["backing-filename-format"] == "vhdx"
    facts = document["format-specific"]["data"]  # type: ignore[index]
    assert facts["subformat"] == "differencing"
    assert facts["parent-linkage"] == [str(DATA_WRITE)]
    assert facts["parent-paths"]["absolute-win32-path"] == PATHS[1][1]
    assert check(path).exit_code == 0
    reader = open_vhdx(path, metadata_only=True)
    with pytest.raises(UnsafeError):
        reader.read(0, 1)
    with pytest.raises(UnsafeError):
        list(reader.extents())
    reader.close()


@pytest.mark.parametrize("name", ["parent.vhdx", "other.vhdx"])
def test_the_last_component_of_a_path_is_looked_for(name: str, tmp_path: Path) -> None:
    # VHDX-REF-3
    path = child(tmp_path / "child.vhdx")
    parent(tmp_path / name)
    reader = open_vhdx(path, allow_backing=True)
    assert reader.read(0, 4 * MiB) == b"p" * MiB + bytes(MiB) + b"q" * MiB + bytes(MiB)
    reader.close()
    raw = tmp_path / "flat.raw"
    assert convert(path, raw, allow_backing=True).verified
    assert raw.read_bytes()[:5] == b"ppppp"


def test_the_wrong_parent_is_refused(tmp_path: Path) -> None:
    # VHDX-REF-7, VHDX-REF-8
    path = child(tmp_path / "child.vhdx")
    wrong = parent(tmp_path / "parent.vhdx", data_write=UUID(int=9))
    for options in (OpenOptions(allow_backing=True), OpenOptions(parents=(str(wrong),))):
        with pytest.raises(DamagedError) as caught:
            open_vhdx(path, allow_backing=options.allow_backing, parents=options.parents)
        assert caught.value.clause == "VHDX-REF-7"
    parent(wrong, sector=4096)
    with pytest.raises(DamagedError) as caught:
        open_vhdx(path, allow_backing=True)
    assert caught.value.clause == "VHDX-REF-8"
    # The second linkage is what a merge leaves for a while.
    pairs = (("parent_linkage", "{" + str(UUID(int=5)) + "}"), ("parent_linkage2", BRACED), *PATHS)
    child(path, parent=pairs)
    parent(wrong)
    open_vhdx(path, allow_backing=True).close()


def test_a_chain_and_a_cycle(tmp_path: Path) -> None:
    # hostile: 4
    # VHDX-REF-5
    parent(tmp_path / "base.vhdx")
    to_base = (("parent_linkage", BRACED), ("relative_path", "base.vhdx"))
    middle = Made(4 * MiB, blocks={1: (6, b"m" * MiB)}, parent=to_base, data_write=UUID(int=8))
    middle.write(tmp_path / "middle.vhdx")
    to_middle = (("parent_linkage", str(UUID(int=8))), ("relative_path", "middle.vhdx"))
    top = child(tmp_path / "top.vhdx", parent=to_middle, blocks={2: (2, None)})
    reader = open_vhdx(top, allow_backing=True)
    assert reader.read(0, 4 * MiB) == b"p" * MiB + b"m" * MiB + bytes(2 * MiB)
    reader.close()
    names = (str(tmp_path / "middle.vhdx"), str(tmp_path / "base.vhdx"))
    open_vhdx(top, parents=names).close()
    itself = child(tmp_path / "self.vhdx", parent=(LINK[0], ("relative_path", "self.vhdx")))
    with pytest.raises(DamagedError) as caught:
        open_vhdx(itself, allow_backing=True)
    assert caught.value.clause == "VHDX-REF-5"


def test_locators(tmp_path: Path) -> None:
    # VHDX-REF-6
    path = tmp_path / "child.vhdx"
    twice = locator([*LINK, PATHS[0]])
    bad = {
        "no link": locator(PATHS),
        "no guid": locator([("parent_linkage", "{x}")]),
        "twice": twice,
        "short": b"x" * 19,
        "table": twice[:18] + b"\xff\xff" + twice[20:],
        "bounds": locator(LINK)[:-4],
    }
    for name, raw in bad.items():
        child(path, locator=raw)
        with pytest.raises(DamagedError) as caught:
            open_vhdx(path, metadata_only=True)
        assert caught.value.clause == "VHDX-REF-6", name
    child(path, locator=locator(LINK, kind=UUID(int=3)))
    with pytest.raises(UnsupportedError, match="parent of type"):
        open_vhdx(path, metadata_only=True)
    made = Made(4 * MiB)
    made.write(path)
    patch(path, made.metadata_at + 65536 + 4, b"\2")
    with pytest.raises(DamagedError, match="without a parent locator"):
        open_vhdx(path, metadata_only=True)


def test_unknown_keys_and_control_characters(tmp_path: Path) -> None:
    # hostile: 11
    pairs = [("comment" * 9, "x"), ("tool", "y"), LINK[0], ("relative_path", "a\x1b[2J\\b\n.vhdx")]
    path = child(tmp_path / "child.vhdx", parent=pairs)
    with pytest.raises(UnsafeError) as caught:
        open_vhdx(path)
    assert str(caught.value).isprintable()
    with pytest.raises(UnsafeError) as caught:
        open_vhdx(path, allow_backing=True)
    assert str(caught.value).isprintable()


def test_a_partial_block_without_a_bitmap(tmp_path: Path) -> None:
    # VHDX-BAT-5
    parent(tmp_path / "parent.vhdx")
    path = child(tmp_path / "child.vhdx", blocks={1: (7, b"c" * MiB)})
    reader = open_vhdx(path, allow_backing=True)
    with pytest.raises(DamagedError) as caught:
        reader.read(MiB, 1)
    assert caught.value.clause == "VHDX-BAT-5"
    assert [one.clause for one in reader.check()] == ["VHDX-BAT-5"]
    reader.close()
