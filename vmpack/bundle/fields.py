"""Reads a JSON object member by member: type, range, and no member left unread."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vmpack.binary import escape
from vmpack.errors import DamagedError, VmpackError

_HINT = "the bundle was written by another program; pack it again with vmpack"


class Fields:
    """The members of one JSON object, called ``name`` in messages."""

    def __init__(self, values: Mapping[str, object], *, path: str, name: str = ""):
        self._values = dict(values)
        self._path = path
        self._name = name

    @classmethod
    def of(cls, value: object, *, path: str, name: str = "") -> Fields:
        """``value``'s members, or :class:`DamagedError` when it is no object."""
        if not isinstance(value, dict):
            raise DamagedError(
                "is not an object", path=path, field=name or "manifest", clause="VMP-MAN-2"
            )
        return cls(value, path=path, name=name)

    def error(self, member: str, message: str, clause: str = "VMP-MAN-2") -> VmpackError:
        """The error that says ``message`` of ``member``."""
        field = f"{self._name}.{member}" if self._name else member
        return DamagedError(message, path=self._path, field=field, clause=clause, hint=_HINT)

    def _take(self, member: str) -> object:
        if member not in self._values:
            raise self.error(member, "is missing")
        return self._values.pop(member)

    def has(self, member: str) -> bool:
        return member in self._values

    def constant(self, member: str, wanted: object) -> None:
        """The member is exactly ``wanted``, of the same type."""
        value = self._take(member)
        if type(value) is not type(wanted) or value != wanted:
            raise self.error(member, f"is not {wanted!r}")

    def integer(self, member: str, low: int, high: int = (1 << 53) - 1) -> int:
        """An integer from ``low`` to ``high``; booleans are none."""
        value = self._take(member)
        if type(value) is not int or not low <= value <= high:
            raise self.error(member, f"is not an integer from {low} to {high}")
        return value

    def text(self, member: str, pattern: re.Pattern[str]) -> str:
        """A string that ``pattern`` matches whole."""
        value = self._take(member)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.error(member, f"does not match {pattern.pattern}")
        return value

    def mapping(self, member: str) -> dict[str, object]:
        """An object, as it is."""
        value = self._take(member)
        if not isinstance(value, dict):
            raise self.error(member, "is not an object")
        return value

    def child(self, member: str) -> Fields:
        """An object, to be read in turn."""
        name = f"{self._name}.{member}" if self._name else member
        return Fields(self.mapping(member), path=self._path, name=name)

    def objects(self, member: str, most: int) -> list[Fields]:
        """An array of at most ``most`` objects."""
        value = self._take(member)
        if not isinstance(value, list) or len(value) > most:
            raise self.error(member, f"is not an array of at most {most} objects")
        prefix = f"{self._name}.{member}" if self._name else member
        return [
            Fields.of(item, path=self._path, name=f"{prefix}[{number}]")
            for number, item in enumerate(value)
        ]

    def extra(self) -> dict[str, object]:
        """The members whose names begin with ``x-``; they are kept and not read."""
        names = [name for name in self._values if name.startswith("x-")]
        return {name: self._values.pop(name) for name in names}

    def done(self) -> None:
        """Every member was read, or :class:`DamagedError` names one that was not."""
        for name in self._values:
            raise self.error(escape(name), "is unknown", "VMP-MAN-2")
