"""What every disk format offers: the reader and writer protocols and the registry record.

Adding a format is one module (or folder) that builds a :class:`Format` and one line in
:mod:`vmpack.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmpack.extent import Extent
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.content_seed import ContentSeed


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
    parents: tuple[str, ...] = ()
    """Files that the caller names as the backing images, nearest first: they are opened whatever
    name the image itself gives."""
    given: Mapping[str, ByteSource] = field(default_factory=dict)
    """Files already open, by base name: an image that names one of them as its extent gets it.
    They stay the caller's."""
    max_size: int | None = None
    """Bytes: a stream that holds a larger disk is refused while it is read."""
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


class MapRun(NamedTuple):
    """``length`` guest bytes from ``offset`` as ``qemu-img map`` shows them."""

    offset: int
    length: int
    depth: int
    """0 in the image itself, 1 in its backing file, ..."""
    data: bool
    """Room is stored; otherwise the range reads as zeros."""
    present: bool = True
    """Some image of the chain holds the range."""
    compressed: bool = False
    host: int | None = None
    """Where in its file the guest's bytes lie as they are."""
    file_hole: bool = False
    """The room that is stored is a hole of the file: data to the format, zeros to a reader."""


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

    def map_runs(self, offset: int, length: int) -> Iterator[MapRun]:
        """What holds each part of ``[offset, offset + length)``, ascending and contiguous."""

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
    fd: int | None = None
    """The file, where it is not the image's first one (``CreateOptions.sibling``)."""


class ImageWriter(Protocol):
    """Takes a disk's data in ascending order. What it is not given reads as zeros.

    The copy engine calls :meth:`prepare` from worker threads, in any order, and :meth:`emit` from
    its own thread, in ascending order of offset; the jobs that ``emit`` returns run in workers.
    """

    unit: int
    """Data arrives in whole units from a multiple of it (the disk's end may cut the last)."""

    @property
    def seed(self) -> ContentSeed | None:
        """What identifiers of the image derive from; ``None`` where it has none.

        The engine fills it; it is complete when :meth:`finish` is called.
        """

    def prepare(self, offset: int, data: bytes) -> object:
        """The costly part that needs no order: find zeros, compress. Touches no shared state."""

    def emit(self, prepared: object) -> Sequence[Job]:
        """Place what was prepared, in order."""

    def finish(self) -> None:
        """All data was emitted and all jobs are done: write the tables and headers."""


class StreamWriter(Protocol):
    """Writes an image front to back, as a pipe needs it: each call gives the bytes that follow.

    :meth:`prepare` is called from worker threads, the rest in order from one thread.
    """

    unit: int
    needs_seed: bool
    """``CreateOptions.seed`` has to be complete before :meth:`begin`: the source is read twice."""

    def prepare(self, offset: int, data: bytes) -> object:
        """As :meth:`ImageWriter.prepare`."""

    def begin(self) -> Iterable[bytes | memoryview]:
        """What stands before all data."""

    def emit(self, prepared: object) -> Iterable[bytes | memoryview]:
        """What was prepared, in order, with what has to stand before it."""

    def finish(self) -> Iterable[bytes | memoryview]:
        """What stands behind all data."""


class Measurer(Protocol):
    """Adds up the size of the file that a writer would make."""

    unit: int

    def add(self, number: int) -> None:
        """Unit ``number`` (ascending) is not all zero."""

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file: for the units added, and if every unit held data.

        Exact without compression, upper bounds with it.
        """


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What a writer is asked for. ``values`` are the ``-o`` options, by QEMU's names."""

    virtual_size: int
    values: Mapping[str, str] = field(default_factory=dict)
    compressed: bool = False
    level: int | None = None
    name: str = ""
    """Base name that the file will have; empty where it has none (a pipe)."""
    sibling: Callable[[str], int] | None = None
    """Opens another file of the image, of this base name, beside the first: its descriptor, which
    stays the caller's. ``None`` where the image must be one file."""
    timestamp: int | None = None
    """Seconds since 1970 (``SOURCE_DATE_EPOCH``) for formats that store a time; ``None``: the
    format's own zero."""
    seed: ContentSeed | None = None
    """The content's seed where it is known beforehand (a :class:`StreamWriter` that needs it)."""
    empty: bool = False
    """No data will follow (``vmpack create``)."""


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
    stream: Callable[[CreateOptions], StreamWriter] | None = None
    """Writer for a pipe; raises :class:`UsageError` for options that no stream can carry."""
    measure: Callable[[CreateOptions], Measurer] | None = None
    disk_size: Callable[[CreateOptions], int] | None = None
    """Bytes of the disk that the writer makes, where options can ask for more than the source has
    (an alignment that an importer wants)."""
    aliases: tuple[str, ...] = ()
