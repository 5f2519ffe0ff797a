"""What usually makes a difference, and what to do about it: one sentence for people.

Profile: specs/behaviour-v1.md, BHV-CAUSE.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from vmpack.verify.layers import LayerName
from vmpack.verify.model import Code, HostFacts, Json

__all__ = ["CAUSES", "Cause", "cause_of"]


@dataclass(frozen=True, slots=True)
class Cause:
    """One row: the first whose ``layer``, ``code`` and ``item`` fit is taken."""

    layer: LayerName
    item: str
    """Glob over items."""
    text: str
    code: Code | None = None
    """``None``: any."""


CAUSES: tuple[Cause, ...] = ()


def cause_of(
    layer: LayerName,
    code: Code,
    item: str,
    expected: Json,
    observed: Json,
    expected_host: HostFacts,
    observed_host: HostFacts,
) -> str:
    """What usually makes this difference, and what to do about it."""
    del expected, observed, expected_host, observed_host
    for row in CAUSES:
        if row.layer == layer and row.code in (None, code) and fnmatchcase(item, row.item):
            return row.text
    return "the machine behaves differently: compare what was changed since it was recorded"
