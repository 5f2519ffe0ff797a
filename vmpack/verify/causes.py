"""What usually makes a difference, and what to do about it: one or two sentences for people.

Profile: specs/behaviour-v1.md, BHV-CAUSE. The rows are :data:`CAUSES`: plain data, most specific
first.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal

from vmpack.verify.cause_table import CAUSES, OTHERWISE, Cause
from vmpack.verify.layers import LayerName
from vmpack.verify.model import Code, HostFacts, Json

__all__ = ["cause_of"]

Aspect = Literal["qemu", "accel", "firmware", "changed"]
SHOWN = 80
"""Characters of a value within a sentence."""


def cause_of(
    layer: LayerName,
    code: Code,
    item: str,
    expected: Json,
    observed: Json,
    expected_host: HostFacts,
    observed_host: HostFacts,
) -> str:
    """What usually makes this difference, and what to do about it. Safe to print."""
    differing = _differing(expected_host, observed_host)
    row = next(
        (row for row in CAUSES if _fits(row, layer, code, item, expected, observed, differing)),
        None,
    )
    text = row.text if row is not None else OTHERWISE[layer]
    names = {
        "item": item.partition(":")[2] or item,
        "expected": expected,
        "observed": observed,
        "recorded_qemu": expected_host.qemu,
        "qemu": observed_host.qemu,
        "recorded_accel": expected_host.accel,
        "accel": observed_host.accel,
        "changed": ", ".join(sorted({*expected_host.changed} ^ {*observed_host.changed})),
    }
    # One pass: what a guest put into a value is never taken for a place to fill.
    return text.format_map({name: _shown(value) for name, value in names.items()})


def _differing(expected: HostFacts, observed: HostFacts) -> frozenset[str]:
    """Aspects in which the two hosts differ."""
    aspects: tuple[Aspect, ...] = ("qemu", "accel", "firmware", "changed")
    return frozenset(name for name in aspects if getattr(expected, name) != getattr(observed, name))


def _fits(
    row: Cause,
    layer: LayerName,
    code: Code,
    item: str,
    expected: Json,
    observed: Json,
    differing: Collection[str],
) -> bool:
    return (
        layer in row.layers
        and row.code in (None, code)
        and (row.when is None or row.when in differing)
        and any(fnmatchcase(item, glob) for glob in row.items)
        and (row.expected is None or row.expected == expected)
        and (row.observed is None or row.observed == observed)
    )


def _shown(value: object) -> str:
    from vmpack.binary import escape

    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    return escape(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
