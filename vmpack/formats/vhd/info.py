"""The facts of a VHD, bounded whatever the image claims. Profile: specs/vhd.md, VHD-INFO."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from vmpack.formats.base import ImageInfo
from vmpack.formats.vhd.footer import Found, creator_text
from vmpack.formats.vhd.parent import parent_names
from vmpack.formats.vhd.structs import EPOCH, TYPE_NAMES

if TYPE_CHECKING:
    from vmpack.formats.vhd.reader import FixedReader, SparseReader

MAX_SHOWN = 1024
"""Characters of a parent's name."""


def fixed_info(reader: FixedReader) -> ImageInfo:
    """What is known of a fixed disk."""
    return ImageInfo(
        format="vpc",
        virtual_size=reader.virtual_size,
        specific=_specific(reader.found, reader.size_from),
    )


def sparse_info(reader: SparseReader) -> ImageInfo:
    """What is known of a dynamic or differencing disk; no other file is opened."""
    specific = _specific(reader.found, reader.size_from)
    header = reader.header
    names = parent_names(reader.source, header) if reader.differencing else []
    if reader.differencing:
        specific["parent-uuid"] = str(uuid.UUID(bytes=header.parent_unique_id))
        specific["parent-timestamp"] = EPOCH + header.parent_timestamp
        specific["parent-names"] = [name[:MAX_SHOWN] for name in names]
    return ImageInfo(
        format="vpc",
        virtual_size=reader.virtual_size,
        cluster_size=header.block_size,
        backing_filename=names[0][:MAX_SHOWN] if names else None,
        backing_format="vpc" if names else None,
        specific=specific,
    )


def _specific(found: Found, size_from: str) -> dict[str, object]:
    footer = found.footer
    facts: dict[str, object] = {
        "subformat": TYPE_NAMES[footer.disk_type],
        "uuid": footer.uuid,
        "creator": creator_text(footer.creator),
        "creator-version": f"{footer.creator_version >> 16}.{footer.creator_version & 0xFFFF}",
        "creator-os": creator_text(footer.creator_os),
        "timestamp": EPOCH + footer.timestamp,
        "size-from": size_from,
        "current-size": footer.current_size,
        "original-size": footer.original_size,
        "geometry": {
            "cylinders": footer.cylinders,
            "heads": footer.heads,
            "sectors": footer.sectors,
        },
        "temporary": bool(footer.features & 1),
        "saved-state": bool(footer.saved_state),
        "footer": "end" if found.problem is None else "copy",
    }
    if found.problem is not None:
        facts["footer-problem"] = found.problem.message
    return facts
