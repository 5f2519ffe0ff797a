"""ext2, ext3 and ext4 made by mke2fs, read as they were filled; and file systems that lie."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.spec_tables import SPECS
from tests.support.tools import require_tool, run
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.machine import ext, ext_structs
from vmpack.machine.ext import ExtFile, ExtVolume
from vmpack.ops.lint import lint
from vmpack.units import MiB

KINDS = {
    "ext2-1k": ["-t", "ext2", "-b", "1024"],
    "ext3-4k": ["-t", "ext3", "-b", "4096"],
    "ext4-1k": ["-t", "ext4", "-b", "1024"],
    "ext4-4k": ["-t", "ext4", "-b", "4096", "-I", "256"],
    "ext4-32bit": ["-t", "ext4", "-O", "^64bit,^metadata_csum", "-I", "128"],
    "revision-0": ["-t", "ext2", "-r", "0", "-b", "1024"],
}
FILES = {
    "boot/initrd.img-6.1": 3_000_000,
    "boot/grub/grub.cfg": 100,
    "boot/one": 1,
    "empty": 0,
    "etc/n\u00e4me with blanks": 4097,
}
HOLE = "sparse"


def reader(data: bytes | bytearray) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data), "reads past the end"
        return bytes(data[offset : offset + length])

    return read


def make(folder: Path, words: list[str], size: int = 24 * MiB) -> tuple[bytes, dict[str, bytes]]:
    """A file system with :data:`FILES`, a file with holes, links and a folder of many names."""
    tree = folder / "tree"
    rng = random.Random(5)
    contents = {name: rng.randbytes(length) for name, length in FILES.items()}
    contents |= {f"many/file-{number:04}": b"%d" % number for number in range(150)}
    for name, data in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    with (tree / HOLE).open("wb") as file:
        for at in (0, 100_000, 500_000, 1_400_000):
            file.seek(at)
            file.write(b"data at %d" % at)
        file.truncate(1_500_000)
    contents[HOLE] = (tree / HOLE).read_bytes()
    (tree / "initrd.img").symlink_to("boot/initrd.img-6.1")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(size)
    run([require_tool("mke2fs"), "-q", "-F", "-d", tree, *words, image])
    return image.read_bytes(), contents


@pytest.mark.parametrize("name", KINDS)
def test_files_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    """EXT-FILE-1, EXT-DIR-1: extents and block numbers, holes, indexed folders, links left out."""
    data, contents = make(tmp_path, KINDS[name])
    volume = ExtVolume(reader(data), 0, len(data))
    for path, wanted in contents.items():
        found = volume.find(path)
        assert found is not None, path
        assert volume.read_file(found, limit=1 << 24) == wanted, path
    assert len(volume.list("many")) == 150
    assert {one.name for one in volume.list("")} == {
        *("boot", "empty", "etc", "many", HOLE, "lost+found")
    }
    assert volume.find("initrd.img") is None
    assert volume.find("boot/none") is None
    assert volume.find("empty/none") is None
    assert volume.list("empty") == []
    assert volume.find("/".join(["boot"] * 40)) is None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    data, _ = make(tmp_path_factory.mktemp("ext"), KINDS["ext4-1k"])
    return data


SUPER = 1024
LIES = [
    (56, b"\0\0", "EXT-SUPER-1"),
    (96, b"\xff\xff\xff\xff", "EXT-SUPER-2"),
    (24, b"\x07\0\0\0", "EXT-SUPER-3"),
    (24, b"\xff\xff\xff\xff", "EXT-SUPER-3"),
    (88, b"\x40\0", "EXT-SUPER-3"),
    (254, b"\x10\0", "EXT-SUPER-3"),
    (40, b"\0\0\0\0", "EXT-SUPER-3"),
    (20, b"\xff\xff\xff\x7f", "EXT-SUPER-3"),
]


@pytest.mark.parametrize(("offset", "value", "clause"), LIES)
def test_a_superblock_that_lies(offset: int, value: bytes, clause: str, small: bytes) -> None:
    """hostile: 7 and 9."""
    data = bytearray(small)
    data[SUPER + offset : SUPER + offset + len(value)] = value
    with pytest.raises((DamagedError, UnsupportedError)) as caught:
        ExtVolume(reader(data), 0, len(data))
    assert caught.value.clause == clause
    with pytest.raises(DamagedError):
        ExtVolume(reader(b""), 0, 0)


def test_what_lies_outside(small: bytes) -> None:
    """EXT-SUPER-4, EXT-INODE-1: a disk that ends early; an inode that there is not."""
    cut = small[: 2 * MiB]
    volume = ExtVolume(reader(cut), 0, len(cut))
    whole = ExtVolume(reader(small), 0, len(small))
    found = whole.find("boot/initrd.img-6.1")
    assert found is not None
    with pytest.raises(DamagedError) as caught:
        volume.read_file(found, limit=1 << 30)
    assert caught.value.clause == "EXT-SUPER-4"
    for number in (0, 1 << 31):
        with pytest.raises(DamagedError) as caught:
            whole.read_file(ExtFile("x", False, 10, number), limit=100)
        assert caught.value.clause == "EXT-INODE-1"
    with pytest.raises(UnsafeError, match="at most 5"):
        whole.read_file(found, limit=5)


def test_counts_are_bounded(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXT-DIR-1, EXT-DIR-2, EXT-FILE-1. hostile: 7."""
    monkeypatch.setattr(ext, "MAX_ENTRIES", 100)
    volume = ExtVolume(reader(small), 0, len(small))
    with pytest.raises(UnsafeError) as unsafe:
        volume.list("many")
    assert unsafe.value.clause == "EXT-DIR-2"
    monkeypatch.undo()
    monkeypatch.setattr(ext, "MAX_FOLDER", 1000)
    with pytest.raises(DamagedError) as caught:
        ExtVolume(reader(small), 0, len(small)).list("many")
    assert caught.value.clause == "EXT-DIR-1"
    monkeypatch.undo()
    monkeypatch.setattr(ext, "MAX_EXTENTS", 1)
    with pytest.raises(DamagedError) as caught:
        ExtVolume(reader(small), 0, len(small)).list("")
    assert caught.value.clause == "EXT-FILE-1"


def test_a_file_in_its_inode_is_left_out(tmp_path: Path) -> None:
    """EXT-FILE-2."""
    words = ["-t", "ext4", "-O", "inline_data", "-I", "256", "-b", "4096"]
    data, _ = make(tmp_path, words)
    volume = ExtVolume(reader(data), 0, len(data))
    assert volume.find("boot/one") is None
    found = volume.find(HOLE)
    assert found is not None
    # mke2fs loses the ends of such files; debugfs tells what it has stored.
    dumped = tmp_path / "dumped"
    run([require_tool("debugfs"), "-R", f"dump /{HOLE} {dumped}", tmp_path / "image"])
    assert volume.read_file(found, limit=1 << 24) == dumped.read_bytes()
    small_file = next(one for one in range(11, 500) if volume._inode(one).flags & 0x10000000)
    with pytest.raises(UnsupportedError) as caught:
        volume.read_file(ExtFile("x", False, 1, small_file), limit=100)
    assert caught.value.clause == "EXT-FILE-2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tree" / "boot").mkdir(parents=True)
    (folder / "tree" / "boot" / "initrd").write_bytes(b"x" * 5000)
    image = folder / "image"
    image.write_bytes(bytes(256 << 10))
    words = ["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "16", "-O", "^has_journal"]
    run([require_tool("mke2fs"), *words, "-d", folder / "tree", image])
    return image.read_bytes()


@given(seed=st.integers(0, 2**32))
def test_mutations_end_in_the_projects_own_errors(seed: int, tiny: bytes) -> None:
    """hostile: 10."""
    rng = random.Random(seed)
    data = bytearray(tiny)
    used = [at for at in range(0, len(data), 64) if any(data[at : at + 64])]
    for _ in range(rng.randrange(1, 30)):
        at = rng.choice(used) + rng.randrange(64)
        data[at] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
    try:
        volume = ExtVolume(reader(data), 0, len(data))
        for one in [*volume.list(""), *volume.list("boot")]:
            if not one.is_folder:
                volume.read_file(one, limit=1 << 20)
    except VmpackError:
        return


def test_lint_reads_debians_initramfs(guest_debian: Path) -> None:
    """LINT-INITRD-1: on the root file system, and it has what a virtio disk needs."""
    assert lint(guest_debian).findings == ()


STRUCTS = ["SUPERBLOCK", "GROUP", "INODE", "EXTENT_HEADER", "EXTENT", "INDEX", "DIRECTORY_ENTRY"]


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_table_is_the_struct(name: str) -> None:
    text = (SPECS / "ext.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    offset, rows = 0, []
    for field in getattr(ext_structs, name).subcons:
        rows.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    assert block.splitlines()[2:] == rows


def test_every_clause_is_named_by_a_test() -> None:
    clauses = set(re.findall(r"^\| (EXT-[A-Z]+-\d+) \|", (SPECS / "ext.md").read_text(), re.M))
    assert clauses - set(re.findall(r"EXT-[A-Z]+-\d+", Path(__file__).read_text())) == set()
