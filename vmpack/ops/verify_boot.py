"""``--verify-boot``: what was written is read back as a machine, and boots.

Profile: specs/cli-v1.md, "Proven to boot". The files stay what they are: they are packed once more,
into a bundle that is thrown away, and that bundle is booted as the target would show the machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vmpack.errors import UsageError, VmpackError
from vmpack.progress import SILENT, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from vmpack.machine import MachineConfig
    from vmpack.ops.convert import ConvertResult
    from vmpack.ops.exporting import ExportResult
    from vmpack.ops.unpack import UnpackResult
    from vmpack.runner.options import Qemu, RunOptions
    from vmpack.verify.boot import Boot

__all__ = [
    "PROFILE_OF",
    "BootProof",
    "prove_export",
    "prove_image",
    "prove_unpacked",
    "require_provable",
]

PROFILE_OF: Mapping[str, str] = {
    "vmware": "vmware",
    "esxi": "vmware",
    "virtualbox": "virtualbox",
    "hyperv": "hyperv",
    "azure": "azure",
    "proxmox": "proxmox",
}
"""Target -> the profile that it is booted as; the others run on QEMU, or say nothing of devices."""
LEVEL = 1
"""The bundle is read once, and thrown away."""


@dataclass(frozen=True, slots=True)
class BootProof:
    """The boot of what was written."""

    boot: Boot
    machine: Literal["read-back", "config"]
    """What described it: the files that were written, or the source's config where vmpack reads no
    config of that target."""
    profile: str | None
    """As :data:`PROFILE_OF` has it."""
    notes: tuple[str, ...]
    """Safe to print."""

    @property
    def exit_code(self) -> int:
        """That of the boot's ending."""
        return self.boot.ending.exit_code

    def as_dict(self) -> dict[str, object]:
        """The JSON object ``verify-boot``."""
        return {
            "good": self.boot.good,
            "kind": self.boot.ending.kind,
            "exit-code": self.exit_code,
            "machine": self.machine,
            "as": self.profile,
            "notes": list(self.notes),
            "boot": self.boot.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class _Job:
    """How it is booted."""

    options: RunOptions | None
    qemu: Qemu | None
    progress: Progress


def require_provable(config: MachineConfig, target: str) -> None:
    """Raise :class:`InfrastructureError` where QEMU cannot imitate what would be written.

    Said before anything is written, not after.
    """
    if target in PROFILE_OF:
        from vmpack.verify.imitate import require_possible

        require_possible(config, PROFILE_OF[target])


def prove_export(
    result: ExportResult,
    source: MachineConfig,
    blobs: Mapping[str, bytes],
    *,
    options: RunOptions | None = None,
    qemu: Qemu | None = None,
    progress: Progress = SILENT,
) -> BootProof:
    """Boot what :func:`vmpack.ops.exporting.export` wrote; ``source`` is the machine as it was.

    What is expected of the boot, and its checks, are the source's: no hypervisor's config has them.
    Raises what reading the files back raises, and :class:`InfrastructureError` when the machine
    cannot start here.
    """
    job = _Job(options, qemu, progress)
    with _folder() as folder:
        bundle = os.path.join(folder, "proof.vmpack")
        readable = _config_among(result)
        if readable is not None:
            path, disks = readable
            _pack([path], bundle, job, disks=disks)
        else:
            files = _written(folder, blobs)
            _pack([], bundle, job, disks=dict(result.disks), config=source, blobs=files)
        return _boot(bundle, job, source, PROFILE_OF.get(result.target), readable is not None)


def prove_unpacked(
    result: UnpackResult,
    *,
    options: RunOptions | None = None,
    qemu: Qemu | None = None,
    progress: Progress = SILENT,
) -> BootProof:
    """Boot what :func:`vmpack.ops.unpack.unpack` wrote: its images, by its ``vm.toml``."""
    from pathlib import Path

    from vmpack.machine import MachineConfig

    job = _Job(options, qemu, progress)
    config_file, *others = result.files
    config = MachineConfig.from_toml(Path(config_file))
    blobs = {os.path.basename(path): path for path in others}
    with _folder() as folder:
        bundle = os.path.join(folder, "proof.vmpack")
        _pack([], bundle, job, disks=dict(result.disks), config=config, blobs=blobs)
        return _boot(bundle, job, config, None, read_back=True)


def prove_image(
    result: ConvertResult,
    *,
    options: RunOptions | None = None,
    qemu: Qemu | None = None,
    progress: Progress = SILENT,
) -> BootProof:
    """Boot the image that :func:`vmpack.ops.convert.convert` wrote, as the only disk of a machine.

    The machine is that of the source, where that is a disk of a bundle; otherwise what ``vmpack
    pack`` makes of an image alone. Raises :class:`UsageError` where no image was written.
    """
    if result.dry_run or result.target == "-":
        raise UsageError(
            "there is no image to boot", field="--verify-boot", hint="write to a file, for real"
        )
    job = _Job(options, qemu, progress)
    config, blobs = _of_source(result.source)
    with _folder() as folder:
        bundle = os.path.join(folder, "proof.vmpack")
        files = _written(folder, blobs)
        name = _format_name(result.target_format)
        if config is None:
            _pack([result.target], bundle, job, format_name=name)
        else:
            only = config.disks or ()
            disks = {only[0].id: result.target}
            _pack([], bundle, job, disks=disks, config=config, blobs=files, format_name=name)
        return _boot(bundle, job, config, None, read_back=config is None)


def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the bundle: on disk, as it may be large."""
    from vmpack.runner.scratch import temporary_folder

    return tempfile.TemporaryDirectory(prefix="vmpack-proof-", dir=temporary_folder())


def _written(folder: str, blobs: Mapping[str, bytes]) -> dict[str, str]:
    """The machine's state as files, by the names of their blobs."""
    from vmpack.bundle.manifest import NVRAM, TPM_STATE

    found = {}
    for name in (NVRAM, TPM_STATE):
        if name in blobs:
            found[name] = os.path.join(folder, name)
            with open(found[name], "wb") as file:
                file.write(blobs[name])
    return found


def _config_among(result: ExportResult) -> tuple[str, dict[str, str]] | None:
    """The written file that vmpack reads as a machine; ``None`` where there is none.

    With the disks that it names by volumes, as the files that they are here.
    """
    from vmpack.ops import importing

    written = dict(result.disks)
    for path in result.files:
        try:
            found = importing.find(path)
            if found is None:
                continue
            try:
                imported = importing.read_config(found)
            finally:
                found.close()
        except VmpackError:
            continue
        volumes = [one for one in importing.volumes(imported) if one in written]
        return path, {disk_id: written[disk_id] for disk_id in volumes}
    return None


def _format_name(qemu_name: str) -> str:
    from vmpack import formats

    return next((name for name in formats.names() if formats.get(name).qemu_name == qemu_name), "")


def _of_source(source: str) -> tuple[MachineConfig | None, Mapping[str, bytes]]:
    """The machine whose disk was converted, with that disk alone, and its state."""
    from vmpack.bundle import Bundle
    from vmpack.ops.opening import is_bundle, parse_target

    path, disk_id = parse_target(source)
    if source == "-" or not os.path.isfile(path) or not is_bundle(path):
        return None, {}
    with Bundle.open(path) as bundle:
        config = bundle.config
        wanted = disk_id or bundle.disks[0].id
        disks = tuple(one for one in config.disks or () if one.id == wanted)
        blobs = {blob.name: bundle.blob(blob.name) for blob in bundle.manifest.blobs}
    if not disks:
        return None, {}
    return config.model_copy(update={"disks": disks}), blobs


def _pack(
    sources: Sequence[str],
    bundle: str,
    job: _Job,
    *,
    disks: Mapping[str, str] | None = None,
    config: MachineConfig | None = None,
    blobs: Mapping[str, str] | None = None,
    format_name: str | None = None,
) -> None:
    from vmpack.ops.pack import pack

    pack(
        sources,
        bundle,
        format=format_name or None,
        disks=disks,
        config=config,
        blobs=blobs,
        level=LEVEL,
        progress=job.progress,
    )


def _boot(
    path: str | Path, job: _Job, source: MachineConfig | None, profile: str | None, read_back: bool
) -> BootProof:
    """Boot the bundle as ``profile`` would show it."""
    from vmpack.bundle import Bundle
    from vmpack.ops.running import complete
    from vmpack.runner.options import RunOptions
    from vmpack.verify.boot import boot_once
    from vmpack.verify.imitate import imitate

    notes: tuple[str, ...] = ()
    with Bundle.open(path) as bundle:
        config = _watched(bundle.config, source)
        if profile is not None:
            config, notes = imitate(config, profile)
        job.progress.stage("booting what was written", None)
        boot = complete(
            boot_once(
                bundle,
                job.options or RunOptions(),
                config=config,
                qemu=job.qemu,
                observe=False,
                changed=("--verify-boot",),
            )
        )
    return BootProof(boot, "read-back" if read_back else "config", profile, notes)


def _watched(config: MachineConfig, source: MachineConfig | None) -> MachineConfig:
    """``config`` with what a verification looks through, and what ``source`` expects.

    A serial port and the guest agent's channel say how a machine boots; they do not make it boot.
    """
    from vmpack.machine import MachineConfig as Config
    from vmpack.machine import hardware as hw
    from vmpack.machine.placement import give_addresses, give_controllers

    update: dict[str, object] = {}
    if not config.serials:
        update["serials"] = (hw.SerialPort(port=0, model="isa-serial"),)
    if source is not None:
        update |= {"expected": source.expected, "verify": source.verify}
        update |= {"guest_agent": config.guest_agent or source.guest_agent}
        update |= {"pvpanic": config.pvpanic or source.pvpanic}
    placed = give_addresses(give_controllers(config.model_copy(update=update)))
    return Config.from_json_dict(placed.to_json_dict())
