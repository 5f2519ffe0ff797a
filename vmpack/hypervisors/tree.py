"""Configs that are trees of mappings and lists (YAML, property lists): read, carried, put back.

A reader takes what it understands; the rest is carried along as JSON under the place where it
stood, ``place/key/key``. A writer puts it back into the mappings that have those places now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vmpack.hypervisors.carry import names_host

if TYPE_CHECKING:
    from vmpack.hypervisors.draft import Draft
    from vmpack.hypervisors.report import Report
    from vmpack.machine.expectation import VerbatimField

Node = dict[str, Any]
APPEND = "+"
"""The last step of a key whose value is one more element of a list."""


class Tree:
    """A document while it is read: what was understood of it, and what is to be carried."""

    def __init__(self, root: Node, draft: Draft, secret: Callable[[str], bool] = names_host):
        self.root = root
        self.draft = draft
        self._secret = secret
        self._taken: set[int] = set()
        self._kept: list[object] = []
        self._keys: set[tuple[int, str]] = set()
        self._places: dict[int, str] = {}

    def place(self, node: Node, label: str) -> None:
        """What is left in ``node`` is carried under ``label``, wherever it stands."""
        self._places[id(node)] = label
        self._kept.append(node)

    def node(self, *path: str) -> Node:
        """The mapping at ``path`` of the root; an empty one where there is none."""
        at: Any = self.root
        for step in path:
            at = at.get(step) if isinstance(at, dict) else None
        return at if isinstance(at, dict) else {}

    def nodes(self, holder: Node, key: str) -> list[Node]:
        """The mappings in the list ``key``."""
        found = holder.get(key)
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def child(self, holder: Node, key: str) -> Node:
        """The mapping ``key``; an empty one where there is none."""
        found = holder.get(key)
        return found if isinstance(found, dict) else {}

    def take(self, holder: Node, key: str) -> Any:
        """The value of ``key``, understood, or ``None``."""
        self._keys.add((id(holder), key))
        self._kept.append(holder)
        return holder.get(key)

    def text(self, holder: Node, key: str) -> str:
        """The value of ``key`` if it is text or a number; otherwise it stays to be carried."""
        value = holder.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return ""
        return str(self.take(holder, key))

    def number(self, holder: Node, key: str) -> int | None:
        """The value of ``key`` if it is an integer; otherwise it stays to be carried."""
        value = holder.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        self.take(holder, key)
        return value

    def flag(self, holder: Node, key: str) -> bool | None:
        """The value of ``key`` if it is a boolean; otherwise it stays to be carried."""
        value = holder.get(key)
        if not isinstance(value, bool):
            return None
        self.take(holder, key)
        return value

    def drop(self, holder: Node, key: str, where: str, why: str) -> None:
        """Say that ``key``, where it is there, has no place."""
        if key in holder:
            self.take(holder, key)
            self.draft.dropped(where, why)

    def taken(self, holder: Node, key: str) -> bool:
        """Whether ``key`` was understood."""
        return (id(holder), key) in self._keys

    def merge(self, other: Tree) -> None:
        """What ``other`` understood of the same mappings counts here."""
        self._keys |= other._keys
        self._places |= other._places
        self._kept += other._kept

    def carry(self) -> None:
        """Carry all that was not understood."""
        self._walk(self.root, "")

    def _walk(self, node: Node, place: str) -> None:
        for key, value in node.items():
            if (id(node), key) in self._keys:
                continue
            where = f"{place}/{_escaped(key)}" if place else _escaped(key)
            self._value(value, where)

    def _value(self, value: Any, where: str) -> None:
        if isinstance(value, dict) and value:
            label = self._places.get(id(value))
            if label is not None or self._touched(value) or self._is_large(value):
                self._walk(value, label or where)
                return
        if isinstance(value, list) and any(self._touched(one) for one in value):
            for one in value:
                if isinstance(one, dict) and self._touched(one):
                    self._walk(one, self._places.get(id(one), where))
                else:
                    self._leaf(one, f"{where}/{APPEND}")
            return
        self._leaf(value, where)

    def _touched(self, value: Any) -> bool:
        """Whether something in ``value`` was understood, or has a place."""
        if isinstance(value, dict):
            if id(value) in self._places or any((id(value), key) in self._keys for key in value):
                return True
            return any(self._touched(one) for one in value.values())
        return isinstance(value, list) and any(self._touched(one) for one in value)

    def _is_large(self, value: Node) -> bool:
        return len(_json(value)) > 8000 or self._is_secret(value)

    def _is_secret(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(self._secret(key) or self._is_secret(one) for key, one in value.items())
        if isinstance(value, list):
            return any(self._is_secret(one) for one in value)
        return isinstance(value, str) and self._secret(value)

    def _leaf(self, value: Any, where: str) -> None:
        self.draft.verbatim(where, _json(value), secret=self._is_secret(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def restore(
    places: Mapping[str, Node],
    fields: Iterable[VerbatimField],
    report: Report,
    *,
    why_not: Callable[[str, Any], str | None] = lambda _key, _value: None,
) -> None:
    """Put carried fields back; ``places[""]`` is the root, labels are those that a reader gave.

    What the writer has set stays. A field that is no JSON, whose place is gone, or of which
    ``why_not`` says why, is reported as dropped.
    """
    for field in fields:
        first, _, rest = field.key.partition("/")
        target = places.get(first)
        steps = [
            one.replace("~1", "/").replace("~0", "~")
            for one in (rest if target is not None else field.key).split("/")
        ]
        value, why = _parsed(field.value)
        why = why or why_not(field.key, value)
        if target is None and first.endswith(")"):
            why = why or "what it belonged to is not in this machine"
        if why is None:
            _put(places[""] if target is None else target, steps, value, field.key, report)
        else:
            report.dropped(field.key, why)


def _parsed(text: str) -> tuple[Any, str | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError):
        return None, "not JSON any more"


def _put(node: Node, steps: list[str], value: Any, key: str, report: Report) -> None:
    at: Any = node
    for step in steps[:-1]:
        at = at.setdefault(step, [] if steps[-1] == APPEND and step == steps[-2] else {})
        if not isinstance(at, dict | list):
            break
    last = steps[-1]
    if isinstance(at, list) and last == APPEND:
        at.append(value)
        report.kept(key, "given back")
    elif isinstance(at, dict) and isinstance(at.get(last), dict) and isinstance(value, dict):
        at[last] = {**value, **at[last]}
        report.kept(key, "given back, beside what the config says")
    elif not isinstance(at, dict) or last in at:
        report.approximated(key, "as the config says now")
    else:
        at[last] = value
        report.kept(key, "given back")
