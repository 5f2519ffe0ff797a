"""The items of a VirtualHardwareSection, and which of them are the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.document import Document, child, children
from vmpack.hypervisors.ovf.units import number
from vmpack.hypervisors.xmlsafe import local

TAGS = ("Item", "StorageItem", "EthernetPortItem")
_STRUCTURE = {
    "InstanceID": "items are numbered anew",
    "ResourceType": "what the item is",
    "Parent": "the place of the device",
    "AddressOnParent": "the place of the device",
}


@dataclass(slots=True)
class Item:
    """One item: a device, or something that it is configured with."""

    doc: Document
    element: Element
    place: str = ""
    """What carried fields call the device; empty while nothing understands it."""

    @property
    def instance(self) -> str:
        """Its InstanceID."""
        return self.peek("InstanceID")

    @property
    def type(self) -> int:
        """Its ResourceType; -1 for what is no number."""
        found = number(self.peek("ResourceType"))
        return -1 if found is None else found

    @property
    def label(self) -> str:
        """What the report calls it."""
        return f"Item {self.instance[:40]}"

    @property
    def title(self) -> str:
        """What people call it; empty where it has no name."""
        return self.peek("ElementName") or self.peek("Caption")

    def field(self, name: str) -> str:
        """What the report calls a property of it."""
        return f"{self.label}/rasd:{name}"

    def peek(self, name: str) -> str:
        """The text of a property, not counted as understood."""
        found = child(self.element, name)
        return "" if found is None else (found.text or "").strip()

    def value(self, name: str) -> str:
        """The text of a property, understood."""
        found = child(self.element, name)
        return "" if found is None else self.doc.take(found)

    def note(self, name: str, detail: str) -> str:
        """The text of a property that is written anew, with its line of the report."""
        found = child(self.element, name)
        return "" if found is None else self.doc.note(found, self.field(name), detail)

    def choices(self, name: str) -> list[str]:
        """The words of a property, lower-case: alternatives, the best one first."""
        return self.value(name).lower().split()

    def understood(self, place: str) -> None:
        """The item is the device ``place``: its structure is, too."""
        self.place = place
        for name, detail in _STRUCTURE.items():
            self.note(name, detail)


def read(doc: Document, section: Element, configuration: str) -> tuple[list[Item], list[Item]]:
    """``(the machine's items, items of other configurations and bounds)`` in document order."""
    chosen: dict[str, Item] = {}
    others: list[Item] = []
    for element in section:
        if local(element.tag) not in TAGS:
            continue
        item = Item(doc, element)
        words = doc.peek(element, "configuration").split()
        bound = doc.peek(element, "bound")
        if (words and configuration not in words) or bound in ("min", "max"):
            others.append(item)
            continue
        key = item.instance or f"#{len(chosen)}"
        if key in chosen and words:
            # The same item, as this configuration has it.
            others.append(chosen.pop(key))
        elif key in chosen:
            key = f"{key}#{len(chosen)}"
        chosen[key] = item
    return list(chosen.values()), others


def carry(doc: Document, items: list[Item], others: list[Item]) -> None:
    """Carry what is left: of devices their other properties, of the rest all of it."""
    places = {item.instance: item.place for item in items if item.place}
    for item in items:
        if item.place:
            doc.carry(item.element, item.place)
        else:
            _whole(doc, item, places)
    for item in others:
        _whole(doc, item, places)


def _whole(doc: Document, item: Item, places: dict[str, str]) -> None:
    """Numbers of other items become the names of their places: those hold on export, too."""
    for name in ("InstanceID", "Parent"):
        found = child(item.element, name)
        if found is not None and (found.text or "").strip() in places:
            found.text = f"place:{places[(found.text or '').strip()]}"
    tag = local(item.element.tag)
    kind = item.title or names_of(item.type)
    doc.carry_whole(item.element, f"hardware/{tag}({place_text(kind)})")


def place_text(text: str) -> str:
    """``text`` as the remark of a key."""
    return "".join(one if one.isalnum() or one in " .:-" else "_" for one in text)[:60]


def names_of(kind: int) -> str:
    """A word for a resource type."""
    words = {
        names.USB: "USB controller",
        names.SOUND: "sound card",
        names.FLOPPY: "floppy drive",
        names.OTHER: "other device",
    }
    return words.get(kind, f"type {kind}")


def sections(root: Element) -> Iterator[Element]:
    """Every section right in ``root``."""
    yield from (one for one in root if local(one.tag).endswith("Section"))


def info(doc: Document, section: Element) -> None:
    """A section's label."""
    for one in children(section, "Info"):
        doc.note(one, f"{local(section.tag)}/Info", "a label")
