"""A machine as Hyper-V describes it. Profile: specs/hypervisors/hyperv.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.hyperv import HINT, MARK
from vmpack.machine.names import safe_id

MAX_DEVICES = 300
_FORMATS = {"vhd": "vhd", "vhdx": "vhdx", "avhd": "vhd", "avhdx": "vhdx", "iso": "raw"}
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_SKIPPED = frozenset(("VmpackHyperV", "Source"))
_OF_DEVICE = frozenset(("ControllerNumber", "ControllerLocation", "ControllerType"))


class _Reader:
    """One machine's description, and the draft that it becomes."""

    def __init__(self, data: dict[str, Any]):
        self.draft = Draft("hyperv")
        self.data = data
        self.left: dict[str, Any] = dict(data)
        self.second = data.get("Generation") == 2
        self.places: dict[tuple[str, int, int], int] = {}
        """Where a drive hangs -> its index in the config."""

    def table(self, name: str) -> dict[str, Any]:
        """A member that is an object; what else stands there is as good as nothing."""
        found = self.left.pop(name, None)
        return dict(found) if isinstance(found, dict) else {}

    def entries(self, name: str) -> list[dict[str, Any]]:
        """A member that is a list of objects."""
        found = self.left.pop(name, None)
        # PowerShell writes a list of one as that one.
        found = [found] if isinstance(found, dict) else found
        listed = found if isinstance(found, list) else []
        if len(listed) > MAX_DEVICES:
            self.draft.dropped(name, f"more than {MAX_DEVICES} of them")
        return [dict(one) for one in listed[:MAX_DEVICES] if isinstance(one, dict)]

    def text(self, name: str) -> str:
        """A member that is text."""
        found = self.left.pop(name, None)
        return found if isinstance(found, str) else ""


def read(source: ConfigSource) -> Imported:
    """Read the JSON of ``export-hyperv.ps1``, or the XML of Hyper-V 2008 to 2012 R2.

    Raises :class:`UnsupportedError` for binary configs (.vmcx), naming what to do.
    """
    if source.name.lower().endswith((".vmcx", ".vmrs", ".vmgs")):
        raise UnsupportedError(
            "is a binary config of Hyper-V, which Microsoft does not document",
            path=source.name,
            clause="HYPERV-READ-1",
            hint=HINT,
        )
    if source.data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        reader = _Reader(_json(source))
    else:
        from vmpack.hypervisors.hyperv import legacy

        data, root = legacy.parse(source.data, path=source.name)
        reader = _Reader(data)
        legacy.account(root, reader.draft)
    _board(reader)
    _cpu_and_memory(reader)
    _drives(reader)
    adapters = _adapters(reader)
    _firmware(reader, adapters)
    _ports(reader)
    _rest(reader)
    return reader.draft.build()


def _json(source: ConfigSource) -> dict[str, Any]:
    try:
        data = json.loads(source.data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise DamagedError(
            "is no JSON", path=source.name, clause="HYPERV-READ-2", hint="write it again"
        ) from exc
    if not isinstance(data, dict) or data.get(MARK) != 1:
        raise UnsupportedError(
            f"is not version 1 of {MARK}", path=source.name, clause="HYPERV-READ-2", hint=HINT
        )
    return data


def _board(reader: _Reader) -> None:
    draft = reader.draft
    name = reader.text("Name")
    if name:
        draft.name(name, "Name")
    notes = reader.text("Notes")
    if notes.strip():
        draft.set("description", notes.replace("\r\n", "\n"), "Notes")
    state = reader.text("State")
    if state in ("Running", "Paused", "Starting", "Stopping"):
        draft.running = True
    if state == "Saved":
        draft.dropped("State", "a saved state is Hyper-V's own: the machine starts anew")
    elif state:
        draft.report.kept("State", "an imported machine is off")
    reader.left.pop("Generation", None)
    draft.set("hyperv-generation", 2 if reader.second else 1, "Generation")
    draft.data["machine"] = "pc-q35-7.2" if reader.second else "pc-i440fx-7.2"
    draft.report.approximated("Generation", f"the board is {draft.data['machine']}")
    guid = reader.text("BiosGuid").strip("{} ").lower()
    if guid:
        draft.set("uuid", guid, "BiosGuid")
    for field, path in (
        ("BiosSerialNumber", "smbios.system.serial"),
        ("BaseBoardSerialNumber", "smbios.baseboard.serial"),
        ("ChassisSerialNumber", "smbios.chassis.serial"),
        ("ChassisAssetTag", "smbios.chassis.asset"),
    ):
        value = reader.text(field).strip()
        if value:
            draft.set(path, value, field)
    for one in _texts(reader.left.pop("Checkpoints", None)):
        draft.dropped(f"Checkpoints: {one}", "the machine is read as it is now")


def _texts(value: object) -> list[str]:
    found = [value] if isinstance(value, str) else value
    listed = found if isinstance(found, list) else []
    return [one for one in listed[:MAX_DEVICES] if isinstance(one, str)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _cpu_and_memory(reader: _Reader) -> None:
    processor = reader.table("Processor")
    count = processor.pop("Count", None)
    if _is_count(count):
        reader.draft.set("cpu.cores", count, "Processor.Count")
    _carry(reader, "Processor", processor)
    memory = reader.table("Memory")
    startup = memory.pop("Startup", None)
    if _is_count(startup):
        reader.draft.set("memory", startup, "Memory.Startup")
    _carry(reader, "Memory", memory)


def _carry(reader: _Reader, name: str, values: dict[str, Any]) -> None:
    """What vmpack does not model, one line each."""
    for key, value in values.items():
        if key in _SKIPPED or value in (None, "", [], {}):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        is_path = bool(re.search(r"[A-Za-z]:\\|\\\\|^/", text))
        reader.draft.verbatim(f"{name}.{key}" if name else key, text, secret=is_path)


def _drives(reader: _Reader) -> None:
    hard = [(one, False) for one in reader.entries("HardDiskDrives")]
    dvds = [(one, True) for one in reader.entries("DvdDrives")]
    numbers = {False: 0, True: 0}
    for entry, cdrom in hard + dvds:
        name = f"{'DvdDrives' if cdrom else 'HardDiskDrives'}[{numbers[cdrom]}]"
        numbers[cdrom] += 1
        _drive(reader, entry, cdrom, str(entry.get("Source") or name))


def _place(entry: dict[str, Any]) -> tuple[str, int, int]:
    numbers = [entry.get(key) for key in ("ControllerNumber", "ControllerLocation")]
    controller, location = (one if isinstance(one, int) else 0 for one in numbers)
    return str(entry.get("ControllerType") or "SCSI").upper(), controller, location


def _drive(reader: _Reader, entry: dict[str, Any], cdrom: bool, name: str) -> None:
    draft = reader.draft
    kind, controller, location = place = _place(entry)
    path = entry.get("Path")
    path = path if isinstance(path, str) else ""
    if not cdrom and (entry.get("DiskNumber") is not None or not path):
        draft.dropped(name, "a disk of the host itself, or an empty place")
        return
    values, how = _bus(reader, kind, controller, location, cdrom)
    file = None
    if path:
        stem, _, suffix = path.replace("\\", "/").rpartition("/")[2].rpartition(".")
        parents = tuple(_texts(entry.get("ParentPaths")))
        file = FileRef(path, _FORMATS.get(suffix.lower()), parents=parents)
    if cdrom:
        values["kind"] = "cdrom"
    label = safe_id(stem) if path and stem else f"{kind.lower()}{controller}-{location}"
    disk_id = draft.add_disk(label, file, name, how="; ".join(how), **values)
    reader.places[place] = len(draft.data["disk"]) - 1
    draft.verbatim(f"{disk_id}.place", f"{kind} {controller} {location}")
    known = {"Path", "ParentPaths", "DiskNumber", "Source", *_OF_DEVICE}
    _carry(reader, disk_id, {key: value for key, value in entry.items() if key not in known})


def _bus(
    reader: _Reader, kind: str, controller: int, location: int, cdrom: bool
) -> tuple[dict[str, object], list[str]]:
    """The bus: Hyper-V's SCSI is one of its own, which no other hypervisor has."""
    if kind == "IDE" and not reader.second:
        return {"bus": "ide", "controller": 0, "port": controller, "unit": location}, []
    if cdrom:
        return {"bus": "sata"}, ["on SATA in place of Hyper-V's SCSI"]
    if not reader.second:
        return {"bus": "sata"}, ["on SATA in place of Hyper-V's SCSI"]
    return {}, ["on the bus that its guest can start from, in place of Hyper-V's SCSI"]


def _adapters(reader: _Reader) -> dict[str, int]:
    """Every network card; its index by the adapter's id."""
    draft = reader.draft
    found = {}
    for number, entry in enumerate(reader.entries("NetworkAdapters")):
        name = str(entry.pop("Source", None) or f"NetworkAdapters[{number}]")
        how = []
        mac: str | None = re.sub(r"[^0-9a-f]", "", str(entry.pop("MacAddress", "")).lower())
        if not mac or len(mac) != 12 or mac == "0" * 12:
            how.append("Hyper-V would give it an address when it starts")
            mac = None
        dynamic = entry.pop("DynamicMacAddressEnabled", None)
        if dynamic is True and mac:
            how.append("the address of its last start stays")
        legacy = entry.pop("IsLegacy", False) is True
        if not legacy:
            how.append("the model that its guest knows, in place of Hyper-V's own")
        network = entry.pop("SwitchName", None)
        wanted: str | None = "none"
        if network == "Default Switch":
            wanted = "user"
        elif isinstance(network, str) and network:
            fits = _NETWORK.fullmatch(network)
            wanted = network if fits else "user"
            if not fits:
                how.append("the switch has a name that no network here can have")
        values: dict[str, object] = {"network": wanted, "model": "tulip" if legacy else None}
        values["mac"] = None if mac is None else ":".join(re.findall("..", mac))
        index = draft.add("nic", values, name, how="; ".join(how))
        adapter = entry.pop("Id", None)
        if isinstance(adapter, str):
            found[adapter] = index
        _carry(reader, f"net{index}", entry)
    if not draft.data.get("nic"):
        draft.data["nic"] = []
    return found


def _firmware(reader: _Reader, adapters: dict[str, int]) -> None:
    draft = reader.draft
    draft.set("firmware.kind", "uefi" if reader.second else "bios", "Generation")
    firmware, bios = reader.table("Firmware"), reader.table("Bios")
    if reader.second:
        secure = firmware.pop("SecureBoot", "Off") == "On"
        draft.set("firmware.secure-boot", secure, "Firmware.SecureBoot")
        draft.dropped(
            "UEFI variables", "they are in a .vmgs file, which Microsoft does not document"
        )
        _boot_order(reader, firmware.pop("BootOrder", None), adapters)
    else:
        _startup_order(reader, _texts(bios.pop("StartupOrder", None)))
    _carry(reader, "Firmware", firmware)
    _carry(reader, "Bios", bios)
    if reader.left.pop("TpmEnabled", False) is True:
        draft.set("tpm.version", "2.0", "TpmEnabled")
        draft.dropped("TPM state", "it is sealed by a key of the host")
    if reader.left.pop("Shielded", False) is True:
        draft.dropped("Shielded", "shielding is between Hyper-V and its guardian service")


def _boot_order(reader: _Reader, value: object, adapters: dict[str, int]) -> None:
    found = [value] if isinstance(value, dict) else value
    listed = found if isinstance(found, list) else []
    targets: list[dict[str, Any]] = []
    strange = False
    for entry in (one for one in listed[:MAX_DEVICES] if isinstance(one, dict)):
        adapter = entry.get("AdapterId")
        if isinstance(adapter, str) and adapter in adapters:
            targets.append(reader.draft.data["nic"][adapters[adapter]])
        elif "ControllerType" in entry and _place(entry) in reader.places:
            targets.append(reader.draft.data["disk"][reader.places[_place(entry)]])
        else:
            strange = True
    _number(reader, targets, "Firmware.BootOrder", "without files of the firmware" * strange)


def _startup_order(reader: _Reader, order: list[str]) -> None:
    disks = reader.draft.data.get("disk", [])
    cards = reader.draft.data.get("nic", [])
    targets: list[dict[str, Any]] = []
    for one in order:
        if one == "CD":
            targets += [disk for disk in disks if disk.get("kind") == "cdrom"]
        elif one == "IDE":
            targets += [
                disk for disk in disks if disk.get("bus") == "ide" and disk.get("kind") != "cdrom"
            ]
        elif one == "LegacyNetworkAdapter":
            targets += [card for card in cards if card.get("model") == "tulip"]
    _number(reader, targets, "Bios.StartupOrder", "")


def _number(reader: _Reader, targets: Iterable[dict[str, Any]], source: str, how: str) -> None:
    place = 0
    for target in targets:
        if "boot" not in target:
            place += 1
            target["boot"] = place
    if place or how:
        if how:
            reader.draft.report.approximated(source, how)
        else:
            reader.draft.report.kept(source, "the boot order")


def _ports(reader: _Reader) -> None:
    """Both COM ports are there in every machine; pipes of the host stay there."""
    reader.draft.data["serial"] = []
    entries = reader.entries("ComPorts")
    for number in (1, 2):
        there = [one for one in entries if one.get("Number") == number and one.get("Connected")]
        if there or (number == 1 and not entries):
            how = "its pipe stays with the host" if there else ""
            reader.draft.add("serial", {"port": number - 1}, f"ComPorts[{number}]", how=how)


def _rest(reader: _Reader) -> None:
    for entry in reader.entries("IntegrationServices"):
        name, enabled = entry.get("Name"), entry.get("Enabled")
        if isinstance(name, str) and isinstance(enabled, bool):
            reader.draft.verbatim(f"IntegrationServices.{name[:100]}", str(enabled))
    _carry(reader, "", reader.left)
