r"""The content digest of a disk: the same for the same guest bytes, whatever holds them.

``SHA-256("vmpack-content-v1\0" || u64le S || u64le 65536 || for each leaf that is not all zero,
ascending: u64le index || SHA-256(leaf))`` with S the guest's size in bytes rounded up to 512 and
leaves of 64 KiB, the last one zero-padded. Source: specs/vmpack-v1.md, "Content digest".
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from vmpack.batches import LEAF as LEAF
from vmpack.units import round_up

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader
    from vmpack.progress import Progress

PREFIX = "vmpack-content-v1:"
_ZERO_LEAF = bytes(LEAF)
_INDEX = struct.Struct("<Q")


class ContentDigest:
    """Collects the leaves of one disk of ``size`` bytes, ascending."""

    def __init__(self, size: int):
        guest = round_up(size, 512)
        self._hash = hashlib.sha256(b"vmpack-content-v1\0" + struct.pack("<QQ", guest, LEAF))

    def add(self, leaves: list[tuple[int, bytes]]) -> None:
        """Add ``(index, SHA-256 of the leaf)`` for leaves that are not all zero, ascending."""
        pack = _INDEX.pack
        self._hash.update(b"".join([pack(index) + leaf for index, leaf in leaves]))

    def result(self) -> str:
        """``vmpack-content-v1:`` and 64 hexadecimal digits."""
        return PREFIX + self._hash.hexdigest()


def leaf_digests(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """The leaves of ``data`` that are not all zero; ``offset`` is a multiple of 64 KiB.

    The last leaf is zero-padded. Releases the interpreter's lock while it hashes.
    """
    first, length = offset // LEAF, len(data)
    leaves = []
    # Slices of a view are not copied; what starts with zeros is compared where it lies.
    view = memoryview(data)
    for number, begin in enumerate(range(0, length, LEAF), first):
        if begin + LEAF <= length:
            if not data.startswith(_ZERO_LEAF, begin):
                leaves.append((number, hashlib.sha256(view[begin : begin + LEAF]).digest()))
        elif data.count(0, begin) < length - begin:
            padded = data[begin:] + bytes(begin + LEAF - length)
            leaves.append((number, hashlib.sha256(padded).digest()))
    return leaves


def content_digest(
    reader: ImageReader, *, workers: int | None = None, progress: Progress | None = None
) -> str:
    """The content digest of a whole open image, its data read on ``workers`` threads."""
    from vmpack.batches import batches
    from vmpack.pipeline import executor, ordered, worker_count

    digest = ContentDigest(reader.virtual_size)

    def work(batch: tuple[int, int]) -> tuple[int, list[tuple[int, bytes]]]:
        offset, length = batch
        return length, leaf_digests(offset, reader.read(offset, length))

    count = worker_count(workers)
    with executor(count) as pool:
        for length, leaves in ordered(pool, work, batches(reader, LEAF), 2 * count):
            digest.add(leaves)
            if progress is not None:
                progress.advance(length)
    return digest.result()
