"""A machine for Proxmox VE: what ``qm`` is told. Profile: specs/hypervisors/proxmox.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.account import Account
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.proxmox import places
from vmpack.hypervisors.proxmox.carried import Carried
from vmpack.hypervisors.proxmox.layout import Drive, lay_out, scsi_hardware
from vmpack.hypervisors.proxmox.script import CONFIG, SCRIPT, config_text, script_text
from vmpack.hypervisors.proxmox.syntax import joined, to_base64
from vmpack.machine.names import CPU_FAMILIES
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

NVRAM = "nvram.raw"
TPM = "tpmstate.raw"
TPM_VOLUME = 4 * MiB
VARIABLES = {131072: "2m", 540672: "4m"}
"""Bytes of a variable store -> efitype."""
_NICS = {
    "virtio-net": ("virtio", ""),
    "e1000": ("e1000", ""),
    "e1000e": ("e1000e", ""),
    "vmxnet3": ("vmxnet3", ""),
    "rtl8139": ("rtl8139", ""),
    "pcnet": ("pcnet", ""),
    "ne2k": ("ne2k_pci", ""),
    "igb": ("e1000e", "an e1000e: Proxmox has no igb"),
    "tulip": ("e1000", "an e1000: Proxmox has no tulip"),
}
_VIDEO = {
    "std": ("std", ""),
    "cirrus": ("cirrus", ""),
    "vmware": ("vmware", ""),
    "qxl": ("qxl", ""),
    "virtio-vga": ("virtio", ""),
    "bochs": ("std", "std, of which bochs is a part"),
    "none": ("none", ""),
}
_FLAGS = frozenset(
    (
        *("aes", "amd-no-ssb", "amd-ssbd", "hv-evmcs", "hv-tlbflush", "ibpb", "md-clear", "pcid"),
        *("pdpe1gb", "spec-ctrl", "ssbd", "virt-ssbd"),
    )
)
_MODELS = frozenset(CPU_FAMILIES) - {
    *("ClearwaterForest", "Denverton", "Dhyana", "EPYC-Turin", "KnightsMill", "SierraForest"),
    *("Snowridge", "YongFeng", "n270"),
}
"""``cpu`` of qm.conf(5); there, the newest version of a model that a host knows."""
_WHY = {
    "smbios": "Proxmox sets SMBIOS type 1 only",
    "ova": "of OVF packages",
    "controller": "Proxmox makes the controllers itself",
}


@dataclass(slots=True)
class Writing:
    """An export under construction."""

    machine: Machine
    account: Account
    carried: Carried
    options: dict[str, str] = field(default_factory=dict)
    """What ``qm create`` is told, in the order of the config."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Files beside the disks."""
    volumes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """``efidisk0``, ``tpmstate0`` -> (file, its properties)."""

    @property
    def config(self) -> MachineConfig:
        """The machine's."""
        return self.machine.config


def plan(machine: Machine) -> Plan:
    """Plan the export. Raises :class:`UnsupportedError` for more disks than there are drives."""
    account = Account("proxmox", machine.config)
    carried = Carried(machine.config, account)
    writing = Writing(machine, account, carried)
    hardware = scsi_hardware(machine.config, carried.get("scsihw"))
    _board(writing)
    _cpu(writing)
    _firmware(writing)
    _small(writing)
    writing.options["scsihw"] = hardware
    drives = lay_out(machine.config, account, hardware)
    _nics(writing)
    _order(writing, drives)
    carried.finish(writing.options, drives)
    _other_blobs(writing)
    own = ("controller", "pvpanic", "smbios.bios")
    report = account.finish(_WHY, "Proxmox has no such setting", own)
    files = [
        TextFile(CONFIG, config_text(writing, drives).encode()),
        TextFile(SCRIPT, script_text(writing, drives).encode(), executable=True),
        *(TextFile(name, data) for name, data in writing.blobs.items()),
    ]

    def render(_: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        return files

    return Plan(
        disks=[_disk_file(one) for one in drives if one.file],
        render=render,
        report=report,
        instructions=(
            "scp -r . root@PROXMOX:/var/tmp/machine",
            f"ssh root@PROXMOX sh /var/tmp/machine/{SCRIPT} VMID STORAGE [ISO-STORAGE]",
        ),
    )


def _disk_file(drive: Drive) -> DiskFile:
    return DiskFile(drive.disk.id, drive.file, "raw" if drive.file.endswith(".iso") else "qcow2")


def _board(writing: Writing) -> None:
    config, account, options = writing.config, writing.account, writing.options
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", config.name or "machine")
    labels = [part[:63].strip("-") for part in name.split(".")]
    name = ".".join(part for part in labels if part) or "machine"
    options["name"] = name
    account.said("name", "" if name == config.name else f"{name}: a name is one of the DNS there")
    if config.description:
        options["description"] = config.description
    account.kept("description")
    account.kept("architecture")
    system = guest_os.best(config.guest_os.id, config.guest_os.family)
    options["ostype"] = writing.carried.get("ostype") or system.proxmox
    account.said("guest-os.id", f"{options['ostype']}, a family of systems")
    account.kept("guest-os.family", options["ostype"])
    chosen = config.machine or "q35"
    given = writing.carried.get("machine")
    options["machine"] = given if chosen in given else chosen
    account.kept("machine")
    memory = (config.memory or 512 * MiB) // MiB
    options["memory"] = str(memory)
    account.kept("memory")
    account.approximated("hyperv-generation", "Proxmox asks for the firmware instead")


def _cpu(writing: Writing) -> None:
    cpu, account, options = writing.config.cpu, writing.account, writing.options
    cores = (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    options["sockets"] = str(cpu.sockets or 1)
    options["cores"] = str(cores)
    account.kept("cpu.sockets")
    how = "" if cores == (cpu.cores or 1) else f"{cores} cores: Proxmox has no dies and threads"
    for name in ("cores", "dies", "threads"):
        account.said(f"cpu.{name}", how)
    given = writing.carried.get("cpu")
    if given:
        options["cpu"] = given
        for name in ("model", "vendor", "flags"):
            account.kept(f"cpu.{name}", f"{given}, as it was on Proxmox")
        return
    model, _, version = (cpu.model or "").rpartition("-v")
    if cpu.model in (None, "") or model not in _MODELS:
        options["cpu"] = "x86-64-v2-AES"
        account.approximated("cpu.model", "x86-64-v2-AES: Proxmox does not offer this model")
    else:
        options["cpu"] = model
        account.said("cpu.model", "" if version == "1" else f"{model}, of whatever version")
    account.said("cpu.vendor", "the model's own, or the host's under KVM")
    known = [flag for flag in cpu.flags if flag[1:] in _FLAGS]
    if known:
        options["cpu"] += ",flags=" + ";".join(known)
    if len(known) == len(cpu.flags):
        account.kept("cpu.flags")
    lost = " ".join(flag for flag in cpu.flags if flag not in known)
    account.approximated("cpu.flags", f"without {lost}: Proxmox does not offer them")


def _firmware(writing: Writing) -> None:
    config, account = writing.config, writing.account
    uefi = config.firmware.kind == "uefi"
    writing.options["bios"] = "ovmf" if uefi else "seabios"
    account.kept("firmware.kind")
    account.approximated("firmware.digest", "Proxmox has firmware of its own")
    account.dropped("firmware.blob", "Proxmox has firmware of its own")
    if uefi:
        _variables(writing)
    account.kept("firmware.secure-boot", "no key is enrolled")
    if config.tpm is None:
        return
    version = f"v{config.tpm.version or '2.0'}"
    state = writing.machine.blobs.get("tpm-state")
    file = ""
    if state:
        from vmpack.runner.tpm import to_linear

        file = TPM
        writing.blobs[TPM] = to_linear(state).ljust(TPM_VOLUME, b"\0")
        account.report.kept("tpm-state", TPM)
    writing.volumes["tpmstate0"] = (file, f"version={version}")
    account.kept("tpm.version")
    account.approximated("tpm.model", "Proxmox chooses the interface")
    account.kept("tpm")


def _variables(writing: Writing) -> None:
    """``efidisk0``: the variables themselves, or a new store with or without keys."""
    from vmpack.errors import VmpackError
    from vmpack.machine.nvram import parse, to_raw

    account, wanted = writing.account, bool(writing.config.firmware.secure_boot)
    keys = f"pre-enrolled-keys={int(wanted)}"
    writing.volumes["efidisk0"] = ("", f"efitype=4m,{keys}")
    account.said("firmware.secure-boot", "", "the keys that are enrolled decide")
    data = writing.machine.blobs.get("nvram")
    if data is None:
        return
    try:
        raw = to_raw(data)
        parse(raw)
    except VmpackError as exc:
        account.report.dropped("nvram", f"the machine starts with new variables: {exc.message}")
        return
    kind = VARIABLES.get(len(raw))
    if kind is None:
        account.report.dropped("nvram", f"Proxmox' firmware takes no variables of {len(raw)} bytes")
        return
    writing.blobs[NVRAM] = raw
    writing.volumes["efidisk0"] = (NVRAM, f"efitype={kind},{keys}")
    account.report.kept("nvram", NVRAM)


def _small(writing: Writing) -> None:
    config, account, options = writing.config, writing.account, writing.options
    agent = {"enabled": str(int(bool(config.guest_agent)))}
    agent |= writing.carried.properties("agent")
    options["agent"] = joined(agent, "enabled")
    account.kept("guest-agent")
    options["tablet"] = str(int(config.input == "usb-tablet"))
    account.kept("input")
    account.kept("watchdog")
    options["localtime"] = str(int(config.rtc.clock == "localtime"))
    account.kept("rtc.clock")
    if config.rtc.start:
        options["startdate"] = config.rtc.start
    account.kept("rtc.start")
    if config.rng.model == "virtio-rng":
        more = writing.carried.properties("rng0")
        options["rng0"] = joined({"source": "/dev/urandom"} | more)
    account.kept("rng.model")
    if config.rng.address:
        account.approximated("rng.address", "Proxmox puts it elsewhere")
    video, how = _VIDEO[config.display.model or "std"]
    if config.display.model == "none" and config.serials:
        video, how = "serial0", "the serial port is the console"
    given = writing.carried.get("vga")
    options["vga"] = given if given.startswith(video) else video
    account.said("display.model", how)
    where = config.display.address == places.VIDEO
    account.said("display.address", "" if where else f"Proxmox puts it at {places.VIDEO}")
    for index, port in enumerate(config.serials or ()):
        options[f"serial{port.port}"] = "socket"
        account.kept(f"serial[{index}]", f"serial{port.port}")
    account.kept("serial")
    if config.pvpanic is False:
        account.kept("pvpanic")
    _smbios(writing)


def _smbios(writing: Writing) -> None:
    config, account = writing.config, writing.account
    parts: dict[str, str] = {}
    if config.uuid:
        parts["uuid"] = config.uuid
    account.kept("uuid", "smbios1")
    for name in ("manufacturer", "product", "version", "serial", "sku", "family"):
        value = getattr(config.smbios.system, name)
        if value:
            parts[name] = to_base64(value)
        account.kept(f"smbios.system.{name}", "smbios1")
    if len(parts) > 1 or "uuid" not in parts:
        parts["base64"] = "1"
    writing.options["smbios1"] = joined(parts)


def _nics(writing: Writing) -> None:
    account = writing.account
    q35 = "q35" in writing.options["machine"]
    for index, nic in enumerate(writing.config.nics or ()):
        path = f"nic[{index}]"
        model, how = _NICS[nic.model or "virtio-net"]
        parts = {model: (nic.mac or "").upper()}
        account.said(f"{path}.model", how)
        account.kept(f"{path}.mac")
        account.kept(f"{path}.id", f"net{index}")
        account.kept(f"{path}.boot", "boot")
        bridge = nic.network or "user"
        if bridge == "none":
            parts |= {"bridge": "vmbr0", "link_down": "1"}
            account.approximated(f"{path}.network", "link_down=1, with vmbr0 at the other end")
        elif bridge == "user":
            parts["bridge"] = "vmbr0"
            account.approximated(f"{path}.network", "vmbr0, the bridge that Proxmox makes")
        elif re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,14}", bridge):
            parts["bridge"] = bridge
        else:
            parts["bridge"] = "vmbr0"
            account.approximated(f"{path}.network", "vmbr0: this is no name of a bridge")
        account.kept(f"{path}.network")
        if nic.mtu and model == "virtio":
            parts["mtu"] = str(nic.mtu)
            account.kept(f"{path}.mtu")
        account.dropped(f"{path}.mtu", "Proxmox tells it to virtio cards only")
        there = None if q35 else places.NICS.get(index)
        if nic.address != there:
            elsewhere = "on a PCI bridge" if q35 else f"at {there}"
            account.approximated(
                f"{path}.address",
                f"Proxmox puts it {elsewhere}: the guest may call the card by another name",
            )
        account.kept(f"{path}.address")
        parts |= writing.carried.properties(f"net{index}")
        writing.options[f"net{index}"] = joined(parts)
    account.kept("nic")


def _order(writing: Writing, drives: Sequence[Drive]) -> None:
    order = [(one.disk.boot, one.key) for one in drives if one.disk.boot]
    order += [
        (nic.boot, f"net{index}") for index, nic in enumerate(writing.config.nics or ()) if nic.boot
    ]
    if order:
        writing.options["boot"] = "order=" + ";".join(key for _, key in sorted(order))


def _other_blobs(writing: Writing) -> None:
    for name in writing.machine.blobs:
        if name not in ("nvram", "tpm-state"):
            writing.account.report.dropped(
                name, "Proxmox has no place for it; it stays in the bundle"
            )
        elif name == "nvram" and "efidisk0" not in writing.volumes:
            writing.account.report.dropped(name, "the machine starts with a BIOS")
        elif name == "tpm-state" and "tpmstate0" not in writing.volumes:
            writing.account.report.dropped(name, "the machine has no TPM")
