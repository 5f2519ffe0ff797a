"""Reads a UTM machine's property list: every key of it ends in the report."""

from __future__ import annotations

import plistlib
import re
import struct
from typing import Any
from xml.parsers.expat import ExpatError

from vmpack.errors import DamagedError, UnsafeError, UnsupportedError
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.tree import Node, Tree
from vmpack.hypervisors.utm import names
from vmpack.machine.names import CPU_PATTERN, MACHINE_PATTERN
from vmpack.units import MiB

MAX_NODES = 20_000
MAX_DEPTH = 32
VERSION = 4


def parse(data: bytes, *, path: str) -> Node:
    """The property list, XML or binary: mappings, lists, strings, numbers, booleans.

    Raises :class:`DamagedError` for what is none, :class:`UnsafeError` for what is too deep or
    stands for too much (a binary one may refer to the same list again and again).
    """
    try:
        found = plistlib.loads(data)
    except (
        plistlib.InvalidFileException,
        ExpatError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as exc:
        raise DamagedError(
            "is not a sound property list", path=path, hint="plutil -lint names the line"
        ) from exc
    if not isinstance(found, dict):
        raise DamagedError("is a property list without keys", path=path)
    count = 0

    def plain(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise UnsafeError(f"has more than {MAX_NODES} values, or {MAX_DEPTH} levels", path=path)
        if isinstance(value, dict):
            return {str(key): plain(one, depth + 1) for key, one in value.items()}
        if isinstance(value, list):
            return [plain(one, depth + 1) for one in value]
        if isinstance(value, bytes):
            return value.hex()
        return value if isinstance(value, bool | str | int | float) else str(value)

    root: Node = plain(found, 0)
    return root


def read(source: ConfigSource) -> Imported:
    """The machine of ``config.plist``; its images are in ``Data/`` beside it.

    Raises :class:`UnsupportedError` for the Apple backend, other architectures than x86_64, and
    the format of UTM before version 4.
    """
    root = parse(source.data, path=source.name)
    if root.get("Backend") == "Apple":
        raise UnsupportedError(
            "is a machine of Apple's Virtualization framework",
            path=source.name,
            field="Backend",
            hint="vmpack reads those of UTM's QEMU backend; pack its disk image alone",
        )
    if root.get("ConfigurationVersion") != VERSION or root.get("Backend") != "QEMU":
        raise UnsupportedError(
            f"has ConfigurationVersion {root.get('ConfigurationVersion')!r}, 4 is read",
            path=source.name,
            field="ConfigurationVersion",
            hint="open it once in UTM 4 or newer, which writes it anew",
        )
    reading = _Reading(root)
    if reading.system.get("Architecture") not in ("x86_64", "i386"):
        raise UnsupportedError(
            f"is a machine of architecture {reading.system.get('Architecture')!r}",
            path=source.name,
            field="System.Architecture",
            hint="vmpack's machines are x86_64",
        )
    return reading.imported()


class _Reading:
    def __init__(self, root: Node):
        self.draft = Draft("utm")
        self.tree = Tree(root, self.draft)
        self.system = self.tree.node("System")
        self.qemu = self.tree.node("QEMU")
        self.is_q35 = True

    def imported(self) -> Imported:
        """The whole machine."""
        for key in ("Backend", "ConfigurationVersion"):
            self.tree.take(self.tree.root, key)
            self.draft.report.kept(key, "as vmpack writes it")
        self._information()
        self._system()
        self._qemu()
        for number, one in enumerate(self.tree.nodes(self.tree.root, "Drive")):
            self._drive(one, number)
        self._nics()
        self._displays()
        self._serials()
        self.tree.carry()
        return self.draft.build()

    def _information(self) -> None:
        tree, draft = self.tree, self.draft
        info = tree.node("Information")
        if tree.text(info, "Name"):
            draft.name(str(info["Name"]), "Information.Name")
        if tree.text(info, "Notes"):
            draft.set("description", str(info["Notes"]), "Information.Notes")
        if tree.text(info, "UUID"):
            draft.set("uuid", str(info["UUID"]).lower(), "Information.UUID")
        if tree.flag(info, "IconCustom"):
            tree.drop(info, "Icon", "Information.Icon", "a picture beside the config")
        elif tree.flag(info, "IconCustom") is False:
            draft.report.kept("Information.IconCustom", "no")

    def _system(self) -> None:
        tree, draft, system = self.tree, self.draft, self.system
        if tree.text(system, "Architecture") == "x86_64":
            draft.set("architecture", "x86_64", "System.Architecture")
        else:
            draft.set("architecture", "x86_64", "System.Architecture", how="runs i386 guests too")
        target = tree.text(system, "Target")
        self.is_q35 = not re.match(r"pc(-i440fx.*|-[0-9.]+)?$|isapc$", target)
        if re.fullmatch(MACHINE_PATTERN, target):
            draft.set("machine", target, "System.Target")
        elif target in ("pc", "q35"):
            draft.set(
                "machine",
                "pc-q35-7.2" if self.is_q35 else "pc-i440fx-7.2",
                "System.Target",
                how="with a version pinned",
            )
        elif target:
            draft.dropped("System.Target", f"{target}: vmpack runs q35 and i440fx")
        count = tree.number(system, "CPUCount")
        if count:
            draft.set("cpu.cores", count, "System.CPUCount")
        elif count == 0:
            draft.report.approximated("System.CPUCount", "as many as the host has: two")
        memory = tree.number(system, "MemorySize")
        if memory is not None:
            draft.set("memory", memory * MiB, "System.MemorySize")
        model = tree.text(system, "CPU")
        known = model if re.fullmatch(CPU_PATTERN, model) else f"{model}-v1"
        if re.fullmatch(CPU_PATTERN, known):
            how = "" if known == model else f"{known}, as QEMU's name says"
            draft.set("cpu.model", known, "System.CPU", how=how)
        elif model == "default":
            draft.report.approximated("System.CPU", "QEMU's default: a model is pinned")
        elif model:
            draft.dropped("System.CPU", f"{model}: no model of a version")
        self._flags()

    def _flags(self) -> None:
        found: dict[str, str] = {}
        for key, sign in (("CPUFlagsAdd", "+"), ("CPUFlagsRemove", "-")):
            flags = self.system.get(key)
            if isinstance(flags, list):
                self.tree.take(self.system, key)
                found |= {str(flag): sign for flag in flags}
        if found:
            self.draft.set(
                "cpu.flags",
                [found[name] + name for name in sorted(found)],
                "System.CPUFlagsAdd, CPUFlagsRemove",
            )

    def _qemu(self) -> None:
        tree, draft, qemu = self.tree, self.draft, self.qemu
        uefi = tree.flag(qemu, "UEFIBoot")
        if uefi is not None:
            draft.set("firmware.kind", "uefi" if uefi else "bios", "QEMU.UEFIBoot")
        if uefi:
            draft.blobs["nvram"] = FileRef(names.EFI_VARS)
        rng = tree.flag(qemu, "RNGDevice")
        if rng is not None:
            draft.set("rng.model", "virtio-rng" if rng else "none", "QEMU.RNGDevice")
        if tree.flag(qemu, "TPMDevice"):
            draft.set("tpm", {"version": "2.0"}, "QEMU.TPMDevice")
            draft.report.dropped(names.TPM_DATA, "swtpm's own file format: a new TPM is empty")
        elif "TPMDevice" in qemu:
            draft.report.kept("QEMU.TPMDevice", "no")
        local = tree.flag(qemu, "RTCLocalTime")
        if local is not None:
            draft.set("rtc.clock", "localtime" if local else "utc", "QEMU.RTCLocalTime")
        usb = tree.node("Input").get("UsbBusSupport", "Disabled") != "Disabled"
        ps2 = tree.flag(qemu, "PS2Controller") or not usb
        draft.set("input", "ps2" if ps2 else "usb-tablet", "QEMU.PS2Controller")
        draft.set("guest-agent", True, "QEMU", how="UTM always has its channel")

    def _drive(self, one: Node, number: int) -> None:
        tree, draft = self.tree, self.draft
        where = f"Drive[{number}]"
        kind, bus = tree.text(one, "ImageType"), tree.text(one, "Interface")
        if kind not in ("Disk", "CD") or bus in ("Floppy", "SD", "MTD", "PFlash"):
            for key in tuple(one):
                tree.take(one, key)
            draft.dropped(where, f"{kind} on {bus}: vmpack has no such drive")
            return
        values: dict[str, Any] = {"kind": "cdrom" if kind == "CD" else "disk"}
        how = ""
        chosen = names.INTERFACES.get(bus, "sata" if self.is_q35 else "ide")
        if kind == "CD" and chosen in ("virtio-blk", "nvme"):
            chosen = "sata" if self.is_q35 else "ide"
            how = f"{chosen}: a CD-ROM cannot be on {bus}"
        elif bus not in (*names.INTERFACES, "IDE"):
            how = f"{chosen}: vmpack has no disks on {bus}"
        if kind != "CD" and tree.flag(one, "ReadOnly") is not None:
            values["read_only"] = bool(one["ReadOnly"])
        else:
            tree.flag(one, "ReadOnly")
        name = tree.text(one, "ImageName")
        file = FileRef(f"Data/{name}") if name else None
        if file is None:
            values["kind"] = "cdrom"
            if chosen in ("virtio-blk", "nvme"):
                chosen = "sata" if self.is_q35 else "ide"
            how = how or ("" if kind == "CD" else "an empty CD-ROM drive: the image is elsewhere")
        # Drives are tried in their order.
        wanted = name.rpartition("/")[2].rpartition(".")[0] or f"drive{number}"
        if chosen == "nvme" and len(str(one.get("Identifier", ""))) <= 20:
            values["serial"] = str(one.get("Identifier", "")) or None
        disk_id = draft.add_disk(
            wanted, file, where, bus=chosen, boot=number + 1, how=how, **values
        )
        tree.place(one, f"drive({disk_id})")

    def _nics(self) -> None:
        tree, draft = self.tree, self.draft
        found = tree.nodes(tree.root, "Network")
        for number, one in enumerate(found):
            where = f"Network[{number}]"
            model = tree.text(one, "Hardware")
            mode = tree.text(one, "Mode")
            mac = tree.text(one, "MacAddress").lower()
            values = {
                "id": f"net{number}",
                "model": names.NICS.get(model, "virtio-net"),
                "mac": mac or None,
                "network": names.MODES.get(mode, "user"),
            }
            how = "" if model in names.NICS else f"virtio-net: vmpack has no {model}"
            index = draft.add("nic", values, where, how=how)
            draft.set_source(f"nic[{index}].mac", f"{where}.MacAddress")
            tree.place(one, f"net(net{number})")
        if not found:
            draft.set("nic", [], "Network")

    def _displays(self) -> None:
        tree, draft = self.tree, self.draft
        found = tree.nodes(tree.root, "Display")
        if not found:
            draft.set("display.model", "none", "Display")
            return
        hardware = tree.text(found[0], "Hardware")
        plain = hardware.removesuffix("-gl")
        tree.place(found[0], "display(0)")
        if plain in names.DISPLAYS:
            how = "" if plain == hardware else f"{names.DISPLAYS[plain]}, without OpenGL"
            draft.set("display.model", names.DISPLAYS[plain], "Display[0].Hardware", how=how)
            if how:
                draft.verbatim("display(0)/Hardware", f'"{hardware}"')
        else:
            draft.dropped("Display[0].Hardware", f"{hardware}: no card that vmpack has")

    def _serials(self) -> None:
        tree, draft = self.tree, self.draft
        ports: list[dict[str, object]] = []
        for one in tree.nodes(tree.root, "Serial"):
            if one.get("Target") == "Auto" and len(ports) < 4:
                tree.place(one, f"serial({len(ports)})")
                tree.take(one, "Target")
                ports.append({"model": "isa-serial", "port": len(ports)})
        draft.set("serial", ports, "Serial")
