"""What a domain's XML said and a config cannot: put back into XML that is written for libvirt.

A bundle comes from a stranger, and what is carried in it is text: it is held to the same rules as
when it was read, so that it can name no file, device or socket of the host that defines it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.hypervisors.carry import Prefixes, restore
from vmpack.hypervisors.libvirt import names
from vmpack.hypervisors.libvirt.pci import PciSlots
from vmpack.hypervisors.xmlsafe import element

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
        self._fields: list[VerbatimField] = []
        self._trees: dict[str, list[Element]] = {}
        for field in config.verbatim.get("libvirt", ()):
            tree = self._tree(field)
            why = names.why_not(field.key, tree)
            if why is not None or tree is None:
                report.dropped(f"verbatim.libvirt {field.key}", why or "no XML")
                continue
            self._fields.append(field)
            self._trees.setdefault(field.key.partition("@")[0], []).append(tree)
        self.pci = PciSlots(config, self._topology(), self._addresses())
        self._settle()

    def _tree(self, field: VerbatimField) -> Element | None:
        """The field as an element: itself, or one that has only the attribute that it is."""
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
        return any(one.key == place for one in self._fields)

    def has_device(self, tag: str, **attributes: str) -> bool:
        """Whether a whole device of this kind will be put back."""
        return any(
            tree.tag == tag and all(tree.get(key) == value for key, value in attributes.items())
            for tree in self._devices()
        )

    def take_attribute(self, key: str, allowed: Iterable[str]) -> str | None:
        """The value of a carried attribute that the writer sets itself, and out of the list."""
        for field in self._fields:
            if field.key == key:
                self._fields.remove(field)
                if field.value in allowed:
                    self._report.kept(f"verbatim.libvirt {key}", "given back")
                    return field.value
                self._report.dropped(f"verbatim.libvirt {key}", "not a value that it can have")
                return None
        return None

    def restore(self, places: Mapping[str, Element]) -> None:
        """Put the fields into the elements at ``places``; one that is not there is made."""
        known = dict(places)

        def make(place: str) -> Element | None:
            parent, _, name = place.rpartition("/")
            if parent not in known or not re.fullmatch(r"[A-Za-z][\w.-]*", name, re.ASCII):
                return None
            found = known[parent].find(name)
            if found is None:
                found = element(name)
                known[parent].append(found)
            known[place] = found
            return found

        restore(known, self._fields, self._prefixes, self._report, make=make)

    def _devices(self) -> Iterable[Element]:
        for field in self._fields:
            steps = field.key.split("/")
            if len(steps) == 3 and steps[1] == "devices" and "@" not in field.key:
                yield from self._trees[field.key]

    def _topology(self) -> list[Element]:
        """PCI controllers besides the root."""
        return [one for one in self._devices() if _is_pci(one)]

    def _addresses(self) -> dict[str, Element]:
        """PCI addresses on other buses than 0, by the place of their device."""
        return {
            field.key.removesuffix("/address"): self._trees[field.key][0]
            for field in self._fields
            if _ADDRESS.fullmatch(field.key)
        }

    def _settle(self) -> None:
        """Take out what does not fit the machine any more, and what the writer gives back."""
        kept = []
        has_xhci = any(one.bus == "usb-xhci" for one in self._config.controllers)
        for field in self._fields:
            if has_xhci and "@" not in field.key and _is_usb(self._trees[field.key][0]):
                self._report.dropped(
                    f"verbatim.libvirt {field.key}", "the machine has an xHCI controller instead"
                )
                continue
            if _ADDRESS.fullmatch(field.key):
                if self.pci.has_topology:
                    self._report.kept(f"verbatim.libvirt {field.key}", "given back")
                else:
                    self._report.dropped(
                        f"verbatim.libvirt {field.key}", "the addresses are those of the config"
                    )
                continue
            tree = self._trees[field.key][0]
            if "@" not in field.key and _is_pci(tree) and not self.pci.has_topology:
                self._report.dropped(
                    f"verbatim.libvirt {field.key}", "an address of it is taken in this machine"
                )
                continue
            kept.append(self._fitted(field, tree))
        self._fields = kept

    def _fitted(self, field: VerbatimField, tree: Element) -> VerbatimField:
        """A device without its address where that is taken: libvirt finds it another."""
        if "@" in field.key or not field.key.startswith("domain/devices/") or _is_pci(tree):
            return field
        address = tree.find("address[@type='pci']")
        if address is None or self.pci.claim(address):
            return field
        tree.remove(address)
        self._report.approximated(f"verbatim.libvirt {field.key}", "at another PCI address")
        return field.model_copy(update={"value": self._prefixes.fragment(tree)})


def _is_pci(tree: Element) -> bool:
    return tree.tag == "controller" and tree.get("type") == "pci"


def _is_usb(tree: Element) -> bool:
    return tree.tag == "controller" and tree.get("type") == "usb"
