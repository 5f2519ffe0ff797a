"""KubeVirt's words for what vmpack models. Source: the kubevirt.io/v1 API; apimachinery's names."""

from __future__ import annotations

import re

from vmpack.machine.names import CPU_PATTERN
from vmpack.units import MiB

BUSES = {"virtio": "virtio-blk", "scsi": "virtio-scsi", "sata": "sata"}
BUS_NAMES = {bus: name for name, bus in BUSES.items()}
NICS = {
    "virtio": "virtio-net",
    "ne2k_pci": "ne2k",
    **{name: name for name in ("e1000", "e1000e", "rtl8139", "pcnet", "igb")},
}
NIC_NAMES = {model: name for name, model in NICS.items() if model != "igb"}

_UNITS: dict[str, int] = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}


def quantity(text: str) -> int | None:
    """Bytes of a Kubernetes quantity such as ``4Gi`` or ``1.5G``; ``None`` for what is none."""
    found = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([kMGTPE]?i?)", text.strip())
    if found is None or found[3] not in _UNITS:
        return None
    digits = found[2] or ""
    return int(found[1] + digits) * _UNITS[found[3]] // int("1" + "0" * len(digits))


def to_quantity(size: int) -> str:
    """Bytes, a multiple of 1 MiB, as a quantity."""
    mib = size // MiB
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def cpu_model(name: str) -> str | None:
    """The versioned model that libvirt's name stands for, where vmpack has it."""
    found = name if re.search(r"-v[0-9]+$", name) else f"{name}-v1"
    return found if re.fullmatch(CPU_PATTERN, found) else None


def dns_name(text: str, most: int = 63) -> str:
    """A name as Kubernetes takes it (RFC 1123): lower-case letters, digits and ``-``."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:most].strip("-")
    return plain or "vm"


def network_name(text: str) -> str:
    """The config's name for a network called ``text``."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "-", text)[:64].strip(" -")
    return plain if plain not in ("", "user", "none") else f"net-{plain or 'work'}"
