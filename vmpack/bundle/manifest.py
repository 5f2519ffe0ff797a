"""The manifest: canonical JSON that names the machine, its disks, their windows and every digest.

Decoding checks each value's type and range and that the parts agree with each other and with the
header, so that whoever holds a :class:`Manifest` need not look again. The config is kept as the
JSON object that it is; :mod:`vmpack.machine` gives it its meaning when it is asked for.
Source: specs/vmpack-v1.md, "Manifest".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmpack.bundle.fields import Fields
from vmpack.bundle.structs import HEADER_SIZE, RECORD_SIZE, Header
from vmpack.formats.qcow2.layout import Layout, encode_header, l1_entries
from vmpack.formats.qcow2.structs import (
    COMPRESSION_ZSTD,
    MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
)
from vmpack.machine import canonical
from vmpack.units import round_up

CONTENT_DIGEST = re.compile(r"vmpack-content-v1:[0-9a-f]{64}")
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
DISK_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
BLOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DISKS = 256
MAX_BLOBS = 1024
MAX_BLOB = 256 << 20
REFCOUNT_ORDER = 5

NVRAM = "nvram"
TPM_STATE = "tpm-state"
"""The blobs that a guest can observe: their digests are part of ``machine-id``."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of the bundle and the window through which a reader opens it."""

    id: str
    exact_size: int
    """Bytes of the source, which raw unpacking gives back."""
    content_digest: str
    window_offset: int
    window_size: int
    stored_size: int
    """Bytes of the distinct frames that this disk refers to, shared ones included."""
    layout: Layout
    """The view's tables, relative to the window's start."""

    @property
    def virtual_size(self) -> int:
        """Bytes that the guest sees: the exact size rounded up to 512."""
        return self.layout.virtual_size

    @property
    def cluster_size(self) -> int:
        return 1 << self.layout.cluster_bits

    def view_header(self) -> bytes:
        """The whole first cluster of the view, which this entry determines (VMP-VIEW-1)."""
        return encode_header(self.layout, compression=COMPRESSION_ZSTD, names=False)

    def as_dict(self) -> dict[str, object]:
        """The manifest's JSON object for this disk."""
        layout = self.layout
        return {
            "id": self.id,
            "virtual-size": self.virtual_size,
            "exact-size": self.exact_size,
            "stored-size": self.stored_size,
            "content-digest": self.content_digest,
            "cluster-size": self.cluster_size,
            "window": {"offset": self.window_offset, "size": self.window_size},
            "view": {
                "l1-offset": layout.l1_offset,
                "refcount-table-offset": layout.refcount_table_offset,
                "refcount-table-clusters": layout.refcount_table_clusters,
                "end": layout.end,
            },
        }


@dataclass(frozen=True, slots=True)
class Blob:
    """A named file inside the bundle: one zstd frame in the pool."""

    name: str
    size: int
    sha256: str
    offset: int
    stored_size: int

    def as_dict(self) -> dict[str, object]:
        """The manifest's JSON object for this blob."""
        return {
            "name": self.name,
            "size": self.size,
            "digest": "sha256:" + self.sha256,
            "offset": self.offset,
            "stored-size": self.stored_size,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a bundle says of itself."""

    config: Mapping[str, object]
    machine_id: str
    disks: Sequence[Disk]
    blobs: Sequence[Blob]
    pool_offset: int
    pool_size: int
    index_offset: int
    index_size: int
    index_sha256: str
    frames: int
    provenance: Mapping[str, object]
    behaviour: Mapping[str, object] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    """Members under ``x-`` names, which vmpack keeps and does not read."""

    @property
    def pool_end(self) -> int:
        return self.pool_offset + self.pool_size

    @property
    def name(self) -> str | None:
        """The machine's name, from its config."""
        value = self.config.get("name")
        return value if isinstance(value, str) else None

    def encode(self) -> bytes:
        """The canonical bytes."""
        document: dict[str, object] = {
            "format": "vmpack",
            "version": 1,
            "config": dict(self.config),
            "machine-id": self.machine_id,
            "disks": [disk.as_dict() for disk in self.disks],
            "blobs": [blob.as_dict() for blob in self.blobs],
            "pool": {"offset": self.pool_offset, "size": self.pool_size},
            "index": {
                "offset": self.index_offset,
                "size": self.index_size,
                "frames": self.frames,
                "digest": "sha256:" + self.index_sha256,
            },
            "provenance": dict(self.provenance),
            **self.extra,
        }
        if self.behaviour is not None:
            document["behaviour"] = dict(self.behaviour)
        return canonical.dumps(document)

    @classmethod
    def decode(cls, raw: bytes, header: Header, *, path: str) -> Manifest:
        """The manifest in ``raw``, checked against the header it came with.

        Raises :class:`DamagedError` naming the member that is wrong, :class:`UnsupportedError` for
        a newer version.
        """
        top = Fields.of(canonical.loads(raw, what="manifest"), path=path)
        top.constant("format", "vmpack")
        top.constant("version", 1)
        index = top.child("index")
        pool = top.child("pool")
        manifest = cls(
            config=top.mapping("config"),
            machine_id=top.text("machine-id", SHA256),
            disks=tuple(_disk(item, header) for item in top.objects("disks", MAX_DISKS)),
            blobs=tuple(_blob(item) for item in top.objects("blobs", MAX_BLOBS)),
            pool_offset=pool.integer("offset", HEADER_SIZE),
            pool_size=pool.integer("size", 0),
            index_offset=index.integer("offset", HEADER_SIZE),
            index_size=index.integer("size", 0),
            index_sha256=index.text("digest", SHA256).removeprefix("sha256:"),
            frames=index.integer("frames", 0),
            provenance=top.mapping("provenance"),
            behaviour=top.mapping("behaviour") if top.has("behaviour") else None,
            extra=top.extra(),
        )
        for part in (top, index, pool):
            part.done()
        manifest._check(header, top)
        return manifest

    def _check(self, header: Header, top: Fields) -> None:
        """The parts agree: windows, pool, tables, index and header tile the file."""
        if (self.index_offset, self.index_size) != (header.index_offset, header.index_size):
            raise top.error("index", "differs from the header's", "VMP-MAN-3")
        if self.frames > self.index_size // RECORD_SIZE:
            raise top.error("index.frames", "more frames than records", "VMP-IDX-1")
        position = HEADER_SIZE
        for disk in self.disks:
            start = round_up(position, disk.cluster_size)
            if disk.window_offset != start:
                raise top.error("disks", f"window of {disk.id} not at {start}", "VMP-WIN-1")
            position = start + disk.cluster_size
        if self.pool_offset != position:
            raise top.error("pool.offset", f"is not {position}", "VMP-MAN-4")
        position = self.pool_end
        for disk in self.disks:
            start = round_up(position, disk.cluster_size)
            if disk.window_offset + disk.layout.l1_offset != start:
                raise top.error("disks", f"tables of {disk.id} not at {start}", "VMP-MAN-4")
            position = disk.window_offset + disk.layout.end
        largest = max((disk.cluster_size for disk in self.disks), default=512)
        if round_up(position, largest) != self.index_offset:
            raise top.error("index.offset", "is not where the tables end", "VMP-WIN-2")
        if len({disk.id for disk in self.disks}) != len(self.disks):
            raise top.error("disks", "two disks have one id", "VMP-MAN-5")
        self._check_blobs(top)

    def _check_blobs(self, top: Fields) -> None:
        if len({blob.name for blob in self.blobs}) != len(self.blobs):
            raise top.error("blobs", "two blobs have one name", "VMP-BLOB-1")
        for blob in self.blobs:
            if blob.offset < self.pool_offset or blob.offset + blob.stored_size > self.pool_end:
                raise top.error("blobs", f"blob {blob.name} lies outside the pool", "VMP-BLOB-2")
            if blob.stored_size > blob.size + (blob.size >> 7) + 1024:
                raise top.error(
                    "blobs", f"blob {blob.name} is stored in too many bytes", "VMP-BLOB-2"
                )

    def blob_sha256(self, name: str) -> str | None:
        """The SHA-256 (hex) of the blob called ``name``, or ``None``."""
        return next((blob.sha256 for blob in self.blobs if blob.name == name), None)


def _disk(item: Fields, header: Header) -> Disk:
    exact = item.integer("exact-size", 0)
    virtual = item.integer("virtual-size", 0)
    cluster = item.integer("cluster-size", 4096, 2 << 20)
    if cluster & (cluster - 1):
        raise item.error("cluster-size", "is not a power of two", "VMP-VIEW-2")
    if virtual != round_up(exact, 512):
        raise item.error("virtual-size", f"is not {exact} rounded up to 512", "VMP-VIEW-4")
    bits = cluster.bit_length() - 1
    window, view = item.child("window"), item.child("view")
    offset = window.integer("offset", HEADER_SIZE)
    disk = Disk(
        id=item.text("id", DISK_ID),
        exact_size=exact,
        content_digest=item.text("content-digest", CONTENT_DIGEST),
        window_offset=offset,
        window_size=window.integer("size", 1),
        stored_size=item.integer("stored-size", 0),
        layout=Layout(
            cluster_bits=bits,
            virtual_size=virtual,
            l1_offset=view.integer("l1-offset", cluster),
            l1_entries=l1_entries(virtual, bits),
            refcount_table_offset=view.integer("refcount-table-offset", cluster),
            refcount_table_clusters=view.integer(
                "refcount-table-clusters", 1, MAX_REFCOUNT_TABLE_BYTES // cluster
            ),
            refcount_order=REFCOUNT_ORDER,
            end=view.integer("end", cluster),
        ),
    )
    if offset % cluster or offset + disk.window_size != header.index_offset:
        raise item.error("window", "is not cluster-aligned, or ends elsewhere", "VMP-WIN-1")
    for part in (item, window, view):
        part.done()
    _check_view(disk.layout, view)
    return disk


def _check_view(layout: Layout, view: Fields) -> None:
    """The tables follow each other, aligned, and are no longer than qcow2 allows."""
    l2, table, blocks, end = layout.bounds()
    size = 1 << layout.cluster_bits
    if layout.l1_entries * 8 > MAX_L1_BYTES:
        raise view.error("l1-offset", f"an L1 table of {layout.l1_entries} entries", "VMP-VIEW-8")
    if table % size or end % size or not l2 <= table <= blocks < end:
        raise view.error("end", "the tables do not follow each other", "VMP-VIEW-7")


def _blob(item: Fields) -> Blob:
    blob = Blob(
        name=item.text("name", BLOB_NAME),
        size=item.integer("size", 0, MAX_BLOB),
        sha256=item.text("digest", SHA256).removeprefix("sha256:"),
        offset=item.integer("offset", HEADER_SIZE),
        stored_size=item.integer("stored-size", 1),
    )
    item.done()
    return blob
