"""Checks a bundle: every stored byte against its digest, the views against the index.

Plain: segment digests, padding, tables, ``machine-id``. Full: every frame decoded and compared with
its digest, every disk's content digest. What is damaged is located: a structure, or a disk and the
guest offset. Source: specs/vmpack-v1.md, "Checking".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from vmpack.bundle.damage import Damage, decode
from vmpack.bundle.index import DigestIndex, Frame, Segment
from vmpack.bundle.manifest import NVRAM, TPM_STATE, Disk
from vmpack.bundle.reader import Bundle
from vmpack.bundle.views import clusters
from vmpack.digest import LEAF, ContentDigest, content_digest
from vmpack.errors import VmpackError
from vmpack.formats.base import Finding
from vmpack.pipeline import Executor, executor, ordered, worker_count
from vmpack.progress import Progress

_GROUP = 32


def check_bundle(
    bundle: Bundle, *, full: bool, workers: int | None, progress: Progress
) -> Iterator[Finding]:
    """Yield what is wrong; nothing when the bundle is sound.

    Raises :class:`InputError` when the file cannot be read; damage never raises.
    """
    try:
        index = bundle.index()
    except VmpackError as exc:
        yield _finding(exc)
        return
    count = worker_count(workers)
    with executor(count) as pool:
        damage = Damage(bundle, index)
        for segment in _bad_segments(bundle, index, pool, count, progress):
            yield from damage.add(segment)
        if damage.any:
            # Tables that do not have their digest would only add echoes of the same damage.
            yield from damage.places()
            return
        yield from _check_structure(bundle, index)
        if full:
            yield from _check_config(bundle)
            yield from _check_frames(bundle, index, pool, count, progress)
            yield from _check_contents(bundle, index, count, progress)


def _finding(exc: VmpackError) -> Finding:
    where = f" ({exc.field})" if exc.field else ""
    return Finding("corruption", exc.message + where, offset=exc.offset, clause=exc.clause)


def _bad_segments(
    bundle: Bundle, index: DigestIndex, pool: Executor, count: int, progress: Progress
) -> Iterator[Segment]:
    source = bundle.source

    def work(segment: Segment) -> tuple[Segment, bool]:
        data = source.pread(segment.offset, segment.size)
        return segment, hashlib.sha256(data).digest() == segment.sha256

    progress.stage("checking stored bytes", bundle.header.index_offset)
    for segment, good in ordered(pool, work, index.segments(), 2 * count):
        progress.advance(segment.size)
        if not good:
            yield segment


def _check_structure(bundle: Bundle, index: DigestIndex) -> Iterator[Finding]:
    yield from _check_padding(bundle)
    yield from _check_pool(bundle, index)
    for disk in bundle.disks:
        try:
            yield from _check_view(bundle, index, disk)
        except VmpackError as exc:
            yield _finding(exc)
    yield from _check_machine(bundle)


def _check_padding(bundle: Bundle) -> Iterator[Finding]:
    """Bytes of no structure are zero (VMP-SEG-2)."""
    manifest = bundle.manifest
    gaps = []
    position = 4096
    for disk in manifest.disks:
        gaps.append((position, disk.window_offset))
        position = disk.window_offset + disk.cluster_size
    position = manifest.pool_end
    for disk in manifest.disks:
        gaps.append((position, disk.window_offset + disk.layout.l1_offset))
        position = disk.window_offset + disk.layout.end
    gaps.append((position, manifest.index_offset))
    for start, end in gaps:
        if any(bundle.source.pread(start, end - start)):
            yield Finding(
                "corruption", f"padding up to {end} is not zero", offset=start, clause="VMP-SEG-2"
            )


def _check_pool(bundle: Bundle, index: DigestIndex) -> Iterator[Finding]:
    """Frames and blobs fill the pool without a gap or an overlap (VMP-POOL-2)."""
    blobs = sorted((blob.offset, blob.offset + blob.stored_size) for blob in bundle.manifest.blobs)
    position = bundle.manifest.pool_offset
    waiting = iter([*blobs, (-1, -1)])
    begin, stop = next(waiting)
    for frame in index.frames():
        while begin == position:
            position = stop
            begin, stop = next(waiting)
        if frame.offset != position:
            break
        position = frame.end
    while begin == position:
        position = stop
        begin, stop = next(waiting)
    if position != bundle.manifest.pool_end or begin != -1:
        yield Finding(
            "corruption",
            "bytes of the pool belong to no frame, or to two",
            offset=position,
            clause="VMP-POOL-2",
        )


def _check_view(bundle: Bundle, index: DigestIndex, disk: Disk) -> Iterator[Finding]:
    """Tables and refcounts are true, and every cluster maps to a frame of the index."""
    reader = bundle.disk(disk.id)
    yield from reader.check()
    stored, seen = 0, bytearray(index.frame_count)
    for guest, number, fault in clusters(bundle, index, disk):
        if fault is not None:
            yield replace(_finding(fault), guest_offset=guest)
        elif not seen[number]:
            seen[number] = 1
            stored += index.frame(number).size
    if stored != disk.stored_size:
        yield Finding(
            "corruption",
            f"disk {disk.id} refers to {stored} stored bytes, the manifest says {disk.stored_size}",
            clause="VMP-MAN-6",
        )


def _check_config(bundle: Bundle) -> Iterator[Finding]:
    """The config is one that the schema allows."""
    try:
        _ = bundle.config
    except VmpackError as exc:
        yield _finding(exc)


def _check_machine(bundle: Bundle) -> Iterator[Finding]:
    """The config speaks of these disks, and ``machine-id`` is its digest."""
    from vmpack.machine.identity import machine_id
    from vmpack.machine.plain import disk_ids, observable

    manifest = bundle.manifest
    wanted = machine_id(
        observable(manifest.config),
        [(disk.id, disk.content_digest) for disk in manifest.disks],
        nvram=manifest.blob_sha256(NVRAM),
        tpm_state=manifest.blob_sha256(TPM_STATE),
    )
    drives = disk_ids(manifest.config)
    if drives != {disk.id for disk in manifest.disks}:
        yield Finding(
            "corruption",
            f"the config speaks of the disks {', '.join(sorted(drives)) or 'none'}",
            clause="VMP-MAN-7",
        )
    if wanted != manifest.machine_id:
        yield Finding("corruption", f"machine-id should be {wanted}", clause="VMP-ID-2")


def _check_frames(
    bundle: Bundle, index: DigestIndex, pool: Executor, count: int, progress: Progress
) -> Iterator[Finding]:
    """Every frame decodes to the cluster whose digest the index has."""

    def work(first: int) -> tuple[int, list[Frame]]:
        frames = [
            index.frame(number) for number in range(first, min(first + _GROUP, index.frame_count))
        ]
        bad = [frame for frame in frames if decode(bundle, frame) is None]
        return sum(frame.size for frame in frames), bad

    progress.stage("decoding clusters", bundle.manifest.pool_size)
    for done, bad in ordered(pool, work, range(0, index.frame_count, _GROUP), 2 * count):
        progress.advance(done)
        for frame in bad:
            yield Finding(
                "corruption",
                "a frame does not decode to its digest",
                offset=frame.offset,
                clause="VMP-FRAME-2",
            )
    for blob in bundle.manifest.blobs:
        try:
            bundle.blob(blob.name)
        except VmpackError as exc:
            yield _finding(exc)


def _check_contents(
    bundle: Bundle, index: DigestIndex, count: int, progress: Progress
) -> Iterator[Finding]:
    for disk in bundle.disks:
        try:
            yield from _check_content(bundle, index, disk, count, progress)
        except VmpackError as exc:
            yield _finding(exc)


def _check_content(
    bundle: Bundle, index: DigestIndex, disk: Disk, count: int, progress: Progress
) -> Iterator[Finding]:
    reader = bundle.disk(disk.id)
    if any(reader.read(disk.exact_size, disk.virtual_size - disk.exact_size)):
        yield Finding(
            "corruption",
            f"disk {disk.id} has data behind its end",
            guest_offset=disk.exact_size,
            clause="VMP-VIEW-4",
        )
    if disk.cluster_size == LEAF:
        # Frames were just proven: their digests are the leaves.
        content = ContentDigest(disk.exact_size)
        for guest, number, fault in clusters(bundle, index, disk):
            if fault is not None:
                raise fault
            content.add([(guest // LEAF, index.frame(number).sha256)])
        digest = content.result()
    else:
        progress.stage(f"digesting {disk.id}", None)
        digest = content_digest(reader, workers=count, progress=progress)
    if digest != disk.content_digest:
        yield Finding(
            "corruption",
            f"disk {disk.id} has content digest {digest}, the manifest says {disk.content_digest}",
            clause="VMP-ID-3",
        )
