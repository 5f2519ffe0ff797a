"""Opens what a PATH names: an image, a bundle with one disk, or one disk of a bundle."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vmpack.errors import UnsafeError, UsageError, from_os_error
from vmpack.formats import RAW_SUFFIXES
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.formats.base import Format, ImageReader, OpenOptions

BUNDLE_MAGIC = b"\x89VMPACK\n"
"""The first bytes of a bundle: known here too, so that an image costs no import of the bundle."""
STDIN = "-"

Path = str | os.PathLike[str]


def parse_target(path: Path) -> tuple[str, str | None]:
    """``(path, disk id)`` of ``app.vmpack#root``; an existing file with ``#`` in its name wins."""
    name = os.fspath(path)
    if "#" not in name or os.path.lexists(name):
        return name, None
    head, _, disk = name.rpartition("#")
    return (head, disk) if head and disk else (name, None)


def is_bundle(path: Path) -> bool:
    """Whether the file that ``path`` names begins as a bundle does; ``False`` for what is no file.

    Raises :class:`InputError` when it cannot be opened.
    """
    name, _ = parse_target(path)
    try:
        if not stat.S_ISREG(os.stat(name).st_mode) and not stat.S_ISBLK(os.stat(name).st_mode):
            return False
    except OSError as exc:
        raise from_os_error(exc, path=name) from exc
    with ByteSource.open(name) as source:
        return begins_as_bundle(source, name)


def begins_as_bundle(source: ByteSource, name: str) -> bool:
    """Whether an open file has a bundle's magic, and is not named as a raw disk is.

    A guest writes what its raw disk begins with: that must not choose the parser.
    """
    if os.path.splitext(name)[1].lower() in RAW_SUFFIXES:
        return False
    return source.pread(0, min(len(BUNDLE_MAGIC), source.size)) == BUNDLE_MAGIC


def open_image(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    options: OpenOptions | None = None,
) -> ImageReader:
    """Open a disk for reading: its format by magic and name, or as ``format`` says.

    ``-`` is standard input, kept in an unlinked sparse file while it is open; its format has to be
    given. Raises :class:`UsageError` when a bundle has several disks and none is named, and
    whatever detection and the format raise.
    """
    from vmpack.formats.base import OpenOptions

    options = options or OpenOptions()
    name, disk = parse_target(path)
    if name == STDIN:
        return _open_stdin(format, options)
    source = ByteSource.open(name)
    try:
        bundle = format == "vmpack" or (format is None and begins_as_bundle(source, name))
        if not bundle:
            if disk is not None:
                raise UsageError(
                    f"is not a bundle, so it has no disk {disk!r}", path=name, hint="drop the #..."
                )
            found = detect_format(source, name, format)
    except BaseException:
        source.close()
        raise
    if bundle:
        return _open_disk(source, name, disk, options)
    return found.open(source, options)


def detect_format(source: ByteSource, name: str, format_name: str | None) -> Format:
    """The format of an open image: decided once, here."""
    from vmpack.formats.probe import detect

    return detect(source, name, format_name)


def _open_disk(
    source: ByteSource, name: str, disk: str | None, options: OpenOptions
) -> ImageReader:
    """One disk of a bundle; the reader keeps the bundle's file open until it is closed."""
    from vmpack.bundle import Bundle
    from vmpack.ops.bundle_disk import BundleDisk

    if options.snapshot is not None:
        source.close()
        raise UsageError("a bundle's disk has no snapshots", path=name)
    bundle = Bundle.open(source)
    try:
        size = bundle.disk_entry(disk).exact_size
        return BundleDisk(bundle.disk(disk), bundle, size)
    except BaseException:
        bundle.close()
        raise


def _open_stdin(format_name: str | None, options: OpenOptions) -> ImageReader:
    from dataclasses import replace

    from vmpack.ops.streams import spool_stdin

    if format_name is None:
        raise UsageError(
            "standard input has no name to tell its format by", hint="say which with -f"
        )
    # Of other formats only the reader knows how large the disk is.
    source = spool_stdin(max_size=options.max_size if format_name == "raw" else None)
    try:
        found = detect_format(source, STDIN, format_name)
    except BaseException:
        source.close()
        raise
    return found.open(source, replace(options, allow_backing=False))


def require_idle(reader: ImageReader) -> None:
    """Refuse a source that a running machine writes: what is read of it would be torn."""
    for source in sources_of(reader):
        if source.written_elsewhere():
            raise UnsafeError(
                "is in use: a QEMU has it open for writing",
                path=source.path,
                hint="shut the machine down, or take a snapshot and name that",
            )


def require_max_size(reader: ImageReader, max_size: int | None) -> None:
    """Refuse a disk larger than the caller's ``--max-size``, before anything is written."""
    if max_size is not None and reader.virtual_size > max_size:
        raise UnsafeError(
            f"its disk of {reader.virtual_size} bytes is larger than the {max_size} bytes allowed",
            path=reader.path,
            clause="RAW-SIZE-1",
            hint="raise --max-size",
        )


def sources_of(reader: object) -> list[ByteSource]:
    """Every file that an open image reads from: none of them may be an output."""
    found: list[ByteSource] = []
    current: object | None = reader
    while current is not None:
        for name in ("source", "data_source"):
            source = getattr(current, name, None)
            if isinstance(source, ByteSource):
                found.append(source)
        # The further files of an image that has several.
        found.extend(getattr(current, "part_sources", ()))
        current = getattr(current, "backing", None)
    return found
