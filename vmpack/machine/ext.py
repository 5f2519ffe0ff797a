"""Reads folders and files of ext2, ext3 and ext4, by path: for the initramfs in ``/boot``. Bounded.

No journal is replayed: what a machine that was not shut down in order wrote last may be missing.
Profile: ``specs/ext.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.machine import ext_structs as structs
from vmpack.machine.ext_structs import decode

__all__ = ["ExtFile", "ExtVolume"]

Read = Callable[[int, int], bytes]

MAX_FOLDER = 4 << 20
MAX_ENTRIES = 40_000
MAX_EXTENTS = 50_000
"""Extents and nodes of their tree that are read of one file."""
MAX_NODES = 1024
"""Blocks of block numbers that are read of one file: 256 MiB with blocks of 1 KiB."""
MAX_PATH = 16
_SUPER_AT = 1024
_ROOT = 2
_MAGIC, _EXTENT_MAGIC = 0xEF53, 0xF30A
_KNOWN = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x30000
"""Features that do not hide what is read here; each file's flags say whether it is affected."""
_64BIT = 0x80
_EXTENTS, _HIDDEN = 0x80000, 0x10000000 | 0x800
_FOLDER, _FILE = 4, 8
_DIRECT = 12


@dataclass(frozen=True, slots=True)
class ExtFile:
    """A file or folder. ``name`` is what the disk says: escape it before you show it."""

    name: str
    is_folder: bool
    size: int
    key: int
    """Its inode."""


class ExtVolume:
    """A volume of ``size`` bytes at ``offset`` of what ``read(offset, length)`` reads.

    Raises :class:`DamagedError` where it is none, :class:`UnsupportedError` for features that
    change how it is read.
    """

    def __init__(self, read: Read, offset: int, size: int):
        self._read = read
        self._offset = offset
        self._entries_left = MAX_ENTRIES
        self._listed: dict[int, tuple[tuple[str, int], ...]] = {}
        if size < 2 * _SUPER_AT:
            raise self._damaged("no room for a superblock", "EXT-SUPER-1")
        found = decode(structs.SUPERBLOCK, read(offset + _SUPER_AT, 256))
        if found.magic != _MAGIC:
            raise self._damaged("no superblock", "EXT-SUPER-1")
        features = found.incompatible if found.revision else 0
        if features & ~_KNOWN:
            raise UnsupportedError(
                f"ext4 with features {features & ~_KNOWN:#x}",
                offset=offset + _SUPER_AT,
                clause="EXT-SUPER-2",
            )
        self.block_size = 1024 << min(found.log_block_size, 16)
        self._blocks = size // self.block_size
        self._inode_size = found.inode_size if found.revision else 128
        self._group_size = found.group_size if features & _64BIT else 32
        self._inodes, self._per_group = found.inodes, found.inodes_per_group
        self._groups_at = (found.first_block + 1) * self.block_size
        if (
            found.log_block_size > 6
            or not 128 <= self._inode_size <= self.block_size
            or not 32 <= self._group_size <= self.block_size
            or not self._per_group
            or self._groups_at >= size
        ):
            raise self._damaged("its superblock contradicts itself", "EXT-SUPER-3")

    def find(self, path: str) -> ExtFile | None:
        """The file or folder ``path``, components between ``/``. Links are not followed."""
        found = ExtFile("", True, 0, _ROOT)
        parts = [part for part in path.split("/") if part]
        if len(parts) > MAX_PATH:
            return None
        for part in parts:
            inside = self._entries(found) if found.is_folder else ()
            one = next((one for one in inside if one[0] == part), None)
            file = self._file(*one) if one is not None else None
            if file is None:
                return None
            found = file
        return found

    def list(self, path: str) -> list[ExtFile]:
        """Files and folders in the folder ``path``; nothing where it is none."""
        folder = self.find(path)
        if folder is None or not folder.is_folder:
            return []
        listed = [self._file(*one) for one in self._entries(folder)]
        return [one for one in listed if one is not None]

    def read_file(self, file: ExtFile, *, limit: int) -> bytes:
        """The file's content. Raises :class:`UnsafeError` for more than ``limit`` bytes."""
        if file.size > limit:
            raise UnsafeError(f"a file of {file.size} bytes, at most {limit} are read")
        return self._content(self._inode(file.key), file.size)

    def _file(self, name: str, number: int) -> ExtFile | None:
        """What an entry names; ``None`` for links, devices, and what is encrypted."""
        inode = self._inode(number)
        kind = inode.mode >> 12
        if kind not in (_FOLDER, _FILE) or inode.flags & _HIDDEN:
            return None
        high = inode.size_high << 32 if kind == _FILE else 0
        return ExtFile(name, kind == _FOLDER, inode.size_low | high, number)

    def _entries(self, folder: ExtFile) -> tuple[tuple[str, int], ...]:
        """Names and inodes of a folder, without ``.`` and ``..``. Read once."""
        if folder.key not in self._listed:
            self._listed[folder.key] = tuple(self._decoded(folder))
        return self._listed[folder.key]

    def _decoded(self, folder: ExtFile) -> Iterator[tuple[str, int]]:
        inode = self._inode(folder.key)
        if inode.mode >> 12 != _FOLDER or inode.size_low > MAX_FOLDER:
            raise self._damaged("a folder that is none, or too long", "EXT-DIR-1")
        raw = self._content(inode, inode.size_low)
        at, head = 0, structs.DIRECTORY_ENTRY.sizeof()
        while at + head <= len(raw):
            one = decode(structs.DIRECTORY_ENTRY, raw, at)
            self._entries_left -= 1
            if self._entries_left < 0:
                raise UnsafeError(f"more than {MAX_ENTRIES} entries", clause="EXT-DIR-2")
            if one.length < head or one.length % 4 or at + one.length > len(raw):
                raise self._damaged(f"an entry of {one.length} bytes", "EXT-DIR-1")
            name = raw[at + head : at + head + min(one.name_length, one.length - head)]
            if one.inode and name not in (b".", b".."):
                yield name.decode("utf-8", "replace"), one.inode
            at += one.length

    def _inode(self, number: int) -> Any:
        if not 0 < number <= self._inodes:
            raise self._damaged(f"inode {number} is none", "EXT-INODE-1")
        group, within = divmod(number - 1, self._per_group)
        place = self._groups_at + group * self._group_size
        raw = self._bytes(place, self._group_size)
        table = decode(structs.GROUP, raw).inode_table_low
        if self._group_size >= 64:
            table |= int.from_bytes(raw[40:44], "little") << 32
        at = table * self.block_size + within * self._inode_size
        return decode(structs.INODE, self._bytes(at, 128))

    def _content(self, inode: Any, size: int) -> bytes:
        """``size`` bytes of a file; blocks that it does not have are zeros."""
        wanted = -(-size // self.block_size)
        out = bytearray()
        if inode.flags & _HIDDEN:
            raise UnsupportedError("a file that is encrypted or in its inode", clause="EXT-FILE-2")
        runs = self._extents if inode.flags & _EXTENTS else self._mapped
        for block, start, count in runs(inode.blocks, wanted):
            have = len(out) // self.block_size
            if block < have:
                raise self._damaged("extents that overlap", "EXT-FILE-1")
            if block >= wanted:
                break
            out += bytes((block - have) * self.block_size)
            out += self._bytes(
                start * self.block_size, min(count, wanted - block) * self.block_size
            )
        return bytes(out[:size]) + bytes(max(0, size - len(out)))

    def _extents(self, root: bytes, wanted: int) -> Iterator[tuple[int, int, int]]:
        """``(block of the file, block of the volume, blocks)`` of the tree in an inode."""
        left = MAX_EXTENTS

        def walk(node: bytes, depth: int | None) -> Iterator[tuple[int, int, int]]:
            nonlocal left
            head = decode(structs.EXTENT_HEADER, node)
            left -= head.entries + 1
            fits = 12 * (head.entries + 1) <= len(node)
            if head.magic != _EXTENT_MAGIC or not fits or left < 0 or head.depth > 5:
                raise self._damaged("a node of extents that is none", "EXT-FILE-1")
            if depth is not None and head.depth != depth:
                raise self._damaged("a node of extents at the wrong depth", "EXT-FILE-1")
            for at in range(12, 12 * (head.entries + 1), 12):
                if head.depth:
                    index = decode(structs.INDEX, node, at)
                    leaf = index.leaf_low | index.leaf_high << 32
                    block = self._bytes(leaf * self.block_size, self.block_size)
                    yield from walk(block, head.depth - 1)
                    continue
                one = decode(structs.EXTENT, node, at)
                # Unwritten ones read as zeros, as blocks that are not there do.
                if one.length <= 0x8000 and one.block < wanted:
                    yield one.block, one.start_low | one.start_high << 32, one.length

        return walk(root, None)

    def _mapped(self, root: bytes, wanted: int) -> Iterator[tuple[int, int, int]]:
        """The same of ext2's and ext3's block numbers: direct, then one to three levels."""
        per = self.block_size // 4
        left = MAX_NODES

        def numbers(raw: bytes) -> list[int]:
            return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]

        def walk(number: int, level: int, block: int) -> Iterator[tuple[int, int, int]]:
            nonlocal left
            if not number or block >= wanted:
                return
            if level == 0:
                yield block, number, 1
                return
            left -= 1
            if left < 0:
                raise self._damaged("too many blocks of block numbers", "EXT-FILE-1")
            for inner in numbers(self._bytes(number * self.block_size, self.block_size)):
                yield from walk(inner, level - 1, block)
                block += per ** (level - 1)
                if block >= wanted:
                    return

        first = numbers(root)
        for block, number in enumerate(first[:_DIRECT]):
            yield from walk(number, 0, block)
        block = _DIRECT
        for level in (1, 2, 3):
            yield from walk(first[_DIRECT + level - 1], level, block)
            block += per**level

    def _bytes(self, at: int, length: int) -> bytes:
        if at < 0 or at + length > self._blocks * self.block_size:
            raise self._damaged(f"{length} bytes at {at} lie outside", "EXT-SUPER-4")
        return self._read(self._offset + at, length)

    def _damaged(self, message: str, clause: str) -> VmpackError:
        return DamagedError(f"ext4: {message}", offset=self._offset, clause=clause)
