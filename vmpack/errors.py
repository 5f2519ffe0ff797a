"""The one error tree of vmpack: what went wrong, where, and what to do next.

Every class owns a stable ``kind`` (the ``kind`` of the JSON error document) and the exit code that
the command line ends with. Library code raises; only :mod:`vmpack.cli` exits.
"""

from __future__ import annotations

import os


class VmpackError(Exception):
    """Base of every error that vmpack raises on purpose.

    ``message`` says what is wrong; ``path``, ``offset`` (bytes from the start of that file) and
    ``field`` say where; ``clause`` names the clause of ``specs/`` that was violated; ``hint`` says
    what to do next.
    """

    kind = "failed"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        field: str | None = None,
        clause: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else os.fspath(path)
        self.offset = offset
        self.field = field
        self.clause = clause
        self.hint = hint

    def __str__(self) -> str:
        where = []
        if self.path is not None:
            where.append(self.path)
        if self.offset is not None:
            where.append(f"offset {self.offset}")
        if self.field is not None:
            where.append(self.field)
        return f"{', '.join(where)}: {self.message}" if where else self.message

    def as_dict(self) -> dict[str, object]:
        """The JSON error document's ``error`` object; absent facts are ``None``."""
        return {
            "kind": self.kind,
            "message": self.message,
            "path": self.path,
            "offset": self.offset,
            "field": self.field,
            "clause": self.clause,
            "hint": self.hint,
        }


class OperationError(VmpackError):
    """The operation failed for a reason outside the input: I/O, space, permissions."""

    kind = "failed"
    exit_code = 1


class OutputError(OperationError):
    """The output cannot be written (exists already, no space, not a place to write)."""

    kind = "output"


class InputError(OperationError):
    """The input cannot be read (absent, a folder, no permission, an I/O error)."""

    kind = "input"


class UsageError(VmpackError):
    """The command or call is wrong in itself, whatever the files hold."""

    kind = "usage"
    exit_code = 2


class RefusedError(VmpackError):
    """Input that vmpack will not take."""

    kind = "refused"
    exit_code = 4


class UnsupportedError(RefusedError):
    """Valid input that uses a feature vmpack does not have; the feature is named."""

    kind = "unsupported"


class UnsafeError(RefusedError):
    """Input that would make vmpack open, write or allocate what the caller did not ask for."""

    kind = "unsafe"


class DamagedError(VmpackError):
    """Input that breaks its own format: a checksum, a bound, a required value."""

    kind = "damaged"
    exit_code = 5


class DifferError(VmpackError):
    """Two contents that must be equal are not (read-back after a conversion, a digest)."""

    kind = "differs"


class InfrastructureError(VmpackError):
    """What the operation needs is missing on this host (no QEMU, no firmware)."""

    kind = "infrastructure"
    exit_code = 125


class QemuMissingError(InfrastructureError):
    """No QEMU that can run the machine."""

    kind = "qemu-missing"


class QemuDiedError(InfrastructureError):
    """QEMU ended or stopped answering where it should not have; its words are in the message."""

    kind = "qemu-died"


class FirmwareMissingError(InfrastructureError):
    """No firmware of the kind that the machine starts with."""

    kind = "firmware-missing"


class PinUnavailableError(InfrastructureError):
    """The QEMU lacks something that the machine's config pins: a type, a CPU, a device."""

    kind = "pin-unavailable"


class ZstdMissingError(InfrastructureError):
    """The QEMU was built without zstd, which a bundle's disks are compressed with."""

    kind = "zstd-missing"


class RemoteError(InfrastructureError):
    """Another machine cannot do its part: it is out of reach, lacks vmpack, or its disk is full."""

    kind = "remote"


class InterruptError(VmpackError):
    """The user interrupted the operation; nothing was left behind."""

    kind = "interrupted"
    exit_code = 130


def from_os_error(exc: OSError, *, path: str, writing: bool = False) -> VmpackError:
    """Turn an ``OSError`` about ``path`` into the matching error with a hint."""
    import errno

    reason = exc.strerror or str(exc)
    hints = {
        errno.ENOENT: "check the path",
        errno.EACCES: "check the permissions",
        errno.ENOSPC: "free some space, or write to another file system",
        errno.EFBIG: "raise the file-size limit (ulimit -f), or write to another file system",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.EDQUOT: "raise the disk quota, or write to another file system",
        errno.EISDIR: "name a file, not a folder",
    }
    hint = hints.get(exc.errno or 0)
    cls = OutputError if writing else InputError
    return cls(reason[:1].lower() + reason[1:], path=path, hint=hint)
