"""The facts of a qcow2 image, in qemu-img's names, bounded whatever the image claims."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from vmpack.formats.base import ImageInfo
from vmpack.formats.qcow2 import structs
from vmpack.formats.qcow2.records import (
    BITMAP_AUTO,
    BITMAP_IN_USE,
    Bitmap,
    Snapshot,
    bitmaps,
    snapshots,
)

if TYPE_CHECKING:
    from vmpack.formats.qcow2.reader import Qcow2Reader

MAX_LISTED = 256
"""Snapshots, and bitmaps, that ``info`` lists; the count of all stands beside a longer list."""
MAX_NAME = 256


def image_info(reader: Qcow2Reader) -> ImageInfo:
    """What ``qemu-img info`` says of the image itself; no other file is opened."""
    header = reader.header
    listed = [_snapshot(one) for one in islice(snapshots(reader.source, header), MAX_LISTED)]
    return ImageInfo(
        format="qcow2",
        virtual_size=header.fields.size,
        cluster_size=header.cluster_size,
        backing_filename=header.backing_name,
        backing_format=header.backing_format,
        dirty=header.dirty,
        specific=_specific(reader),
        snapshots=listed,
    )


def _specific(reader: Qcow2Reader) -> dict[str, object]:
    header = reader.header
    fields = header.fields
    compression = "zstd" if fields.compression_type == structs.COMPRESSION_ZSTD else "zlib"
    facts: dict[str, object] = {
        "compat": "0.10" if fields.version == 2 else "1.1",
        "compression-type": compression,
        "refcount-bits": 1 << fields.refcount_order,
    }
    if fields.version == 3:
        facts["lazy-refcounts"] = bool(fields.compatible_features & structs.COMPAT_LAZY_REFCOUNTS)
        facts["corrupt"] = header.corrupt
        facts["extended-l2"] = header.extended_l2
        if header.bitmaps is not None:
            found = bitmaps(reader.source, header.bitmaps)
            facts["bitmaps"] = [_bitmap(one) for one in islice(found, MAX_LISTED)]
            if header.bitmaps.count > MAX_LISTED:
                facts["bitmaps-total"] = header.bitmaps.count
    if header.external_data:
        if header.data_file is not None:
            facts["data-file"] = header.data_file
        facts["data-file-raw"] = bool(fields.autoclear_features & structs.AUTOCLEAR_RAW_EXTERNAL)
    if header.encryption is not None:
        facts["encrypt"] = {"format": header.encryption}
    if fields.nb_snapshots > MAX_LISTED:
        facts["snapshots-total"] = fields.nb_snapshots
    return facts


def _bitmap(one: Bitmap) -> dict[str, object]:
    names = {BITMAP_IN_USE: "in-use", BITMAP_AUTO: "auto"}
    flags = [name for bit, name in names.items() if one.flags & bit]
    return {"name": one.name[:MAX_NAME], "granularity": one.granularity, "flags": flags}


def _snapshot(one: Snapshot) -> dict[str, object]:
    facts: dict[str, object] = {
        "id": one.id[:MAX_NAME],
        "name": one.name[:MAX_NAME],
        "vm-state-size": one.vm_state_size,
        "date-sec": one.seconds,
        "date-nsec": one.nanoseconds,
        "vm-clock-sec": one.clock_ns // 1_000_000_000,
        "vm-clock-nsec": one.clock_ns % 1_000_000_000,
    }
    if one.icount is not None and one.icount != (1 << 64) - 1:
        facts["icount"] = one.icount
    return facts
