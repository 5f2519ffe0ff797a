"""What ``vmpack pack`` is given: images, or a machine as another hypervisor describes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmpack import formats
from vmpack.bundle.writer import check_disk_id
from vmpack.errors import InputError, UsageError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.opening import open_image, require_idle, require_max_size, sources_of
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.hypervisors.report import Report
    from vmpack.machine import MachineConfig

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PackDisk:
    """A disk to pack: its id, its reader and what its source looked like at the start."""

    id: str
    path: str
    reader: ImageReader
    stamp: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything to pack: disks in the config's order, what describes the machine, its blobs."""

    disks: Sequence[PackDisk]
    config: MachineConfig | None
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    report: Report | None = None
    """What became of a foreign config's fields."""


def gather(
    stack: ExitStack,
    sources: Sequence[PathLike],
    disks: Mapping[str, PathLike],
    config: MachineConfig | None,
    *,
    format: str | None,  # noqa: A002 - the option's name
    options: OpenOptions,
    max_size: int | None,
) -> Gathered:
    """Open what is to be packed; ``stack`` closes it.

    One source may be a config that another hypervisor wrote, or an archive with one; then
    ``disks`` says which file a disk is where the config cannot. Raises what opening raises, and
    :class:`UsageError` for sources that do not fit together.
    """
    foreign = _foreign(stack, sources, disks, config, format, options, max_size)
    if foreign is not None:
        return foreign
    opened = [
        _open_disk(stack, disk_id, path, format, options, max_size)
        for disk_id, path in _assign_ids(sources, disks, config)
    ]
    return Gathered(opened, config)


def _foreign(
    stack: ExitStack,
    sources: Sequence[PathLike],
    disks: Mapping[str, PathLike],
    config: MachineConfig | None,
    format_name: str | None,
    options: OpenOptions,
    max_size: int | None,
) -> Gathered | None:
    """The machine of a foreign config, where that is what the sources are."""
    if not sources or format_name is not None:
        return None
    from vmpack.ops import importing

    found = None
    for number, source in enumerate(sources):
        found = importing.find(source, max_size=max_size)
        if found is not None and (number or len(sources) > 1):
            found.close()
            raise UsageError(
                "is a whole machine, and was given with other sources",
                path=os.fspath(source),
                hint="pack it alone; --disk ID=PATH names files that it cannot",
            )
    if found is None:
        return None
    stack.callback(found.close)
    if config is not None:
        raise UsageError(
            "describes a machine, and so does --config",
            path=found.path,
            hint="pack it without --config, or pack its disk images with it",
        )
    imported = importing.read_config(found)
    opened = importing.open_disks(stack, found, imported, disks=disks, options=options)
    packed = []
    for disk_id, reader in opened.readers.items():
        require_idle(reader)
        require_max_size(reader, max_size)
        packed.append(PackDisk(disk_id, opened.paths[disk_id], reader, _stamp(reader)))
    return Gathered(packed, imported.config, opened.blobs, imported.report)


def _assign_ids(
    sources: Sequence[PathLike], named: Mapping[str, PathLike], config: MachineConfig | None
) -> list[tuple[str, str]]:
    """``(disk id, path)`` in the config's order, then the order of the arguments."""
    given = {disk_id: os.fspath(path) for disk_id, path in named.items()}
    waiting = [os.fspath(path) for path in sources]
    assigned: dict[str, str] = {}
    for disk in (config.disks or ()) if config is not None else ():
        if disk.id in given:
            assigned[disk.id] = given.pop(disk.id)
        elif waiting and not disk.empty:
            assigned[disk.id] = waiting.pop(0)
    number = 0
    for path in waiting:
        disk_id = "root" if not assigned and "root" not in given else f"disk{number}"
        while disk_id in assigned or disk_id in given or disk_id == "disk0":
            number += 1
            disk_id = f"disk{number}"
        assigned[disk_id] = path
    assigned |= given
    if not assigned:
        raise UsageError("no disk image to pack", hint="name one: vmpack pack DISK -o NAME.vmpack")
    return list(assigned.items())


def _open_disk(
    stack: ExitStack,
    disk_id: str,
    path: str,
    format_name: str | None,
    options: OpenOptions,
    max_size: int | None,
) -> PackDisk:
    check_disk_id(disk_id)
    reader = open_image(path, format=format_name, options=options)
    stack.callback(reader.close)
    require_idle(reader)
    require_max_size(reader, max_size)
    return PackDisk(disk_id, path, reader, _stamp(reader))


def memory_disk(stack: ExitStack, disk_id: str, name: str, data: bytes) -> PackDisk:
    """A raw disk that exists in memory only; ``stack`` closes it."""
    fd = os.memfd_create("vmpack-disk", os.MFD_CLOEXEC)
    source = ByteSource(fd, path=name, size=len(data), owns_fd=True)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    reader = formats.get("raw").open(source, OpenOptions())
    stack.callback(reader.close)
    return PackDisk(disk_id, name, reader, _stamp(reader))


def _stamp(reader: ImageReader) -> list[tuple[int, int]]:
    """Size and time of change of each file that the image reads from."""
    states = [os.fstat(source.fd) for source in sources_of(reader)]
    return [(state.st_size, state.st_mtime_ns) for state in states]


def check_unchanged(one: PackDisk) -> None:
    """A source that was written meanwhile would be packed torn."""
    if one.stamp != _stamp(one.reader):
        raise InputError(
            "was changed while it was packed",
            path=one.path,
            hint="shut the machine that uses it down, then pack again",
        )
