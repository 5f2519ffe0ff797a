"""Opens what holds disks and configs together: archives whose members are read where they lie."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.containers import tar
from vmpack.ops.opening import detect_format
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.containers.base import Member
    from vmpack.formats.base import ImageReader, OpenOptions
    from vmpack.hypervisors.base import FileRef
    from vmpack.ops.importing import Found


def open_container(
    name: str,
    head: bytes,
    max_size: int | None,  # noqa: ARG001 - bounds what a compressed archive is spooled to
) -> tuple[ByteSource, Mapping[str, Member]] | None:
    """The archive ``name``, which begins with ``head``, and its members; ``None``: it is none.

    The caller closes the source. Raises what reading the archive raises.
    """
    if not tar.is_tar(head):
        return None
    source = ByteSource.open(name)
    try:
        return source, tar.members(source)
    except BaseException:
        source.close()
        raise


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
        if posixpath.dirname(one.name) == folder
    }
    image = detect_format(source, file.name, file.format)
    return image.open(source, replace(options, allow_backing=False, parents=(), given=given))
