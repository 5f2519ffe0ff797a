"""What every disk format offers: the reader and writer protocols and the registry record.

Adding a format is one module (or folder) that builds a :class:`Format` and one line in
:mod:`vmpack.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vmpack.extent import Extent
from vmpack.source import ByteSource


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What the caller allows a reader to do beyond reading the one file it was given."""

    allow_backing: bool = False
    """Follow backing files, within the image's own folder and ``backing_dirs``."""
    backing_dirs: tuple[str, ...] = ()
    snapshot: str | None = None
    """Read this internal snapshot (id or name) instead of the active disk."""
    metadata_only: bool = False
    """For ``info`` and ``check``: an image whose data needs other files, or cannot be read at all
    (encrypted, marked corrupt), opens all the same. Its ``read`` and ``extents`` then refuse."""
    ancestors: tuple[tuple[int, int], ...] = ()
    """Device and inode of the images whose backing file this is: the guard against cycles."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """``qemu-img info``'s facts about one image, in bytes and QEMU's own names."""

    format: str
    virtual_size: int
    cluster_size: int | None = None
    backing_filename: str | None = None
    backing_format: str | None = None
    dirty: bool = False
    specific: Mapping[str, object] = field(default_factory=dict)
    """``format-specific``'s ``data``: JSON values, kebab-case keys as QAPI has them."""
    snapshots: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: ``kind`` is ``corruption`` or ``leak``."""

    kind: str
    message: str
    offset: int | None = None
    guest_offset: int | None = None
    clause: str | None = None


class ImageReader(Protocol):
    """An open image. ``read`` and ``extents`` may be called from several threads at once."""

    format: Format
    path: str
    virtual_size: int
    """Bytes of guest disk."""
    cluster_size: int
    """Bytes that the image allocates or compresses as one; reads aligned to it are cheapest."""

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Ascending, contiguous, covering exactly ``[offset, offset + length)`` of the disk."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` guest bytes from ``offset``; both inside the disk, of any alignment."""

    def info(self) -> ImageInfo:
        """The facts of this image. Reads no guest data; output bounded."""

    def check(self) -> Iterator[Finding]:
        """Every inconsistency of the image's own structures."""

    def close(self) -> None:
        """Release what the reader opened. Closing twice is harmless."""


@dataclass(frozen=True, slots=True)
class Job:
    """A write that :meth:`ImageWriter.emit` wants done by a worker: ``data`` at ``offset``."""

    offset: int
    data: bytes | memoryview


class ImageWriter(Protocol):
    """Takes a disk's data in ascending order. What it is not given reads as zeros.

    The copy engine calls :meth:`prepare` from worker threads, in any order, and :meth:`emit` from
    its own thread, in ascending order of offset; the jobs that ``emit`` returns run in workers.
    """

    unit: int
    """Data arrives in whole units from a multiple of it (the disk's end may cut the last)."""

    def prepare(self, offset: int, data: bytes) -> object:
        """The costly part that needs no order: find zeros, compress. Touches no shared state."""

    def emit(self, prepared: object) -> Sequence[Job]:
        """Place what was prepared, in order."""

    def finish(self) -> None:
        """All data was emitted and all jobs are done: write the tables and headers."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What a writer is asked for. ``values`` are the ``-o`` options, by QEMU's names."""

    virtual_size: int
    values: Mapping[str, str] = field(default_factory=dict)
    compressed: bool = False
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """One disk format: how it is recognised, opened and written."""

    name: str
    """vmpack's name, as ``-f`` and ``-O`` take it."""
    qemu_name: str
    """QEMU's driver name, as JSON's ``format`` prints it."""
    suffixes: tuple[str, ...]
    probe: Callable[[ByteSource], bool]
    """True when the file begins with this format's magic. Reads at most 1 MiB; never raises."""
    open: Callable[[ByteSource, OpenOptions], ImageReader]
    """Takes ownership of the source, also when it raises."""
    create: Callable[[int, CreateOptions], ImageWriter] | None = None
    """Writer over a fresh, empty, seekable file descriptor (which stays the caller's)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """``-o`` options of the writer: name -> one line of help."""
    aliases: tuple[str, ...] = ()
