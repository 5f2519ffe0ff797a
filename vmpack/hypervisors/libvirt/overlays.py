"""Disks in place: the bundle's own disks, read through a slice of its file, and an overlay each.

The bundle must never be opened for writing (specs/vmpack-v1.md, "Windows"): a disk that the guest
writes to has an empty qcow2 overlay beside the XML, and libvirt opens what lies behind an overlay
read-only. A CD-ROM or a read-only disk is the slice itself, ``<readonly/>``.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.hypervisors.base import TextFile
from vmpack.hypervisors.xmlsafe import element

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.writer import Export
    from vmpack.machine.hardware import Disk

MAX_BACKING_NAME = 1023
"""Bytes that a qcow2 header has for a backing file's name."""


def is_overlaid(disk: Disk) -> bool:
    """Whether writes need a place: SATA and IDE disks have no write protection."""
    if disk.empty or disk.kind == "cdrom":
        return False
    return not disk.read_only or disk.bus in ("sata", "ide")


def window_source(export: Export, disk_id: str) -> Element:
    """``<source>``: the disk's window in the bundle."""
    offset, size = export.machine.windows[disk_id]
    window = {"type": "storage", "offset": str(offset), "size": str(size)}
    slices = element("slices", None, None, element("slice", None, window))
    # The bundle's owner and label stay: libvirt would change them for its own QEMU.
    labels = [element("seclabel", None, {"model": "dac", "relabel": "no"})]
    return element("source", None, {"file": export.machine.bundle}, slices, *labels)


def overlay_files(export: Export) -> list[TextFile]:
    """The empty overlays of the disks that are written to."""
    return [
        TextFile(f"{disk.id}.qcow2", _overlay(export, disk.id))
        for disk in export.config.disks or ()
        if is_overlaid(disk)
    ]


def _overlay(export: Export, disk_id: str) -> bytes:
    """An empty qcow2 image over the disk's window: its header tells other tools the same."""
    from vmpack.formats.qcow2.request import Backing
    from vmpack.formats.qcow2.writer import Qcow2Writer

    name = _window_name(export, disk_id)
    backing = Backing(name, "qcow2") if len(name) <= MAX_BACKING_NAME else None
    fd = os.memfd_create("vmpack-overlay", os.MFD_CLOEXEC)
    try:
        writer = Qcow2Writer(
            fd,
            virtual_size=export.machine.disks[disk_id].virtual_size,
            path=f"{disk_id}.qcow2",
            backing=backing,
        )
        writer.finish()
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _window_name(export: Export, disk_id: str) -> bytes:
    """The window as QEMU's ``json:`` name, read-only in each of its layers."""
    offset, size = export.machine.windows[disk_id]
    file = {"driver": "file", "filename": export.machine.bundle, "read-only": True}
    window = {"driver": "raw", "offset": offset, "size": size, "read-only": True, "file": file}
    view = {"driver": "qcow2", "read-only": True, "backing": None, "file": window}
    return b"json:" + json.dumps(view, separators=(",", ":")).encode()
