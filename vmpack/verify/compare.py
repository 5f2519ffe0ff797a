"""A boot held against a record, layer by layer, each item with what it promises.

Profile: specs/behaviour-v1.md, BHV-CMP. Pure: two observations in, a comparison out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vmpack.verify.bounds import clean
from vmpack.verify.causes import cause_of
from vmpack.verify.kinds import KINDS, kind_of
from vmpack.verify.layers import BY_HARDWARE, LAYERS, Layer, LayerName, Promise, promise
from vmpack.verify.merging import WHOLE, member_name, same
from vmpack.verify.model import (
    CUT,
    NOT_OBSERVED,
    Code,
    Comparison,
    Difference,
    Facts,
    HostFacts,
    Json,
    Observation,
    Verdict,
)

__all__ = ["MAX_DIFFERENCES", "compare", "relation_of"]

MAX_DIFFERENCES = 200
"""Of one layer; the rest is counted."""

ASKED: frozenset[LayerName] = frozenset({"guest", "tables"})
"""What the guest itself tells."""

ORDER = "order"
"""The key of a list whose elements are items, in an order that is promised."""

Relation = Literal["same-host", "across"]
Found = tuple[Code, str, Json, Json, Promise]
"""Code, item, expected and observed value, promise."""


def relation_of(expected: HostFacts, observed: HostFacts) -> Relation:
    """``same-host``: the same QEMU version, accelerator and firmware, wherever that was."""
    pairs = (
        (expected.qemu, observed.qemu),
        (expected.accel, observed.accel),
        (expected.firmware, observed.firmware),
    )
    return "same-host" if all(one == other for one, other in pairs) else "across"


def compare(expected: Observation, observed: Observation) -> Comparison:
    """Hold ``observed`` against ``expected``, as recorded.

    Every layer gets a verdict; what one side has not observed is not compared, with a note. Takes
    any observation, however it came about: time and result are bounded.
    """
    pair = _Pair(clean(expected), clean(observed))
    verdicts: dict[LayerName, Verdict] = {}
    notes: dict[LayerName, str] = {}
    found: list[Difference] = []
    for row in LAYERS:
        result = pair.layer(row)
        differences = [pair.difference(row.name, each) for each in result.found]
        verdicts[row.name] = _verdict(result, differences)
        if result.note:
            notes[row.name] = result.note
        found += differences
    silent = _guest_fell_silent(pair, found)
    if silent is not None:
        verdicts["guest"] = "differs" if silent.counts else "drift"
        found.append(silent)
    place = {row.name: number for number, row in enumerate(LAYERS)}
    found.sort(key=lambda each: (not each.counts, place[each.layer]))
    unknown = dict.fromkeys([*expected.unknown_layers, *observed.unknown_layers])
    return Comparison(pair.relation, verdicts, tuple(found), notes, tuple(unknown))


@dataclass(frozen=True, slots=True)
class _Result:
    """What comparing one layer gave; ``compared`` is false where there was nothing to compare."""

    found: Sequence[Found] = ()
    note: str = ""
    compared: bool = True


def _verdict(result: _Result, differences: Sequence[Difference]) -> Verdict:
    if any(each.counts for each in differences):
        return "differs"
    if differences:
        return "drift"
    return "same" if result.compared else "not-compared"


class _Pair:
    """Two observations, and what they promise to have in common."""

    def __init__(self, expected: Observation, observed: Observation) -> None:
        self.expected = expected
        self.observed = observed
        self.relation: Relation = relation_of(expected.host, observed.host)
        self.changed = expected.host.changed != observed.host.changed

    def promise(self, name: LayerName, key: str) -> Promise:
        if self.changed and name in BY_HARDWARE:
            return "none"
        return promise(name, key, same_host=self.relation == "same-host")

    def difference(self, name: LayerName, found: Found) -> Difference:
        code, item, expected, observed, promised = found
        hosts = self.expected.host, self.observed.host
        cause = cause_of(name, code, item, expected, observed, *hosts)
        return Difference(name, code, item, expected, observed, promised, cause)

    def layer(self, row: Layer) -> _Result:
        sides = self.expected.layers.get(row.name), self.observed.layers.get(row.name)
        unstable = self.unstable(row.name)
        if sides[0] is None or sides[1] is None:
            return _Result(compared=False, note=self._absent(row.name, unstable))
        if row.kind == "console":
            return _console(self, sides[0], sides[1])
        if row.kind == "picture":
            return _pictures(self, sides[0], sides[1], unstable)
        if row.kind == "reads":
            return _reads(self, sides[0], sides[1], unstable)
        return _facts(self, row.name, sides[0], sides[1], unstable)

    def unstable(self, name: LayerName) -> frozenset[str]:
        noted = self.expected.unstable.get(name, ()), self.observed.unstable.get(name, ())
        return frozenset(noted[0]).union(noted[1])

    def _absent(self, name: LayerName, unstable: frozenset[str]) -> str:
        if WHOLE in unstable:
            return "not observed in every boot"
        if name in self.observed.layers:
            return "not in the record"
        return "not observed in this boot" if name in self.expected.layers else "not observed"


def _guest_fell_silent(pair: _Pair, found: Sequence[Difference]) -> Difference | None:
    """The record's guest could be asked, this one could not, though it came as far."""
    gone = "guest" in pair.expected.layers and "guest" not in pair.observed.layers
    if not gone or not pair.expected.means or WHOLE in pair.unstable("guest"):
        return None
    if any(each.layer not in BY_HARDWARE for each in found):
        return None
    means: list[Json] = [*pair.expected.means]
    promised = pair.promise("guest", "means")
    return pair.difference("guest", ("missing", "means", means, None, promised))


def _facts(
    pair: _Pair, name: LayerName, left: Facts, right: Facts, unstable: frozenset[str]
) -> _Result:
    skipped = _not_compared(pair, name, left, right)
    one_sided = not (left.get(CUT) or right.get(CUT))
    compared = 0
    found: list[Found] = []
    for key in dict.fromkeys([*left, *right]):
        if key in unstable or key in (CUT, NOT_OBSERVED) or kind_of(key) in skipped:
            continue
        promised = pair.promise(name, key)
        compared += 1
        if key in left and key in right:
            values = [
                _of_member(pair, name, key, each)
                for each in _values(key, left[key], right[key], promised, unstable, key)
            ]
            # A milestone is a fact of its own as well: that one tells that it is missing.
            names = {other.partition(":")[2] for other in (*left, *right)} if key == ORDER else ()
            found += [each for each in values if each[0] == "order" or each[1] not in names]
        elif one_sided and promised != "shared":
            found.append(_one_sided(key, left, right, promised))
    note = f"{compared} compared"
    if skipped:
        note += f", not {', '.join(sorted(skipped)[:5])}"
    if len(found) > MAX_DIFFERENCES:
        note += f", {len(found) - MAX_DIFFERENCES} more differences"
    return _Result(found[:MAX_DIFFERENCES], note)


def _of_member(pair: _Pair, name: LayerName, key: str, found: Found) -> Found:
    """A member of a value may promise nothing where the value itself promises something."""
    code, item, expected, observed, promised = found
    if item != key and item.startswith(f"{key}.") and pair.promise(name, item) == "none":
        promised = "none"
    return code, item, expected, observed, promised


def _not_compared(pair: _Pair, name: LayerName, left: Facts, right: Facts) -> frozenset[str]:
    """Kinds that one side could not have, whatever the machine is like."""
    known = KINDS.get(name, {})
    lowest = min(pair.expected.level, pair.observed.level)
    kinds = {kind for kind, row in known.items() if row.level > lowest}
    for facts in (left, right):
        listed = facts.get(NOT_OBSERVED)
        kinds |= (
            {each for each in listed if isinstance(each, str)}
            if isinstance(listed, list)
            else set()
        )
    both = {kind_of(key) for key in left} & {kind_of(key) for key in right}
    one_sided = {kind_of(key) for key in [*left, *right]} - both
    if name in ASKED and pair.expected.means != pair.observed.means:
        # Another means does not tell the same of a guest.
        kinds |= one_sided
    if pair.expected.level != pair.observed.level:
        # A newer vmpack saw what this one does not know.
        kinds |= one_sided - known.keys()
    return frozenset(kinds)


def _one_sided(key: str, left: Facts, right: Facts, promised: Promise) -> Found:
    if key in left:
        return "missing", key, left[key], None, promised
    return "added", key, None, right[key], promised


def _values(
    item: str,
    left: Json,
    right: Json,
    promised: Promise,
    unstable: Collection[str],
    path: str,
) -> Iterator[Found]:
    """The differences between two values of one item; those of objects member by member."""
    if same(left, right):
        return
    if isinstance(left, dict) and isinstance(right, dict):
        yield from _members(item, left, right, promised, unstable, path)
    elif item == ORDER and isinstance(left, list) and isinstance(right, list):
        yield from _order(left, right, promised)
    else:
        yield "changed", item, left, right, promised


def _members(
    item: str,
    left: dict[str, Json],
    right: dict[str, Json],
    promised: Promise,
    unstable: Collection[str],
    path: str,
) -> Iterator[Found]:
    for key in dict.fromkeys([*left, *right]):
        inside = member_name(path, key)
        if inside in unstable:
            continue
        name = f"{item}.{key}"
        if key in left and key in right:
            yield from _values(name, left[key], right[key], promised, unstable, inside)
        elif promised != "shared":
            code, _, expected, observed, _ = _one_sided(key, left, right, promised)
            yield code, name, expected, observed, promised


def _order(left: list[Json], right: list[Json], promised: Promise) -> Iterator[Found]:
    """Two sequences of items: those that only one has, or else the first that stands elsewhere."""
    texts = [[str(item) for item in side] for side in (left, right)]
    missing = Counter(texts[0]) - Counter(texts[1])
    added = Counter(texts[1]) - Counter(texts[0])
    for text in missing:
        yield "missing", text, text, None, promised
    for text in added:
        yield "added", text, None, text, promised
    common = [
        [text for text in side if text not in missing and text not in added] for side in texts
    ]
    first = next((one for one, other in zip(*common, strict=False) if one != other), None)
    if first is not None:
        yield "order", first, left, right, promised


def _console(pair: _Pair, left: Facts, right: Facts) -> _Result:
    from vmpack.verify.console import compare_console, renewed

    if pair.expected.level != pair.observed.level:
        # One of them was made with other rules.
        left, right = renewed(left), renewed(right)
    result = compare_console(left, right)
    note = f"{result.multiset:.3f} alike, {result.sequence:.3f} in order"
    promised = pair.promise("console", "lines")
    missing: list[Json] = [text for side, text in result.differing if side == "-"]
    added: list[Json] = [text for side, text in result.differing if side == "+"]
    found: list[Found] = []
    if not result.same_lines:
        found.append(("similarity", "lines", missing, added, promised))
    elif not result.same_order:
        found.append(("order", "lines", None, None, promised))
    return _Result(found, note)


def _pictures(pair: _Pair, left: Facts, right: Facts, unstable: frozenset[str]) -> _Result:
    from vmpack.verify.picture import compare_pictures

    found: list[Found] = []
    notes: list[str] = []
    compared = False
    names = [name for name in left if name in right and name not in unstable]
    for name in names:
        if name in (CUT, NOT_OBSERVED):
            continue
        result = compare_pictures(left[name], right[name])
        notes.append(f"{name}: {result.note}")
        compared = compared or result.verdict != "not-compared"
        if result.verdict == "differs":
            sides = _shown(left[name]), _shown(right[name])
            found.append(("similarity", name, *sides, pair.promise("picture", name)))
    return _Result(found, "; ".join(notes[:5]), compared=compared)


def _shown(fact: Json) -> Json:
    """A picture's fact without the picture."""
    if not isinstance(fact, dict):
        return fact
    return {key: fact[key] for key in ("sha256", "width", "height", "text") if key in fact}


def _reads(pair: _Pair, left: Facts, right: Facts, unstable: frozenset[str]) -> _Result:
    from vmpack.verify.reading import compare_reads

    found: list[Found] = []
    items, note = compare_reads(left, right, unstable)
    for item, expected, observed in items:
        found.append(("similarity", item, expected, observed, pair.promise("reads", item)))
    return _Result(found[:MAX_DIFFERENCES], note)
