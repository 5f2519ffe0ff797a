"""Several boots made one observation: what was equal in all of them.

Profile: specs/behaviour-v1.md, BHV-MRG.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vmpack.errors import UsageError
from vmpack.verify.bounds import clean
from vmpack.verify.console import MAX_LINES, MAX_TOTAL
from vmpack.verify.layers import LAYERS, LayerName
from vmpack.verify.model import CUT, Facts, Json, Observation

__all__ = ["WHOLE", "member_name", "merge", "same"]

WHOLE = "*"
"""In ``unstable``: the layer was not observed in every boot."""


def same(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal; ``true`` is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def member_name(key: str, member: str) -> str:
    """How a member of an object's fact is named in ``unstable``."""
    return f"{key} > {member}"


def merge(observations: Sequence[Observation]) -> Observation:
    """What the boots had in common, as one observation of so many boots; the first's host.

    Facts that were not equal in all go to ``unstable``; console lines that were not in all are kept
    as ``sometimes``; block reads become ranges. Raises :class:`UsageError` without any boots.
    """
    if not observations:
        raise UsageError("no boots to merge")
    boots = [clean(one) for one in observations]
    layers: dict[LayerName, Facts] = {}
    unstable: dict[LayerName, tuple[str, ...]] = {}
    for row in LAYERS:
        seen = [boot.layers[row.name] for boot in boots if row.name in boot.layers]
        noted = {key for boot in boots for key in boot.unstable.get(row.name, ())}
        if seen and len(seen) == len(boots):
            if row.kind == "console":
                facts, differing = _console(seen), set[str]()
            elif row.kind == "picture":
                facts, differing = _pictures(seen)
            elif row.kind == "reads":
                facts, differing = _ranges(seen)
            else:
                facts, differing = _common(seen)
            layers[row.name] = facts
            noted |= differing
        elif seen:
            noted.add(WHOLE)
        if noted:
            unstable[row.name] = tuple(sorted(noted))
    means = [each for each in boots[0].means if all(each in boot.means for boot in boots)]
    return replace(
        boots[0],
        layers=layers,
        means=tuple(means),
        boots=sum(boot.boots for boot in boots),
        unstable=unstable,
        level=min(boot.level for boot in boots),
        unknown_layers={},
    )


def _keys(seen: Sequence[Facts]) -> dict[str, None]:
    """Every key of any boot, in the order of its first time."""
    return dict.fromkeys(key for facts in seen for key in facts)


def _common(seen: Sequence[Facts]) -> tuple[Facts, set[str]]:
    kept: dict[str, Json] = {}
    differing: set[str] = set()
    for key in _keys(seen):
        if key == CUT:
            kept[key] = max(_count(facts.get(key)) for facts in seen)
            continue
        values = [facts[key] for facts in seen if key in facts]
        if len(values) == len(seen) and all(same(values[0], value) for value in values[1:]):
            kept[key] = values[0]
        elif len(values) == len(seen) and all(isinstance(value, dict) for value in values):
            objects = [value for value in values if isinstance(value, dict)]
            inside, names = _common(objects)
            kept[key] = dict(inside)
            differing |= {member_name(key, name) for name in names}
        else:
            differing.add(key)
    return kept, differing


def _count(value: Json) -> int:
    return value if isinstance(value, int) else 0


def _console(seen: Sequence[Facts]) -> Facts:
    """The lines of all boots, in the first's order, and those that only some had."""
    all_lines = [_texts(facts.get("lines")) for facts in seen]
    sometimes = dict.fromkeys(text for facts in seen for text in _texts(facts.get("sometimes")))
    counts = [Counter(lines) for lines in all_lines]
    left = Counter({text: min(each[text] for each in counts) for text in counts[0]})
    for each in counts:
        sometimes.update(dict.fromkeys(text for text in each if each[text] != left[text]))
    kept: list[Json] = []
    for text in all_lines[0]:
        if left[text] > 0 and text not in sometimes:
            left[text] -= 1
            kept.append(text)
    fitting = _fitting(sometimes)
    facts: dict[str, Json] = {"lines": kept, "sometimes": [*fitting]}
    cut = max(_count(each.get(CUT)) for each in seen) + len(sometimes) - len(fitting)
    return {**facts, CUT: cut} if cut else facts


def _pictures(seen: Sequence[Facts]) -> tuple[Facts, set[str]]:
    """Each picture as the first boot had it; one that is another in each boot is marked."""
    from vmpack.verify.picture import VARIES, compare_pictures

    kept: dict[str, Json] = {}
    differing: set[str] = set()
    for key in _keys(seen):
        facts = [each[key] for each in seen if key in each]
        first = facts[0]
        if key == CUT or len(facts) < len(seen) or not isinstance(first, dict):
            differing.add(key)
            continue
        alike = (compare_pictures(first, each).verdict in ("same", "similar") for each in facts)
        kept[key] = first if all(alike) else {**first, VARIES: True}
    return kept, differing - {CUT}


def _fitting(texts: Iterable[str]) -> list[str]:
    """As many as a layer holds beside the lines of the console."""
    kept: list[str] = []
    total = 0
    for text in texts:
        total += len(text.encode())
        if len(kept) >= MAX_LINES or total > MAX_TOTAL:
            break
        kept.append(text)
    return kept


def _texts(value: Json | None) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _ranges(seen: Sequence[Facts]) -> tuple[Facts, set[str]]:
    """Numbers as ``[lowest, highest]``, also inside objects; what is no number as everywhere."""
    kept: dict[str, Json] = {}
    differing: set[str] = set()
    for key in _keys(seen):
        values = [facts[key] for facts in seen if key in facts]
        bounds = [bound for value in values for bound in _bounds(value)]
        if len(values) < len(seen):
            differing.add(key)
        elif len(bounds) == 2 * len(seen):
            kept[key] = [min(bounds), max(bounds)]
        elif all(isinstance(value, dict) for value in values):
            objects = [value for value in values if isinstance(value, dict)]
            inside, names = _ranges(objects)
            kept[key] = dict(inside)
            differing |= {member_name(key, name) for name in names}
        elif all(same(values[0], value) for value in values[1:]):
            kept[key] = values[0]
        else:
            differing.add(key)
    return kept, differing


def _bounds(value: Json) -> list[int]:
    """``[lowest, highest]`` of a number or a range, nothing of anything else."""
    if type(value) is int:
        return [value, value]
    if isinstance(value, list) and len(value) == 2:
        numbers = [item for item in value if type(item) is int]
        return numbers if len(numbers) == 2 else []
    return []
