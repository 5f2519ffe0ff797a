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
_VERSIONED = re.compile(r"pc-(q35|i440fx)-[1-9][0-9]?\.[0-9]{1,2}(\.[0-9])?")
_CPU = re.compile(r"[A-Za-z0-9_-]+-v[1-9][0-9]?")


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
        "vcpu": _vcpu,
        "cpu": _cpu,
        "os": _os,
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


def _vcpu(domain: Domain, element: Element) -> None:
    count = domain.number(domain.text(element))
    now = domain.attribute(element, "current")
    if count is None:
        domain.draft.dropped("vcpu", "not a number")
        return
    if now and now != str(count):
        domain.draft.dropped("vcpu@current", "all CPUs are there from the start")
    domain.attribute(element, "placement")
    topology = domain.root.find("cpu/topology")
    if topology is None or _product(domain, topology) != count:
        # libvirt's own choice where it is told none.
        domain.draft.set("cpu.sockets", count, "vcpu")
        domain.draft.data["cpu"] |= {"dies": 1, "cores": 1, "threads": 1}
    else:
        domain.draft.report.kept("vcpu", "cpu topology")


def _product(domain: Domain, topology: Element) -> int:
    product = 1
    for name in ("sockets", "dies", "clusters", "cores", "threads"):
        product *= domain.number(topology.get(name, "1")) or 1
    return product


def _cpu(domain: Domain, element: Element) -> None:
    mode = domain.attribute(element, "mode") or "custom"
    model = element.find("model")
    for name in ("match", "check", "migratable"):
        value = domain.attribute(element, name)
        if value in ("exact", "partial"):
            domain.draft.report.kept(f"cpu@{name}", "pins are exact")
        elif value:
            domain.draft.report.approximated(f"cpu@{name}", "pins are exact")
    topology = element.find("topology")
    if topology is not None:
        _topology(domain, topology)
    if mode == "custom" and model is not None:
        _model(domain, model)
        _flags(domain, element)
        return
    domain.draft.report.approximated(
        "cpu@mode", f"{mode!r} is another CPU on each host: pinned to vmpack's table instead"
    )
    for child in element.findall("feature") + ([] if model is None else [model]):
        label = f"cpu/{child.tag}({child.get('name', '')})"
        domain.carrier.drop(child, label, "it belongs to the CPU of the host")


def _topology(domain: Domain, topology: Element) -> None:
    count = domain.root.find("vcpu")
    wanted = domain.number((count.text or "") if count is not None else "1")
    if wanted is not None and _product(domain, topology) != wanted:
        domain.carrier.drop(topology, "cpu/topology", "it does not multiply to the number of CPUs")
        return
    clusters = domain.number(domain.attribute(topology, "clusters") or "1") or 1
    for name in ("sockets", "dies", "cores", "threads"):
        value = domain.number(domain.attribute(topology, name) or "1") or 1
        how = ""
        if name == "cores" and clusters > 1:
            value, how = value * clusters, f"{clusters} clusters of {value} cores"
        domain.draft.set(f"cpu.{name}", value, f"cpu/topology@{name}", how=how)


def _model(domain: Domain, model: Element) -> None:
    name = domain.text(model)
    domain.attribute(model, "fallback")
    ours = names.CPUS_READ.get(name) or (name if _CPU.fullmatch(name) else None)
    if ours is None:
        domain.draft.report.approximated(
            "cpu/model", f"{name[:60]!r} has no version: pinned to vmpack's table instead"
        )
        return
    domain.draft.set("cpu.model", ours, "cpu/model")
    vendor = domain.attribute(model, "vendor_id")
    if vendor:
        domain.draft.set("cpu.vendor", vendor, "cpu/model@vendor_id")


def _flags(domain: Domain, element: Element) -> None:
    signs = {"require": "+", "force": "+", "disable": "-", "forbid": "-"}
    flags: dict[str, str] = {}
    for child in element.findall("feature"):
        name = names.feature_to_qemu(domain.attribute(child, "name"))
        policy = domain.attribute(child, "policy") or "require"
        label = f"cpu/feature({name[:40]})"
        if policy not in signs:
            domain.draft.dropped(label, f"policy {policy[:20]!r} leaves it to the host")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,31}", name) or len(flags) >= 128:
            domain.draft.dropped(label, "no name of a CPU feature, or one of too many")
        else:
            flags[name] = signs[policy]
            how = f"policy {policy!r}" if policy in ("force", "forbid") else ""
            (domain.draft.report.approximated if how else domain.draft.report.kept)(
                label, how or "cpu.flags"
            )
    if flags:
        found = domain.draft.data.setdefault("cpu", {})
        found["flags"] = [sign + name for name, sign in flags.items()]
    vendor = element.find("vendor")
    if vendor is not None:
        domain.carrier.drop(vendor, "cpu/vendor", "it tells which hosts will do")


def _os(domain: Domain, element: Element) -> None:
    kind = element.find("type")
    if kind is not None:
        domain.text(kind)
        if domain.attribute(kind, "arch") == "i686":
            domain.draft.report.approximated("os/type@arch", "an x86_64 runs i686 guests")
        _machine_type(domain, domain.attribute(kind, "machine"))
    efi = domain.attribute(element, "firmware") == "efi"
    loader = element.find("loader")
    if loader is not None:
        efi = _loader(domain, loader) or efi
    for feature in element.findall("firmware/feature"):
        if feature.get("name") == "secure-boot":
            on = domain.attribute(feature, "enabled") == "yes"
            domain.attribute(feature, "name")
            domain.draft.set("firmware.secure-boot", on, "os/firmware/feature(secure-boot)")
    nvram = element.find("nvram")
    if nvram is not None:
        _nvram(domain, nvram)
    if efi:
        domain.draft.set("firmware.kind", "uefi", "os@firmware")
    else:
        domain.draft.data["firmware"].pop("secure-boot", None)
    smbios = element.find("smbios")
    if smbios is not None:
        mode = domain.attribute(smbios, "mode")
        if mode == "host":
            domain.draft.dropped("os/smbios", "the strings are those of the host")
        else:
            domain.draft.report.kept("os/smbios", "smbios")
    for name in ("kernel", "initrd", "cmdline", "dtb", "init", "initarg", "shim"):
        for child in element.findall(name):
            domain.carrier.drop(child, f"os/{name}", "it starts a kernel of the host, not a disk")


def _machine_type(domain: Domain, machine: str) -> None:
    if _VERSIONED.fullmatch(machine):
        domain.draft.set("machine", machine, "os/type@machine")
        return
    if not machine:
        return
    is_q35 = "q35" in machine
    ours = "pc-q35-7.2" if is_q35 else "pc-i440fx-7.2"
    how = f"{machine[:60]!r} is an alias or one distribution's own: pinned to {ours}"
    domain.draft.set("machine", ours, "os/type@machine", how=how)


def _loader(domain: Domain, loader: Element) -> bool:
    """Whether the loader is UEFI."""
    if domain.text(loader):
        domain.draft.report.approximated("os/loader", "each host has firmware of its own")
    if domain.attribute(loader, "secure") == "yes":
        domain.draft.set("firmware.secure-boot", True, "os/loader@secure")
    for name in ("readonly", "stateless", "format"):
        domain.attribute(loader, name)
    kind = domain.attribute(loader, "type")
    path = (loader.text or "").lower()
    return kind == "pflash" or any(word in path for word in ("ovmf", "edk2", "efi"))


def _nvram(domain: Domain, nvram: Element) -> None:
    from vmpack.hypervisors.base import FileRef

    if domain.attribute(nvram, "template"):
        domain.draft.report.approximated("os/nvram@template", "each host has firmware of its own")
    domain.attribute(nvram, "templateFormat")
    domain.attribute(nvram, "format")
    source = nvram.find("source")
    path = domain.text(nvram) or ("" if source is None else domain.attribute(source, "file"))
    domain.attribute(nvram, "type")
    if path:
        domain.draft.blobs["nvram"] = FileRef(path)
        domain.draft.report.kept("os/nvram", "the blob nvram, where the file is at hand")


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
