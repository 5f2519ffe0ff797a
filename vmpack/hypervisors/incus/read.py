"""Reads Incus's YAML: an export's index, an image's metadata, an instance's config."""

from __future__ import annotations

import re
from typing import Any

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors import guest_os, yamlsafe
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.kubevirt.names import network_name
from vmpack.hypervisors.tree import Node, Tree
from vmpack.machine.names import safe_id
from vmpack.units import MiB

BUSES = {"virtio-scsi": "virtio-scsi", "virtio-blk": "virtio-blk", "nvme": "nvme"}
_SIZES = {"": 1, "B": 1}
for _power, _unit in enumerate("kMGTPE", 1):
    _SIZES |= {f"{_unit}B": 1000**_power, f"{_unit}iB": 1024**_power}
    _SIZES |= {f"{_unit.upper()}iB": 1024**_power}


def size_of(text: str) -> int | None:
    """Bytes of ``4GiB`` or ``512MB``; ``None`` for what is no size (``50%``)."""
    found = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]{0,3})", text.strip())
    return int(found[1]) * _SIZES[found[2]] if found and found[2] in _SIZES else None


def read(source: ConfigSource) -> Imported:
    """The virtual machine.

    Raises :class:`UnsupportedError` for containers, and for exports of a storage driver's own
    format.
    """
    documents = yamlsafe.parse(source.data, path=source.name)
    root = documents[0] if len(documents) == 1 else None
    if not isinstance(root, dict):
        raise DamagedError("is no config of Incus", path=source.name)
    if source.name.lower() == "metadata.yaml":
        return _Reading(root, {}, source).image()
    config = root.get("config")
    if source.name.lower() == "index.yaml":
        whole = config if isinstance(config, dict) else {}
        instance = whole.get("instance") or whole.get("container")
        _require_machine(root.get("type"), root.get("optimized"), source)
        if not isinstance(instance, dict):
            raise DamagedError("has no instance in its index", path=source.name)
        return _Reading(root, instance, source).backup()
    _require_machine(root.get("type"), None, source)
    return _Reading(root, root, source).instance()


def _require_machine(kind: object, optimized: object, source: ConfigSource) -> None:
    if kind not in (None, "virtual-machine"):
        raise UnsupportedError(
            f"is a {kind}, no virtual machine", path=source.name, hint="vmpack takes machines only"
        )
    if optimized:
        raise UnsupportedError(
            "is an export in its storage driver's own format",
            path=source.name,
            hint="export it without --optimized-storage",
        )


class _Reading:
    def __init__(self, root: Node, instance: Node, source: ConfigSource):
        self.draft = Draft("incus")
        self.tree = Tree(root, self.draft)
        self.root = instance
        self.members = source.members
        self.config: Node = {}

    def image(self) -> Imported:
        """The machine of an image: a disk, and what it says of the system on it."""
        tree, draft = self.tree, self.draft
        properties = tree.child(tree.root, "properties")
        if "rootfs.img" not in self.members and "disk.qcow2" not in self.members:
            raise UnsupportedError(
                "is an image without rootfs.img: of a container, or the half of a split one",
                path="metadata.yaml",
                hint="pack the image's disk (qcow2) itself",
            )
        self._architecture(tree.root)
        name = tree.text(properties, "name") or tree.text(properties, "description")
        if name:
            draft.name(name, "properties.name")
        self._system(properties, "os", "release")
        tree.drop(tree.root, "creation_date", "creation_date", "a machine has none")
        file = "rootfs.img" if "rootfs.img" in self.members else "disk.qcow2"
        draft.add_disk("root", FileRef(file), file, bus="virtio-scsi", boot=1)
        draft.set("firmware.kind", "uefi", "type", how="as Incus starts images")
        tree.carry()
        return draft.build()

    def backup(self) -> Imported:
        """The machine of an export."""
        tree = self.tree
        for key in tuple(tree.root):
            tree.take(tree.root, key)
            if key not in ("config", "type"):
                self.draft.dropped(key, "of the export, no part of the machine")
        self.draft.report.kept("type", "a virtual machine")
        for key in ("snapshots", "volume_snapshots", "pool", "volume", "profiles"):
            if self.tree.child(tree.root, "config").get(key):
                self.draft.dropped(f"config.{key}", "of the pool that it came from")
        stores = [
            name
            for name in sorted(self.members)
            if re.fullmatch(r"virtual-machine/(qemu\.nvram|OVMF_VARS[\w.-]*)", name)
        ]
        if stores:
            chosen = "virtual-machine/qemu.nvram"
            chosen = chosen if chosen in stores else stores[0]
            self.draft.blobs["nvram"] = FileRef(chosen)
        self.tree = Tree(self.root, self.draft)
        return self._machine(FileRef("virtual-machine.img"))

    def instance(self) -> Imported:
        """The machine of ``incus config show``; its disks are volumes of a pool."""
        status = str(self.root.get("status", ""))
        self.draft.running = status in ("Running", "Frozen")
        self.draft.running_hint = "stop it (incus stop NAME), and copy its volume then"
        return self._machine(FileRef("root", is_volume=True))

    def _machine(self, disk: FileRef) -> Imported:
        tree, draft, root = self.tree, self.draft, self.root
        self._architecture(root)
        if tree.text(root, "name"):
            draft.name(str(root["name"]), "name")
        if tree.text(root, "description"):
            draft.set("description", str(root["description"]), "description")
        tree.take(root, "type")
        for key in (
            "created_at",
            "last_used_at",
            "location",
            "project",
            "status",
            "status_code",
            "ephemeral",
            "stateful",
            "backups",
            "snapshots",
            "state",
        ):
            tree.drop(root, key, key, "of the server that it came from")
        # With profiles, the expanded ones are the machine's.
        for plain in ("config", "devices"):
            if isinstance(root.get(f"expanded_{plain}"), dict):
                tree.take(root, plain)
                root[plain] = root[f"expanded_{plain}"]
                tree.take(root, f"expanded_{plain}")
                draft.report.approximated(plain, f"with what its profiles say: expanded_{plain}")
        tree.drop(root, "profiles", "profiles", "what they say is in the machine")
        self.config = tree.child(root, "config")
        self._config()
        devices = tree.child(root, "devices")
        for name, one in devices.items():
            if isinstance(one, dict):
                self._device(str(name), one, disk)
        if "nic" not in draft.data:
            draft.set("nic", [], "devices")
        inner = Tree({"config": self.config, "devices": devices}, draft)
        inner.merge(tree)
        inner.carry()
        tree.take(root, "config")
        tree.take(root, "devices")
        tree.carry()
        return draft.build()

    def _architecture(self, holder: Node) -> None:
        word = self.tree.text(holder, "architecture")
        if word in ("x86_64", "amd64"):
            self.draft.set("architecture", "x86_64", "architecture")
        elif word:
            raise UnsupportedError(
                f"is a machine of architecture {word}",
                path="architecture",
                hint="vmpack's machines are x86_64",
            )

    def _system(self, holder: Node, os_key: str, release_key: str) -> None:
        word = str(holder.get(os_key, "")).lower()
        release = re.sub(r"[^0-9.]", "", str(holder.get(release_key, "")))
        found = guest_os.by_id(f"{word}{release}") or guest_os.by_id(word)
        if found is not None:
            self.draft.set("guest-os.family", found.family, os_key)
            self.draft.set("guest-os.id", found.id, os_key)

    def _config(self) -> None:
        tree, draft, config = self.tree, self.draft, self.config
        cpus = str(config.get("limits.cpu", ""))
        if re.fullmatch("[1-9][0-9]{0,2}", cpus):
            tree.take(config, "limits.cpu")
            draft.set("cpu.cores", int(cpus), "limits.cpu")
        memory = size_of(str(config.get("limits.memory", "")))
        if memory:
            tree.take(config, "limits.memory")
            whole = -(-memory // MiB) * MiB
            draft.set("memory", whole, "limits.memory", how="" if whole == memory else "whole MiB")
        csm = self._switch("security.csm")
        secure = self._switch("security.secureboot")
        draft.set("firmware.kind", "bios" if csm else "uefi", "security.csm")
        if not csm:
            draft.set("firmware.secure-boot", secure is not False, "security.secureboot")
        for key, value in tuple(config.items()):
            if key in ("volatile.uuid", "volatile.uuid.generation"):
                tree.take(config, key)
                if key == "volatile.uuid":
                    draft.set("uuid", str(value).lower(), key)
            elif key.startswith("volatile.") and not key.endswith(".hwaddr"):
                tree.take(config, key)
                draft.dropped(key, "of the server that it came from")
        self._system(config, "image.os", "image.release")

    def _switch(self, key: str) -> bool | None:
        value = self.config.get(key)
        text = str(value).lower()
        if text not in ("true", "false", "1", "0"):
            return None
        self.tree.take(self.config, key)
        return text in ("true", "1")

    def _device(self, name: str, one: Node, disk: FileRef) -> None:
        tree, draft = self.tree, self.draft
        kind = one.get("type")
        if kind == "disk":
            self._disk(name, one, disk)
        elif kind == "nic":
            self._nic(name, one)
        elif kind == "tpm":
            tree.take(one, "type")
            tree.take(one, "path")
            tree.take(one, "pathrm")
            draft.set("tpm", {"version": "2.0"}, f"device {name}", how="an empty one")
            tree.place(one, "tpm")

    def _disk(self, name: str, one: Node, disk: FileRef) -> None:
        tree, draft = self.tree, self.draft
        is_root = one.get("path") == "/"
        source = str(one.get("source", ""))
        if not is_root and ("path" in one or not source):
            return
        is_host = source.startswith("/")
        is_iso = source.lower().endswith(".iso")
        for key in ("type", "path", "pool", "source", "size"):
            tree.take(one, key)
        bus = BUSES.get(tree.text(one, "io.bus") or "virtio-scsi")
        values: dict[str, Any] = {"bus": bus or "virtio-scsi"}
        if is_iso:
            values["kind"] = "cdrom"
            values["bus"] = "virtio-scsi"
        elif str(one.get("readonly", "")).lower() in ("true", "1"):
            tree.take(one, "readonly")
            values["read_only"] = True
        file = disk if is_root else FileRef(name if is_host else source, is_volume=True)
        self._boot(one, values)
        disk_id = draft.add_disk(
            name,
            file,
            f"device {name}",
            how="" if bus else "virtio-scsi in place of what it is on",
            **values,
        )
        tree.place(one, f"disk({disk_id})")

    def _boot(self, one: Node, values: dict[str, Any]) -> None:
        """Higher priorities are tried first; the numbers become places when all are known."""
        priority = str(one.get("boot.priority", ""))
        if re.fullmatch("[0-9]{1,2}", priority) and 0 < int(priority) <= 64:
            place = 65 - int(priority)
            taken = [
                device.get("boot")
                for key in ("disk", "nic")
                for device in self.draft.data.get(key, ())
            ]
            if place not in taken:
                self.tree.take(one, "boot.priority")
                values["boot"] = place

    def _nic(self, name: str, one: Node) -> None:
        tree, draft = self.tree, self.draft
        key = f"volatile.{name}.hwaddr"
        mac = tree.text(one, "hwaddr") or tree.text(self.config, key)
        network = tree.text(one, "network") or tree.text(one, "parent")
        values: dict[str, Any] = {
            "id": safe_id(str(one.get("name") or name)),
            "model": "virtio-net",
            "mac": mac.lower() or None,
            "network": network_name(network) if network else "user",
        }
        mtu = tree.text(one, "mtu")
        if re.fullmatch("[0-9]{3,5}", mtu):
            values["mtu"] = int(mtu)
        for word in ("type", "name", "nictype"):
            tree.take(one, word)
        self._boot(one, values)
        index = draft.add("nic", values, f"device {name}")
        draft.set_source(f"nic[{index}].mac", f"device {name} hwaddr")
        tree.place(one, f"nic({values['id']})")
