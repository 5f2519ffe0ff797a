"""Walks a view: which frame of the index each cluster of a disk is.

Digests prove that the tables are the writer's, not that they are right: each entry is compared with
the index. Source: specs/vmpack-v1.md, "Views and windows".
"""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.bundle.index import DigestIndex, Frame
from vmpack.bundle.manifest import Disk
from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError
from vmpack.formats.mapped import COMPRESSED, HOLE


def clusters(
    bundle: Bundle, index: DigestIndex, disk: Disk
) -> Iterator[tuple[int, int, DamagedError | None]]:
    """``(guest offset, number of the frame, fault)`` of each stored cluster, ascending.

    A fault, for the caller to raise or report, says which rule the entry breaks (VMP-VIEW-3,
    VMP-VIEW-5); the number means nothing then. Raises :class:`DamagedError` for tables that cannot
    be followed.
    """
    window, bits = disk.window_offset, disk.layout.cluster_bits
    for guest, _, state, host, length in bundle.disk(disk.id).mapping.runs(0, disk.virtual_size):
        if state == COMPRESSED:
            number = index.at(host + window)
            if number is not None and _fits(index.frame(number), host, length, bits):
                yield guest, number, None
            else:
                yield guest, 0, _fault(bundle, disk, guest, host + window)
        elif state != HOLE:
            yield guest, 0, _fault(bundle, disk, guest, None)


def _fits(frame: Frame, host: int, length: int, bits: int) -> bool:
    """Whether ``length``, the whole sectors of a descriptor, are what ``frame`` touches."""
    end = (host + frame.size + 511) // 512 * 512
    return frame.cluster_bits == bits and end - host == length


def _fault(bundle: Bundle, disk: Disk, guest: int, offset: int | None) -> DamagedError:
    what = "no frame of the index" if offset is not None else "what is no compressed cluster"
    return DamagedError(
        f"disk {disk.id} maps guest offset {guest} to {what}",
        path=bundle.path,
        offset=offset,
        clause="VMP-VIEW-5" if offset is not None else "VMP-VIEW-3",
        hint="vmpack check says what is damaged",
    )
