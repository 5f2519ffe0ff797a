"""Rows of results, each beside its target, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """What a row is held to: at most ``limit`` (or at least, with ``least``) in ``unit``."""

    limit: float
    unit: str = "x"
    least: bool = False

    def met(self, value: float) -> bool:
        """Whether ``value`` keeps to the target."""
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {figure(self.limit, self.unit)}"


@dataclass(frozen=True)
class Row:
    """One measured figure. ``ours`` and ``theirs`` say in words what was behind it."""

    id: str
    what: str
    value: float
    unit: str
    ours: str = ""
    theirs: str = ""
    target: Target | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` where there is none."""
        return None if self.target is None else self.target.met(self.value)

    @property
    def verdict(self) -> str:
        """``pass``, ``MISS`` or nothing."""
        return {None: "", True: "pass", False: "MISS"}[self.met]

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        target = "" if self.target is None else str(self.target)
        result = figure(self.value, self.unit)
        return (self.what, self.ours, self.theirs, result, target, self.verdict)

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "id": self.id,
            "what": self.what,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
            **self.details,
        }


HEAD = ("what", "vmpack", "beside", "result", "target", "")


def figure(value: float, unit: str) -> str:
    """A value with its unit; ``x`` is a ratio."""
    if unit == "x":
        return f"{value:.3f}"
    digits = 0 if unit == "MiB" else 2
    return f"{value:,.{digits}f} {unit}"


def plain(rows: Sequence[Row]) -> str:
    """The table in columns, for a terminal."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """How many targets are met, and which are not."""
    held = [row for row in rows if row.met is not None]
    missed = [row for row in held if not row.met]
    text = f"{len(held) - len(missed)} of {len(held)} targets met"
    return text + (": missed " + "; ".join(row.what for row in missed) if missed else "")


def noise(rows: Sequence[Row]) -> str:
    """What other processes took of a core while each group was measured; above 0.1, run again."""
    shares = {
        row.what: row.details["others-share"] for row in rows if "others-share" in row.details
    }
    return "other processes took, of one core: " + "; ".join(
        f"{share} ({what})" for what, share in shares.items()
    )
