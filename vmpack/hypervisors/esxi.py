"""ESXi and vCenter: an OVA of VMware's own kind. Profile: specs/hypervisors/ova.md."""

from __future__ import annotations

from vmpack.hypervisors.base import Hypervisor, Limits, Machine, Plan


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.ovf.plan import plan

    return plan(machine, "esxi")


HYPERVISOR = Hypervisor(
    name="esxi",
    title="VMware ESXi and vCenter",
    writes="one .ova: OVF 1.1 or 2.0 of VMware's kind, streamOptimized disks, manifest",
    plan=_plan,
    limits=Limits(
        disk_buses=("pvscsi", "lsilogic", "lsisas1068", "buslogic", "sata", "ide", "nvme"),
        nic_models=("vmxnet3", "e1000", "e1000e", "pcnet"),
        max_disk=62 << 40,
        max_cpus=128,
        max_memory=6128 << 30,
        name_pattern=r"[^/\\%]{1,80}",
        source="VMware vSphere 6.7 Configuration Maximums",
    ),
    proven_by="tool virt-v2v, qemu-img",
    same_as="ovf",
)
