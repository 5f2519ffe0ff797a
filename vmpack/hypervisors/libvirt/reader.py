"""Reads a domain's XML: everything but its devices. Profile: specs/hypervisors/libvirt.md."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.errors import UnsupportedError
from vmpack.hypervisors import guest_os, xmlsafe
from vmpack.hypervisors.carry import Carrier, Prefixes
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.reader_cpu import read_cpu, read_os, read_vcpu
from vmpack.units import MiB

if TYPE_CHECKING:
    from vmpack.hypervisors.base import ConfigSource, Imported

SPACES = {names.QEMU_SPACE: "qemu", names.OSINFO_SPACE: "libosinfo"}
_UNITS = {
    "b": 1,
    "bytes": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "k": 1 << 10,
    "KiB": 1 << 10,
    "M": 1 << 20,
    "MiB": 1 << 20,
    "G": 1 << 30,
    "GiB": 1 << 30,
    "T": 1 << 40,
    "TiB": 1 << 40,
}


class Understood(Carrier):
    """Also tells what was understood."""

    def is_understood(self, element: Element) -> bool:
        """Whether anything of the element itself was."""
        return self._is_taken(element)


class Domain:
    """A domain while it is read."""

    def __init__(self, source: ConfigSource):
        self.source = source
        self.root = xmlsafe.parse(source.data, path=source.name)
        self.draft = Draft("libvirt")
        self.carrier = Understood(self.draft, Prefixes(SPACES), names.secret)

    def text(self, element: Element) -> str:
        """An element's text, understood."""
        return self.carrier.take(element)

    def attribute(self, element: Element, name: str) -> str:
        """An attribute's value, understood; absent: empty."""
        return self.carrier.take(element, name)

    def number(self, text: str) -> int | None:
        """A decimal or 0x number; ``None`` for anything else."""
        if not re.fullmatch(r"\s*(0x[0-9a-fA-F]{1,8}|[0-9]{1,18})\s*", text, re.ASCII):
            return None
        return int(text.strip(), 0) if "x" in text else int(text)


def read_domain(source: ConfigSource) -> Imported:
    """The machine; every element, attribute and text of the XML is in the report.

    Raises :class:`DamagedError` and :class:`UnsafeError` for XML that is none or is hostile, and
    :class:`UnsupportedError` for a guest that is no PC.
    """
    from vmpack.hypervisors.libvirt.reader_devices import read_devices

    domain = Domain(source)
    _require_pc(domain)
    handlers = {
        "name": _name,
        "uuid": _uuid,
        "description": _description,
        "metadata": _metadata,
        "memory": _memory,
        "currentMemory": _current_memory,
        "vcpu": read_vcpu,
        "cpu": read_cpu,
        "os": read_os,
        "features": _features,
        "clock": _clock,
        "sysinfo": _sysinfo,
        "devices": lambda *_: None,
    }
    domain.draft.set("architecture", "x86_64", "os/type@arch")
    domain.draft.set("firmware.kind", "bios", "os (no firmware='efi')")
    for element in domain.root:
        handler = handlers.get(element.tag)
        if handler is not None:
            handler(domain, element)
    read_devices(domain)
    _rest(domain)
    return domain.draft.build()


def _require_pc(domain: Domain) -> None:
    root = domain.root
    kind = domain.attribute(root, "type")
    os_type = root.find("os/type")
    what = (os_type.text or "").strip() if os_type is not None else "hvm"
    arch = os_type.get("arch", "x86_64") if os_type is not None else "x86_64"
    if root.tag != "domain" or what not in ("hvm", "") or arch not in ("x86_64", "i686"):
        raise UnsupportedError(
            f"is no PC with virtual hardware of its own: <type arch={arch!r}>{what[:40]!r}",
            path=domain.source.name,
            field="os/type",
            hint="pack its disks as images, with a config: vmpack pack DISK... --config vm.toml",
        )
    if kind in ("kvm", "qemu"):
        domain.draft.verbatim("domain@type", kind)
    elif kind:
        domain.draft.dropped("domain@type", f"{kind[:20]!r}: the machine becomes one of QEMU's")
    if "id" in root.attrib:
        domain.attribute(root, "id")
        domain.draft.dropped("domain@id", "the number of a run, over when the machine is off")


def _name(domain: Domain, element: Element) -> None:
    domain.draft.name(domain.text(element), "name")


def _uuid(domain: Domain, element: Element) -> None:
    text = domain.text(element).lower()
    if re.fullmatch(r"[0-9a-f]{32}", text):
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    domain.draft.set("uuid", text, "uuid")


def _description(domain: Domain, element: Element) -> None:
    if domain.text(element):
        domain.draft.set("description", domain.text(element), "description")


def _metadata(domain: Domain, element: Element) -> None:
    for child in element:
        if child.tag != f"{{{names.OSINFO_SPACE}}}libosinfo":
            continue
        found = next(iter(child), None)
        url = "" if found is None else found.get("id", "")
        os_id = guest_os.by_libosinfo(url)
        if found is None or os_id is None or len(child) > 1:
            continue
        domain.carrier.take_all(child)
        domain.draft.set("guest-os.id", os_id, "metadata/libosinfo:libosinfo")
        family = guest_os.family_of(os_id)
        if family is not None:
            domain.draft.data["guest-os"]["family"] = family


def bytes_of(domain: Domain, element: Element, default: str = "KiB") -> int | None:
    """A size with its unit, in bytes."""
    unit = domain.attribute(element, "unit") or default
    number = domain.number(domain.text(element))
    if number is None or unit not in _UNITS:
        return None
    return number * _UNITS[unit]


def _memory(domain: Domain, element: Element) -> None:
    size = bytes_of(domain, element)
    if size is None:
        domain.draft.dropped("memory", "not a size")
        return
    rounded = max(MiB, -(-size // MiB) * MiB)
    how = "" if rounded == size else f"{size} bytes, rounded up to a whole MiB"
    domain.draft.set("memory", rounded, "memory", how=how)


def _current_memory(domain: Domain, element: Element) -> None:
    memory = domain.root.find("memory")
    size = bytes_of(domain, element)
    whole = None if memory is None else bytes_of(domain, memory)
    if size == whole:
        domain.carrier.draft.report.kept("currentMemory", "memory")
    else:
        domain.draft.dropped("currentMemory", "the guest gets all of its memory from the start")


def _features(domain: Domain, element: Element) -> None:
    for child in element:
        if child.tag == "acpi" or (child.tag == "smm" and child.get("state") == "on"):
            domain.carrier.take_all(child)
            domain.draft.report.kept(f"features/{child.tag}", "always, or with Secure Boot")


def _clock(domain: Domain, element: Element) -> None:
    offset = domain.attribute(element, "offset") or "utc"
    if offset in ("utc", "localtime"):
        domain.draft.set("rtc.clock", offset, "clock@offset")
        return
    start = domain.number(domain.attribute(element, "start"))
    if offset == "absolute" and start is not None and start < 1 << 32:
        when = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        domain.draft.set("rtc.start", when, "clock@start")
        domain.draft.set("rtc.clock", "utc", "clock@offset")
        return
    for name in ("timezone", "adjustment"):
        if domain.attribute(element, name):
            domain.draft.dropped(f"clock@{name}", "the clock keeps UTC or local time")
    basis = domain.attribute(element, "basis")
    ours = "localtime" if offset == "timezone" or basis == "localtime" else "utc"
    domain.draft.set("rtc.clock", ours, "clock@offset", how=f"{offset[:20]!r} becomes {ours}")


def _sysinfo(domain: Domain, element: Element) -> None:
    if (domain.attribute(element, "type") or "smbios") != "smbios":
        domain.carrier.drop(element, "sysinfo(fwcfg)", "entries for the firmware, not modelled")
        return
    for table, (theirs, fields) in names.SYSINFO.items():
        ours = {entry: field for field, entry in fields.items()}
        for entry in element.findall(f"{theirs}/entry"):
            name = entry.get("name", "")
            label = f"sysinfo/{theirs}/{name[:40]}"
            if name == "uuid":
                domain.carrier.take_all(entry)
                domain.draft.report.kept(label, "uuid")
            elif name in ours and domain.text(entry):
                domain.attribute(entry, "name")
                domain.draft.set(f"smbios.{table}.{ours[name]}", domain.text(entry), label)
    strings = [domain.text(entry) for entry in element.findall("oemStrings/entry")]
    if strings:
        domain.draft.set("smbios.oem-strings", strings, "sysinfo/oemStrings")


def _rest(domain: Domain) -> None:
    """What nothing above has understood: carried where that is safe, dropped where it is not."""
    carrier = domain.carrier
    for element in domain.root:
        name = carrier.prefixes.tag(element.tag)
        if element.tag in names.TOP_CARRIED:
            carrier.carry_whole(element, f"domain/{name}")
        elif element.tag == "metadata":
            _foreign_metadata(domain, element)
        elif element.tag == "os":
            for child in list(element):
                if child.tag not in names.OS_CARRIED and not carrier.is_understood(child):
                    carrier.drop(child, f"os/{child.tag}", "it may name a file of the host")
            carrier.carry(element, "domain/os")
        elif element.tag in names.SECTIONS or element.tag in ("memory", "vcpu"):
            carrier.carry(element, f"domain/{name}")
        elif element.tag in ("name", "uuid", "description", "currentMemory", "devices"):
            continue
        elif element.tag == "sysinfo":
            for entry in element.iter("entry"):
                if not carrier.is_understood(entry):
                    label = f"sysinfo/{entry.get('name', '')[:40]}"
                    carrier.drop(entry, label, "SMBIOS has no such field in a config")
        else:
            carrier.drop(element, f"domain/{name}", why_dropped(element))


def _foreign_metadata(domain: Domain, element: Element) -> None:
    """What other programs keep in the domain: carried where it names nothing of the host."""
    for child in element:
        name = re.sub(r"[^\w.-]", "-", xmlsafe.local(child.tag), flags=re.ASCII)[:60]
        hidden = any(
            names.secret(one, key, value)
            for one in child.iter()
            for key, value in (*one.items(), ("#text", one.text or ""))
        )
        if hidden and not domain.carrier.is_understood(child):
            domain.carrier.drop(child, f"metadata/{name}", "it may name something of the host")
        elif not domain.carrier.is_understood(child):
            domain.carrier.carry_whole(child, f"domain/metadata/{name}")


def why_dropped(element: Element) -> str:
    """Why an element that is not carried is not."""
    space, name = xmlsafe.split(element.tag)
    if space == names.QEMU_SPACE:
        return "words of QEMU's command line may name files of the host"
    if name in ("seclabel", "resource", "idmap", "launchSecurity", "keywrap"):
        return "it is about the host"
    return "vmpack does not know it, and it might name something of the host"
