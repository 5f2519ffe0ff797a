"""The layers of a behaviour record, and what each promises on a pair of hosts.

The table of specs/behaviour-v1.md, which a test holds to this one. Promises rest on measurements
(30 boots of a Debian guest over QEMU 7.2, 10.0 and 11.1; ``make verify-specificity`` repeats them):
an item is moved to a weaker promise only with measurements in ``specs/decisions/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

__all__ = ["BY_HARDWARE", "LAYERS", "Kind", "Layer", "LayerName", "Promise", "layer", "promise"]

LayerName = Literal[
    "ending",
    "milestones",
    "checks",
    "hardware",
    "firmware",
    "guest",
    "tables",
    "picture",
    "console",
    "reads",
]

Promise = Literal["exact", "shared", "similar", "none"]
"""``exact``: equal, item by item; ``shared``: equal where both sides have the item (or, inside a
value that is an object, the key); ``similar``: within the layer's bounds; ``none``: not compared
for the verdict, only shown."""

Kind = Literal["facts", "console", "picture", "reads"]
"""How the layer is compared: fact by fact, or with the means of its own module."""

Pair = tuple[Promise, Promise]
"""On hosts with the same QEMU version, accelerator and firmware; on all others."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the table."""

    name: LayerName
    title: str
    """For people."""
    kind: Kind
    promise: Pair
    items: Mapping[str, Pair] = field(default_factory=dict)
    """Glob over keys -> another promise; the first that matches counts."""


LAYERS: tuple[Layer, ...] = (
    Layer("ending", "ending and events", "facts", ("exact", "exact")),
    Layer("milestones", "milestones", "facts", ("exact", "exact")),
    Layer("checks", "own checks", "facts", ("exact", "exact")),
    Layer(
        "hardware",
        "virtual hardware",
        "facts",
        ("exact", "exact"),
        {
            "cpu-model": ("exact", "shared"),
            "cpu-host": ("exact", "none"),
            "machine-options": ("exact", "shared"),
            "device:pvpanic": ("exact", "none"),
            "device:q35-pcihost.MCFG": ("exact", "none"),
            "device:*": ("exact", "shared"),
        },
    ),
    Layer("firmware", "firmware", "facts", ("exact", "none"), {"kind": ("exact", "exact")}),
    Layer("guest", "what the guest reports", "facts", ("exact", "exact")),
    Layer("tables", "ACPI, DMI and CPUID", "facts", ("exact", "none")),
    Layer("picture", "picture", "picture", ("similar", "similar")),
    Layer("console", "console", "console", ("similar", "similar")),
    Layer("reads", "block reads", "reads", ("similar", "similar")),
)
"""In the order of reports: the nearer to what people notice, the earlier."""

BY_HARDWARE: tuple[LayerName, ...] = tuple(
    one.name for one in LAYERS if one.name not in ("ending", "milestones", "checks")
)
"""What differs on other hardware: these promise nothing once it was changed on purpose."""

_BY_NAME = {one.name: one for one in LAYERS}


def layer(name: LayerName) -> Layer:
    """The row of that name."""
    return _BY_NAME[name]


def promise(name: LayerName, key: str, *, same_host: bool) -> Promise:
    """What the item ``key`` of a layer promises."""
    row = _BY_NAME[name]
    pair = next((pair for glob, pair in row.items.items() if fnmatchcase(key, glob)), row.promise)
    return pair[0] if same_host else pair[1]
