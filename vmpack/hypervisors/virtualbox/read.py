"""Reads VirtualBox's settings of a machine: in a .vbox, and in an OVF's ``vbox:Machine``.

Profile: specs/hypervisors/virtualbox.md, VBOX-READ-*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID
from xml.etree.ElementTree import Element

from vmpack.errors import UnsupportedError
from vmpack.hypervisors import guest_os
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.carry import Carrier
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.virtualbox import names
from vmpack.hypervisors.virtualbox.devices import Cards, Storage, flag
from vmpack.hypervisors.xmlsafe import local
from vmpack.units import MiB

_UUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE)
_TPM = {"v1_2": "1.2", "v2_0": "2.0", "swtpm": "2.0", "host": "2.0"}


def children(element: Element | None, name: str) -> Iterator[Element]:
    """Children of this local name."""
    return (one for one in element if local(one.tag) == name) if element is not None else iter(())


def child(element: Element | None, name: str) -> Element | None:
    """The first of them."""
    return next(children(element, name), None)


class Machine:
    """The settings ``root``, whose carried fields stand under ``place``.

    ``media`` is the image of each UUID (``{...}``, lower case): its id and its file.
    """

    def __init__(
        self,
        carrier: Carrier,
        root: Element,
        place: str,
        media: Mapping[str, tuple[str, FileRef]],
    ):
        self.carrier = carrier
        self.draft: Draft = carrier.draft
        self.root = root
        self.place = place
        self.media = media
        self.hardware = child(root, "Hardware")
        self.named: dict[str, str] = {}
        """Disk id -> the id of its medium."""

    def complete(self) -> bool:
        """Whether every disk that is attached is a medium that is known."""
        return all(
            image.get("uuid", "").lower() in self.media
            for controllers in self._storage()
            for controller in controllers
            for device in children(controller, "AttachedDevice")
            if device.get("type") == "HardDisk"
            for image in children(device, "Image")
        )

    def read(self) -> None:
        """Everything that is understood; the rest is carried."""
        self._identity()
        self._board()
        self._firmware()
        storage = Storage(self.carrier, self.media)
        for section in self._storage():
            storage.read(section)
        self.named = storage.named
        cards = Cards(self.carrier)
        cards.read(child(self.hardware, "Network"))
        self._boot()
        self._serial()
        self._chipset()
        for info in children(self.root, "Info"):
            self.carrier.note(info, f"{self.place}/Info", "a label")
        self.carrier.carry(self.root, self.place)

    def _storage(self) -> Iterator[Element]:
        """Up to VirtualBox 6 beside the hardware, then in it."""
        for parent in (self.root, self.hardware):
            yield from children(parent, "StorageControllers")

    def _find(self, name: str) -> Element | None:
        """A part of the hardware: VirtualBox 7.1 has some of them in ``Platform``."""
        for parent in (
            self.hardware,
            child(self.root, "Platform"),
            child(self.hardware, "Platform"),
        ):
            found = child(parent, name)
            if found is not None:
                return found
        return None

    def _attribute(self, element: Element | None, name: str) -> str:
        return "" if element is None else self.carrier.take(element, name).strip()

    def _note(self, name: str, detail: str) -> str:
        return self.carrier.note(self.root, self.place, detail, name)

    def _drop(self, name: str, why: str) -> None:
        if self.root.get(name):
            self.carrier.take(self.root, name)
            self.draft.dropped(f"{self.place}@{name}", why)

    def _identity(self) -> None:
        draft, place = self.draft, self.place
        name = self._attribute(self.root, "name")
        if name:
            draft.name(name, f"{place}@name")
        self._uuid()
        word = self.root.get("OSType", "")
        found = guest_os.by_virtualbox(word) if word else None
        if found is not None:
            draft.set("guest-os.family", found.family, f"{place}@OSType")
            if found.id != "unknown":
                draft.set("guest-os.id", found.id, f"{place}@OSType")
            if found.virtualbox == word:
                self._attribute(self.root, "OSType")
        description = child(self.root, "Description")
        if description is not None:
            text = self.carrier.take(description)
            if text:
                draft.set("description", text[:8192], f"{place}/Description")
        self._note("version", "the version of settings that is written")
        self._note("snapshotFolder", "as VirtualBox has it")
        for attribute in dict(self.root.items()):
            if local(attribute) == "required":
                self._note(attribute, "whoever does not know VirtualBox passes over it")
        self._drop("lastStateChange", "a time of the host")
        self._drop("aborted", "a state of the host")
        self._drop("currentStateModified", "the current state is taken")
        self._drop("currentSnapshot", "snapshots are not taken: the current state is")
        for snapshot in children(self.root, "Snapshot"):
            name = snapshot.get("name", "")
            self.carrier.take_all(snapshot)
            draft.dropped(f"Snapshot {name[:80]}", "the current state is taken, not its snapshots")
        for registry in children(self.root, "MediaRegistry"):
            self.carrier.take_all(registry)
            draft.report.kept(f"{place}/MediaRegistry", "the files of the disks")
        if self._attribute(self.root, "stateFile"):
            draft.dropped(f"{place}@stateFile", "a saved state: memory is not taken")
            draft.running = True
            draft.running_hint = (
                "it was saved, not shut down: start it and shut it down, or give the state up:"
                " VBoxManage discardstate NAME"
            )

    def _uuid(self) -> None:
        """The UUID as the guest sees it; VirtualBox has it the other way round unless told not to.

        SMBIOS 2.6 has the first three fields of a UUID in little-endian order (7.2.1).
        """
        found = _UUID.fullmatch(self._attribute(self.root, "uuid"))
        little = False
        for parent in (child(self.hardware, "BIOS"), child(self.hardware, "Firmware")):
            setting = child(parent, "SmbiosUuidLittleEndian")
            if setting is not None:
                self.carrier.note(
                    setting, "BIOS/SmbiosUuidLittleEndian", "written as on", "enabled"
                )
                little = flag(setting.get("enabled", ""))
        if found is None:
            return
        number = UUID(found[1])
        shown = number if little else UUID(bytes=number.bytes_le)
        how = "" if little else f"{shown}: as the guest sees it"
        self.draft.set("uuid", str(shown), f"{self.place}@uuid", how=how)

    def _board(self) -> None:
        draft = self.draft
        platform = child(self.root, "Platform")
        if platform is None:
            platform = child(self.hardware, "Platform")
        kind = self._attribute(platform, "architecture")
        if kind not in ("", "x86", "None"):
            raise UnsupportedError(
                f"is a machine for {kind[:20]}: vmpack has x86_64 only",
                field="Platform",
                clause="VBOX-READ-3",
            )
        cpu = self._find("CPU")
        if cpu is not None:
            count = self._attribute(cpu, "count") or "1"
            if count.isascii() and count.isdigit():
                draft.set("cpu.sockets", 1, "CPU@count")
                draft.set("cpu.cores", int(count[:9]), "CPU@count")
        memory = child(self.hardware, "Memory")
        size = self._attribute(memory, "RAMSize")
        if size.isascii() and size.isdigit():
            draft.set("memory", int(size[:12]) * MiB, "Memory@RAMSize")
        pointing = child(self.hardware, "HID")
        word = self._attribute(pointing, "Pointing")
        if word:
            tablet = word in ("USBTablet", "USBMultiTouch", "USBMTScreenPlusPad")
            exact = word in ("USBTablet", "PS2Mouse")
            draft.set(
                "input",
                "usb-tablet" if tablet else "ps2",
                "HID@Pointing",
                how="" if exact else f"{word}: the nearest",
            )
        clock = self._attribute(self._find("RTC"), "localOrUTC")
        if clock:
            local_time = clock.lower() == "local"
            draft.set("rtc.clock", "localtime" if local_time else "utc", "RTC@localOrUTC")
        if child(self.hardware, "Display") is not None:
            draft.report.approximated("Display", "a standard graphics card")

    def _firmware(self) -> None:
        element = child(self.hardware, "Firmware")
        word = self._attribute(element, "type").upper()
        if word:
            exact = word in ("BIOS", "EFI", "EFI64")
            draft_word = "bios" if word == "BIOS" else "uefi"
            how = "" if exact else f"{word}: 64-bit UEFI"
            self.draft.set("firmware.kind", draft_word, "Firmware@type", how=how)
        elif self.hardware is not None:
            self.draft.set("firmware.kind", "bios", "Hardware without Firmware")
        tpm = child(self.hardware, "TrustedPlatformModule")
        kind = self._attribute(tpm, "type")
        version = _TPM.get(kind.lower())
        if version is not None:
            how = "" if kind.startswith("v") else f"{kind}: vmpack's own TPM"
            values = {"version": version}
            self.draft.set("tpm", values, "TrustedPlatformModule@type", how=how)
        for parent in (child(self.hardware, "BIOS"), element):
            nvram = child(parent, "NVRAM")
            if nvram is not None:
                self.carrier.drop(
                    nvram, "BIOS/NVRAM", "VirtualBox's own store: the firmware makes a new one"
                )

    def _boot(self) -> None:
        """Kinds of devices in their order; a kind stands for all its devices."""
        boot = child(self.hardware, "Boot")
        orders = sorted(children(boot, "Order"), key=lambda one: one.get("position", ""))
        disks, cards = self.draft.data.get("disk", []), self.draft.data.get("nic", [])
        place = 0
        for order in orders:
            position, device = (self.carrier.take(order, key) for key in ("position", "device"))
            label = f"Boot/Order({position})@device"
            kind = names.DEVICES.get(device)
            found: list[dict[str, Any]] = []
            if kind == "nic":
                found = cards[:1]
            elif kind is not None:
                found = [one for one in disks if (one.get("kind") or "disk") == kind]
            for one in found:
                if "boot" not in one and place < 64:
                    place += 1
                    one["boot"] = place
            if found or device == "None":
                self.draft.report.kept(label, f"the boot order: {device}")
            else:
                self.draft.dropped(label, f"the machine has no {device}")

    def _serial(self) -> None:
        section = child(self.hardware, "UART")
        if section is not None:
            # Its ports are carried one by one.
            self.carrier.take(section)
        for port in children(section, "Port"):
            slot = port.get("slot", "")
            if not flag(port.get("enabled", "")):
                continue
            label = f"UART/Port({slot})"
            text = self.carrier.take(port, "IOBase") or self.carrier.take(port, "IOAddress")
            try:
                number = names.SERIAL_PORTS.get(int(text[:10], 0))
            except ValueError:
                number = None
            if number is None:
                self.carrier.drop(port, label, f"at {text[:20]!r}, where no COM port is")
                continue
            for attribute in ("slot", "enabled", "IRQ"):
                self.carrier.take(port, attribute)
            mode = self.carrier.take(port, "hostMode")
            self.draft.add("serial", {"port": number}, label)
            if mode not in ("", "Disconnected"):
                self.draft.dropped(f"{label}@hostMode", f"{mode}: its other end was on the host")
                self.carrier.take(port, "path")

    def _chipset(self) -> None:
        word = self._attribute(self._find("Chipset"), "type") or "PIIX3"
        on_ide = any(one.get("bus") == "ide" for one in self.draft.data.get("disk", []))
        if word == "PIIX3":
            self.draft.set("machine", "pc-i440fx-7.2", "Chipset@type", how="i440FX with PIIX3")
        elif on_ide:
            how = "i440FX: q35, which is ICH9, has no IDE"
            self.draft.set("machine", "pc-i440fx-7.2", "Chipset@type", how=how)
        else:
            self.draft.set("machine", "pc-q35-7.2", "Chipset@type", how="q35, which is ICH9")
