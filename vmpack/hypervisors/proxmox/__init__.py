"""Proxmox VE: ``qm`` configs, and its backups (VMA). Profile: specs/hypervisors/proxmox.md."""

from __future__ import annotations

import re

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan
from vmpack.units import GiB, TiB

_LINE = re.compile(
    r"^(?:acpi|agent|balloon|bios|boot|bootdisk|cores|cpu|efidisk0|hotplug|machine|memory|meta|name"
    r"|numa|onboot|ostype|scsihw|smbios1|sockets|tablet|vga|vmgenid|(?:net|serial)\d{1,2}): \S",
    re.MULTILINE,
)
_DEVICE = re.compile(r"^(?:(?:ide|sata|scsi|virtio|net)\d{1,2}|scsihw|ostype): \S", re.MULTILINE)


def _recognise(name: str, head: bytes) -> bool:  # noqa: ARG001 - any name will do
    if b"\0" in head or not re.search(rb"(?m)^(?:memory|cores|ostype|scsihw): ", head):
        return False
    text = head.decode("utf-8", "replace").replace("\r\n", "\n")
    return bool(_DEVICE.search(text)) and len(_LINE.findall(text)) >= 3


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.proxmox.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.proxmox.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="proxmox",
    title="Proxmox VE",
    reads=("qm config", "VMID.conf", ".vma", ".vma.zst"),
    writes="qm config, import script, qcow2",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("virtio-blk", "virtio-scsi", "sata", "ide", "lsilogic", "pvscsi"),
        nic_models=("virtio-net", "e1000", "e1000e", "rtl8139", "vmxnet3", "pcnet", "ne2k"),
        max_disk=128 * TiB,
        max_cpus=255,
        max_memory=4178944 // 1024 * GiB,
        name_pattern=r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*",
        source="Proxmox VE, qm(1) and qm.conf(5)",
    ),
    proven_by="structure only",
)
