"""``ova.xml`` of an XVA: XML-RPC values, the tables of XAPI's database. See specs/xva.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from vmpack.errors import DamagedError, VmpackError
from vmpack.hypervisors import xmlsafe

MAX_OBJECTS = 4096


@dataclass(frozen=True, slots=True)
class Object:
    """A row: of class ``VM``, ``VBD``, ``VDI``, ``VIF``, ``network``..."""

    kind: str
    ref: str
    """As other rows and the archive's folders call it: ``Ref:3``."""
    snapshot: dict[str, Any]
    """Its fields: strings, booleans, lists and structs."""


def objects(data: bytes, *, path: str) -> list[Object]:
    """The rows in their order. Raises :class:`DamagedError` for what is no ``ova.xml``."""
    root = xmlsafe.parse(data, path=path)
    value = _value(root) if xmlsafe.local(root.tag) == "value" else None
    rows = value.get("objects") if isinstance(value, dict) else None
    if not isinstance(rows, list) or len(rows) > MAX_OBJECTS:
        raise DamagedError(
            "is no ova.xml of an XVA",
            path=path,
            hint="XenServer 5.6 and newer and XCP-ng write the one that is read",
        )
    return [
        Object(str(row.get("class")), str(row.get("id")), row["snapshot"])
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("snapshot"), dict)
    ]


def virtual_sizes(data: bytes) -> dict[str, int]:
    """Bytes of each disk, by its row; none where the config is broken, which its reader says."""
    try:
        found = objects(data, path="ova.xml")
    except VmpackError:
        return {}
    sizes = {}
    for one in found:
        text = str(one.snapshot.get("virtual_size", ""))
        if one.kind == "VDI" and re.fullmatch("[0-9]{1,15}", text):
            sizes[one.ref] = int(text)
    return sizes


def _value(element: Element) -> Any:
    """What a ``<value>`` says; depth is bounded by the parser."""
    inner = next(iter(element), None)
    if inner is None:
        return element.text or ""
    kind, text = xmlsafe.local(inner.tag), inner.text or ""
    if kind == "struct":
        return _struct(inner)
    if kind == "array":
        holder = next((one for one in inner if xmlsafe.local(one.tag) == "data"), inner)
        return [_value(one) for one in holder if xmlsafe.local(one.tag) == "value"]
    if kind == "boolean":
        return text.strip() == "1"
    return text


def _struct(element: Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for member in element:
        parts = {xmlsafe.local(one.tag): one for one in member}
        if "name" in parts and "value" in parts:
            found[parts["name"].text or ""] = _value(parts["value"])
    return found
