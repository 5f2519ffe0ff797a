"""Reads an OVF envelope: the one machine in it. Profile: specs/hypervisors/ova.md, OVF-READ-*.

Source: DSP0243 1.1.1 and 2.1.1.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors import guest_os, xmlsafe
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.ovf import items, manifest, names, package, product
from vmpack.hypervisors.ovf.document import Document, child, children, clean
from vmpack.hypervisors.ovf.hardware import Hardware, network_place, settings
from vmpack.hypervisors.ovf.units import number
from vmpack.hypervisors.xmlsafe import local

BLOB = "vmware-nvram"
"""VMware's NVRAM, which is not in OVMF's format: kept for VMware."""
_FIRMWARE = {"bios": "bios", "efi": "uefi"}
_SECURE_BOOT = ("bootOptions.efiSecureBootEnabled", "uefi.secureBoot.enabled")
_SCHEMA = f"{{{names.XSI}}}schemaLocation"


def manifest_name(name: str) -> str:
    """The manifest that belongs to an .ovf."""
    return posixpath.splitext(name)[0] + ".mf"


def wants(config: ConfigSource) -> list[str]:
    """The manifest, where there is one."""
    return [name for name in (manifest_name(config.name),) if name in config.members]


def read(config: ConfigSource) -> Imported:
    """The machine of an .ovf; see :class:`vmpack.hypervisors.base.Hypervisor`."""
    path = config.name
    mf_name = manifest_name(path)
    digests = manifest.parse(config.extra[mf_name], path=mf_name) if mf_name in config.extra else {}
    manifest.require_config(digests, path, config.data, path=path)
    root = xmlsafe.parse(config.data, path=path)
    space = _space(root, path)
    draft = Draft("ovf")
    doc = Document(draft, root, space, path)
    system = _system(doc, path)
    _envelope(doc)
    _signature(draft, config)
    if digests:
        draft.report.kept(mf_name, "every digest is checked")
        draft.manifest = {name: value for name, value in digests.items() if name != path}
    files = package.read(doc, config.members)
    machine = _Machine(doc, files)
    machine.read(system)
    _rest(doc, files, system)
    return draft.build()


def _space(root: Element, path: str) -> str:
    space, name = xmlsafe.split(root.tag)
    if name == "Envelope" and space in (names.OVF1, names.OVF2):
        return space
    if name == "Envelope" and space in names.OLD:
        raise UnsupportedError(
            "is an OVF of version 0.9, from before the standard",
            path=path,
            clause="OVF-READ-1",
            hint="write it again: ovftool OLD.ovf NEW.ovf",
        )
    raise UnsupportedError(
        f"its root is {escape(root.tag[:120])!r}, not the Envelope of OVF 1 or 2",
        path=path,
        clause="OVF-READ-1",
    )


def _system(doc: Document, path: str) -> Element:
    """The one VirtualSystem, in a collection or not."""
    found = list(_systems(doc.root))
    if len(found) == 1:
        return found[0]
    if not found:
        raise DamagedError("has no VirtualSystem", path=path, clause="OVF-READ-4")
    ids = ", ".join(escape(doc.peek(one, "id")[:64]) for one in found[:16])
    raise UnsupportedError(
        f"holds {len(found)} machines: {ids}",
        path=path,
        clause="OVF-READ-4",
        hint="a bundle is one machine: export each by itself, or take the others out of the .ovf",
    )


def _systems(root: Element) -> Iterator[Element]:
    for element in root:
        if local(element.tag) == "VirtualSystem":
            yield element
        elif local(element.tag) == "VirtualSystemCollection":
            yield from _systems(element)


def _envelope(doc: Document) -> None:
    doc.structure(doc.root, "version", "Envelope", "the version that is written")
    doc.note(doc.root, "Envelope", "the language of texts", f"{{{xmlsafe.XML}}}lang")
    if _SCHEMA in doc.root.attrib:
        doc.take(doc.root, _SCHEMA)
        doc.draft.dropped("Envelope@xsi:schemaLocation", "a hint for editors of XML")


def _signature(draft: Draft, config: ConfigSource) -> None:
    cert = posixpath.splitext(config.name)[0] + ".cert"
    if cert in config.members:
        draft.dropped(cert, "a signature over the manifest: vmpack does not check who signed")


class _Machine:
    """The VirtualSystem and what belongs to it."""

    def __init__(self, doc: Document, files: package.Package):
        self.doc = doc
        self.draft = doc.draft
        self.files = files

    def read(self, system: Element) -> None:
        self._name(system)
        for section in children(system, "OperatingSystemSection"):
            self._operating_system(section)
        hardware = child(system, "VirtualHardwareSection")
        if hardware is None:
            raise DamagedError(
                "its machine has no VirtualHardwareSection",
                path=self.doc.path,
                clause="OVF-READ-4",
            )
        if not self._virtualbox(system, hardware):
            self._hardware(system, hardware)
        self._product(system)
        self._q35()

    def _name(self, system: Element) -> None:
        name = child(system, "Name")
        system_id = self.doc.attribute(system, "id")
        text = self.doc.text(name) if name is not None else ""
        source = "VirtualSystem/Name" if text else "VirtualSystem@ovf:id"
        if text or system_id:
            self.draft.name(text or system_id, source)
        if text and system_id and text != system_id:
            self.draft.verbatim("VirtualSystem@ovf:id", clean(system_id))
        for info in children(system, "Info"):
            self.doc.note(info, "VirtualSystem/Info", "a label")

    def _operating_system(self, section: Element) -> None:
        items.info(self.doc, section)
        os_type = section.get(f"{{{names.VMW}}}osType", "")
        virtualbox = child(section, "OSType")
        word = (virtualbox.text or "").strip() if virtualbox is not None else ""
        cim, version = self.doc.peek(section, "id"), self.doc.peek(section, "version")
        found = guest_os.by_vmware(os_type) if os_type else None
        field = "OperatingSystemSection@vmw:osType"
        if found is None and word:
            found, field = guest_os.by_virtualbox(word), "OperatingSystemSection/vbox:OSType"
        if found is None and number(cim) is not None:
            found, field = guest_os.by_cim(int(cim), version), "OperatingSystemSection@ovf:id"
        if found is not None:
            self.draft.set("guest-os.family", found.family, field)
            if found.id != "unknown":
                self.draft.set("guest-os.id", found.id, field)
            # What names the same system is written from it again; the rest is carried.
            if os_type == found.vsphere:
                self.doc.vmware(section, "osType")
            if word == found.virtualbox and virtualbox is not None:
                self.doc.take_all(virtualbox)
            if cim == str(found.cim):
                self.doc.attribute(section, "id")
        self.doc.carry(section, "os")

    def _configuration(self) -> str:
        """The deployment option that is the default: its items are the machine's."""
        section = next(children(self.doc.root, "DeploymentOptionSection"), None)
        found = list(children(section, "Configuration")) if section is not None else []
        if not found:
            return ""
        default = [one for one in found if self.doc.peek(one, "default").lower() in ("true", "1")]
        chosen = self.doc.peek((default or found)[0], "id")
        others = [self.doc.peek(one, "id") for one in found]
        others.remove(chosen)
        self.draft.report.approximated(
            "DeploymentOptionSection",
            f"the machine is {chosen!r}; others are {', '.join(map(repr, others[:8])) or 'none'}",
        )
        return chosen

    def _virtualbox(self, system: Element, hardware: Element) -> bool:
        """VirtualBox's own settings say more than the items, and it goes by them, too."""
        machine = child(system, "Machine")
        if machine is None or not machine.tag.startswith(f"{{{names.VBOX}}}"):
            return False
        from vmpack.hypervisors.virtualbox.read import Machine

        uuids = {
            f"{{{disk.uuid.strip('{}').lower()}}}": (name, disk)
            for name, disk in self.files.disks.items()
            if disk.uuid
        }
        found: dict[str, tuple[str, FileRef]] = {}
        for uuid, (name, _) in uuids.items():
            resource = self.files.resource(f"/disk/{name}", path=self.doc.path)
            if resource is not None:
                found[uuid] = resource
        reader = Machine(self.doc, machine, "vbox:Machine", found)
        if not reader.complete():
            self.doc.draft.report.approximated(
                "vbox:Machine", "its disks are not those of the package: the items are read"
            )
            return False
        self._system_type(hardware)
        everything, others = items.read(self.doc, hardware, self._configuration())
        reader.read()
        for item in (*everything, *others):
            self.doc.take_all(item.element)
            self.draft.report.kept(item.label, "as vbox:Machine has it")
        for disk_id, name in reader.named.items():
            if name in self.files.disks:
                self.doc.carry(self.files.disks[name].element, f"diskinfo:{disk_id}")
        items.info(self.doc, hardware)
        self.doc.carry(hardware, "hardware")
        return True

    def _hardware(self, system: Element, hardware: Element) -> None:
        family = self._system_type(hardware)
        chosen, others = items.read(self.doc, hardware, self._configuration())
        reader = Hardware(self.doc, self.files, family)
        reader.read(chosen)
        items.info(self.doc, hardware)
        self._settings(hardware)
        self._boot_order(system, reader)
        items.carry(self.doc, chosen, others)
        self.doc.carry(hardware, "hardware")

    def _system_type(self, hardware: Element) -> str:
        system = child(hardware, "System")
        if system is None:
            return ""
        family = ""
        kind = child(system, "VirtualSystemType")
        if kind is not None:
            words = self.doc.take(kind).split()
            field = "System/vssd:VirtualSystemType"
            if words:
                family = words[-1]
                how = f"the last one of {', '.join(words)}" if len(words) > 1 else ""
                self.draft.set("ova.hardware", family, field, how=how)
        for name in ("InstanceID", "VirtualSystemIdentifier", "ElementName"):
            found = child(system, name)
            if found is not None:
                self.doc.note(found, f"System/vssd:{name}", "written from the name")
        self.doc.carry(system, "system")
        return family

    def _settings(self, hardware: Element) -> None:
        for key, value, element in settings(hardware, "Config", names.VMW):
            self._setting(key, value, element, f"vmw:Config {key}")
        for key, value, element in settings(hardware, "ExtraConfig", names.VMW):
            self._setting(key, value, element, f"vmw:ExtraConfig {key}")

    def _setting(self, key: str, value: str, element: Element, label: str) -> None:
        word = value.strip().lower()
        if key == "firmware" and word in _FIRMWARE:
            self.draft.set("firmware.kind", _FIRMWARE[word], label)
        elif key in _SECURE_BOOT and word in ("true", "false"):
            if word == "true":
                self.draft.set("firmware.secure-boot", True, label)
            elif self.draft.data.get("firmware", {}).get("kind") != "bios":
                self.draft.set("firmware.secure-boot", False, label)
            else:
                self.draft.report.kept(label, "a BIOS has none")
        elif key == "uuid.bios" and _uuid(value):
            self.draft.set("uuid", _uuid(value), label)
        elif key == "nvram" and self._nvram(value, label):
            pass
        else:
            return
        self.doc.take_all(element)

    def _nvram(self, value: str, label: str) -> bool:
        found = self.files.resource(value, path=self.doc.path) if value.startswith("ovf:") else None
        if found is None:
            return False
        self.draft.blobs[BLOB] = found[1]
        self.draft.report.approximated(label, "VMware's own format: kept for VMware, not started")
        return True

    def _boot_order(self, system: Element, reader: Hardware) -> None:
        """``vmw:BootOrderSection``: one section for each device, in their order."""
        key = f"{{{names.VMW}}}instanceId"
        place = 0
        for section in children(system, "BootOrderSection"):
            device = reader.boot.get(section.get(key, ""))
            if device is None or "boot" in device:
                continue
            place += 1
            device["boot"] = place
            self.doc.take_all(section)
            self.draft.report.kept(f"vmw:BootOrderSection {section.get(key)}", "the boot order")

    def _product(self, system: Element) -> None:
        for parent in (system, self.doc.root):
            for section in children(parent, "ProductSection"):
                if "ProductSection" not in self._seen:
                    self._seen.add("ProductSection")
                    product.product(self.doc, section)
            for section in children(parent, "EulaSection"):
                product.eula(self.doc, section)
            for section in children(parent, "AnnotationSection"):
                if "AnnotationSection" not in self._seen:
                    self._seen.add("AnnotationSection")
                    product.annotation(self.doc, section)

    @property
    def _seen(self) -> set[str]:
        found: set[str] = self.__dict__.setdefault("_sections", set())
        return found

    def _q35(self) -> None:
        """Secure Boot needs q35, which has no IDE: drives on it go to SATA."""
        if not self.draft.data.get("firmware", {}).get("secure-boot"):
            return
        for number_of, disk in enumerate(self.draft.data.get("disk", ())):
            if disk.get("bus") == "ide":
                for name in ("controller", "port", "unit"):
                    disk.pop(name, None)
                disk["bus"] = "sata"
                self.draft.report.approximated(
                    f"disk[{number_of}].bus", "on SATA: a machine with Secure Boot has no IDE"
                )


def _uuid(text: str) -> str | None:
    """A UUID, in its usual form or in that of a VMX (16 bytes with spaces)."""
    digits = "".join(one for one in text.lower() if one in "0123456789abcdef")
    if len(digits) != 32 or len(text) > 64:
        return None
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _rest(doc: Document, files: package.Package, system: Element) -> None:
    """Networks, files that nothing uses, and every section that is not understood."""
    for section in children(doc.root, "NetworkSection"):
        items.info(doc, section)
        for element in children(section, "Network"):
            name = doc.structure(element, "name", "Network", "the networks that cards are on")
            doc.carry(element, network_place(name))
    for name, disk in files.disks.items():
        if f"disk:{name}" not in files.used:
            doc.drop(disk.element, f"Disk {name}", "no drive of the machine has it")
    for name, element in files.elements.items():
        if f"file:{name}" not in files.used:
            doc.drop(element, f"File {files.files[name].name}", "no drive of the machine has it")
        else:
            doc.carry(element, f"file:{name}")
    for section in children(system, "Machine"):
        doc.carry(section, "vbox:Machine")
    doc.carry(system, "VirtualSystem")
    doc.carry(doc.root, "Envelope")
