"""The devices of a domain, each where the config has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.overlays import is_overlaid, window_source
from vmpack.hypervisors.xmlsafe import element
from vmpack.machine.names import chipset

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.writer import Export
    from vmpack.machine.hardware import Controller, Disk, Nic


def devices(export: Export) -> Element:
    """``<devices>``, with everything that a config models."""
    made = export.placed("domain/devices", element("devices"))
    made.extend(_controllers(export))
    scsi = scsi_indices(export)
    letters: dict[str, int] = {}
    for number, disk in enumerate(export.config.disks or ()):
        made.append(_disk(export, number, disk, scsi, letters))
    for number, nic in enumerate(export.config.nics or ()):
        made.append(_nic(export, number, nic))
    made.extend(_serials(export))
    made.extend(_channel(export))
    made.extend(_input(export))
    made.extend(_tpm(export))
    made.extend(_display(export))
    made.extend(_rng(export))
    if not export.given.has_device("memballoon"):
        made.append(element("memballoon", None, {"model": "none"}))
    if export.config.pvpanic:
        made.append(element("panic", None, {"model": "isa"}))
    export.account.kept("pvpanic", "devices/panic")
    for name in ("disk", "nic", "serial", "controller"):
        # Those that are empty lists.
        export.account.kept(name, "none")
    return made


def scsi_indices(export: Export) -> dict[tuple[str, int], int]:
    """(bus, index) of the config's SCSI controllers -> their index in libvirt, which counts all."""
    found = [
        (one.bus, one.index) for one in export.config.controllers if one.bus in names.SCSI_MODELS
    ]
    if len({bus for bus, _ in found}) < 2:
        return {key: key[1] for key in found}
    return {key: number for number, key in enumerate(found)}


def _controllers(export: Export) -> Iterator[Element]:
    config = export.config
    scsi = scsi_indices(export)
    root = "pcie-root" if chipset(config.machine) == "q35" else "pci-root"
    yield element("controller", None, {"type": "pci", "index": "0", "model": root})
    for number, one in enumerate(config.controllers):
        yield _controller(export, number, one, scsi)
    has_usb = any(one.bus == "usb-xhci" for one in config.controllers)
    if not has_usb and not export.given.has_device("controller", type="usb"):
        yield element("controller", None, {"type": "usb", "index": "0", "model": "none"})


def _controller(
    export: Export, number: int, one: Controller, scsi: dict[tuple[str, int], int]
) -> Element:
    place = f"domain/devices/controller({one.bus} {one.index})"
    index, kind, model = one.index, str(one.bus), None
    if one.bus in names.SCSI_MODELS:
        index, kind, model = scsi[one.bus, one.index], "scsi", names.SCSI_MODELS[one.bus]
    elif one.bus == "usb-xhci":
        kind, model = "usb", "qemu-xhci"
    attributes = {"type": kind, "index": str(index), "model": model}
    made = export.placed(place, element("controller", None, attributes))
    address = export.given.pci.element(place, one.address)
    if address is not None:
        made.append(address)
    label = f"controller[{number}]"
    if index != one.index:
        export.account.approximated(label, f"number {index} of all SCSI controllers")
    else:
        export.account.kept(label, "devices/controller")
    return made


def _disk(
    export: Export,
    number: int,
    disk: Disk,
    scsi: dict[tuple[str, int], int],
    letters: dict[str, int],
) -> Element:
    place = f"domain/devices/disk({disk.id})"
    cdrom = disk.kind == "cdrom"
    kind = {"type": "file", "device": "cdrom" if cdrom else "disk"}
    made = export.placed(place, element("disk", None, kind))
    driver = {"name": "qemu", "type": "raw" if disk.empty else "qcow2"}
    made.append(export.placed(f"{place}/driver", element("driver", None, driver)))
    made.extend(_source(export, disk))
    bus = names.DISK_BUSES.get(disk.bus or "", "scsi")
    target = {"dev": _target(bus, letters), "bus": bus}
    if disk.rotation_rate is not None and bus in ("sata", "ide", "scsi") and not cdrom:
        target["rotation_rate"] = str(disk.rotation_rate)
        export.account.kept(f"disk[{number}].rotation-rate", "target@rotation_rate")
    elif disk.rotation_rate is not None:
        export.account.dropped(f"disk[{number}].rotation-rate", f"not on {disk.bus}")
    made.append(export.placed(f"{place}/target", element("target", None, target)))
    made.extend(_facts(export, number, disk, cdrom=cdrom))
    made.append(element("alias", None, {"name": f"ua-disk-{disk.id}"}))
    address = _disk_address(export, disk, scsi, place)
    if address is not None:
        made.append(address)
    export.account.kept(f"disk[{number}]", f"devices/disk, {target['dev']}")
    return made


def _source(export: Export, disk: Disk) -> Iterator[Element]:
    if disk.empty:
        return
    name = f"{disk.id}.qcow2"
    if not export.in_place:
        yield element("source", None, {"file": export.path(name)})
        return
    if not is_overlaid(disk):
        yield window_source(export, disk.id)
        yield element("backingStore")
        return
    yield element("source", None, {"file": export.path(name)})
    yield element(
        "backingStore",
        None,
        {"type": "file"},
        element("format", None, {"type": "qcow2"}),
        window_source(export, disk.id),
        element("backingStore"),
    )


def _target(bus: str, letters: dict[str, int]) -> str:
    """``vda``, ``vdb``...: names only, which the guest does not see."""
    prefix = names.TARGET_PREFIXES[bus]
    number = letters.get(prefix, 0)
    letters[prefix] = number + 1
    name = ""
    while True:
        name = chr(ord("a") + number % 26) + name
        number = number // 26 - 1
        if number < 0:
            return prefix + name


def _facts(export: Export, number: int, disk: Disk, *, cdrom: bool) -> Iterator[Element]:
    report, label = export.account, f"disk[{number}]"
    if disk.read_only and not cdrom and disk.bus in ("sata", "ide"):
        report.approximated(f"{label}.read-only", f"writable: {disk.bus} disks cannot be read-only")
    elif disk.read_only or cdrom:
        yield element("readonly")
    if disk.serial is not None:
        yield element("serial", disk.serial)
        report.kept(f"{label}.serial", "serial")
    if disk.wwn is not None and disk.bus in ("virtio-blk", "nvme"):
        report.dropped(f"{label}.wwn", f"not on {disk.bus}")
    elif disk.wwn is not None:
        yield element("wwn", disk.wwn.removeprefix("0x"))
        report.kept(f"{label}.wwn", "wwn")
    sizes = {
        "logical_block_size": disk.logical_block_size,
        "physical_block_size": disk.physical_block_size,
    }
    given = {key: str(size) for key, size in sizes.items() if size is not None}
    if given and not cdrom:
        yield export.placed(
            f"domain/devices/disk({disk.id})/blockio", element("blockio", None, given)
        )
        for key in given:
            report.kept(f"{label}.{key.replace('_', '-')}", "blockio")
    if disk.boot is not None:
        yield element("boot", None, {"order": str(disk.boot)})
        report.kept(f"{label}.boot", "boot@order")


def _disk_address(
    export: Export, disk: Disk, scsi: dict[tuple[str, int], int], place: str
) -> Element | None:
    if disk.bus == "virtio-blk" or disk.bus is None:
        return export.given.pci.element(place, disk.address)
    controller, port = disk.controller or 0, disk.port or 0
    numbers = {"controller": controller, "bus": 0, "target": 0, "unit": port}
    if disk.bus == "ide":
        numbers |= {"bus": port, "unit": disk.unit or 0}
    elif disk.bus != "sata":
        numbers["controller"] = scsi.get((disk.bus, controller), controller)
        if disk.bus != "lsilogic":
            numbers |= {"target": port, "unit": 0}
    return element(
        "address", None, {"type": "drive", **{key: str(value) for key, value in numbers.items()}}
    )


def _nic(export: Export, number: int, nic: Nic) -> Element:
    place, label = f"domain/devices/interface({nic.id})", f"nic[{number}]"
    network = nic.network or "user"
    down = network == "none"
    is_bridge = export.given.take_attribute(f"{place}@type", ("bridge",)) is not None
    kind = "user" if network in ("user", "none") else "bridge" if is_bridge else "network"
    made = export.placed(place, element("interface", None, {"type": kind}))
    if kind != "user":
        made.append(element("source", None, {kind: network}))
        export.account.kept(f"{label}.network", f"{kind} {network}, which this host must have")
    else:
        export.account.kept(f"{label}.network", "link down" if down else "user network")
    if nic.mac is not None:
        made.append(element("mac", None, {"address": nic.mac}))
        export.account.kept(f"{label}.mac", "mac@address")
    model = str(nic.model or "virtio-net")
    made.append(element("model", None, {"type": names.NIC_MODELS.get(model, model)}))
    export.account.kept(f"{label}.model", "model@type")
    if down:
        made.append(export.placed(f"{place}/link", element("link", None, {"state": "down"})))
    if nic.mtu is not None and kind == "user":
        export.account.dropped(f"{label}.mtu", "libvirt sets none on a user network")
    elif nic.mtu is not None:
        made.append(element("mtu", None, {"size": str(nic.mtu)}))
        export.account.kept(f"{label}.mtu", "mtu@size")
    if nic.boot is not None:
        made.append(element("boot", None, {"order": str(nic.boot)}))
        export.account.kept(f"{label}.boot", "boot@order")
    elif not export.given.has(f"{place}/rom"):
        # As vmpack runs it: no boot ROM of the host's where the card is not started from.
        made.append(element("rom", None, {"enabled": "no"}))
    made.append(element("alias", None, {"name": f"ua-nic-{nic.id}"}))
    address = export.given.pci.element(place, nic.address)
    if address is not None:
        made.append(address)
    export.account.kept(label, "devices/interface")
    return made


def _serials(export: Export) -> Iterator[Element]:
    for number, one in enumerate(export.config.serials or ()):
        target = element(
            "target",
            None,
            {"type": "isa-serial", "port": str(one.port)},
            element("model", None, {"name": "isa-serial"}),
        )
        made = element("serial", None, {"type": "pty"}, target)
        yield export.placed(f"domain/devices/serial({one.port})", made)
        export.account.kept(f"serial[{number}]", "devices/serial")


def _channel(export: Export) -> Iterator[Element]:
    if export.config.guest_agent:
        yield element(
            "channel",
            None,
            {"type": "unix"},
            element("target", None, {"type": "virtio", "name": names.AGENT}),
            element(
                "address",
                None,
                {"type": "virtio-serial", "controller": "0", "bus": "0", "port": "1"},
            ),
        )
    export.account.kept("guest-agent", "devices/channel")


def _input(export: Export) -> Iterator[Element]:
    if export.config.input == "usb-tablet":
        yield element("input", None, {"type": "tablet", "bus": "usb"})
    export.account.kept("input", "devices/input")


def _tpm(export: Export) -> Iterator[Element]:
    tpm = export.config.tpm
    if tpm is None:
        return
    backend = element("backend", None, {"type": "emulator", "version": tpm.version or "2.0"})
    made = element("tpm", None, {"model": tpm.model or "tpm-crb"}, backend)
    export.placed("domain/devices/tpm/backend", backend)
    yield export.placed("domain/devices/tpm", made)
    export.account.kept("tpm", "devices/tpm")


def _display(export: Export) -> Iterator[Element]:
    display = export.config.display
    model = names.VIDEO[display.model or "std"]
    video = element("model", None, {"type": model})
    made = export.placed("domain/devices/video", element("video", None, None, video))
    export.placed("domain/devices/video/model", video)
    address = export.given.pci.element("domain/devices/video", display.address)
    if address is not None and model != "none":
        made.append(address)
    yield made
    export.account.kept("display", "devices/video")
    if model != "none" and not export.given.has_device("graphics"):
        graphics = {"type": "vnc", "autoport": "yes", "listen": "127.0.0.1"}
        yield element("graphics", None, graphics)


def _rng(export: Export) -> Iterator[Element]:
    if export.config.rng.model == "virtio-rng":
        backend = element("backend", None, {"model": "builtin"})
        made = element("rng", None, {"model": "virtio"}, backend)
        address = export.given.pci.element("domain/devices/rng", export.config.rng.address)
        if address is not None:
            made.append(address)
        yield export.placed("domain/devices/rng", made)
    export.account.kept("rng", "devices/rng")
