"""Where a qcow2 image's tables lie, and the header that says so.

Source: QEMU, docs/interop/qcow2.rst ("Header"). Kept apart from the table writer: opening a bundle
needs this much and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import UsageError
from vmpack.formats.qcow2.structs import (
    COMPRESSION_ZLIB,
    EXT_BACKING_FORMAT,
    EXT_END,
    EXT_FEATURE_NAMES,
    FEATURE_NAMES,
    INCOMPAT_COMPRESSION,
    V2_LENGTH,
    V3_FULL_LENGTH,
    Header,
    encode_extension,
)
from vmpack.units import round_up

if TYPE_CHECKING:
    from vmpack.formats.qcow2.request import Backing


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tables of one image or view lie: bytes from its start, all cluster-aligned."""

    cluster_bits: int
    virtual_size: int
    l1_offset: int
    l1_entries: int
    refcount_table_offset: int
    refcount_table_clusters: int
    refcount_order: int
    end: int
    """One past the last byte of the last table."""

    def bounds(self) -> tuple[int, int, int, int]:
        """Where the L2 tables, refcount table and refcount blocks begin, and the blocks end."""
        size = 1 << self.cluster_bits
        l2 = self.l1_offset + round_up(8 * self.l1_entries, size)
        blocks = self.refcount_table_offset + self.refcount_table_clusters * size
        return l2, self.refcount_table_offset, blocks, self.end


def l1_entries(virtual_size: int, cluster_bits: int) -> int:
    """Entries of the L1 table of a disk of ``virtual_size`` bytes."""
    return -(-virtual_size // (1 << (2 * cluster_bits - 3)))


def encode_header(
    layout: Layout,
    *,
    compression: int,
    version: int = 3,
    names: bool = True,
    backing: Backing | None = None,
) -> bytes:
    """The first cluster of the image: header, extensions, the backing file's name, zeros.

    ``names`` adds the feature-name table, which lets other readers name what they do not know.

    Raises :class:`UsageError` for a backing file's name that does not fit in the cluster.
    """
    length = V3_FULL_LENGTH if version == 3 else V2_LENGTH
    extensions, end = b"", encode_extension(EXT_END, b"")
    name = b"" if backing is None else backing.name
    if backing is not None:
        extensions = encode_extension(EXT_BACKING_FORMAT, backing.format.encode())
    cluster_size = 1 << layout.cluster_bits
    if names and version == 3:
        table = encode_extension(EXT_FEATURE_NAMES, b"".join(one.encode() for one in FEATURE_NAMES))
        if length + len(extensions + table + end + name) <= cluster_size:
            extensions += table
    place = length + len(extensions + end)
    if place + len(name) > cluster_size:
        raise UsageError(
            f"a backing file's name of {len(name)} bytes does not fit in a cluster of "
            f"{cluster_size} bytes",
            field="backing_file",
            hint="choose a larger cluster_size, or a shorter name",
        )
    header = Header(
        version=version,
        backing_file_offset=place if name else 0,
        backing_file_size=len(name),
        cluster_bits=layout.cluster_bits,
        size=layout.virtual_size,
        crypt_method=0,
        l1_size=layout.l1_entries,
        l1_table_offset=layout.l1_offset,
        refcount_table_offset=layout.refcount_table_offset,
        refcount_table_clusters=layout.refcount_table_clusters,
        nb_snapshots=0,
        snapshots_offset=0,
        incompatible_features=INCOMPAT_COMPRESSION if compression != COMPRESSION_ZLIB else 0,
        refcount_order=layout.refcount_order,
        header_length=length,
        compression_type=compression,
    )
    return (header.encode() + extensions + end + name).ljust(cluster_size, b"\0")
