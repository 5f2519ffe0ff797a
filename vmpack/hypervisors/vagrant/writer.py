"""Writes boxes for vagrant-libvirt. Profile: specs/hypervisors/vagrant.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.account import Account
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.writer import file_stem
from vmpack.hypervisors.vagrant.reader import CARRIED
from vmpack.hypervisors.vagrant.vagrantfile import Value, quoted
from vmpack.units import GiB, MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk

_UEFI = (
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
)
"""Where distributions keep UEFI: Debian and Ubuntu, Fedora, Arch, SUSE."""
_OTHERWISE = "Vagrant makes the machine anew on each host, and has no setting for it"


def plan_box(machine: Machine) -> Plan:
    """``metadata.json``, ``Vagrantfile`` and the disks, gzip'd.

    One disk is a box of format v1, more of them one of v2. Raises :class:`UnsupportedError` for a
    machine without a hard disk.
    """
    config = machine.config
    account = Account("vagrant", config)
    disks = [disk for disk in config.disks or () if disk.kind != "cdrom" and not disk.empty]
    if not disks:
        raise UnsupportedError("a box holds hard disks, and the machine has none", field="disk")
    single = len(disks) == 1
    files = [
        DiskFile(disk.id, "box.img" if single else f"{disk.id}.img", "qcow2") for disk in disks
    ]
    for number, disk in enumerate(config.disks or ()):
        if disk not in disks:
            account.dropped(f"disk[{number}]", "a box holds no CD-ROM")
    carried = _given_back(config, account)
    vagrantfile = "\n".join(_vagrantfile(config, disks, account, carried)) + "\n"
    texts = [
        TextFile("metadata.json", _metadata(machine, disks, files, single, account)),
        TextFile("Vagrantfile", vagrantfile.encode()),
    ]
    for name in machine.blobs:
        account.report.dropped(f"blob {name}", _OTHERWISE)
    name = file_stem(config.name or "machine")

    def render(written: Mapping[str, WrittenDisk]) -> list[TextFile]:  # noqa: ARG001
        return texts

    box = shlex.quote(f"{machine.folder or '.'}/{name}.box")
    return Plan(
        disks=files,
        render=render,
        report=account.finish({}, _OTHERWISE),
        instructions=[
            f"vagrant box add --provider libvirt --name {name} {box}",
            f"vagrant init {name}",
            "vagrant up --provider libvirt",
        ],
        container="tar.gz",
        container_name=f"{name}.box",
        order=["metadata.json", "Vagrantfile", *(one.name for one in files)],
    )


def _metadata(
    machine: Machine,
    disks: list[Disk],
    files: list[DiskFile],
    single: bool,
    account: Account,
) -> bytes:
    if single:
        size = machine.disks[disks[0].id].virtual_size
        found: dict[str, object] = {
            "provider": "libvirt",
            "format": "qcow2",
            # In GB, which vagrant-libvirt takes for GiB.
            "virtual_size": max(1, -(-size // GiB)),
        }
    else:
        found = {
            "provider": "libvirt",
            "disks": [
                {"path": file.name, "name": disk.id, "format": "qcow2"}
                for disk, file in zip(disks, files, strict=True)
            ],
        }
        account.report.approximated("metadata.json", "format v2, which vagrant-libvirt has as new")
    return (json.dumps(found, indent=2) + "\n").encode()


def _given_back(config: MachineConfig, account: Account) -> dict[str, Value]:
    """Carried settings, held to what was carried: a bundle may come from a stranger."""
    found: dict[str, Value] = {}
    for field in config.verbatim.get("vagrant", ()):
        name = field.key.removeprefix("libvirt.")
        try:
            value = json.loads(field.value)
        except (ValueError, RecursionError):
            value = None
        usable = isinstance(value, (str, int, bool)) and not names_host(str(value))
        if name in CARRIED and name != field.key and usable and name not in found:
            found[name] = value
            account.report.kept(f"verbatim.vagrant {field.key}", "given back")
        else:
            account.report.dropped(f"verbatim.vagrant {field.key}", "not a plain setting")
    return found


def _vagrantfile(
    config: MachineConfig, disks: list[Disk], account: Account, carried: Mapping[str, Value]
) -> Iterator[str]:
    yield "# Written by vmpack."
    yield 'Vagrant.configure("2") do |config|'
    yield "  config.vm.provider :libvirt do |libvirt|"
    for name, value in {**dict(_settings(config, disks, account)), **carried}.items():
        yield f"    libvirt.{name} = {quoted(value)}"
    yield from (f"    {line}" for line in _calls(config, account))
    yield "  end"
    yield "end"


def _settings(
    config: MachineConfig, disks: list[Disk], account: Account
) -> Iterator[tuple[str, Value]]:
    cpu, first = config.cpu, disks[0]
    account.approximated("name", "the box's name; Vagrant names the machine after its folder")
    if config.memory is not None:
        yield "memory", config.memory // MiB
        account.kept("memory", "memory")
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    yield "cpus", count
    if config.machine is not None:
        yield "machine_type", config.machine
        account.kept("machine", "machine_type")
    yield "machine_arch", "x86_64"
    account.kept("architecture", "machine_arch")
    yield from _cpu_model(config, account)
    yield from _bus(config, first, disks, account)
    yield from _network(config, account)
    video = names.VIDEO.get(config.display.model or "", "vga")
    if video != "none":
        yield "video_type", video
        account.kept("display.model", "video_type")
        account.dropped("display.address", _OTHERWISE)
    if config.description:
        yield "description", config.description
        account.approximated("description", "description, in one line")
    if config.tpm is not None:
        yield "tpm_type", "emulator"
        yield "tpm_model", config.tpm.model or "tpm-crb"
        yield "tpm_version", config.tpm.version or "2.0"
        account.kept("tpm", "tpm_model")


def _cpu_model(config: MachineConfig, account: Account) -> Iterator[tuple[str, Value]]:
    name = names.CPU_NAMES.get(config.cpu.model or "")
    if name is None:
        return
    yield "cpu_mode", "custom"
    yield "cpu_model", name
    yield "cpu_fallback", "forbid"
    account.kept("cpu.model", f"cpu_model {name}")


def _bus(
    config: MachineConfig, first: Disk, disks: list[Disk], account: Account
) -> Iterator[tuple[str, Value]]:
    bus = names.DISK_BUSES.get(first.bus or "virtio-blk", "scsi")
    yield "disk_bus", bus
    if bus == "scsi":
        yield "disk_controller_model", names.SCSI_MODELS[first.bus or "virtio-scsi"]
    for number, disk in enumerate(config.disks or ()):
        if disk not in disks:
            continue
        account.kept(f"disk[{number}].id", "the order in the box")
        account.kept(f"disk[{number}].kind", "disk")
        if disk.bus == first.bus:
            account.kept(f"disk[{number}].bus", "disk_bus")
        else:
            account.approximated(f"disk[{number}].bus", f"{bus}, as all disks of a box")
        account.approximated(f"disk[{number}]", _OTHERWISE)


def _network(config: MachineConfig, account: Account) -> Iterator[tuple[str, Value]]:
    nics = config.nics or ()
    if not nics:
        return
    first = nics[0]
    yield "nic_model_type", names.NIC_MODELS.get(first.model or "", str(first.model))
    account.kept("nic[0].model", "nic_model_type")
    if first.mac is not None:
        yield "management_network_mac", first.mac
        account.kept("nic[0].mac", "management_network_mac")
    account.approximated("nic[0]", "the card of Vagrant's management network")
    for number in range(1, len(nics)):
        account.dropped(f"nic[{number}]", "add config.vm.network to your own Vagrantfile")


def _calls(config: MachineConfig, account: Account) -> Iterator[str]:
    """Settings that are no plain values."""
    cpu = config.cpu
    if (cpu.dies or 1) == 1:
        parts = ("sockets", "cores", "threads")
        pairs = ", ".join(f":{part} => '{getattr(cpu, part) or 1}'" for part in parts)
        yield f"libvirt.cputopology {pairs}"
        for part in (*parts, "dies"):
            account.kept(f"cpu.{part}", "cputopology")
    if config.guest_agent:
        yield (
            "libvirt.channel :type => 'unix', :target_name => 'org.qemu.guest_agent.0',"
            " :target_type => 'virtio'"
        )
    account.kept("guest-agent", "channel")
    if config.rng.model == "virtio-rng":
        yield "libvirt.random :model => 'random'"
        account.kept("rng.model", "random")
    if config.firmware.kind == "uefi":
        paths = ", ".join(quoted(path) for path in _UEFI)
        yield f"libvirt.loader = [{paths}].find {{ |path| File.exist?(path) }}"
        account.approximated("firmware.kind", "loader: the first of the usual files that is there")
        account.dropped("firmware.secure-boot", _OTHERWISE)
    else:
        account.kept("firmware.kind", "without loader")
    account.kept("hyperv-generation", "as the firmware says")
    account.kept("watchdog", "none")
    account.kept("serial", "the first one is of every machine")
    account.approximated("controller", _OTHERWISE)
    account.approximated("uuid", "each machine of a box has its own")
