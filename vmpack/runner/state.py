"""What a machine changed, kept: in a folder (``--state``), or until it is saved (``--save``).

A folder belongs to one bundle, by its ``id``: an overlay over another bundle's disk would be noise.
It holds ``state.json``, ``ID.overlay.qcow2`` for each disk that is written, ``nvram.raw``
and ``tpm.state``. Profile: specs/state-v1.md.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from vmpack.bundle import Bundle
from vmpack.errors import (
    DamagedError,
    InputError,
    OutputError,
    RefusedError,
    VmpackError,
    from_os_error,
)
from vmpack.formats.qcow2.writer import Qcow2Writer
from vmpack.machine import canonical
from vmpack.output import Output
from vmpack.runner.scratch import Scratch, reopen
from vmpack.source import ByteSource

__all__ = ["Kept", "State"]

_RECORD = "state.json"
_NVRAM = "nvram.raw"
_TPM = "tpm.state"
_MAX_RECORD = 1 << 16
_MAX_NVRAM = 64 << 20


class Kept(Scratch):
    """Changes without a name, which can be read once the machine has stopped. Close it."""

    durable = True

    def __init__(self) -> None:
        self._overlays: dict[str, int] = {}
        self._nvram = -1
        self._tpm: bytes | None = None

    def overlay(self, disk_id: str, virtual_size: int) -> int:
        fd = super().overlay(disk_id, virtual_size)
        self._overlays[disk_id] = os.dup(fd)
        return fd

    def nvram(self, initial: bytes) -> int:
        fd = super().nvram(initial)
        self._nvram = os.dup(fd)
        return fd

    def overlays(self) -> dict[str, ByteSource]:
        """The overlays by disk id, to be read; the caller closes them."""
        return {disk_id: _source(fd, disk_id) for disk_id, fd in self._overlays.items()}

    def nvram_bytes(self) -> bytes | None:
        """The variable store as the machine left it, or ``None`` when it has none."""
        return None if self._nvram < 0 else _read(self._nvram)

    def keep_tpm_state(self, state: bytes) -> None:
        self._tpm = state

    def tpm_bytes(self) -> bytes | None:
        """The TPM's state as the machine left it, or ``None`` when it has none."""
        return self._tpm

    def close(self) -> None:
        """Give the changes up. Closing twice is harmless."""
        for fd in [*self._overlays.values(), *([self._nvram] if self._nvram >= 0 else [])]:
            os.close(fd)
        self._overlays = {}
        self._nvram = -1

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class State:
    """The folder of ``--state``. One run at a time holds it; use it as a context manager.

    Raises :class:`RefusedError` when the folder is another bundle's or in use,
    :class:`DamagedError` when its record cannot be read, :class:`OutputError` when it cannot be
    written.
    """

    durable = True

    def __init__(self, folder: str | os.PathLike[str], bundle: Bundle, *, create: bool = True):
        self.folder = Path(folder)
        self._disks = {disk.id: disk.virtual_size for disk in bundle.disks}
        if create:
            self._make(bundle)
        self._lock = self._take()
        try:
            self._check(bundle)
        except BaseException:
            self.close()
            raise

    def _make(self, bundle: Bundle) -> None:
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise OutputError(
                    "is no folder", path=self.folder, hint="name a new folder with --state"
                )
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if (self.folder / _RECORD).exists():
                return
            if any(self.folder.iterdir()):
                raise OutputError(
                    "is neither empty nor a machine's state",
                    path=self.folder,
                    hint="name a new folder with --state",
                )
        except OSError as exc:
            raise from_os_error(exc, path=os.fspath(self.folder), writing=True) from exc
        record = {
            "format": "vmpack-state",
            "version": 1,
            "bundle": bundle.id,
            "machine-id": bundle.machine_id,
        }
        with Output(self.folder / _RECORD, mode=0o600) as out:
            os.write(out.fd, canonical.dumps(record))
            out.commit()

    def _take(self) -> int:
        path = os.fspath(self.folder / _RECORD)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InputError(
                "is no machine's state", path=self.folder, hint="name the folder of run --state"
            ) from None
        except OSError as exc:
            raise from_os_error(exc, path=path) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise RefusedError(
                "is in use by another run", path=self.folder, hint="wait until it has ended"
            ) from None
        return fd

    def _check(self, bundle: Bundle) -> None:
        raw = os.pread(self._lock, _MAX_RECORD, 0)
        record = canonical.loads(raw, what="state record")
        if not isinstance(record, dict) or record.get("format") != "vmpack-state":
            raise DamagedError("is no state record", path=self.folder / _RECORD)
        if record.get("version") != 1:
            raise RefusedError(
                f"state version {record.get('version')!r}",
                path=self.folder,
                hint="a newer version of vmpack may read it",
            )
        if record.get("bundle") != bundle.id:
            raise RefusedError(
                f"is the state of another bundle ({record.get('bundle')})",
                path=self.folder,
                hint=f"{bundle.path} is {bundle.id}: name another folder with --state",
            )

    def overlay(self, disk_id: str, virtual_size: int) -> int:
        path = self.folder / f"{disk_id}.overlay.qcow2"
        if not path.exists():
            with Output(path, mode=0o600) as out:
                Qcow2Writer(out.fd, virtual_size=virtual_size, path=out.name).finish()
                out.commit()
        return self._open(path)

    def nvram(self, initial: bytes) -> int:
        path = self.folder / _NVRAM
        if not path.exists():
            with Output(path, mode=0o600) as out:
                os.write(out.fd, initial)
                out.commit()
        elif path.stat().st_size != len(initial):
            self._refit(path, initial)
        return self._open(path)

    def _refit(self, path: Path, initial: bytes) -> None:
        """The folder's last run was under firmware that keeps its variables in another size."""
        from vmpack.machine.nvram import refit

        try:
            fitted = refit(_read_file(path) or b"", initial)
        except VmpackError as exc:
            raise type(exc)(exc.message, path=path, clause=exc.clause, hint=exc.hint) from exc
        with Output(path, mode=0o600, force=True) as out:
            os.write(out.fd, fitted)
            out.commit()

    def tpm_state(self, initial: bytes | None) -> bytes | None:
        kept = self.tpm_bytes()
        return initial if kept is None else kept

    def keep_tpm_state(self, state: bytes) -> None:
        with Output(self.folder / _TPM, mode=0o600, force=True) as out:
            os.write(out.fd, state)
            out.commit()

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            raise from_os_error(exc, path=os.fspath(path), writing=True) from exc

    def overlays(self) -> dict[str, ByteSource]:
        """The overlays that there are, by disk id, to be read; the caller closes them."""
        found = {disk_id: self.folder / f"{disk_id}.overlay.qcow2" for disk_id in self._disks}
        return {disk_id: ByteSource.open(path) for disk_id, path in found.items() if path.exists()}

    def nvram_bytes(self) -> bytes | None:
        """The variable store as the machine left it, or ``None`` when it has none."""
        return _read_file(self.folder / _NVRAM)

    def tpm_bytes(self) -> bytes | None:
        """The TPM's state as the machine left it, or ``None`` when it has none."""
        return _read_file(self.folder / _TPM)

    def close(self) -> None:
        """Let another run have the folder. Closing twice is harmless."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> State:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _source(fd: int, disk_id: str) -> ByteSource:
    copy = reopen(fd, os.O_RDONLY)
    size = os.lseek(copy, 0, os.SEEK_END)
    return ByteSource(copy, path=f"overlay of {disk_id}", size=size, owns_fd=True)


def _read_file(path: Path) -> bytes | None:
    if not path.exists():
        return None
    with ByteSource.open(path) as source:
        return source.pread(0, min(source.size, _MAX_NVRAM))


def _read(fd: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, _MAX_NVRAM), 0)
