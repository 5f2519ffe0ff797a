"""Writes an image for Incus (metadata tarball and qcow2) and the instance's config."""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.errors import UnsupportedError
from vmpack.hypervisors import yamlsafe
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.exportnotes import Notes, say_common
from vmpack.hypervisors.incus.read import BUSES
from vmpack.hypervisors.kubevirt.names import dns_name
from vmpack.hypervisors.tree import Node, restore
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk

__all__ = ["plan"]

METADATA = "incus.tar"
INSTANCE = "instance.yaml"


def plan(machine: Machine) -> Plan:
    """A split image, the instance's YAML, and every other disk as qcow2.

    Raises :class:`UnsupportedError` for a machine without a disk.
    """
    config = machine.config
    notes = Notes(config.to_json_dict(), "incus")
    writing = _Writing(machine, notes)
    instance = writing.instance()
    name = writing.name
    metadata = {
        "architecture": "x86_64",
        "creation_date": 0,
        "properties": {"name": name, "description": config.name or name},
    }
    files = [
        TextFile(METADATA, _tar("metadata.yaml", yamlsafe.dump(metadata))),
        TextFile(INSTANCE, yamlsafe.dump(instance)),
    ]

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:  # noqa: ARG001 - fixed
        return files

    images = [
        DiskFile(disk.id, _image(disk), "raw" if disk.kind == "cdrom" else "qcow2")
        for disk in config.disks or ()
        if not disk.empty
    ]
    root = _image(writing.root)
    quoted = shlex.quote(name)
    instructions = [f"incus image import {METADATA} {shlex.quote(root)} --alias {quoted}"]
    for one in images:
        volume = shlex.quote(f"{name}-{one.disk}")
        if one.format == "raw":
            instructions.append(
                f"incus storage volume import default {shlex.quote(one.name)} {volume} --type=iso"
            )
        elif one.name != root:
            instructions.append(f"incus-migrate  # custom volume {volume} from {one.name}")
    instructions += [f"incus init {quoted} {quoted} --vm < {INSTANCE}", f"incus start {quoted}"]
    return Plan(images, render, notes.report, instructions)


def _image(disk: Disk) -> str:
    return f"{disk.id}.iso" if disk.kind == "cdrom" else f"{disk.id}.qcow2"


def _tar(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    whole = info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)
    return whole + bytes(-len(whole) % 10240)


class _Writing:
    def __init__(self, machine: Machine, notes: Notes):
        self.machine = machine
        self.config: MachineConfig = machine.config
        self.notes = notes
        self.places: dict[str, Node] = {}
        plain = dns_name(self.config.name or "vm")
        self.name = plain if plain[0].isalpha() else f"vm-{plain}"[:63].strip("-")
        found = [one for one in self.config.disks or () if not one.empty and one.kind != "cdrom"]
        if not found:
            raise UnsupportedError(
                "has no disk: an image for Incus is made of one", hint="pack it with a disk"
            )
        self.root = min(found, key=lambda one: (one.boot or 99, found.index(one)))

    def instance(self) -> Node:
        """The instance; every field of the config is reported."""
        config, notes = self.config, self.notes
        settings = self._settings()
        devices = {**self._disks(), **self._nics()}
        if config.tpm is not None:
            devices["tpm"] = {"type": "tpm"}
            self.places["tpm"] = devices["tpm"]
            if config.tpm.version == "2.0":
                notes.kept("tpm.version", "device tpm")
            notes.changed("tpm", "an empty TPM 2.0")
        root: Node = {
            "name": self.name,
            "description": config.description or "",
            "architecture": "x86_64",
            "config": settings,
            "devices": devices,
            "ephemeral": False,
            "profiles": [],
        }
        if self.name == config.name:
            notes.kept("name", "name")
        notes.changed("name", f"{self.name}: what Incus takes for a name")
        notes.kept("description", "description")
        restore(
            {**self.places, "": root},
            config.verbatim.get("incus", ()),
            notes.report,
            why_not=_why_not,
        )
        notes.forget("verbatim.incus")
        for blob in sorted(self.machine.blobs):
            notes.report.dropped(blob, "an image has no place for it: Incus makes a new one")
        self._others()
        say_common(notes, config, "Incus")
        # Values of configs and devices are strings.
        root["config"] = {str(key): _string(one) for key, one in root["config"].items()}
        return root

    def _settings(self) -> Node:
        config, notes, cpu = self.config, self.notes, self.config.cpu
        count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
        for member in ("sockets", "dies", "cores", "threads"):
            if count == (cpu.cores or 1):
                notes.kept(f"cpu.{member}", "limits.cpu")
            notes.changed(f"cpu.{member}", f"limits.cpu {count}")
        is_bios = config.firmware.kind != "uefi"
        found: Node = {
            "limits.cpu": str(count),
            "limits.memory": f"{(config.memory or 1 << 30) // MiB}MiB",
            "security.secureboot": _string(bool(config.firmware.secure_boot)),
        }
        if is_bios:
            found["security.csm"] = "true"
        notes.kept("memory", "limits.memory")
        notes.kept("firmware.kind", "security.csm")
        notes.kept("firmware.secure-boot", "security.secureboot")
        if config.uuid:
            found["volatile.uuid"] = config.uuid
            notes.kept("uuid", "volatile.uuid")
        if config.guest_os.id:
            found["image.os"] = config.guest_os.id
            notes.kept("guest-os", "image.os")
        return found

    def _disks(self) -> dict[str, Node]:
        notes = self.notes
        found: dict[str, Node] = {}
        for number, disk in enumerate(self.config.disks or ()):
            path = f"disk[{number}]"
            if disk.empty:
                notes.dropped(path, "Incus has no drive without a medium")
                continue
            one: Node = {"type": "disk", "pool": "default"}
            name = disk.id
            if disk.id == self.root.id:
                one["path"] = "/"
                notes.kept(f"{path}.id", "the root device")
            else:
                one["source"] = f"{self.name}-{disk.id}" + (".iso" if disk.kind == "cdrom" else "")
                notes.changed(f"{path}.id", f"custom volume {one['source']}, imported apart")
            notes.kept(f"{path}.kind", "an ISO volume" if disk.kind == "cdrom" else "disk")
            bus = disk.bus if disk.bus in BUSES else "virtio-scsi"
            if bus != "virtio-scsi":
                one["io.bus"] = bus
            if bus == disk.bus:
                notes.kept(f"{path}.bus", "io.bus")
            notes.changed(f"{path}.bus", f"virtio-scsi: Incus has no {disk.bus}")
            if disk.boot is not None:
                one["boot.priority"] = str(65 - disk.boot)
                notes.kept(f"{path}.boot", "boot.priority")
            if disk.read_only and disk.kind != "cdrom":
                one["readonly"] = "true"
                notes.kept(f"{path}.read-only", "readonly")
            self.places[f"disk({disk.id})"] = found[name] = one
        return found

    def _nics(self) -> dict[str, Node]:
        notes = self.notes
        found: dict[str, Node] = {}
        for number, nic in enumerate(self.config.nics or ()):
            path, name = f"nic[{number}]", nic.id or f"net{number}"
            one: Node = {"type": "nic", "name": name}
            network = nic.network or "user"
            one["network"] = "incusbr0" if network in ("user", "none") else network
            if network in ("user", "none"):
                notes.changed(f"{path}.network", "incusbr0, which Incus makes")
            notes.kept(f"{path}.network", "network")
            notes.kept(f"{path}.id", "the device's name")
            if nic.model == "virtio-net":
                notes.kept(f"{path}.model", "virtio-net")
            notes.changed(f"{path}.model", "virtio-net: Incus has no other")
            if nic.mac:
                one["hwaddr"] = nic.mac
                notes.kept(f"{path}.mac", "hwaddr")
            if nic.mtu:
                one["mtu"] = str(nic.mtu)
                notes.kept(f"{path}.mtu", "mtu")
            if nic.boot is not None:
                one["boot.priority"] = str(65 - nic.boot)
                notes.kept(f"{path}.boot", "boot.priority")
            key = name if name not in found and name not in self.places else f"nic-{name}"
            self.places[f"nic({name})"] = found[key] = one
        return found

    def _others(self) -> None:
        notes, config = self.notes, self.config
        notes.changed("machine", "q35 of Incus's QEMU")
        notes.changed("cpu.model", "the host's CPU")
        notes.dropped("cpu.flags", "Incus shows the host's CPU")
        if config.rtc.clock == "utc":
            notes.kept("rtc.clock", "UTC")
        notes.changed("rtc.clock", "UTC")
        notes.changed("display.model", "the card that Incus gives every machine")
        if config.rng.model == "virtio-rng":
            notes.kept("rng.model", "every machine has one")
        notes.changed("rng.model", "every machine has one")
        notes.changed("guest-agent", "Incus has an agent of its own")
        notes.changed("serial", "a console of Incus's own (incus console)")
        notes.changed("input", "a tablet, which every machine has")


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _why_not(key: str, value: Any) -> str | None:
    from vmpack.hypervisors.carry import names_host

    found = f"{key} {value}"
    if re.search(r"raw\.|security\.(privileged|nesting|devlxd|agent)|unix-|'(gpu|usb|pci)'", found):
        return "it opens something of the host to the machine, or is an option of a program"
    if isinstance(value, dict) and any(str(one).startswith("/") for one in value.values()):
        return "it names a file of the host"
    is_text = isinstance(value, str) and "\n" not in value
    return "it names a file of the host" if is_text and names_host(value) else None
