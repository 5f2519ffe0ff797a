"""The firmware layer: which code image starts the machine."""

from __future__ import annotations

import functools
import hashlib
import os

from vmpack.runner.options import Firmware, Qemu

__all__ = ["code_digest"]


def code_digest(qemu: Qemu, firmware: Firmware) -> str:
    """``sha256:`` of the code image; of QEMU's own SeaBIOS that cannot be found, its QEMU."""
    from vmpack.runner.firmware import seabios

    if firmware.code is not None:
        return "sha256:" + hashlib.sha256(firmware.code).hexdigest()
    path = firmware.code_path or seabios(qemu)
    if path is None:
        return "qemu:" + ".".join(map(str, qemu.version))
    status = os.stat(path)
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _digest_of(path: str, _mtime_ns: int, _size: int) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
