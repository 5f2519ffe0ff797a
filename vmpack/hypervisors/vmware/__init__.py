"""VMware Workstation and Fusion: ``.vmx`` files (``specs/hypervisors/vmware.md``).

Nothing of this package is imported before a config is read or written.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan
from vmpack.units import GiB, TiB


def _recognise(name: str, head: bytes) -> bool:  # noqa: ARG001 - the name says it
    return name.lower().endswith((".vmx", ".vmtx"))


def _wants(source: ConfigSource) -> Sequence[str]:
    from vmpack.hypervisors.vmware.read import wants

    return wants(source)


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.vmware.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.vmware.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="vmware",
    title="VMware Workstation and Fusion",
    reads=(".vmx",),
    writes=".vmx, VMDK (monolithicSparse)",
    recognise=_recognise,
    wants=_wants,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("pvscsi", "lsilogic", "lsisas1068", "buslogic", "sata", "ide", "nvme"),
        nic_models=("vmxnet3", "e1000e", "e1000", "pcnet"),
        max_disk=8 * TiB,
        max_cpus=32,
        max_memory=128 * GiB,
        source="Using VMware Workstation Pro 17.0, Virtual Machine Features and Specifications",
    ),
    proven_by="virt-v2v, foreign samples",
)
