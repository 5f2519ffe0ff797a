"""specs/hostile-inputs.md: every line is claimed by a test, and the page says by which.

``python -m tests.test_hostile_lines --write`` fills the page's last column.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "specs/hostile-inputs.md"
LINES = range(1, 51)
LATER = "**later**"
_ROW = re.compile(r"^\| (\d+) \| (.*) \| ?(.*?) ?\|$", re.MULTILINE)
_CLAIM = re.compile(r"hostile: ((?:\d+(?:, | and )?)+)")


def rows() -> dict[int, tuple[str, list[str]]]:
    """Line -> its text and the tests that the page names."""
    return {
        int(number): (text, re.findall(r"`(\w+)`", tests))
        for number, text, tests in _ROW.findall(PAGE.read_text())
    }


def claims() -> dict[int, set[str]]:
    """Line -> names of the test files that claim it."""
    found: dict[int, set[str]] = {}
    for path in TESTS.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for claimed in _CLAIM.findall(path.read_text()):
            for number in re.findall(r"\d+", claimed):
                found.setdefault(int(number), set()).add(path.stem)
    return found


def test_the_page_has_every_line_once() -> None:
    assert [int(number) for number, _, _ in _ROW.findall(PAGE.read_text())] == list(LINES)


def test_every_line_is_claimed_by_a_test() -> None:
    """Those marked as later are not: a claim takes the mark away."""
    later = {number for number, (text, _) in rows().items() if text.startswith(LATER)}
    assert set(LINES) - set(claims()) == later
    assert set(claims()) <= set(LINES)


def test_the_page_names_tests_that_claim_the_line() -> None:
    found = claims()
    for number, (text, named) in rows().items():
        assert set(named) <= found.get(number, set()), f"line {number}: {text}"
        assert bool(named) == (number in found), f"line {number}: write the page again"


def write() -> None:
    """Fill in the last column; a claimed line is no longer one for later."""
    found = claims()

    def row(match: re.Match[str]) -> str:
        number, text, _ = match.groups()
        if int(number) in found:
            text = text.removeprefix(f"{LATER} ")
        tests = ", ".join(f"`{name}`" for name in sorted(found.get(int(number), ())))
        return f"| {number} | {text} | {tests} |"

    PAGE.write_text(_ROW.sub(row, PAGE.read_text()))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_hostile_lines --write")
    write()
