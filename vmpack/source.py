"""Bytes that a reader may look at: a file, or a window of one. Nothing is opened twice.

A :class:`ByteSource` is opened once, read-only, and stays that one open file: formats, bundles and
the runner get the object, never a path that could name another file a moment later.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.errors import DamagedError, InputError, UnsafeError, from_os_error

if TYPE_CHECKING:
    from vmpack.extent import Extent


_LOCK = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, process."""
_QEMU_WRITES = 101


class ByteSource:
    """A read-only range of bytes: ``size`` bytes of ``fd`` from ``base``. Safe for threads."""

    def __init__(self, fd: int, *, path: str, base: int = 0, size: int, owns_fd: bool = False):
        self.fd = fd
        self.path = path
        self.base = base
        self.size = size
        self._owns_fd = owns_fd

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ByteSource:
        """Open a regular file or block device read-only.

        Raises :class:`InputError` for anything else (folders, pipes, sockets) and if it cannot be
        opened. Never blocks on a FIFO.
        """
        name = os.fspath(path)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise from_os_error(exc, path=name) from exc
        try:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                what = "a folder" if stat.S_ISDIR(mode) else "not a regular file or block device"
                raise InputError(f"is {what}", path=name, hint="name a disk image")
            os.set_blocking(fd, True)
            size = os.lseek(fd, 0, os.SEEK_END)
        except OSError as exc:
            os.close(fd)
            raise from_os_error(exc, path=name) from exc
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path=name, size=size, owns_fd=True)

    def slice(self, offset: int, size: int) -> ByteSource:
        """The window of ``size`` bytes from ``offset``; it shares this source's descriptor."""
        if not 0 <= offset <= offset + size <= self.size:
            raise DamagedError(
                f"a window of {size} bytes does not fit in {self.size} bytes",
                path=self.path,
                offset=self.base + offset,
            )
        return ByteSource(self.fd, path=self.path, base=self.base + offset, size=size)

    def pread(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; raises :class:`DamagedError` past the end."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedError(
                f"{length} bytes wanted, the file ends after {max(0, self.size - offset)}",
                path=self.path,
                offset=self.base + offset,
                hint="the file is cut short or its tables point past its end",
            )
        try:
            data = os.pread(self.fd, length, self.base + offset)
            if len(data) == length:
                return data
            parts = [data]
            got = len(data)
            while got < length:
                data = os.pread(self.fd, length - got, self.base + offset + got)
                if not data:
                    break
                parts.append(data)
                got += len(data)
        except OSError as exc:
            raise from_os_error(exc, path=self.path) from exc
        except MemoryError:
            raise UnsafeError(
                f"asks for {length} bytes of memory",
                path=self.path,
                offset=self.base + offset,
                hint="there is not that much here",
            ) from None
        if got < length:
            raise DamagedError("the file became shorter while it was read", path=self.path)
        return b"".join(parts)

    def pread_padded(self, offset: int, length: int) -> bytes:
        """As :meth:`pread`, with zeros in place of what lies past the end."""
        have = max(0, min(length, self.size - offset))
        data = self.pread(offset, have) if have else b""
        return data + bytes(length - have)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """What the file system says is data or hole in ``[offset, offset + length)``.

        A file system without ``SEEK_HOLE`` gives one data extent.
        """
        from vmpack.extent import Extent, Kind

        end = self.size if length is None else offset + length
        position = offset
        while position < end:
            data, hole = self._next_data(position, end)
            if data > position:
                yield Extent(position, data - position, Kind.HOLE)
            if hole > data:
                yield Extent(data, hole - data, Kind.DATA)
            position = hole

    def _next_data(self, position: int, end: int) -> tuple[int, int]:
        """Start and end of the first data range from ``position`` on, both clipped to ``end``."""
        try:
            data = os.lseek(self.fd, self.base + position, os.SEEK_DATA) - self.base
        except OSError as exc:
            import errno

            if exc.errno == errno.ENXIO:
                return end, end
            return position, end
        if data >= end:
            return end, end
        try:
            hole = os.lseek(self.fd, self.base + data, os.SEEK_HOLE) - self.base
        except OSError:
            return data, end
        return data, min(hole, end)

    def written_elsewhere(self) -> bool:
        """Whether a QEMU has this file open for writing.

        QEMU keeps a shared lock on byte 101 of each image it may write (block/file-posix.c,
        RAW_LOCK_PERM_BASE and BLK_PERM_WRITE). ``False`` where the file system has no such locks.
        """
        query = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITES, 1, 0)
        try:
            answer = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, query)
        except OSError:
            return False
        return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the file occupies on disk (``actual-size``), of the whole file."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Close the descriptor if this source opened it. Closing twice is harmless."""
        if self._owns_fd:
            self._owns_fd = False
            os.close(self.fd)

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
