"""The kinds of facts that each layer has: the table of specs/behaviour-v1.md, BHV-FACT.

The kind of a fact is its key up to the first colon. A record made at an earlier level lacks the
kinds that came later: they are not compared, instead of being taken for new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmpack.verify.layers import LayerName

__all__ = ["KINDS", "Kind", "kind_of"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact."""

    value: str
    """What it holds, for the table."""
    level: int = 1
    """The level of records since which it is observed."""


KINDS: Mapping[LayerName, Mapping[str, Kind]] = {}


def kind_of(key: str) -> str:
    """The kind of the fact under ``key``."""
    return key.partition(":")[0]
