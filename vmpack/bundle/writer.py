"""Writes a bundle: disks and blobs into the pool, views over it, digests and manifest after it.

Nothing in the file depends on the number of workers or on the host. Order of writing: pool, tables,
index, manifest, and the headers last. Source: specs/vmpack-v1.md, "Writing".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vmpack.batches import Spans
from vmpack.bundle.derived import DerivedDisk
from vmpack.bundle.index import FrameIndex, Segment
from vmpack.bundle.manifest import (
    BLOB_NAME,
    DISK_ID,
    MAX_BLOB,
    MAX_BLOBS,
    MAX_DISKS,
    NVRAM,
    TPM_STATE,
    Blob,
    Disk,
    Manifest,
)
from vmpack.bundle.pool import Batch, prepare
from vmpack.bundle.stream import StoredStream
from vmpack.bundle.structs import HEADER_SIZE, RECORD, RECORD_SIZE, Header
from vmpack.codecs import Compressor
from vmpack.copy import write_all
from vmpack.digest import LEAF, ContentDigest
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import ImageReader, Job
from vmpack.formats.qcow2.structs import compressed_entry
from vmpack.formats.qcow2.tables import TableWriter
from vmpack.formats.qcow2.writer import DEFAULT_LEVEL, zstd_compressor
from vmpack.machine.identity import machine_id
from vmpack.output import Output
from vmpack.pipeline import executor, ordered, worker_count
from vmpack.progress import SILENT, Progress
from vmpack.units import round_up

SMALL_DISK = 64 << 20


def default_cluster_size(virtual_size: int) -> int:
    """64 KiB; 4 KiB for disks under 64 MiB, whose tables would dwarf them otherwise."""
    return 4096 if virtual_size < SMALL_DISK else 65536


@dataclass(slots=True)
class _Packed:
    """A disk whose data is in the pool and whose tables are not written yet."""

    id: str
    exact_size: int
    window_offset: int
    content_digest: str
    stored_size: int
    tables: TableWriter


class BundleWriter:
    """A bundle under construction in ``out``. ``disks`` lists ``(id, cluster size)`` in order.

    Call :meth:`add_disk` for each of them in that order, :meth:`add_blob` as often as wanted, then
    :meth:`finish`; committing ``out`` stays the caller's. Use as a context manager.
    """

    def __init__(
        self,
        out: Output,
        disks: Sequence[tuple[str, int]],
        *,
        level: int = DEFAULT_LEVEL,
        workers: int | None = None,
        spool_dir: str | None = None,
    ):
        self._out = out
        self._plan = list(disks)
        self._workers = worker_count(workers)
        self._spool_dir = spool_dir
        self._level = level
        self._compressors: dict[int, Compressor] = {}
        self._index = FrameIndex()
        self._disks: list[_Packed] = []
        self._blobs: list[Blob] = []
        self._windows: list[int] = []
        position = HEADER_SIZE
        if len(self._plan) > MAX_DISKS:
            raise UsageError(f"{len(self._plan)} disks, at most {MAX_DISKS} fit one bundle")
        for disk_id, cluster_size in self._plan:
            _check_plan(disk_id, cluster_size)
            self._windows.append(round_up(position, cluster_size))
            position = self._windows[-1] + cluster_size
        self._pool_offset = position
        self._threads = executor(self._workers)
        self._stream = StoredStream(
            out.fd, position, self._threads, path=out.name, depth=4 * self._workers
        )
        out.begin_head(position)

    def add_disk(
        self, reader: ImageReader, *, progress: Progress = SILENT, label: str | None = None
    ) -> str:
        """Pack the next disk of the plan from ``reader``; its content digest."""
        number = len(self._disks)
        disk_id, cluster_size = self._plan[number]
        tables = TableWriter(
            cluster_bits=cluster_size.bit_length() - 1,
            virtual_size=round_up(reader.virtual_size, 512),
            spool_dir=self._spool_dir,
        )
        content = ContentDigest(reader.virtual_size)
        compress = self._compressor(cluster_size)
        packed = _Packed(disk_id, reader.virtual_size, self._windows[number], "", 0, tables)
        self._disks.append(packed)
        unit = math.lcm(cluster_size, LEAF)

        def work(batch: tuple[int, int]) -> Batch:
            offset, length = batch
            if isinstance(reader, DerivedDisk):
                return reader.prepare_batch(offset, length, self._index, compress)
            data = reader.read(offset, length)
            return prepare(offset, data, cluster_size, self._index, compress)

        spans = Spans(reader, unit)
        progress.stage(label or f"packing {disk_id}", spans.total)
        for batch in ordered(self._threads, work, spans.batches(), 2 * self._workers):
            content.add(batch.leaves)
            self._place(batch, packed, number + 1)
            progress.advance(batch.length)
        packed.content_digest = content.result()
        return packed.content_digest

    def _place(self, batch: Batch, packed: _Packed, mark: int) -> None:
        """Put a batch's new frames into the pool and map its clusters."""
        index, stream, tables = self._index, self._stream, packed.tables
        window, bits = packed.window_offset, packed.tables.cluster_bits
        for cluster in batch.clusters:
            number = index.find(cluster.sha256)
            if number is None:
                assert cluster.frame is not None
                offset, size = stream.position, len(cluster.frame)
                number = index.add(offset, size, bits, cluster.sha256)
                stream.append(cluster.frame)
            else:
                offset, size = RECORD.unpack_from(index.records, number * RECORD_SIZE)[:2]
            if index.last_disk[number] != mark:
                index.last_disk[number] = mark
                packed.stored_size += size
            try:
                tables.set(cluster.index, compressed_entry(offset - window, size, bits))
            except ValueError as exc:
                raise UnsupportedError(
                    f"the bundle is too large for clusters of {1 << bits} bytes",
                    hint="choose a larger --cluster-size",
                ) from exc

    def _compressor(self, size: int) -> Compressor:
        """The compressor for pieces of ``size`` bytes."""
        if size not in self._compressors:
            self._compressors[size] = zstd_compressor(self._level, size)
        return self._compressors[size]

    def add_blob(self, name: str, data: bytes) -> None:
        """Keep ``data`` under ``name``: 1 to 64 of ``A-Za-z0-9._-``, a letter or digit first.

        Raises :class:`UsageError` for a name that is not such, or taken, and beyond 256 MiB.
        """
        check_blob_name(name)
        if any(blob.name == name for blob in self._blobs):
            raise UsageError(f"two blobs are called {name!r}")
        if len(self._blobs) >= MAX_BLOBS:
            raise UsageError(f"more than {MAX_BLOBS} files to keep")
        if len(data) > MAX_BLOB:
            raise UsageError(f"blob {name} has {len(data)} bytes, at most {MAX_BLOB} are kept")
        frame = self._compressor(len(data))(data)
        digest = hashlib.sha256(data).hexdigest()
        self._blobs.append(Blob(name, len(data), digest, self._stream.position, len(frame)))
        self._stream.append(frame)

    def finish(
        self,
        config: Mapping[str, object],
        observable: Mapping[str, object],
        provenance: Mapping[str, object],
        *,
        behaviour: Mapping[str, object] | None = None,
    ) -> Manifest:
        """Write tables, index, manifest and headers.

        ``config`` is the pinned config as canonical JSON, ``observable`` the part of it that the
        guest can observe (it makes ``machine-id`` together with the digests).
        """
        import zstandard

        assert len(self._disks) == len(self._plan)
        stream = self._stream
        pool_end = stream.position
        stream.end_region()
        disks = [self._write_tables(packed) for packed in self._disks]
        largest = max((size for _, size in self._plan), default=512)
        stream.pad_to(round_up(stream.position, largest))
        end = stream.position
        segments = stream.finish()
        disks = [_with_window(disk, end - disk.window_offset) for disk in disks]
        heads = _heads(disks)
        index = self._encode_index([*map(_segment, heads), *segments])
        blobs = {blob.name: blob.sha256 for blob in self._blobs}
        manifest = Manifest(
            config=config,
            machine_id=machine_id(
                observable,
                [(disk.id, disk.content_digest) for disk in disks],
                nvram=blobs.get(NVRAM),
                tpm_state=blobs.get(TPM_STATE),
            ),
            disks=disks,
            blobs=self._blobs,
            pool_offset=self._pool_offset,
            pool_size=pool_end - self._pool_offset,
            index_offset=end,
            index_size=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            frames=len(self._index),
            provenance={
                **provenance,
                "level": self._level,
                "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
            },
            behaviour=behaviour,
        )
        self._write_end(manifest, index, heads)
        return manifest

    def _write_tables(self, packed: _Packed) -> Disk:
        stream, tables = self._stream, packed.tables
        stream.pad_to(round_up(stream.position, tables.cluster_size))
        stream.end_region()
        layout = tables.layout(stream.position - packed.window_offset, refcount_order=5)
        # A segment for each structure, so that damage is located exactly.
        bounds = layout.bounds()
        for piece in tables.pieces():
            stream.append(piece)
            if stream.position - packed.window_offset in bounds:
                stream.end_region()
        tables.close()
        return Disk(
            id=packed.id,
            exact_size=packed.exact_size,
            content_digest=packed.content_digest,
            window_offset=packed.window_offset,
            window_size=0,
            stored_size=packed.stored_size,
            layout=layout,
        )

    def _encode_index(self, segments: Sequence[Segment]) -> bytes:
        table = b"".join(RECORD.pack(s.offset, s.size, 0, s.sha256) for s in segments)
        return bytes(self._index.records) + table

    def _write_end(self, manifest: Manifest, index: bytes, heads: Sequence[Job]) -> None:
        out, raw = self._out, manifest.encode()
        header = Header(
            total_size=manifest.index_offset + len(index) + len(raw),
            index_offset=manifest.index_offset,
            index_size=len(index),
            manifest_offset=manifest.index_offset + len(index),
            manifest_size=len(raw),
            manifest_sha256=hashlib.sha256(raw).digest(),
        )
        write_all(out.fd, Job(header.index_offset, index), out.name)
        write_all(out.fd, Job(header.manifest_offset, raw), out.name)
        out.before_head()
        for job in (*heads, Job(0, header.encode())):
            write_all(out.fd, job, out.name)

    def close(self) -> None:
        """End the threads. Closing twice is harmless."""
        self._threads.close()
        for packed in self._disks:
            packed.tables.close()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _heads(disks: Sequence[Disk]) -> list[Job]:
    """The view headers with the padding before each: from the bundle's header up to the pool."""
    heads = []
    position = HEADER_SIZE
    for disk in disks:
        heads.append(Job(position, bytes(disk.window_offset - position) + disk.view_header()))
        position = disk.window_offset + disk.cluster_size
    return heads


def _segment(job: Job) -> Segment:
    return Segment(job.offset, len(job.data), hashlib.sha256(job.data).digest())


def _with_window(disk: Disk, size: int) -> Disk:
    return replace(disk, window_size=size)


def check_blob_name(name: str) -> None:
    """Raise :class:`UsageError` unless a blob can have this name (VMP-BLOB-1)."""
    if not BLOB_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a blob name", hint="use letters, digits, dot, dash, underscore"
        )


def check_disk_id(disk_id: str) -> None:
    """Raise :class:`UsageError` unless a disk can have this id (VMP-MAN-5)."""
    if not DISK_ID.fullmatch(disk_id):
        raise UsageError(
            f"{disk_id!r} is not a disk id", hint="use a-z, 0-9 and -, at most 32 characters"
        )


def _check_plan(disk_id: str, cluster_size: int) -> None:
    check_disk_id(disk_id)
    if cluster_size & (cluster_size - 1) or not 4096 <= cluster_size <= 2 << 20:
        raise UsageError(
            f"cluster size {cluster_size} is not a power of two from 4K to 2M",
            hint="64K suits most disks",
        )
