"""Reads the machine of an XVA: the rows of ``ova.xml`` that are its own."""

from __future__ import annotations

import json
import re
from typing import Any

from vmpack.errors import DamagedError
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.xen.ova import Object, objects
from vmpack.units import MiB

MAX_NVRAM = 1 << 20
_PLATFORM = ("acpi", "apic", "pae", "viridian", "nx", "hpet", "nestedhvm")
"""What the platform of XenServer and a setting of xl have in common."""


def read(source: ConfigSource) -> Imported:
    """The machine; its disks are members of the archive.

    Raises :class:`DamagedError` where there is no machine in it.
    """
    rows = objects(source.data, path=source.name)
    machines = [one for one in rows if one.kind == "VM" and not one.snapshot.get("is_a_template")]
    machines.sort(key=lambda one: bool(one.snapshot.get("is_a_snapshot")))
    if not machines:
        raise DamagedError("has no machine", path=source.name, field="VM", clause="XVA-READ-6")
    return _Reading(rows, machines, source).imported()


class _Reading:
    def __init__(self, rows: list[Object], machines: list[Object], source: ConfigSource):
        self.rows = {one.ref: one for one in rows}
        self.all = rows
        self.vm = machines[0].snapshot
        self.ref = machines[0].ref
        self.others = machines[1:]
        self.members = source.members
        self.draft = Draft("xen")
        self.used: set[str] = set()

    def _text(self, key: str) -> str:
        self.used.add(key)
        value = self.vm.get(key, "")
        return value if isinstance(value, str) else ""

    def _table(self, key: str) -> dict[str, Any]:
        self.used.add(key)
        value = self.vm.get(key)
        return value if isinstance(value, dict) else {}

    def imported(self) -> Imported:
        """The whole machine."""
        for one in self.others:
            self.draft.dropped(f"VM {one.ref}", "a snapshot: the machine as it is now is read")
        self._board()
        self._firmware()
        self._disks()
        self._nics()
        self._rest()
        return self.draft.build()

    def _board(self) -> None:
        draft = self.draft
        if self._text("name_label"):
            draft.name(str(self.vm["name_label"]), "name_label")
        if self._text("name_description"):
            draft.set("description", str(self.vm["name_description"]), "name_description")
        if self._text("uuid"):
            draft.set("uuid", str(self.vm["uuid"]).lower(), "uuid")
        size = self._text("memory_dynamic_max") or self._text("memory_static_max")
        self.used |= {"memory_static_max", "memory_static_min", "memory_dynamic_min"}
        self.used |= {"memory_target", "memory_overhead"}
        if re.fullmatch("[0-9]{1,16}", size):
            whole = -(-int(size) // MiB) * MiB
            how = "" if whole == int(size) else "whole MiB"
            draft.set("memory", whole, "memory_dynamic_max", how=how)
        count = self._text("VCPUs_max") or self._text("VCPUs_at_startup")
        self.used.add("VCPUs_at_startup")
        platform = self._table("platform")
        per_socket = str(platform.get("cores-per-socket", ""))
        if re.fullmatch("[0-9]{1,3}", count) and int(count):
            cores = int(per_socket) if re.fullmatch("[1-9][0-9]{0,2}", per_socket) else 0
            if cores and int(count) % cores == 0:
                draft.set("cpu.sockets", int(count) // cores, "VCPUs_max")
                draft.set("cpu.cores", cores, "platform cores-per-socket")
            else:
                draft.set("cpu.cores", int(count), "VCPUs_max")
        state = self._text("power_state")
        if state not in ("", "Halted"):
            # Its disks are a copy; what it held in memory is not in it.
            draft.dropped("power_state", f"{state}: its memory is not taken along")
        for key, value in sorted(platform.items()):
            if key in _PLATFORM and str(value).lower() in ("true", "false", "0", "1"):
                draft.verbatim(key, "1" if str(value).lower() in ("true", "1") else "0")
            elif key not in ("cores-per-socket", "secureboot", "timeoffset"):
                self._carry(f"xva/platform/{key}", value)
        offset = str(platform.get("timeoffset", ""))
        draft.set(
            "rtc.clock",
            "utc",
            "platform timeoffset",
            how="" if offset in ("", "0") else f"UTC, not {offset} s beside it",
        )

    def _firmware(self) -> None:
        draft = self.draft
        boot = self._table("HVM_boot_params")
        is_hvm = bool(self._text("HVM_boot_policy")) or self._text("domain_type") == "hvm"
        if boot.get("firmware") == "uefi":
            draft.set("firmware.kind", "uefi", "HVM_boot_params firmware")
            if str(self._table("platform").get("secureboot", "")).lower() in ("true", "auto"):
                draft.set("firmware.secure-boot", True, "platform secureboot")
        else:
            how = "" if is_hvm else "a machine with firmware: its disk needs a boot loader"
            draft.set("firmware.kind", "bios", "HVM_boot_params firmware", how=how)
        if self._table("NVRAM"):
            draft.dropped("NVRAM", "varstored's own format: variables are made anew")
        self.order = str(boot.get("order", "cd"))

    def _vbds(self) -> list[dict[str, Any]]:
        refs = self.vm.get("VBDs")
        self.used.add("VBDs")
        wanted = refs if isinstance(refs, list) else []
        found = [
            self.rows[ref].snapshot
            for ref in wanted
            if isinstance(ref, str) and ref in self.rows and self.rows[ref].kind == "VBD"
        ]
        if not found:
            found = [
                one.snapshot
                for one in self.all
                if one.kind == "VBD" and one.snapshot.get("VM") == self.ref
            ]
        return sorted(found, key=_place)

    def _disks(self) -> None:
        number = 0
        kinds = [{"c": "Disk", "d": "CD"}.get(letter) for letter in self.order]
        entries = self._vbds()
        boots = sorted(
            (index for index, one in enumerate(entries) if one.get("type", "Disk") in kinds),
            key=lambda index: kinds.index(entries[index].get("type", "Disk")),
        )
        for index, one in enumerate(entries):
            place = _place(one)
            ref = str(one.get("VDI", ""))
            row = self.rows.get(ref)
            is_cd = one.get("type") == "CD"
            label = str(row.snapshot.get("name_label", "")) if row is not None else ""
            file = FileRef(ref) if ref in self.members else None
            values: dict[str, object] = {"boot": boots.index(index) + 1} if index in boots else {}
            where = f"VBD {one.get('userdevice', place)}"
            if file is None and not is_cd:
                self.draft.dropped(where, "its disk is not in the archive")
                continue
            bus, how = "ide", ""
            if place < 4:
                values |= {"controller": 0, "port": place // 2, "unit": place % 2}
            else:
                bus, how = "virtio-blk", "virtio-blk in place of Xen's own disk"
            if is_cd:
                values["kind"] = "cdrom"
                bus = "ide"
            else:
                values["read_only"] = one.get("mode") == "RO"
            if is_cd and file is None and not one.get("empty"):
                how = "empty: its image is not in the archive"
            self.draft.add_disk(label or f"disk{number}", file, where, bus=bus, how=how, **values)
            number += 1

    def _nics(self) -> None:
        found = [
            one.snapshot
            for one in self.all
            if one.kind == "VIF" and one.snapshot.get("VM") == self.ref
        ]
        found.sort(key=lambda one: str(one.get("device")).zfill(4))
        self.used.add("VIFs")
        for number, vif in enumerate(found):
            network = self.rows.get(str(vif.get("network", "")))
            label = str(network.snapshot.get("name_label", "")) if network is not None else ""
            plain = re.sub(r"[^A-Za-z0-9._ -]", "-", label)[:64].strip(" -")
            mac = str(vif.get("MAC", "")).lower()
            values: dict[str, object] = {
                "id": f"net{number}",
                "model": "rtl8139",
                "mac": mac or None,
                "network": plain if plain not in ("", "user", "none") else "user",
            }
            mtu = str(vif.get("MTU", ""))
            if mtu not in ("", "1500") and re.fullmatch("[0-9]{3,5}", mtu):
                values["mtu"] = int(mtu)
            where = f"VIF {vif.get('device', number)}"
            index = self.draft.add("nic", values, where)
            self.draft.set_source(f"nic[{index}].mac", f"{where} MAC")
        if not found:
            self.draft.set("nic", [], "VIFs")

    def _rest(self) -> None:
        for key, value in sorted(self.vm.items()):
            if key in self.used or value in ("", [], {}, "OpaqueRef:NULL", "Ref:NULL"):
                continue
            if re.search(r"Ref:", json.dumps(value)) or key in _POOL:
                self.draft.dropped(key, "of the pool that it came from")
            else:
                self._carry(f"xva/{key}", value)

    def _carry(self, key: str, value: Any) -> None:
        text = json.dumps(value, ensure_ascii=True)
        self.draft.verbatim(key, text, secret=names_host(f" {text}"))


_POOL = {
    "allowed_operations",
    "current_operations",
    "domid",
    "domarch",
    "last_booted_record",
    "last_boot_CPU_flags",
    "snapshot_metadata",
    "transportable_snapshot_id",
    "is_control_domain",
    "is_a_template",
    "is_a_snapshot",
    "is_default_template",
    "is_snapshot_from_vmpp",
    "is_vmss_snapshot",
    "snapshot_time",
    "snapshot_info",
    "scheduled_to_be_resident_on",
}


def _place(vbd: dict[str, Any]) -> int:
    """The device's number: ``0`` and ``xvda`` are the first."""
    text = str(vbd.get("userdevice") or vbd.get("device") or "")
    if re.fullmatch("[0-9]{1,3}", text):
        return int(text)
    found = re.fullmatch(r"(?:xvd|hd|sd)([a-z])", text)
    return ord(found[1]) - 97 if found else 99
