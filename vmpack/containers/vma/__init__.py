"""Proxmox' backup archives, read in place: each device is a disk. Profile: specs/vma.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.containers.base import Member
    from vmpack.source import ByteSource

MAGIC = b"VMA\0"


def is_vma(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an uncompressed VMA archive."""
    return head.startswith(MAGIC)


def members(source: ByteSource) -> dict[str, Member]:
    """The archive's configs and devices by name.

    Raises :class:`DamagedError` for a header that is not whole, :class:`UnsafeError` for names
    that lead out of a folder, and :class:`UnsupportedError` for another version. A device's
    clusters are looked for when it is opened.
    """
    from vmpack.containers.vma.archive import Archive

    return Archive(source).members()
