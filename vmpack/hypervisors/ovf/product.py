"""What an OVF says of the product: names, addresses, properties, licences, annotation."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element

from vmpack.hypervisors.ovf.document import Document, child, children, clean, place_name
from vmpack.hypervisors.ovf.names import PROPERTY_TYPES, VMW
from vmpack.hypervisors.xmlsafe import local

_FIELDS = {
    "Product": "product",
    "Vendor": "vendor",
    "Version": "version",
    "FullVersion": "full-version",
    "ProductUrl": "product-url",
    "VendorUrl": "vendor-url",
    "AppUrl": "application-url",
}
_INTEGERS = re.compile(r"(?:u?int|sint|real)(?:8|16|32|64)?")
MOST_EULAS = 8
MOST_TEXT = 65536


def product(doc: Document, section: Element) -> None:
    """The first ProductSection; its class and instance are carried."""
    doc.draft.report.kept("ProductSection", "ova")
    category = ""
    for element in section:
        name = local(element.tag)
        if name == "Info":
            doc.note(element, "ProductSection/Info", "a label")
        elif name in _FIELDS:
            text = " ".join(clean(doc.text(element)).split())
            if text:
                doc.draft.set(f"ova.{_FIELDS[name]}", text, f"ProductSection/{name}")
        elif name == "Category":
            category = clean(doc.text(element))
        elif name == "Property":
            _property(doc, element, category)
    doc.carry(section, "product")


def _property(doc: Document, element: Element, category: str) -> None:
    key = doc.attribute(element, "key")
    label = f"Property {key}"
    kind, how = _type(doc, element)
    values: dict[str, Any] = {"key": key, "type": kind, "category": category or None}
    value_name = doc.key(element, "value")
    if value_name in element.attrib:
        values["value"] = clean(doc.attribute(element, "value"))
    configurable = doc.attribute(element, "userConfigurable").lower()
    if configurable:
        values["user-configurable"] = configurable in ("true", "1")
    for name, member in (("Label", "label"), ("Description", "description")):
        found = child(element, name)
        if found is not None:
            text = clean(doc.text(found))
            values[member] = " ".join(text.split()) if member == "label" else text
            doc.draft.report.kept(f"{label}/{name}", f"ova.property.{member}")
    for name in ("type", "value", "userConfigurable"):
        if doc.key(element, name) in element.attrib:
            doc.draft.report.kept(f"{label}@ovf:{name}", "ova.property")
    given = {name: value for name, value in values.items() if value not in (None, "")}
    if values.get("value") == "":
        given["value"] = ""
    doc.draft.add("ova.property", given, label, how=how)
    doc.carry(element, f"property:{place_name(key)}")


def _type(doc: Document, element: Element) -> tuple[str | None, str]:
    word = doc.attribute(element, "type").lower()
    if doc.attribute(element, "password").lower() in ("true", "1") or word == "password":
        return "password", ""
    qualifiers = f"{{{VMW}}}qualifiers"
    if word == "string" and element.get(qualifiers) == "Ip":
        doc.take(element, qualifiers)
        return "ip", ""
    if word in ("string", "boolean", "int", "ip"):
        return word, ""
    if word == PROPERTY_TYPES["int"]:
        return "int", ""
    if _INTEGERS.fullmatch(word) and not word.startswith("real"):
        return "int", f"of the type int; {word} is stated"
    return "string", f"of the type string; {word} is stated" if word else ""


def eula(doc: Document, section: Element) -> None:
    """A licence to accept."""
    texts = doc.draft.data.get("ova", {}).get("eula", [])
    for element in children(section, "Info"):
        doc.note(element, "EulaSection/Info", "a label")
    found = child(section, "License")
    text = clean(doc.text(found)) if found is not None else ""
    if not text:
        return
    if len(texts) >= MOST_EULAS or len(text) > MOST_TEXT:
        doc.draft.dropped("EulaSection", f"more than {MOST_EULAS} licences, or a very long one")
        return
    doc.draft.set("ova.eula", [*texts, text], "EulaSection/License")
    doc.carry(section, f"eula:{len(texts)}")


def annotation(doc: Document, section: Element) -> None:
    """The machine's annotation."""
    for element in children(section, "Info"):
        doc.note(element, "AnnotationSection/Info", "a label")
    found = child(section, "Annotation")
    text = clean(doc.text(found)) if found is not None else ""
    if text:
        doc.draft.set("ova.annotation", text, "AnnotationSection/Annotation")
    doc.carry(section, "annotation")
