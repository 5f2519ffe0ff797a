"""Accounts for every field of a config on its way out: none is lost without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmpack.hypervisors.report import Report

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

IN_BUNDLE = "no hypervisor reads it; it stays in the bundle"
OF_VMPACK = ("expected", "verify")
"""Tables that only vmpack has a use for."""


class Account:
    """The fields of ``config``, of which an exporter says one after another what they became.

    A path is a field's (``disk[0].bus``) or a table's (``disk[0]``), which stands for those of its
    fields of which nothing was said before.
    """

    def __init__(self, hypervisor: str, config: MachineConfig):
        self._report = Report("export", hypervisor)
        self._left = dict.fromkeys(_leaves(config, hypervisor))

    def kept(self, path: str, detail: str = "") -> None:
        """It is there, unchanged in meaning."""
        for name in self._take(path):
            self._report.kept(name, detail)

    def approximated(self, path: str, how: str) -> None:
        """Something near it stands in its place."""
        for name in self._take(path):
            self._report.approximated(name, how)

    def dropped(self, path: str, why: str) -> None:
        """It is gone."""
        for name in self._take(path):
            self._report.dropped(name, why)

    def said(self, path: str, how: str = "", detail: str = "") -> None:
        """Kept where ``how`` is empty, approximated otherwise."""
        if how:
            self.approximated(path, how)
        else:
            self.kept(path, detail)

    def finish(self, rest: Mapping[str, str], otherwise: str, own: tuple[str, ...] = ()) -> Report:
        """The report, with what is left as dropped.

        ``rest`` has reasons by the first word of a path (``smbios``), ``otherwise`` the other one.
        ``own`` names what the target has in a way of its own: that is approximated.
        """
        for name in list(self._left):
            top = name.partition(".")[0].partition("[")[0]
            if top == "verbatim":
                self.dropped(name, "it belongs to another hypervisor")
            elif top in OF_VMPACK:
                self.kept(name, IN_BUNDLE)
            elif name.startswith(own):
                self.approximated(name, rest.get(top, otherwise))
            else:
                self.dropped(name, rest.get(top, otherwise))
        return self._report

    @property
    def report(self) -> Report:
        """What was said so far; for what is no field of the config (blobs, verbatim)."""
        return self._report

    def _take(self, path: str) -> Iterator[str]:
        found = [
            name for name in self._left if name == path or name.startswith((f"{path}.", f"{path}["))
        ]
        for name in found:
            del self._left[name]
        return iter(found)


def _leaves(config: MachineConfig, hypervisor: str) -> Iterator[str]:
    """Paths of all fields that are set, in the config's order; not what is ``hypervisor``'s own."""
    data = config.to_json_dict()
    del data["version"]
    carried = data.get("verbatim", {})
    carried.pop(hypervisor, None)
    yield from _paths(data, "")


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _paths(item, f"{path}[{number}]")
    else:
        yield path
