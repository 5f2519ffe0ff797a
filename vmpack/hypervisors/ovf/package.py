"""The files that an envelope refers to, and the disks that are in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.document import Document, child, children
from vmpack.hypervisors.ovf.units import factor, number

MAX_FILES = 4096
_RESOURCE = re.compile(r"(?:ovf:)?/{0,2}(disk|file)/(.+)")


@dataclass(slots=True)
class Disk:
    """A ``Disk`` of the DiskSection."""

    element: Element
    file: str
    """Id of its file; empty: a blank disk."""
    format: str | None
    capacity: int
    """Bytes; 0 where it cannot be told."""
    uuid: str = ""
    """VirtualBox's."""


@dataclass(slots=True)
class Package:
    """References and DiskSection, by the ids that the rest of the envelope uses."""

    files: dict[str, FileRef] = field(default_factory=dict)
    elements: dict[str, Element] = field(default_factory=dict)
    """File id -> its element."""
    disks: dict[str, Disk] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Ids of the files and disks that some drive has."""

    def resource(self, text: str, *, path: str) -> tuple[str, FileRef] | None:
        """``(id, file)`` of a HostResource; ``None`` for one that is no file of the package.

        Raises :class:`DamagedError` for an id that nothing has, :class:`UnsupportedError` for a
        disk whose size only its deployer knows.
        """
        found = _RESOURCE.fullmatch(text.strip())
        if found is None:
            return None
        kind, wanted = found.groups()
        self.used.add(f"{kind}:{wanted}")
        if kind == "file":
            if wanted not in self.files:
                raise _lost(path, kind, wanted)
            return wanted, self.files[wanted]
        if wanted not in self.disks:
            raise _lost(path, kind, wanted)
        disk = self.disks[wanted]
        if not disk.file:
            return wanted, self._blank(disk, wanted, path)
        if disk.file not in self.files:
            raise _lost(path, "file", disk.file)
        self.used.add(f"file:{disk.file}")
        file = self.files[disk.file]
        return wanted, FileRef(file.name, disk.format, gzip=file.gzip, chunk_size=file.chunk_size)

    @staticmethod
    def _blank(disk: Disk, name: str, path: str) -> FileRef:
        if not disk.capacity or disk.capacity % 512:
            raise UnsupportedError(
                f"the blank disk {escape(name[:80])!r} has no size that vmpack can tell",
                path=path,
                field="DiskSection",
                hint="its capacity is to be a number of whole sectors",
            )
        return FileRef(f"blank disk {name}", "raw", blank=disk.capacity)


def _lost(path: str, kind: str, name: str) -> DamagedError:
    return DamagedError(
        f"a drive has the {kind} {escape(name[:80])!r}, which the envelope does not have",
        path=path,
        field="HostResource",
        clause="OVF-READ-3",
    )


def require_href(href: str, *, path: str) -> None:
    """A reference is a file's name in the package: no scheme, no way up, no absolute path."""
    plain = unquote(href)
    for name in (href, plain):
        if (
            not name
            or len(name) > 1024
            or name.startswith(("/", "\\"))
            or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name)
            or any(part == ".." for part in re.split(r"[/\\]", name))
            or re.search(r"[\x00-\x1f]", name)
        ):
            raise UnsafeError(
                f"refers to {escape(href[:200])!r}, which is no file beside it",
                path=path,
                field="References",
                clause="OVF-READ-2",
                hint="fetch that file, put it beside the .ovf, and correct its href",
            )


def read(doc: Document, members: Mapping[str, int]) -> Package:
    """The envelope's References and DiskSection."""
    found = Package()
    references = child(doc.root, "References")
    for element in children(references, "File") if references is not None else ():
        _read_file(doc, element, members, found)
    for section in children(doc.root, "DiskSection"):
        info = child(section, "Info")
        if info is not None:
            doc.note(info, "DiskSection/Info", "a label")
        for element in children(section, "Disk"):
            _read_disk(doc, element, found)
    return found


def _read_file(doc: Document, element: Element, members: Mapping[str, int], found: Package) -> None:
    href = doc.attribute(element, "href")
    require_href(href, path=doc.path)
    if len(found.files) >= MAX_FILES:
        raise UnsafeError(f"refers to more than {MAX_FILES} files", path=doc.path)
    label = f"File {href}"
    file_id = doc.structure(element, "id", label, "ids are given anew")
    doc.structure(element, "size", label, "the size of the file that is written")
    chunk = _chunk_size(doc, element, label)
    compression = doc.attribute(element, "compression").lower()
    if compression not in ("", "identity", "gzip"):
        raise UnsupportedError(
            f"the file {escape(href[:80])!r} is compressed by {escape(compression[:40])!r}",
            path=doc.path,
            field="References",
            hint="decompress it, and take its ovf:compression out of the .ovf",
        )
    if compression:
        detail = "decompressed" if compression == "gzip" else "stored as it is"
        doc.draft.report.kept(f"{label}@ovf:compression", detail)
    first = ".000000000" if chunk else ""
    plain = unquote(href)
    name = plain if href + first not in members and plain + first in members else href
    doc.draft.report.kept(f"{label}@ovf:href", "the file")
    found.files[file_id] = FileRef(name, gzip=compression == "gzip", chunk_size=chunk)
    found.elements[file_id] = element


def _chunk_size(doc: Document, element: Element, label: str) -> int:
    text = doc.structure(element, "chunkSize", label, "the pieces are joined")
    if not text:
        return 0
    chunk = number(text)
    if not chunk:
        raise DamagedError(
            f"{escape(text[:40])!r} is no size of chunks", path=doc.path, field="References"
        )
    return chunk


def _read_disk(doc: Document, element: Element, found: Package) -> None:
    disk_id = doc.attribute(element, "diskId")
    label = f"Disk {disk_id}"
    doc.draft.report.kept(f"{label}@ovf:diskId", "the disk's id")
    parent = doc.peek(element, "parentRef")
    if parent:
        raise UnsupportedError(
            f"the disk {escape(disk_id[:80])!r} holds changes to {escape(parent[:80])!r} only",
            path=doc.path,
            field="DiskSection",
            hint="export the machine again without snapshots",
        )
    file_id = doc.structure(element, "fileRef", label, "its file")
    address = doc.structure(element, "format", label, "the format that is written").lower()
    disk_format = next((name for part, name in names.FORMATS if part in address), None)
    units = doc.structure(element, "capacityAllocationUnits", label, "written in bytes")
    capacity = doc.structure(element, "capacity", label, "the size of the disk image")
    doc.structure(element, "populatedSize", label, "counted anew")
    amount, unit = number(capacity), factor(units)
    uuid = element.get(f"{{{names.VBOX}}}uuid", "")
    found.disks[disk_id] = Disk(element, file_id, disk_format, (amount or 0) * (unit or 0), uuid)
