"""Reads a VirtualMachine: every field of it ends in the report."""

from __future__ import annotations

import re
from typing import Any

from vmpack.errors import DamagedError
from vmpack.hypervisors import guest_os, yamlsafe
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.kubevirt import names
from vmpack.hypervisors.tree import Node, Tree
from vmpack.machine.names import MACHINE_PATTERN
from vmpack.units import MiB

_OWN = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
)
_STOPPED = ("", "Stopped", "Provisioning", "WaitingForVolumeBinding", "ErrorUnschedulable")
OS_KEY = "vm.kubevirt.io/os"


def read(source: ConfigSource) -> Imported:
    """The machine of the file's one VirtualMachine (or VirtualMachineInstance).

    Raises :class:`DamagedError` where there is none, or more than one.
    """
    documents = yamlsafe.parse(source.data, path=source.name)
    machines = [
        one
        for one in documents
        if isinstance(one, dict) and str(one.get("kind", "")).startswith("VirtualMachine")
    ]
    if len(machines) != 1 or not isinstance(machines[0].get("spec"), dict):
        raise DamagedError(
            f"holds {len(machines)} VirtualMachines with a spec, one is needed",
            path=source.name,
            hint="keep one: kubectl get vm NAME -o yaml",
        )
    reading = _Reading(machines[0])
    for one in documents:
        if one is not machines[0] and isinstance(one, dict):
            kind = f"{one.get('kind', 'document')}"
            reading.draft.dropped(kind, "another object of the cluster, no part of the machine")
    return reading.imported()


class _Reading:
    """A VirtualMachine on its way into a draft."""

    def __init__(self, root: Node):
        self.draft = Draft("kubevirt")
        self.tree = Tree(root, self.draft, _secret)
        self.is_instance = root.get("kind") == "VirtualMachineInstance"
        above = ("spec",) if self.is_instance else ("spec", "template", "spec")
        self.spec = self.tree.node(*above)
        self.domain = self.tree.child(self.spec, "domain")
        self.devices = self.tree.child(self.domain, "devices")
        self.tree.place(self.spec, "template")

    def imported(self) -> Imported:
        """The whole machine."""
        self._metadata()
        self._board()
        self._firmware()
        self._disks()
        self._nics()
        self._others()
        self.tree.carry()
        return self.draft.build()

    def _metadata(self) -> None:
        tree, draft, root = self.tree, self.draft, self.tree.root
        for key in ("apiVersion", "kind"):
            draft.report.kept(key, tree.text(root, key))
        metadata = tree.child(root, "metadata")
        name = tree.text(metadata, "name")
        if name:
            draft.name(name, "metadata.name")
        for key in _OWN:
            tree.drop(metadata, key, f"metadata.{key}", "the cluster's own")
        status = tree.child(root, "status")
        state = str(status.get("printableStatus") or status.get("phase") or "")
        draft.running = state not in (*_STOPPED, "Succeeded", "Failed")
        draft.running_hint = "stop it (virtctl stop NAME), then get its YAML and disks again"
        tree.drop(root, "status", "status", "what the cluster observed")
        annotations = tree.child(metadata, "annotations")
        key = "kubectl.kubernetes.io/last-applied-configuration"
        tree.drop(annotations, key, key, "a copy of the manifest itself")
        template = tree.child(tree.node("spec", "template", "metadata"), "annotations")
        word = template.get(OS_KEY)
        found = guest_os.by_id(word) if isinstance(word, str) else None
        if found is not None:
            tree.take(template, OS_KEY)
            draft.set("guest-os.family", found.family, OS_KEY)
            draft.set("guest-os.id", found.id, OS_KEY)

    def _board(self) -> None:
        tree, draft = self.tree, self.draft
        cpu = tree.child(self.domain, "cpu")
        for key in ("sockets", "cores", "threads"):
            number = tree.number(cpu, key)
            if number is not None:
                draft.set(f"cpu.{key}", number, f"cpu.{key}")
        model = tree.text(cpu, "model")
        known = names.cpu_model(model)
        if known:
            how = "" if known == model else f"{known}, as libvirt's name says"
            draft.set("cpu.model", known, "cpu.model", how=how)
        elif model:
            draft.dropped("cpu.model", f"{model}: no model whose features are known by its name")
        self._features(cpu)
        self._memory()
        machine = tree.text(tree.child(self.domain, "machine"), "type")
        if re.fullmatch(MACHINE_PATTERN, machine):
            draft.set("machine", machine, "machine.type")
        elif machine in ("q35", "pc-q35") or machine.startswith("pc-q35-"):
            draft.report.approximated("machine.type", "a q35 whose version is pinned")
        elif machine:
            draft.dropped("machine.type", f"{machine}: vmpack runs q35 and i440fx")
        clock = tree.child(self.domain, "clock")
        if "utc" in clock and not clock["utc"]:
            tree.take(clock, "utc")
            draft.set("rtc.clock", "utc", "clock.utc")
        elif tree.text(clock, "timezone"):
            draft.set("rtc.clock", "localtime", "clock.timezone", how="the host's local time")

    def _features(self, cpu: Node) -> None:
        flags = []
        for one in self.tree.nodes(cpu, "features"):
            name = str(one.get("name", ""))
            policy = str(one.get("policy") or "require")
            sign = {"require": "+", "force": "+", "disable": "-", "forbid": "-"}.get(policy)
            if sign and re.fullmatch(r"[a-z0-9._-]{1,32}", name):
                flags.append(sign + name)
                how = "" if policy in ("require", "disable") else f"{sign}{name}"
                self.tree.place(one, f"feature({name})")
                self.tree.take(one, "name")
                self.tree.take(one, "policy")
                self.draft.set("cpu.flags", sorted(flags, key=_bare), f"feature {name}", how=how)

    def _memory(self) -> None:
        resources = self.tree.child(self.domain, "resources")
        for holder, key, where in (
            (self.tree.child(self.domain, "memory"), "guest", "memory.guest"),
            (self.tree.child(resources, "requests"), "memory", "resources.requests.memory"),
        ):
            size = names.quantity(str(holder.get(key, "")))
            if size is None or "memory" in self.draft.data:
                continue
            self.tree.take(holder, key)
            whole = -(-size // MiB) * MiB
            how = "" if whole == size else f"{whole} bytes: whole MiB"
            self.draft.set("memory", whole, where, how=how)

    def _firmware(self) -> None:
        tree, draft = self.tree, self.draft
        firmware = tree.child(self.domain, "firmware")
        loader = tree.child(firmware, "bootloader")
        if isinstance(loader.get("efi"), dict):
            draft.set("firmware.kind", "uefi", "firmware.bootloader.efi")
            efi = loader["efi"]
            tree.take(loader, "bios")
            # KubeVirt's default is on.
            secure = tree.flag(efi, "secureBoot")
            draft.set(
                "firmware.secure-boot", secure is not False, "firmware.bootloader.efi.secureBoot"
            )
            if tree.flag(efi, "persistent"):
                draft.dropped("firmware.bootloader.efi.persistent", "its variables are in a volume")
            if not set(efi) - {"secureBoot", "persistent"}:
                tree.take(loader, "efi")
        else:
            if isinstance(loader.get("bios"), dict) and not loader["bios"]:
                tree.take(loader, "bios")
            draft.set("firmware.kind", "bios", "firmware.bootloader")
        if tree.text(firmware, "uuid"):
            draft.set("uuid", str(firmware["uuid"]).lower(), "firmware.uuid")
        if tree.text(firmware, "serial"):
            draft.set("smbios.system.serial", str(firmware["serial"]), "firmware.serial")
        chassis = tree.child(self.domain, "chassis")
        for key in ("manufacturer", "version", "serial", "asset", "sku"):
            if tree.text(chassis, key):
                draft.set(f"smbios.chassis.{key}", str(chassis[key]), f"chassis.{key}")

    def _disks(self) -> None:
        tree = self.tree
        volumes = {str(one.get("name")): one for one in tree.nodes(self.spec, "volumes")}
        for one in tree.nodes(self.devices, "disks"):
            name = str(one.get("name", ""))
            volume = volumes.get(name, {})
            file = _file(volume)
            if file is None and volume:
                # Cloud-init, config maps and the like: KubeVirt makes these disks itself.
                continue
            disk_id = self._disk(one, name, file)
            tree.place(one, f"disk({disk_id})")
            if volume:
                self._volume(volume, disk_id)

    def _disk(self, one: Node, name: str, file: FileRef | None) -> str:
        tree, draft = self.tree, self.draft
        kind = next((key for key in ("disk", "cdrom", "lun") if key in one), "disk")
        target = tree.child(one, kind)
        bus, how = tree.text(target, "bus") or "sata", ""
        values: dict[str, Any] = {}
        if kind == "cdrom":
            values["kind"] = "cdrom"
        elif tree.flag(target, "readonly") is not None:
            values["read_only"] = bool(target["readonly"])
        if kind == "lun":
            how = "a disk: no device is passed through"
        if bus not in names.BUSES or (kind == "cdrom" and bus == "virtio"):
            how = f"sata: vmpack has no {bus} there"
            bus = "sata"
        number = tree.number(one, "bootOrder")
        values |= {"boot": number} if number is not None else {}
        if tree.text(one, "serial"):
            values["serial"] = str(one["serial"])
        sizes = tree.child(tree.child(one, "blockSize"), "custom")
        for key in ("logical", "physical"):
            size = tree.number(sizes, key)
            values |= {f"{key}_block_size": size} if size is not None else {}
        tree.take(one, "name")
        if not set(target) - {"bus", "readonly"}:
            tree.take(one, kind)
        if kind == "cdrom" and tree.flag(target, "readonly") is not None:
            draft.report.kept(f"disk {name} readonly", "a CD-ROM")
        return draft.add_disk(name, file, f"disk {name}", bus=names.BUSES[bus], how=how, **values)

    def _volume(self, volume: Node, disk_id: str) -> None:
        """What says where the content is: only ``--disk`` can."""
        self.tree.place(volume, f"volume({disk_id})")
        self.tree.take(volume, "name")
        for key in (
            "dataVolume",
            "persistentVolumeClaim",
            "containerDisk",
            "emptyDisk",
            "hostDisk",
        ):
            if key in volume:
                self.tree.take(volume, key)
                self.draft.report.approximated(
                    f"volume {disk_id} {key}", "its content is the disk's"
                )
        for template in self.tree.nodes(self.tree.node("spec"), "dataVolumeTemplates"):
            name = self.tree.child(template, "metadata").get("name")
            if name == self.tree.child(volume, "dataVolume").get("name"):
                self.tree.place(template, f"template({disk_id})")
                for key in tuple(template):
                    self.tree.take(template, key)
                self.draft.report.approximated(
                    f"dataVolumeTemplate {name}", "its content is the disk's"
                )

    def _nics(self) -> None:
        tree, draft = self.tree, self.draft
        networks = {str(one.get("name")): one for one in tree.nodes(self.spec, "networks")}
        found = tree.nodes(self.devices, "interfaces")
        for one in found:
            name = str(one.get("name", ""))
            network = networks.get(name, {})
            values: dict[str, Any] = {"id": names.dns_name(name, 32)}
            model = tree.text(one, "model") or "virtio"
            how = "" if model in names.NICS else f"virtio-net: vmpack has no {model}"
            values["model"] = names.NICS.get(model, "virtio-net")
            mac = tree.text(one, "macAddress").lower().replace("-", ":")
            values["mac"] = mac or None
            values["boot"] = tree.number(one, "bootOrder")
            multus = tree.child(network, "multus")
            if "pod" in network or not network:
                values["network"] = "user"
                if not network.get("pod"):
                    tree.take(network, "pod")
                if one.get("masquerade") == {}:
                    tree.take(one, "masquerade")
            elif tree.text(multus, "networkName"):
                values["network"] = names.network_name(str(multus["networkName"]))
                tree.draft.report.kept(f"network {name}", values["network"])
                if values["network"] != multus["networkName"]:
                    draft.verbatim(
                        f"network({values['id']})/multus/networkName", f'"{multus["networkName"]}"'
                    )
            if tree.text(one, "state") == "down":
                values["network"] = "none"
            tree.take(one, "name")
            tree.take(network, "name")
            number = draft.add("nic", values, f"interface {name}", how=how)
            draft.set_source(f"nic[{number}].mac", f"interface {name} macAddress")
            tree.place(one, f"interface({values['id']})")
            tree.place(network, f"network({values['id']})")
        if not found and tree.flag(self.devices, "autoattachPodInterface") is not False:
            draft.add(
                "nic", {"network": "user"}, "autoattachPodInterface", how="the pod network's card"
            )
        elif not found:
            draft.set("nic", [], "autoattachPodInterface")

    def _others(self) -> None:
        tree, draft, devices = self.tree, self.draft, self.devices
        if devices.get("rng") == {}:
            tree.take(devices, "rng")
            draft.set("rng.model", "virtio-rng", "devices.rng")
        else:
            draft.set("rng.model", "none", "devices.rng")
        if isinstance(devices.get("tpm"), dict) and devices["tpm"].get("enabled") is not False:
            tpm = devices["tpm"]
            draft.set("tpm", {"version": "2.0"}, "devices.tpm")
            tree.place(tpm, "tpm")
            tree.flag(tpm, "enabled")
            if tree.flag(tpm, "persistent"):
                draft.dropped("devices.tpm.persistent", "its state is in a volume of the cluster")
            if not set(tpm) - {"enabled", "persistent"}:
                tree.take(devices, "tpm")
        graphics = tree.flag(devices, "autoattachGraphicsDevice")
        if graphics is not None:
            model = "std" if graphics else "none"
            draft.set("display.model", model, "devices.autoattachGraphicsDevice")
        serial = tree.flag(devices, "autoattachSerialConsole")
        ports = [] if serial is False else [{"model": "isa-serial", "port": 0}]
        draft.set("serial", ports, "devices.autoattachSerialConsole")
        inputs = tree.nodes(devices, "inputs")
        if len(inputs) == 1 and inputs[0].get("type") == "tablet":
            tree.take(devices, "inputs")
            how = "" if inputs[0].get("bus") == "usb" else "a USB tablet"
            draft.set("input", "usb-tablet", "devices.inputs", how=how)


def _file(volume: Node) -> FileRef | None:
    """Where the volume's content is: a name in the cluster; or an empty disk of its size."""
    name = str(volume.get("name", "disk"))
    for key, member in (
        ("dataVolume", "name"),
        ("persistentVolumeClaim", "claimName"),
        ("containerDisk", "image"),
        ("hostDisk", "path"),
    ):
        if isinstance(volume.get(key), dict):
            text = volume[key].get(member)
            # The path of a host's disk is the host's own.
            return FileRef(name if key == "hostDisk" else str(text or name), is_volume=True)
    if isinstance(volume.get("emptyDisk"), dict):
        size = names.quantity(str(volume["emptyDisk"].get("capacity", "")))
        if size and size < 1 << 50:
            return FileRef(name, blank=-(-size // 512) * 512)
    return None


def _bare(flag: str) -> str:
    return flag[1:]


def _secret(text: str) -> bool:
    """A path of a node. What cloud-init writes in the guest is text of several lines."""
    if text in ("hostDisk", "hostPath", "sourcePath"):
        return True
    return "\n" not in text and names_host(text)
