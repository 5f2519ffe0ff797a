"""Writes a VirtualMachine with containerDisks, and the folders that those are made of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.errors import UnsupportedError
from vmpack.hypervisors import yamlsafe
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.exportnotes import Notes, say_common
from vmpack.hypervisors.kubevirt import names
from vmpack.hypervisors.kubevirt.read import OS_KEY
from vmpack.hypervisors.tree import Node, restore

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk, Nic

__all__ = ["plan"]

REGISTRY = "registry.example.com"
"""Where the images are pushed: stands for the user's own registry."""
DOCKERFILE = b"FROM scratch\nADD --chown=107:107 disk/ /disk/\n"
"""107 is qemu's user in KubeVirt's launcher."""


def plan(machine: Machine) -> Plan:
    """A manifest, and for each disk a folder that ``podman build`` makes an image of.

    Raises :class:`UnsupportedError` for an empty CD-ROM drive alone: nothing else is refused.
    """
    config = machine.config
    writing = _Writing(machine, Notes(config.to_json_dict(), "kubevirt"))
    document = writing.document()
    stem = names.dns_name(config.name or "vm")
    text = yamlsafe.dump(document)
    images = [
        DiskFile(disk.id, f"{disk.id}/disk/{_image(disk)}", _format(disk))
        for disk in config.disks or ()
        if not disk.empty
    ]
    files = [TextFile(f"{stem}.yaml", text)]
    files += [TextFile(f"{one.disk}/Dockerfile", DOCKERFILE) for one in images]

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:  # noqa: ARG001 - fixed
        return files

    instructions = []
    for one in images:
        tag = shlex.quote(writing.tag(one.disk))
        instructions += [f"podman build -t {tag} {shlex.quote(one.disk)}", f"podman push {tag}"]
    instructions += [
        f"kubectl apply -f {shlex.quote(stem + '.yaml')}",
        f"virtctl start {shlex.quote(stem)}",
    ]
    return Plan(images, render, writing.notes.report, instructions)


def _image(disk: Disk) -> str:
    return f"{disk.id}.iso" if disk.kind == "cdrom" else f"{disk.id}.qcow2"


def _format(disk: Disk) -> str:
    return "raw" if disk.kind == "cdrom" else "qcow2"


class _Writing:
    def __init__(self, machine: Machine, notes: Notes):
        self.machine = machine
        self.config: MachineConfig = machine.config
        self.notes = notes
        self.stem = names.dns_name(self.config.name or "vm")
        self.places: dict[str, Node] = {}

    def tag(self, disk_id: str) -> str:
        """The image's name in a registry."""
        return f"{REGISTRY}/{self.stem}-{disk_id}:latest"

    def document(self) -> Node:
        """The manifest; every field of the config is reported."""
        config, notes = self.config, self.notes
        domain: Node = {
            "cpu": self._cpu(),
            "memory": {"guest": names.to_quantity(config.memory or 1 << 30)},
            "machine": {"type": "q35"},
            "features": {"acpi": {}},
            "clock": {"utc": {}},
            "firmware": self._firmware(),
            "devices": self._devices(),
        }
        notes.kept("memory", "memory.guest")
        notes.changed("machine", "q35 of the cluster's QEMU")
        if config.rtc.clock == "utc":
            notes.kept("rtc.clock", "clock.utc")
        notes.changed("rtc.clock", "UTC: KubeVirt knows offsets and named time zones only")
        if config.firmware.secure_boot:
            domain["features"]["smm"] = {"enabled": True}
        chassis = self.config.smbios.chassis
        found = {
            key: getattr(chassis, key)
            for key in ("manufacturer", "version", "serial", "asset", "sku")
            if getattr(chassis, key)
        }
        if found:
            domain["chassis"] = found
            notes.kept("smbios.chassis", "domain.chassis")
        spec: Node = {"domain": domain, "networks": self._networks, "volumes": self._volumes()}
        root: Node = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": self.stem},
            "spec": {"runStrategy": "Halted", "template": {"metadata": {}, "spec": spec}},
        }
        if self.stem == config.name:
            notes.kept("name", "metadata.name")
        notes.changed("name", f"{self.stem}: what Kubernetes takes for a name")
        self._guest_os(root["spec"]["template"]["metadata"])
        self._carried(root, spec)
        for blob in sorted(self.machine.blobs):
            why = "KubeVirt makes its own; its own variables come with a new machine"
            notes.report.dropped(blob, why)
        say_common(notes, config, "KubeVirt")
        return root

    def _guest_os(self, metadata: Node) -> None:
        wanted = self.config.guest_os
        if wanted.id:
            metadata["annotations"] = {OS_KEY: wanted.id}
            self.notes.kept("guest-os", OS_KEY)

    def _carried(self, root: Node, spec: Node) -> None:
        places = {**self.places, "": root, "template": spec}
        restore(
            places, self.config.verbatim.get("kubevirt", ()), self.notes.report, why_not=_why_not
        )
        self.notes.forget("verbatim.kubevirt")

    def _cpu(self) -> Node:
        cpu, notes = self.config.cpu, self.notes
        dies = cpu.dies or 1
        found: Node = {
            "sockets": cpu.sockets or 1,
            "cores": (cpu.cores or 1) * dies,
            "threads": cpu.threads or 1,
        }
        for member in ("sockets", "threads"):
            notes.kept(f"cpu.{member}", f"cpu.{member}")
        if dies == 1:
            notes.kept("cpu.dies", "one")
            notes.kept("cpu.cores", "cpu.cores")
        notes.changed("cpu.dies", f"{found['cores']} cores in a socket")
        notes.changed("cpu.cores", f"{found['cores']} in a socket")
        if cpu.model:
            found["model"] = re.sub(r"-v[0-9]+$", "", cpu.model)
            if names.cpu_model(found["model"]) == cpu.model:
                notes.kept("cpu.model", found["model"])
            notes.changed("cpu.model", f"{found['model']}, as libvirt calls it without a version")
        if cpu.flags:
            found["features"] = []
            for flag in cpu.flags:
                policy = "require" if flag[0] == "+" else "disable"
                found["features"].append({"name": flag[1:], "policy": policy})
                self.places[f"feature({flag[1:]})"] = found["features"][-1]
            notes.kept("cpu.flags", "cpu.features")
        return found

    def _firmware(self) -> Node:
        config, notes = self.config, self.notes
        found: Node = {"bootloader": {"bios": {}}}
        if config.firmware.kind == "uefi":
            found = {"bootloader": {"efi": {"secureBoot": bool(config.firmware.secure_boot)}}}
        notes.kept("firmware.kind", "firmware.bootloader")
        notes.kept("firmware.secure-boot", "firmware.bootloader.efi.secureBoot")
        if config.uuid:
            found["uuid"] = config.uuid
            notes.kept("uuid", "firmware.uuid")
        serial = config.smbios.system.serial
        if serial:
            found["serial"] = serial
            notes.kept("smbios.system.serial", "firmware.serial")
        return found

    def _devices(self) -> Node:
        config, notes = self.config, self.notes
        found: Node = {"disks": self._disks(), "interfaces": self._interfaces()}
        if config.nics == ():
            found["autoattachPodInterface"] = False
        graphics = config.display.model != "none"
        found["autoattachGraphicsDevice"] = graphics
        if config.display.model in ("none", "std"):
            notes.kept("display.model", "autoattachGraphicsDevice")
        notes.changed("display.model", "the standard card, which KubeVirt has")
        ports = config.serials if config.serials is not None else (None,)
        found["autoattachSerialConsole"] = bool(ports)
        notes.kept("serial[0]", "autoattachSerialConsole")
        if config.serials == ():
            notes.kept("serial", "none")
        notes.dropped("serial", "KubeVirt has one serial port")
        if config.rng.model != "none":
            found["rng"] = {}
        notes.kept("rng.model", "devices.rng")
        if config.tpm is not None:
            found["tpm"] = {}
            self.places["tpm"] = found["tpm"]
            if config.tpm.version == "2.0":
                notes.kept("tpm.version", "devices.tpm")
            notes.changed("tpm", "an empty TPM 2.0 of the model that KubeVirt chooses")
        if config.input == "usb-tablet":
            found["inputs"] = [{"type": "tablet", "bus": "usb", "name": "tablet"}]
            notes.kept("input", "devices.inputs")
        if config.guest_agent:
            notes.kept("guest-agent", "its channel is always there")
        notes.changed("guest-agent", "its channel is always there")
        return found

    def _disks(self) -> list[Node]:
        found = []
        for number, disk in enumerate(self.config.disks or ()):
            if disk.empty:
                self.notes.dropped(f"disk[{number}]", "KubeVirt has no drive without a volume")
                continue
            found.append(self._disk(disk, f"disk[{number}]"))
            self.places[f"disk({disk.id})"] = found[-1]
        if not found and self.config.disks:
            raise UnsupportedError(
                "has empty drives only: KubeVirt needs a volume", hint="pack it with a disk"
            )
        return found

    def _disk(self, disk: Disk, path: str) -> Node:
        notes = self.notes
        bus = disk.bus if disk.bus in names.BUS_NAMES else "sata"
        target: Node = {"bus": names.BUS_NAMES[bus or "sata"]}
        if disk.kind != "cdrom" and disk.read_only:
            target["readonly"] = True
            notes.kept(f"{path}.read-only", "readonly")
        found: Node = {"name": disk.id, "cdrom" if disk.kind == "cdrom" else "disk": target}
        notes.changed(f"{path}.id", "the same, in a containerDisk: its changes are lost at a stop")
        notes.kept(f"{path}.kind", "cdrom" if disk.kind == "cdrom" else "disk")
        if bus == disk.bus:
            notes.kept(f"{path}.bus", str(target["bus"]))
        notes.changed(f"{path}.bus", f"sata, whose driver every guest has: no {disk.bus} here")
        if disk.boot is not None:
            found["bootOrder"] = disk.boot
            notes.kept(f"{path}.boot", "bootOrder")
        if disk.serial:
            found["serial"] = disk.serial
            notes.kept(f"{path}.serial", "serial")
        logical, physical = disk.logical_block_size or 512, disk.physical_block_size or 512
        if (logical, physical) != (512, 512):
            found["blockSize"] = {"custom": {"logical": logical, "physical": physical}}
            for member in ("logical-block-size", "physical-block-size"):
                notes.kept(f"{path}.{member}", "blockSize.custom")
        notes.dropped(f"{path}.wwn", "KubeVirt has no place for it")
        notes.dropped(f"{path}.rotation-rate", "KubeVirt has no place for it")
        return found

    def _volumes(self) -> list[Node]:
        found = []
        for disk in self.config.disks or ():
            if not disk.empty:
                one = {"name": disk.id, "containerDisk": {"image": self.tag(disk.id)}}
                self.places[f"volume({disk.id})"] = one
                found.append(one)
        return found

    def _interfaces(self) -> list[Node]:
        self._networks: list[Node] = []
        found = []
        has_pod = False
        for number, nic in enumerate(self.config.nics or ()):
            path, name = f"nic[{number}]", nic.id or f"net{number}"
            one = self._interface(nic, name, path)
            if nic.network in (None, "user") and not has_pod:
                has_pod = True
                one["masquerade"] = {}
                network: Node = {"name": name, "pod": {}}
                self.notes.kept(f"{path}.network", "pod")
            else:
                one["bridge"] = {}
                if nic.network == "none":
                    one["state"] = "down"
                label = nic.network if nic.network not in (None, "user", "none") else name
                network = {"name": name, "multus": {"networkName": self._attachment(name, label)}}
                self._say_network(nic, path, label)
            self.places[f"interface({name})"] = one
            self.places[f"network({name})"] = network
            self._networks.append(network)
            found.append(one)
        return found

    def _attachment(self, name: str, label: str | None) -> str:
        """The NetworkAttachmentDefinition: the one that the source had, if it is still meant."""
        key = f"network({name})/multus/networkName"
        for field in self.config.verbatim.get("kubevirt", ()):
            before = field.value.strip('"')
            is_name = re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", before)
            if field.key == key and is_name and names.network_name(before) == label:
                return before
        return names.dns_name(label or name)

    def _say_network(self, nic: Nic, path: str, label: str | None) -> None:
        if nic.network == "none":
            self.notes.changed(f"{path}.network", "state: down, on a network of the card's name")
        elif nic.network in (None, "user"):
            self.notes.changed(
                f"{path}.network", f"multus {label}: a machine has one card on the pod network"
            )
        else:
            self.notes.kept(f"{path}.network", "multus: the NetworkAttachmentDefinition must exist")

    def _interface(self, nic: Nic, name: str, path: str) -> Node:
        notes = self.notes
        model: str = nic.model or "virtio-net"
        if model not in names.NIC_NAMES:
            family = self.config.guest_os.family
            chosen = "virtio-net" if model == "vmxnet3" and family == "linux" else "e1000e"
            notes.changed(f"{path}.model", f"{chosen}: KubeVirt has no {model}")
            model = chosen
        notes.kept(f"{path}.model", names.NIC_NAMES[model])
        found: Node = {"name": name, "model": names.NIC_NAMES[model]}
        notes.kept(f"{path}.id", "name")
        if nic.mac:
            found["macAddress"] = nic.mac
            notes.kept(f"{path}.mac", "macAddress")
        if nic.boot is not None:
            found["bootOrder"] = nic.boot
            notes.kept(f"{path}.boot", "bootOrder")
        notes.dropped(f"{path}.mtu", "the network's own")
        return found


def _why_not(key: str, value: Any) -> str | None:
    from vmpack.hypervisors.carry import names_host

    found = key + "/" + str(value)
    if re.search(r"hostDisk|hostPath|hostDevices|gpus", found) or (
        isinstance(value, str) and "\n" not in value and names_host(value)
    ):
        return "it names a file or device of a node"
    return None
