"""An OVF envelope while it is read: names without prefixes, and what was understood of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from vmpack.hypervisors.carry import Carrier
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.ovf.names import READ_PREFIXES, VMW
from vmpack.hypervisors.virtualbox.names import secret
from vmpack.hypervisors.xmlsafe import local

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Document(Carrier):
    """The envelope ``root`` of the namespace ``space``."""

    def __init__(self, draft: Draft, root: Element, space: str, path: str):
        super().__init__(draft, READ_PREFIXES, secret)
        self.root = root
        self.path = path
        self._space = space
        self.strings = {
            one.get(f"{{{space}}}msgid", ""): (one.text or "").strip()
            for section in children(root, "Strings")
            for one in children(section, "Msg")
        }

    def key(self, element: Element, name: str) -> str:
        """The name by which the element has OVF's attribute ``name``: some leave the prefix out."""
        full = f"{{{self._space}}}{name}"
        return name if full not in element.attrib and name in element.attrib else full

    def attribute(self, element: Element, name: str) -> str:
        """An attribute of OVF's own, understood; absent: empty."""
        return self.take(element, self.key(element, name))

    def peek(self, element: Element, name: str) -> str:
        """The same, and it does not count as understood."""
        return element.get(self.key(element, name), "")

    def structure(self, element: Element, name: str, label: str, detail: str) -> str:
        """An attribute that is written anew, with its line in the report."""
        return self.note(element, label, detail, self.key(element, name))

    def vmware(self, element: Element, name: str) -> str:
        """An attribute of VMware's, understood."""
        return self.take(element, f"{{{VMW}}}{name}")

    def text(self, element: Element) -> str:
        """The element's text, or what its message id stands for in the envelope."""
        msgid = self.peek(element, "msgid")
        value = self.take(element)
        if not value and msgid in self.strings:
            self.attribute(element, "msgid")
            return self.strings[msgid]
        return value


def children(element: Element, name: str) -> Iterator[Element]:
    """The element's children of this local name, of any namespace."""
    return (child for child in element if local(child.tag) == name)


def child(element: Element, name: str) -> Element | None:
    """The first of them."""
    return next(children(element, name), None)


def clean(text: str) -> str:
    """``text`` without the control characters that a config does not hold."""
    return _UNSAFE.sub("", text)


def place_name(text: str) -> str:
    """``text`` as part of a place's name."""
    return re.sub(r"[/@\x00-\x1f\x7f-\x9f]", "_", text)[:100]
