"""A NoCloud seed: the CD-ROM from which cloud-init takes its user data. The same bytes each time.

Source: cloud-init, "NoCloud" data source: a file system labelled ``cidata`` with ``user-data`` and
``meta-data``. Profile: ``specs/seed-v1.md``.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from typing import TYPE_CHECKING

from vmpack.errors import RefusedError, UsageError
from vmpack.machine.seed_image import DISK_ID, LABEL, seed_iso
from vmpack.source import ByteSource

__all__ = ["DISK_ID", "LABEL", "MAX_USER_DATA", "make_image", "meta_data", "seed_image"]

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

MAX_USER_DATA = 1 << 20
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
    return seed_iso({"meta-data": meta, "user-data": user_data})
