"""An image that is changed where it lies, tried, and put back."""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512


@dataclass(frozen=True)
class Part:
    """One file of an image. ``hot``: ranges (offset, length) that hold structures."""

    name: str
    data: bytes
    hot: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Specimen:
    """A sound image to mutate: its files, the one to open first; some may be ``parents``."""

    name: str
    format: str
    parts: tuple[Part, ...]
    parents: tuple[str, ...] = ()

    def sectors(self) -> list[tuple[int, int]]:
        """``(part, offset)`` of the sectors that are not all zero, in order."""
        return [
            (number, at)
            for number, part in enumerate(self.parts)
            for at in nonzero_sectors(part.data)
        ]


def nonzero_sectors(data: bytes) -> list[int]:
    """Offsets of the 512-byte sectors of ``data`` that are not all zero."""
    found = []
    for base in range(0, len(data), 65536):
        piece = data[base : base + 65536]
        if piece.count(0) == len(piece):
            continue
        found += [
            base + at
            for at in range(0, len(piece), SECTOR)
            if (sector := piece[at : at + SECTOR]).count(0) != len(sector)
        ]
    return found


class Patient:
    """The specimen's files in a folder. ``now`` are their bytes, changes included."""

    def __init__(self, specimen: Specimen, folder: Path):
        self.specimen = specimen
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.now = [bytearray(part.data) for part in specimen.parts]
        self._filled = [nonzero_sectors(part.data) for part in specimen.parts]
        self._files: list[int] = []
        self._changed: list[tuple[int, int, int]] = []
        self._cut: dict[int, int] = {}
        for part in specimen.parts:
            fd = os.open(folder / part.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
            self._files.append(fd)
            os.ftruncate(fd, len(part.data))
            self._fill(len(self._files) - 1, 0)

    def path(self, name: str | None = None) -> Path:
        """Path of the file called ``name``; of the image's first one."""
        return self.folder / (self.specimen.parts[0].name if name is None else name)

    def put(self, part: int, at: int, data: bytes) -> None:
        """Change bytes; what lies behind the end makes the file longer."""
        now = self.now[part]
        if at > len(now):
            now.extend(bytes(at - len(now)))
        now[at : at + len(data)] = data
        self._changed.append((part, at, len(data)))

    def cut(self, part: int, size: int) -> None:
        """The file ends after ``size`` bytes."""
        del self.now[part][size:]
        self._cut[part] = min(size, self._cut.get(part, size))

    def write(self) -> None:
        """Bring the changes into the files."""
        for part, size in self._cut.items():
            os.ftruncate(self._files[part], size)
            os.ftruncate(self._files[part], len(self.now[part]))
        for part, at, length in self._changed:
            now = self.now[part]
            os.pwrite(self._files[part], now[at : min(at + length, len(now))], at)

    def restore(self) -> None:
        """Files and bytes as the specimen has them."""
        for part, at, length in self._changed:
            self._restore_range(part, at, length)
        for part, now in enumerate(self.now):
            original = self.specimen.parts[part].data
            if part in self._cut or len(now) != len(original):
                kept = min(len(now), len(original), self._cut.get(part, len(now)))
                os.ftruncate(self._files[part], kept)
                os.ftruncate(self._files[part], len(original))
                now[kept:] = original[kept:]
                self._fill(part, kept // SECTOR * SECTOR)
        self._changed.clear()
        self._cut.clear()

    def _restore_range(self, part: int, at: int, length: int) -> None:
        original = self.specimen.parts[part].data
        piece = original[at : at + length]
        if piece and at <= len(self.now[part]):
            self.now[part][at : at + len(piece)] = piece
            os.pwrite(self._files[part], piece, at)

    def _fill(self, part: int, start: int) -> None:
        """Write what the specimen has from ``start`` on into a file that holds zeros there."""
        data, filled = self.specimen.parts[part].data, self._filled[part]
        for at in filled[bisect_left(filled, start) :]:
            os.pwrite(self._files[part], data[at : at + SECTOR], at)

    def close(self) -> None:
        """Close the files; they stay."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()
