"""The files of a machine that was found: where each is, and how it is opened.

What may be opened lies in the config's own container or folder, or where the caller allows it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import UnsafeError
from vmpack.formats.base import OpenOptions
from vmpack.hypervisors.base import FileRef, Imported
from vmpack.ops.members import (
    check_digests,
    chunks,
    first_name,
    is_packed,
    open_packed,
    open_zeros,
)
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.containers.base import Member
    from vmpack.formats.base import ImageReader
    from vmpack.ops.importing import Found

MAX_BLOB = 64 << 20


def locate(found: Found, file: FileRef, options: OpenOptions) -> str | None:
    """The member or path that a config's name stands for; ``None``: none that may be opened."""
    name = first_name(file).replace("\\", "/")
    if file.is_volume or not name or "\0" in name:
        return None
    if found.members is not None:
        plain = posixpath.normpath(name) if not name.startswith("/") else ""
        wanted = found.base + plain
        return wanted if wanted in found.members else None
    if found.trusted:
        return name if os.path.isabs(name) and os.path.exists(name) else None
    assert found.folder is not None
    folder = os.path.realpath(found.folder)
    roots = [folder, *(os.path.realpath(one) for one in options.backing_dirs)]
    candidates = [os.path.join(folder, name)]
    candidates += [os.path.join(root, posixpath.basename(name)) for root in roots]
    for candidate in candidates:
        target = os.path.realpath(candidate)
        if os.path.isfile(target) and any(
            os.path.commonpath([root, target]) == root for root in roots
        ):
            return target
    return None


def open_ref(found: Found, file: FileRef, options: OpenOptions) -> ImageReader:
    """Open the disk image that a config names; its place is known to be there.

    Raises what opening an image raises.
    """
    from vmpack.ops.containers import open_member
    from vmpack.ops.opening import open_image

    if file.blank:
        return open_zeros(file, options)
    place = locate(found, file, options)
    assert place is not None
    if found.members is None:
        with ExitStack() as stack:
            parts = [stack.enter_context(ByteSource.open(one)) for one in _pieces(file, place)]
            if file.chunk_size or is_packed(parts[0], file):
                return open_packed(parts, file, options, path=place)
        return open_image(place, format=file.format, options=_with_parents(found, file, options))
    assert found.container is not None
    member = found.members[place]
    label = f"{found.path}:{escape(place)}"
    if member.disk is not None:
        return member.disk(options)
    source = found.container.slice(member.offset, member.size)
    source.path = label
    if file.chunk_size or is_packed(source, file):
        names = chunks(file, found.members, found.base) or [first_name(file)]
        members = [found.members[found.base + name] for name in names]
        parts = [found.container.slice(one.offset, one.size) for one in members]
        return open_packed(parts, file, options, path=label)
    return open_member(found, source, file, options)


def _with_parents(found: Found, file: FileRef, options: OpenOptions) -> OpenOptions:
    """The images that the config says this one holds changes to, unless the caller names them."""
    if options.parents or not file.parents:
        return options
    places = [locate(found, FileRef(name), options) for name in file.parents]
    parents = tuple(place for place in places if place is not None)
    return replace(options, parents=parents) if len(parents) == len(places) else options


def _pieces(file: FileRef, first: str) -> list[str]:
    """Paths of the file's pieces, beside the first one."""
    if not file.chunk_size:
        return [first]
    folder = os.path.dirname(first)
    there = {f"{posixpath.dirname(file.name)}/{name}".lstrip("/") for name in os.listdir(folder)}
    return [os.path.join(folder, posixpath.basename(name)) for name in chunks(file, there)]


def check_manifest(found: Found, imported: Imported, given: Mapping[str, str]) -> None:
    """The digests that came with the config, but of files in whose place others were named."""
    excused = {first_name(imported.disks[disk_id]) for disk_id in given}

    def opened(name: str) -> ByteSource | None:
        if found.members is not None:
            assert found.container is not None
            member = found.members.get(found.base + name)
            if member is None or member.disk is not None:
                return None
            source = found.container.slice(member.offset, member.size)
            source.path = f"{found.path}:{escape(name)}"
            return source
        place = locate(found, FileRef(name), OpenOptions())
        return None if place is None else ByteSource.open(place)

    check_digests(imported.manifest, opened, path=found.path, excused=excused)


def blob(found: Found, file: FileRef, options: OpenOptions) -> bytes | None:
    """NVRAM or TPM state; ``None`` where the file is not there."""
    place = locate(found, file, options)
    if place is None:
        return None
    if found.members is not None:
        assert found.container is not None
        member = found.members[place]
        if member.disk is not None:
            return _blob_of_disk(member, options, found.path)
        size, source = member.size, found.container.slice(member.offset, member.size)
    else:
        source = ByteSource.open(place)
        size = source.size
    try:
        if size > MAX_BLOB:
            raise UnsafeError(f"{size} bytes are no NVRAM", path=f"{found.path}: {escape(place)}")
        return source.pread(0, size)
    finally:
        if found.members is None:
            source.close()


def permanent_state(data: bytes) -> bytes | None:
    """A TPM's state, out of swtpm's linear layout where it is in that (a volume of Proxmox)."""
    from vmpack.runner.tpm import MAGIC, from_linear

    return from_linear(data) if data.startswith(MAGIC) else data


def _blob_of_disk(member: Member, options: OpenOptions, path: str) -> bytes:
    """NVRAM or TPM state that an archive keeps as it keeps a disk."""
    assert member.disk is not None
    if member.size > MAX_BLOB:
        raise UnsafeError(f"{member.size} bytes are no NVRAM", path=f"{path}:{escape(member.name)}")
    reader = member.disk(options)
    try:
        return reader.read(0, reader.virtual_size)
    finally:
        reader.close()
