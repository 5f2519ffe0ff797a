"""ext2, ext3 and ext4 on disk, as far as finding a file by its path needs it.

Endianness: little. Source: Linux, Documentation/filesystems/ext4 ("Data Structures and
Algorithms"). Profile: ``specs/ext.md``.
"""

from __future__ import annotations

from typing import Any

from construct import Bytes, Int8ul, Int16ul, Int32ul, Padding, Struct

__all__ = ["DIRECTORY_ENTRY", "EXTENT", "EXTENT_HEADER", "GROUP", "INODE", "SUPERBLOCK", "decode"]

SUPERBLOCK = Struct(
    "inodes" / Int32ul * "inodes of the file system",
    "blocks_low" / Int32ul * "blocks, lower half",
    "reserved_blocks" / Bytes(12) * "not used",
    "first_block" / Int32ul * "block of the superblock: 1 with blocks of 1 KiB, otherwise 0",
    "log_block_size" / Int32ul * "blocks have 1024 << this bytes, at most 64 KiB",
    "log_cluster_size" / Int32ul * "not used",
    "blocks_per_group" / Int32ul * "not used",
    "clusters_per_group" / Int32ul * "not used",
    "inodes_per_group" / Int32ul * "inodes of a group",
    "times" / Bytes(12) * "not used",
    "magic" / Int16ul * "0xef53",
    "state" / Bytes(18) * "not used",
    "revision" / Int32ul * "0: inodes of 128 bytes, no features; 1",
    "owner" / Bytes(8) * "not used",
    "inode_size" / Int16ul * "bytes, a power of two, at least 128",
    "group_number" / Int16ul * "not used",
    "compatible" / Int32ul * "not used",
    "incompatible" / Int32ul * "features without which nothing can be read",
    "read_only" / Int32ul * "not used",
    "more" / Bytes(150) * "not used",
    "group_size" / Int16ul * "bytes of a group's descriptor, with 64-bit block numbers",
)
"""At byte 1,024 of the volume: its first 256 bytes."""

GROUP = Struct(
    "bitmaps" / Bytes(8) * "not used",
    "inode_table_low" / Int32ul * "first block of the inodes, lower half",
    "counts" / Bytes(20) * "not used",
)
"""A group's descriptor: its first 32 bytes; in those of 64 the upper half is at byte 40."""

INODE = Struct(
    "mode" / Int16ul * "the upper 4 bits: 4 folder, 8 file",
    "owner" / Int16ul * "not used",
    "size_low" / Int32ul * "bytes, lower half",
    "times" / Bytes(24) * "not used",
    "flags" / Int32ul * "0x80000: extents; 0x800: encrypted; 0x10000000: data in the inode",
    "version" / Int32ul * "not used",
    "blocks" / Bytes(60) * "extents, or 12 blocks and three of block numbers",
    "generation" / Bytes(8) * "not used",
    "size_high" / Int32ul * "upper half; files only",
    "more" / Bytes(16) * "not used",
)
"""An inode's first 128 bytes."""

EXTENT_HEADER = Struct(
    "magic" / Int16ul * "0xf30a",
    "entries" / Int16ul * "that follow",
    "room" / Int16ul * "not used",
    "depth" / Int16ul * "0: they are extents; otherwise nodes of the tree",
    "generation" / Int32ul * "not used",
)
"""Before the entries of a node of the tree: 12 bytes."""

EXTENT = Struct(
    "block" / Int32ul * "of the file",
    "length" / Int16ul * "blocks; above 32,768: so many more than that, which read as zeros",
    "start_high" / Int16ul * "block of the volume, upper bits",
    "start_low" / Int32ul * "lower bits",
)
"""12 bytes."""

INDEX = Struct(
    "block" / Int32ul * "of the file, from which on it leads",
    "leaf_low" / Int32ul * "block with the next node, lower bits",
    "leaf_high" / Int16ul * "upper bits",
    "reserved" / Padding(2) * "not used",
)
"""12 bytes."""

DIRECTORY_ENTRY = Struct(
    "inode" / Int32ul * "0: free",
    "length" / Int16ul * "bytes to the next entry",
    "name_length" / Int8ul * "bytes of the name that follows",
    "type" / Int8ul * "not used",
)
"""8 bytes, then the name."""


def decode(struct: Any, raw: bytes, offset: int = 0) -> Any:
    """``struct`` at ``offset`` of ``raw``, which must hold it."""
    return struct.parse(raw[offset : offset + struct.sizeof()])
