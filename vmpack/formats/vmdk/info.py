"""The facts of a VMDK, in qemu-img's names, bounded whatever the image claims."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from vmpack.formats.base import ImageInfo
from vmpack.formats.vmdk.cowd import CowdExtent

if TYPE_CHECKING:
    from vmpack.formats.vmdk.reader import VmdkReader
    from vmpack.formats.vmdk.tables import TableExtent

MAX_LISTED = 256
"""Extents that ``info`` lists; the count of all stands beside a longer list."""


def image_info(reader: VmdkReader) -> ImageInfo:
    """What ``qemu-img info`` says of the image, as far as its one file tells."""
    descriptor = reader.descriptor
    opened = [one for one in reader.extent_readers() if one is not None]
    sizes = {one.cluster_size for one in opened}
    hint = None if descriptor is None else descriptor.parent_hint
    return ImageInfo(
        format="vmdk",
        virtual_size=reader.virtual_size,
        cluster_size=sizes.pop() if len(sizes) == 1 else None,
        backing_filename=hint,
        backing_format=None if hint is None else "vmdk",
        dirty=any(one.dirty for one in opened),
        specific=_specific(reader),
    )


def _specific(reader: VmdkReader) -> dict[str, object]:
    descriptor = reader.descriptor
    if descriptor is None:
        (extent,) = [one for one in reader.extent_readers() if one is not None]
        kind = "vmfsSparse" if isinstance(extent, CowdExtent) else "seSparse"
        return {"create-type": kind, "extents": [_single(extent)]}
    facts: dict[str, object] = {
        "cid": descriptor.cid,
        "parent-cid": descriptor.parent_cid,
        "create-type": descriptor.create_type,
    }
    readers = reader.extent_readers()
    if len(descriptor.extents) == 1 and readers and readers[0] and not reader.part_sources:
        facts["extents"] = [_single(readers[0])]
        return facts | _unknown(descriptor.unknown)
    folder = os.path.dirname(reader.path)
    listed = []
    for number, line in enumerate(islice(descriptor.extents, MAX_LISTED)):
        one: dict[str, object] = {"virtual-size": line.size, "format": line.kind}
        if line.name is not None:
            one["filename"] = os.path.join(folder, line.name)
        opened = readers[number] if readers else None
        listed.append(one | _opened(opened))
    facts["extents"] = listed
    if len(descriptor.extents) > MAX_LISTED:
        facts["extents-total"] = len(descriptor.extents)
    return facts | _unknown(descriptor.unknown)


def _single(extent: TableExtent) -> dict[str, object]:
    """An extent that is the image's one file; QEMU leaves its format empty."""
    size: dict[str, object] = {"virtual-size": extent.virtual_size, "filename": extent.path}
    return {**size, "format": "", **_opened(extent)}


def _opened(extent: TableExtent | None) -> dict[str, object]:
    if extent is None:
        return {}
    facts: dict[str, object] = {"cluster-size": extent.cluster_size}
    return facts | ({"compressed": True} if extent.compressed else {})


def _unknown(entries: Mapping[str, str]) -> dict[str, object]:
    """The descriptor's header entries that vmpack does not know, by name."""
    names = [name[:MAX_LISTED] for name in islice(entries, MAX_LISTED)]
    return {"unknown-entries": names} if names else {}
