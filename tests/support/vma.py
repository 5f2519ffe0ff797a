"""VMA archives, written from the format's description and from nothing of vmpack's."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CLUSTER = 65536
BLOCK = 4096
UUID = bytes(range(16))
HEADER = struct.Struct(">4sI16sq16sIII1984x256I256I4x")
DEVICE = struct.Struct(">IIQQQ")
EXTENT = struct.Struct(">4sHH16s16s59Q")


@dataclass
class Vma:
    """An archive to be written; what a test changes, it changes before :meth:`build`."""

    configs: Mapping[str, bytes]
    devices: Mapping[str, bytes]
    version: int = 1
    shuffle: int | None = None
    """Seed: clusters in any order, devices mixed, as a guest that writes leaves them."""
    leave_out: Sequence[tuple[int, int]] = ()
    """``(device, cluster)`` that the archive does not have."""
    uuid_of_extents: bytes = UUID
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes to claim in place of the devices' own."""
    extra: Sequence[tuple[int, int, bytes]] = ()
    """``(device, cluster, content)`` to add at the end."""
    zero_names: bool = True

    def build(self) -> bytes:
        """The archive's bytes."""
        return self.header() + b"".join(extents(self.clusters(), self.uuid_of_extents))

    def clusters(self) -> list[tuple[int, int, bytes]]:
        """``(device, cluster, content)`` in the order of the archive."""
        found = []
        for number, content in enumerate(self.devices.values(), 1):
            for index in range(-(-len(content) // CLUSTER)):
                piece = content[index * CLUSTER : (index + 1) * CLUSTER]
                found.append((number, index, piece.ljust(CLUSTER, b"\0")))
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(found)
        return [one for one in found if one[:2] not in self.leave_out] + list(self.extra)

    def header(self) -> bytes:
        """The header with its blob buffer."""
        blobs = bytearray(1)

        def blob(data: bytes) -> int:
            place = len(blobs)
            blobs.extend(struct.pack("<H", len(data)) + data)
            return place

        end = b"\0" if self.zero_names else b""
        names = [blob(name.encode() + end) for name in self.configs]
        data = [blob(content) for content in self.configs.values()]
        table = [(0, 0)] * 256
        for number, (name, content) in enumerate(self.devices.items(), 1):
            table[number] = blob(name.encode() + end), self.sizes.get(name, len(content))
        size = HEADER.size + 256 * DEVICE.size
        total = -(-(size + len(blobs)) // 512) * 512
        head = bytearray(
            HEADER.pack(
                b"VMA\0",
                self.version,
                UUID,
                1_700_000_000,
                bytes(16),
                size,
                len(blobs),
                total,
                *(names + [0] * 256)[:256],
                *(data + [0] * 256)[:256],
            )
        )
        head += b"".join(DEVICE.pack(name, 0, size, 0, 0) for name, size in table)
        return signed((bytes(head) + bytes(blobs)).ljust(total, b"\0"))


def signed(header: bytes) -> bytes:
    """The header with the right MD5."""
    plain = header[:32] + bytes(16) + header[48:]
    return header[:32] + hashlib.md5(plain).digest() + header[48:]


def signed_extent(extent: bytes) -> bytes:
    """The extent with the right MD5 in its header."""
    plain = extent[:24] + bytes(16) + extent[40:512]
    return extent[:24] + hashlib.md5(plain).digest() + extent[40:]


def extents(clusters: Sequence[tuple[int, int, bytes]], uuid: bytes = UUID) -> list[bytes]:
    """The clusters in extents of 59."""
    found = []
    for start in range(0, len(clusters), 59):
        infos, body = [], []
        for device, index, content in clusters[start : start + 59]:
            mask = 0
            for bit in range(16):
                block = content[bit * BLOCK : (bit + 1) * BLOCK]
                if any(block):
                    mask |= 1 << bit
                    body.append(block)
            infos.append(mask << 48 | device << 32 | index)
        infos += [0] * (59 - len(infos))
        head = EXTENT.pack(b"VMAE", 0, len(body), uuid, bytes(16), *infos)
        found.append(signed_extent(head + b"".join(body)))
    return found
