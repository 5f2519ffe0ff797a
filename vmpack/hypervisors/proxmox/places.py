"""Where Proxmox puts devices: fixed slots of PCI bus 0 of an i440fx machine.

Source: Proxmox VE, qemu-server, PVE/QemuServer/PCI.pm. On q35 the same numbers are slots of a PCI
bridge, which vmpack's machines do not have. Profile: specs/hypervisors/proxmox.md, PVE-PCI.
"""

from __future__ import annotations

NICS = {number: f"00:{18 + number:02x}.0" for number in range(6)}
"""net0 to net5: slots 18 to 23, by which Linux calls net0 ens18."""
VIRTIO = {number: f"00:{10 + number:02x}.0" for number in range(6)}
"""virtio0 to virtio5: slots 10 to 15."""
SCSI = {0: "00:05.0", 1: "00:06.0"}
"""The first two SCSI controllers."""
AGENT = "00:08.0"
SATA = "00:07.0"
VIDEO = "00:02.0"
DRIVES = {"ide": 4, "sata": 6, "scsi": 31, "virtio": 16}
"""How many drives there can be of each kind."""
SCSI_HARDWARE = {
    "lsi": ("lsilogic", ""),
    "lsi53c810": ("lsilogic", "lsi53c810 becomes the LSI 53C895A"),
    "virtio-scsi-pci": ("virtio-scsi", ""),
    "virtio-scsi-single": ("virtio-scsi", ""),
    "megasas": ("lsisas1068", "MegaRAID SAS becomes a SAS1068: the guest needs its driver"),
    "pvscsi": ("pvscsi", ""),
}
"""scsihw -> bus, and what is approximated."""


def scsi_place(hardware: str, number: int) -> tuple[int, int]:
    """``(controller, target)`` of ``scsiNUMBER``."""
    if hardware == "virtio-scsi-single":
        return number, 0
    most = 7 if hardware.startswith("lsi") else 256
    return number // most, number % most
