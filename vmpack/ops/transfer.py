"""A machine on its way to another hypervisor: from a bundle, or straight from another's config."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from vmpack import hypervisors
from vmpack.batches import data_bytes
from vmpack.errors import UsageError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.hypervisors.base import ExportDisk, Machine
from vmpack.ops.exporting import ExportResult, export
from vmpack.ops.opening import sources_of
from vmpack.progress import SILENT, Progress
from vmpack.units import round_up

if TYPE_CHECKING:
    from vmpack.bundle.reader import Bundle
    from vmpack.machine import MachineConfig
    from vmpack.runner.options import RunOptions

PathLike = str | os.PathLike[str]
Identity = Literal["keep", "new", "derive"]


def export_bundle(
    bundle: PathLike,
    out_dir: PathLike,
    to: str,
    *,
    identity: Identity = "keep",
    options: Mapping[str, str] | None = None,
    in_place: bool = False,
    strict: bool = False,
    lint: bool = True,
    force: bool = False,
    verify: bool = True,
    boot: RunOptions | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write the machine in ``bundle`` for the hypervisor ``to``. The bundle stays as it is.

    ``options`` are the target's own (``manifest``: ``sha256``, ``sha1`` or ``none``).
    ``in_place`` leaves the disks in the bundle, where the target can use them there. Without
    ``lint`` a machine that the target cannot hold, as far as vmpack knows, is written all the same.
    With ``boot`` what was written is booted (:mod:`vmpack.ops.verify_boot`), so run.
    Raises as :func:`vmpack.ops.exporting.export`, and what opening the bundle raises.
    """
    from vmpack.bundle import Bundle
    from vmpack.machine import MachineConfig

    target = hypervisors.get(to)
    if in_place and to != "libvirt":
        raise UsageError(
            f"{to} cannot use disks inside a bundle", field="--in-place", hint="drop --in-place"
        )
    if in_place and boot is not None:
        raise UsageError(
            "no disk is written that could be booted",
            field="--verify-boot",
            hint="the disks stay in the bundle: vmpack verify boots it",
        )
    with Bundle.open(bundle) as opened, ExitStack() as stack:
        manifest = opened.manifest
        config = MachineConfig.from_json_dict(manifest.config, path=os.fspath(bundle))
        config = _identified(config, manifest.machine_id, identity)
        readers = {
            disk.id: _bundle_disk(opened, disk.id, disk.exact_size) for disk in manifest.disks
        }
        for reader in readers.values():
            stack.callback(reader.close)
        machine = Machine(
            config=config,
            disks=_facts(readers),
            blobs={blob.name: opened.blob(blob.name) for blob in manifest.blobs},
            options=dict(options or {}),
            folder=os.path.abspath(os.fspath(out_dir)),
            bundle=os.path.abspath(os.fspath(bundle)) if in_place else None,
            windows={disk.id: (disk.window_offset, disk.window_size) for disk in manifest.disks}
            if in_place
            else {},
        )
        _require_provable(config, to, boot)
        result = export(
            target,
            machine,
            readers,
            os.fspath(out_dir),
            inputs=[opened.source],
            force=force,
            verify=verify,
            strict=strict,
            lint=lint,
            workers=workers,
            progress=progress,
        )
    return _proven(result, machine, boot, progress)


def transfer(
    source: PathLike,
    out_dir: PathLike,
    to: str,
    *,
    disks: Mapping[str, PathLike] | None = None,
    identity: Identity = "keep",
    options: Mapping[str, str] | None = None,
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
    max_size: int | None = None,
    strict: bool = False,
    lint: bool = True,
    force: bool = False,
    verify: bool = True,
    boot: RunOptions | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write the machine that ``source`` describes (an OVA, a VMX, ...) for the hypervisor ``to``.

    No bundle is made on the way. The result's report has both directions. A bundle as ``source``
    will do as well. Raises as :func:`export_bundle` and as reading the config does.
    """
    from vmpack.ops.opening import is_bundle

    is_file = not os.fspath(source).startswith("libvirt:") and not os.path.isdir(source)
    if is_file and is_bundle(source):
        return export_bundle(
            source,
            out_dir,
            to,
            identity=identity,
            options=options,
            strict=strict,
            lint=lint,
            force=force,
            verify=verify,
            boot=boot,
            workers=workers,
            progress=progress,
        )
    from vmpack.ops.pack import pinned_config
    from vmpack.ops.pack_sources import gather

    target = hypervisors.get(to)
    allowed = OpenOptions(
        allow_backing=allow_backing,
        backing_dirs=tuple(backing_dirs),
        parents=tuple(parents),
        max_size=max_size,
    )
    with ExitStack() as stack:
        gathered = gather(
            stack, [source], disks or {}, None, format=None, options=allowed, max_size=max_size
        )
        if gathered.report is not None and strict:
            gathered.report.require_nothing_dropped(os.fspath(source))
        readers = {one.id: one.reader for one in gathered.disks}
        machine = Machine(
            config=pinned_config(gathered, None, identity),
            disks=_facts(readers),
            blobs=gathered.blobs,
            options=dict(options or {}),
            folder=os.path.abspath(os.fspath(out_dir)),
        )
        _require_provable(machine.config, to, boot)
        result = export(
            target,
            machine,
            readers,
            os.fspath(out_dir),
            inputs=[one for reader in readers.values() for one in sources_of(reader)],
            force=force,
            verify=verify,
            strict=strict,
            lint=lint,
            workers=workers,
            progress=progress,
        )
        if gathered.report is not None:
            told = {"import": gathered.report.as_dict(), "export": dict(result.report)}
            result = replace(result, report=told)
    return _proven(result, machine, boot, progress)


def _require_provable(config: MachineConfig, to: str, boot: RunOptions | None) -> None:
    if boot is not None:
        from vmpack.ops.verify_boot import require_provable

        require_provable(config, to)


def _proven(
    result: ExportResult, machine: Machine, boot: RunOptions | None, progress: Progress
) -> ExportResult:
    """The result, with the boot of what was written where that was asked for."""
    if boot is None:
        return result
    from vmpack.ops.verify_boot import prove_export

    proof = prove_export(result, machine.config, machine.blobs, options=boot, progress=progress)
    return replace(result, proof=proof)


def _bundle_disk(bundle: Bundle, disk_id: str, exact_size: int) -> ImageReader:
    from vmpack.ops.bundle_disk import BundleDisk

    return BundleDisk(bundle.disk(disk_id), None, exact_size)


def _facts(readers: Mapping[str, ImageReader]) -> dict[str, ExportDisk]:
    return {
        disk_id: ExportDisk(disk_id, round_up(reader.virtual_size, 512), data_bytes(reader))
        for disk_id, reader in readers.items()
    }


def _identified(config: MachineConfig, machine_id: str, identity: Identity) -> MachineConfig:
    """The config with the identity that was asked for; addresses and devices stay as they are."""
    if identity == "keep":
        return config
    from vmpack.machine.pins import with_identity

    derived = hashlib.sha256(b"vmpack-identity-v1\0" + machine_id.encode()).digest()
    return with_identity(config, os.urandom(32) if identity == "new" else derived)
