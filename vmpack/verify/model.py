"""What a boot showed and how two boots differ: plain data that observers fill and reports show.

Profile: specs/behaviour-v1.md. Everything in it comes from the guest or its QEMU and is JSON: flat
facts, grouped by layer, each under a key of the form ``kind:name`` (``unit:ssh.service``,
``pci:00:03.0``) or just ``kind`` (``uname``). No text in it is safe to print before
:func:`vmpack.binary.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vmpack.verify.layers import LayerName, Promise

__all__ = [
    "CUT",
    "LEVEL",
    "NOT_OBSERVED",
    "Code",
    "Comparison",
    "Difference",
    "Facts",
    "HostFacts",
    "Json",
    "Observation",
]

Json = str | int | bool | None | list["Json"] | dict[str, "Json"]
"""No floats: they do not survive every JSON library unchanged."""

Facts = Mapping[str, Json]
"""Key -> value, of one layer."""

LEVEL = 1
"""Grows with each kind of fact that is added: a record says at which level it was observed, so that
what its vmpack did not know yet is not taken for absent. See :mod:`vmpack.verify.kinds`."""

NOT_OBSERVED = "not-observed"
"""A key of any layer's facts: a list of kinds (``["mount", "nic"]``) that this boot could not be
asked for, so that their absence means nothing."""

CUT = "cut"
"""A key of any layer's facts: the number of facts that were left out because there were too many;
items that only one side has mean nothing then."""

Code = Literal["changed", "missing", "added", "order", "similarity"]
"""How an item differs: another value; expected and not there; there and not expected; in another
place of its sequence; less alike than the layer promises."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a boot was run with: decides what two records promise to have in common."""

    qemu: str
    """Its version, such as ``7.2.22``."""
    accel: str
    firmware: str
    """``sha256:`` of the firmware's code image; the bundle's own one is the same everywhere."""
    name: str = "here"
    """Of the hosts file; for people, never compared."""
    vmpack: str = ""
    changed: tuple[str, ...] = ()
    """What whoever booted it changed on purpose: ``--as vmware``, ``--qemu-arg ...``."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One boot, or what several boots had in common."""

    host: HostFacts
    layers: Mapping[LayerName, Facts]
    """A layer that could not be observed is absent; one with nothing in it is empty."""
    means: tuple[str, ...] = ()
    """How the guest was asked: ``agent``, ``serial-login``, ``cloud-init``; empty: not at all."""
    boots: int = 1
    unstable: Mapping[LayerName, tuple[str, ...]] = field(default_factory=dict)
    """Keys that were not the same in all boots: never compared. ``*``: the whole layer; ``KEY >
    MEMBER``: a member of a value that is an object."""
    level: int = LEVEL
    unknown_layers: Mapping[str, Json] = field(default_factory=dict)
    """Layers that a newer vmpack recorded: kept, never compared."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One item that is not as recorded. Texts are not escaped yet."""

    layer: LayerName
    code: Code
    item: str
    """The fact's key, or what of it is meant: ``unit:ssh.service``, ``login``."""
    expected: Json
    observed: Json
    promise: Promise
    """What the layer promises for this item on this pair of hosts; ``none``: for information."""
    cause: str
    """What usually makes this difference, in one sentence; what to do about it."""

    @property
    def counts(self) -> bool:
        """Whether it makes the verification fail."""
        return self.promise != "none"

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a report."""
        return {
            "layer": self.layer,
            "code": f"{self.layer}-{self.code}",
            "item": self.item,
            "expected": self.expected,
            "observed": self.observed,
            "promise": self.promise,
            "counts": self.counts,
            "cause": self.cause,
        }


Verdict = Literal["same", "differs", "drift", "not-compared"]
"""``drift``: it differs where nothing is promised on this pair of hosts; ``not-compared``: one of
the two has not observed it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A boot held against a record."""

    relation: Literal["same-host", "across"]
    """``same-host``: same QEMU version, accelerator and firmware, wherever that was."""
    verdicts: Mapping[LayerName, Verdict]
    """Each layer of :data:`vmpack.verify.layers.LAYERS`, in its order."""
    differences: tuple[Difference, ...]
    """Those that count first; within that by layer."""
    notes: Mapping[LayerName, str] = field(default_factory=dict)
    """A number or a reason to show beside a verdict: ``0.998 alike``, ``no guest agent``."""
    unknown_layers: tuple[str, ...] = ()
    """Layers of a newer vmpack that this one cannot compare."""

    @property
    def good(self) -> bool:
        """Nothing differs that was promised to be the same."""
        return not any(one.counts for one in self.differences)

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a report."""
        return {
            "good": self.good,
            "relation": self.relation,
            "layers": {
                name: {"verdict": verdict, "note": self.notes.get(name)}
                for name, verdict in self.verdicts.items()
            },
            "unknown-layers": list(self.unknown_layers),
            "differences": [one.as_dict() for one in self.differences],
        }
