"""Writes a UTM machine: a folder NAME.utm with its property list and images."""

from __future__ import annotations

import plistlib
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.exportnotes import Notes, say_common
from vmpack.hypervisors.tree import Node, restore
from vmpack.hypervisors.utm import names
from vmpack.hypervisors.vmware.naming import file_stem
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk, Nic

__all__ = ["plan"]

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DRIVES = {bus: name for name, bus in names.INTERFACES.items()}


def plan(machine: Machine) -> Plan:
    """A folder ``NAME.utm`` with ``config.plist`` and ``Data/``."""
    config = machine.config
    notes = Notes(config.to_json_dict(), "utm")
    folder = f"{file_stem(config.name or 'machine')}.utm"
    writing = _Writing(machine, notes)
    document = writing.document()
    text = plistlib.dumps(_xml(document), sort_keys=True)
    files = [TextFile(f"{folder}/config.plist", text)]
    if writing.nvram is not None:
        files.append(TextFile(f"{folder}/{names.EFI_VARS}", writing.nvram))
    disks = [
        DiskFile(disk.id, f"{folder}/Data/{_image(disk)}", "raw" if _is_cd(disk) else "qcow2")
        for disk in config.disks or ()
        if not disk.empty
    ]

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:  # noqa: ARG001 - fixed
        return files

    return Plan(disks, render, notes.report, [f"open {shlex.quote('./' + folder)}"])


def _xml(value: Any) -> Any:
    """The same without characters that XML has no place for."""
    if isinstance(value, dict):
        return {_NO_XML.sub("", str(key)): _xml(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_xml(one) for one in value if one is not None]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return str(value)
    return _NO_XML.sub("", value) if isinstance(value, str) else "" if value is None else value


def _is_cd(disk: Disk) -> bool:
    return disk.kind == "cdrom"


def _image(disk: Disk) -> str:
    return f"{disk.id}.iso" if _is_cd(disk) else f"{disk.id}.qcow2"


class _Writing:
    def __init__(self, machine: Machine, notes: Notes):
        self.machine = machine
        self.config: MachineConfig = machine.config
        self.notes = notes
        self.places: dict[str, Node] = {}
        self.nvram: bytes | None = None
        self.is_q35 = not (self.config.machine or "").startswith("pc-i440fx")

    def document(self) -> Node:
        """The property list; every field of the config is reported."""
        config, notes = self.config, self.notes
        root: Node = {
            "Backend": "QEMU",
            "ConfigurationVersion": 4,
            "Information": self._information(),
            "System": self._system(),
            "QEMU": self._qemu(),
            "Input": {},
            "Sharing": {},
            "Display": self._displays(),
            "Drive": self._drives(),
            "Network": self._nics(),
            "Serial": self._serials(),
            "Sound": [],
        }
        # What a source's Sound was comes back whole.
        carried = config.verbatim.get("utm", ())
        if any(one.key == "Sound" for one in carried):
            del root["Sound"]
        for key in ("Icon", "Hardware"):
            for one in carried:
                if one.key == f"display(0)/{key}" and "display(0)" in self.places:
                    self._same_card(one.value)
        restore({**self.places, "": root}, carried, notes.report, why_not=_why_not)
        notes.forget("verbatim.utm")
        self._defaults(root)
        self._blobs()
        say_common(notes, config, "UTM")
        return root

    def _same_card(self, value: str) -> None:
        """The card that the source had, if the config still means it."""
        hardware = value.strip('"')
        plain = hardware.removesuffix("-gl")
        if names.DISPLAYS.get(plain) == self.config.display.model:
            self.places["display(0)"]["Hardware"] = hardware

    def _defaults(self, root: Node) -> None:
        """What UTM cannot do without, where the source did not say it."""
        for holder, values in (
            (root["Information"], {"IconCustom": False}),
            (
                root["System"],
                {
                    "CPUFlagsAdd": [],
                    "CPUFlagsRemove": [],
                    "ForceMulticore": False,
                    "JITCacheSize": 0,
                },
            ),
            (
                root["QEMU"],
                {
                    "AdditionalArguments": [],
                    "BalloonDevice": False,
                    "DebugLog": False,
                    "Hypervisor": False,
                },
            ),
            (
                root["Input"],
                {"UsbBusSupport": "3.0", "UsbSharing": False, "MaximumUsbShare": 3},
            ),
            (
                root["Sharing"],
                {
                    "DirectoryShareMode": "None",
                    "DirectoryShareReadOnly": False,
                    "ClipboardSharing": False,
                },
            ),
        ):
            for key, value in values.items():
                if type(holder.get(key)) is not type(value):
                    holder[key] = value
        for one in root["Display"]:
            for key, value in (
                ("DynamicResolution", False),
                ("NativeResolution", False),
                ("UpscalingFilter", "Nearest"),
                ("DownscalingFilter", "Linear"),
            ):
                one.setdefault(key, value)
        for one in root["Network"]:
            one.setdefault("IsolateFromHost", False)
            one.setdefault("PortForward", [])
        for one in root["Serial"]:
            one.setdefault("Mode", "Terminal")
        for disk, one in zip(self._in_order(), root["Drive"], strict=False):
            own = uuid.UUID(self.config.uuid or "0" * 32)
            one.setdefault("Identifier", str(uuid.uuid5(own, disk.id)).upper())
            one.setdefault("InterfaceVersion", 1)

    def _information(self) -> Node:
        config, notes = self.config, self.notes
        found: Node = {"Name": config.name or "machine"}
        notes.kept("name", "Information.Name")
        if config.description:
            found["Notes"] = config.description
            notes.kept("description", "Information.Notes")
        found["UUID"] = (config.uuid or str(uuid.uuid5(uuid.NAMESPACE_DNS, "vmpack"))).upper()
        notes.kept("uuid", "Information.UUID")
        return found

    def _system(self) -> Node:
        config, notes, cpu = self.config, self.notes, self.config.cpu
        count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
        found: Node = {
            "Architecture": "x86_64",
            "Target": config.machine or "q35",
            "CPU": cpu.model or "default",
            "CPUCount": count,
            "MemorySize": (config.memory or 1 << 30) // MiB,
        }
        notes.kept("machine", "System.Target")
        notes.kept("memory", "System.MemorySize")
        notes.kept("cpu.model", "System.CPU")
        if count == (cpu.cores or 1):
            for member in ("sockets", "dies", "threads", "cores"):
                notes.kept(f"cpu.{member}", "System.CPUCount")
        for member in ("sockets", "dies", "threads", "cores"):
            notes.changed(f"cpu.{member}", f"{count} cores of one socket")
        if cpu.flags:
            found["CPUFlagsAdd"] = [one[1:] for one in cpu.flags if one[0] == "+"]
            found["CPUFlagsRemove"] = [one[1:] for one in cpu.flags if one[0] == "-"]
            notes.kept("cpu.flags", "System.CPUFlagsAdd, CPUFlagsRemove")
        return found

    def _qemu(self) -> Node:
        config, notes = self.config, self.notes
        found: Node = {
            "UEFIBoot": config.firmware.kind == "uefi",
            "RNGDevice": config.rng.model != "none",
            "TPMDevice": config.tpm is not None,
            "RTCLocalTime": config.rtc.clock == "localtime",
            "PS2Controller": config.input != "usb-tablet",
        }
        notes.kept("firmware.kind", "QEMU.UEFIBoot")
        if config.firmware.secure_boot:
            notes.changed("firmware.secure-boot", "as its variables say, with UTM's firmware")
        notes.kept("firmware.secure-boot", "off")
        notes.kept("rng.model", "QEMU.RNGDevice")
        notes.kept("rtc.clock", "QEMU.RTCLocalTime")
        notes.dropped("rtc.start", "UTM's clock is the host's")
        notes.kept("input", "QEMU.PS2Controller")
        if config.tpm is not None:
            if config.tpm.version == "2.0":
                notes.kept("tpm.version", "QEMU.TPMDevice")
            notes.changed("tpm", "an empty TPM 2.0 of the model that UTM chooses")
        if config.guest_agent:
            notes.kept("guest-agent", "UTM always has its channel")
        notes.changed("guest-agent", "UTM always has its channel")
        return found

    def _displays(self) -> list[Node]:
        model = self.config.display.model or "std"
        self.notes.kept("display.model", "Display.Hardware")
        if model == "none":
            return []
        found: Node = {"Hardware": names.DISPLAY_NAMES[model]}
        self.places["display(0)"] = found
        return [found]

    def _in_order(self) -> list[Disk]:
        """Drives in the order in which they are to be tried."""
        return sorted(self.config.disks or (), key=lambda one: one.boot or 99)

    def _drives(self) -> list[Node]:
        found = []
        numbers = {disk.id: number for number, disk in enumerate(self.config.disks or ())}
        for disk in self._in_order():
            found.append(self._drive(disk, f"disk[{numbers[disk.id]}]"))
            self.places[f"drive({disk.id})"] = found[-1]
        return found

    def _drive(self, disk: Disk, path: str) -> Node:
        notes, own = self.notes, "sata" if self.is_q35 else "ide"
        interface = _DRIVES.get(disk.bus or own, "IDE")
        found: Node = {
            "ImageType": "CD" if _is_cd(disk) else "Disk",
            "Interface": interface,
            "ReadOnly": bool(disk.read_only) or _is_cd(disk),
        }
        if not disk.empty:
            found["ImageName"] = _image(disk)
        notes.kept(f"{path}.id", "ImageName")
        notes.kept(f"{path}.kind", "ImageType")
        notes.kept(f"{path}.empty", "no ImageName")
        notes.kept(f"{path}.boot", "the order of the drives")
        notes.kept(f"{path}.read-only", "ReadOnly")
        if interface != "IDE" or disk.bus == own:
            notes.kept(f"{path}.bus", f"Interface {interface}")
        notes.changed(f"{path}.bus", f"{own}, which UTM calls IDE: it has no {disk.bus}")
        notes.dropped(f"{path}.serial", "UTM has no place for it")
        return found

    def _nics(self) -> list[Node]:
        found = []
        for number, nic in enumerate(self.config.nics or ()):
            found.append(self._nic(nic, f"nic[{number}]"))
            self.places[f"net({nic.id or f'net{number}'})"] = found[-1]
        return found

    def _nic(self, nic: Nic, path: str) -> Node:
        notes = self.notes
        found: Node = {"Hardware": names.NIC_NAMES[nic.model or "virtio-net"]}
        notes.kept(f"{path}.model", "Hardware")
        notes.kept(f"{path}.id", "its place")
        modes = {word: mode for mode, word in names.MODES.items()}
        found["Mode"] = modes.get(nic.network or "user", "Emulated")
        if nic.network in modes:
            notes.kept(f"{path}.network", "Mode")
        elif nic.network == "none":
            found["IsolateFromHost"] = True
            notes.changed(f"{path}.network", "cut off from the host: UTM unplugs no cable")
        else:
            notes.changed(f"{path}.network", "UTM's own network: it has no named ones")
        if nic.mac:
            found["MacAddress"] = nic.mac.upper()
            notes.kept(f"{path}.mac", "MacAddress")
        return found

    def _serials(self) -> list[Node]:
        found: list[Node] = []
        for number, one in enumerate(self.config.serials or ()):
            self.places[f"serial({number})"] = {"Target": "Auto"}
            found.append(self.places[f"serial({number})"])
            if one.port == number:
                self.notes.kept(f"serial[{number}]", "Serial")
            self.notes.changed(f"serial[{number}]", f"port {number}")
        return found

    def _blobs(self) -> None:
        report = self.notes.report
        for name, data in sorted(self.machine.blobs.items()):
            if name != "nvram":
                report.dropped(name, "UTM has no place for it")
            elif self.config.firmware.kind == "uefi":
                from vmpack.machine.nvram import to_raw

                self.nvram = to_raw(data)
                report.kept(name, names.EFI_VARS)
            else:
                report.approximated(name, "a BIOS needs none")


def _why_not(key: str, value: Any) -> str | None:
    from vmpack.hypervisors.carry import names_host

    if key.startswith("QEMU/AdditionalArguments") and value:
        return "arguments of QEMU's: a bundle must not choose those of another's machine"
    if isinstance(value, str) and names_host(value):
        return "it names a file of the host"
    return None
