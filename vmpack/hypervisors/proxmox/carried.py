"""What Proxmox said, vmpack does not model, and may be given back to Proxmox.

A bundle comes from a stranger, and what ``qm`` is told, root does: only options that cannot name
anything of the host are given back, whatever the bundle holds (PVE-WRITE-5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.hypervisors.account import Account
    from vmpack.hypervisors.proxmox.layout import Drive
    from vmpack.machine import MachineConfig

_OPTIONS = frozenset(
    (
        *("acpi", "affinity", "allow-ksm", "amd-sev", "audio0", "autostart", "balloon"),
        *("ciupgrade", "ciuser", "citype", "cpulimit", "cpuunits", "freeze", "hotplug"),
        *("hugepages", "keephugepages", "keyboard", "kvm", "migrate_downtime"),
        *("migrate_speed", "nameserver", "numa", "onboot", "protection", "reboot"),
        *("searchdomain", "shares", "spice_enhancements", "sshkeys", "startup", "tags", "tdf"),
        *("vcpus", "vmgenid", "watchdog"),
    )
)
_OTHERWISE = {
    "meta": "Proxmox writes it itself",
    "template": "qm template makes one, when the disks are there",
}
"""Options that ``qm create`` does not take, or not yet."""
_NUMBERED = re.compile(r"(ipconfig|numa)[0-9]{1,2}")
_SPICE = re.compile(r"usb[0-9]{1,2}")
_READ_ELSEWHERE = frozenset(("cpu", "machine", "ostype", "scsihw", "vga"))
_PROPERTIES = {
    "drive": re.compile(
        r"aio|backup|bps(_(rd|wr))?(_max_length)?|cache|cyls|detect_zeroes|discard|heads|iothread"
        r"|(iops|mbps)(_(rd|wr))?(_max)?(_length)?|model|product|queues|replicate|rerror|secs"
        r"|shared|snapshot|trans|vendor|werror"
    ),
    "net": re.compile(r"firewall|mtu|queues|rate|tag|trunks"),
    "agent": re.compile(r"freeze-fs-on-backup|fstrim_cloned_disks|type"),
    "rng0": re.compile(r"max_bytes|period"),
}
_VALUE = re.compile(r"[^\x00-\x1f\x7f]{0,4096}")
_WORD = re.compile(r"[\w.:;+ %-]{0,256}", re.ASCII)
_LIST = re.compile(r"[\w.:;+ %,=-]{1,512}", re.ASCII)


class Carried:
    """The fields of ``verbatim.proxmox`` that may be given back; the others are reported."""

    def __init__(self, config: MachineConfig, account: Account):
        self._report = account.report
        self._found: dict[str, str] = {}
        self._given: set[str] = set()
        for one in config.verbatim.get("proxmox", ()):
            if _allowed(one.key, one.value):
                self._found[one.key] = one.value
            else:
                why = _OTHERWISE.get(one.key, "it could name something of the host")
                self._report.dropped(one.key, why)

    def get(self, key: str) -> str:
        """An option's value, empty where there is none; it counts as given back."""
        if key not in self._found:
            return ""
        self._given.add(key)
        return self._found[key]

    def properties(self, device: str) -> dict[str, str]:
        """The properties of a device; they count as given back."""
        start = f"{device}."
        found = {key: value for key, value in self._found.items() if key.startswith(start)}
        self._given.update(found)
        return {key[len(start) :]: value for key, value in found.items()}

    def finish(self, options: dict[str, str], drives: Sequence[Drive]) -> None:
        """Add what is left to ``options`` and ``drives``, and report all of it."""
        for drive in drives:
            for name, value in self.properties(drive.key).items():
                drive.properties.setdefault(name, value)
        for key, value in self._found.items():
            if "." not in key and key not in options and key not in _READ_ELSEWHERE:
                options[key] = value
                self._given.add(key)
            if key in self._given:
                self._report.kept(key, "given back")
            else:
                self._report.dropped(key, "what it belongs to is not there, or is another now")


def _allowed(key: str, value: str) -> bool:
    device, mark, name = key.partition(".")
    if not mark:
        if key in _READ_ELSEWHERE:
            return _LIST.fullmatch(value) is not None
        if _SPICE.fullmatch(key):
            return re.fullmatch(r"spice(,usb3=[01])?", value) is not None
        known = key in _OPTIONS or _NUMBERED.fullmatch(key) is not None
        return known and _VALUE.fullmatch(value) is not None
    kind = device if device in _PROPERTIES else device.rstrip("0123456789")
    kind = "drive" if kind in ("ide", "sata", "scsi", "virtio") else kind
    pattern = _PROPERTIES.get(kind)
    return bool(pattern and pattern.fullmatch(name) and _WORD.fullmatch(value))
