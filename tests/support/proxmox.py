"""Configs and backups of Proxmox VE, and machines to write for others."""

from __future__ import annotations

from typing import Any

from tests.support.disks import disk_bytes
from tests.support.vma import Vma
from vmpack.hypervisors.base import ConfigSource, ExportDisk, Imported, Machine
from vmpack.hypervisors.proxmox.read import read
from vmpack.machine import MachineConfig
from vmpack.machine.pins import DiskFacts, pin
from vmpack.runner.tpm import to_linear
from vmpack.units import MiB

TYPICAL = """\
#Shop%3A the shop
#second line
agent: 1,fstrim_cloned_disks=1
balloon: 1024
bios: ovmf
boot: order=scsi0;ide2;net0
cores: 4
cpu: x86-64-v2-AES,flags=+pcid;-spec-ctrl
efidisk0: local-lvm:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M
ide2: local:iso/debian-12.iso,media=cdrom,size=3G
machine: pc-q35-8.1+pve0
memory: 4096
meta: creation-qemu=8.1.5,ctime=1700000000
name: shop
net0: virtio=BC:24:11:0A:0B:0C,bridge=vmbr0,firewall=1,tag=12
net1: e1000e=BC:24:11:0A:0B:0D,bridge=vmbr1,link_down=1
numa: 0
onboot: 1
ostype: l26
scsi0: local-lvm:vm-100-disk-1,discard=on,iothread=1,size=32G,ssd=1,serial=ab%20c
scsi1: local-lvm:vm-100-disk-3,size=1G,wwn=0x5000C50015EA71AA
scsihw: virtio-scsi-single
serial0: socket
smbios1: uuid=6e1d8a9c-3b6f-4bd4-9d0e-112233445566,manufacturer=QWNtZQ==,base64=1
sockets: 2
startup: order=2
tags: web;prod
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
vga: serial0
vmgenid: 0c1b7a5e-1111-2222-3333-444455556666

[before-upgrade]
cores: 1
memory: 1
name: nobody
"""
OLD = """\
bootdisk: virtio0
boot: cdn
cores: 2
cpu: host
ide0: none,media=cdrom
ide3: local:100/vm-100-disk-9.raw,size=1G
memory: 2048
name: old
net0: virtio=4E:88:11:22:33:44,bridge=vmbr0
ostype: l24
scsi0: local:100/vm-100-disk-2.qcow2,size=4G
scsi7: local:100/vm-100-disk-3.qcow2,size=4G
smbios1: uuid=6e1d8a9c-3b6f-4bd4-9d0e-112233445567
sockets: 1
virtio0: local:100/vm-100-disk-1.qcow2,size=8G
"""


def parsed(text: str, members: dict[str, int] | None = None) -> Imported:
    return read(ConfigSource("100.conf", text.encode(), members or {}))


def report_of(imported: Imported) -> dict[str, tuple[str, str]]:
    return {one.field: (one.verdict.value, one.detail) for one in imported.report.items}


DISKS = {"drive-scsi0": disk_bytes(2 * MiB, seed=1), "drive-scsi1": disk_bytes(MiB, seed=2)}
TPM_STATE = b"\x01\x02permanent state" * 40


def backup(text: str = TYPICAL) -> bytes:
    maps = [
        f"#qmdump#map:{key}:drive-{key}:local-lvm:raw:" for key in ("scsi0", "scsi1", "efidisk0")
    ]
    maps.append("#qmdump#map:tpmstate0:drive-tpmstate0-backup:local-lvm:raw:")
    config = text.partition("\n[")[0] + "\n" + "\n".join(maps) + "\n"
    extra = {
        "drive-efidisk0": disk_bytes(540672, seed=3),
        "drive-tpmstate0-backup": to_linear(TPM_STATE).ljust(4 * MiB, b"\0"),
    }
    return Vma({"qemu-server.conf": config.encode()}, DISKS | extra, shuffle=1).build()


def machine(config: dict[str, Any], blobs: dict[str, bytes] | None = None) -> Machine:
    made = MachineConfig.from_toml("")
    made = MachineConfig.model_validate(config, context={"person": True})
    ids = [one.id for one in made.disks or () if not one.empty] or ["root"]
    kinds = {one.id: one.kind or "disk" for one in made.disks or ()}
    facts = [DiskFacts(one, 8 * MiB, kinds.get(one, "disk")) for one in ids]
    pinned = pin(made, facts, seed=b"test")
    return Machine(pinned, {one: ExportDisk(one, 8 * MiB, MiB) for one in ids}, blobs or {})
