"""The registry of hypervisors: whose configs vmpack reads, and for whom it writes.

A hypervisor is one module (or folder) that builds a
:class:`~vmpack.hypervisors.base.Hypervisor` called ``HYPERVISOR``, and one line here. Nothing is
imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vmpack.errors import UsageError

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Hypervisor

_MODULES: dict[str, str] = {
    "qemu": "vmpack.hypervisors.qemu",
    "vagrant": "vmpack.hypervisors.vagrant",
    "vmware": "vmpack.hypervisors.vmware",
    "virtualbox": "vmpack.hypervisors.virtualbox",
    "ova": "vmpack.hypervisors.ovf",
    "esxi": "vmpack.hypervisors.esxi",
    "libvirt": "vmpack.hypervisors.libvirt",
    "hyperv": "vmpack.hypervisors.hyperv",
    "proxmox": "vmpack.hypervisors.proxmox",
    "utm": "vmpack.hypervisors.utm",
    "xen": "vmpack.hypervisors.xen",
    "incus": "vmpack.hypervisors.incus",
    "kubevirt": "vmpack.hypervisors.kubevirt",
    "azure": "vmpack.hypervisors.azure",
}


def names() -> tuple[str, ...]:
    """Every hypervisor, by the name that ``--to`` takes and ``verbatim`` uses."""
    return tuple(_MODULES)


def module_of(name: str) -> str:
    """The dotted name of the module that holds the record of ``name``."""
    return _MODULES[name]


def get(name: str) -> Hypervisor:
    """The hypervisor called ``name``; :class:`UsageError` for any other name."""
    if name not in _MODULES:
        raise UsageError(f"unknown target {name!r}", hint=f"targets are {', '.join(names())}")
    module = importlib.import_module(_MODULES[name])
    found: Hypervisor = module.HYPERVISOR
    return found


def recognise(name: str, head: bytes) -> Hypervisor | None:
    """The hypervisor whose config the file ``name``, which begins with ``head``, is."""
    for known in names():
        found = get(known)
        if found.recognise is not None and found.recognise(name, head):
            return found
    return None
