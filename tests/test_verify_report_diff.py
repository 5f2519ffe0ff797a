"""Consoles side by side, and times on a track: right for every input, and bounded."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import reports
from vmpack.verify.model import Difference
from vmpack.verify.report.diff import LINES, Row, folded, side_by_side
from vmpack.verify.report.timeline import timeline

ROOT = Path(__file__).resolve().parents[1]
LINE = st.lists(st.sampled_from("abcdefgh"), max_size=24)


def texts(rows: list[Row]) -> tuple[list[str], list[str]]:
    flat = [each for row in rows for each in (row.rows or (row,))]
    return [one.left for one in flat if one.left is not None], [
        one.right for one in flat if one.right is not None
    ]


@given(LINE, LINE)
def test_rows_hold_both_texts_in_their_order(left: list[str], right: list[str]) -> None:
    """REP-PAGE-5."""
    rows = side_by_side(left, right)
    assert texts(rows) == (left, right)
    assert texts(folded(rows)) == (left, right)
    for row in rows:
        assert row.left == row.right if row.sort == "same" else None in (row.left, row.right)
    sorts = Counter((row.sort, row.left or row.right) for row in rows)
    only_left, only_right = Counter(left) - Counter(right), Counter(right) - Counter(left)
    for line in {*left, *right}:
        assert sorts["missing", line] == only_left[line]
        assert sorts["added", line] == only_right[line]
        # A line that moved does so on both sides.
        assert sorts["moved", line] % 2 == 0


@pytest.mark.parametrize(
    ("left", "right", "sorts"),
    [
        ("", "", ""),
        ("abc", "abc", "==="),
        ("abc", "axc", "=-+="),
        ("abc", "bc", "-=="),
        ("abc", "abcd", "===+"),
        ("abcde", "bacde", "m=m==="),
        ("aaaa", "aaa", "===-"),
        ("x" * 40 + "a", "x" * 40 + "b", "=" * 40 + "-+"),
        ("x" * 40 + "a", "a" + "x" * 40, "m" * 40 + "=" + "m" * 40),
    ],
)
def test_what_the_rows_say(left: str, right: str, sorts: str) -> None:
    """REP-PAGE-5."""
    signs = {"same": "=", "missing": "-", "added": "+", "moved": "m", "sometimes": "~"}
    assert "".join(signs[row.sort] for row in side_by_side(left, right)) == sorts


def test_lines_that_come_now_and_then_are_no_difference() -> None:
    """REP-PAGE-5."""
    rows = side_by_side(["a", "late", "b"], ["a", "b", "early"], {"late", "early"})
    assert [row.sort for row in rows] == ["same", "sometimes", "same", "sometimes"]


@pytest.mark.parametrize("distinct", [1, 16, 400, 6000])
def test_no_console_makes_it_slow(distinct: int) -> None:
    """REP-PAGE-5, REP-SAFE-2: neither many equal lines nor many that moved."""
    lines = [f"line {number % distinct}" for number in range(LINES + 500)]
    for other in (lines[::-1], lines[7:] + lines[:7], [*lines, "x"], ["x", *lines]):
        rows = side_by_side(lines, other)
        assert texts(rows) == (lines[:LINES], other[:LINES])


def test_equal_lines_fold() -> None:
    """REP-PAGE-5."""
    left = [str(number) for number in range(30)]
    right = [*left[:15], "new", *left[15:]]
    rows = folded(side_by_side(left, right))
    assert [(row.sort, row.count) for row in rows if row.sort != "same"] == [
        ("fold", 12),
        ("added", 0),
        ("fold", 12),
    ]
    assert len(rows) == 9
    assert [row.count for row in folded(side_by_side(left, left))] == [30]


def test_the_timeline_has_a_row_for_each_milestone() -> None:
    """REP-PAGE-4."""
    boots = [
        reports.boot(times={"kernel": 1000, "login": 8000}),
        reports.boot(times={"kernel": 1200, "extra": 9000}, missing=["login"]),
    ]
    found = timeline(boots, {"kernel": 500, "gone": 10_000}, None)
    assert found is not None
    told = {row.name: (row.told, row.missing, row.expected) for row in found.rows}
    assert told == {
        "kernel": ("1.0 s to 1.2 s", False, False),
        "login": ("8.0 s", True, True),
        "extra": ("9.0 s", False, False),
        "gone": ("never", True, False),
    }
    places = {row.name: [dot.x for dot in row.dots] for row in found.rows}
    assert places["kernel"] == ["11.6%", "13.5%"]
    record = {row.name: row.record.x for row in found.rows if row.record is not None}
    assert record == {"kernel": "6.8%", "gone": "98.0%"}
    assert found.ticks[:2] == (("2.0%", "0 s"), ("21.2%", "2 s"))
    assert len(found.ticks) == 6


def test_a_timeline_tells_what_the_comparison_found() -> None:
    """REP-PAGE-4."""
    host = reports.host("x", [reports.boot(seen=reports.observation())], reports.observation())
    assert host.comparison is not None
    lost = Difference("milestones", "missing", "target b", 1, None, "exact", "")
    come = Difference("milestones", "added", "kernel", None, 1, "exact", "")
    found = timeline(host.boots, {}, replace(host.comparison, differences=(lost, come)))
    assert found is not None
    assert [row.name for row in found.rows if row.missing] == ["target b"]
    assert [row.name for row in found.rows if row.added] == ["kernel"]
    assert timeline([reports.boot(times={})], {}, None) is None


def test_each_clause_of_the_page_is_checked() -> None:
    page = (ROOT / "specs" / "report-v1.md").read_text()
    clauses = re.findall(r"^- \*\*(REP-[A-Z]+-\d+)\*\*", page, re.M)
    assert len(clauses) == len(set(clauses)) > 25
    names = ["test_action.py", *(path.name for path in ROOT.glob("tests/test_verify_report_*.py"))]
    tests = "".join((ROOT / "tests" / name).read_text() for name in names)
    named = set(re.findall(r"REP-[A-Z]+-\d+", tests))
    for area, first, last in re.findall(r"REP-([A-Z]+)-(\d+) to REP-[A-Z]+-(\d+)", tests):
        named |= {f"REP-{area}-{number}" for number in range(int(first), int(last) + 1)}
    assert named == set(clauses)
