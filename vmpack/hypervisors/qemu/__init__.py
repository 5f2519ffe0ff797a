"""QEMU without a manager: a shell script with the whole command line, and the disks as qcow2.

Profile: specs/hypervisors/qemu.md. It is written, not read: a script is a program, not a config.
"""

from __future__ import annotations

from vmpack.hypervisors.base import Hypervisor, Limits, Machine, Plan

__all__ = ["HYPERVISOR"]


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.qemu.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="qemu",
    title="QEMU",
    writes="shell script, qcow2",
    plan=_plan,
    limits=Limits(
        disk_buses=(
            *("virtio-blk", "virtio-scsi", "sata", "ide", "nvme"),
            *("lsilogic", "lsisas1068", "pvscsi"),
        ),
        nic_models=(
            *("virtio-net", "e1000", "e1000e", "igb", "vmxnet3"),
            *("rtl8139", "pcnet", "tulip", "ne2k"),
        ),
        source="QEMU, -device help of 7.2 to 11.1",
    ),
    proven_by="tool qemu-system-x86_64",
)
