"""VirtualBox's settings of a machine, as they stand in an OVF.

They say what an OVF cannot: firmware, TPM, chipset, MAC addresses, boot order, clock. Profile:
specs/hypervisors/virtualbox.md, VBOX-WRITE-*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from xml.etree.ElementTree import Element

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.ovf.flavour import Slot
from vmpack.hypervisors.virtualbox import names
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.xmlsafe import element
from vmpack.machine import MachineConfig
from vmpack.machine.names import chipset
from vmpack.units import MiB

_KINDS = {"disk": "HardDisk", "cdrom": "DVD"}
_ORDERS = 4
_MODES = {"user": "NAT", "bridged": "BridgedInterface", "hostonly": "HostOnlyInterface"}


def machine(
    config: MachineConfig, slots: Sequence[Slot], uuids: Mapping[str, str], notes: Notes
) -> tuple[Element, dict[str, Element]]:
    """The ``vbox:Machine``, and its parts by their places."""
    word = guest_os.best(config.guest_os.id, config.guest_os.family).virtualbox
    root = element(
        names.ROOT,
        None,
        {
            "ovf:required": "false",
            "version": _version(config, slots),
            "uuid": f"{{{config.uuid}}}" if config.uuid else None,
            "name": config.name or "machine",
            "OSType": word,
            "snapshotFolder": "Snapshots",
        },
        element("ovf:Info", "Complete VirtualBox machine configuration in VirtualBox format"),
    )
    if config.description:
        root.append(element("Description", config.description))
        notes.kept("description", "vbox:Machine/Description")
    notes.kept("uuid", "vbox:Machine; --options keepallmacs keeps addresses, VirtualBox the rest")
    places: dict[str, Element] = {}
    root.append(_hardware(config, notes))
    root.append(_storage(config, slots, uuids, places, notes))
    _register(root, names.ROOT, places)
    return root, places


def _version(config: MachineConfig, slots: Sequence[Slot]) -> str:
    """The oldest version of settings that has everything: an older VirtualBox reads it, too."""
    if config.tpm is not None:
        return "1.19-linux"
    return "1.18-linux" if any(one.bus == "virtio-scsi" for one in slots) else "1.16-linux"


def _hardware(config: MachineConfig, notes: Notes) -> Element:
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    q35 = chipset(config.machine) == "q35"
    efi = config.firmware.kind == "uefi"
    found = element("Hardware")
    found.append(
        element(
            "CPU",
            None,
            {"count": str(count)},
            element("PAE", None, {"enabled": "true"}),
            element("LongMode", None, {"enabled": "true"}),
        )
    )
    found.append(element("Memory", None, {"RAMSize": str((config.memory or 0) // MiB)}))
    if efi:
        found.append(element("Firmware", None, {"type": "EFI"}))
    notes.kept("firmware.kind", "Firmware")
    if config.firmware.secure_boot:
        notes.dropped(
            "firmware.secure-boot",
            "switched on after the import: VBoxManage modifynvram NAME inituefivarstore,"
            " enrollmssignatures, enrollorclpk, secureboot --enable",
        )
    notes.kept("firmware.secure-boot", "off")
    tablet = config.input == "usb-tablet"
    found.append(
        element(
            "HID",
            None,
            {"Pointing": "USBTablet" if tablet else "PS2Mouse", "Keyboard": "PS2Keyboard"},
        )
    )
    notes.kept("input", "HID")
    found.append(element("Chipset", None, {"type": "ICH9" if q35 else "PIIX3"}))
    notes.changed("machine", "the chipset alone: " + ("ICH9" if q35 else "PIIX3"))
    found.append(_boot(config, notes))
    found.append(element("Display", None, {"controller": "VMSVGA", "VRAMSize": "16"}))
    found.append(
        element(
            "BIOS",
            None,
            None,
            element("IOAPIC", None, {"enabled": "true"}),
            element("SmbiosUuidLittleEndian", None, {"enabled": "true"}),
        )
    )
    if config.tpm is not None:
        kind = "v1_2" if config.tpm.version == "1.2" else "v2_0"
        found.append(element("TrustedPlatformModule", None, {"type": kind, "location": ""}))
        notes.changed("tpm", "an empty TPM of this version")
    if tablet:
        controller = element("Controller", None, {"name": "OHCI", "type": "OHCI"})
        found.append(element("USB", None, None, element("Controllers", None, None, controller)))
    found.append(_network(config, notes))
    found.append(_serial(config, notes))
    clock = "local" if config.rtc.clock == "localtime" else "UTC"
    found.append(element("RTC", None, {"localOrUTC": clock}))
    notes.kept("rtc.clock", "RTC")
    return found


def _boot(config: MachineConfig, notes: Notes) -> Element:
    """Kinds of devices: the first place of each counts."""
    wanted: list[tuple[int, str, str]] = []
    for number, disk in enumerate(config.disks or ()):
        if disk.boot is not None:
            wanted.append((disk.boot, _KINDS[disk.kind or "disk"], f"disk[{number}].boot"))
    for number, nic in enumerate(config.nics or ()):
        if nic.boot is not None:
            wanted.append((nic.boot, "Network", f"nic[{number}].boot"))
    order: list[str] = []
    for _, kind, path in sorted(wanted):
        if kind not in order:
            order.append(kind)
        elif kind != order[-1]:
            notes.changed(path, f"with the other devices of its kind: {', '.join(order)}")
        notes.kept(path, f"Boot/Order: {kind}")
    order += ["None"] * (_ORDERS - len(order))
    positions = [
        element("Order", None, {"position": str(number), "device": kind})
        for number, kind in enumerate(order, 1)
    ]
    return element("Boot", None, None, *positions)


def _network(config: MachineConfig, notes: Notes) -> Element:
    found = element("Network")
    for number, nic in enumerate(config.nics or ()):
        kind = names.WRITTEN_ADAPTERS.get(nic.model or "e1000", "82540EM")
        network = nic.network or "user"
        made = element(
            "Adapter",
            None,
            {
                "slot": str(number),
                "enabled": "true",
                "MACAddress": nic.mac.replace(":", "").upper() if nic.mac else None,
                "cable": "false" if network == "none" else "true",
                "type": kind,
            },
        )
        mode = _MODES.get(network, "NAT" if network == "none" else "InternalNetwork")
        name = {"name": network} if mode == "InternalNetwork" else None
        made.append(element(mode, None, name))
        if mode == "InternalNetwork":
            notes.changed(f"nic[{number}].network", f"VirtualBox's internal network {network!r}")
        elif network in ("bridged", "hostonly"):
            notes.changed(f"nic[{number}].network", "the host's card is chosen on import")
        found.append(made)
    return found


def _serial(config: MachineConfig, notes: Notes) -> Element:
    found = element("UART")
    for number, port in enumerate(config.serials or ()):
        address, interrupt = names.SERIAL_WORDS[port.port]
        found.append(
            element(
                "Port",
                None,
                {
                    "slot": str(port.port),
                    "enabled": "true",
                    "IOBase": address,
                    "IRQ": interrupt,
                    "hostMode": "Disconnected",
                },
            )
        )
        notes.kept(f"serial[{number}]", "UART/Port, which nothing is plugged into")
    return found


def _storage(
    config: MachineConfig,
    slots: Sequence[Slot],
    uuids: Mapping[str, str],
    places: dict[str, Element],
    notes: Notes,
) -> Element:
    found = element("StorageControllers")
    for number, (disk, slot) in enumerate(zip(config.disks or (), slots, strict=True)):
        is_ide = slot.bus == "ide"
        index = 0 if is_ide else slot.controller
        place = names.controller_place(slot.bus, index)
        if place not in places:
            title, kind = names.WRITTEN_CONTROLLERS[slot.bus]
            made = element(
                "StorageController",
                None,
                {
                    "name": title if not index else f"{title} {index + 1}",
                    "type": kind,
                    "PortCount": str(_ports(slots, slot.bus, index)),
                    "useHostIOCache": "true" if is_ide else "false",
                    "Bootable": "true",
                },
            )
            found.append(made)
            places[place] = made
        device = element(
            "AttachedDevice",
            None,
            {
                "type": _KINDS[disk.kind or "disk"],
                "port": str(slot.controller if is_ide else slot.unit),
                "device": str(slot.unit if is_ide else 0),
            },
        )
        if disk.rotation_rate == 1:
            device.set("nonrotational", "true")
            notes.kept(f"disk[{number}].rotation-rate", "nonrotational")
        if disk.id in uuids:
            device.append(element("Image", None, {"uuid": f"{{{uuids[disk.id]}}}"}))
        places[place].append(device)
        places[names.disk_place(disk.id)] = device
    return found


def _ports(slots: Sequence[Slot], bus: str, index: int) -> int:
    """PortCount: IDE has two, the others as many as are needed."""
    if bus == "ide":
        return 2
    used = [one.unit for one in slots if (one.bus, one.controller) == (bus, index)]
    return max(used) + 1


def _register(root: Element, path: str, places: dict[str, Element]) -> None:
    """Every part under the name that carried fields have for its place."""
    places[path] = root
    for one in root:
        if one.tag not in ("StorageController", "AttachedDevice"):
            _register(one, f"{path}/{one.tag}{_mark(one)}", places)


def _mark(one: Element) -> str:
    for name in ("key", "name", "slot", "position", "id"):
        if name in one.attrib:
            return "(" + re.sub(r"[^\w .:-]", "_", one.attrib[name])[:60] + ")"
    return ""


def maker(places: dict[str, Element]) -> Callable[[str], Element | None]:
    """Gives the element of a place that is not there yet, with the parts above it."""

    def make(place: str) -> Element | None:
        if place in places:
            return places[place]
        parent, _, name = place.rpartition("/")
        found = re.fullmatch(r"([A-Za-z][A-Za-z0-9]*)(?:\([^()]*\))?", name)
        above = make(parent) if parent.startswith(names.ROOT) and found else None
        if above is None or found is None:
            return None
        made = element(found[1])
        above.append(made)
        places[place] = made
        return made

    return make
