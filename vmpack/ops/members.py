"""Files of a machine that are not there as they are: compressed, in pieces, blank; and digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import DamagedError, from_os_error
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader, OpenOptions
    from vmpack.hypervisors.base import FileRef

GZIP = b"\x1f\x8b\x08"
MAX_CHUNKS = 65536
_PIECE = 4 << 20


def chunk_name(file: FileRef, number: int) -> str:
    """The name of piece ``number`` of a file that is kept in pieces (DSP0243, References)."""
    return f"{file.name}.{number:09d}"


def first_name(file: FileRef) -> str:
    """The name under which the file, or its first piece, is found."""
    return chunk_name(file, 0) if file.chunk_size else file.name


def chunks(file: FileRef, there: Container[str], base: str = "") -> list[str]:
    """The names of all pieces: one after another, as far as there are some."""
    found: list[str] = []
    while len(found) < MAX_CHUNKS and base + chunk_name(file, len(found)) in there:
        found.append(chunk_name(file, len(found)))
    return found


def is_packed(source: ByteSource, file: FileRef) -> bool:
    """Whether the file has to be decompressed first: it is said to be, or can be nothing else."""
    if file.gzip:
        return True
    by_name = os.path.splitext(file.name)[1].lower() == ".gz" and file.format != "raw"
    stated = file.format not in (None, "raw")
    return (by_name or stated) and source.pread(0, min(3, source.size)) == GZIP


def plain_name(file: FileRef) -> str:
    """The file's name without the suffix of its compression."""
    return file.name[:-3] if file.name.lower().endswith(".gz") else file.name


def unpacked(
    parts: Sequence[ByteSource], file: FileRef, *, path: str, max_size: int | None
) -> ByteSource:
    """The file out of its pieces and out of gzip, in an unlinked file; ``parts`` stay open.

    Raises :class:`UnsafeError` beyond ``max_size`` bytes, or where a small file becomes a far
    larger one, and :class:`DamagedError` for what is not whole.
    """
    from vmpack.formats.raw_stream.codecs import decoded
    from vmpack.formats.raw_stream.spool import Limits, spooled

    _require_sizes(parts, file, path)
    stored = sum(part.size for part in parts)
    source = parts[0]
    joined: ByteSource | None = None
    if len(parts) > 1:
        # What is put together is as large as what is there: no more than that is allowed.
        joined = spooled(_bytes_of(parts), path=path, limits=Limits(path, stored, stored))
        source = joined
    try:
        if not is_packed(source, file):
            if joined is not None:
                found, joined = joined, None
                return found
            return spooled(_bytes_of(parts), path=path, limits=Limits(path, stored, stored))
        limits = Limits(path, stored, max_size)
        return spooled(decoded(source, "gzip"), path=path, limits=limits)
    finally:
        if joined is not None:
            joined.close()


def _require_sizes(parts: Sequence[ByteSource], file: FileRef, path: str) -> None:
    if not file.chunk_size:
        return
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if (part.size != file.chunk_size and not last) or part.size > file.chunk_size:
            raise DamagedError(
                f"piece {number} has {part.size} bytes, {file.chunk_size} are stated",
                path=path,
                clause="OVF-READ-5",
                hint="a piece is missing or cut short: copy the package again",
            )


def _bytes_of(parts: Sequence[ByteSource]) -> Iterator[bytes]:
    for part in parts:
        for offset in range(0, part.size, _PIECE):
            yield part.pread(offset, min(_PIECE, part.size - offset))


def open_packed(
    parts: Sequence[ByteSource], file: FileRef, options: OpenOptions, *, path: str
) -> ImageReader:
    """The disk image that is in the pieces, or compressed; it names no other files."""
    from vmpack.ops.opening import detect_format

    source = unpacked(parts, file, path=path, max_size=options.max_size)
    try:
        image = detect_format(source, plain_name(file), file.format)
    except BaseException:
        source.close()
        raise
    return image.open(source, replace(options, allow_backing=False, parents=()))


def open_zeros(file: FileRef, options: OpenOptions) -> ImageReader:
    """An all-zero disk, which takes no room."""
    from vmpack import formats

    try:
        with tempfile.TemporaryFile(buffering=0) as scratch:
            os.ftruncate(scratch.fileno(), file.blank)
            kept = os.dup(scratch.fileno())
    except OSError as exc:
        raise from_os_error(exc, path=tempfile.gettempdir(), writing=True) from exc
    source = ByteSource(kept, path=escape(file.name), size=file.blank, owns_fd=True)
    return formats.get("raw").open(source, replace(options, allow_backing=False, parents=()))


def check_digests(
    manifest: Mapping[str, tuple[str, str]],
    opened: Callable[[str], ByteSource | None],
    *,
    path: str,
    excused: Container[str] = (),
) -> None:
    """Every file that a manifest lists is there, and has the digest that it lists.

    ``opened`` gives a file to read, which is closed here; ``None`` where there is none.
    ``excused`` are files in whose place the caller named others.
    """
    for name, expected in manifest.items():
        if name in excused:
            continue
        source = opened(name)
        if source is None:
            raise DamagedError(
                f"the manifest lists {escape(name[:200])!r}, which is not there",
                path=path,
                clause="OVF-MF-3",
                hint="copy the package again: a file of it is missing",
            )
        with source:
            _require_digest(source, expected)


def _require_digest(source: ByteSource, expected: tuple[str, str]) -> None:
    algorithm, wanted = expected
    digest = hashlib.new(algorithm)
    for piece in _bytes_of([source]):
        digest.update(piece)
    if digest.hexdigest() != wanted:
        raise DamagedError(
            f"its {algorithm} is {digest.hexdigest()}, the manifest says {wanted}",
            path=source.path,
            clause="OVF-MF-2",
            hint="the file was changed or damaged after it was exported: copy it again",
        )
