"""Which format a file is, decided once, when it is opened.

Raw is never guessed: a guest controls what its disk begins with, so content must not choose the
parser. Raw is taken by the file's name or by ``-f raw``; a file named raw that begins with another
format's magic is refused until the caller says which it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vmpack import formats
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.formats import RAW_SUFFIXES
from vmpack.formats.base import Format
from vmpack.source import ByteSource


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that identify a format, ``offset`` bytes from the start (negative: from the end)."""

    format: str
    offset: int
    value: bytes


MAGICS = (
    Magic("qcow2", 0, b"QFI\xfb"),
    Magic("qed", 0, b"QED\0"),
    Magic("vmdk", 0, b"KDMV"),
    Magic("vmdk", 0, b"COWD"),
    Magic("vmdk", 0, b"# Disk DescriptorFile"),
    Magic("vmdk", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),  # an seSparse extent's first header
    Magic("vhdx", 0, b"vhdxfile"),
    Magic("vdi", 64, b"\x7f\x10\xda\xbe"),
    Magic("vhd", 0, b"conectix"),
    Magic("luks", 0, b"LUKS\xba\xbe"),
    Magic("parallels", 0, b"WithoutFreeSpace"),
    Magic("parallels", 0, b"WithouFreSpacExt"),
    Magic("bochs", 0, b"Bochs Virtual HD Image"),
    Magic("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    Magic("vmpack", 0, b"\x89VMPACK\n"),
    Magic("vma", 0, b"VMA\0"),
    Magic("ewf", 0, b"EVF\x09\x0d\x0a\xff\0"),
    Magic("wim", 0, b"MSWIM\0\0\0"),
    Magic("zstd", 0, b"\x28\xb5\x2f\xfd"),
    Magic("gzip", 0, b"\x1f\x8b\x08"),
    Magic("xz", 0, b"\xfd7zXZ\0"),
    Magic("bzip2", 0, b"BZh"),
    Magic("lz4", 0, b"\x04\x22\x4d\x18"),
    Magic("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    Magic("zip", 0, b"PK\x03\x04"),
    Magic("tar", 257, b"ustar"),
)

FOOTERS = (
    Magic("vhd", -512, b"conectix"),
    Magic("vhd", -511, b"conectix"),  # what Virtual PC before 2004 wrote
    Magic("dmg", -512, b"koly"),
)
"""Magics at a file's end. A guest can write its disk's last sector, so a footer never chooses the
parser of a file that its name does not already put there."""

_UNPACK_HINTS = {
    "zstd": "if it holds a raw disk, say so: -f raw.zst; else decompress it first: zstd -d FILE",
    "gzip": "if it holds a raw disk, say so: -f raw.gz; else decompress it first: gunzip FILE",
    "xz": "if it holds a raw disk, say so: -f raw.xz; else decompress it first: unxz FILE",
    "bzip2": "if it holds a raw disk, say so: -f raw.bz2; else decompress it first: bunzip2 FILE",
    "lz4": "decompress it first: lz4 -d FILE",
    "7z": "extract the disk image from it first",
    "zip": "extract the disk image from it first",
    "tar": "extract the disk image from it first (an OVA is a tar archive)",
}
_HEAD = 4096


def matches(source: ByteSource) -> list[str]:
    """Names of the formats whose magic the file starts with; each once, at most one as a rule."""
    head = source.pread(0, min(_HEAD, source.size))
    found = [m.format for m in MAGICS if head.startswith(m.value, m.offset)]
    return list(dict.fromkeys(found))


def footer_matches(source: ByteSource) -> list[str]:
    """Names of the formats whose magic stands in the file's last sector."""
    tail = source.pread(max(0, source.size - 512), min(512, source.size))
    if len(tail) < 512:
        return []
    found = [m.format for m in FOOTERS if tail.startswith(m.value, 512 + m.offset)]
    return list(dict.fromkeys(found))


def detect(source: ByteSource, path: str | os.PathLike[str], explicit: str | None = None) -> Format:
    """The format of an open file; ``explicit`` (``-f``) decides, whatever the file holds.

    Raises :class:`UnsafeError` when the file's name and its content, or two magics, disagree;
    :class:`UnsupportedError` when the format is known and not read, or not recognised; and
    :class:`DamagedError` when a file named after a format lacks that format's magic.
    """
    if explicit is not None:
        return formats.get(explicit)
    name = os.fspath(path)
    found = matches(source)
    suffix = os.path.splitext(name)[1].lower()
    if len(found) > 1:
        raise UnsafeError(
            f"is more than one format at once: {', '.join(found)}",
            path=name,
            clause="RAW-PROBE-3",
            hint=f"say which with -f {found[0]}",
        )
    if suffix in RAW_SUFFIXES:
        return _named_raw(name, suffix, found + footer_matches(source))
    stream = formats.stream_by_name(name)
    if stream is not None:
        return _named_stream(name, suffix, found, stream)
    if found:
        return _by_magic(name, found[0])
    return _without_magic(source, name, suffix)


def _named_raw(name: str, suffix: str, found: list[str]) -> Format:
    if found:
        raise UnsafeError(
            f"is named {suffix}, as a raw disk is, but has the magic of {found[0]}",
            path=name,
            clause="RAW-PROBE-2",
            hint=f"say which it is: -f raw or -f {found[0]}",
        )
    return formats.get("raw")


def _named_stream(name: str, suffix: str, found: list[str], stream: Format) -> Format:
    """A compressed raw disk by its name: whoever decodes it says whether it is one."""
    if found and found != [formats.STREAM_SUFFIXES[suffix]]:
        raise UnsafeError(
            f"is named as a raw disk compressed to {suffix} is, but has the magic of {found[0]}",
            path=name,
            clause="RAW-STREAM-4",
            hint=f"say which it is: -f {stream.name}, or the name of its format",
        )
    return stream


def _by_magic(name: str, found: str) -> Format:
    if found in formats.names():
        return formats.get(found)
    if found == "vmpack":
        raise UnsupportedError(
            "is a vmpack bundle, not a disk image",
            path=name,
            hint="name one of its disks: FILE#DISK",
        )
    what = formats.KNOWN_UNSUPPORTED.get(found, found)
    hint = _UNPACK_HINTS.get(found)
    if hint is None and found in formats.KNOWN_UNSUPPORTED:
        hint = f"convert it first: qemu-img convert -f {_qemu(found)} -O qcow2 FILE NEW.qcow2"
    raise UnsupportedError(f"format {found} ({what})", path=name, clause="RAW-PROBE-4", hint=hint)


def _qemu(name: str) -> str:
    return "vpc" if name == "vhd" else name


def _without_magic(source: ByteSource, name: str, suffix: str) -> Format:
    if suffix in (".vhd", ".vpc") and "vhd" in footer_matches(source):
        return _by_magic(name, "vhd")
    named = formats.by_suffix(name)
    if named is not None:
        raise DamagedError(
            f"is named {suffix} but has no {named.name} magic",
            path=name,
            offset=0,
            hint=f"if it is a raw disk, say so: -f raw (-f {named.name} shows what is wrong)",
        )
    if suffix.removeprefix(".") in formats.KNOWN_UNSUPPORTED:
        return _by_magic(name, suffix.removeprefix("."))
    head = source.pread(0, min(8, source.size)).hex(" ") or "nothing: the file is empty"
    raise UnsupportedError(
        f"format not recognised; it begins with {head}",
        path=name,
        offset=0,
        clause="RAW-PROBE-1",
        hint="if it is a raw disk, say so: -f raw",
    )
