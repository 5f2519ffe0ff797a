"""Takes a disk out of a bundle as a qcow2 image without decoding it: frames move as they are.

The stored bytes are checked against their segments' digests on the way.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right

from vmpack.bundle.index import DigestIndex, Segment
from vmpack.bundle.manifest import Disk
from vmpack.bundle.reader import Bundle
from vmpack.bundle.views import clusters
from vmpack.copy import write_all
from vmpack.errors import DamagedError
from vmpack.formats.base import Job
from vmpack.formats.qcow2.structs import COMPRESSION_ZSTD
from vmpack.formats.qcow2.writer import Qcow2Writer
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress


class _Runs:
    """Ranges of the bundle and where they go: three packed columns, ascending by source."""

    def __init__(self) -> None:
        self.source = array("Q")
        self.length = array("Q")
        self.target = array("Q")

    def add(self, source: int, length: int, target: int) -> None:
        """Append a range; it joins the last one where both sides touch."""
        if self.source:
            last = self.length[-1]
            if self.source[-1] + last == source and self.target[-1] + last == target:
                self.length[-1] += length
                return
        self.source.append(source)
        self.length.append(length)
        self.target.append(target)

    def sort(self) -> None:
        """Order by source; frames of a disk that shares with an earlier one come out of order."""
        order = sorted(range(len(self.source)), key=self.source.__getitem__)
        for name in ("source", "length", "target"):
            column = getattr(self, name)
            setattr(self, name, array("Q", (column[number] for number in order)))

    def touch(self, segment: Segment) -> bool:
        """Whether a range has a byte in ``segment``."""
        number = bisect_right(self.source, segment.end - 1) - 1
        return number >= 0 and self.source[number] + self.length[number] > segment.offset

    def jobs(self, data: bytes, offset: int) -> list[Job]:
        """What of ``data``, which begins at ``offset`` of the bundle, goes where."""
        view, end = memoryview(data), offset + len(data)
        number = max(0, bisect_right(self.source, offset) - 1)
        jobs: list[Job] = []
        while number < len(self.source) and self.source[number] < end:
            start = self.source[number]
            low, high = max(start, offset), min(start + self.length[number], end)
            if low < high:
                target = self.target[number] + low - start
                jobs.append(Job(target, view[low - offset : high - offset]))
            number += 1
        return jobs


def copy_disk(
    bundle: Bundle,
    disk_id: str,
    fd: int,
    *,
    path: str,
    verify: bool = True,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write disk ``disk_id`` as a zstd qcow2 image to ``fd``, an empty file called ``path``.

    Raises :class:`DamagedError` when a stored byte or a table is not what the bundle's digests say
    (with ``verify``), :class:`OutputError` when a write fails.
    """
    disk, index = bundle.disk_entry(disk_id), bundle.index()
    if verify:
        _verify_tables(bundle, index, disk)
    writer = Qcow2Writer(
        fd,
        virtual_size=disk.virtual_size,
        cluster_bits=disk.layout.cluster_bits,
        compression=COMPRESSION_ZSTD,
        path=path,
    )
    runs, end = _place_frames(bundle, index, disk, writer)

    def work(segment: Segment) -> int:
        data = _stored(bundle, segment, verify)
        jobs = runs.jobs(data, segment.offset)
        for job in jobs:
            write_all(fd, job, path)
        return sum(len(job.data) for job in jobs)

    progress.stage(f"unpacking {disk_id}", end - writer.unit)
    count = worker_count(workers)
    wanted = (segment for segment in index.segments() if runs.touch(segment))
    with executor(count) as pool:
        for done in ordered(pool, work, wanted, 2 * count):
            progress.advance(done)
    writer.finish_at(end)


def _place_frames(
    bundle: Bundle, index: DigestIndex, disk: Disk, writer: Qcow2Writer
) -> tuple[_Runs, int]:
    """Map every cluster of the disk in ``writer``; what to copy, and where the data will end.

    A frame that several clusters share stays one.
    """
    runs = _Runs()
    targets = array("Q", [0]) * index.frame_count
    position = writer.unit
    for guest, number, fault in clusters(bundle, index, disk):
        if fault is not None:
            raise fault
        frame = index.frame(number)
        if not targets[number]:
            targets[number] = position
            runs.add(frame.offset, frame.size, position)
            position += frame.size
        writer.place_frame(guest // writer.unit, targets[number], frame.size)
    runs.sort()
    return runs, position


def _stored(bundle: Bundle, segment: Segment, verify: bool) -> bytes:
    data = bundle.source.pread(segment.offset, segment.size)
    if verify and hashlib.sha256(data).digest() != segment.sha256:
        raise DamagedError(
            "stored bytes do not have their digest",
            path=bundle.path,
            offset=segment.offset,
            clause="VMP-SEG-1",
            hint="vmpack check says which guest data is damaged",
        )
    return data


def _verify_tables(bundle: Bundle, index: DigestIndex, disk: Disk) -> None:
    """A wrong table would give each cluster another's data, though every frame is sound."""
    start = disk.window_offset + disk.layout.l1_offset
    end = disk.window_offset + disk.layout.end
    for segment in index.segments():
        if segment.offset < end and segment.end > start:
            _stored(bundle, segment, verify=True)
