"""libvirt: domain XML of QEMU machines, from files and from a running libvirt.

Profile: specs/hypervisors/libvirt.md. Source: https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Limits

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Imported, Machine, Plan

_START = re.compile(
    r"\A\s*(?:<\?xml\s[^>]{0,200}\?>)?\s*(?:<!--.{0,4096}?-->\s*){0,8}<domain[\s>]", re.DOTALL
)


def recognise(name: str, head: bytes) -> bool:  # noqa: ARG001 - the content tells
    """Whether the file is a domain's XML: its first element is ``domain``."""
    if b"<" not in head[:256]:
        return False
    from vmpack.hypervisors import xmlsafe

    return _START.match(xmlsafe.head_text(head)) is not None


def read(source: ConfigSource) -> Imported:
    """The machine that a domain's XML describes."""
    from vmpack.hypervisors.libvirt.reader import read_domain

    return read_domain(source)


def plan(machine: Machine) -> Plan:
    """Domain XML and its disks, as qcow2 or in place."""
    from vmpack.hypervisors.libvirt.writer import plan_domain

    return plan_domain(machine)


def live(address: str) -> ConfigSource:
    """The XML of the domain that ``libvirt:///name`` or ``libvirt+URI`` names."""
    from vmpack.hypervisors.libvirt.live import fetch

    return fetch(address)


HYPERVISOR = Hypervisor(
    name="libvirt",
    title="libvirt",
    reads=("domain XML", "libvirt:///NAME"),
    writes="domain XML and qcow2 disks, or the bundle's own disks (--in-place)",
    recognise=recognise,
    read=read,
    plan=plan,
    live=live,
    limits=Limits(
        disk_buses=(
            *("virtio-blk", "virtio-scsi", "sata", "ide"),
            *("lsilogic", "lsisas1068", "pvscsi"),
        ),
        nic_models=(
            *("virtio-net", "e1000", "e1000e", "igb", "vmxnet3", "rtl8139", "pcnet", "tulip"),
            "ne2k",
        ),
        max_cpus=255,
        name_pattern=r"(?=.*\S)[^/\n]+",
        source="https://libvirt.org/formatdomain.html",
    ),
    proven_by="tool virsh; boots under libvirtd",
)
