"""tar archives, read in place: an uncompressed member is a slice of the file.

The archive's headers are Python's :mod:`tarfile`'s work; what is accepted of them is decided here.
Profile: specs/containers.md, TAR-*.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from vmpack.binary import escape
from vmpack.containers.base import MAX_MEMBERS, Member, safe_member
from vmpack.errors import DamagedError, UnsafeError
from vmpack.source import ByteSource

MAX_HEADER = 1 << 20
"""Bytes of one extended header: names and comments, never data."""
_READ = 1 << 16


class _Reader(io.RawIOBase):
    """A source as the file that tarfile wants; refuses to hand out more than a header's worth."""

    def __init__(self, source: ByteSource):
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise UnsafeError(
                f"has a header of {size} bytes",
                path=self._source.path,
                offset=self._position,
                clause="TAR-READ-3",
                hint=f"at most {MAX_HEADER} bytes are taken for one",
            )
        take = max(0, min(size, self._source.size - self._position))
        data = self._source.pread(self._position, take) if take else b""
        self._position += take
        return data


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (512 bytes at least) is a tar archive."""
    return head[257:262] == b"ustar"


def members(source: ByteSource, *, skip_links: bool = False) -> dict[str, Member]:
    """The regular files of the archive by name, in its order; folders are passed over.

    ``skip_links`` passes over symbolic links as well: Incus has one in each export.

    Raises :class:`UnsafeError` for links, devices, sparse members, names that lead out of a
    folder, and a name that comes twice; :class:`DamagedError` for a broken or cut archive.
    """
    found: dict[str, Member] = {}
    for info in _walk(source):
        if info.isdir() or (skip_links and info.issym()):
            continue
        name = safe_member(info.name, path=source.path, offset=info.offset, clause="TAR-READ-1")
        if not info.isreg() or info.issparse() or info.type not in tarfile.REGULAR_TYPES:
            raise UnsafeError(
                f"its member {escape(name)!r} is not a regular file",
                path=source.path,
                offset=info.offset,
                clause="TAR-READ-2",
                hint="an archive of a machine holds plain files only",
            )
        if name in found or len(found) >= MAX_MEMBERS:
            what = "comes twice" if name in found else f"is one of more than {MAX_MEMBERS}"
            raise UnsafeError(
                f"its member {escape(name)!r} {what}",
                path=source.path,
                offset=info.offset,
                clause="TAR-READ-4",
            )
        if info.size < 0 or info.offset_data + info.size > source.size:
            raise DamagedError(
                f"its member {escape(name)!r} of {info.size} bytes goes past the archive's end",
                path=source.path,
                offset=info.offset,
                clause="TAR-READ-5",
                hint="the archive was cut short: copy it again",
            )
        found[name] = Member(name, info.offset_data, info.size)
    return found


def _require_end(source: ByteSource, offset: int) -> None:
    """Nothing, or zeros: tarfile takes a broken header for the archive's end."""
    block = source.pread_padded(offset, 512)
    if any(block):
        raise DamagedError(
            "has something that is no header where the next member should begin",
            path=source.path,
            offset=offset,
            clause="TAR-READ-5",
            hint="copy it again, or list it with tar -tvf",
        )


def _walk(source: ByteSource) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=_Reader(source), mode="r:") as archive:
            count = 0
            while (info := archive.next()) is not None:
                # tarfile keeps each header that it saw, and typeshed does not know where.
                archive.members = []  # type: ignore[attr-defined]
                count += 1
                if count > 2 * MAX_MEMBERS:
                    raise UnsafeError(
                        f"has more than {2 * MAX_MEMBERS} members",
                        path=source.path,
                        clause="TAR-READ-4",
                    )
                yield info
            _require_end(source, archive.offset)
    except (tarfile.TarError, ValueError, OverflowError, IndexError, UnicodeError) as exc:
        raise DamagedError(
            "is not a sound tar archive",
            path=source.path,
            clause="TAR-READ-5",
            hint="copy it again, or list it with tar -tvf",
        ) from exc
