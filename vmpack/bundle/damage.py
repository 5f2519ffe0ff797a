"""Says what damaged bytes of a bundle hold: a structure, a blob, or a disk and the guest offset.

Damage is collected over the whole file first, so that each disk's tables are walked once, however
much of it is damaged. Source: specs/vmpack-v1.md, VMP-SEG-1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from vmpack.bundle.frames import decode_frame
from vmpack.bundle.index import DigestIndex, Frame, Segment
from vmpack.bundle.reader import Bundle
from vmpack.errors import VmpackError
from vmpack.formats.base import Finding

MOST_PLACES = 1000
"""Guest offsets that are named, at most; the rest is counted."""


class Damage:
    """The segments of one bundle that do not have their digest."""

    def __init__(self, bundle: Bundle, index: DigestIndex):
        self._bundle = bundle
        self._index = index
        self._bad = bytearray(index.frame_count)
        self._blobs: list[str] = []
        self.any = False

    def add(self, segment: Segment) -> Iterator[Finding]:
        """Take a damaged segment in; what can be said of it at once."""
        self.any = True
        manifest = self._bundle.manifest
        if segment.offset >= manifest.pool_end or segment.end <= manifest.pool_offset:
            where = structure_at(self._bundle, segment.offset, segment.end)
            yield _damaged(f"{where} is damaged", segment.offset)
            return
        found = self._bad_blobs(segment)
        for number in self._index.overlapping(segment.offset, segment.end):
            if self._bad[number] or decode(self._bundle, self._index.frame(number)) is None:
                self._bad[number] = found = True
        if not found:
            yield _damaged(
                f"the pool's bytes {segment.offset} to {segment.end - 1} changed, "
                "though every cluster in them still decodes to its content",
                segment.offset,
            )

    def _bad_blobs(self, segment: Segment) -> bool:
        found = False
        for blob in self._bundle.manifest.blobs:
            if blob.offset < segment.end and blob.offset + blob.stored_size > segment.offset:
                try:
                    self._bundle.blob(blob.name)
                except VmpackError:
                    found = True
                    if blob.name not in self._blobs:
                        self._blobs.append(blob.name)
        return found

    def places(self) -> Iterator[Finding]:
        """Each blob, and each disk and guest offset whose data is damaged."""
        for name in self._blobs:
            blob = next(one for one in self._bundle.manifest.blobs if one.name == name)
            yield Finding(
                "corruption", f"blob {name} is damaged", offset=blob.offset, clause="VMP-BLOB-3"
            )
        if not any(self._bad):
            return
        found = 0
        for place in self._clusters():
            found += 1
            if found <= MOST_PLACES:
                yield place
        if found > MOST_PLACES:
            yield Finding("corruption", f"and {found - MOST_PLACES} more clusters like this")
        elif not found:
            yield _damaged(
                f"{sum(self._bad)} stored clusters are damaged; no table says whose",
                self._index.frame(self._bad.index(1)).offset,
            )

    def _clusters(self) -> Iterator[Finding]:
        at, bad = self._index.at, self._bad
        for disk in self._bundle.disks:
            window = disk.window_offset
            try:
                reader = self._bundle.disk(disk.id)
                for guest, host, _ in reader.compressed_frames(0, disk.virtual_size):
                    number = at(host + window)
                    if number is not None and bad[number]:
                        yield Finding(
                            "corruption",
                            f"a cluster of disk {disk.id} is damaged ({disk.cluster_size} bytes)",
                            offset=host + window,
                            guest_offset=guest,
                            clause="VMP-SEG-1",
                        )
            except VmpackError:
                # This disk's tables are damaged too; their own segments say so.
                continue


def decode(bundle: Bundle, frame: Frame) -> bytes | None:
    """The cluster that ``frame`` holds; ``None`` unless it has its digest."""
    raw = bundle.source.pread(frame.offset, frame.size)
    data = decode_frame(raw, 1 << frame.cluster_bits)
    if data is None or hashlib.sha256(data).digest() != frame.sha256:
        return None
    return data


def structure_at(bundle: Bundle, offset: int, end: int) -> str:
    """The structures outside the pool that ``[offset, end)`` touches, in words."""
    names = []
    for disk in bundle.disks:
        start, layout = disk.window_offset, disk.layout
        l2, table, blocks, last = (start + bound for bound in layout.bounds())
        places = (
            ("view header", start, start + disk.cluster_size),
            ("L1 table", start + layout.l1_offset, l2),
            ("L2 tables", l2, table),
            ("refcount table", table, blocks),
            ("refcount blocks", blocks, last),
        )
        names += [
            f"the {name} of disk {disk.id}"
            for name, low, high in places
            if low < end and high > offset
        ]
    return " or ".join(names) if names else f"the padding at {offset} to {end - 1}"


def _damaged(message: str, offset: int) -> Finding:
    return Finding("corruption", message, offset=offset, clause="VMP-SEG-1")
