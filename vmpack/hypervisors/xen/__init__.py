"""Xen: ``xl`` configs, and XenServer's XVA archives (``specs/hypervisors/xen.md``)."""

from __future__ import annotations

import re

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan

_KEY = re.compile(rb"^[ \t]*(name|disk|vif|memory|vcpus|builder|type|kernel)[ \t]*=", re.MULTILINE)
_OTHERS = (".vmx", ".vmtx", ".toml", ".ini", ".ovf", ".xml", ".yaml", ".yml", ".json", ".plist")
OVA = "ova.xml"


def _recognise(name: str, head: bytes) -> bool:
    if name.lower() == OVA:
        return b"<methodResponse" not in head and b"<value>" in head
    if name.lower().endswith(_OTHERS) or b"\0" in head:
        return False
    found = {match[1] for match in _KEY.finditer(head)}
    has_list = re.search(rb"^[ \t]*(disk|vif)[ \t]*=[ \t]*\[", head, re.MULTILINE)
    return b"name" in found and has_list is not None and len(found) >= 3


def _read(source: ConfigSource) -> Imported:
    if source.name.lower() == OVA:
        from vmpack.hypervisors.xen.read_xva import read as read_xva

        return read_xva(source)
    from vmpack.hypervisors.xen.read_xl import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.xen.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="xen",
    title="Xen, XenServer, XCP-ng",
    reads=("xl config", ".xva"),
    writes="xl config, qcow2",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("ide", "lsilogic"),
        nic_models=("e1000", "e1000e", "rtl8139", "ne2k", "pcnet", "virtio-net"),
        secure_boot=False,
        tpm=False,
        max_cpus=128,
        source="xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5) of Xen 4.17",
    ),
    proven_by="xva-img (reading); structure only (xl)",
)
