"""Files of a running machine: without names, so that nothing is left whatever happens.

Disks' overlays are files of a folder for large temporary files; what is small is in memory.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Protocol

from vmpack.errors import OutputError, from_os_error
from vmpack.formats.qcow2.writer import Qcow2Writer

__all__ = ["Scratch", "Storage", "memory_file", "nameless_file", "reopen"]


class Storage(Protocol):
    """Where a machine's changes go. Each method gives a new descriptor, the caller's to close."""

    durable: bool
    """What is written outlives the run."""

    def overlay(self, disk_id: str, virtual_size: int) -> int:
        """A qcow2 image of that many bytes, without a backing file's name in its header."""

    def nvram(self, initial: bytes) -> int:
        """The variable store; ``initial`` where there is none yet."""

    def tpm_state(self, initial: bytes | None) -> bytes | None:
        """The TPM's state; ``initial`` where there is none yet, ``None`` for a new TPM."""

    def keep_tpm_state(self, state: bytes) -> None:
        """The TPM's state after the run."""


class Scratch:
    """Changes that are thrown away."""

    durable = False

    def overlay(self, disk_id: str, virtual_size: int) -> int:  # noqa: ARG002 - Storage's signature
        folder = temporary_folder()
        fd = nameless_file(folder)
        try:
            Qcow2Writer(fd, virtual_size=virtual_size, path=folder).finish()
        except OutputError as exc:
            os.close(fd)
            hint = "free some space, or name a folder with more in TMPDIR"
            raise OutputError(exc.message, path=folder, hint=hint) from exc
        except BaseException:
            os.close(fd)
            raise
        return fd

    def nvram(self, initial: bytes) -> int:
        return memory_file("vmpack-nvram", initial)

    def tpm_state(self, initial: bytes | None) -> bytes | None:
        return initial

    def keep_tpm_state(self, state: bytes) -> None:
        """It is thrown away."""


def temporary_folder() -> str:
    """``TMPDIR``, otherwise /var/tmp: /tmp is often in memory, and an overlay can be large."""
    if os.environ.get("TMPDIR"):
        return tempfile.gettempdir()
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - no name is made in it


def nameless_file(folder: str) -> int:
    """A file of ``folder`` that has no name, open for reading and writing.

    Raises :class:`OutputError` when there can be none.
    """
    try:
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
        fd, name = tempfile.mkstemp(prefix="vmpack-", dir=folder)
        os.unlink(name)
    except OSError as exc:
        raise from_os_error(exc, path=folder, writing=True) from exc
    return fd


def memory_file(name: str, content: bytes = b"") -> int:
    """A file in memory, open for reading and writing."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def reopen(fd: int, flags: int) -> int:
    """Another descriptor of the same file: QEMU takes one only if it is opened as it would."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
