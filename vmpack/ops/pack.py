"""``vmpack pack``: disk images, a config and files become one bundle."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vmpack.bundle.manifest import MAX_BLOB, Manifest
from vmpack.bundle.writer import (
    BundleWriter,
    check_blob_name,
    default_cluster_size,
)
from vmpack.errors import RefusedError, UsageError
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.writer import DEFAULT_LEVEL
from vmpack.machine import canonical
from vmpack.ops.opening import sources_of
from vmpack.ops.pack_sources import Gathered, PackDisk, check_unchanged, gather, memory_disk
from vmpack.output import Output
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.machine import DiskFacts, MachineConfig

PathLike = str | os.PathLike[str]
Identity = Literal["keep", "new", "derive"]


@dataclass(frozen=True, slots=True)
class PackResult:
    """The bundle that was written."""

    path: str
    id: str
    machine_id: str
    size: int
    """Bytes of the bundle."""
    disks: tuple[Mapping[str, object], ...]
    """The manifest's entries: id, virtual-size, stored-size, content-digest, window, ..."""
    config: Mapping[str, object]
    sync_seconds: float
    """Time spent waiting for the disk (fsync)."""
    report: Mapping[str, object] | None = None
    """What became of each field of a foreign config."""

    def as_dict(self) -> dict[str, object]:
        """The JSON document of ``vmpack pack``."""
        return {
            "filename": self.path,
            "format": "vmpack",
            "id": self.id,
            "machine-id": self.machine_id,
            "name": self.config.get("name"),
            "size": self.size,
            "disks": [dict(disk) for disk in self.disks],
            "config": dict(self.config),
            "sync-milliseconds": round(self.sync_seconds * 1000),
            **({} if self.report is None else {"report": dict(self.report)}),
        }


def pack(
    sources: Sequence[PathLike],
    output: PathLike,
    *,
    format: str | None = None,  # noqa: A002 - the option's name
    config: MachineConfig | None = None,
    config_path: PathLike | None = None,
    disks: Mapping[str, PathLike] | None = None,
    blobs: Mapping[str, PathLike] | None = None,
    cloud_init: PathLike | None = None,
    name: str | None = None,
    identity: Identity = "keep",
    level: int = DEFAULT_LEVEL,
    cluster_size: int | None = None,
    workers: int | None = None,
    allow_backing: bool = False,
    backing_dirs: Sequence[PathLike] = (),
    parents: Sequence[str] = (),
    max_size: int | None = None,
    strict: bool = False,
    reported: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> PackResult:
    """Write a bundle of ``sources`` (images, the boot disk first) to ``output``.

    One source may be a machine as another hypervisor describes it (an OVA, a VMX, ...): its config
    is taken over, and ``disks`` names the files that it cannot. ``strict`` refuses to drop a field,
    ``reported`` a source of which there is nothing to report.

    ``config`` or the TOML file ``config_path`` describes the machine; what it leaves open is
    pinned from vmpack's own table. Images take the ids of the config's disks in order, then
    ``root``, ``disk1``, ``disk2``...; ``disks`` gives an image to an id by name. ``blobs`` are
    files to keep, by name (``nvram`` and ``tpm-state`` are the machine's). ``cloud_init`` is user
    data that becomes a CD-ROM for cloud-init, the disk ``seed``.
    ``cluster_size`` in bytes holds for all disks. ``max_size`` bounds each disk's virtual size in
    bytes.

    Raises :class:`UsageError` for arguments that do not fit together, :class:`InputError`,
    :class:`RefusedError` or :class:`DamagedError` for sources, :class:`OutputError` for the output;
    on any error nothing is written.
    """
    _check_level(level)
    if os.fspath(output) == "-":
        raise UsageError(
            "a bundle is no stream: its first bytes are written last",
            hint="name a file; ./- if it is called so",
        )
    wanted = _load_config(config, config_path)
    options = OpenOptions(
        allow_backing=allow_backing,
        backing_dirs=tuple(os.fspath(one) for one in backing_dirs),
        parents=tuple(parents),
        max_size=max_size,
    )
    if parents and len(sources) + len(disks or {}) > 1:
        raise UsageError(
            "parents are given for more than one disk",
            field="--parent",
            hint="pack the disk with the parents alone, or flatten it with vmpack convert first",
        )
    with ExitStack() as stack:
        gathered = gather(
            stack,
            sources,
            disks or {},
            wanted,
            format=format,
            options=options,
            max_size=max_size,
        )
        wanted = gathered.config
        opened = list(gathered.disks)
        if cloud_init is not None:
            opened.append(_seed(stack, cloud_init, opened, wanted, name))
        if reported and gathered.report is None:
            raise UsageError(
                "there is nothing to report: the source is no hypervisor's config",
                field="--report",
                hint="drop --report",
            )
        if strict and gathered.report is not None:
            gathered.report.require_nothing_dropped(os.fspath(sources[0]))
        inputs = [source for one in opened for source in sources_of(one.reader)]
        _require_other(output, [*(blobs or {}).values(), *([config_path] if config_path else [])])
        kept = dict(gathered.blobs)
        kept |= {
            blob_name: _read_blob(blob_name, path) for blob_name, path in (blobs or {}).items()
        }
        # What does not fit together is said at once, not after the hours that packing may take.
        # In a thread: loading the schema takes as long as packing 50 MiB.
        early = stack.enter_context(ThreadPoolExecutor(1)).submit(
            _pin, wanted, opened, [], name, identity
        )
        out = stack.enter_context(Output(output, force=force, inputs=inputs, mode=0o444))
        if out.device_size is not None:
            early.result()
        progress = _Guarded(progress, early)
        plan = [
            (
                one.id,
                default_cluster_size(one.reader.virtual_size)
                if cluster_size is None
                else cluster_size,
            )
            for one in opened
        ]
        spool_dir = os.path.dirname(out.path) if out.device_size is None else None
        writer = stack.enter_context(
            BundleWriter(out, plan, level=level, workers=workers, spool_dir=spool_dir)
        )
        digests = [(one.id, writer.add_disk(one.reader, progress=progress)) for one in opened]
        for blob_name, data in kept.items():
            writer.add_blob(blob_name, data)
        early.result()
        for one in opened:
            check_unchanged(one)
        pinned = _pin(wanted, opened, digests, name, identity)
        manifest = writer.finish(pinned.to_json_dict(), pinned.observable(), _provenance(gathered))
        progress.stage("syncing", None)
        out.commit()
        report = None if gathered.report is None else gathered.report.as_dict()
        return replace(describe(os.fspath(output), manifest, out.sync_seconds), report=report)


class _Guarded:
    """Passes progress on, and ends the operation once ``early`` has found what is wrong."""

    def __init__(self, inner: Progress, early: Future[MachineConfig]):
        self._inner = inner
        self._early = early

    def stage(self, name: str, total_bytes: int | None) -> None:
        self._inner.stage(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        if self._early.done():
            self._early.result()
        self._inner.advance(done_bytes)


def _seed(
    stack: ExitStack,
    user_data: PathLike,
    opened: Sequence[PackDisk],
    config: MachineConfig | None,
    name: str | None,
) -> PackDisk:
    """The disk from which cloud-init takes ``user_data``."""
    from vmpack.ops.seed import DISK_ID, seed_image

    if DISK_ID in {one.id for one in opened}:
        raise UsageError(
            f"there is a disk {DISK_ID!r} already",
            field="--cloud-init",
            hint="call it something else",
        )
    known = config.name if config is not None else None
    called = name or known or (_default_name(opened[0].path) if opened else "vm")
    return memory_disk(stack, DISK_ID, "seed.iso", seed_image(user_data, config, called))


def _check_level(level: int) -> None:
    if not 1 <= level <= 22:
        raise UsageError(f"level {level} is not from 1 to 22", hint="3 is the default; 19 is small")


def _load_config(
    config: MachineConfig | None, config_path: PathLike | None
) -> MachineConfig | None:
    if config_path is None:
        return config
    if config is not None:
        raise UsageError("both a config and a config file were given")
    from vmpack.machine import MachineConfig

    return MachineConfig.from_file(config_path)


def _require_other(output: PathLike, inputs: Sequence[PathLike]) -> None:
    """No file that is read whole before the output is opened is the output."""
    for path in inputs:
        if os.path.exists(output) and os.path.exists(path) and os.path.samefile(path, output):
            raise UsageError(
                "input and output are the same file",
                path=output,
                hint="name another output",
            )


def _read_blob(name: str, path: PathLike) -> bytes:
    check_blob_name(name)
    with ByteSource.open(path) as source:
        if source.size > MAX_BLOB:
            raise RefusedError(
                f"{source.size} bytes, at most {MAX_BLOB} are kept as a file of the bundle",
                path=source.path,
                hint="pack it as a disk: --disk ID=PATH",
            )
        return source.pread(0, source.size)


def _pin(
    config: MachineConfig | None,
    opened: Sequence[PackDisk],
    digests: Sequence[tuple[str, str]],
    name: str | None,
    identity: Identity,
) -> MachineConfig:
    from vmpack.machine import DiskFacts, pin, read_boot_layout

    facts: list[DiskFacts] = []
    for one in opened:
        reader = one.reader
        kind: Literal["disk", "cdrom"] = "cdrom" if one.path.lower().endswith(".iso") else "disk"
        layout = read_boot_layout(reader.read, reader.virtual_size)
        facts.append(DiskFacts(one.id, reader.virtual_size, kind=kind, layout=layout))
    described = config.observable() if config is not None else {}
    seed = canonical.dumps({"config": described, "disks": [list(pair) for pair in digests]})
    if name is None and (config is None or config.name is None):
        name = _default_name(opened[0].path)
    return pin(
        config,
        facts,
        seed=hashlib.sha256(b"vmpack-identity-v1\0" + seed).digest(),
        name=name,
        identity=identity,
    )


def pinned_config(gathered: Gathered, name: str | None, identity: Identity) -> MachineConfig:
    """The machine that was gathered, every choice pinned; no disk is read whole for it.

    Raises :class:`UsageError` for a machine that cannot be.
    """
    return _pin(gathered.config, gathered.disks, [], name, identity)


def _default_name(path: str) -> str:
    """The first source's name without its suffixes, in characters that every host takes."""
    stem = os.path.basename(path.partition("#")[0]).split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:64] or "vm"


def _provenance(gathered: Gathered) -> dict[str, object]:
    """Where the bundle came from, without a path of the host that made it."""
    from vmpack import __version__

    found: dict[str, object] = {
        "vmpack": __version__,
        "sources": [
            {"id": one.id, "format": one.reader.format.qemu_name} for one in gathered.disks
        ],
    }
    if gathered.report is not None:
        found["import"] = gathered.report.as_dict()
    return found


def describe(path: str, manifest: Manifest, sync_seconds: float) -> PackResult:
    """The result for a bundle just written with this manifest."""
    raw = manifest.encode()
    return PackResult(
        path=path,
        id="sha256:" + hashlib.sha256(raw).hexdigest(),
        machine_id=manifest.machine_id,
        size=manifest.index_offset + manifest.index_size + len(raw),
        disks=tuple(disk.as_dict() for disk in manifest.disks),
        config=manifest.config,
        sync_seconds=sync_seconds,
    )
