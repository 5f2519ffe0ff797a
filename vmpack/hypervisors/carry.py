"""What an XML config says and vmpack does not model: carried along, and put back where it stood.

A reader marks what it has understood; the rest is carried as attributes (``PLACE@name``) and as
fragments of XML (``PLACE/name``), a *place* being the device or section that it stood in. A writer
puts them back into the elements that have those places now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

from vmpack.errors import VmpackError
from vmpack.hypervisors import xmlsafe

if TYPE_CHECKING:
    from vmpack.hypervisors.draft import Draft
    from vmpack.hypervisors.report import Report
    from vmpack.machine.expectation import VerbatimField

_TEXT = "#text"
_AT_START = re.compile(
    r"\s*(?:/(?!VirtualBox/|(?:disk|file)/[^/]+$)\S|\\\\|~/|[A-Za-z]:[\\/]|file:|unix:"
    r"|\[[\w .-]+\] \S*/)",
    re.IGNORECASE,
)
_WITHIN = re.compile(
    r"[\s\"'=,;:](?:/(?:home|root|etc|dev|var|usr|tmp|mnt|media|opt|run|srv|vmfs|Users|Volumes)/"
    r"|[A-Za-z]:\\)"
)


def names_host(value: str) -> bool:
    """Whether a text looks like a path, device, socket or datastore of the host it comes from."""
    return bool(_AT_START.match(value) or _WITHIN.search(value))


class Prefixes:
    """The names that elements and attributes have in a document that vmpack writes.

    ``spaces`` maps namespaces to prefixes; the elements of ``default`` have none.
    """

    def __init__(self, spaces: Mapping[str, str], default: Iterable[str] = ()):
        self._spaces = {**spaces, xmlsafe.XML: "xml"}
        self._default = frozenset(default)

    def declared(self) -> dict[str, str]:
        """The ``xmlns`` attributes of a root."""
        found: dict[str, str] = {}
        for space, prefix in self._spaces.items():
            if prefix != "xml":
                found.setdefault(f"xmlns:{prefix}", space)
        for space in sorted(self._default)[:1]:
            found["xmlns"] = space
        return found

    def tag(self, name: str) -> str:
        """An element's name; one of an unknown namespace stays as it is."""
        space, local = xmlsafe.split(name)
        if not space or space in self._default:
            return local
        return f"{self._spaces[space]}:{local}" if space in self._spaces else name

    def attribute(self, name: str) -> str:
        """An attribute's name."""
        space, local = xmlsafe.split(name)
        if not space:
            return local
        return f"{self._spaces[space]}:{local}" if space in self._spaces else name

    def writable(self, attribute: str) -> bool:
        """Whether an attribute of this name, prefix and all, may stand in the document."""
        found = re.fullmatch(r"(?:([A-Za-z_][\w.-]*):)?([A-Za-z_][\w.-]*)", attribute, re.ASCII)
        return (
            found is not None
            and found[2] != "xmlns"
            and (found[1] is None or found[1] in self._spaces.values())
        )

    def prefixed(self, element: Element) -> Element:
        """A copy whose names have prefixes; what is of unknown namespaces declares them."""
        unknown: dict[str, str] = {}

        def own(name: str) -> str:
            space, local = xmlsafe.split(name)
            if not space:
                return local
            return f"{unknown.setdefault(space, f'x{len(unknown)}')}:{local}"

        def copied(one: Element) -> Element:
            attributes = {own(self.attribute(key)): value for key, value in one.items()}
            made = Element(own(self.tag(one.tag)), attributes)
            made.text = one.text if one.text and one.text.strip() else None
            made.extend(copied(child) for child in one)
            return made

        made = copied(element)
        for space, prefix in unknown.items():
            made.set(f"xmlns:{prefix}", space)
        return made

    def fragment(self, element: Element) -> str:
        """The element as text."""
        return tostring(self.prefixed(element), encoding="unicode")

    def parsed(self, text: str) -> Element | None:
        """What :meth:`fragment` gave, with prefixes; ``None`` for anything else."""
        root = Element("w", self.declared())
        opened = tostring(root, encoding="unicode", short_empty_elements=False)
        try:
            found = xmlsafe.parse((opened.replace("</w>", "") + text + "</w>").encode(), path="")
        except (VmpackError, UnicodeError):
            return None
        if len(found) != 1 or (found.text or "").strip() or (found[0].tail or "").strip():
            return None
        return self.prefixed(found[0])


Secret = Callable[[Element, str, str], str | None]
"""Why the value of an element's attribute (``#text``: its text) must not be carried; or none."""


class Carrier:
    """A document while it is read: what was understood of it, and what is to be carried."""

    def __init__(self, draft: Draft, prefixes: Prefixes, secret: Secret | None = None):
        self.draft = draft
        self.prefixes = prefixes
        self._secret = secret
        self._taken: set[tuple[int, str]] = set()
        self._kept: list[Element] = []

    def take(self, element: Element, attribute: str = _TEXT) -> str:
        """The value of an attribute, or the text; it counts as understood. Absent: empty."""
        self._taken.add((id(element), attribute))
        # An id is an element's own only as long as the element is there.
        self._kept.append(element)
        if attribute == _TEXT:
            return (element.text or "").strip()
        return element.get(attribute, "")

    def note(self, element: Element, label: str, detail: str, attribute: str = _TEXT) -> str:
        """As :meth:`take`, with a line of the report: structure, which is written anew."""
        value = self.take(element, attribute)
        if value:
            name = label if attribute == _TEXT else f"{label}@{self.prefixes.attribute(attribute)}"
            self.draft.report.kept(name, detail)
        return value

    def take_all(self, element: Element) -> None:
        """Everything in the element is understood."""
        for one in element.iter():
            for attribute in (*one.keys(), _TEXT):
                self.take(one, attribute)

    def drop(self, element: Element, label: str, why: str) -> None:
        """The element, whole, has no place."""
        self.take_all(element)
        self.draft.dropped(label, why)

    def carry(self, element: Element, place: str) -> None:
        """Carry what was not understood of the element, and of what is in it, under ``place``."""
        for name in dict(element.items()):
            if (id(element), name) not in self._taken:
                self._attribute(element, name, f"{place}@{self.prefixes.attribute(name)}")
        if (element.text or "").strip() and (id(element), _TEXT) not in self._taken:
            self._attribute(element, _TEXT, f"{place}@{_TEXT}")
        for child in element:
            mark = _mark(child)
            shown = _index(child) if mark and not self._why(child, *mark) else ""
            self.carry_whole(child, f"{place}/{self.prefixes.tag(child.tag)}{shown}")

    def carry_whole(self, element: Element, place: str) -> None:
        """Carry the element as one fragment where nothing of it was understood."""
        untouched = not any(self._is_taken(one) for one in element.iter())
        if not untouched or self._secret_in(element):
            self.carry(element, place)
            return
        text = self.prefixes.fragment(element)
        if len(text) > 8192 and len(element):
            self.carry(element, place)
            return
        self.take_all(element)
        self.draft.verbatim(place, text)

    def is_understood(self, element: Element) -> bool:
        """Whether something of the element itself was understood."""
        return self._is_taken(element)

    def _is_taken(self, element: Element) -> bool:
        return any((id(element), name) in self._taken for name in (*element.keys(), _TEXT))

    def _why(self, element: Element, name: str, value: str) -> str | None:
        if self._secret is not None:
            found = self._secret(element, name, value)
            if found is not None:
                return found
        return "it names a file, device or socket of the host" if names_host(value) else None

    def _secret_in(self, element: Element) -> bool:
        return any(
            self._why(one, name, value)
            for one in element.iter()
            for name, value in (*one.items(), (_TEXT, one.text or ""))
        )

    def _attribute(self, element: Element, name: str, key: str) -> None:
        value = self.take(element, name)
        why = self._why(element, name, value)
        if why is not None:
            self.draft.dropped(key, why)
        else:
            self.draft.verbatim(key, value)


def _mark(element: Element) -> tuple[str, str] | None:
    """The attribute that tells an element from its neighbours, for people: a key or a name."""
    names = ("key", "name", "slot", "position", "id")
    found = ((key, value) for key, value in element.items() if re.split("[}:]", key)[-1] in names)
    return next(found, None)


def _index(element: Element) -> str:
    """That attribute's value as a part of a place's name; empty where there is none."""
    mark = _mark(element)
    return "" if mark is None else "(" + re.sub(r"[^\w .:-]", "_", mark[1])[:60] + ")"


@dataclass(frozen=True, slots=True)
class Rules:
    """How carried elements join those that a writer has made."""

    labels: frozenset[str] = frozenset()
    """Names of elements that are there for people: the carried one replaces the writer's."""
    repeated: frozenset[str] = frozenset()
    """Names of elements that may stand beside others of the same name."""
    places: tuple[str, ...] = ()
    """What the names of places begin with whose carried attributes replace the writer's."""


def restore(
    places: Mapping[str, Element],
    fields: Iterable[VerbatimField],
    prefixes: Prefixes,
    report: Report,
    *,
    rules: Rules = Rules(),
    make: Callable[[str], Element | None] | None = None,
) -> None:
    """Put carried fields back into the elements of their places.

    ``make`` gives the element of a place that is not there, or ``None``. What the writer has set
    already stays; a field without a place is reported as dropped.
    """
    for field in fields:
        place, name, is_attribute = _parted(field.key)
        target = places.get(place)
        if target is None:
            target = _part(places, place)
        if target is None and make is not None:
            target = make(place)
        if target is None:
            report.dropped(field.key, "what it belonged to is not in this machine")
        elif is_attribute:
            _set(target, name, field, prefixes, report, replace=place.startswith(rules.places))
        else:
            _insert(target, field, prefixes, report, rules)


def _part(places: Mapping[str, Element], place: str) -> Element | None:
    """A place that is a part of another one: ``cpu/vmw:CoresPerSocket``."""
    above, _, name = place.rpartition("/")
    if above not in places:
        return None
    return next((one for one in places[above] if f"{one.tag}{_index(one)}" == name), None)


def _parted(key: str) -> tuple[str, str, bool]:
    """``(place, name, whether it is an attribute)`` of a carried field's key."""
    before, mark, attribute = key.rpartition("@")
    if mark and "/" not in attribute:
        return before, attribute, True
    place, _, name = key.rpartition("/")
    return place, name, False


def _set(
    target: Element,
    name: str,
    field: VerbatimField,
    prefixes: Prefixes,
    report: Report,
    *,
    replace: bool,
) -> None:
    if name == _TEXT:
        target.text = xmlsafe.legal(field.value)
    elif not prefixes.writable(name):
        report.dropped(field.key, "an attribute of a namespace that vmpack does not write")
        return
    elif name in target.attrib and not replace and target.get(name) != field.value:
        report.approximated(field.key, f"is {target.get(name)!r} now, as the config says")
        return
    else:
        target.set(name, xmlsafe.legal(field.value))
    report.kept(field.key, "given back")


def _insert(
    target: Element, field: VerbatimField, prefixes: Prefixes, report: Report, rules: Rules
) -> None:
    made = prefixes.parsed(field.value)
    if made is None:
        report.dropped(field.key, "not a fragment of XML any more")
        return
    same = (
        number
        for number, child in enumerate(target)
        if child.tag == made.tag and _index(child) == _index(made)
    )
    at = None if made.tag in rules.repeated else next(same, None)
    if at is None:
        target.append(made)
    elif made.tag in rules.labels:
        target[at] = made
    else:
        report.approximated(field.key, "as the config says now")
        return
    report.kept(field.key, "given back")
