"""Opens bundles. What :meth:`Bundle.open` returns has its header, manifest and views checked.

The disks' stored bytes are not read then: :mod:`vmpack.bundle.check` does that.
Source: specs/vmpack-v1.md, "Reading".
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.bundle.manifest import Blob, Disk, Manifest
from vmpack.bundle.structs import HEADER_SIZE, MAGIC, Header
from vmpack.errors import DamagedError, UsageError
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.bundle.index import DigestIndex
    from vmpack.formats.base import Finding
    from vmpack.formats.qcow2.reader import Qcow2Reader
    from vmpack.machine import MachineConfig
    from vmpack.progress import Progress

_DAMAGED = "the file is damaged: fetch it again, or restore it from a copy"


def is_bundle(source: ByteSource) -> bool:
    """Whether ``source`` begins with a bundle's magic."""
    return source.size >= len(MAGIC) and source.pread(0, len(MAGIC)) == MAGIC


class Bundle:
    """An open bundle. Use as a context manager, or call :meth:`close`."""

    def __init__(self, source: ByteSource, header: Header, manifest: Manifest):
        self.source = source
        self.header = header
        self.manifest = manifest
        self._index: DigestIndex | None = None

    @classmethod
    def open(cls, target: str | os.PathLike[str] | ByteSource) -> Bundle:
        """Open a file, a block device or an open source (which it then owns, even on errors).

        Raises :class:`RefusedError` when it is no bundle, :class:`DamagedError` when a digest or a
        field is wrong or the file is cut, :class:`UnsupportedError` for newer features,
        :class:`InputError` when it cannot be read.
        """
        source = target if isinstance(target, ByteSource) else ByteSource.open(target)
        try:
            raw = source.pread(0, min(HEADER_SIZE, source.size))
            header = Header.decode(raw, path=source.path)
            _check_size(source, header)
            manifest = _read_manifest(source, header)
            for disk in manifest.disks:
                _check_view_header(source, disk)
        except BaseException:
            source.close()
            raise
        return cls(source, header, manifest)

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def id(self) -> str:
        """``sha256:HEX`` of the manifest: this very file."""
        return "sha256:" + self.header.manifest_sha256.hex()

    @property
    def machine_id(self) -> str:
        """``sha256:HEX`` of what the guest can observe: the same machine, however packed."""
        return self.manifest.machine_id

    @property
    def name(self) -> str | None:
        return self.manifest.name

    @property
    def disks(self) -> tuple[Disk, ...]:
        return tuple(self.manifest.disks)

    @property
    def config(self) -> MachineConfig:
        """The machine's config. Raises :class:`DamagedError` when it is not a valid one."""
        from vmpack.machine import MachineConfig

        return MachineConfig.from_json_dict(dict(self.manifest.config))

    def disk_entry(self, disk_id: str | None = None) -> Disk:
        """The manifest's entry of a disk; of the only one when no id is given.

        Raises :class:`UsageError` that lists the ids when there is no such disk.
        """
        known = ", ".join(disk.id for disk in self.disks) or "none"
        if disk_id is None and len(self.disks) == 1:
            return self.disks[0]
        if disk_id is None:
            raise UsageError(
                f"the bundle has {len(self.disks)} disks: {known}",
                path=self.path,
                hint=f"name one: {self.path}#{self.disks[0].id}" if self.disks else None,
            )
        for disk in self.disks:
            if disk.id == disk_id:
                return disk
        raise UsageError(
            f"no disk {disk_id!r} in the bundle", path=self.path, hint=f"it has {known}"
        )

    def disk(self, disk_id: str | None = None) -> Qcow2Reader:
        """A reader of one disk, through its window. The bundle must stay open meanwhile."""
        from vmpack.formats.base import OpenOptions
        from vmpack.formats.qcow2.reader import Qcow2Reader

        entry = self.disk_entry(disk_id)
        window = self.source.slice(entry.window_offset, entry.window_size)
        return Qcow2Reader(window, OpenOptions())

    def blob(self, name: str) -> bytes:
        """A blob's bytes, its digest checked. Raises :class:`UsageError` when there is none."""
        for blob in self.manifest.blobs:
            if blob.name == name:
                return self._read_blob(blob)
        known = ", ".join(blob.name for blob in self.manifest.blobs) or "none"
        raise UsageError(f"no blob {name!r} in the bundle", path=self.path, hint=f"it has {known}")

    def _read_blob(self, blob: Blob) -> bytes:
        from vmpack.bundle.frames import decode_frame

        raw = self.source.pread(blob.offset, blob.stored_size)
        data = decode_frame(raw, blob.size)
        if data is None or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise DamagedError(
                f"blob {blob.name} is damaged",
                path=self.path,
                offset=blob.offset,
                clause="VMP-BLOB-3",
                hint=_DAMAGED,
            )
        return data

    def index(self) -> DigestIndex:
        """The digest index, its own digest and structure checked; read once."""
        if self._index is None:
            from vmpack.bundle.index import DigestIndex

            manifest = self.manifest
            raw = self.source.pread(manifest.index_offset, manifest.index_size)
            if hashlib.sha256(raw).hexdigest() != manifest.index_sha256:
                raise DamagedError(
                    "the digest index is damaged",
                    path=self.path,
                    offset=manifest.index_offset,
                    clause="VMP-IDX-1",
                    hint=_DAMAGED,
                )
            index = DigestIndex(raw, manifest.frames, path=self.path, offset=manifest.index_offset)
            index.validate(
                pool=(manifest.pool_offset, manifest.pool_end), end=manifest.index_offset
            )
            self._index = index
        return self._index

    def check(
        self, *, full: bool = False, workers: int | None = None, progress: Progress | None = None
    ) -> Iterator[Finding]:
        """Everything that is wrong with the stored bytes; see :mod:`vmpack.bundle.check`."""
        from vmpack.bundle.check import check_bundle
        from vmpack.progress import SILENT

        return check_bundle(self, full=full, workers=workers, progress=progress or SILENT)

    def info_dict(self) -> dict[str, object]:
        """The JSON document of ``vmpack info``: design contract, kebab-case, bytes."""
        return info_dict(self)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self.source.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def info_dict(bundle: Bundle) -> dict[str, object]:
    """The JSON document of ``vmpack info`` for an open bundle."""
    manifest = bundle.manifest
    configured = manifest.config.get("disk", ())
    buses = {
        item["id"]: item.get("bus")
        for item in (configured if isinstance(configured, list) else ())
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    }
    disks = []
    for disk in manifest.disks:
        entry = disk.as_dict()
        del entry["view"]
        disks.append({**entry, "bus": buses.get(disk.id)})
    document: dict[str, object] = {
        "format": "vmpack",
        "version": 1,
        "filename": bundle.path,
        "id": bundle.id,
        "machine-id": manifest.machine_id,
        "name": manifest.name,
        "config": dict(manifest.config),
        "disks": disks,
        "blobs": [blob.as_dict() for blob in manifest.blobs],
        "size": bundle.header.total_size,
        "pool-size": manifest.pool_size,
        "provenance": dict(manifest.provenance),
    }
    if manifest.behaviour is not None:
        document["behaviour"] = dict(manifest.behaviour)
    return document


def _check_size(source: ByteSource, header: Header) -> None:
    """A file is exactly as long as its header says; a block device at least."""
    regular = stat.S_ISREG(os.fstat(source.fd).st_mode)
    if source.size < header.total_size:
        raise DamagedError(
            f"cut short: {source.size} bytes of {header.total_size}",
            path=source.path,
            offset=source.size,
            clause="VMP-HDR-6",
            hint=_DAMAGED,
        )
    if regular and source.size > header.total_size:
        raise DamagedError(
            f"{source.size - header.total_size} bytes follow the bundle's end",
            path=source.path,
            offset=header.total_size,
            clause="VMP-HDR-6",
            hint=_DAMAGED,
        )


def _read_manifest(source: ByteSource, header: Header) -> Manifest:
    raw = source.pread(header.manifest_offset, header.manifest_size)
    if hashlib.sha256(raw).digest() != header.manifest_sha256:
        raise DamagedError(
            "the manifest is damaged",
            path=source.path,
            offset=header.manifest_offset,
            clause="VMP-MAN-1",
            hint=_DAMAGED,
        )
    return Manifest.decode(raw, header, path=source.path)


def _check_view_header(source: ByteSource, disk: Disk) -> None:
    """A view's header cluster is byte for byte what the manifest implies (no other file in it)."""
    raw = source.pread(disk.window_offset, disk.cluster_size)
    wanted = disk.view_header()
    if raw != wanted:
        at = next(number for number in range(len(raw)) if raw[number] != wanted[number])
        raise DamagedError(
            f"the view header of disk {disk.id} is not what the manifest says",
            path=source.path,
            offset=disk.window_offset + at,
            clause="VMP-VIEW-1",
            hint=_DAMAGED,
        )
