"""What a verification found, host by host: plain data that commands print and reports are made of.

Profile: specs/cli-v1.md, "vmpack verify". The order of what went wrong is fixed: a host that could
not run it, then the first boot that did not end as expected, then a behaviour that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import InfrastructureError, VmpackError
from vmpack.runner.options import EXIT_CODES

if TYPE_CHECKING:
    from vmpack.runner.left_open import LeftOpen
    from vmpack.runner.preflight import Pin
    from vmpack.verify.boot import Boot
    from vmpack.verify.layers import LayerName
    from vmpack.verify.model import Comparison
    from vmpack.verify.record import Record
    from vmpack.verify.replay import ExactResult

__all__ = ["DIFFERS", "UNSTABLE", "HostResult", "RecordSource", "VerifyResult", "error_of"]

DIFFERS = "differs"
"""The kind of a boot that ended as expected and behaved otherwise; it has exit code 1."""

UNSTABLE = "unstable"
"""The kind of boots for a record that were not the same; it has exit code 1, too."""


def error_of(error: VmpackError) -> Mapping[str, object]:
    """The ``error`` of a :class:`HostResult`. Texts are not escaped."""
    return error.as_dict()


@dataclass(frozen=True, slots=True)
class HostResult:
    """What one host did."""

    name: str
    """``here``, or as the hosts file calls it."""
    boots: tuple[Boot, ...] = ()
    """As many as were made: a boot that is not as expected is the last one."""
    comparison: Comparison | None = None
    """With the record: of the first boot that differs, otherwise of the first boot."""
    error: Mapping[str, object] | None = None
    """The error document of what kept this host from it (:meth:`VmpackError.as_dict`)."""
    pins: tuple[Pin, ...] = ()
    """What the config pins, and whether this host has it; empty when that was not looked at."""
    left_open: tuple[LeftOpen, ...] = ()
    """What the pins do not fix here; looked at without a boot only."""
    facts: Mapping[str, object] | None = None
    """``qemu``, ``accel``, ``accel-reason``, ``firmware`` where no boot says them."""
    exact: ExactResult | None = None
    """What the replay of ``--exact`` gave."""
    unstable: Mapping[LayerName, tuple[str, ...]] | None = None
    """Items, by layer, that a host promises to repeat and that differed between boots for a record;
    ``comparison`` then holds the first boot against one that differs."""
    notes: tuple[str, ...] = ()
    """Sentences for people: what could not be imitated, what did not apply."""
    artefacts: tuple[str, ...] = ()
    """Files of this host in the report's folder."""

    @property
    def kind(self) -> str:
        """``expected``, an ending's kind, an error's, :data:`DIFFERS` or :data:`UNSTABLE`."""
        if self.error is not None:
            return str(self.error.get("kind"))
        for boot in self.boots:
            if not boot.good:
                return boot.ending.kind
        if self.unstable:
            return UNSTABLE
        if self.comparison is not None and not self.comparison.good:
            return DIFFERS
        if self.exact is not None and not self.exact.good:
            return DIFFERS
        return "expected"

    @property
    def exit_code(self) -> int:
        """0 as expected, otherwise what ``kind`` stands for."""
        if self.error is not None:
            codes = {str(kind): code for kind, code in EXIT_CODES.items()}
            return codes.get(self.kind, 0) or InfrastructureError.exit_code
        for boot in self.boots:
            if not boot.good:
                return boot.ending.exit_code
        return 0 if self.kind == "expected" else 1

    @property
    def good(self) -> bool:
        """Everything was as expected here."""
        return self.exit_code == 0

    @property
    def host_facts(self) -> Mapping[str, object] | None:
        """What it was run with: ``facts``, or as the first boot has it."""
        if self.facts is not None or not self.boots:
            return self.facts
        boot = self.boots[0]
        seen = boot.observation
        return {
            "qemu": boot.qemu,
            "accel": boot.accel,
            "accel-reason": boot.accel_reason,
            "firmware": None if seen is None else seen.host.firmware,
        }

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a host."""
        facts = self.host_facts
        return {
            "name": self.name,
            "kind": self.kind,
            "exit-code": self.exit_code,
            "error": None if self.error is None else dict(self.error),
            "facts": None if facts is None else dict(facts),
            "pins": [pin.as_dict() for pin in self.pins],
            "left-open": [one.as_dict() for one in self.left_open],
            "boots": [boot.as_dict() for boot in self.boots],
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "unstable": _lists(self.unstable),
            "exact": None if self.exact is None else self.exact.as_dict(),
            "notes": list(self.notes),
            "artefacts": list(self.artefacts),
        }


def _lists(items: Mapping[LayerName, tuple[str, ...]] | None) -> dict[str, list[str]] | None:
    return None if items is None else {name: list(keys) for name, keys in items.items()}


@dataclass(frozen=True, slots=True)
class RecordSource:
    """The record that was compared with, and where it came from."""

    source: str
    """``bundle``: the bundle's own; otherwise the path of the file."""
    record: Record
    same_machine: bool
    """Whether it is of this machine, by ``machine-id``."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        host = self.record.observation.host
        return {
            "source": self.source,
            "machine-id": self.record.machine_id,
            "same-machine": self.same_machine,
            "host": {"qemu": host.qemu, "accel": host.accel, "firmware": host.firmware},
            "boots": self.record.observation.boots,
        }


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the hosts did."""

    filename: str
    id: str
    """Of the bundle that was verified; with ``recorded`` it is the one before."""
    machine_id: str
    name: str | None
    hosts: tuple[HostResult, ...]
    """In the order in which they were asked for."""
    record: RecordSource | None = None
    recorded: str | None = None
    """The file that now holds the new record."""
    unstable: Mapping[LayerName, tuple[str, ...]] | None = None
    """Of a new record: items that were not equal in all of its boots, by layer; it does not
    compare them."""
    unverified: tuple[str, ...] = ()
    """Arguments of QEMU that the user added: what was seen is not the bundle alone."""
    report: tuple[str, ...] = ()
    """Files that were written."""
    notes: tuple[str, ...] = ()
    """Warnings about the whole of it."""

    @property
    def boots(self) -> tuple[Boot, ...]:
        """Those of the first host."""
        return self.hosts[0].boots if self.hosts else ()

    @property
    def worst(self) -> HostResult | None:
        """The first host that is not good, in the order of hosts."""
        return next((host for host in self.hosts if not host.good), None)

    @property
    def kind(self) -> str:
        """``expected``, or that of the first host that is not good."""
        return "expected" if self.worst is None else self.worst.kind

    @property
    def exit_code(self) -> int:
        """0 when every host was as expected, otherwise that of the first one that was not."""
        return 0 if self.worst is None else self.worst.exit_code

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "filename": self.filename,
            "id": self.id,
            "machine-id": self.machine_id,
            "name": self.name,
            "kind": self.kind,
            "exit-code": self.exit_code,
            "unverified": list(self.unverified),
            "record": None if self.record is None else self.record.as_dict(),
            "hosts": [host.as_dict() for host in self.hosts],
            "boots": [boot.as_dict() for boot in self.boots],
            "recorded": self.recorded,
            "unstable": _lists(self.unstable),
            "report": list(self.report),
            "notes": list(self.notes),
        }
