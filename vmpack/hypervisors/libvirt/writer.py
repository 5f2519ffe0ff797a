"""Writes domain XML that ``virsh define --validate`` takes. Profile: specs/hypervisors/libvirt.md.

libvirt takes absolute paths only: the XML names the folder that it is written into, and the bundle
for ``--in-place``.
"""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.errors import UnsupportedError
from vmpack.hypervisors import guest_os
from vmpack.hypervisors.account import Account
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.given_back import GivenBack
from vmpack.hypervisors.xmlsafe import document, element
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Cpu

_OSINFO = "libosinfo"


class Export:
    """One export: the machine, the report, and where its files are."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.config: MachineConfig = machine.config
        self.account = Account("libvirt", machine.config)
        self.stem = file_stem(self.config.name or "machine")
        self.given = GivenBack(self.config, self.account.report)
        self.places: dict[str, Element] = {}
        self.blobs: dict[str, tuple[str, bytes]] = {}
        """Blob -> the name of its file, and what is in it."""

    @property
    def in_place(self) -> bool:
        return self.machine.bundle is not None

    def path(self, name: str) -> str:
        """Absolute path of a file of the export."""
        return os.path.join(self.machine.folder or "/", name)

    def placed(self, place: str, made: Element) -> Element:
        """Note that ``made`` stands at ``place``, so that carried fields find it."""
        self.places[place] = made
        return made


def file_stem(name: str) -> str:
    """A file name made of a machine's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "machine"


def plan_domain(machine: Machine) -> Plan:
    """Domain XML, and qcow2 disks beside it.

    Raises :class:`UnsupportedError` for disks on a controller that libvirt has not.
    """
    from vmpack.hypervisors.libvirt.overlays import overlay_files

    export = Export(machine)
    _require_possible(export)
    _plan_blobs(export)
    root = _domain(export)
    export.given.restore(export.places)
    texts = [TextFile(f"{export.stem}.xml", document(root))]
    texts += [TextFile(name, data) for name, data in export.blobs.values()]
    disks: list[DiskFile] = []
    if export.in_place:
        texts += overlay_files(export)
    else:
        disks = [
            DiskFile(disk.id, f"{disk.id}.qcow2", "qcow2")
            for disk in export.config.disks or ()
            if not disk.empty
        ]

    def render(written: Mapping[str, WrittenDisk]) -> list[TextFile]:  # noqa: ARG001
        return texts

    return Plan(
        disks=disks,
        render=render,
        report=export.account.finish(
            {"ova": "product data has no place in a domain"}, "a domain has no place for it"
        ),
        instructions=_instructions(export),
        in_place=export.in_place,
    )


def _require_possible(export: Export) -> None:
    config = export.config
    for number, disk in enumerate(config.disks or ()):
        if disk.bus in ("nvme", "buslogic"):
            raise UnsupportedError(
                f"libvirt gives no disk image a guest's {disk.bus} bus",
                field=f"disk[{number}].bus",
                hint="pack it with another bus in its config, such as sata",
            )
    if not (config.name or "x").strip():
        raise UnsupportedError("libvirt wants a name that is not blank", field="name")


def _plan_blobs(export: Export) -> None:
    """The files that the XML names besides the disks."""
    blobs, config = export.machine.blobs, export.config
    report = export.account.report
    if config.firmware.blob is not None and config.firmware.blob in blobs:
        export.blobs["code"] = f"{export.stem}_CODE.fd", blobs[config.firmware.blob]
    if "nvram" in blobs and config.firmware.kind == "uefi":
        from vmpack.machine.nvram import to_raw

        export.blobs["nvram"] = f"{export.stem}_VARS.fd", to_raw(blobs["nvram"])
        size = len(export.blobs["nvram"][1])
        report.approximated(
            "nvram",
            f"{size} bytes: libvirt's choice of firmware has to keep variables in as many (OVMF's"
            " 4M build has 540672)",
        )
    elif "nvram" in blobs:
        report.dropped("nvram", "the machine starts by BIOS")
    if "tpm-state" in blobs and config.tpm is not None:
        name = names.TPM_STATE[config.tpm.version or "2.0"]
        export.blobs["tpm-state"] = name, blobs["tpm-state"]
        report.approximated("tpm-state", "libvirt takes it from a folder of its own: copy it there")
    elif "tpm-state" in blobs:
        report.dropped("tpm-state", "the machine has no TPM")
    for name in blobs:
        if name not in ("nvram", "tpm-state", config.firmware.blob):
            report.dropped(f"blob {name}", "libvirt has no use for it")


def _instructions(export: Export) -> list[str]:
    xml = shlex.quote(export.path(f"{export.stem}.xml"))
    lines = []
    if "tpm-state" in export.blobs and export.config.tpm is not None:
        folder = "tpm2" if export.config.tpm.version != "1.2" else "tpm1.2"
        source = export.path(export.blobs["tpm-state"][0])
        to = f"/var/lib/libvirt/swtpm/{export.config.uuid}/{folder}/{export.blobs['tpm-state'][0]}"
        lines.append(f"install -D -o swtpm -g swtpm -m 600 {shlex.quote(source)} {to}")
    lines.append(f"virsh define --validate {xml}")
    lines.append(
        f"sed \"s/<domain type=.kvm./<domain type='qemu'/\" {xml} | virsh define /dev/stdin"
        "   # instead, on a host without KVM"
    )
    lines.append(f"virsh start -- {shlex.quote(export.config.name or export.stem)}")
    return lines


def _domain(export: Export) -> Element:
    from vmpack.hypervisors.libvirt.writer_devices import devices

    config, report = export.config, export.account
    report.kept("name", "name")
    kind = export.given.take_attribute("domain@type", ("kvm", "qemu")) or "kvm"
    spaces = {"xmlns:libosinfo": names.OSINFO_SPACE} if _osinfo(export) else {}
    root = export.placed("domain", element("domain", None, {"type": kind, **spaces}))
    root.append(element("name", config.name or export.stem))
    root.append(element("uuid", config.uuid or str(_uuid_of(export))))
    report.kept("uuid", "uuid")
    if config.description:
        root.append(element("description", config.description))
        report.kept("description", "description")
    root.append(_metadata(export))
    memory = element("memory", str((config.memory or 1 << 30) // MiB), {"unit": "MiB"})
    root.append(export.placed("domain/memory", memory))
    report.kept("memory", "memory")
    root.append(export.placed("domain/vcpu", element("vcpu", str(_cpus(config.cpu)))))
    sysinfo = _sysinfo(export)
    if sysinfo is not None:
        root.append(sysinfo)
    root.append(_os(export, has_sysinfo=sysinfo is not None))
    root.append(_features(export))
    root.append(_cpu(export))
    root.append(_clock(export))
    for name, action in (("reboot", "restart"), ("poweroff", "destroy"), ("crash", "destroy")):
        if not export.given.has(f"domain/on_{name}"):
            root.append(element(f"on_{name}", action))
    root.append(devices(export))
    _others(export)
    return root


def _uuid_of(export: Export) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, f"vmpack {export.config.name}")


def _cpus(cpu: Cpu) -> int:
    return (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)


def _osinfo(export: Export) -> str | None:
    os_id = export.config.guest_os.id
    return guest_os.libosinfo_url(os_id) if os_id else None


def _metadata(export: Export) -> Element:
    made = export.placed("domain/metadata", element("metadata"))
    system, url = export.config.guest_os, _osinfo(export)
    if url is not None:
        os_element = element(f"{_OSINFO}:os", None, {"id": url})
        made.append(element(f"{_OSINFO}:libosinfo", None, None, os_element))
        export.account.kept("guest-os.id", "metadata/libosinfo")
    elif system.id:
        export.account.dropped("guest-os.id", f"libosinfo has no address for {system.id!r}")
    if system.family and url is None:
        export.account.dropped("guest-os.family", "a domain names a system, not a family")
    elif system.family:
        export.account.kept("guest-os.family", "metadata/libosinfo")
    return made


def _sysinfo(export: Export) -> Element | None:
    made = element("sysinfo", None, {"type": "smbios"})
    for table, (theirs, fields) in names.SYSINFO.items():
        part = getattr(export.config.smbios, table)
        entries = []
        for field, entry in fields.items():
            value = getattr(part, field)
            if value is not None:
                entries.append(element("entry", value, {"name": entry}))
                export.account.kept(f"smbios.{table}.{field}", f"sysinfo/{theirs}")
        if entries:
            made.append(element(theirs, None, None, *entries))
    strings = export.config.smbios.oem_strings
    if strings:
        made.append(element("oemStrings", None, None, *(element("entry", one) for one in strings)))
        export.account.kept("smbios.oem-strings", "sysinfo/oemStrings")
    return made if len(made) else None


def _os(export: Export, *, has_sysinfo: bool) -> Element:
    config, report = export.config, export.account
    firmware = config.firmware
    made = export.placed("domain/os", element("os"))
    made.append(
        element("type", "hvm", {"arch": "x86_64", "machine": config.machine or "pc-q35-7.2"})
    )
    report.kept("architecture", "os/type")
    report.kept("machine", "os/type")
    report.kept("firmware.kind", "os@firmware")
    if firmware.kind == "uefi":
        _uefi(export, made)
    elif "code" in export.blobs:
        made.append(element("loader", export.path(export.blobs["code"][0]), {"type": "rom"}))
    for name in ("firmware.blob", "firmware.digest"):
        if made.find("loader") is not None:
            report.kept(name, "os/loader")
        else:
            report.dropped(name, "libvirt chooses the firmware, and asks for no digest")
    if has_sysinfo:
        made.append(element("smbios", None, {"mode": "sysinfo"}))
    return made


def _uefi(export: Export, made: Element) -> None:
    secure = bool(export.config.firmware.secure_boot)
    if "code" in export.blobs and "nvram" in export.blobs:
        attributes = {"readonly": "yes", "type": "pflash", "secure": "yes" if secure else "no"}
        made.append(element("loader", export.path(export.blobs["code"][0]), attributes))
    else:
        made.set("firmware", "efi")
        features = element("firmware")
        wanted = {"secure-boot": secure}
        keys = "domain/os/firmware/feature(enrolled-keys)"
        if secure and "nvram" not in export.blobs and not export.given.has(keys):
            # Without variables of its own the machine needs keys, or Secure Boot enforces nothing.
            wanted["enrolled-keys"] = True
        for name, is_on in wanted.items():
            enabled = "yes" if is_on else "no"
            features.append(element("feature", None, {"enabled": enabled, "name": name}))
        made.append(export.placed("domain/os/firmware", features))
    if "nvram" in export.blobs:
        made.append(element("nvram", export.path(export.blobs["nvram"][0])))
    export.account.kept("firmware.secure-boot", "os/firmware")


def _features(export: Export) -> Element:
    made = export.placed("domain/features", element("features"))
    for name in ("acpi", "apic"):
        if not export.given.has(f"domain/features/{name}"):
            made.append(element(name))
    if export.config.firmware.secure_boot:
        made.append(element("smm", None, {"state": "on"}))
    return made


def _cpu(export: Export) -> Element:
    cpu, report = export.config.cpu, export.account
    model = cpu.model or "Nehalem-v1"
    name = names.CPU_NAMES.get(model)
    if name is None:
        name = model
        report.approximated("cpu.model", f"{model}: libvirt 9.0 has no such name, later ones have")
    else:
        report.kept("cpu.model", f"cpu/model {name}")
    attributes = {"mode": "custom", "match": "exact", "check": "partial"}
    made = export.placed("domain/cpu", element("cpu", None, attributes))
    made.append(element("model", name, {"fallback": "forbid", "vendor_id": cpu.vendor}))
    if cpu.vendor:
        report.kept("cpu.vendor", "cpu/model@vendor_id")
    topology = {
        field: str(getattr(cpu, field) or 1) for field in ("sockets", "dies", "cores", "threads")
    }
    made.append(element("topology", None, topology))
    for field in topology:
        report.kept(f"cpu.{field}", "cpu/topology")
    for flag in cpu.flags:
        policy = "require" if flag[0] == "+" else "disable"
        feature = {"policy": policy, "name": names.feature_to_libvirt(flag[1:])}
        made.append(element("feature", None, feature))
    if cpu.flags:
        report.kept("cpu.flags", "cpu/feature")
    return made


def _clock(export: Export) -> Element:
    rtc, report = export.config.rtc, export.account
    if rtc.start is None:
        made = element("clock", None, {"offset": rtc.clock or "utc"})
        report.kept("rtc.clock", "clock@offset")
    else:
        from datetime import UTC, datetime

        when = datetime.fromisoformat(rtc.start).replace(tzinfo=UTC)
        made = element("clock", None, {"offset": "absolute", "start": str(int(when.timestamp()))})
        report.kept("rtc.start", "clock@start")
        report.approximated("rtc.clock", "the given time, which is the guest's whatever its zone")
    return export.placed("domain/clock", made)


def _others(export: Export) -> None:
    """Fields that stand in the XML by themselves."""
    export.account.kept("hyperv-generation", "as the firmware says")
    export.account.kept("watchdog", "none")
