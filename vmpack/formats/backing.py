"""Files that an image names: followed only where the caller allows it, and never as a protocol.

A name inside an image is data. It is resolved against the image's own folder, must end up in that
folder or in one that the caller listed, symbolic links included, and must be a regular file of a
format that the image states. Clauses are named after the caller's: ``QCOW2-REF`` and a number.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace

from vmpack import formats
from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError
from vmpack.formats.base import Format, ImageReader, OpenOptions
from vmpack.source import ByteSource

MAX_DEPTH = 64
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_protocol(name: str) -> bool:
    """Whether QEMU would take the name for a protocol's (``nbd:``, ``json:``), not for a path."""
    return _PROTOCOL.match(name.split("/", 1)[0]) is not None


def open_named(
    image: ByteSource, name: str, options: OpenOptions, *, what: str, clauses: str
) -> ByteSource:
    """Open the file that ``image`` names as its ``what`` ("backing file").

    Raises :class:`UnsafeError` when the caller did not allow it (clause 1), when the name is a
    protocol's (2) or leads outside the allowed folders, and when it is not a regular file (3).
    """
    shown = escape(name)
    if not options.allow_backing:
        raise UnsafeError(
            f"needs its {what} {shown!r}",
            path=image.path,
            clause=f"{clauses}-1",
            hint="--allow-backing follows names inside the image's own folder",
        )
    if not name or "\0" in name or is_protocol(name):
        raise UnsafeError(
            f"{what} {shown!r} is not the name of a file", path=image.path, clause=f"{clauses}-2"
        )
    folder = os.path.dirname(os.path.realpath(image.path))
    target = os.path.realpath(os.path.join(folder, name))
    roots = [folder, *(os.path.realpath(root) for root in options.backing_dirs)]
    if not any(os.path.commonpath([root, target]) == root for root in roots):
        raise UnsafeError(
            f"{what} {shown!r} lies outside the image's folder",
            path=image.path,
            clause=f"{clauses}-3",
            hint=f"allow its folder: --allow-backing-dir {escape(os.path.dirname(target))}",
        )
    return _open_regular(image, target, shown, what, f"{clauses}-3")


def open_beside(
    image: ByteSource, name: str, options: OpenOptions, *, what: str, clause: str
) -> ByteSource:
    """Open a part of ``image`` itself that lies beside it: ``name`` is one path component.

    A file of ``options.given`` comes first. Raises :class:`UnsafeError` for any other name, for a
    symbolic link, and for what is not a regular file.
    """
    if name in options.given:
        given = options.given[name]
        return given.slice(0, given.size)
    shown = escape(name)
    if not name or name in (".", "..") or "/" in name or "\0" in name or _PROTOCOL.match(name):
        raise UnsafeError(
            f"{what} {shown!r} is not the name of a file beside the image",
            path=image.path,
            clause=clause,
            hint="put the file into the image's folder, and name it there by its bare name",
        )
    target = os.path.join(os.path.dirname(os.path.realpath(image.path)), name)
    if os.path.islink(target):
        raise UnsafeError(f"{what} {shown!r} is a symbolic link", path=image.path, clause=clause)
    return _open_regular(image, target, shown, what, clause)


def _open_regular(image: ByteSource, target: str, shown: str, what: str, clause: str) -> ByteSource:
    source = ByteSource.open(target)
    if not stat.S_ISREG(os.fstat(source.fd).st_mode):
        source.close()
        raise UnsafeError(f"{what} {shown!r} is not a regular file", path=image.path, clause=clause)
    return source


def open_backing(
    image: ByteSource, name: str, format_name: str | None, options: OpenOptions, *, clauses: str
) -> ImageReader:
    """Open the backing image that ``image`` names, with its own backing chain.

    Raises as :func:`open_named`; :class:`UnsafeError` also when the image does not state the
    backing file's format (clause 4) or the chain is deeper than 64, :class:`DamagedError` when it
    is a cycle (5). A file of ``options.parents`` takes the place of the name.
    """
    if options.parents:
        source, options = _explicit(options)
    else:
        source = open_named(image, name, options, what="backing file", clauses=clauses)
    try:
        if format_name is None:
            raise UnsafeError(
                f"does not state the format of its backing file {escape(name)!r}",
                path=image.path,
                clause=f"{clauses}-4",
                hint="state it: qemu-img rebase -u -b BACKING -F FORMAT IMAGE",
            )
        found = formats.get(escape(format_name))
    except BaseException:
        source.close()
        raise
    return _open_next(image, source, found, options, f"{clauses}-5")


def open_parent(
    image: ByteSource, names: Sequence[str], found: Format, options: OpenOptions, *, clauses: str
) -> ImageReader:
    """Open the parent of a differencing image, of the same format ``found``.

    ``names`` are what the image calls it, in the order to try: of each the last component, after
    ``/`` or a backslash, is looked for in the allowed folders. A file of ``options.parents`` takes
    their place. The caller proves by the parent's own identifier that it is the right one.
    Raises as :func:`open_backing`.
    """
    if options.parents:
        source, options = _explicit(options)
    else:
        source = _named_parent(image, names, options, clauses)
    return _open_next(image, source, found, options, f"{clauses}-5")


def _named_parent(
    image: ByteSource, names: Sequence[str], options: OpenOptions, clauses: str
) -> ByteSource:
    shown = escape(names[0]) if names else "(no name)"
    if not options.allow_backing:
        raise UnsafeError(
            f"needs its parent {shown!r}",
            path=image.path,
            clause=f"{clauses}-1",
            hint="name it: --parent FILE (--allow-backing looks in the image's own folder)",
        )
    bases = dict.fromkeys(re.split(r"[/\\]", name)[-1] for name in names)
    for base in bases:
        if not base or base in (".", "..") or "\0" in base:
            continue
        for folder in (os.path.dirname(os.path.realpath(image.path)), *options.backing_dirs):
            target = os.path.join(os.path.realpath(folder), base)
            if os.path.isfile(target) and not os.path.islink(target):
                return _open_regular(image, target, shown, "parent", f"{clauses}-3")
    raise UnsafeError(
        f"its parent {shown!r} is not in the image's folder",
        path=image.path,
        clause=f"{clauses}-3",
        hint="name it: --parent FILE",
    )


def _explicit(options: OpenOptions) -> tuple[ByteSource, OpenOptions]:
    """The first of the files that the caller names as parents, and the options for it."""
    source = ByteSource.open(options.parents[0])
    return source, replace(options, parents=options.parents[1:])


def _open_next(
    image: ByteSource, source: ByteSource, found: Format, options: OpenOptions, clause: str
) -> ImageReader:
    try:
        chain = (*options.ancestors, _identity(image))
        if _identity(source) in chain:
            raise DamagedError(
                "the backing chain comes back to where it was", path=image.path, clause=clause
            )
        if len(chain) > MAX_DEPTH:
            raise UnsafeError(
                f"a backing chain deeper than {MAX_DEPTH} images", path=image.path, clause=clause
            )
    except BaseException:
        source.close()
        raise
    return found.open(source, replace(options, ancestors=chain, snapshot=None))


def _identity(source: ByteSource) -> tuple[int, int]:
    status = os.fstat(source.fd)
    return status.st_dev, status.st_ino
