"""What a VMDK writer is asked for: its options, read and checked, and the identifiers they give.

Source: VMware Virtual Disk Format 5.0, "The Descriptor File"; options by qemu-img's names.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from vmpack.content_seed import ContentSeed
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions
from vmpack.formats.vmdk.layout import SECTOR

STREAM_OPTIMIZED = "streamOptimized"
MONOLITHIC_SPARSE = "monolithicSparse"
MONOLITHIC_FLAT = "monolithicFlat"
SPLIT_SPARSE = "twoGbMaxExtentSparse"
SPLIT_FLAT = "twoGbMaxExtentFlat"
SUBFORMATS = (
    MONOLITHIC_SPARSE,
    STREAM_OPTIMIZED,
    MONOLITHIC_FLAT,
    SPLIT_SPARSE,
    SPLIT_FLAT,
)
ADAPTERS = ("lsilogic", "buslogic", "ide", "legacyESX")
MAX_CAPACITY = (64 << 40) // SECTOR
"""Sectors: ESXi's disks end at 62 TiB."""
DEFAULT_HARDWARE = "4"
"""What every VMware product and QEMU takes; only ESX 3 and older look at it."""
DEFAULT_TOOLS = str((1 << 31) - 1)
"""A guest that looks after its own tools, as open-vmdk and QEMU write it."""
NO_CONTENT = 0xFFFF_FFFF
"""The CID that says "no parent": never an image's own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifiers of one image."""

    cid: int
    long_content_id: str
    """32 hexadecimal digits; the last eight are the CID's."""
    uuid: bytes
    """16 bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """The image that is asked for."""

    subformat: str
    capacity: int
    """Sectors."""
    virtual_size: int
    """Bytes, as the source has them."""
    adapter_type: str
    hardware_version: str
    tools_version: str
    cid: int | None
    uuid: bytes | None
    level: int | None
    name: str

    @property
    def flat(self) -> bool:
        return self.subformat in (MONOLITHIC_FLAT, SPLIT_FLAT)

    @property
    def split(self) -> bool:
        return self.subformat in (SPLIT_SPARSE, SPLIT_FLAT)

    @property
    def stem(self) -> str:
        """The image's base name without its suffix: what its extents are named after."""
        stem, suffix = os.path.splitext(self.name)
        return (stem if suffix.lower() == ".vmdk" else self.name) or "disk"

    @property
    def embedded_name(self) -> str:
        """What a descriptor inside the image calls it.

        Readers that look for a file of that name (libvmdk) find the image itself. A pipe has none.
        """
        return self.name if is_name(self.name) else "disk.vmdk"

    def new_seed(self) -> ContentSeed | None:
        """What the identifiers will derive from; ``None`` where the CID is given."""
        return ContentSeed(self.virtual_size) if self.cid is None else None

    def identity(self, seed: ContentSeed | None) -> Identity:
        """The image's identifiers: from its content, or all from the CID where that is given."""
        if self.cid is None:
            assert seed is not None
            cid, derive = seed.cid(), seed.derive
        else:
            cid = self.cid
            given = f"vmpack-vmdk-v1\0{cid:08x}\0{self.capacity}\0".encode()

            def derive(purpose: str, length: int = 32) -> bytes:
                return hashlib.sha256(given + purpose.encode()).digest()[:length]

        long_id = derive("vmdk longContentID", 12).hex() + f"{cid:08x}"
        return Identity(cid, long_id, self.uuid or _vmware_uuid(derive("vmdk uuid", 16)))


def is_name(name: str) -> bool:
    """Whether a descriptor can hold ``name`` as the name of a file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and name.isprintable() and '"' not in name


def _vmware_uuid(content: bytes) -> bytes:
    """A disk's UUID as VMware makes them: an NAA name (type 6) of VMware's own number space.

    The guest may see it as the disk's SCSI name. Source: SPC-4, "NAA IEEE Registered Extended".
    """
    return b"\x60\x00\xc2" + bytes([0x90 | content[3] & 0x0F]) + content[4:]


def read_request(options: CreateOptions) -> Request:
    """The options, checked. Raises :class:`UsageError`, and :class:`UnsupportedError` by size."""
    values = options.values
    subformat = _subformat(values, compressed=options.compressed)
    capacity = -(-options.virtual_size // SECTOR)
    if capacity > MAX_CAPACITY:
        raise UnsupportedError(
            f"a VMDK of {options.virtual_size} bytes; VMware's end at 62 TiB, vmpack's at 64 TiB",
            hint="choose -O qcow2",
        )
    if options.level is not None and subformat != STREAM_OPTIMIZED:
        raise UsageError(
            f"a level, but {subformat} is not compressed",
            field="level",
            hint="choose -o subformat=streamOptimized",
        )
    return Request(
        subformat=subformat,
        capacity=capacity,
        virtual_size=options.virtual_size,
        adapter_type=_choice(values, "adapter_type", ADAPTERS),
        hardware_version=_hardware(values),
        tools_version=_number(values, "toolsversion", DEFAULT_TOOLS, 1 << 32),
        cid=_cid(values.get("cid")),
        uuid=_uuid(values.get("uuid")),
        level=options.level,
        name=options.name,
    )


def _subformat(values: Mapping[str, str], *, compressed: bool) -> str:
    if compressed:
        values = {"subformat": STREAM_OPTIMIZED, **values}
    found = _choice(values, "subformat", SUBFORMATS)
    if compressed and found != STREAM_OPTIMIZED:
        raise UsageError(
            f"subformat {found} is not compressed",
            field="subformat",
            hint="drop -c, or choose -o subformat=streamOptimized",
        )
    return found


def _choice(values: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """The value of an option, in any case; the first choice by default."""
    text = values.get(name, choices[0])
    for choice in choices:
        if choice.lower() == text.lower():
            return choice
    raise UsageError(
        f"{name}: {text!r} is not one of {', '.join(choices)}", field=name, hint="see --help"
    )


def _hardware(values: Mapping[str, str]) -> str:
    old = values.get("compat6", "off")
    if old not in ("on", "off"):
        raise UsageError(f"compat6: {old!r} is not on or off", field="compat6", hint="see --help")
    if old == "on" and "hwversion" in values:
        raise UsageError(
            "compat6 stands for hwversion=6", field="compat6", hint="give one of the two"
        )
    return _number(values, "hwversion", "6" if old == "on" else DEFAULT_HARDWARE, 100)


def _number(values: Mapping[str, str], name: str, default: str, limit: int) -> str:
    text = values.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < limit):
        raise UsageError(
            f"{name}: {text!r} is not a number below {limit}", field=name, hint="see --help"
        )
    return str(int(text))


def _cid(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch("(0[xX])?[0-9a-fA-F]{1,8}", text):
        raise UsageError(
            f"cid: {text!r} is not a number of up to eight hexadecimal digits", field="cid"
        )
    value = int(text, 16)
    if value == NO_CONTENT:
        raise UsageError("cid: ffffffff means that there is no parent", field="cid")
    return value


def _uuid(text: str | None) -> bytes | None:
    """A UUID's bytes, of its usual form or VMware's (``60 00 c2 9d ...-... 7b``)."""
    if text is None:
        return None
    try:
        return uuid.UUID(text.replace(" ", "")).bytes
    except ValueError as exc:
        raise UsageError(
            f"uuid: {text!r} is not a UUID",
            field="uuid",
            hint="write 32 hexadecimal digits, with dashes or as VMware does",
        ) from exc
