"""What a differencing disk calls its parent. The names are data; ``backing`` decides what opens.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header Format"
(parent locators). Profile: specs/vhd.md, VHD-REF.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.formats.vhd.structs import Header, Locator
from vmpack.source import ByteSource

RELATIVE = b"W2ru"
"""A Windows path relative to the child, UTF-16 (little-endian)."""
ABSOLUTE = b"W2ku"
"""An absolute Windows path, UTF-16 (little-endian)."""
MAC_URL = b"MacX"
"""A file URL, UTF-8."""
MAX_NAME = 1 << 16
"""Bytes of a name that are read."""
_ENCODINGS = {RELATIVE: "utf-16-le", ABSOLUTE: "utf-16-le", MAC_URL: "utf-8"}


def locator_fault(source: ByteSource, locator: Locator) -> str | None:
    """What is wrong with the place of a locator's name; ``None``: nothing."""
    if locator.data_length > MAX_NAME:
        return f"has a name of {locator.data_length} bytes"
    if locator.data_offset + locator.data_length > source.size:
        return "has its name behind the file's end"
    return None


def parent_names(source: ByteSource, header: Header) -> list[str]:
    """Names of the parent in the order to try; locators that cannot be read are left out."""
    return list(dict.fromkeys(_names(source, header)))


def _names(source: ByteSource, header: Header) -> Iterator[str]:
    for platform, encoding in _ENCODINGS.items():
        for locator in header.locators:
            if locator.platform != platform or locator_fault(source, locator) is not None:
                continue
            raw = source.pread(locator.data_offset, locator.data_length)
            name = _text(raw, encoding)
            if name:
                yield name
    name = _text(header.parent_name, "utf-16-be")
    if name:
        yield name


def _text(raw: bytes, encoding: str) -> str:
    return raw.decode(encoding, "replace").split("\0", 1)[0]
