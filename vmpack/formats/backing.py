"""Files that an image names: followed only where the caller allows it, and never as a protocol.

A name inside an image is data. It is resolved against the image's own folder, must end up in that
folder or in one that the caller listed, symbolic links included, and must be a regular file of a
format that the image states.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace

from vmpack import formats
from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.source import ByteSource

MAX_DEPTH = 64
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def open_named(image: ByteSource, name: str, options: OpenOptions, *, what: str) -> ByteSource:
    """Open the file that ``image`` names as its ``what`` ("backing file").

    Raises :class:`UnsafeError` when the caller did not allow it, when the name is a protocol's or
    leads outside the allowed folders, and when it is not a regular file.
    """
    shown = escape(name)
    if not options.allow_backing:
        raise UnsafeError(
            f"needs its {what} {shown!r}",
            path=image.path,
            clause="QCOW2-REF-1",
            hint="--allow-backing follows names inside the image's own folder",
        )
    head = name.split("/", 1)[0]
    if not name or "\0" in name or _PROTOCOL.match(head):
        raise UnsafeError(
            f"{what} {shown!r} is not the name of a file", path=image.path, clause="QCOW2-REF-2"
        )
    folder = os.path.dirname(os.path.realpath(image.path))
    target = os.path.realpath(os.path.join(folder, name))
    roots = [folder, *(os.path.realpath(root) for root in options.backing_dirs)]
    if not any(os.path.commonpath([root, target]) == root for root in roots):
        raise UnsafeError(
            f"{what} {shown!r} lies outside the image's folder",
            path=image.path,
            clause="QCOW2-REF-3",
            hint=f"allow its folder: --allow-backing-dir {escape(os.path.dirname(target))}",
        )
    source = ByteSource.open(target)
    if not stat.S_ISREG(os.fstat(source.fd).st_mode):
        source.close()
        raise UnsafeError(
            f"{what} {shown!r} is not a regular file", path=image.path, clause="QCOW2-REF-3"
        )
    return source


def open_backing(
    image: ByteSource, name: str, format_name: str | None, options: OpenOptions
) -> ImageReader:
    """Open the backing image that ``image`` names, with its own backing chain.

    Raises as :func:`open_named`; :class:`UnsafeError` also when the image does not state the
    backing file's format or the chain is deeper than 64, :class:`DamagedError` when it is a cycle.
    """
    source = open_named(image, name, options, what="backing file")
    try:
        if format_name is None:
            raise UnsafeError(
                f"does not state the format of its backing file {escape(name)!r}",
                path=image.path,
                clause="QCOW2-REF-4",
                hint="state it: qemu-img rebase -u -b BACKING -F FORMAT IMAGE",
            )
        chain = (*options.ancestors, _identity(image))
        if _identity(source) in chain:
            raise DamagedError(
                "the backing chain comes back to where it was",
                path=image.path,
                clause="QCOW2-REF-5",
            )
        if len(chain) > MAX_DEPTH:
            raise UnsafeError(
                f"a backing chain deeper than {MAX_DEPTH} images",
                path=image.path,
                clause="QCOW2-REF-5",
            )
        found = formats.get(escape(format_name))
    except BaseException:
        source.close()
        raise
    return found.open(source, replace(options, ancestors=chain, snapshot=None))


def _identity(source: ByteSource) -> tuple[int, int]:
    status = os.fstat(source.fd)
    return status.st_dev, status.st_ino
