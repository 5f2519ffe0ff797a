"""Consoles of two boots: what is noise, what is not, and what no console can do to the host."""

from __future__ import annotations

import random
import time

import pytest

from tests.support.behaviour import rows_of
from vmpack.verify.bounds import clean_facts
from vmpack.verify.console import (
    MAX_LINES,
    MAX_TOTAL,
    MULTISET,
    RULES,
    SEQUENCE,
    compare_console,
    console_facts,
    normal,
    renewed,
)
from vmpack.verify.model import CUT, Facts

RULE_ROWS = rows_of("Rule", "Kind", "Before", "After")


def lines_of(*texts: str) -> Facts:
    return {"lines": [*texts]}


def kernel(count: int) -> list[str]:
    return [f"subsystem {chr(97 + n % 26)}{chr(97 + n // 26)} is there" for n in range(count)]


def good(left: Facts, right: Facts) -> tuple[bool, bool]:
    result = compare_console(left, right)
    again = compare_console(right, left)
    assert (again.same_lines, again.same_order) == (result.same_lines, result.same_order)
    return result.same_lines, result.same_order


def test_the_page_has_every_rule_in_its_order() -> None:
    """BHV-CON-2."""
    assert [row[:2] for row in RULE_ROWS] == [(rule.name, rule.kind) for rule in RULES]


@pytest.mark.parametrize("row", RULE_ROWS, ids=[row[0] for row in RULE_ROWS])
def test_the_examples_of_the_page_are_true(row: tuple[str, ...]) -> None:
    """BHV-CON-2; and what is normal stays as it is."""
    _, _, before, after = row
    wanted = [] if after == "nothing" else after.strip("`").split("` and `")
    assert list(normal(before.strip("`"))) == wanted
    for line in wanted:
        assert list(normal(line)) == [line]


def test_each_rule_is_needed_for_its_example() -> None:
    """BHV-CON-2: without it the example would come out as something else."""
    for (_, _, before, after), rule in zip(RULE_ROWS, RULES, strict=True):
        assert rule.pattern.search(before.strip("`")), rule.name
        assert before != after


def test_a_log_becomes_lines() -> None:
    """BHV-CON-1: escape sequences go, a moved cursor ends a line, empty lines are none."""
    log = (
        b"\x1b[0;32m  OK  \x1b[0m\r\n\r\n[    1.500000] usb 1-1: new\x1b[2;1Hmenu\r\n"
        b"start[    2.000000] random: crng init done\r\nhost login: [    9.100000] eth0: up\r\n"
    )
    assert console_facts(log) == {
        "lines": ["OK", "usb #-#: new", "menu", "start", "host login:", "eth#: up"]
    }


def test_two_boots_of_a_kernel_are_alike_in_whatever_order_it_probes() -> None:
    """BHV-CON-3: 10 of 600 lines elsewhere, 6 others."""
    log = kernel(600)
    other = [*log[20:30], *log[:20], *log[30:594], *(f"other {chr(97 + n)}" for n in range(6))]
    result = compare_console(lines_of(*log), lines_of(*other))
    assert (result.same_lines, result.same_order) == (True, True)
    assert result.multiset == pytest.approx(594 / 606)
    assert result.sequence == pytest.approx(2 * 584 / 1200)


@pytest.mark.parametrize(("others", "alike"), [(9, True), (10, False), (200, False)])
def test_the_bound_of_lines(others: int, alike: bool) -> None:
    """BHV-CON-3: 97% of the lines that either has."""
    log = kernel(600)
    changed = [
        *log[: 600 - others],
        *(f"x {chr(97 + n % 26)}{n // 26 * 'y'}" for n in range(others)),
    ]
    assert good(lines_of(*log), lines_of(*changed)) == (alike, True)
    assert ((600 - others) / (600 + others) >= MULTISET) is alike


@pytest.mark.parametrize(("moved", "alike"), [(42, True), (43, False)])
def test_the_bound_of_order(moved: int, alike: bool) -> None:
    """BHV-CON-3: 93% in the same order."""
    log = kernel(600)
    other = [*log[moved:], *log[:moved]]
    assert good(lines_of(*log), lines_of(*other)) == (True, alike)
    assert (600 - moved >= round(600 * SEQUENCE)) is alike


@pytest.mark.parametrize(("count", "allowed"), [(100, 3), (40, 3), (12, 1), (8, 1), (4, 0), (1, 0)])
def test_short_consoles_have_slack(count: int, allowed: int) -> None:
    """BHV-CON-4: so many lines of a short console may be others; of four lines none."""
    log = kernel(count)
    for changed in (allowed, allowed + 1):
        other = [*log[changed:], *(f"other {chr(97 + n)}" for n in range(changed))]
        assert good(lines_of(*log), lines_of(*other))[0] is (changed <= allowed), changed


def test_nothing_and_something_are_not_alike() -> None:
    """BHV-CON-4."""
    assert good(lines_of(), lines_of()) == (True, True)
    assert good(lines_of(), lines_of("panic")) == (False, True)
    assert good(lines_of("boot"), lines_of()) == (False, True)


def test_lines_that_come_sometimes_do_not_count() -> None:
    """BHV-CON-5: however often they come."""
    recorded: Facts = {"lines": [*kernel(6)], "sometimes": ["noise"]}
    result = compare_console(recorded, lines_of("noise", *kernel(6), "noise"))
    assert (result.multiset, result.sequence, result.differing) == (1.0, 1.0, ())


def test_what_differs_is_named() -> None:
    result = compare_console(lines_of("a", "b", "b"), lines_of("a", "b", "c"))
    assert result.differing == (("-", "b"), ("+", "c"))


def test_the_order_is_that_of_difflib() -> None:
    """BHV-CON-3: the longest common order, wherever lines come once; in less than squared time."""
    from difflib import SequenceMatcher

    rng = random.Random(6)
    log = kernel(300)
    for _ in range(10):
        other = log.copy()
        for _ in range(5):
            other.insert(rng.randrange(300), other.pop(rng.randrange(300)))
        exact = SequenceMatcher(None, log, other, autojunk=False).ratio()
        result = compare_console(lines_of(*log), lines_of(*other))
        assert exact <= result.sequence <= exact + 0.02


MIB = 1 << 19
HOSTILE = {
    "one line": b"[" * MIB,
    "short lines": b"x\n" * (MIB // 2),
    "times": b"[    1.000000] " * (MIB // 15),
    "animations": b"[ *" * (MIB // 3),
    "hexadecimal": b"a" * MIB,
    "addresses": b"ACPI: 0x" * (MIB // 8),
    "prompts": b"login: " * (MIB // 7),
    "noise": random.Random(1).randbytes(MIB),
    "unlike lines": b"".join(b"l%x z\n" % n for n in range(50_000)),
    "escapes": b"\x1b[" * (MIB // 2),
    "wide": "\u202e\U0001f4a9".encode() * (MIB // 7),
}


@pytest.mark.parametrize("log", HOSTILE.values(), ids=HOSTILE)
def test_no_console_takes_long_or_much(log: bytes) -> None:
    """BHV-CON-6: eight times as much is what a boot keeps."""
    began = time.process_time()
    facts = console_facts(log)
    lines = facts["lines"]
    assert isinstance(lines, list)
    result = compare_console(facts, {"lines": lines[::-1]})
    assert time.process_time() - began < 5
    assert result.same_lines
    assert len(lines) <= MAX_LINES + 4096
    assert sum(len(str(line).encode()) for line in lines) <= MAX_TOTAL + 65536
    assert clean_facts("console", facts) == facts


@pytest.mark.parametrize("log", HOSTILE.values(), ids=HOSTILE)
def test_lines_of_older_rules_pass_them_again(log: bytes) -> None:
    """BHV-VER-4: what is normal stays as it is."""
    facts = console_facts(log[:50_000])
    assert renewed(facts)["lines"] == facts["lines"]


def test_what_is_left_out_is_counted() -> None:
    """BHV-CON-6."""
    assert console_facts(b"line\n" * 20_000)[CUT] == 20_000 - MAX_LINES
    assert CUT not in console_facts(b"line\n" * MAX_LINES)


def test_a_hundred_thousand_lines_are_compared_at_once() -> None:
    """BHV-CON-6: another host's record, or one of a later version."""
    left, right = kernel(600) * 170, [*reversed(kernel(600))] * 170
    began = time.process_time()
    result = compare_console(lines_of(*left), lines_of(*right))
    assert time.process_time() - began < 5
    assert (result.same_lines, result.same_order) == (True, False)
