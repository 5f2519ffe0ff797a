"""UTM's words for what vmpack models. Source: UTM 4, Configuration/UTMQemuConfiguration*.swift."""

from __future__ import annotations

NIC_NAMES = {
    "virtio-net": "virtio-net-pci",
    "ne2k": "ne2k_pci",
    **{name: name for name in ("e1000", "e1000e", "igb", "vmxnet3", "rtl8139", "pcnet", "tulip")},
}
NICS = {name: model for model, name in NIC_NAMES.items()}
DISPLAY_NAMES = {
    "std": "VGA",
    "virtio-vga": "virtio-vga",
    "qxl": "qxl-vga",
    "vmware": "vmware-svga",
    "cirrus": "cirrus-vga",
    "bochs": "bochs-display",
}
DISPLAYS = {name: model for model, name in DISPLAY_NAMES.items()}
MODES = {"Emulated": "user", "Shared": "shared", "Host": "host", "Bridged": "bridged"}
INTERFACES = {"VirtIO": "virtio-blk", "NVMe": "nvme", "SCSI": "lsilogic"}
"""UTM's SCSI is an LSI 53C895A; its IDE is SATA on q35."""
SCSI_TARGETS = 7
EFI_VARS = "Data/efi_vars.fd"
TPM_DATA = "Data/tpmdata"
