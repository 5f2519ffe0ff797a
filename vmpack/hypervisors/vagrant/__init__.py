"""Vagrant boxes: those of libvirt and VirtualBox read, those of libvirt written.

Profile: specs/hypervisors/vagrant.md. Sources: Vagrant's "Box File Format" and vagrant-libvirt's
documentation, "Box Formats".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Limits

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Imported, Machine, Plan

METADATA = "metadata.json"
PROVIDERS = ("libvirt", "kvm", "qemu", "virtualbox")


def recognise(name: str, head: bytes) -> bool:
    """Whether the file is a box's metadata, of a provider whose boxes are read here."""
    if name != METADATA or b'"provider"' not in head:
        return False
    try:
        found = json.loads(head)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("provider") in PROVIDERS


def wants(source: ConfigSource) -> Sequence[str]:
    """The Vagrantfile, and what a VirtualBox box keeps in an OVF."""
    from vmpack.hypervisors.vagrant.reader import wanted

    return wanted(source)


def read(source: ConfigSource) -> Imported:
    """The machine that a box holds."""
    from vmpack.hypervisors.vagrant.reader import read_box

    return read_box(source)


def plan(machine: Machine) -> Plan:
    """A box for vagrant-libvirt."""
    from vmpack.hypervisors.vagrant.writer import plan_box

    return plan_box(machine)


HYPERVISOR = Hypervisor(
    name="vagrant",
    title="Vagrant",
    reads=(".box",),
    writes="one .box for vagrant-libvirt",
    recognise=recognise,
    wants=wants,
    read=read,
    plan=plan,
    limits=Limits(
        disk_buses=("virtio-blk", "virtio-scsi", "sata", "ide", "lsilogic", "lsisas1068"),
        nic_models=("virtio-net", "e1000", "e1000e", "igb", "vmxnet3", "rtl8139", "pcnet"),
        secure_boot=False,
        source="https://vagrant-libvirt.github.io/vagrant-libvirt/boxes.html",
    ),
    proven_by="tool vagrant with vagrant-libvirt",
)
