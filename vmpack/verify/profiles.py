"""What machines of other hypervisors are made of, as far as QEMU has it: one table.

Profile: specs/imitation-v1.md, whose tables a test holds to this one. A device that the target has
as well stays; another one becomes the first that the target has, as an export would write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PROFILES", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One target."""

    title: str
    disk_buses: tuple[str, ...]
    """Those that it offers and QEMU has. A disk on another one moves to :attr:`disk_bus`."""
    disk_bus: str
    windows_bus: str
    """The same for Windows, which has no driver for paravirtual ones before it is given one."""
    cdrom_bus: str
    nic_models: tuple[str, ...]
    nic_model: str
    displays: tuple[str, ...]
    display: str
    chipset: str = ""
    """``i440fx``: the machine becomes one; empty: it keeps its own."""
    cdrom_buses: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("ps2", "usb-tablet")
    has_rng: bool = False
    has_tpm: bool = True
    system: tuple[str, str] | None = None
    """Manufacturer and product that its firmware shows (SMBIOS type 1); ``None``: QEMU's."""
    lacks: tuple[str, ...] = ()
    """What QEMU cannot imitate of it: told with each boot."""
    refuses: Mapping[str, str] | None = None
    """``uefi`` or ``any`` -> why machines with that firmware cannot be booted as this target."""


_COMMON = (
    "the CPU stays the bundle's: CPUID shows no leaves of another hypervisor",
    "PCI addresses are not the target's, so predictable names of network cards may differ there",
)
_SYNTHETIC = (
    "its disks and network cards are Hyper-V's own, on the VM bus, which QEMU does not have"
)

_NO_BUS = (
    "the VM bus is missing: disks of Hyper-V's own SCSI controller are on IDE here, and its own"
    " network card is the legacy one, a DEC 21140"
)
_NO_NAME = (
    "the firmware does not name Microsoft: Linux then leaves IDE disks to hv_storvsc, Hyper-V's own"
    " driver, which vmpack lint --to hyperv looks for in the guest"
)

PROFILES: Mapping[str, Profile] = {
    "vmware": Profile(
        "VMware",
        disk_buses=("pvscsi", "lsilogic", "lsisas1068", "sata", "ide", "nvme"),
        disk_bus="pvscsi",
        windows_bus="sata",
        cdrom_bus="sata",
        cdrom_buses=("sata", "ide"),
        nic_models=("vmxnet3", "e1000", "e1000e", "pcnet"),
        nic_model="vmxnet3",
        displays=("vmware",),
        display="vmware",
        system=("VMware, Inc.", "VMware Virtual Platform"),
        lacks=(
            *_COMMON,
            "an LSI Logic controller is a 53C895A in QEMU and a 53C1030 in VMware: another driver",
            "VMCI, the balloon and the backdoor of VMware Tools are missing",
            "the chipset is QEMU's, not Intel's 440BX with VMware's PCI Express ports",
        ),
    ),
    "virtualbox": Profile(
        "VirtualBox",
        disk_buses=("sata", "ide", "lsilogic", "lsisas1068", "nvme", "virtio-scsi"),
        disk_bus="sata",
        windows_bus="sata",
        cdrom_bus="sata",
        cdrom_buses=("sata", "ide"),
        nic_models=("e1000", "pcnet", "virtio-net"),
        nic_model="e1000",
        displays=("std", "vmware"),
        display="std",
        system=("innotek GmbH", "VirtualBox"),
        lacks=(
            *_COMMON,
            "an LSI Logic controller is a 53C895A in QEMU and a 53C1030 in VirtualBox",
            "the device of the Guest Additions is missing",
        ),
    ),
    "hyperv": Profile(
        "Hyper-V, generation 1",
        disk_buses=("ide",),
        disk_bus="ide",
        windows_bus="ide",
        cdrom_bus="ide",
        cdrom_buses=("ide",),
        nic_models=("tulip",),
        nic_model="tulip",
        displays=("std",),
        display="std",
        chipset="i440fx",
        inputs=("ps2",),
        has_tpm=False,
        lacks=(
            *_COMMON,
            _NO_BUS,
            _NO_NAME,
            "the graphics card is a standard VGA, where Hyper-V emulates an S3 Trio",
        ),
        refuses={"uefi": f"Hyper-V's generation 2 cannot be imitated: {_SYNTHETIC}"},
    ),
    "proxmox": Profile(
        "Proxmox VE",
        disk_buses=("virtio-blk", "virtio-scsi", "sata", "ide", "lsilogic", "pvscsi"),
        disk_bus="virtio-scsi",
        windows_bus="sata",
        cdrom_bus="sata",
        cdrom_buses=("sata", "ide", "virtio-scsi"),
        nic_models=("virtio-net", "e1000", "e1000e", "rtl8139", "vmxnet3", "pcnet", "ne2k"),
        nic_model="virtio-net",
        displays=("std", "cirrus", "vmware", "qxl", "virtio-vga"),
        display="std",
        has_rng=True,
        lacks=(
            "the CPU stays the bundle's, where Proxmox may have another model configured",
            "on q35 Proxmox has its devices behind PCI bridges: addresses may differ there",
        ),
    ),
    "azure": Profile(
        "Azure",
        disk_buses=(),
        disk_bus="",
        windows_bus="",
        cdrom_bus="",
        nic_models=(),
        nic_model="",
        displays=(),
        display="",
        refuses={"any": f"Azure cannot be imitated: {_SYNTHETIC}"},
    ),
}
