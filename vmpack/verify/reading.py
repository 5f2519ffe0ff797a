"""How many bytes a boot read, and whether that is about as much as recorded.

Profile: specs/behaviour-v1.md, BHV-READ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vmpack.verify.merging import member_name
from vmpack.verify.model import CUT, NOT_OBSERVED, Facts, Json

__all__ = ["SHARE", "SLACK", "compare_reads"]

SHARE = 0.01
"""So much more or less than what was recorded is about the same."""
SLACK = {"bytes": 256 << 10, "operations": 32}
"""So much more or less always is: a guest that reads little has little to share."""


def compare_reads(
    expected: Facts, observed: Facts, unstable: Collection[str]
) -> tuple[list[tuple[str, Json, Json]], str]:
    """Items that are out of range, with both values, and a note on the one that is furthest off."""
    found: list[tuple[str, Json, Json]] = []
    worst, compared = 0.0, 0
    for item, left, right in _numbers("", expected, observed, unstable):
        compared += 1
        low, high = left
        distance = max(low - right[1], right[0] - high, 0)
        worst = max(worst, distance / max(high, 1))
        slack = SLACK.get(item.rpartition(".")[2], 0)
        if distance > max(slack, SHARE * high):
            found.append((item, _shown(left), _shown(right)))
    note = f"within {worst * 100:.1f}% of the record" if compared else "nothing to compare"
    return found, note


def _shown(bounds: tuple[int, int]) -> Json:
    return bounds[0] if bounds[0] == bounds[1] else [*bounds]


def _numbers(
    path: str, left: Facts, right: Facts, unstable: Collection[str]
) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    for key in left:
        inside = member_name(path, key) if path else key
        if key not in right or inside in unstable or key in (CUT, NOT_OBSERVED):
            continue
        one, other = left[key], right[key]
        if isinstance(one, dict) and isinstance(other, dict):
            for item, *bounds in _numbers(inside, one, other, unstable):
                yield f"{key}.{item}", bounds[0], bounds[1]
            continue
        first, second = bounds_of(one), bounds_of(other)
        if first is not None and second is not None:
            yield key, first, second


def bounds_of(value: Json) -> tuple[int, int] | None:
    """Lowest and highest of a number or of a range of two."""
    if type(value) is int:
        return value, value
    if isinstance(value, list) and len(value) == 2:
        low, high = value
        if type(low) is int and type(high) is int:
            return low, high
    return None
