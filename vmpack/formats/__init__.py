"""The registry of disk formats.

A format is one module (or folder) that builds a :class:`~vmpack.formats.base.Format` called
``FORMAT``, and one line here. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from vmpack.formats.base import Format

_MODULES = {
    "raw": "vmpack.formats.raw",
    "qcow2": "vmpack.formats.qcow2",
    "vhdx": "vmpack.formats.vhdx",
    "vmdk": "vmpack.formats.vmdk",
    "vhd": "vmpack.formats.vhd",
    "vdi": "vmpack.formats.vdi.format",
}

RAW_SUFFIXES = (".raw", ".img", ".iso")
"""Names of raw images: their content never chooses another format."""

STREAM_SUFFIXES = {".zst": "zstd", ".gz": "gzip", ".xz": "xz", ".bz2": "bzip2"}
"""What a compressed raw disk's name has behind one of :data:`RAW_SUFFIXES`, and the codec."""

KNOWN_UNSUPPORTED = {
    "bochs": "Bochs growing image",
    "cloop": "cloop image",
    "dmg": "Apple disk image",
    "luks": "LUKS-encrypted disk",
    "parallels": "Parallels image",
    "qcow": "qcow version 1",
    "qed": "QED image",
}
"""Formats that vmpack knows by name or magic and does not read."""


STREAMS = {f"raw{suffix}": codec for suffix, codec in STREAM_SUFFIXES.items()}
"""Compressed raw disks, by the names that ``-f`` takes: they are read and never written."""


def names() -> tuple[str, ...]:
    """The formats that vmpack reads, by the names that ``-f`` and ``-O`` take."""
    return tuple(_MODULES)


def get(name: str) -> Format:
    """The format called ``name`` (any case; an alias will do).

    Raises :class:`UnsupportedError` for a format that vmpack knows but does not read, and
    :class:`UsageError` for any other name.
    """
    wanted = name.lower()
    if wanted in _MODULES:
        return _load(wanted)
    if wanted in STREAMS:
        return _load_stream(STREAMS[wanted])
    if wanted in KNOWN_UNSUPPORTED:
        raise UnsupportedError(
            f"format {wanted} ({KNOWN_UNSUPPORTED[wanted]})",
            hint=f"convert it first: qemu-img convert -f {wanted} -O qcow2 IMAGE NEW.qcow2",
        )
    for candidate in names():
        if wanted in _load(candidate).aliases:
            return _load(candidate)
    raise UsageError(
        f"unknown format {name!r}", hint=f"formats are {', '.join((*names(), *STREAMS))}"
    )


def stream_by_name(path: str | os.PathLike[str]) -> Format | None:
    """The compressed raw disk that the file's name promises (``disk.raw.zst``), or ``None``."""
    stem, suffix = os.path.splitext(os.fspath(path).lower())
    if suffix in STREAM_SUFFIXES and stem.endswith(RAW_SUFFIXES):
        return _load_stream(STREAM_SUFFIXES[suffix], named=True)
    return None


def by_suffix(path: str | os.PathLike[str]) -> Format | None:
    """The format that the file name's suffix stands for, or ``None``."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    for name in names():
        found = _load(name)
        if suffix in found.suffixes:
            return found
    return None


def _load(name: str) -> Format:
    module = importlib.import_module(_MODULES[name])
    found: Format = module.FORMAT
    return found


def _load_stream(codec: str, *, named: bool = False) -> Format:
    from vmpack.formats.raw_stream import stream_format

    return stream_format(codec, named=named)
