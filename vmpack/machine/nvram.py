"""UEFI variable stores (NVRAM): read, and fitted to firmware that keeps them in another size.

OVMF is built with flash of 2 MiB (variables in 128 KiB) or of 4 MiB (528 KiB), and code of one
build does not find its variables in a store of the other: writes are lost, boot entries with them.
Flash is erased to ones, so that a bit that is *cleared* is one that is set. Structures and sources:
:mod:`vmpack.machine.nvram_structs`. Profile: ``specs/nvram.md``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.machine.nvram_structs import STORE, VARIABLE, VOLUME, WORKSPACE, WRITE, decode

__all__ = ["Variable", "VariableStore", "parse", "refit", "to_raw"]

MAX_SIZE = 8 << 20
"""QEMU maps no more flash than this below 4 GiB."""

VOLUME_GUID = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
STORE_GUID = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
FORMATTED, HEALTHY = 0x5A, 0xFE
START = 0x55AA
ADDED, IN_TRANSITION = 0x3F, 0x3E
"""Live; live until its successor is complete."""
WORKSPACE_GUID = UUID("9e58292b-7c68-497d-a0ce-6500fd9f1b95").bytes_le
RECORD_SIZE = 40
MAX_VARIABLES = 16_384
"""The largest store of OVMF has room for half of them, were they all empty."""
MAX_WRITES = 4096
ALLOCATED, COMPLETE = 1, 4
_VOLUME, _STORE, _VARIABLE = VOLUME.sizeof(), STORE.sizeof(), VARIABLE.sizeof()
_ERASED = b"\xff"


@dataclass(frozen=True, slots=True)
class Variable:
    """One live variable. ``raw`` is its header, name and data as stored, without padding."""

    vendor: UUID
    name: str
    attributes: int
    data: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class VariableStore:
    """A firmware volume that holds variables."""

    length: int
    """Bytes of the volume: variables, log, and the space for interrupted writes."""
    first: int
    """Offset of the first variable, from the start of the volume."""
    end: int
    """Offset at which the room for variables ends."""
    variables: tuple[Variable, ...]
    interrupted: bool
    """The guest was stopped while the firmware rewrote the store."""


def to_raw(image: bytes) -> bytes:
    """The flash's bytes: ``image`` itself, or what a qcow2 image of it holds.

    Raises what reading qcow2 raises, and :class:`DamagedError` for more than 8 MiB.
    """
    if image[:4] == b"QFI\xfb":
        image = _read_qcow2(image)
    if len(image) > MAX_SIZE:
        raise DamagedError(
            f"NVRAM of {len(image)} bytes; flash has at most {MAX_SIZE}", clause="NVR-RAW-2"
        )
    return image


def _read_qcow2(image: bytes) -> bytes:
    import os

    from vmpack.formats.base import OpenOptions
    from vmpack.formats.qcow2.reader import Qcow2Reader
    from vmpack.source import ByteSource

    fd = os.memfd_create("vmpack-nvram", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(image)
        source = ByteSource(fd, path="NVRAM", size=len(image))
        reader = Qcow2Reader(source, OpenOptions())
        if reader.virtual_size > MAX_SIZE:
            return bytes(MAX_SIZE + 1)
        return reader.read(0, reader.virtual_size)
    finally:
        os.close(fd)


def parse(raw: bytes) -> VariableStore:
    """The store at the start of ``raw``.

    Raises :class:`DamagedError` when its structure is broken, and :class:`UnsupportedError` when
    it is no store of authenticated variables, which every OVMF with or without Secure Boot keeps.
    """
    length, header = _volume(raw)
    if len(raw) < header + _STORE:
        raise _damaged("cut short", header, "NVR-STORE-1")
    store = decode(STORE, raw, header)
    size: int = store.size
    if store.guid != STORE_GUID:
        raise UnsupportedError(
            f"the variable store is of another kind: {UUID(bytes_le=store.guid)}",
            offset=header,
            clause="NVR-STORE-1",
        )
    if (store.format, store.state) != (FORMATTED, HEALTHY):
        raise _damaged("the variable store is not formatted", header + 20, "NVR-STORE-2")
    end = header + size
    if size < _STORE or end > length:
        raise _damaged(f"a variable store of {size} bytes", header + 16, "NVR-STORE-3")
    first = header + _STORE
    return VariableStore(
        length=length,
        first=first,
        end=end,
        variables=tuple(_variables(raw, first, end)),
        interrupted=_interrupted(raw, end, length),
    )


def _volume(raw: bytes) -> tuple[int, int]:
    """Length of the firmware volume and of its header."""
    if len(raw) < _VOLUME:
        raise _damaged(f"{len(raw)} bytes are no NVRAM", 0, "NVR-VOL-1")
    volume = decode(VOLUME, raw)
    length: int = volume.length
    header: int = volume.header_length
    if volume.signature != b"_FVH" or volume.guid != VOLUME_GUID:
        raise UnsupportedError("no UEFI variables in it", offset=0, clause="NVR-VOL-1")
    if not _VOLUME <= header <= length <= len(raw) or header % 2:
        raise _damaged(f"a volume of {length} bytes", 32, "NVR-VOL-2")
    if sum(struct.unpack_from(f"<{header // 2}H", raw)) & 0xFFFF:
        raise _damaged("the volume's header has a wrong checksum", 50, "NVR-VOL-3")
    return length, header


def _variables(raw: bytes, first: int, end: int) -> list[Variable]:
    """The live ones, in order; of two under one name the complete one."""
    live: dict[tuple[bytes, bytes], tuple[int, Variable]] = {}
    offset = first
    found = 0
    while offset + _VARIABLE <= end:
        head = decode(VARIABLE, raw, offset)
        if head.start != START:
            break
        found += 1
        if found > MAX_VARIABLES:
            raise _damaged(f"more than {MAX_VARIABLES} variables", offset, "NVR-VAR-3")
        name_size, data_size = head.name_size, head.data_size
        if head.state == 0xFF or 0xFFFFFFFF in (name_size, data_size):
            # Its header was never completed: nothing follows it.
            name_size = data_size = 0
        total = _VARIABLE + name_size + data_size
        if offset + total > end:
            raise _damaged(f"a variable of {total} bytes", offset, "NVR-VAR-2")
        if head.state in (ADDED, IN_TRANSITION) and name_size:
            data = offset + _VARIABLE + name_size
            name = raw[offset + _VARIABLE : data]
            key = (head.vendor, name)
            one = Variable(
                vendor=UUID(bytes_le=head.vendor),
                name=name.decode("utf-16-le", "replace").rstrip("\0"),
                attributes=head.attributes,
                data=raw[data : offset + total],
                raw=raw[offset : offset + total],
            )
            if key not in live or head.state == ADDED:
                live[key] = (head.state, one)
        offset += -(-total // 4) * 4
    return [one for _, one in live.values()]


def _interrupted(raw: bytes, end: int, length: int) -> bool:
    """Whether the firmware was writing through its spare space, and had not finished."""
    at = raw.find(WORKSPACE_GUID, end, length)
    if at < 0 or at + WORKSPACE.sizeof() > length:
        return False
    offset = at + WORKSPACE.sizeof()
    limit = min(offset + decode(WORKSPACE, raw, at).queue_size, length)
    for _ in range(MAX_WRITES):
        if offset + WRITE.sizeof() > limit:
            break
        write = decode(WRITE, raw, offset)
        if write.flags & ALLOCATED:
            return False
        if write.flags & COMPLETE:
            return True
        size = WRITE.sizeof() + write.records * (RECORD_SIZE + write.private_size)
        if size > limit - offset:
            return False
        offset += size
    return False


def refit(nvram: bytes, template: bytes) -> bytes:
    """``nvram`` for the firmware that ``template`` comes with: its variables in that layout.

    Unchanged when the layout is the same already. Both are raw. Raises what :func:`parse` raises,
    and :class:`UnsupportedError` when the variables have no room there or a write was interrupted.
    """
    if len(nvram) == len(template) and nvram[:_VOLUME] == template[:_VOLUME]:
        return nvram
    ours, host = parse(nvram), parse(template)
    if ours.length == host.length == len(template) and ours.end == host.end:
        return nvram[: host.length]
    if ours.interrupted:
        raise UnsupportedError(
            "the machine was stopped while its firmware rewrote the NVRAM",
            clause="NVR-FIT-3",
            hint="start it once where its own firmware is, and shut it down in order",
        )
    parts = [_stored(one) for one in ours.variables]
    room = host.end - host.first
    needed = sum(map(len, parts))
    if needed > room:
        raise UnsupportedError(
            f"the NVRAM's variables take {needed} bytes, this firmware keeps {room}",
            clause="NVR-FIT-2",
            hint="install OVMF's build for 4 MiB of flash (OVMF_CODE_4M.fd)",
        )
    body = b"".join(parts)
    erased = _ERASED * (room - len(body))
    return template[: host.first] + body + erased + template[host.end :]


def _stored(variable: Variable) -> bytes:
    """The variable as live, on a boundary of 4 bytes."""
    raw = bytearray(variable.raw)
    raw[2] = ADDED
    return bytes(raw) + _ERASED * (-len(raw) % 4)


def _damaged(message: str, offset: int, clause: str) -> VmpackError:
    return DamagedError(
        f"NVRAM: {message}",
        offset=offset,
        clause=clause,
        hint="without the blob nvram the machine starts with the firmware's defaults",
    )
