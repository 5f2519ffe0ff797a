"""Reads FAT12, FAT16 and FAT32: folders, long names, files. Bounded, whatever the bytes say.

For the EFI system partitions and boot partitions of strangers' disks: a chain of clusters is never
followed for longer than the volume, and a folder never beyond its limit. Profile: ``specs/fat.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vmpack.errors import DamagedError, UnsafeError, VmpackError
from vmpack.machine.fat_structs import DELETED, END, LONG, BootSector, Entry, LongEntry

__all__ = ["FatFile", "FatVolume"]

Read = Callable[[int, int], bytes]

MAX_FOLDER = 2 << 20
"""Bytes of a folder: FAT's own limit, 65,536 entries."""
MAX_ENTRIES = 40_000
"""Entries that are read of one volume, deleted ones included: some seconds of work."""
MAX_DEPTH = 16
_SLOT = 32
_TABLE_PIECE = 64 << 10
_SECTOR_SIZES = (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class FatFile:
    """A file or folder. ``name`` is what the disk says: escape it before you show it."""

    name: str
    is_folder: bool
    size: int
    cluster: int
    short_name: str

    @property
    def key(self) -> int:
        """What tells it from others of its volume."""
        return self.cluster


class FatVolume:
    """A FAT volume of ``size`` bytes at ``offset`` of what ``read(offset, length)`` reads.

    Raises :class:`DamagedError` where its boot sector is none, or contradicts itself.
    """

    def __init__(self, read: Read, offset: int, size: int):
        self._read = read
        self._offset = offset
        self._pieces: dict[int, bytes] = {}
        self._entries_left = MAX_ENTRIES
        self._listed: dict[int, tuple[FatFile | Entry, ...]] = {}
        if size < 512:
            raise self._damaged("no room for a boot sector", 0, "FAT-BOOT-1")
        raw = read(offset, 512)
        if raw[510:512] != b"\x55\xaa":
            raise self._damaged("no boot sector of a FAT volume", 510, "FAT-BOOT-1")
        boot = BootSector.decode(raw)
        self._check(boot, size)
        self._boot = boot
        self.cluster_size = boot.sector_size * boot.sectors_per_cluster
        root_sectors = -(-boot.root_entries * _SLOT // boot.sector_size)
        self._table = (boot.reserved + boot.active_fat * boot.fat_sectors) * boot.sector_size
        self._root = (boot.reserved + boot.fats * boot.fat_sectors) * boot.sector_size
        self._data = self._root + root_sectors * boot.sector_size
        clusters = (boot.sectors * boot.sector_size - self._data) // self.cluster_size
        if clusters < 1:
            raise self._damaged("no room for clusters", 13, "FAT-BOOT-4")
        self.kind = 32 if boot.is_fat32 else 12 if clusters < 4085 else 16
        # A FAT that is too short for the clusters ends the volume where it ends.
        self.clusters = min(clusters, boot.fat_sectors * boot.sector_size * 8 // self.kind - 2)
        if self.clusters < 1:
            raise self._damaged("its FAT has no room for a cluster", 22, "FAT-BOOT-4")

    def _check(self, boot: BootSector, size: int) -> None:
        per_cluster = boot.sectors_per_cluster
        if boot.sector_size not in _SECTOR_SIZES:
            raise self._damaged(f"sectors of {boot.sector_size} bytes", 11, "FAT-BOOT-2")
        if not 1 <= per_cluster <= 128 or per_cluster & (per_cluster - 1):
            raise self._damaged(f"clusters of {per_cluster} sectors", 13, "FAT-BOOT-2")
        if not boot.reserved or boot.fats not in (1, 2) or not boot.fat_sectors:
            raise self._damaged("it has no FAT", 14, "FAT-BOOT-3")
        if boot.active_fat >= boot.fats or boot.version or (boot.is_fat32 and boot.root_entries):
            raise self._damaged("a FAT32 of a kind that is not known", 40, "FAT-BOOT-3")
        if not 0 < boot.sectors * boot.sector_size <= size:
            raise self._damaged(
                f"{boot.sectors} sectors are more than its partition has", 32, "FAT-BOOT-4"
            )

    def find(self, path: str) -> FatFile | None:
        """The file or folder ``path``, in any case; backslashes between components will do."""
        found: FatFile | None = None
        parts = [part for part in path.replace("\\", "/").split("/") if part]
        if len(parts) > MAX_DEPTH:
            return None
        for part in parts:
            if found is not None and not found.is_folder:
                return None
            wanted = part.lower()
            found = next(
                (
                    one
                    for one in self.entries(found)
                    if wanted in (one.name.lower(), one.short_name.lower())
                ),
                None,
            )
            if found is None:
                return None
        return found

    def list(self, path: str) -> list[FatFile]:
        """What is in the folder ``path``, the root for an empty one; nothing where it is none."""
        if not path.strip("/\\"):
            return list(self.entries(None))
        folder = self.find(path)
        return [] if folder is None or not folder.is_folder else list(self.entries(folder))

    @property
    def label(self) -> str:
        """The volume's label from its root folder, or nothing."""
        return next((one.short_name for one in self._slots(None) if isinstance(one, Entry)), "")

    def entries(self, folder: FatFile | None) -> Iterator[FatFile]:
        """The entries of a folder (``None``: the root), without ``.`` and ``..``."""
        return (one for one in self._slots(folder) if isinstance(one, FatFile))

    def _slots(self, folder: FatFile | None) -> tuple[FatFile | Entry, ...]:
        """Files and folders; the volume's label as the entry that it is. Read once."""
        key = 0 if folder is None else folder.cluster
        if key not in self._listed:
            self._listed[key] = tuple(self._decoded(self._folder(folder)))
        return self._listed[key]

    def _decoded(self, raw: bytes) -> Iterator[FatFile | Entry]:
        parts: list[LongEntry] = []
        for at in range(0, len(raw) - _SLOT + 1, _SLOT):
            slot = raw[at : at + _SLOT]
            if slot[0] == END:
                return
            self._entries_left -= 1
            if self._entries_left < 0:
                raise UnsafeError(f"more than {MAX_ENTRIES} entries of folders", clause="FAT-DIR-3")
            if slot[0] == DELETED:
                parts = []
            elif slot[11] & 0x3F == LONG:
                part = LongEntry.decode(slot)
                parts = [part] if part.is_last else [*parts, part][:20]
            else:
                entry = Entry.decode(slot, is_fat32=self.kind == 32)
                name = _long_name(parts, entry) or entry.short_name
                parts = []
                if entry.is_label:
                    yield entry
                elif entry.short_name not in (".", ".."):
                    yield FatFile(
                        name, entry.is_folder, entry.size, entry.cluster, entry.short_name
                    )

    def _folder(self, folder: FatFile | None) -> bytes:
        if folder is not None:
            return b"".join(self._content(folder.cluster, None))
        if self.kind == 32:
            return b"".join(self._content(self._boot.root_cluster, None))
        return self._read(self._offset + self._root, self._boot.root_entries * _SLOT)

    def read_file(self, file: FatFile, *, limit: int) -> bytes:
        """The file's content. Raises :class:`UnsafeError` for more than ``limit`` bytes.

        :class:`DamagedError` where its clusters end before its size.
        """
        if file.size > limit:
            raise UnsafeError(f"a file of {file.size} bytes, at most {limit} are read")
        if file.size > self.clusters * self.cluster_size:
            raise self._damaged("a file larger than its volume", self._data, "FAT-FILE-1")
        if not file.size:
            return b""
        data = b"".join(self._content(file.cluster, file.size))
        if len(data) < file.size:
            raise self._damaged("a file ends before its size", self._data, "FAT-FILE-1")
        return data[: file.size]

    def _content(self, first: int, size: int | None) -> Iterator[bytes]:
        """The clusters from ``first`` on: those of ``size`` bytes, or all (a folder)."""
        most = -(-(MAX_FOLDER if size is None else size) // self.cluster_size)
        start, count = first, 0
        for number, cluster in enumerate(self._chain(first)):
            if number >= most:
                if size is None:
                    raise self._damaged("a folder that is too long", self._data, "FAT-DIR-2")
                break
            if cluster == start + count:
                count += 1
                continue
            yield self._clusters(start, count)
            start, count = cluster, 1
        yield self._clusters(start, count)

    def _clusters(self, first: int, count: int) -> bytes:
        at = self._data + (first - 2) * self.cluster_size
        return self._read(self._offset + at, count * self.cluster_size) if count else b""

    def _chain(self, cluster: int) -> Iterator[int]:
        for _ in range(self.clusters):
            if not 2 <= cluster < self.clusters + 2:
                raise self._damaged(f"cluster {cluster} is none", self._table, "FAT-CHAIN-1")
            yield cluster
            cluster = self._next(cluster)
            # The last values of each kind: bad cluster, then ends of a chain.
            if cluster >= (1 << min(self.kind, 28)) - 8:
                return
        raise self._damaged("a chain of clusters without end", self._table, "FAT-CHAIN-2")

    def _next(self, cluster: int) -> int:
        if self.kind == 12:
            both = int.from_bytes(self._fat(cluster * 3 // 2, 2), "little")
            return both >> 4 if cluster & 1 else both & 0xFFF
        width = self.kind // 8
        value = int.from_bytes(self._fat(cluster * width, width), "little")
        return value & 0x0FFF_FFFF

    def _fat(self, at: int, length: int) -> bytes:
        """Bytes of the FAT; it is read in pieces, of which few are kept."""
        number, within = divmod(at, _TABLE_PIECE)
        if number not in self._pieces:
            if len(self._pieces) >= 16:
                self._pieces.clear()
            begin = number * _TABLE_PIECE
            size = self._boot.fat_sectors * self._boot.sector_size
            # One byte more: an entry of 12 bits may lie across two pieces.
            whole = min(_TABLE_PIECE + 1, size - begin)
            self._pieces[number] = self._read(self._offset + self._table + begin, whole)
        return self._pieces[number][within : within + length]

    def _damaged(self, message: str, at: int, clause: str) -> VmpackError:
        return DamagedError(f"FAT: {message}", offset=self._offset + at, clause=clause)


def _long_name(parts: list[LongEntry], entry: Entry) -> str | None:
    """The name that the parts before an entry spell, where they are whole and its own."""
    orders = [part.order for part in parts]
    if not parts or not parts[0].is_last or orders != list(range(len(parts), 0, -1)):
        return None
    if any(part.checksum != entry.checksum for part in parts):
        return None
    units = b"".join(part.units for part in reversed(parts))
    return units.decode("utf-16-le", "replace").split("\0", 1)[0]
