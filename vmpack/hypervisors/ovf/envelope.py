"""The envelope that is written, section by section. Profile: ova.md, OVF-WRITE-*."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from vmpack.hypervisors import guest_os
from vmpack.hypervisors.base import Machine
from vmpack.hypervisors.carry import restore
from vmpack.hypervisors.ovf import devices, names
from vmpack.hypervisors.ovf.document import place_name
from vmpack.hypervisors.ovf.flavour import ESXI, Flavour, Slot
from vmpack.hypervisors.ovf.hardware import network_place
from vmpack.hypervisors.virtualbox.write import maker
from vmpack.hypervisors.vmware.notes import Notes
from vmpack.hypervisors.xmlsafe import element
from vmpack.machine import MachineConfig
from vmpack.machine.expectation import OvfProperty, VerbatimField

_PRODUCT = (
    ("Product", "product"),
    ("Vendor", "vendor"),
    ("Version", "version"),
    ("FullVersion", "full_version"),
    ("ProductUrl", "product_url"),
    ("VendorUrl", "vendor_url"),
    ("AppUrl", "application_url"),
)


@dataclass(slots=True)
class Reference:
    """A file of the package."""

    id: str
    name: str
    disk: str
    """The config's disk; empty for another file."""
    cdrom: bool = False


@dataclass(slots=True)
class Envelope:
    """Builds the document; every section is added once."""

    machine: Machine
    flavour: Flavour
    version: str
    hardware: str
    """VirtualSystemType."""
    slots: Sequence[Slot]
    references: Sequence[Reference]
    notes: Notes
    fields: Sequence[VerbatimField] = ()
    """Carried along from an OVF."""
    settings: tuple[Element, dict[str, Element]] | None = None
    """VirtualBox's own, to stand in the VirtualSystem, and their places."""
    uuids: Mapping[str, str] = field(default_factory=dict)
    """Disk -> UUID, for VirtualBox."""
    items: devices.Items = field(default_factory=lambda: devices.Items("1.1"))
    files: dict[str, Element] = field(default_factory=dict)
    """Name of a file -> its element, whose size is known later."""
    places: dict[str, Element] = field(default_factory=dict)

    @property
    def config(self) -> MachineConfig:
        """The machine's config."""
        return self.machine.config

    def build(self) -> Element:
        """The whole tree but for the sizes of files."""
        root = element("Envelope", None, names.WRITTEN[self.version].declared())
        if self.version == "2.0":
            root.set("ovf:version", "2.0")
        system = self._system()
        root.extend([self._references(), self._disks(), self._networks(), system])
        self.places["Envelope"] = root
        self._restore(root, system)
        return root

    def _restore(self, root: Element, system: Element) -> None:
        section = self.places["hardware"]
        items = self.items
        self.places |= items.places
        restore(
            self.places,
            [one for one in self.fields if one.key != "VirtualSystem@ovf:id"],
            names.WRITTEN[self.version],
            self.notes.report,
            rules=names.RULES,
            make=None if self.settings is None else maker(self.places),
        )
        devices.settle(section, items)
        section[:] = sorted(section, key=_hardware_order)
        system[:] = sorted(system, key=_system_order)
        root[:] = sorted(root, key=_root_order)

    def _references(self) -> Element:
        found = element("References")
        for one in self.references:
            made = element("File", None, {"ovf:href": one.name, "ovf:id": one.id, "ovf:size": "0"})
            found.append(made)
            self.files[one.name] = made
            self.places[f"file:{one.id}"] = made
        self.places["Envelope/References"] = found
        return found

    def _disks(self) -> Element:
        found = _section("DiskSection", "List of the virtual disks used in the package")
        for one in self.references:
            if not one.disk or (one.cdrom and not self.flavour.is_virtualbox):
                continue
            facts = self.machine.disks[one.disk]
            made = element(
                "Disk",
                None,
                {
                    "ovf:capacity": str(facts.virtual_size),
                    "ovf:capacityAllocationUnits": "byte",
                    "ovf:diskId": one.disk,
                    "ovf:fileRef": one.id,
                    "ovf:format": names.ISO_FORMAT if one.cdrom else names.VMDK_FORMAT,
                    "ovf:populatedSize": str(facts.stored_size),
                    "vbox:uuid": self.uuids.get(one.disk),
                },
            )
            found.append(made)
            self.places[f"diskinfo:{one.disk}"] = made
        self.places["Envelope/DiskSection"] = found
        return found

    def _networks(self) -> Element:
        found = _section("NetworkSection", "The networks that cards are on")
        cards = self.config.nics or ()
        for name in dict.fromkeys(devices.network_name(one.network, self.flavour) for one in cards):
            made = element("Network", None, {"ovf:name": name})
            made.append(element("Description", f"The {name} network"))
            found.append(made)
            self.places[network_place(name)] = made
        self.places["Envelope/NetworkSection"] = found
        return found

    def _system(self) -> Element:
        config, notes = self.config, self.notes
        name = config.name or "machine"
        carried = next((one for one in self.fields if one.key == "VirtualSystem@ovf:id"), None)
        if carried is not None:
            notes.report.kept(carried.key, "given back")
        found = element(
            "VirtualSystem",
            None,
            {"ovf:id": name if carried is None else carried.value},
            element("Info", "A virtual machine"),
            element("Name", name),
        )
        notes.kept("name", "VirtualSystem")
        found.append(self._operating_system())
        found.append(self._hardware(name))
        found.extend(self._product())
        found.extend(self._boot_order())
        if self.settings is not None:
            found.append(self.settings[0])
            self.places |= self.settings[1]
        self.places["VirtualSystem"] = found
        return found

    def _operating_system(self) -> Element:
        wanted, notes = self.config.guest_os, self.notes
        row = guest_os.best(wanted.id, wanted.family)
        notes.kept("guest-os.family", "OperatingSystemSection")
        word = row.virtualbox if self.flavour.is_virtualbox else row.vsphere
        read = guest_os.by_virtualbox if self.flavour.is_virtualbox else guest_os.by_vmware
        same = read(word)
        if same is not None and same.id == wanted.id:
            notes.kept("guest-os.id", "OperatingSystemSection")
        notes.changed("guest-os.id", f"{word}, the nearest that there is a name for")
        found = element(
            "OperatingSystemSection",
            None,
            {
                "ovf:id": str(row.cim),
                "vmw:osType": None if self.flavour.is_virtualbox else row.vsphere,
            },
            element("Info", "The kind of installed guest operating system"),
            element("Description", word),
        )
        if self.flavour.is_virtualbox:
            found.append(element("vbox:OSType", row.virtualbox, {"ovf:required": "false"}))
        self.places["os"] = found
        return found

    def _hardware(self, name: str) -> Element:
        system = element(
            "System",
            None,
            None,
            element("vssd:ElementName", "Virtual Hardware Family"),
            element("vssd:InstanceID", "0"),
            element("vssd:VirtualSystemIdentifier", name),
            element("vssd:VirtualSystemType", self.hardware),
        )
        found = _section("VirtualHardwareSection", "Virtual hardware requirements", system)
        if self.config.ova.properties and not any(
            one.key == "hardware@ovf:transport" for one in self.fields
        ):
            found.set("ovf:transport", "com.vmware.guestInfo")
        resources = {
            one.disk: f"ovf:/file/{one.id}"
            if one.cdrom and not self.flavour.is_virtualbox
            else f"ovf:/disk/{one.disk}"
            for one in self.references
            if one.disk
        }
        items = devices.Items(self.version)
        devices.add_all(items, self.config, self.flavour, self.slots, resources, self.notes)
        found.extend(items.elements)
        found.extend(self._settings())
        self.items = items
        self.places |= {"hardware": found, "system": system}
        if self.config.ova.hardware == self.hardware:
            self.notes.kept("ova.hardware", "vssd:VirtualSystemType")
        self.notes.changed("ova.hardware", f"{self.hardware}, which {self.flavour.name} takes")
        return found

    def _settings(self) -> Iterator[Element]:
        """VMware's settings; who does not know them passes over them."""
        config, notes = self.config, self.notes
        if self.flavour.is_virtualbox:
            return
        kind = "efi" if config.firmware.kind == "uefi" else "bios"
        yield _setting("Config", "firmware", kind)
        notes.kept("firmware.kind", "vmw:Config firmware")
        if kind == "efi":
            word = "true" if config.firmware.secure_boot else "false"
            yield _setting("Config", "bootOptions.efiSecureBootEnabled", word)
        notes.kept("firmware.secure-boot", "vmw:Config bootOptions.efiSecureBootEnabled")
        if config.uuid:
            yield _setting("ExtraConfig", "uuid.bios", config.uuid)
            notes.changed("uuid", "vmw:ExtraConfig uuid.bios: ovftool --allowExtraConfig takes it")
        for one in self.references:
            if one.id == "nvram":
                yield _setting("ExtraConfig", "nvram", f"ovf:/file/{one.id}")

    def _product(self) -> Iterator[Element]:
        ova, notes = self.config.ova, self.notes
        given = [(tag, getattr(ova, name)) for tag, name in _PRODUCT]
        if any(value for _, value in given) or ova.properties:
            section = _section("ProductSection", "Information about the installed software")
            section.extend(element(tag, value) for tag, value in given if value)
            section.extend(self._properties(ova.properties))
            self.places["product"] = section
            yield section
        for _, name in _PRODUCT:
            notes.kept(f"ova.{name.replace('_', '-')}", "ProductSection")
        notes.kept("ova.property", "ProductSection")
        text = ova.annotation or self.config.description
        if text:
            section = _section("AnnotationSection", "A human-readable annotation")
            section.append(element("Annotation", text))
            self.places["annotation"] = section
            yield section
        notes.kept("ova.annotation", "AnnotationSection")
        if ova.annotation is None:
            notes.changed("description", "the annotation")
        notes.dropped("description", "the annotation stands in its place")
        for number, licence in enumerate(ova.eula):
            section = _section("EulaSection", "An end-user license agreement")
            section.append(element("License", licence))
            self.places[f"eula:{number}"] = section
            yield section
        notes.kept("ova.eula", "EulaSection")

    def _properties(self, properties: Sequence[OvfProperty]) -> Iterator[Element]:
        category = None
        for one in properties:
            if one.category and one.category != category:
                yield element("Category", one.category)
                category = one.category
            kind = one.type or "string"
            configurable = one.user_configurable
            made = element(
                "Property",
                None,
                {
                    "ovf:key": one.key,
                    "ovf:type": names.PROPERTY_TYPES.get(kind, kind),
                    "ovf:password": "true" if kind == "password" else None,
                    "vmw:qualifiers": "Ip" if kind == "ip" else None,
                    "ovf:value": one.value,
                    "ovf:userConfigurable": None
                    if configurable is None
                    else str(configurable).lower(),
                },
            )
            if one.label:
                made.append(element("Label", one.label))
            if one.description:
                made.append(element("Description", one.description))
            self.places[f"property:{place_name(one.key)}"] = made
            yield made

    def _boot_order(self) -> Iterator[Element]:
        """VMware's, a section for each device."""
        config, notes = self.config, self.notes
        disks = [
            (one.boot, f"disk:{one.id}", "cdrom" if one.kind == "cdrom" else "disk", n)
            for n, one in enumerate(config.disks or ())
            if one.boot
        ]
        cards = [
            (one.boot, f"nic:{n}", "net", n) for n, one in enumerate(config.nics or ()) if one.boot
        ]
        for _, place, kind, number in sorted((*disks, *cards), key=lambda one: one[0] or 0):
            path = f"{'nic' if kind == 'net' else 'disk'}[{number}].boot"
            if self.flavour is not ESXI:
                notes.changed(path, "OVF has no boot order: the first disk is started")
                continue
            notes.kept(path, "vmw:BootOrderSection")
            yield element(
                "vmw:BootOrderSection",
                None,
                {
                    "vmw:instanceId": self.items.instance(place),
                    "vmw:type": kind,
                    "ovf:required": "false",
                },
                element("Info", "Virtual hardware device boot order"),
            )


def _section(tag: str, info: str, *children: Element) -> Element:
    return element(tag, None, None, element("Info", info), *children)


def _setting(tag: str, key: str, value: str) -> Element:
    return element(
        f"vmw:{tag}", None, {"ovf:required": "false", "vmw:key": key, "vmw:value": value}
    )


def _rank(tag: str, order: Sequence[str]) -> int:
    return order.index(tag) if tag in order else len(order)


def _hardware_order(one: Element) -> int:
    order = ("Info", "System", "Item", "StorageItem", "EthernetPortItem", "vmw:Config")
    return _rank(one.tag, order)


def _system_order(one: Element) -> int:
    return 0 if one.tag == "Info" else 1 if one.tag == "Name" else 2


def _root_order(one: Element) -> int:
    """References, sections, the machine, texts."""
    if one.tag == "References":
        return 0
    if one.tag in ("VirtualSystem", "VirtualSystemCollection"):
        return 2
    return 3 if one.tag == "Strings" else 1
