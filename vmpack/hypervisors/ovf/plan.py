"""What an export to OVA consists of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, UUID, uuid5
from xml.etree.ElementTree import Element

from vmpack.errors import UsageError
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.ovf import manifest
from vmpack.hypervisors.ovf.envelope import Envelope, Reference
from vmpack.hypervisors.ovf.flavour import ANY, BOX, ESXI, VIRTUALBOX, Flavour, hardware_family
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.xmlsafe import document
from vmpack.machine.expectation import VerbatimField

BLOB = "vmware-nvram"
_LONGEST = 10**19 - 1
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OPTIONS = {
    "manifest": ("sha256", "sha1", "none"),
    "ovf-version": ("1.1", "2.0"),
}


def file_stem(name: str) -> str:
    """The machine's name as a file's that needs no escaping in a URI, a manifest or a shell."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "machine"


def plan(machine: Machine, target: str) -> Plan:
    """Plan the export for ``ova``, ``esxi`` or ``virtualbox``.

    Raises :class:`UnsupportedError` for a machine with more drives than there are places.
    """
    options = _options(machine.options)
    config = machine.config
    flavour = {"esxi": ESXI, "virtualbox": BOX}.get(target, ANY)
    if flavour is ANY and config.ova.hardware == VIRTUALBOX:
        flavour = BOX
    notes = Notes(config.to_json_dict(), target)
    notes.kept("version", "vmpack's own")
    stem = file_stem(config.name or "machine")
    buses = [flavour.bus(one, config.guest_os.family) for one in config.disks or ()]
    hardware = hardware_family(flavour, config, buses)
    slots = flavour.slots(config, hardware)
    references = _references(machine, stem, flavour)
    fields = _carried(machine, flavour, notes)
    uuids = _uuids(machine, fields) if flavour.is_virtualbox else {}
    settings = None
    if flavour.is_virtualbox:
        from vmpack.hypervisors.virtualbox.write import machine as settings_of

        settings = settings_of(config, slots, uuids, notes)
    envelope = Envelope(
        machine=machine,
        flavour=flavour,
        version=options["ovf-version"],
        hardware=hardware,
        slots=slots,
        references=references,
        notes=notes,
        fields=fields,
        settings=settings,
        uuids=uuids,
    )
    root = envelope.build()
    _losses(machine, flavour, notes)

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        extra = [TextFile(one.name, machine.blobs[BLOB]) for one in references if not one.disk]
        sizes = {one.name: written[one.disk].size for one in references if one.disk}
        sizes |= {one.name: len(one.data) for one in extra}
        room = len(_text(envelope, root, dict.fromkeys(sizes, _LONGEST)))
        data = _text(envelope, root, sizes)
        config_file = TextFile(f"{stem}.ovf", data[:-1] + b" " * (room - len(data)) + b"\n")
        algorithm = options["manifest"]
        if algorithm == "none":
            return [config_file, *extra]
        found = {one.name: written[one.disk].digests[algorithm] for one in references if one.disk}
        found |= {one.name: hashlib.new(algorithm, one.data).hexdigest() for one in extra}
        own = hashlib.new(algorithm, config_file.data).hexdigest()
        digests = [(config_file.name, own), *((one.name, found[one.name]) for one in references)]
        return [config_file, TextFile(f"{stem}.mf", manifest.text(algorithm, digests)), *extra]

    with_manifest = options["manifest"] != "none"
    return Plan(
        disks=[_disk_file(one, hardware) for one in references if one.disk],
        render=render,
        report=notes.report,
        instructions=_instructions(stem, flavour),
        container="tar",
        container_name=f"{stem}.ova",
        order=[
            f"{stem}.ovf",
            *([f"{stem}.mf"] if with_manifest else []),
            *(one.name for one in references),
        ],
        digests=[options["manifest"]] if with_manifest else [],
    )


def _options(given: Mapping[str, str]) -> dict[str, str]:
    found = {name: choices[0] for name, choices in _OPTIONS.items()}
    for name, value in given.items():
        if name not in _OPTIONS or value not in _OPTIONS[name]:
            raise UsageError(
                f"{name}={value} is no option of an OVF",
                field=f"--{name}",
                hint="; ".join(f"{key}: {', '.join(words)}" for key, words in _OPTIONS.items()),
            )
        found[name] = value
    return found


def _references(machine: Machine, stem: str, flavour: Flavour) -> list[Reference]:
    """Disks in the config's order, then other files: the order of the archive."""
    found: list[Reference] = []
    for disk in machine.config.disks or ():
        if disk.id not in machine.disks:
            continue
        cdrom = disk.kind == "cdrom"
        name = f"{stem}-{disk.id}.{'iso' if cdrom else 'vmdk'}"
        found.append(Reference(f"file{len(found) + 1}", name, disk.id, cdrom))
    if BLOB in machine.blobs and flavour is not BOX:
        found.append(Reference("nvram", f"{stem}.nvram", ""))
    return found


def _disk_file(one: Reference, hardware: str) -> DiskFile:
    if one.cdrom:
        return DiskFile(one.disk, one.name, "raw")
    values = {"subformat": "streamOptimized", "adapter_type": "lsilogic"}
    if hardware.startswith("vmx-"):
        values["hwversion"] = str(int(hardware[4:]))
    return DiskFile(one.disk, one.name, "vmdk", values)


def _uuids(machine: Machine, fields: Sequence[VerbatimField]) -> dict[str, str]:
    """A UUID for each disk: its own from VirtualBox, otherwise one of the machine's."""
    config = machine.config
    space = UUID(config.uuid) if config.uuid else NAMESPACE_URL
    found = {disk_id: str(uuid5(space, f"disk:{disk_id}")) for disk_id in machine.disks}
    carried = {one.key: one.value.strip("{}").lower() for one in fields}
    for disk_id in found:
        own = carried.get(f"diskinfo:{disk_id}@vbox:uuid", "")
        if _UUID.fullmatch(own) and own not in found.values():
            found[disk_id] = own
    return found


def _carried(machine: Machine, flavour: Flavour, notes: Notes) -> list[VerbatimField]:
    """Fields that came out of an OVF for the same kind of importer, and out of a .vbox."""
    verbatim = machine.config.verbatim
    is_box = (machine.config.ova.hardware == VIRTUALBOX) == flavour.is_virtualbox
    found: list[VerbatimField] = []
    if "ovf" in verbatim and is_box:
        found += verbatim["ovf"]
        notes.forget("verbatim.ovf")
    if "virtualbox" in verbatim and flavour.is_virtualbox:
        found += verbatim["virtualbox"]
        notes.forget("verbatim.virtualbox")
    for path in notes.open():
        if path.startswith("verbatim."):
            notes.dropped(path, f"fields of another hypervisor, of no use to {flavour.name}")
    return found


def _text(envelope: Envelope, root: Element, sizes: Mapping[str, int]) -> bytes:
    for name, made in envelope.files.items():
        made.set("ovf:size", str(sizes[name]))
    return document(root)


def _instructions(stem: str, flavour: Flavour) -> list[str]:
    if flavour.is_virtualbox:
        return [f"VBoxManage import {stem}.ova --options keepallmacs"]
    if flavour is ESXI:
        return [
            f"ovftool --allowExtraConfig --datastore=DATASTORE {stem}.ova vi://USER@HOST/",
            f"govc import.ova -name NAME {stem}.ova",
        ]
    return [
        f"ovftool {stem}.ova vi://USER@HOST/",
        f"VBoxManage import {stem}.ova",
        f"virt-v2v -i ova {stem}.ova -o local -os /var/tmp",
    ]


def _losses(machine: Machine, flavour: Flavour, notes: Notes) -> None:
    """Every field of which nothing was said yet."""
    config = machine.config
    report = notes.report
    notes.kept("architecture", "x86_64")
    notes.changed("machine", f"{flavour.name} has a board of its own")
    for path in ("cpu.model", "cpu.vendor"):
        notes.changed(path, "the host's CPU: OVF names none")
    notes.dropped("cpu.flags", "OVF has no names for CPU features")
    for path in ("firmware.digest", "firmware.blob"):
        notes.dropped(path, f"{flavour.name} has firmware of its own")
    notes.kept("hyperv-generation", "the firmware says it")
    notes.changed("display", f"{flavour.name} has a graphics card of its own")
    for path in ("bios", "system.manufacturer", "system.product", "system.version"):
        notes.changed(f"smbios.{path}", f"{flavour.name} shows strings of its own")
    notes.dropped("smbios", f"{flavour.name} shows strings of its own")
    notes.changed("input", f"{flavour.name} chooses the pointing device")
    if config.rng.model == "none":
        notes.kept("rng.model", "none")
    notes.changed("rng", "no such device; guests use the CPU's RDRAND")
    for path, is_set in (("pvpanic", config.pvpanic), ("guest-agent", config.guest_agent)):
        if not is_set:
            notes.kept(path, "none")
    notes.changed("pvpanic", "no such device")
    notes.changed("guest-agent", "the hypervisor's own tools have its place")
    notes.kept("watchdog", "none")
    notes.changed("rtc.clock", f"as {flavour.name} keeps it for this guest")
    notes.dropped("rtc.start", "OVF has no place for it")
    for path in ("expected", "verify"):
        notes.changed(path, "vmpack's own: it stays in the bundle")
    notes.changed("controller", "those that the drives need")
    notes.changed("tpm", "an empty TPM 2.0, where the importer adds one")
    notes.rest("OVF has no place for it")
    for name in machine.blobs:
        if name == BLOB and not flavour.is_virtualbox:
            report.kept(name, "given back")
        elif name == "nvram" and config.firmware.kind != "uefi":
            report.approximated(name, "a machine with BIOS has no use for it")
        else:
            report.dropped(name, f"{flavour.name} does not take it: it stays in the bundle")
