"""What a domain's XML said and a config cannot: put back into XML that is written for libvirt.

A bundle comes from a stranger, and what is carried in it is text: it is held to the same rules as
when it was read, so that it can name no file, device or socket of the host that defines it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from vmpack.hypervisors.carry import Prefixes
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.pci import PciSlots
from vmpack.hypervisors.xmlsafe import element, legal

if TYPE_CHECKING:
    from vmpack.hypervisors.report import Report
    from vmpack.machine import MachineConfig
    from vmpack.machine.expectation import VerbatimField

SPACES = {names.OSINFO_SPACE: "libosinfo"}
_ADDRESS = re.compile(r"domain/devices/.*/address")


class GivenBack:
    """The carried fields of one config."""

    def __init__(self, config: MachineConfig, report: Report):
        self._config = config
        self._report = report
        self._prefixes = Prefixes(SPACES)
        self._pairs: list[tuple[VerbatimField, Element]] = []
        """Fields, each with its tree: itself, or an element with just the attribute that it is."""
        for field in config.verbatim.get("libvirt", ()):
            tree = self._tree(field)
            why = names.why_not(field.key, tree)
            if why is not None or tree is None:
                self._drop(field, why or "no XML")
            else:
                self._pairs.append((_plain(field), tree))
        topology = [tree for _, tree in self._devices() if _is_a(tree, "pci")]
        self.pci = PciSlots(config, topology, self._addresses())
        self._pairs = [fitted for pair in self._pairs if (fitted := self._settled(*pair))]

    def _drop(self, field: VerbatimField, why: str) -> None:
        self._report.dropped(f"verbatim.libvirt {field.key}", why)

    def _tree(self, field: VerbatimField) -> Element | None:
        place, mark, attribute = field.key.rpartition("@")
        if not mark or "/" in attribute:
            return self._prefixes.parsed(field.value)
        tag = re.sub(r"\(.*", "", place.rpartition("/")[2])
        if attribute == "#text":
            return element(tag, field.value)
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", attribute, re.ASCII):
            return None
        return element(tag, None, {attribute: field.value})

    def has(self, place: str) -> bool:
        """Whether a fragment will be put back at ``place`` (``domain/on_crash``)."""
        return any(field.key == place for field, _ in self._pairs)

    def has_device(self, tag: str, **attributes: str) -> bool:
        """Whether a whole device of this kind will be put back."""
        return any(
            tree.tag == tag and all(tree.get(key) == value for key, value in attributes.items())
            for _, tree in self._devices()
        )

    def take_attribute(self, key: str, allowed: Iterable[str]) -> str | None:
        """The value of a carried attribute that the writer sets itself, and out of the list."""
        for pair in self._pairs:
            field = pair[0]
            if field.key == key:
                self._pairs.remove(pair)
                if field.value in allowed:
                    self._report.kept(f"verbatim.libvirt {key}", "given back")
                    return field.value
                self._drop(field, "not a value that it can have")
                return None
        return None

    def restore(self, places: Mapping[str, Element]) -> None:
        """Put the fields into the elements at ``places``; a part of one is made where it lacks."""
        for field, tree in self._pairs:
            name = f"verbatim.libvirt {field.key}"
            place, mark, attribute = field.key.partition("@")
            target = self._part(places, place if mark else place.rpartition("/")[0])
            if target is None:
                self._drop(field, "what it belonged to is not in this machine")
            elif not mark:
                target.append(tree)
                self._report.kept(name, "given back")
            elif attribute == "#text" and not (target.text or "").strip():
                target.text = legal(field.value)
                self._report.kept(name, "given back")
            elif attribute == "#text" or attribute in target.attrib:
                now = target.text if attribute == "#text" else target.get(attribute)
                self._report.approximated(name, f"is {now!r} now, as the config says")
            else:
                target.set(attribute, legal(field.value))
                self._report.kept(name, "given back")

    @staticmethod
    def _part(places: Mapping[str, Element], place: str) -> Element | None:
        """The element at ``place``, or a part of the one that it lies in."""
        if place in places:
            return places[place]
        above, _, name = place.rpartition("/")
        parent = GivenBack._part(places, above) if above.count("/") >= 2 else places.get(above)
        if parent is None or above == "domain/devices":
            return None
        found = parent.find(name)
        return SubElement(parent, name) if found is None else found

    def _devices(self) -> Iterator[tuple[VerbatimField, Element]]:
        for field, tree in self._pairs:
            if field.key.count("/") == 2 and _is_device(field):
                yield field, tree

    def _addresses(self) -> dict[str, Element]:
        """PCI addresses on other buses than 0, by the place of their device."""
        return {
            field.key.removesuffix("/address"): tree
            for field, tree in self._pairs
            if _ADDRESS.fullmatch(field.key)
        }

    def _settled(self, field: VerbatimField, tree: Element) -> tuple[VerbatimField, Element] | None:
        """The field as it fits the machine; ``None`` for what does not, or is given back already.

        A device whose address is taken goes without it: libvirt finds it another.
        """
        if _ADDRESS.fullmatch(field.key):
            if self.pci.has_topology:
                self._report.kept(f"verbatim.libvirt {field.key}", "given back")
            else:
                self._drop(field, "the addresses are those of the config")
            return None
        if not _is_device(field):
            return field, tree
        has_xhci = any(one.bus == "usb-xhci" for one in self._config.controllers)
        if has_xhci and _is_a(tree, "usb"):
            self._drop(field, "the machine has an xHCI controller instead")
            return None
        if _is_a(tree, "pci"):
            if not self.pci.has_topology:
                self._drop(field, "an address of the buses is taken in this machine")
                return None
            return field, tree
        address = tree.find("address[@type='pci']")
        if address is None or self.pci.claim(address):
            return field, tree
        tree.remove(address)
        self._report.approximated(f"verbatim.libvirt {field.key}", "at another PCI address")
        return field.model_copy(update={"value": self._prefixes.fragment(tree)}), tree


def _plain(field: VerbatimField) -> VerbatimField:
    """What tells a part of a device from its like is for people: there is one of each."""
    place, mark, attribute = field.key.partition("@")
    steps = place.split("/")
    if steps[1:2] != ["devices"] or len(steps) < 4:
        return field
    inner = [re.sub(r"\(.*\)$", "", step) for step in steps[3:]]
    return field.model_copy(update={"key": "/".join([*steps[:3], *inner]) + mark + attribute})


def _is_device(field: VerbatimField) -> bool:
    return field.key.startswith("domain/devices/") and "@" not in field.key


def _is_a(tree: Element, kind: str) -> bool:
    return tree.tag == "controller" and tree.get("type") == kind
