"""Where results are written: whole, or not at all.

A regular file is written without a name (``O_TMPFILE``, or a locked hidden file where the file
system lacks that), synced, then given its name, and its folder synced: a crash at any moment leaves
the old file or the new one. A block device has no such step, so its head is zeroed first and
written last. Source: specs/vmpack-v1.md, VMP-WRITE-1 and VMP-WRITE-2.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress

from vmpack.errors import OutputError, UsageError, from_os_error
from vmpack.source import ByteSource

_PART = ".vmpack-part"
_PIECE = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Output:
    """An output under construction. Use as a context manager and :meth:`commit` at the end.

    ``fd`` is open for reading and writing. Leaving the block without a commit, for whatever
    reason, leaves a regular file's old state untouched.

    Raises :class:`OutputError` when ``path`` exists and ``force`` is not set, is one of
    ``inputs``, or is no place for a file (a folder, a pipe, a device that is no block device).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        inputs: Iterable[ByteSource] = (),
        mode: int = 0o666,
    ):
        self.name = os.fspath(path)
        self.path = os.path.realpath(self.name)
        self.force = force
        self.mode = mode
        self.device_size: int | None = None
        """Bytes of the block device; ``None`` for a regular file."""
        self.sync_seconds = 0.0
        """Time spent waiting for the disk, so that measurements can leave it out."""
        self._part: str | None = None
        self.fd = -1
        state = self._examine(inputs)
        try:
            if state is not None and stat.S_ISBLK(state.st_mode):
                self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
                self.device_size = os.lseek(self.fd, 0, os.SEEK_END)
            else:
                self._remove_stale_parts()
                self.fd = self._open_nameless()
        except OSError as exc:
            raise self._error(exc) from exc

    def _examine(self, inputs: Iterable[ByteSource]) -> os.stat_result | None:
        """The target's present state; raises when it may not be replaced."""
        if not self.name or self.name.endswith("/"):
            raise OutputError("names no file", path=self.name, hint="name a file to write")
        try:
            state = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._error(exc) from exc
        kind = state.st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            what = "a folder" if stat.S_ISDIR(kind) else "not a regular file or block device"
            raise OutputError(f"is {what}", path=self.name, hint="name a file to write")
        for source in inputs:
            other = os.fstat(source.fd)
            same_device = stat.S_ISBLK(kind) and other.st_rdev == state.st_rdev
            if (other.st_dev, other.st_ino) == (state.st_dev, state.st_ino) or (
                same_device and stat.S_ISBLK(other.st_mode)
            ):
                raise UsageError(
                    "input and output are the same file", path=self.name, hint="name another output"
                )
        if not self.force:
            what = "is a block device" if stat.S_ISBLK(kind) else "exists already"
            raise OutputError(what, path=self.name, hint="--force replaces it")
        return state

    def _open_nameless(self) -> int:
        folder = os.path.dirname(self.path)
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, self.mode)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        return self._open_part()

    def _open_part(self) -> int:
        while True:
            part = self._part_name()
            fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, self.mode)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._part = part
                return fd
            # Another run took it for a stale one before it was locked.
            os.close(fd)

    def _part_name(self) -> str:
        folder, prefix = self._part_prefix()
        return os.path.join(folder, f"{prefix}{os.urandom(4).hex()}{_PART}")

    def _part_prefix(self) -> tuple[str, str]:
        """Folder of the parts, and how their names begin: at most 202 of the 255 bytes allowed."""
        folder, base = os.path.split(os.fsencode(self.path))
        return os.fsdecode(folder), f".{os.fsdecode(base[:200])}."

    def _remove_stale_parts(self) -> None:
        """Remove what a killed run for this same output left; a running one holds a lock."""
        folder, prefix = self._part_prefix()
        for name in os.listdir(folder):
            middle = name[len(prefix) : -len(_PART)]
            if not (name.startswith(prefix) and name.endswith(_PART) and len(middle) == 8):
                continue
            try:
                # Not for writing: a bundle's parts are read-only. Not waiting: it may be a pipe.
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
                fd = os.open(os.path.join(folder, name), flags)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(os.path.join(folder, name))
            except OSError:
                pass
            finally:
                os.close(fd)

    def begin_head(self, length: int) -> None:
        """On a device: zero the first ``length`` bytes and sync, so that nothing there opens."""
        if self.device_size is None:
            return
        try:
            done = 0
            while done < length:
                done += os.pwrite(self.fd, bytes(min(length - done, _PIECE)), done)
            self.sync()
        except OSError as exc:
            raise self._error(exc) from exc

    def before_head(self) -> None:
        """On a device: all data is on the disk before the head makes it valid."""
        if self.device_size is not None:
            self.sync()

    def sync(self) -> None:
        """``fsync``, timed. Raises :class:`OutputError`."""
        begin = time.monotonic()
        try:
            os.fsync(self.fd)
        except OSError as exc:
            raise self._error(exc) from exc
        self.sync_seconds += time.monotonic() - begin

    def commit(self) -> None:
        """Make the output permanent under its name. Raises :class:`OutputError`."""
        try:
            self.sync()
            if self.device_size is None:
                self._give_name()
                self._sync_folder()
        except OSError as exc:
            raise self._error(exc) from exc
        self.close()

    def _give_name(self) -> None:
        if self._part is None and not self.force:
            self._link(self.path)
            return
        if self._part is None:
            part = self._part_name()
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            self._link(part)
            self._part = part
        if self.force or not self._link_part():
            os.rename(self._part, self.path)
        self._part = None

    def _link_part(self) -> bool:
        """Turn the part's name into the output's, which must not exist; False: rename it instead.

        Where there are no hard links (FAT, exFAT), a file that another program puts there between
        this look and the rename is replaced.
        """
        assert self._part is not None
        try:
            os.link(self._part, self.path)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from exc
            return False
        os.unlink(self._part)
        return True

    def _link(self, name: str) -> None:
        # With a folder's descriptor Python calls linkat, which alone can follow this link.
        folder = os.open(os.path.dirname(name), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(
                f"/proc/self/fd/{self.fd}",
                os.path.basename(name),
                src_dir_fd=folder,
                dst_dir_fd=folder,
                follow_symlinks=True,
            )
        finally:
            os.close(folder)

    def _sync_folder(self) -> None:
        begin = time.monotonic()
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError as exc:
            # Some network file systems have no such call; their server decides.
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(folder)
        self.sync_seconds += time.monotonic() - begin

    def _error(self, exc: OSError) -> OutputError:
        if exc.errno == errno.EEXIST:
            return OutputError("exists already", path=self.name, hint="--force replaces it")
        if exc.errno == errno.EBUSY:
            return OutputError("the device is in use", path=self.name, hint="unmount it first")
        error = from_os_error(exc, path=self.name, writing=True)
        assert isinstance(error, OutputError)
        if exc.errno == errno.ENOENT:
            error.hint = "create the folder first"
        return error

    def close(self) -> None:
        """Give up what was not committed. Closing twice is harmless."""
        if self._part is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._part)
            self._part = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
