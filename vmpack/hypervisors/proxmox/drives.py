"""Drives and network cards of a Proxmox config, read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from vmpack.hypervisors.base import ConfigSource, FileRef
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.proxmox import places
from vmpack.hypervisors.proxmox.syntax import Config, is_true, properties
from vmpack.machine.names import safe_id

DRIVE = re.compile(r"(ide|sata|scsi|virtio)(0|[1-9][0-9]?)")
_NICS = {
    "virtio": ("virtio-net", ""),
    "e1000": ("e1000", ""),
    "e1000-82540em": ("e1000", ""),
    "e1000-82544gc": ("e1000", "an 82544GC becomes an 82540EM"),
    "e1000-82545em": ("e1000", "an 82545EM becomes an 82540EM"),
    "e1000e": ("e1000e", ""),
    "vmxnet3": ("vmxnet3", ""),
    "rtl8139": ("rtl8139", ""),
    "pcnet": ("pcnet", ""),
    "ne2k_pci": ("ne2k", ""),
    "ne2k_isa": ("ne2k", "an ISA card becomes a PCI one"),
    "i82551": ("e1000", "an i82551 becomes an e1000: the guest needs its driver"),
    "i82557b": ("e1000", "an i82557b becomes an e1000: the guest needs its driver"),
    "i82559er": ("e1000", "an i82559er becomes an e1000: the guest needs its driver"),
}
_FORMATS = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "subvol": ""}


class Drives:
    """Reads the drives of one config into ``draft``; ``ids`` says which disk each became."""

    def __init__(self, draft: Draft, config: Config, source: ConfigSource, *, q35: bool):
        self.draft = draft
        self.config = config
        self.source = source
        self.q35 = q35
        self.hardware = config.values.get("scsihw", "lsi")
        self.ids: dict[str, str] = {}

    def read(self) -> None:
        """Every drive, in the order of its kind and number."""
        keys = [key for key in self.config.values if DRIVE.fullmatch(key)]
        for key in sorted(keys, key=self._rank):
            kind, number = self._split(key)
            if number >= places.DRIVES[kind]:
                self.draft.dropped(key, f"Proxmox has {places.DRIVES[kind]} drives of {kind}")
            else:
                self._drive(key, kind, number, self.config.values[key])

    @staticmethod
    def _split(key: str) -> tuple[str, int]:
        found = DRIVE.fullmatch(key)
        assert found is not None
        return found[1], int(found[2])

    def _rank(self, key: str) -> tuple[int, int]:
        kind, number = self._split(key)
        return list(places.DRIVES).index(kind), number

    def _drive(self, key: str, kind: str, number: int, value: str) -> None:
        parts = properties(value, "file")
        volume = parts.pop("file", "")
        cdrom = parts.pop("media", "disk") == "cdrom"
        bus, where, how = self._place(kind, number)
        values: dict[str, object] = {"bus": bus, **where}
        if cdrom and kind == "virtio":
            values = {"bus": "sata"}
            how.append("a CD-ROM is on SATA: virtio-blk has none")
        file = self._file(key, volume, cdrom, parts)
        if cdrom:
            values["kind"] = "cdrom"
            if file is None and volume != "none":
                how.append(f"the drive is empty: {self._why_empty(volume)}")
        elif file is None:
            self.draft.dropped(key, "it has no volume")
            return
        values |= self._facts(key, parts, cdrom)
        label = self._label(key, volume)
        self.ids[key] = self.draft.add_disk(label, file, key, how="; ".join(how), **values)
        for name, content in parts.items():
            self._rest(key, name, content)

    def _label(self, key: str, volume: str) -> str:
        """The id: a file's own name, otherwise the drive's."""
        if ":" in volume or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}\.[a-z0-9]+", volume):
            return safe_id(key)
        return volume.partition(".")[0]

    def _place(self, kind: str, number: int) -> tuple[str, dict[str, object], list[str]]:
        """Bus and place of a drive, and what of it is approximated."""
        how: list[str] = []
        if kind == "virtio":
            address = None if self.q35 else places.VIRTIO.get(number)
            if address is None:
                how.append("its PCI address is another")
            return "virtio-blk", {"address": address} if address else {}, how
        if kind == "sata":
            return "sata", {"controller": 0, "port": number}, how
        if kind == "ide" and self.q35:
            # Proxmox itself hangs them on the chipset's AHCI: q35 has no IDE.
            how.append("on the SATA of the chipset: q35 has no IDE")
            taken = {one.get("port") for one in self.draft.data.get("disk", ())}
            taken |= {int(key[4:]) for key in self.config.values if re.fullmatch("sata[0-5]", key)}
            free = next((port for port in (number, *range(6)) if port not in taken), None)
            return "sata", {} if free is None else {"controller": 0, "port": free}, how
        if kind == "ide":
            return "ide", {"controller": 0, "port": number // 2, "unit": number % 2}, how
        bus, changed = places.SCSI_HARDWARE.get(self.hardware, ("virtio-scsi", "unknown scsihw"))
        if changed:
            how.append(changed)
        controller, port = places.scsi_place(self.hardware, number)
        return bus, {"controller": controller, "port": port}, how

    def _file(self, key: str, volume: str, cdrom: bool, parts: Mapping[str, str]) -> FileRef | None:
        """The drive's file; ``None`` where it has none that goes along."""
        device = self.config.devices.get(key, f"drive-{key}")
        if device in self.source.members:
            return FileRef(device, "raw")
        if volume in ("none", "cdrom", "") or (cdrom and self._is_foreign(volume)):
            return None
        given = _FORMATS.get(parts.get("format", ""))
        if self._is_foreign(volume) or volume.startswith("/dev/"):
            return FileRef(volume, given or None, is_volume=True)
        suffix = volume.rpartition(".")[2].lower()
        return FileRef(volume, given or ("raw" if suffix in ("raw", "iso", "img") else None))

    @staticmethod
    def _is_foreign(volume: str) -> bool:
        """A volume of a storage: ``local-lvm:vm-100-disk-0``."""
        return ":" in volume

    @staticmethod
    def _why_empty(volume: str) -> str:
        if volume == "cdrom":
            return "the host's own drive stays with the host"
        return "the ISO is in a storage of the host"

    def _facts(self, key: str, parts: dict[str, str], cdrom: bool) -> dict[str, object]:
        """What a drive's properties say that a config knows; they are taken out of ``parts``."""
        found: dict[str, object] = {}
        if "serial" in parts:
            found["serial"] = unquote(parts.pop("serial"))
        if "wwn" in parts:
            found["wwn"] = parts.pop("wwn").lower()
        if is_true(parts.pop("ssd", "0")):
            found["rotation_rate"] = 1
        if is_true(parts.pop("ro", "0")) and not cdrom:
            found["read_only"] = True
        if "size" in parts:
            self.draft.report.kept(f"{key}.size", "the disk's own size counts")
            del parts["size"]
        return found

    def _rest(self, key: str, name: str, content: str) -> None:
        if name in ("import-from",):
            self.draft.verbatim(f"{key}.{name}", content, secret=True)
        elif name == "format":
            self.draft.report.kept(f"{key}.format", "the disk's own format counts")
        else:
            self.draft.verbatim(f"{key}.{name}", content)


def read_nics(draft: Draft, config: Config, *, q35: bool) -> dict[str, int]:
    """Every network card; the number that each has in the config, by its key."""
    found = {}
    keys = [key for key in config.values if re.fullmatch(r"net(0|[1-9][0-9]?)", key)]
    for key in sorted(keys, key=lambda key: int(key[3:])):
        found[key] = _nic(draft, key, config.values[key], q35=q35)
    return found


def _nic(draft: Draft, key: str, value: str, *, q35: bool) -> int:
    parts = properties(value, "model")
    how = []
    mac = parts.pop("macaddr", None)
    for name in list(parts):
        if name in _NICS:
            mac = parts.pop(name)
            parts["model"] = name
    model = parts.pop("model", "")
    if model in _NICS and mac == model:
        mac = None
    wanted, changed = _NICS.get(model, ("virtio-net", f"{model[:32]!r} is no model that is known"))
    if changed:
        how.append(changed)
    network: str | None = parts.pop("bridge", "user")
    if is_true(parts.get("link_down", "0")):
        how.append(f"the cable is out; it led to {network}")
        network = "none"
        del parts["link_down"]
    values: dict[str, object] = {"model": wanted, "mac": mac, "network": network}
    if parts.get("mtu", "").isdigit() and parts["mtu"] != "1":
        values["mtu"] = int(parts.pop("mtu"))
    address = places.NICS.get(int(key[3:]))
    if address and not q35:
        values["address"] = address
    else:
        how.append("its PCI address is another: names such as enp6s18 change in the guest")
    index = draft.add("nic", values, key, how="; ".join(how))
    for name, content in parts.items():
        draft.verbatim(f"{key}.{name}", content)
    return index
