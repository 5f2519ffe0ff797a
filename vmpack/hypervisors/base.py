"""What every hypervisor's module offers: reading its configs, writing them, or both.

Modules here know configs, not disks: they name the files that disks are, and :mod:`vmpack.ops`
opens and writes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vmpack.hypervisors.report import Report

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

MAX_CONFIG = 16 << 20
"""Bytes of a config that are read: the largest real ones are OVFs with licence texts."""


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """A config to read: its text, and what stands beside it."""

    name: str
    """Base name of the file, or the domain's name."""
    data: bytes
    members: Mapping[str, int] = field(default_factory=dict)
    """Names (relative, with ``/``) and sizes of the files of its container or folder."""
    extra: Mapping[str, bytes] = field(default_factory=dict)
    """Small files of the container that were asked for (:attr:`Hypervisor.wants`)."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file that a config names. A name is data: :mod:`vmpack.ops` decides what it may open."""

    name: str
    """A path as the config has it, ``/`` between components."""
    format: str | None = None
    """The disk format that the config states, by vmpack's name."""
    gzip: bool = False
    is_volume: bool = False
    """The name is of a storage pool or volume: only ``--disk ID=PATH`` says which file it is."""
    chunk_size: int = 0
    """Bytes of each piece but the last, where the file is ``NAME.000000000`` and so on."""
    blank: int = 0
    """Bytes of an all-zero disk that no file holds."""
    parents: tuple[str, ...] = ()
    """Names of the images that this one holds changes to, nearest first, where the config has
    them: they are found as the image itself is."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A machine as its config describes it, before pins."""

    config: MachineConfig
    disks: Mapping[str, FileRef]
    """Disk id -> file, for every disk of the config that is not empty."""
    report: Report
    blobs: Mapping[str, FileRef] = field(default_factory=dict)
    """``nvram`` and ``tpm-state``, where the config names a file for them."""
    running: bool = False
    """The machine is on: its disks change under a reader."""
    running_hint: str = ""
    """What to do about that; empty: shut it down."""
    manifest: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """File name -> (``sha256``, hex digest) as the container's manifest promises."""


@dataclass(frozen=True, slots=True)
class ExportDisk:
    """A disk to export: facts, not content."""

    id: str
    virtual_size: int
    """Bytes, a multiple of 512."""
    stored_size: int
    """Bytes of data: what a sparse file of it would occupy, roughly."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an exporter is given."""

    config: MachineConfig
    """Pinned."""
    disks: Mapping[str, ExportDisk]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """``nvram``, ``tpm-state`` and the bundle's other blobs."""
    options: Mapping[str, str] = field(default_factory=dict)
    """``manifest`` (``sha256``, ``sha1``, ``none``) and others that a target documents."""
    folder: str = ""
    """Absolute path of the folder that is written, for targets that take no other paths."""
    bundle: str | None = None
    """Path of the bundle, for ``--in-place``."""
    windows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Disk id -> (offset, size) of its window in the bundle, for ``--in-place``."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk image that an export consists of."""

    disk: str
    name: str
    """Relative to the output folder, or the member's name in the container."""
    format: str
    options: Mapping[str, str] = field(default_factory=dict)
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class WrittenDisk:
    """A disk image after it was written."""

    size: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """Hex digests of the file by algorithm, those that :attr:`Plan.digests` asked for."""
    files: Sequence[str] = ()
    """Every file of the image, the first included."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of an export that is not a disk."""

    name: str
    data: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export will consist of, known before a disk is written."""

    disks: Sequence[DiskFile]
    render: Callable[[Mapping[str, WrittenDisk]], Sequence[TextFile]]
    """The other files, given the disks by id. Same input, same bytes. Called more than once; the
    lengths of a container's files must not depend on the disks (pad sizes with white space)."""
    report: Report
    instructions: Sequence[str]
    """Exact commands that import the result, a line each."""
    container: Literal["", "tar", "tar.gz"] = ""
    container_name: str = ""
    order: Sequence[str] = ()
    """Names of the container's members in their order; every file and disk is in it once."""
    digests: Sequence[str] = ()
    """Algorithms (``sha256``, ``sha1``) by which each disk's file is digested."""
    in_place: bool = False
    """The disks stay in the bundle."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target takes: the table that ``vmpack lint`` holds a machine against."""

    disk_buses: tuple[str, ...] = ()
    nic_models: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ("bios", "uefi")
    secure_boot: bool = True
    tpm: bool = True
    max_disk: int = 0
    """Bytes of one disk; 0: no limit that vmpack knows."""
    max_cpus: int = 0
    max_memory: int = 0
    """Bytes."""
    disk_alignment: int = 512
    """Bytes that a disk's size has to be a multiple of."""
    name_pattern: str = ""
    """Regular expression for the machine's name; empty: any."""
    source: str = ""
    """The document that says so."""


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """One hypervisor: what ``--to`` calls it, and how its configs are read and written."""

    name: str
    title: str
    reads: tuple[str, ...] = ()
    """What is read, for the table in README: ``.vmx``, ``.ovf``..."""
    writes: str = ""
    """What is written, for the table in README."""
    recognise: Callable[[str, bytes], bool] | None = None
    """Whether the file with this base name and these first 64 KiB is a config of this one."""
    wants: Callable[[ConfigSource], Sequence[str]] | None = None
    """Names of members to be read (at most 16 MiB each) into ``extra`` before :attr:`read`."""
    read: Callable[[ConfigSource], Imported] | None = None
    """Raises :class:`DamagedError`, :class:`UnsupportedError` or :class:`UnsafeError`."""
    plan: Callable[[Machine], Plan] | None = None
    """Raises :class:`UnsupportedError` for a machine that the target cannot hold at all."""
    live: Callable[[str], ConfigSource] | None = None
    """The config of a machine that runs on this host, by its address (``libvirt:///name``)."""
    limits: Limits | None = None
    proven_by: str = ""
    """``tool NAME``, ``foreign sample`` or ``structure only``: README's column."""
    same_as: str = ""
    """The hypervisor in whose ``verbatim`` this one's fields are kept, where it is another."""
