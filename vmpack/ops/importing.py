"""Opens a machine as another hypervisor describes it: its config, and the disks that it names.

A config's file names are data. What lies in the same container, or in the config's own folder,
is opened; anything else only if the caller says which file is which (``--disk ID=PATH``) or allows
its folder (``--allow-backing-dir``). Disks in uncompressed containers are read where they lie.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack import hypervisors
from vmpack.binary import escape
from vmpack.errors import InputError, UnsafeError, UnsupportedError, UsageError
from vmpack.formats.base import OpenOptions
from vmpack.hypervisors.base import MAX_CONFIG, ConfigSource, FileRef, Hypervisor, Imported
from vmpack.ops.import_files import (
    blob,
    check_manifest,
    locate,
    open_ref,
    permanent_state,
)
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.containers.base import Member
    from vmpack.formats.base import ImageReader

PathLike = str | os.PathLike[str]
HEAD = 1 << 16
"""Bytes of a file that may tell that it is a config."""
LIBVIRT = "libvirt:"
UTM_CONFIG = "config.plist"


@dataclass(frozen=True, slots=True)
class Found:
    """A config source that was recognised: nothing of its disks is open yet."""

    path: str
    hypervisor: Hypervisor
    config: ConfigSource
    folder: str | None
    """The folder beside which names are looked for; ``None`` in a container."""
    container: ByteSource | None = None
    members: Mapping[str, Member] | None = None
    base: str = ""
    """The container's folder in which the config lies, with its ``/``."""
    trusted: bool = False
    """The config is this host's own (a live domain): its absolute paths are followed."""

    def close(self) -> None:
        """Give the container back. Closing twice is harmless."""
        if self.container is not None:
            self.container.close()


def find(path: PathLike, *, max_size: int | None = None) -> Found | None:
    """The config that ``path`` is or holds; ``None`` for a disk image or a bundle.

    Raises :class:`InputError` when it cannot be opened, and what its container raises.
    """
    name = os.fspath(path)
    if name.startswith(LIBVIRT):
        return _live(name)
    if os.path.isdir(name):
        return _in_folder(name)
    if name == "-" or ("#" in name and not os.path.lexists(name)):
        return None
    with ByteSource.open(name) as source:
        if _is_disk(source, name):
            return None
        head = source.pread(0, min(HEAD, source.size))
        known = hypervisors.recognise(os.path.basename(name), head)
        if known is not None and known.read is not None:
            return Found(name, known, _config(source, name), os.path.dirname(name) or ".")
    return _in_container(name, head, max_size)


_ARCHIVES = {"tar", "gzip", "zstd", "xz", "bzip2", "vma"}


def _is_disk(source: ByteSource, name: str) -> bool:
    """Whether name or magic says disk image, or bundle: then no hypervisor need be asked."""
    from vmpack import formats
    from vmpack.formats.probe import matches

    if name.lower().endswith(formats.RAW_SUFFIXES):
        return True
    return bool(set(matches(source)) - _ARCHIVES)


def _config(source: ByteSource, name: str) -> ConfigSource:
    if source.size > MAX_CONFIG:
        raise UnsafeError(
            f"a config of {source.size} bytes, at most {MAX_CONFIG} are read", path=name
        )
    folder = os.path.dirname(name) or "."
    beside = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    # A lock of VMware's is a folder.
    locks = (entry for entry in os.scandir(folder) if entry.name.endswith(".lck"))
    beside |= {f"{entry.name}/": 0 for entry in locks if entry.is_dir()}
    return ConfigSource(os.path.basename(name), source.pread(0, source.size), beside)


def _in_folder(folder: str) -> Found | None:
    """The one config of a folder (an OVF appliance, a VMware or UTM machine)."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if entry.name.endswith(".utm") and os.path.isfile(os.path.join(entry.path, UTM_CONFIG)):
            found.append((hypervisors.names().index("utm"), os.path.join(entry.path, UTM_CONFIG)))
        # A link may lead out of a folder that came from elsewhere.
        if not entry.is_file(follow_symlinks=False):
            continue
        with ByteSource.open(entry.path) as source:
            known = hypervisors.recognise(entry.name, source.pread(0, min(HEAD, source.size)))
        if known is not None and known.read is not None:
            found.append((hypervisors.names().index(known.name), entry.path))
    if not found:
        raise InputError(
            "is a folder without a config that vmpack reads", path=folder, hint="name the file"
        )
    best = [path for rank, path in found if rank == min(found)[0]]
    if len(best) > 1:
        names = ", ".join(escape(os.path.basename(path)) for path in best[:5])
        raise UsageError(f"holds more than one config: {names}", path=folder, hint="name one")
    return find(best[0])


def _live(name: str) -> Found:
    known = hypervisors.get("libvirt")
    assert known.live is not None
    return Found(name, known, known.live(name), None, trusted=True)


def _in_container(name: str, head: bytes, max_size: int | None) -> Found | None:
    from vmpack.ops.containers import open_container

    opened = open_container(name, head, max_size)
    if opened is None:
        return None
    source, members = opened
    try:
        best: tuple[int, str, Hypervisor] | None = None
        for member in members.values():
            if member.size > MAX_CONFIG or member.disk is not None:
                continue
            start = source.pread(member.offset, min(HEAD, member.size))
            known = hypervisors.recognise(posixpath.basename(member.name), start)
            if known is None or known.read is None:
                continue
            rank = hypervisors.names().index(known.name)
            if best is None or rank < best[0]:
                best = rank, member.name, known
        if best is None:
            raise UnsupportedError(
                "is an archive without a config that vmpack reads",
                path=name,
                hint="take the disk image out of it, and name that",
            )
        _, chosen, known = best
        base = chosen[: chosen.rfind("/") + 1]
        beside = {
            one.name.removeprefix(base): one.size
            for one in members.values()
            if one.name.startswith(base)
        }
        member = members[chosen]
        config = ConfigSource(
            posixpath.basename(chosen), source.pread(member.offset, member.size), beside
        )
        return Found(name, known, config, None, source, members, base)
    except BaseException:
        source.close()
        raise


def read_config(found: Found) -> Imported:
    """The machine that a config describes; no disk is opened, none need be there."""
    known = found.hypervisor
    assert known.read is not None
    config = found.config
    if known.wants is not None:
        extra = {}
        for name in known.wants(config):
            data = _small(found, name)
            if data is not None:
                extra[name] = data
        config = replace(config, extra=extra)
    return known.read(config)


def _small(found: Found, name: str) -> bytes | None:
    """A small file beside the config; ``None`` where it is not there."""
    if name not in found.config.members or found.config.members[name] > MAX_CONFIG:
        return None
    if found.members is not None and found.container is not None:
        member = found.members[found.base + name]
        if member.disk is not None:
            return None
        return found.container.pread(member.offset, member.size)
    if found.folder is None or "/" in name or "\\" in name:
        return None
    path = os.path.join(found.folder, name)
    if os.path.islink(path):
        return None
    with ByteSource.open(path) as source:
        return source.pread(0, source.size)


@dataclass(frozen=True, slots=True)
class Opened:
    """The disks and blobs of an imported machine."""

    readers: Mapping[str, ImageReader]
    paths: Mapping[str, str]
    """Disk id -> what messages call its file."""
    blobs: Mapping[str, bytes]


def open_disks(
    stack: ExitStack,
    found: Found,
    imported: Imported,
    *,
    disks: Mapping[str, PathLike] | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    options: OpenOptions | None = None,
) -> Opened:
    """Open every disk of the machine; ``disks`` says which file an id is, whatever the config says.

    Closed by ``stack``. Raises :class:`UsageError` with the ``--disk`` options to give when a file
    is not found or not allowed, :class:`UnsafeError` for a machine that is running.
    """
    options = options or OpenOptions()
    if imported.running:
        raise UnsafeError(
            "is running: its disks change while they are read",
            path=found.path,
            hint=imported.running_hint or "shut the machine down first",
        )
    given = {disk_id: os.fspath(path) for disk_id, path in (disks or {}).items()}
    unknown = sorted(set(given) - set(imported.disks))
    if unknown:
        raise UsageError(
            f"the config has no disk {unknown[0]!r}",
            field="--disk",
            hint=f"its disks are {', '.join(imported.disks) or 'none'}",
        )
    _require_found(found, imported, given, options)
    check_manifest(found, imported, given)
    readers: dict[str, ImageReader] = {}
    paths: dict[str, str] = {}
    for disk_id, file in imported.disks.items():
        if disk_id in given:
            reader = _open_path(given[disk_id], format, options)
        else:
            reader = open_ref(found, file, options)
        stack.callback(reader.close)
        readers[disk_id], paths[disk_id] = reader, reader.path
    blobs = {}
    for name, file in imported.blobs.items():
        data = blob(found, file, options)
        if data is not None and name == "tpm-state":
            data = permanent_state(data)
        if data is not None:
            blobs[name] = data
    return Opened(readers, paths, blobs)


def missing_disks(
    found: Found, imported: Imported, given: Collection[str], options: OpenOptions
) -> list[tuple[str, FileRef]]:
    """The disks, by id, whose file is neither ``given`` nor found where it may be opened."""
    return [
        (disk_id, file)
        for disk_id, file in imported.disks.items()
        if disk_id not in given and not file.blank and locate(found, file, options) is None
    ]


def _require_found(
    found: Found, imported: Imported, given: Mapping[str, str], options: OpenOptions
) -> None:
    """Every disk has a file, or one error names all that lack one."""
    lost = missing_disks(found, imported, given, options)
    if not lost:
        return
    disk_id, file = lost[0]
    what = "a volume, not a file" if file.is_volume else "not beside the config"
    raise UsageError(
        f"disk {disk_id!r} is {escape(file.name[:200])!r}, {what}",
        path=found.path,
        field="--disk",
        hint="say which file it is: " + " ".join(f"--disk {one}=PATH" for one, _ in lost),
    )


def _open_path(path: str, format_name: str | None, options: OpenOptions) -> ImageReader:
    from vmpack.ops.opening import open_image

    return open_image(path, format=format_name, options=options)


def volumes(imported: Imported) -> Sequence[str]:
    """Ids of the disks whose files only the user can name."""
    return [disk_id for disk_id, file in imported.disks.items() if file.is_volume]
