"""OVF and OVA, the exchange format of the DMTF: read, and written for any importer.

Profile: specs/hypervisors/ova.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan

_SPACES = (
    "http://schemas.dmtf.org/ovf/envelope/",
    "http://www.vmware.com/schema/ovf/1/envelope",
    "http://schemas.dmtf.org/ovf/1/envelope",
)


def _recognise(name: str, head: bytes) -> bool:
    from vmpack.hypervisors.xmlsafe import head_text

    text = head_text(head)
    if not text.lstrip().startswith("<"):
        return False
    named = name.lower().endswith(".ovf")
    return named or ("Envelope" in text and any(space in text for space in _SPACES))


def _wants(config: ConfigSource) -> Sequence[str]:
    from vmpack.hypervisors.ovf.read import wants

    return wants(config)


def _read(config: ConfigSource) -> Imported:
    from vmpack.hypervisors.ovf.read import read

    return read(config)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.ovf.plan import plan

    return plan(machine, "ova")


HYPERVISOR = Hypervisor(
    name="ova",
    title="OVF and OVA",
    reads=(".ova", ".ovf"),
    writes="one .ova: OVF 1.1 or 2.0, streamOptimized disks, manifest",
    recognise=_recognise,
    wants=_wants,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("ide", "sata", "lsilogic", "lsisas1068", "pvscsi", "buslogic", "nvme"),
        nic_models=("e1000", "e1000e", "vmxnet3", "pcnet"),
        max_disk=62 << 40,
        max_cpus=128,
        max_memory=6128 << 30,
        source="DSP0243 1.1.1; VMware vSphere 6.7 Configuration Maximums",
    ),
    proven_by="tool virt-v2v, qemu-img; foreign sample",
    same_as="ovf",
)
