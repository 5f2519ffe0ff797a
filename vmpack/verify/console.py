"""A boot's console as lines that two boots have in common, and how alike two of them are.

Profile: specs/behaviour-v1.md, BHV-CON: the table of rules there is :data:`RULES`. Time and memory
are bounded whatever the guest prints: no step is slower than sorting.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vmpack.runner.milestones import Lines
from vmpack.verify.model import CUT, Facts, Json

__all__ = [
    "MULTISET",
    "RULES",
    "SEQUENCE",
    "ConsoleResult",
    "Rule",
    "compare_console",
    "console_facts",
    "normal",
    "renewed",
]

MULTISET = 0.97
"""Jaccard index of the lines as multisets: this or more is alike."""
SEQUENCE = 0.93
"""Share of the lines that stand in the same order: this or more is alike."""
SLACK = 6
"""So many lines may differ, or stand elsewhere, whatever the shares say: of 40 lines one is more
than 2%. They may be :data:`SLACK_SHARE` of all at most."""
SLACK_SHARE = 0.25

MAX_LINES = 8000
MAX_CHARS = 400
"""Characters of a normalised line; a longer one is cut."""
MAX_TOTAL = 400_000
"""Bytes of all lines that are kept: with as many that come only sometimes, a layer still holds
them."""
SHOWN = 40
"""Differing lines that are named."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One step of making lines comparable."""

    name: str
    kind: Literal["cut", "replace", "drop"]
    """``cut``: a new line begins before the match; ``replace``: the match becomes
    ``replacement``; ``drop``: the whole line goes."""
    pattern: re.Pattern[str]
    replacement: str = ""


RULES: tuple[Rule, ...] = (
    Rule("glued", "cut", re.compile(r"(?<=.)(?=\[ {0,4}\d{1,8}\.\d{6}\] )")),
    Rule("prompt", "cut", re.compile(r"(?<=\blogin: )(?=\S)")),
    Rule("timestamp", "replace", re.compile(r"^\[ {0,4}\d{1,8}\.\d{6}\](?:\[ *[TC]\d+\])? ?")),
    Rule(
        "job-animation", "drop", re.compile(r"^\[[ *]+\] |\bA (?:start|stop) job is running for ")
    ),
    Rule("clock", "drop", re.compile(r"\b(?:hrtimer|tsc|clocksource|sched_clock)\b", re.I)),
    Rule("apic-calibration", "drop", re.compile(r"\bAPIC delta\b|\bcalibrat", re.I)),
    Rule("cpu-time", "drop", re.compile(r": Consumed (?:[\d.]{1,12}[a-z]{1,3} ){1,4}CPU time")),
    Rule("random", "drop", re.compile(r"\bcrng\b|^random: ")),
    Rule("dmi", "drop", re.compile(r"^(?:SMBIOS|DMI)[: ]")),
    Rule("acpi-address", "drop", re.compile(r"^ACPI: .*\b0x[0-9A-Fa-f]{8,16}\b")),
    Rule("irq-override", "drop", re.compile(r"\bINT_SRC_OVR\b|\bIRQ ?\d+ (?:used by )?override\b")),
    Rule(
        "memory-map",
        "drop",
        re.compile(
            r"^ *(?:BIOS-e820|efi|node +\d+|On node \d+, zone|PM: hibernation: Registered nosave)\b"
        ),
    ),
    Rule(
        "hexadecimal",
        "replace",
        re.compile(r"\b(?:0x[0-9A-Fa-f]+|(?=[0-9a-f]*\d)[0-9a-f]{4,})\b"),
        "#",
    ),
    Rule("number", "replace", re.compile(r"\d+"), "#"),
    Rule("space", "replace", re.compile(r"\s+"), " "),
)
"""In the order in which they are carried out; each works on lines of plain text."""


def normal(line: str) -> Iterator[str]:
    """What remains of one line of plain text: no line, one, or those that were glued together."""
    for piece in _pieces(line):
        text: str | None = piece
        for rule in RULES:
            if text is None or rule.kind == "cut":
                continue
            if rule.kind == "replace":
                text = rule.pattern.sub(rule.replacement, text)
            elif rule.pattern.search(text):
                text = None
        if text is not None and text.strip():
            yield text.strip()[:MAX_CHARS]


def _pieces(line: str) -> list[str]:
    places = {0}
    for rule in RULES:
        if rule.kind == "cut":
            places |= {match.start() for match in rule.pattern.finditer(line)}
    starts = sorted(places)
    return [line[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def console_facts(log: bytes) -> Facts:
    """The facts of the layer ``console``: ``lines``, normalised, in their order.

    ``log`` is the console from its first byte on. Lines beyond the bounds are left out and counted
    under ``cut``.
    """
    lines: list[Json] = []
    total = 0
    for number, (text, _) in enumerate(Lines().feed(log)):
        for line in normal(text):
            lines.append(line)
            total += len(line.encode())
        if len(lines) >= MAX_LINES or total >= MAX_TOTAL:
            left = max(log.count(b"\n") - number - 1, 0)
            return {"lines": lines, CUT: left} if left else {"lines": lines}
    return {"lines": lines}


def renewed(facts: Facts) -> Facts:
    """A console of another version's rules, which are carried out once more on its lines."""
    lines: dict[str, Json] = {
        key: [line for text in _texts(facts, key) for line in normal(text)]
        for key in ("lines", "sometimes")
    }
    return {**facts, **lines}


class ConsoleResult(NamedTuple):
    """How alike two consoles are."""

    multiset: float
    """Jaccard index of the lines as multisets, 0 to 1."""
    sequence: float
    """Share of all lines that stand in the same order, 0 to 1."""
    differing: tuple[tuple[Literal["-", "+"], str], ...]
    """``-``: expected and not there, ``+``: there and not expected; :data:`SHOWN` of each."""
    same_lines: bool
    """The multisets are within the bounds of the layer."""
    same_order: bool
    """So are the sequences."""


def compare_console(expected: Facts, observed: Facts) -> ConsoleResult:
    """Hold one console against another, in time n log n.

    Lines that only some of the recorded boots had do not count.
    """
    ignored = {text for facts in (expected, observed) for text in _texts(facts, "sometimes")}
    left = [text for text in _texts(expected, "lines") if text not in ignored]
    right = [text for text in _texts(observed, "lines") if text not in ignored]
    total = len(left) + len(right)
    if not total:
        return ConsoleResult(1.0, 1.0, (), True, True)
    counts = Counter(left), Counter(right)
    missing, added = counts[0] - counts[1], counts[1] - counts[0]
    common = len(left) - missing.total()
    union = total - common
    ordered = _in_order(left, right)
    lines: list[tuple[Literal["-", "+"], str]] = [("-", text) for text in list(missing)[:SHOWN]]
    lines += [("+", text) for text in list(added)[:SHOWN]]
    return ConsoleResult(
        multiset=common / union,
        sequence=2 * ordered / total,
        differing=tuple(lines),
        same_lines=_within(union - common, union, MULTISET),
        # What is missing or added stands in no order: the multiset judges it.
        same_order=_within(2 * (common - ordered), 2 * common, SEQUENCE),
    )


def _within(differing: int, total: int, share: float) -> bool:
    """Whether so few lines differ that at least ``share`` is alike, or that it is slack."""
    # In thousandths: a float would put the bound itself on either side.
    allowed = round((1 - share) * 1000) * total
    return differing * 1000 <= allowed or differing <= min(SLACK, SLACK_SHARE * total)


def _texts(facts: Facts, key: str) -> list[str]:
    value = facts.get(key)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _in_order(left: Sequence[str], right: Sequence[str]) -> int:
    """The most lines that stand in the same order in both, each matched with its own repetition.

    The n-th time that a line comes is matched with the n-th time it comes in the other: the rest is
    a longest increasing subsequence, which takes n log n where difflib takes n squared.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(left):
        places.setdefault(text, []).append(place)
    taken: Counter[str] = Counter()
    ends: list[int] = []
    for text in right:
        number = taken[text]
        taken[text] += 1
        if number >= len(places.get(text, ())):
            continue
        place = places[text][number]
        at = bisect_left(ends, place)
        ends[at : at + 1] = [place]
    return len(ends)
