"""What became of each field on its way between a hypervisor's config and vmpack's.

Nothing is lost without a word: every field of the source is *kept*, *approximated* (and how) or
*dropped* (and why).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from vmpack.binary import escape
from vmpack.errors import UnsupportedError


class Verdict(Enum):
    """What became of a field."""

    KEPT = "kept"
    APPROXIMATED = "approximated"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Item:
    """One field of the source, by the name that the source's own format gives it."""

    field: str
    verdict: Verdict
    detail: str = ""
    """How it was approximated, why it was dropped, or what it is called now."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        found: dict[str, object] = {"field": self.field, "verdict": self.verdict.value}
        if self.detail:
            found["detail"] = self.detail
        return found


@dataclass(slots=True)
class Report:
    """Items in the order in which they were met."""

    direction: str
    """``import`` or ``export``."""
    hypervisor: str
    items: list[Item] = field(default_factory=list)

    def kept(self, name: str, detail: str = "") -> None:
        """The field is there, unchanged in meaning."""
        self.items.append(Item(escape(name), Verdict.KEPT, escape(detail)))

    def approximated(self, name: str, how: str) -> None:
        """Something near it stands in its place."""
        self.items.append(Item(escape(name), Verdict.APPROXIMATED, escape(how)))

    def dropped(self, name: str, why: str) -> None:
        """It is gone."""
        self.items.append(Item(escape(name), Verdict.DROPPED, escape(why)))

    def count(self, verdict: Verdict) -> int:
        """How many fields met with ``verdict``."""
        return sum(item.verdict is verdict for item in self.items)

    def of(self, verdict: Verdict) -> Iterator[Item]:
        """The items with ``verdict``."""
        return (item for item in self.items if item.verdict is verdict)

    def as_dict(self) -> dict[str, object]:
        """The JSON document: counts and items."""
        return {
            "direction": self.direction,
            "hypervisor": self.hypervisor,
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "items": [item.as_dict() for item in self.items],
        }

    def require_nothing_dropped(self, path: str) -> None:
        """``--strict``: raise :class:`UnsupportedError` where something was dropped."""
        lost = list(self.of(Verdict.DROPPED))
        if lost:
            names = ", ".join(item.field for item in lost[:5])
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise UnsupportedError(
                f"{names}{more} would be dropped, and --strict was given",
                path=path,
                field=lost[0].field,
                hint=f"{lost[0].detail}; without --strict the rest is carried over",
            )
