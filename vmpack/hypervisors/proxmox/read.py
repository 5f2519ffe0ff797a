"""A machine as Proxmox' config describes it. Profile: specs/hypervisors/proxmox.md."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.proxmox import places
from vmpack.hypervisors.proxmox.drives import DRIVE, Drives, read_nics
from vmpack.hypervisors.proxmox.syntax import (
    Config,
    is_true,
    parse,
    plain_base64,
    properties,
)
from vmpack.machine.names import CPU_FAMILIES, CPU_PATTERN, MACHINE_PATTERN
from vmpack.units import MiB

_HOST = {
    "args": "options of QEMU's command line may name anything of the host",
    "hookscript": "a script of the host",
    "cicustom": "files of the host",
    "cipassword": "a password's hash is nobody else's business",
    "ivshmem": "memory shared with other machines of the host",
    "lock": "an operation of the host was under way",
    "parent": "it names a snapshot, and those are left behind",
    "vmstate": "the memory of a suspended machine: it starts anew",
    "runningmachine": "of a suspended machine: it starts anew",
    "runningcpu": "of a suspended machine: it starts anew",
    "snaptime": "of a snapshot",
}
_DEVICES_OF_HOST = re.compile(r"(hostpci|parallel|virtiofs|unused)[0-9]+")
_VIDEO = {
    "std": ("std", ""),
    "cirrus": ("cirrus", ""),
    "vmware": ("vmware", ""),
    "virtio": ("virtio-vga", ""),
    "virtio-gl": ("virtio-vga", "without 3D"),
    "none": ("none", ""),
}
_SMBIOS = {
    "manufacturer": "manufacturer",
    "product": "product",
    "version": "version",
    "serial": "serial",
    "sku": "sku",
    "family": "family",
}


@dataclass(slots=True)
class _Reading:
    draft: Draft
    config: Config
    source: ConfigSource
    left: dict[str, str]
    """Options of which nothing was said yet."""
    q35: bool = False

    def take(self, key: str) -> str | None:
        return self.left.pop(key, None)

    def number(self, key: str) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        if value.isascii() and value.isdigit() and len(value) < 12:
            return int(value)
        self.draft.dropped(key, "it is no number")
        return None


def read(source: ConfigSource) -> Imported:
    """Read ``qm config``'s output, ``/etc/pve/qemu-server/ID.conf``, or a backup's config."""
    config = parse(source.data, path=source.name)
    draft = Draft("proxmox")
    reading = _Reading(draft, config, source, dict(config.values))
    for step in (_name, _machine, _cpu, _memory, _firmware, _board, _smbios, _vga, _serial):
        step(reading)
    drives = Drives(draft, config, source, q35=reading.q35)
    drives.read()
    nics = read_nics(draft, config, q35=reading.q35)
    for key in [*drives.ids, *nics]:
        reading.take(key)
    _scsi_controllers(reading)
    _boot(reading, drives.ids, nics)
    _rest(reading)
    return draft.build()


def _name(reading: _Reading) -> None:
    name = reading.take("name")
    if name is not None:
        reading.draft.name(name, "name")
    if reading.config.description.strip():
        reading.draft.set("description", reading.config.description, "description")
    system = reading.take("ostype")
    if system is None:
        return
    known = guest_os.by_proxmox(system)
    if known is None:
        reading.draft.dropped("ostype", f"{system[:32]!r} is not known")
        return
    reading.draft.set("guest-os.family", known.family, "ostype")
    reading.draft.verbatim("ostype", system)


def _machine(reading: _Reading) -> None:
    value = reading.take("machine")
    parts = properties(value or "", "type")
    kind = parts.pop("type", "pc").partition("+")[0]
    reading.q35 = "q35" in kind
    if re.fullmatch(MACHINE_PATTERN, kind):
        reading.draft.set("machine", kind, "machine")
    else:
        chosen = "pc-q35-7.2" if reading.q35 else "pc-i440fx-7.2"
        how = f"{kind[:32]!r} is the newest of its host; pinned to {chosen}"
        reading.draft.set("machine", chosen, "machine", how=how)
    if parts or "+" in (value or ""):
        reading.draft.verbatim("machine", value or "")


def _cpu(reading: _Reading) -> None:
    draft = reading.draft
    for key in ("sockets", "cores"):
        given = key in reading.left
        count = reading.number(key)
        if count is not None or not given:
            draft.set(f"cpu.{key}", 1 if count is None else count, key)
    value = reading.take("cpu")
    parts = properties(value or "kvm64", "cputype")
    model = parts.pop("cputype", "kvm64")
    flags = [flag for flag in re.split(r"[;\s]", parts.pop("flags", "")) if flag]
    if re.fullmatch(CPU_PATTERN, model):
        draft.set("cpu.model", model, "cpu")
    elif model in CPU_FAMILIES and model not in ("kvm64", "qemu64"):
        draft.set("cpu.model", f"{model}-v1", "cpu", how=f"pinned to {model}-v1")
    elif model == "x86-64-v2-AES":
        draft.set("cpu.model", "Nehalem-v1", "cpu", how=f"{model} becomes Nehalem-v1 with AES")
        flags.append("+aes")
    elif value is not None:
        draft.report.approximated("cpu", f"{model[:48]!r} is of its host: pinned to another model")
    if value is not None:
        draft.verbatim("cpu", value)
    if flags:
        draft.set("cpu.flags", sorted(set(flags), key=lambda one: one[1:]), "cpu.flags")


def _memory(reading: _Reading) -> None:
    value = reading.take("memory")
    amount = properties(value or "512", "current").get("current", "")
    if amount.isascii() and amount.isdigit() and len(amount) < 12:
        reading.draft.set("memory", int(amount) * MiB, "memory")
    else:
        reading.draft.dropped("memory", "it is no number")


def _firmware(reading: _Reading) -> None:
    draft = reading.draft
    bios = reading.take("bios")
    uefi = bios == "ovmf"
    draft.set("firmware.kind", "uefi" if uefi else "bios", "bios")
    vars_disk = reading.take("efidisk0")
    if vars_disk is not None:
        _variables(reading, vars_disk, uefi)
    state = reading.take("tpmstate0")
    if state is None:
        return
    version = properties(state, "file").get("version", "v2.0")
    draft.set("tpm.version", "1.2" if version == "v1.2" else "2.0", "tpmstate0.version")
    _blob(reading, "tpmstate0", "tpm-state", state)


def _variables(reading: _Reading, value: str, uefi: bool) -> None:
    draft = reading.draft
    if not uefi:
        draft.dropped("efidisk0", "the machine starts with a BIOS")
        return
    parts = properties(value, "file")
    keys = is_true(parts.get("pre-enrolled-keys", "0"))
    if keys and not reading.q35:
        how = "Secure Boot needs q35: it is off"
        draft.set("firmware.secure-boot", False, "efidisk0.pre-enrolled-keys", how=how)
    else:
        draft.set("firmware.secure-boot", keys, "efidisk0.pre-enrolled-keys")
    _blob(reading, "efidisk0", "nvram", value)


def _blob(reading: _Reading, key: str, blob: str, value: str) -> None:
    """A drive that holds no disk: of a backup, or a file beside the config."""
    volume = properties(value, "file").get("file", "")
    device = reading.config.devices.get(key, f"drive-{key}")
    if device in reading.source.members:
        reading.draft.blobs[blob] = FileRef(device, "raw")
        reading.draft.report.kept(key, f"the blob {blob}")
    elif ":" in volume or volume.startswith("/") or not volume:
        how = f"a volume, which only the host has: name a copy with --blob {blob}=PATH"
        reading.draft.report.approximated(key, how)
    else:
        reading.draft.blobs[blob] = FileRef(volume, "raw")
        reading.draft.report.kept(key, f"the blob {blob}")


def _board(reading: _Reading) -> None:
    draft = reading.draft
    agent = reading.take("agent")
    parts = properties(agent or "0", "enabled")
    enabled = is_true(parts.pop("enabled", "0"))
    draft.set("guest-agent", enabled, "agent")
    if enabled and not reading.q35:
        draft.data.setdefault("controller", []).append(
            {"bus": "virtio-serial", "index": 0, "address": places.AGENT}
        )
    for name, content in parts.items():
        draft.verbatim(f"agent.{name}", content)
    tablet = is_true(reading.take("tablet") or "1")
    draft.set("input", "usb-tablet" if tablet else "ps2", "tablet")
    local = reading.take("localtime")
    if local is not None:
        draft.set("rtc.clock", "localtime" if is_true(local) else "utc", "localtime")
    # Proxmox' machines have neither, unless they say so.
    draft.data["pvpanic"] = False
    rng = reading.take("rng0")
    draft.set("rng.model", "none" if rng is None else "virtio-rng", "rng0")
    for name, content in properties(rng or "", "source").items():
        draft.verbatim(f"rng0.{name}", content, secret=name == "source")
    start = reading.take("startdate")
    if start is not None and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", start):
        draft.set("rtc.start", start, "startdate")
    elif start not in (None, "now"):
        draft.dropped("startdate", "it is no date and time")


def _smbios(reading: _Reading) -> None:
    draft = reading.draft
    value = reading.take("smbios1")
    if value is None:
        return
    parts = properties(value, "uuid")
    encoded = is_true(parts.pop("base64", "0"))
    if "uuid" in parts:
        draft.set("uuid", parts.pop("uuid").lower(), "smbios1.uuid")
    for name, content in parts.items():
        plain = plain_base64(content) if encoded else content
        if name not in _SMBIOS or plain is None:
            draft.dropped(f"smbios1.{name}", "it is no field of SMBIOS type 1, or no base64")
        else:
            draft.set(f"smbios.system.{_SMBIOS[name]}", plain, f"smbios1.{name}")


def _vga(reading: _Reading) -> None:
    value = reading.take("vga")
    parts = properties(value or "std", "type")
    kind = parts.get("type", "std")
    if kind.startswith("serial"):
        how = "no graphics card: the serial port is the console"
        reading.draft.set("display.model", "none", "vga", how=how)
    elif kind.startswith("qxl"):
        how = "" if kind == "qxl" else "one screen"
        reading.draft.set("display.model", "qxl", "vga", how=how)
    else:
        model, how = _VIDEO.get(kind, ("std", f"{kind[:32]!r} becomes std"))
        reading.draft.set("display.model", model, "vga", how=how)
    if value is not None and value not in _VIDEO:
        reading.draft.verbatim("vga", value)


def _serial(reading: _Reading) -> None:
    reading.draft.data["serial"] = []
    for number in range(4):
        value = reading.take(f"serial{number}")
        if value is None:
            continue
        how = "" if value == "socket" else "the host's own port stays with the host"
        reading.draft.add("serial", {"port": number}, f"serial{number}", how=how)


def _scsi_controllers(reading: _Reading) -> None:
    """PCI addresses of the first controllers, as the guest knows them."""
    hardware = reading.take("scsihw")
    disks = reading.draft.data.get("disk", [])
    if hardware is not None:
        reading.draft.report.kept("scsihw", "the bus of the SCSI disks")
        if hardware == "virtio-scsi-single" or not any("scsi" in one["bus"] for one in disks):
            reading.draft.verbatim("scsihw", hardware)
    if reading.q35 or hardware == "virtio-scsi-single":
        return
    used = {
        (one["bus"], one["controller"])
        for one in disks
        if one["bus"] in ("virtio-scsi", "lsilogic", "pvscsi", "lsisas1068") and "controller" in one
    }
    found = reading.draft.data.setdefault("controller", [])
    for bus, index in sorted(used):
        if index in places.SCSI:
            found.append({"bus": bus, "index": index, "address": places.SCSI[index]})
    if any(one["bus"] == "sata" for one in disks):
        found.append({"bus": "sata", "index": 0, "address": places.SATA})


def _boot(reading: _Reading, drives: dict[str, str], nics: dict[str, int]) -> None:
    value = reading.take("boot")
    disk = reading.take("bootdisk")
    if value is None and disk is None:
        return
    parts = properties(value or "c", "legacy")
    source = "boot" if value is not None else "bootdisk"
    if disk is not None and value is not None:
        reading.draft.report.kept("bootdisk", "the boot order")
    if "order" in parts:
        order = [one for one in re.split(r"[;\s]", parts["order"]) if one]
    else:
        order = list(_legacy_order(parts.get("legacy", "c"), disk, drives, nics, reading))
    strange = []
    place = 0
    by_id = {one["id"]: one for one in reading.draft.data.get("disk", ())}
    seen: set[str] = set()
    for key in order:
        if key in drives:
            target = by_id[drives[key]]
        elif key in nics:
            target = reading.draft.data["nic"][nics[key]]
        else:
            strange.append(key[:32])
            continue
        if key not in seen:
            place += 1
            target["boot"] = place
            seen.add(key)
    if strange:
        reading.draft.report.approximated(source, f"without {', '.join(strange)}")
    else:
        reading.draft.report.kept(source, "the boot order")


def _legacy_order(
    letters: str,
    disk: str | None,
    drives: dict[str, str],
    nics: dict[str, int],
    reading: _Reading,
) -> list[str]:
    """``cdn``: hard disk (``bootdisk``), CD-ROM drives, network."""
    kinds = {one["id"]: one.get("kind", "disk") for one in reading.draft.data.get("disk", ())}
    found: list[str] = []
    for letter in letters:
        if letter == "c":
            hard = [key for key, disk_id in drives.items() if kinds[disk_id] == "disk"]
            found += [disk] if disk in drives and disk is not None else hard[:1]
        elif letter == "d":
            found += [key for key, disk_id in drives.items() if kinds[disk_id] == "cdrom"]
        elif letter == "n":
            found += nics
    return found


def _rest(reading: _Reading) -> None:
    """What vmpack does not model: carried along, unless it is the host's."""
    draft = reading.draft
    for key, value in reading.left.items():
        if DRIVE.fullmatch(key):
            # Said already, by whoever read the drives.
            continue
        if key in _HOST:
            draft.dropped(key, _HOST[key])
        elif _DEVICES_OF_HOST.fullmatch(key) or (key.startswith("usb") and "host" in value):
            draft.dropped(key, "a device or volume of the host")
        else:
            draft.verbatim(key, value)
    for line in reading.config.strange:
        draft.dropped(line, "the line is no option, or its option comes twice")
    for name in reading.config.sections:
        why = (
            "a change that was not made yet"
            if name == "PENDING"
            else "the machine is read as it is"
        )
        draft.dropped(f"[{name}]", why)
