"""The report of an export: no field of the config is left without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmpack.hypervisors.report import Report

__all__ = ["Notes", "leaves"]


def leaves(data: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Path of every field that is set: ``cpu.cores``, ``disk[0].bus``.

    A list of words is one field, and so is what is carried for one hypervisor.
    """
    for key, value in data.items():
        path = f"{before}.{key}" if before else key
        if before == "verbatim":
            yield path
        elif isinstance(value, dict) and value:
            yield from leaves(value, path)
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for number, one in enumerate(value):
                yield from leaves(one, f"{path}[{number}]")
        else:
            yield path


class Notes:
    """Says of each field once what became of it."""

    def __init__(self, data: Mapping[str, Any], hypervisor: str):
        self.report = Report("export", hypervisor)
        self._open = dict.fromkeys(leaves(data))

    def open(self) -> list[str]:
        """The fields of which nothing was said yet."""
        return list(self._open)

    def _take(self, path: str) -> list[str]:
        """The fields at or under ``path`` that nothing was said of yet."""
        found = [
            one for one in self._open if one == path or one.startswith((f"{path}.", f"{path}["))
        ]
        for one in found:
            del self._open[one]
        return found

    def kept(self, path: str, what: str) -> None:
        """The field and those under it are in the result."""
        for one in self._take(path):
            self.report.kept(one, what)

    def changed(self, path: str, how: str) -> None:
        """Something near them is."""
        for one in self._take(path):
            self.report.approximated(one, how)

    def dropped(self, path: str, why: str) -> None:
        """They are not."""
        for one in self._take(path):
            self.report.dropped(one, why)

    def forget(self, path: str) -> None:
        """Somebody else reports it, in other words."""
        self._take(path)

    def rest(self, why: str) -> None:
        """Whatever is left is dropped."""
        for one in self.open():
            self.dropped(one, why)
