"""KubeVirt: VirtualMachine manifests (``specs/hypervisors/kubevirt.md``)."""

from __future__ import annotations

import re

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan


def _recognise(name: str, head: bytes) -> bool:
    if not name.lower().endswith((".yaml", ".yml", ".json")):
        return False
    return bool(
        re.search(rb"apiVersion\"?\s*:\s*[\"']?kubevirt\.io/", head)
        and re.search(rb"kind\"?\s*:\s*[\"']?VirtualMachine(Instance)?\b", head)
    )


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.kubevirt.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.kubevirt.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="kubevirt",
    title="KubeVirt",
    reads=("VirtualMachine YAML",),
    writes="VirtualMachine YAML, containerDisk folders (qcow2)",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("virtio-blk", "virtio-scsi", "sata"),
        nic_models=("virtio-net", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k"),
        source="KubeVirt v1 API, DiskTarget and Interface; user guide, Disks and Volumes",
    ),
    proven_by="structure only",
)
