"""VirtualBox: .vbox settings are read; written is an OVA with VirtualBox's settings in it.

Profile: specs/hypervisors/virtualbox.md.
"""

from __future__ import annotations

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan

_SPACE = "http://www.virtualbox.org/"


def _recognise(name: str, head: bytes) -> bool:
    from vmpack.hypervisors.xmlsafe import head_text

    text = head_text(head).lstrip()
    return text.startswith("<") and (
        name.lower().endswith((".vbox", ".vbox-prev"))
        or ("<VirtualBox" in text and _SPACE in text and "<Machine" in text)
    )


def _read(config: ConfigSource) -> Imported:
    from vmpack.hypervisors.virtualbox.settings import read

    return read(config)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.ovf.plan import plan

    return plan(machine, "virtualbox")


HYPERVISOR = Hypervisor(
    name="virtualbox",
    title="VirtualBox",
    reads=(".vbox",),
    writes="one .ova with VirtualBox's own settings, streamOptimized disks, manifest",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=(
            "ide",
            "sata",
            "lsilogic",
            "lsisas1068",
            "buslogic",
            "nvme",
            "virtio-scsi",
        ),
        nic_models=("e1000", "pcnet", "virtio-net"),
        secure_boot=False,
        max_cpus=64,
        max_memory=2 << 40,
        source="VirtualBox-settings.xsd of VirtualBox 7.1",
    ),
    proven_by="tool virt-v2v, qemu-img; foreign sample",
)
