"""A NoCloud seed's image: ISO 9660 with the same bytes each time.

Joliet and Rock Ridge names, every date in it zeroed (ECMA-119, 8.4.26 and 9.1.5; Rock Ridge's time
stamps, RRIP 4.1.6). Profile: ``specs/seed-v1.md``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

__all__ = ["DISK_ID", "LABEL", "MAX_SEED", "read_seed", "seed_iso"]

LABEL = "cidata"
DISK_ID = "seed"
"""The disk of a bundle that holds the seed it was packed with."""

MAX_SEED = 4 << 20
"""Bytes of a seed that is read back: user data has at most 1 MiB."""

_SECTOR = 2048
_DATE = b"0" * 16 + b"\0"
"""A volume descriptor's "not specified"."""


def seed_iso(files: Mapping[str, bytes]) -> bytes:
    """The image of ``meta-data``, ``user-data`` and what else there is, in that order."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for stem, data in files.items():
        iso.add_fp(
            io.BytesIO(data),
            len(data),
            f"/{stem.upper().replace('-', '_')}.;1",
            rr_name=stem,
            joliet_path=f"/{stem}",
        )
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    image = bytearray(out.getvalue())
    _fix_dates(image)
    return bytes(image)


def read_seed(image: bytes) -> dict[str, bytes] | None:
    """The files of a seed by their names; ``None`` for what is none, or has folders."""
    import struct

    import pycdlib
    from pycdlib.pycdlibexception import PyCdlibException

    iso = pycdlib.PyCdlib()
    files: dict[str, bytes] = {}
    try:
        iso.open_fp(io.BytesIO(image))
        for child in iso.list_children(rr_path="/"):
            if child.is_dot() or child.is_dotdot():
                continue
            name = child.rock_ridge.name().decode("ascii")
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, rr_path=f"/{name}")
            files[name] = out.getvalue()
        iso.close()
    except (PyCdlibException, struct.error, ValueError, IndexError, AttributeError, KeyError):
        return None
    return files if {"meta-data", "user-data"} <= set(files) else None


def _fix_dates(image: bytearray) -> None:
    """Set every date of an image with one folder: in volume descriptors, records and stamps."""
    for at in range(16 * _SECTOR, len(image), _SECTOR):
        kind = image[at]
        if image[at + 1 : at + 6] != b"CD001" or kind == 255:
            return
        if kind not in (1, 2):
            continue
        for place in range(at + 813, at + 881, 17):
            image[place : place + 17] = _DATE
        root = at + 156
        image[root + 18 : root + 25] = bytes(7)
        extent = int.from_bytes(image[root + 2 : root + 6], "little") * _SECTOR
        size = int.from_bytes(image[root + 10 : root + 14], "little")
        for record, length in _records(image, extent, extent + size):
            image[record + 18 : record + 25] = bytes(7)
            name_length = image[record + 32]
            _fix_stamps(image, record + 33 + name_length + (1 - name_length % 2), record + length)


def _records(image: bytearray, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the folder's records; none crosses a sector."""
    while at < end:
        length = image[at]
        if length:
            yield at, length
            at += length
        else:
            at += _SECTOR - at % _SECTOR


def _fix_stamps(image: bytearray, at: int, end: int) -> None:
    """Rock Ridge's time stamps in a record's system use area: after 5 bytes, 7 for each."""
    while at + 4 <= end and image[at + 2] >= 4:
        length = image[at + 2]
        if image[at : at + 2] == b"TF":
            image[at + 5 : at + length] = bytes(length - 5)
        at += length
