"""Checksums of VHD and VHDX made right again, so that what they guard is tried, too.

Offsets as in Microsoft's "Virtual Hard Disk Image Format Specification" and [MS-VHDX] 2.2, 2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Change = tuple[int, bytes]
_KIB = 1024
_VHDX_PARTS = (
    (64 * _KIB, b"head", 4 * _KIB),
    (128 * _KIB, b"head", 4 * _KIB),
    (192 * _KIB, b"regi", 64 * _KIB),
    (256 * _KIB, b"regi", 64 * _KIB),
)
_MAX_LOG = 2048 * _KIB


def corrected(format_name: str, data: bytearray) -> Iterator[Change]:
    """The changes that make all checksums of the image right."""
    found = _CHECKSUMS.get(format_name)
    if found is not None:
        yield from found(data)


def _vhd(data: bytearray) -> Iterator[Change]:
    places = [(0, 512, 64), (len(data) - 512, 512, 64), (len(data) - 511, 511, 64)]
    header = int.from_bytes(data[16:24], "big")
    places.append((header if header < len(data) else 512, 1024, 36))
    for at, length, field in places:
        if at >= 0 and bytes(data[at : at + 8]) in (b"conectix", b"cxsparse"):
            summed = sum(data[at : at + length]) - sum(data[at + field : at + field + 4])
            yield at + field, (~summed & 0xFFFF_FFFF).to_bytes(4, "big")


def _vhdx(data: bytearray) -> Iterator[Change]:
    for at, magic, length in _VHDX_PARTS:
        if data[at : at + 4] == magic and len(data) >= at + length:
            yield at + 4, _crc(data, at, length)
    start = int.from_bytes(data[64 * _KIB + 72 : 64 * _KIB + 80], "little")
    size = int.from_bytes(data[64 * _KIB + 68 : 64 * _KIB + 72], "little")
    for at in range(start, min(start + min(size, _MAX_LOG), len(data) - 64), 4 * _KIB):
        if data[at : at + 4] == b"loge":
            length = int.from_bytes(data[at + 8 : at + 12], "little")
            if length % (4 * _KIB) == 0 and at + length <= len(data):
                yield at + 4, _crc(data, at, length)


def _crc(data: bytearray, at: int, length: int) -> bytes:
    import google_crc32c

    whole = bytes(data[at : at + 4]) + bytes(4) + bytes(data[at + 8 : at + length])
    return int(google_crc32c.value(whole)).to_bytes(4, "little")


_CHECKSUMS: dict[str, Callable[[bytearray], Iterator[Change]]] = {"vhd": _vhd, "vhdx": _vhdx}
