"""UTM: machines of its QEMU backend (``specs/hypervisors/utm.md``)."""

from __future__ import annotations

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan


def _recognise(name: str, head: bytes) -> bool:
    is_plist = head.startswith(b"bplist00") or b"<plist" in head
    return name.lower() == "config.plist" and is_plist


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.utm.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.utm.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="utm",
    title="UTM",
    reads=("NAME.utm (config.plist)",),
    writes="NAME.utm (config.plist, qcow2)",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("virtio-blk", "sata", "ide", "nvme", "lsilogic"),
        nic_models=(
            "virtio-net",
            "e1000",
            "e1000e",
            "igb",
            "vmxnet3",
            "rtl8139",
            "pcnet",
            "tulip",
            "ne2k",
        ),
        source="UTM 4, UTMQemuConfiguration and its parts",
    ),
    proven_by="structure only (plistlib)",
)
