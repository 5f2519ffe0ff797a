"""Hyper-V: JSON of a script, configs of 2008 to 2012 R2, and a PowerShell script that is written.

Profile: specs/hypervisors/hyperv.md. ``python -m vmpack.hypervisors.hyperv`` prints the script
that describes a machine as JSON.
"""

from __future__ import annotations

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan
from vmpack.units import GiB, TiB

MARK = "VmpackHyperV"
HINT = (
    "describe it by a script: python -m vmpack.hypervisors.hyperv > export-hyperv.ps1, run that"
    " on the Hyper-V host, and pack the JSON that it writes"
)


def export_script() -> str:
    """The PowerShell script that describes a machine of Hyper-V as JSON."""
    from importlib.resources import files

    return (files("vmpack.hypervisors") / "data" / "export-hyperv.ps1").read_text("utf-8")


def _recognise(name: str, head: bytes) -> bool:
    if name.lower().endswith((".vmcx", ".vmrs", ".vmgs")):
        return True
    from vmpack.hypervisors.xmlsafe import head_text

    text = head_text(head).lstrip()
    if text.startswith("{"):
        return f'"{MARK}"' in text
    if not text.startswith("<"):
        return False
    legacy = "<configuration" in text and ("VDEVVersion" in text or "Virtual Machines" in text)
    return legacy or ("<DECLARATIONS" in text and "Msvm_" in text)


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.hyperv.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.hyperv.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="hyperv",
    title="Hyper-V",
    reads=("JSON of export-hyperv.ps1", "XML of 2008 to 2012 R2"),
    writes="VHDX, PowerShell script",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("ide", "virtio-scsi"),
        nic_models=("tulip",),
        max_disk=64 * TiB,
        max_cpus=240,
        max_memory=12288 * GiB,
        source="Microsoft, Plan for Hyper-V scalability in Windows Server; New-VM",
    ),
    proven_by="structure only",
)
