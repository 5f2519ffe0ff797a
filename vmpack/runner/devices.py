"""The devices of a machine as QEMU's JSON, each at its pinned address or place. Pure.

Source of the names: QEMU's ``-device help`` of 7.2, 10.0 and 11.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.errors import PinUnavailableError
from vmpack.machine import hardware as hw
from vmpack.machine.names import BUILT_IN_CONTROLLERS, chipset
from vmpack.machine.rules import addressed
from vmpack.runner.blocks import SEED, Node, drive_of, has_extra_seed
from vmpack.runner.options import Plan

__all__ = ["AGENT_PORT", "console_port", "devices", "has_agent", "network_backends", "unplugged"]

AGENT_PORT = "org.qemu.guest_agent.0"
DEBUG_PORT = 0x402
"""I/O port at which SeaBIOS and OVMF look for a debug console."""

_CONTROLLERS = {
    "virtio-scsi": "virtio-scsi-pci",
    "sata": "ich9-ahci",
    "lsilogic": "lsi53c895a",
    "lsisas1068": "mptsas1068",
    "pvscsi": "pvscsi",
    "virtio-serial": "virtio-serial-pci",
    "usb-xhci": "qemu-xhci",
}
_NICS = {"virtio-net": "virtio-net-pci", "ne2k": "ne2k_pci"}
_DISPLAYS = {
    "std": "VGA",
    "virtio-vga": "virtio-vga",
    "qxl": "qxl-vga",
    "vmware": "vmware-svga",
    "cirrus": "cirrus-vga",
    "bochs": "bochs-display",
}


def devices(plan: Plan) -> Iterator[Node]:
    """Every device, in an order in which QEMU can add them: buses before what hangs on them."""
    config = plan.config
    pci = _Pci(plan)
    yield from _controllers(plan, pci)
    yield from _serial_ports(plan)
    if has_agent(plan):
        yield {
            "driver": "virtserialport",
            "id": "agent-port",
            "bus": "virtio-serial-0.0",
            "nr": 1,
            "chardev": "agent",
            "name": AGENT_PORT,
        }
    for number, disk in enumerate(config.disks or ()):
        drive = drive_of(number, disk, replayed=plan.options.deterministic is not None)
        yield _disk(pci, disk, drive)
    if has_extra_seed(plan):
        yield _extra_seed(plan, pci)
    for nic in config.nics or ():
        yield _nic(pci, nic)
    if config.display.model not in (None, "none"):
        driver = _DISPLAYS[config.display.model or ""]
        yield pci.device(driver, "display", config.display.address)
    if config.rng.model == "virtio-rng":
        yield pci.device("virtio-rng-pci", "rng", config.rng.address) | {"rng": "randomness"}
    if config.tpm is not None:
        yield {"driver": config.tpm.model or "tpm-crb", "id": "tpm", "tpmdev": "tpm-backend"}
    if config.pvpanic:
        yield {"driver": "pvpanic", "id": "pvpanic"}
    if config.input == "usb-tablet":
        yield {"driver": "usb-tablet", "id": "tablet", "bus": "usb-xhci-0.0", "port": "1"}


def has_agent(plan: Plan) -> bool:
    """Whether there is a channel for a guest agent; nobody is behind it in a deterministic run."""
    silent = plan.options.deterministic is not None and plan.config.guest_agent is True
    return silent or "agent" in plan.sockets


class _Pci:
    """PCI bus 0 of the machine: its name, and which slots hold several functions."""

    def __init__(self, plan: Plan):
        self.chipset = chipset(plan.config.machine)
        self.bus = "pci.0" if self.chipset == "i440fx" else "pcie.0"
        taken = [address for _, address in addressed(plan.config) if address]
        self._shared = {address[3:5] for address in taken if not address.endswith(".0")}

    def device(self, driver: str, name: str, address: str | None) -> Node:
        """A device at ``00:SLOT.FUNCTION``."""
        node: Node = {"driver": driver, "id": name, "bus": self.bus}
        if address is None:
            raise PinUnavailableError(
                f"{name} has no PCI address", hint="pack the machine again: pack pins every address"
            )
        node["addr"] = address[3:]
        if address[3:5] in self._shared and address.endswith(".0"):
            node["multifunction"] = True
        return node


def _controllers(plan: Plan, pci: _Pci) -> Iterator[Node]:
    for one in plan.config.controllers:
        if (pci.chipset, one.bus, one.index) in BUILT_IN_CONTROLLERS:
            continue
        if one.bus not in _CONTROLLERS:
            raise PinUnavailableError(
                f"QEMU has no {one.bus} controller",
                field="controller",
                hint="pack the disk on another bus, such as sata",
            )
        yield pci.device(_CONTROLLERS[one.bus], f"{one.bus}-{one.index}", one.address)


def console_port(plan: Plan) -> int | None:
    """Number of the serial port whose output is recorded: the first that the config lists."""
    serials = plan.config.serials or ()
    return serials[0].port if serials else None


def _serial_ports(plan: Plan) -> Iterator[Node]:
    console = console_port(plan)
    for one in plan.config.serials or ():
        backend = "console" if one.port == console else f"serial{one.port}"
        yield {
            "driver": "isa-serial",
            "id": f"serial-{one.port}",
            "index": one.port,
            "chardev": backend,
        }
    yield {
        "driver": "isa-debugcon",
        "id": "debug-console",
        "iobase": DEBUG_PORT,
        "chardev": "firmware-log",
    }


def _disk(pci: _Pci, disk: hw.Disk, drive: str | None) -> Node:
    name = f"disk-{disk.id}"
    cdrom = disk.kind == "cdrom"
    node: Node
    if disk.bus in ("virtio-blk", "nvme"):
        driver = "virtio-blk-pci" if disk.bus == "virtio-blk" else "nvme"
        node = pci.device(driver, name, disk.address)
    elif disk.bus in ("ide", "sata"):
        node = {"driver": "ide-cd" if cdrom else "ide-hd", "id": name} | _ide_place(pci, disk)
    else:
        node = {
            "driver": "scsi-cd" if cdrom else "scsi-hd",
            "id": name,
            "bus": f"{disk.bus}-{disk.controller or 0}.0",
            "channel": 0,
            "scsi-id": disk.port or 0,
            "lun": 0,
        }
    facts: Node = {
        "drive": drive,
        "bootindex": disk.boot,
        "serial": disk.serial,
        "logical_block_size": disk.logical_block_size,
        "physical_block_size": disk.physical_block_size,
    }
    if disk.bus not in ("virtio-blk", "nvme"):
        facts |= {"wwn": None if disk.wwn is None else int(disk.wwn, 16)}
        facts |= {"rotation_rate": None if cdrom else disk.rotation_rate}
    return node | {key: value for key, value in facts.items() if value is not None}


def _extra_seed(plan: Plan, pci: _Pci) -> Node:
    """A drive for a seed on the bus that the guest surely knows: that of its first disk."""
    disks = plan.config.disks or ()
    if not disks or disks[0].bus == "virtio-blk":
        taken = {address[3:5] for _, address in addressed(plan.config) if address}
        # Behind all the others, so that their names stay.
        free = [f"{slot:02x}" for slot in range(0x1E, 0, -1) if f"{slot:02x}" not in taken]
        if free:
            node = pci.device("virtio-blk-pci", "disk-seed", f"00:{free[0]}.0")
            return node | {"drive": SEED, "serial": SEED}
    bus = "sata" if pci.chipset == "q35" else "ide"
    places = [(port, unit) for port in range(6) for unit in (0,)]
    if bus == "ide":
        places = [(port, unit) for port in range(2) for unit in range(2)]
    used = {(one.port or 0, one.unit or 0) for one in disks if one.bus == bus}
    left = [place for place in places if place not in used]
    if not left:
        raise PinUnavailableError(
            "the machine has no place for one more disk", hint='leave out probe = "cloud-init"'
        )
    port, unit = left[-1]
    return {"driver": "ide-cd", "id": "disk-seed", "bus": f"ide.{port}", "unit": unit} | {
        "drive": SEED
    }


def _ide_place(pci: _Pci, disk: hw.Disk) -> Node:
    controller, port = disk.controller or 0, disk.port or 0
    built_in = (pci.chipset, disk.bus, controller) in BUILT_IN_CONTROLLERS
    bus = "ide" if built_in else f"{disk.bus}-{controller}"
    return {"bus": f"{bus}.{port}", "unit": disk.unit or 0}


def _nic(pci: _Pci, nic: hw.Nic) -> Node:
    model = nic.model or "virtio-net"
    node = pci.device(_NICS.get(model, model), f"nic-{nic.id}", nic.address)
    node |= {"netdev": f"net-{nic.id}", "mac": nic.mac}
    if nic.boot is not None:
        node["bootindex"] = nic.boot
    else:
        # Without a place in the boot order its boot ROM does nothing, and would be the host's.
        node["romfile"] = ""
    if nic.mtu is not None and model == "virtio-net":
        node["host_mtu"] = nic.mtu
    return node


def network_backends(plan: Plan) -> Iterator[Node]:
    """A user-mode network for each card; the host's ports are forwarded to the first one.

    ``restricted`` cards reach neither host nor network. Ports are opened on 127.0.0.1 only.
    """
    off = set(unplugged(plan))
    forwards = list(plan.options.forwards)
    for nic in plan.config.nics or ():
        node: Node = {"type": "user", "id": f"net-{nic.id}"}
        if plan.options.network != "user" or nic.id in off:
            node["restrict"] = True
        if forwards and nic.id not in off:
            rules = [f"tcp:127.0.0.1:{host}-:{guest}" for host, guest in forwards]
            node["hostfwd"] = [{"str": rule} for rule in rules]
            forwards = []
        yield node


def unplugged(plan: Plan) -> list[str]:
    """Ids of the cards without a cable: by the config, or all when no network is wanted."""
    return [
        nic.id or ""
        for nic in plan.config.nics or ()
        if nic.network == "none" or plan.options.network == "none"
    ]
