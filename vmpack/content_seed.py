r"""What an image's identifiers (UUIDs, CIDs) derive from, so that equal input gives equal bytes.

``SHA-256("vmpack-seed-v1\0" || u64le S || for each leaf that is not all zero, ascending: u64le
index || XXH3-128(leaf, big-endian))`` with S the guest's size rounded up to 512 and leaves of
64 KiB, the last one zero-padded. XXH3 costs a thirtieth of what SHA-256 does: an uncompressed
conversion without read-back stays as fast as the disk. It identifies, it does not protect.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from vmpack.batches import LEAF
from vmpack.units import round_up

if TYPE_CHECKING:
    from uuid import UUID

_ZERO_LEAF = bytes(LEAF)
_INDEX = struct.Struct("<Q")
_CIDS_TAKEN = (0, 0xFFFF_FFFE, 0xFFFF_FFFF)
"""CIDs that VMware gives a meaning: none may be an image's own."""


class ContentSeed:
    """Collects the leaves of one disk of ``size`` bytes, ascending."""

    def __init__(self, size: int):
        guest = round_up(size, 512)
        self._hash = hashlib.sha256(b"vmpack-seed-v1\0" + _INDEX.pack(guest))

    @staticmethod
    def leaves(offset: int, data: bytes) -> list[tuple[int, bytes]]:
        """``(index, XXH3-128)`` of the leaves of ``data`` that are not all zero.

        ``offset`` is a multiple of 64 KiB; the last leaf is zero-padded. For any thread.
        """
        import xxhash

        first, view = offset // LEAF, memoryview(data)
        found = []
        for number, begin in enumerate(range(0, len(data), LEAF), first):
            leaf = view[begin : begin + LEAF]
            if len(leaf) < LEAF:
                leaf = memoryview(data[begin:] + bytes(LEAF - len(leaf)))
            # What starts with zeros is compared where it lies; most leaves with data do not.
            if leaf[0] == 0 and leaf == _ZERO_LEAF:
                continue
            found.append((number, xxhash.xxh3_128_digest(leaf)))
        return found

    def add(self, leaves: list[tuple[int, bytes]]) -> None:
        """Add what :meth:`leaves` gave, ascending."""
        pack = _INDEX.pack
        self._hash.update(b"".join([pack(index) + leaf for index, leaf in leaves]))

    def digest(self) -> bytes:
        """32 bytes that tell this content from any other that chance could make of it."""
        return self._hash.digest()

    def derive(self, purpose: str, length: int = 32) -> bytes:
        """Up to 32 bytes for ``purpose``, the same for the same content."""
        return hashlib.sha256(self._hash.digest() + purpose.encode()).digest()[:length]

    def uuid(self, purpose: str) -> UUID:
        """A UUID for ``purpose``, marked as one that derives from a name (version 5)."""
        from uuid import UUID

        return UUID(bytes=self.derive(purpose, 16), version=5)

    def cid(self, purpose: str = "cid") -> int:
        """A VMDK content id: 32 bits, none of the values that VMware reserves."""
        value = int.from_bytes(self.derive(purpose, 4), "big")
        return value if value not in _CIDS_TAKEN else 0x1234_5678
