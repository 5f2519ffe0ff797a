"""A NoCloud seed: the CD-ROM from which cloud-init takes its user data. The same bytes each time.

Source: cloud-init, "NoCloud" data source: a file system labelled ``cidata`` with ``user-data`` and
``meta-data``. The image is ISO 9660 with Joliet and Rock Ridge names, every date in it zeroed
(ECMA-119, 8.4.26 and 9.1.5; Rock Ridge's time stamps, RRIP 4.1.6). Profile: ``specs/seed-v1.md``.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.errors import RefusedError, UsageError
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

LABEL = "cidata"
DISK_ID = "seed"
MAX_USER_DATA = 1 << 20
_SECTOR = 2048
_STARTS = (
    "#cloud-config",
    "#!",
    "#include",
    "#cloud-boothook",
    "#part-handler",
    "#upstart-job",
    "## template:",
    "content-type: multipart",
    "mime-version:",
)
"""First lines by which cloud-init knows what user data is."""
_NAMESPACE = uuid.UUID("6c1f0f0e-3a55-5b0e-9a3d-0d7b6a7d4c11")
_DATE = b"0" * 16 + b"\0"
"""A volume descriptor's "not specified"."""


def seed_image(path: str | os.PathLike[str], config: MachineConfig | None, name: str) -> bytes:
    """The seed with the user data in the file ``path``, for the machine ``name``.

    Raises :class:`UsageError` for what cloud-init would not know, :class:`RefusedError` for more
    than 1 MiB, and :class:`InputError` when it cannot be read.
    """
    with ByteSource.open(path) as source:
        if source.size > MAX_USER_DATA:
            raise RefusedError(
                f"user data of {source.size} bytes, at most {MAX_USER_DATA} are taken",
                path=source.path,
                clause="SEED-DATA-1",
            )
        user_data = source.pread(0, source.size)
    _require_known(user_data, os.fspath(path))
    return make_image(user_data, meta_data(user_data, config, name))


def meta_data(user_data: bytes, config: MachineConfig | None, name: str) -> bytes:
    """``instance-id`` and ``local-hostname``: another machine or other user data, another id."""
    own = config.uuid if config is not None and config.uuid is not None else ""
    text = f"{own}\0{name}\0{hashlib.sha256(user_data).hexdigest()}"
    # What a host's name may not hold becomes a dash (RFC 1123).
    host = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:63].rstrip("-") or "vm"
    found = f"instance-id: {uuid.uuid5(_NAMESPACE, text)}\nlocal-hostname: {host}\n"
    return found.encode("ascii")


def _require_known(user_data: bytes, path: str) -> None:
    first = user_data[:200].decode("utf-8", "replace").lstrip("\ufeff").lower()
    if user_data[:2] == b"\x1f\x8b" or first.startswith(_STARTS):
        return
    raise UsageError(
        "its first line is none by which cloud-init knows user data",
        path=path,
        field="--cloud-init",
        clause="SEED-DATA-2",
        hint="begin it with #cloud-config (YAML) or #! (a script)",
    )


def make_image(user_data: bytes, meta: bytes) -> bytes:
    """The ISO image of the two files."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for stem, data in (("meta-data", meta), ("user-data", user_data)):
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
