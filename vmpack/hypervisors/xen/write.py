"""Writes an ``xl`` config and qcow2 disks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.exportnotes import Notes, say_common
from vmpack.hypervisors.vmware.naming import file_stem
from vmpack.hypervisors.xen.read_xl import CARDS, HOST_KEYS, MODELS
from vmpack.hypervisors.xen.syntax import Value, encode
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Disk, Nic

__all__ = ["plan"]

_HEAD = "# Disks are named relative to the folder that xl is started in.\n"
_MODEL_NAMES = {model: name for name, model in reversed(MODELS.items()) if name != "virtio-net-pci"}
_CARD_NAMES = {model: name for name, model in CARDS.items()}
_PROGRAMS = re.compile(r"device_model.*|.*_override|cmdline|extra|root|script|backend.*")


def plan(machine: Machine) -> Plan:
    """A folder with ``NAME.cfg`` and a qcow2 file for each disk.

    Raises :class:`UnsupportedError` for more CD-ROM drives and IDE disks than four.
    """
    config = machine.config
    notes = Notes(config.to_json_dict(), "xen")
    stem = file_stem(config.name or "machine")
    settings = _Writing(machine, notes).settings()
    text = _HEAD + "".join(f"{key} = {encode(value)}\n" for key, value in settings.items())
    files = [TextFile(f"{stem}.cfg", text.encode("utf-8", "replace"))]

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:  # noqa: ARG001 - fixed
        return files

    disks = [
        DiskFile(disk.id, _image(disk), "raw" if disk.kind == "cdrom" else "qcow2")
        for disk in config.disks or ()
        if not disk.empty
    ]
    return Plan(disks, render, notes.report, [f"xl create {shlex.quote(f'./{stem}.cfg')}"])


def _image(disk: Disk) -> str:
    return f"{disk.id}.iso" if disk.kind == "cdrom" else f"{disk.id}.qcow2"


class _Writing:
    def __init__(self, machine: Machine, notes: Notes):
        self.machine = machine
        self.config: MachineConfig = machine.config
        self.notes = notes
        self.carried = {one.key: one.value for one in self.config.verbatim.get("xen", ())}
        self.given: set[str] = set()

    def settings(self) -> dict[str, Value]:
        """The settings; every field of the config is reported."""
        found = self._board()
        found["disk"] = self._disks()
        found["boot"] = self._boot()
        found["vif"] = [self._nic(nic, index) for index, nic in enumerate(self.config.nics or ())]
        self._restore(found)
        for name in sorted(self.machine.blobs):
            self.notes.report.dropped(name, "Xen's firmware makes its own variables, and no TPM")
        self.notes.dropped("tpm", "Xen's TPM is a machine of its own")
        say_common(self.notes, self.config, "Xen")
        return found

    def _board(self) -> dict[str, Value]:
        config, notes, cpu = self.config, self.notes, self.config.cpu
        count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
        found: dict[str, Value] = {
            "name": config.name or "machine",
            "type": "hvm",
            "memory": (config.memory or 1 << 30) // MiB,
            "vcpus": count,
            "bios": "ovmf" if config.firmware.kind == "uefi" else "seabios",
        }
        if config.uuid:
            found["uuid"] = config.uuid
        for path, key in (("name", "name"), ("memory", "memory"), ("uuid", "uuid")):
            notes.kept(path, key)
        notes.kept("firmware.kind", "bios")
        if config.firmware.secure_boot:
            notes.dropped("firmware.secure-boot", "Xen's OVMF enforces none")
        notes.kept("firmware.secure-boot", "off")
        for member in ("sockets", "dies", "cores", "threads"):
            if count == (cpu.cores or 1):
                notes.kept(f"cpu.{member}", "vcpus")
            notes.changed(f"cpu.{member}", f"{count} vcpus: Xen has no topology")
        notes.changed("cpu.model", "the host's CPU")
        notes.dropped("cpu.flags", "Xen has cpuid= in words of its own")
        notes.changed("machine", "Xen's own board (i440FX)")
        found["localtime"] = int(config.rtc.clock == "localtime")
        notes.kept("rtc.clock", "localtime")
        model = config.display.model or "std"
        found["vga"] = _CARD_NAMES.get(model, "stdvga")
        if model in _CARD_NAMES:
            notes.kept("display.model", "vga")
        notes.changed("display.model", f"stdvga: Xen has no {model}")
        if config.serials:
            found["serial"] = "pty"
            notes.kept("serial[0]", "serial")
            notes.dropped("serial", "one is connected to xl console")
        notes.kept("serial", "none")
        if config.input == "usb-tablet":
            found["usbdevice"] = ["tablet"]
            found["usb"] = 1
            notes.kept("input", "usbdevice")
        if config.rng.model == "none":
            notes.kept("rng.model", "none")
        notes.dropped("rng.model", "Xen has no such device; guests use the CPU's RDRAND")
        if config.guest_agent:
            notes.dropped("guest-agent", "Xen has no channel for it")
        notes.kept("guest-agent", "none")
        notes.dropped("guest-os", "xl does not say what is installed")
        notes.dropped("description", "xl has no place for it")
        return found

    def _vdevs(self) -> list[str]:
        """A name for each disk: its own IDE place, then CD-ROM drives on IDE, then the others."""
        disks = self.config.disks or ()
        found: dict[int, str] = {}
        taken: set[int] = set()

        def take(index: int, prefix: str, letters: Sequence[int]) -> None:
            if index in found:
                return
            free = next((letter for letter in letters if letter not in taken), None)
            if free is None:
                raise UnsupportedError(
                    f"Xen has no place left for disk {disks[index].id!r}",
                    field=f"disk[{index}]",
                    hint="four IDE disks and CD-ROM drives, 26 disks in all",
                )
            taken.add(free)
            found[index] = prefix + chr(97 + free)

        for index, disk in enumerate(disks):
            letter = 2 * (disk.port or 0) + (disk.unit or 0)
            if disk.bus == "ide" and disk.port is not None and letter not in taken:
                before = f"xvd{chr(97 + letter)}"
                prefix = "xvd" if disk.id == before and disk.kind != "cdrom" else "hd"
                take(index, prefix, [letter])
        for index, disk in enumerate(disks):
            if disk.kind == "cdrom":
                take(index, "hd", (2, 3, 1, 0))
        for index, disk in enumerate(disks):
            if disk.bus == "lsilogic":
                take(index, "sd", range(26))
            elif disk.bus == "ide":
                take(index, "hd", range(4))
        # An id that is a device's name comes from Xen: the guest knows the disk by it.
        for index, disk in enumerate(disks):
            own = re.fullmatch(r"xvd([a-z])", disk.id)
            if index not in found and own and ord(own[1]) - 97 not in taken:
                take(index, "xvd", [ord(own[1]) - 97])
        for index, _ in enumerate(disks):
            take(index, "xvd", range(26))
        return [found[index] for index in range(len(disks))]

    def _disks(self) -> list[Value]:
        found: list[Value] = []
        for number, (disk, vdev) in enumerate(
            zip(self.config.disks or (), self._vdevs(), strict=True)
        ):
            self._say(disk, vdev, f"disk[{number}]")
            parts = [f"format={'raw' if disk.kind == 'cdrom' else 'qcow2'}", f"vdev={vdev}"]
            parts.append("access=" + ("ro" if disk.read_only or disk.kind == "cdrom" else "rw"))
            if disk.kind == "cdrom":
                parts.append("devtype=cdrom")
            rest = self._carried_for(f"disk({disk.id})")
            parts += [rest] if rest else []
            # What follows target= belongs to it, whatever it is.
            parts.append("target=" + ("" if disk.empty else _image(disk)))
            found.append(", ".join(parts))
        return found

    def _say(self, disk: Disk, vdev: str, path: str) -> None:
        notes = self.notes
        notes.kept(f"{path}.id", "the file's name")
        notes.kept(f"{path}.kind", "devtype")
        notes.kept(f"{path}.empty", "no target")
        notes.kept(f"{path}.read-only", "access")
        if disk.bus == {"hd": "ide", "sd": "lsilogic"}.get(vdev[:2]):
            notes.kept(f"{path}.bus", vdev)
            for member in ("controller", "port", "unit"):
                notes.kept(f"{path}.{member}", vdev)
        notes.changed(f"{path}.bus", f"{vdev}: Xen's own disk, and IDE until its driver is there")
        notes.dropped(f"{path}.serial", "xl has no place for it")

    def _boot(self) -> str:
        """Kinds of devices in turn."""
        order = [
            (one.boot, "d" if one.kind == "cdrom" else "c", f"disk[{index}].boot")
            for index, one in enumerate(self.config.disks or ())
            if one.boot is not None
        ]
        order += [
            (one.boot, "n", f"nic[{index}].boot")
            for index, one in enumerate(self.config.nics or ())
            if one.boot is not None
        ]
        order.sort()
        letters = "".join(dict.fromkeys(letter for _, letter, _ in order)) or "cd"
        for number, (_, letter, path) in enumerate(order):
            if letters.find(letter) == number:
                self.notes.kept(path, f"boot {letters}")
            self.notes.changed(path, f"kinds of devices in turn: boot {letters}")
        return letters

    def _nic(self, nic: Nic, number: int) -> str:
        notes, path = self.notes, f"nic[{number}]"
        parts = []
        if nic.mac:
            parts.append(f"mac={nic.mac}")
            notes.kept(f"{path}.mac", "mac")
        model = _MODEL_NAMES.get(nic.model or "e1000")
        rest = self._carried_for(f"vif({nic.id})")
        if rest.startswith("type=vif"):
            notes.kept(f"{path}.model", "Xen's own card, as it was")
        elif model:
            parts.append(f"model={model}")
            notes.kept(f"{path}.model", "model")
        else:
            parts.append("model=e1000")
            notes.changed(f"{path}.model", f"e1000: Xen has no {nic.model}")
        parts += [rest] if rest else []
        network = nic.network or "user"
        if network not in ("user", "none"):
            parts.append(f"bridge={network.replace(' ', '-')}")
            notes.kept(f"{path}.network", "bridge")
        notes.changed(f"{path}.network", "the bridge that the host has by default")
        notes.kept(f"{path}.id", "its place")
        if nic.mtu:
            parts.append(f"mtu={nic.mtu}")
            notes.kept(f"{path}.mtu", "mtu")
        return ", ".join(parts)

    def _carried_for(self, key: str) -> str:
        value = self.carried.get(key, "")
        if not re.fullmatch(r"[A-Za-z0-9=:._, -]{0,512}", value) or re.search(
            r"target|script|backend|vdev|access|format|bridge|mac=|^\s*,", value
        ):
            return ""
        if value:
            self.given.add(key)
            self.notes.report.kept(key, "given back")
        return value

    def _restore(self, found: dict[str, Value]) -> None:
        self.notes.forget("verbatim.xen")
        for key, text in self.carried.items():
            value, why = _setting(key, text)
            if key in self.given:
                continue
            if why is None and value is not None and key not in found:
                found[key] = value
                self.notes.report.kept(key, "given back")
            elif why is None:
                self.notes.report.approximated(key, "as the config says now")
            else:
                self.notes.report.dropped(key, why)


def _setting(key: str, text: str) -> tuple[Value | None, str | None]:
    """A carried setting, or why it is not given back."""
    if key.startswith("xva/"):
        return None, "XenServer's own: xl has no such setting"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", key):
        return None, "what it belonged to is not in this machine, or it is no setting of xl's"
    if key in HOST_KEYS or _PROGRAMS.fullmatch(key):
        return None, "it chooses a program, a device or a file of the host"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, "not a value any more"
    is_list = isinstance(value, list) and all(isinstance(one, str | int) for one in value)
    if not isinstance(value, str | int) and not is_list:
        return None, "not a value that xl has"
    if names_host(f" {text}"):
        return None, "it names a file of the host"
    return value, None
