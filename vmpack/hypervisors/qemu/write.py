"""What the export for QEMU consists of, and what becomes of each field of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vmpack.errors import PinUnavailableError, UnsupportedError, VmpackError
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.qemu.script import CODE_FILE, NVRAM_FILE, SCRIPT, TPM_FILES, script
from vmpack.hypervisors.report import Report
from vmpack.machine import MachineConfig
from vmpack.machine.plain import NOT_OBSERVABLE
from vmpack.runner.blocks import is_written

__all__ = ["disk_file", "plan"]

CONFIG = "vm.toml"
IN_CONFIG = f"in {CONFIG}, which vmpack pack takes"


def disk_file(disk_id: str) -> str:
    """Name of a disk's image."""
    return f"{disk_id}.qcow2"


def plan(machine: Machine) -> Plan:
    """Plan the export. Raises :class:`UnsupportedError` for what no QEMU has."""
    report = Report("export", "qemu")
    how: dict[str, str] = {}
    config = _without_buslogic(machine.config, how)
    nvram = _nvram(machine, report)
    try:
        text = script(config, nvram=nvram is not None)
    except PinUnavailableError as exc:
        raise UnsupportedError(exc.message, field=exc.field, hint=exc.hint) from exc
    _verdicts(machine.config, how, report)
    files = [
        TextFile(SCRIPT, text.encode(), executable=True),
        TextFile(CONFIG, machine.config.to_toml().encode()),
        *_blobs(machine, nvram, report),
    ]
    disks = [DiskFile(one, disk_file(one), "qcow2") for one in machine.disks]

    def render(_: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        return files

    return Plan(
        disks=disks,
        render=render,
        report=report,
        instructions=(f"./{SCRIPT}", f"VM_FORWARD=2222:22 VM_DISPLAY=gtk ./{SCRIPT}"),
    )


def _nvram(machine: Machine, report: Report) -> bytes | None:
    """The variables as raw flash; ``None`` where OVMF could not use what there is."""
    data = machine.blobs.get("nvram")
    if data is None:
        return None
    if machine.config.firmware.kind != "uefi":
        report.approximated("nvram", "kept as blobs/nvram: a machine with BIOS has no use for it")
        return None
    from vmpack.machine.nvram import parse, to_raw

    try:
        raw = to_raw(data)
        parse(raw)
    except VmpackError as exc:
        report.approximated(
            "nvram",
            f"kept as blobs/nvram, and the machine starts with new variables: {exc.message}",
        )
        return None
    report.kept("nvram", NVRAM_FILE)
    return raw


def _blobs(machine: Machine, nvram: bytes | None, report: Report) -> Iterator[TextFile]:
    """NVRAM, TPM state and firmware where the script looks for them; others as they are."""
    config = machine.config
    for name, data in machine.blobs.items():
        if name == "nvram" and nvram is not None:
            yield TextFile(NVRAM_FILE, nvram)
        elif name == "nvram":
            yield TextFile("blobs/nvram", data)
        elif name == "tpm-state" and config.tpm is not None:
            yield TextFile(TPM_FILES[config.tpm.version or "2.0"], data)
            report.kept(name, TPM_FILES[config.tpm.version or "2.0"])
        elif name == config.firmware.blob:
            from vmpack.machine.nvram import to_raw

            yield TextFile(CODE_FILE, to_raw(data))
            report.kept(name, CODE_FILE)
        else:
            yield TextFile(f"blobs/{name}", data)
            report.kept(name, f"blobs/{name}")


def _without_buslogic(config: MachineConfig, how: dict[str, str]) -> MachineConfig:
    """No QEMU has a BusLogic controller: its disks hang on an LSI 53C895A behind the others."""
    moved = [one for one in config.controllers if one.bus == "buslogic"]
    if not moved:
        return config
    used = [one.index for one in config.controllers if one.bus == "lsilogic"]
    first = max(used, default=-1) + 1
    index = {one.index: first + number for number, one in enumerate(moved)}
    why = "lsilogic: QEMU has no BusLogic controller"
    controllers, disks = list(config.controllers), list(config.disks or ())
    for number, one in enumerate(controllers):
        if one.bus == "buslogic":
            how[f"controller[{number}].bus"] = why
            change: dict[str, object] = {"bus": "lsilogic", "index": index[one.index]}
            controllers[number] = one.model_copy(update=change)
    for number, disk in enumerate(disks):
        if disk.bus == "buslogic":
            how[f"disk[{number}].bus"] = why
            change = {"bus": "lsilogic", "controller": index[disk.controller or 0]}
            disks[number] = disk.model_copy(update=change)
    return config.model_copy(update={"controllers": tuple(controllers), "disks": tuple(disks)})


def _verdicts(config: MachineConfig, how: dict[str, str], report: Report) -> None:
    """Every field that is set, by its path in the config."""
    for number, nic in enumerate(config.nics or ()):
        if nic.network == "none":
            how[f"nic[{number}].network"] = "the cable is in, and leads nowhere"
        elif nic.network != "user":
            how[f"nic[{number}].network"] = "a network behind NAT: the script knows no other"
    for number, disk in enumerate(config.disks or ()):
        if disk.read_only and is_written(disk):
            how[f"disk[{number}].read-only"] = (
                f"{disk.bus} disks have no write protection: what is written is thrown away"
            )
    if config.firmware.kind == "bios" and not config.firmware.blob:
        how["firmware.digest"] = "QEMU's own SeaBIOS starts it, whatever its digest"
    for path, _ in _leaves(config.to_json_dict()):
        top = path.split(".")[0].split("[")[0]
        if path in how:
            report.approximated(path, how[path])
        elif top in NOT_OBSERVABLE - {"name"} or top == "hyperv-generation":
            report.kept(path, IN_CONFIG)
        else:
            report.kept(path)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value of a JSON document with its path, such as ``disk[0].bus``."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value
