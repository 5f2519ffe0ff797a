"""Differencing disks: sectors from the child or its parent, and whose file may be opened."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes
from tests.support.qemu import QemuImg
from tests.support.vhd import change_bytes, difference, open_image, write
from vmpack.errors import DamagedError, UnsafeError, VmpackError
from vmpack.ops.check import check
from vmpack.ops.convert import convert
from vmpack.ops.info import info
from vmpack.ops.map import map_image

BLOCK = 2 << 20
SIZE = 3 * BLOCK + 70_144


def sectors(seed: int, count: int = 300) -> dict[int, bytes]:
    """Runs of changed sectors: in the first, second and last block, some of them zeros."""
    rng = random.Random(seed)
    changes: dict[int, bytes] = {0: b"first".ljust(512), SIZE // 512 - 1: b"last".ljust(512)}
    while len(changes) < count:
        start = rng.choice((rng.randrange(2 * BLOCK // 512), rng.randrange(6144 * 2, SIZE // 512)))
        value = rng.choice((bytes(512), rng.randbytes(512)))
        changes.update(
            dict.fromkeys(range(start, min(SIZE // 512, start + rng.choice((1, 2, 9)))), value)
        )
    return changes


def applied(data: bytes, changes: dict[int, bytes]) -> bytes:
    out = bytearray(data)
    for number, value in changes.items():
        out[number * 512 : number * 512 + 512] = value
    return bytes(out)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """A parent, its child, and what the child reads as."""
    data = disk_bytes(SIZE, seed=5)
    parent = write(tmp_path / "parent.vhd", data)
    changes = sectors(1)
    child = difference(tmp_path / "child.vhd", parent, SIZE, changes)
    return parent, child, applied(data, changes)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("block_size", [BLOCK, 512 << 10, 4096])
def test_each_sector_comes_from_whose_it_is(
    subformat: str, block_size: int, tmp_path: Path
) -> None:
    # hostile: 33
    # VHD-BMP-1, VHD-REF-1, VHD-REF-4
    data = disk_bytes(SIZE, seed=6)
    parent = write(tmp_path / "parent.vhd", data, subformat=subformat)
    changes = sectors(2)
    child = difference(tmp_path / "child.vhd", parent, SIZE, changes, block_size=block_size)
    wanted = applied(data, changes)
    reader = open_image(child, parents=(str(parent),))
    assert reader.read(0, SIZE) == wanted
    rng = random.Random(3)
    for _ in range(100):
        start = rng.randrange(SIZE)
        end = min(SIZE, start + rng.choice((1, 512, 5000, BLOCK + 1)))
        assert reader.read(start, end - start) == wanted[start:end]
    rows = list(reader.map_runs(0, SIZE))
    assert {row.depth for row in rows} >= {0, 1}
    for row in rows:
        first = row.offset // 512
        if row.depth == 0:
            assert {n in changes for n in range(first, first + row.length // 512)} == {True}
    position = 0
    for extent in reader.extents():
        assert extent.offset == position
        position = extent.end
    assert position == SIZE
    reader.close()


def test_conversion_flattens(chain: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    # VHD-REF-3
    _, child, wanted = chain
    out = tmp_path / "flat.raw"
    convert(child, out, allow_backing=True)
    assert out.read_bytes() == wanted
    assert sum(int(str(row["length"])) for row in map_image(child, allow_backing=True)) == SIZE


def test_a_grandchild_of_named_parents(chain: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    # VHD-REF-1
    parent, child, middle = chain
    changes = {7: b"seven".ljust(512), 6000: bytes(512)}
    top = difference(tmp_path / "top.vhd", child, SIZE, changes, seed=2)
    for options in ({"parents": (str(child), str(parent))}, {"allow_backing": True}):
        reader = open_image(top, **options)
        assert reader.read(0, SIZE) == applied(middle, changes)
        reader.close()
    documents: Any = info(top, allow_backing=True).as_dict()
    assert [one["filename"] for one in documents["chain"]] == [str(child), str(parent)]


def test_without_a_parent_it_is_described_and_not_read(
    chain: tuple[Path, Path, bytes], qemu_img: QemuImg
) -> None:
    # hostile: 4
    # hostile: 33
    # VHD-REF-1, VHD-INFO-1
    parent, child, _ = chain
    with pytest.raises(UnsafeError, match="needs its parent") as caught:
        convert(child, child.with_suffix(".raw"))
    assert caught.value.clause == "VHD-REF-1"
    assert "--parent" in (caught.value.hint or "")
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    document: Any = info(child).as_dict()
    result = check(child)
    watching = False
    assert str(parent) not in opened
    assert result.exit_code == 0
    assert document["backing-filename"] == ".\\parent.vhd"
    found = document["format-specific"]["data"]
    assert found["subformat"] == "differencing"
    assert found["parent-uuid"] == open_image(parent).found.footer.uuid
    assert found["parent-timestamp"] == 946_684_800 + 12345
    assert found["parent-names"] == [".\\parent.vhd", "parent.vhd"]


def test_another_parent_is_refused(chain: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    # VHD-REF-4
    _, child, _ = chain
    other = write(tmp_path / "other.vhd", disk_bytes(SIZE, seed=99))
    with pytest.raises(DamagedError, match="another unique id") as caught:
        open_image(child, parents=(str(other),))
    assert caught.value.clause == "VHD-REF-4"
    raw = tmp_path / "plain.raw"
    raw.write_bytes(bytes(SIZE))
    with pytest.raises(DamagedError):
        open_image(child, parents=(str(raw),))


@pytest.mark.parametrize(
    "names",
    [
        {b"W2ku": "C:\\VMs\\disks\\parent.vhd"},
        {b"W2ru": "..\\..\\elsewhere\\parent.vhd"},
        {b"MacX": "file://localhost/Volumes/parent.vhd"},
        {b"Wi2k": "ignored.vhd"},
        {},
    ],
)
def test_only_the_last_component_of_a_name_counts(names: dict[bytes, str], tmp_path: Path) -> None:
    # VHD-REF-2, VHD-REF-3
    data = disk_bytes(SIZE, seed=5)
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    parent = write(folder / "parent.vhd", data)
    child = difference(folder / "child.vhd", parent, SIZE, {1: bytes(512)}, names=names)
    reader = open_image(child, allow_backing=True)
    assert reader.read(1024, 5000) == data[1024:6024]
    reader.close()
    moved = child.rename(tmp_path / "child.vhd")
    with pytest.raises(UnsafeError, match="not in the image's folder"):
        open_image(moved, allow_backing=True)
    open_image(moved, allow_backing=True, backing_dirs=(str(folder),)).close()


@pytest.mark.parametrize("name", ["..", "", ".", "json:{}", "/etc/passwd", "\\\\host\\share\\"])
def test_names_that_lead_nowhere(name: str, tmp_path: Path) -> None:
    # hostile: 5
    # VHD-REF-3
    parent = write(tmp_path / "parent.vhd", bytes(4096))
    child = difference(tmp_path / "child.vhd", parent, 4096, {}, names={b"W2ru": name})
    raw = bytearray(child.read_bytes())
    raw[512 + 64 : 512 + 576] = bytes(512)
    from tests.support.vhd import seal

    seal(raw, 512, 36, 1024)
    child.write_bytes(raw)
    with pytest.raises(UnsafeError):
        open_image(child, allow_backing=True)


def test_links_cycles_and_long_chains(chain: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    # VHD-REF-5, VHD-REF-3
    parent, child, _ = chain
    with pytest.raises(VmpackError) as caught:
        open_image(child, parents=(str(child),))
    assert caught.value.clause == "VHD-REF-5"
    real = parent.rename(tmp_path / "real.vhd")
    os.symlink(real, parent)
    with pytest.raises(UnsafeError):
        open_image(child, allow_backing=True)


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (8, (1 << 20).to_bytes(4, "big"), "has a name of 1048576 bytes"),
        (16, (1 << 40).to_bytes(8, "big"), "behind the file's end"),
    ],
)
def test_locators_out_of_bounds(
    offset: int, value: bytes, text: str, chain: tuple[Path, Path, bytes]
) -> None:
    # hostile: 9
    # VHD-REF-2
    from tests.support.vhd import seal

    _, child, wanted = chain
    raw = bytearray(child.read_bytes())
    raw[512 + 576 + offset : 512 + 576 + offset + len(value)] = value
    seal(raw, 512, 36, 1024)
    changed = change_bytes(child, 0, bytes(raw))
    result = check(changed)
    assert (result.exit_code, result.findings[0].clause) == (2, "VHD-REF-2")
    assert text in result.findings[0].message
    reader = open_image(changed, allow_backing=True)
    assert reader.read(0, SIZE) == wanted
    reader.close()


def test_a_smaller_parent_ends_in_zeros(tmp_path: Path) -> None:
    data = disk_bytes(BLOCK - 1024, seed=8)
    parent = write(tmp_path / "parent.vhd", data)
    child = difference(tmp_path / "child.vhd", parent, 2 * BLOCK, {BLOCK // 512: b"x" * 512})
    reader = open_image(child, allow_backing=True)
    assert reader.read(0, 2 * BLOCK) == applied(
        data + bytes(2 * BLOCK - len(data)), {BLOCK // 512: b"x" * 512}
    )
    reader.close()
