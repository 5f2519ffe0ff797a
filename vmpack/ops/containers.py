"""Opens what holds disks and configs together: archives whose members are read where they lie."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from vmpack.containers import tar, vma, xva
from vmpack.errors import UnsupportedError
from vmpack.ops.opening import detect_format
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.containers.base import Member
    from vmpack.formats.base import ImageReader, OpenOptions
    from vmpack.hypervisors.base import FileRef
    from vmpack.ops.importing import Found


_CODECS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
}
INCUS_INDEX = b"backup/index.yaml\0"
_LZOP = b"\x89LZO\0\r\n\x1a\n"


def open_container(
    name: str, head: bytes, max_size: int | None
) -> tuple[ByteSource, Mapping[str, Member]] | None:
    """The archive ``name``, which begins with ``head``, and its members; ``None``: it is none.

    A compressed archive is decoded once, into an unlinked file of at most ``max_size`` bytes.
    The caller closes the source. Raises what reading the archive raises.
    """
    if head.startswith(_LZOP):
        raise UnsupportedError(
            "is compressed with lzop", path=name, hint=f"decompress it first: lzop -d {name}"
        )
    codec = next((codec for magic, codec in _CODECS.items() if head.startswith(magic)), None)
    if codec is None and _members_of(head) is None:
        return None
    source = ByteSource.open(name)
    try:
        if codec is not None:
            spooled = _decoded(source, codec, max_size)
            if spooled is None:
                source.close()
                return None
            source.close()
            source, head = spooled
        members = _members_of(head)
        assert members is not None
        return source, members(source)
    except BaseException:
        source.close()
        raise


def _xva_members(source: ByteSource) -> dict[str, Member]:
    from vmpack.hypervisors.xen.ova import virtual_sizes

    return xva.members(source, virtual_sizes)


def _members_of(head: bytes) -> Callable[[ByteSource], dict[str, Member]] | None:
    """What lists the members of the archive that begins with ``head``."""
    if xva.is_xva(head):
        return _xva_members
    if tar.is_tar(head):
        if INCUS_INDEX in head[:2048]:
            return partial(tar.members, skip_links=True)
        return tar.members
    return vma.members if vma.is_vma(head) else None


def _decoded(
    source: ByteSource, codec: str, max_size: int | None
) -> tuple[ByteSource, bytes] | None:
    """The archive in the compressed ``source``, and its first bytes; ``None``: there is none."""
    from vmpack.formats.raw_stream.codecs import decoded
    from vmpack.formats.raw_stream.spool import Limits, spooled

    pieces = decoded(source, codec)
    first = b""
    for piece in pieces:
        first += piece
        if len(first) >= 512:
            break
    if _members_of(first) is None:
        return None
    limits = Limits(source.path, source.size, max_size)
    return spooled(chain([first], pieces), path=source.path, limits=limits), first


def open_member(
    found: Found, source: ByteSource, file: FileRef, options: OpenOptions
) -> ImageReader:
    """The disk image that the member ``source`` of an archive is.

    Extents that it names are the archive's members beside it; it has no backing files.
    """
    assert found.members is not None
    assert found.container is not None
    folder = posixpath.dirname(found.base + file.name)
    given = {
        posixpath.basename(one.name): found.container.slice(one.offset, one.size)
        for one in found.members.values()
        if posixpath.dirname(one.name) == folder and one.disk is None
    }
    image = detect_format(source, file.name, file.format)
    return image.open(source, replace(options, allow_backing=False, parents=(), given=given))
