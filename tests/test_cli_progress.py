"""Progress: JSON lines with a stable shape, a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys

import pytest

from vmpack.cli.progress import (
    STEPS,
    UNKNOWN_STEP,
    JsonReporter,
    LineReporter,
    SilentReporter,
    make_reporter,
)


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_events_of_two_stages() -> None:
    stream = io.StringIO()
    with JsonReporter(stream) as progress:
        progress.stage("packing root", 1000)
        progress.advance(400)
        progress.advance(600)
        progress.stage("writing", None)
        progress.advance(5)
    assert events(stream) == [
        {"event": "progress", "stage": "packing root", "done": 0, "total": 1000},
        {"event": "progress", "stage": "packing root", "done": 400, "total": 1000},
        {"event": "progress", "stage": "packing root", "done": 1000, "total": 1000},
        {"event": "progress", "stage": "writing", "done": 0, "total": None},
        {"event": "progress", "stage": "writing", "done": 5, "total": 5},
    ]


def test_events_are_bounded_by_bytes_whatever_the_time() -> None:
    stream = io.StringIO()
    with JsonReporter(stream) as progress:
        progress.stage("copying", 1 << 30)
        for _ in range(1 << 14):
            progress.advance(1 << 16)
    found = events(stream)
    assert STEPS * 0.9 <= len(found) <= STEPS + 2
    assert [event["done"] for event in found] == sorted({int(str(e["done"])) for e in found})
    assert found[-1]["done"] == found[-1]["total"] == 1 << 30


def test_a_stage_of_unknown_size_reports_now_and_then() -> None:
    stream = io.StringIO()
    with JsonReporter(stream) as progress:
        progress.stage("reading", None)
        for _ in range(8):
            progress.advance(UNKNOWN_STEP // 2)
    assert [event["done"] for event in events(stream)] == [
        UNKNOWN_STEP * number for number in (0, 1, 2, 3, 4)
    ] + [4 * UNKNOWN_STEP]  # fmt: skip
    assert events(stream)[-1]["total"] == 4 * UNKNOWN_STEP


def test_an_operation_that_fails_never_claims_the_end() -> None:
    stream = io.StringIO()

    def fail() -> None:
        with JsonReporter(stream) as progress:
            progress.stage("copying", 100)
            progress.advance(100)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert [event["done"] for event in events(stream)] == [0]


def test_an_empty_stage_begins_and_ends() -> None:
    stream = io.StringIO()
    with JsonReporter(stream) as progress:
        progress.stage("copying", 0)
    assert [(event["done"], event["total"]) for event in events(stream)] == [(0, 0), (0, 0)]


def test_a_stage_named_by_a_file_is_one_printable_line() -> None:
    stream = io.StringIO()
    with JsonReporter(stream) as progress:
        progress.stage("packing \x1b[2J\x7f\n", 1)
    assert all(line.isprintable() for line in stream.getvalue().splitlines())
    stream = io.StringIO()
    with LineReporter(stream) as progress:
        progress.stage("packing \x1b[2J\n", 1)
    assert all(line.isprintable() for line in stream.getvalue().splitlines())


def test_lines_of_text_for_p_without_a_terminal() -> None:
    stream = io.StringIO()
    with LineReporter(stream) as progress:
        progress.stage("converting", 1 << 20)
        for _ in range(1 << 10):
            progress.advance(1 << 10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "converting: 0%"
    assert lines[-1] == "converting: 100%"
    assert len(lines) == 11


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_nothing_where_there_is_no_terminal(mode: str) -> None:
    assert isinstance(make_reporter(mode, io.StringIO()), SilentReporter)


BAR = """
import sys, time
from vmpack.cli.progress import make_reporter, BAR_AFTER_S
with make_reporter("auto", sys.stderr) as progress:
    progress.stage("packing root", 1 << 30)
    begun = time.monotonic()
    while time.monotonic() - begun < BAR_AFTER_S * float(sys.argv[1]):
        progress.advance(1 << 12)
    print("rich" in sys.modules)
"""


def on_a_terminal(script: str, *arguments: str, term: str = "xterm") -> tuple[str, str]:
    """stdout (a pipe) and stderr (a terminal of 100 columns) of a Python script."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 30)[0]:
        try:
            shown += os.read(leader, 65536)
        except OSError:
            break
    os.close(leader)
    out, _ = process.communicate(timeout=30)
    return out.decode(), shown.decode()


def test_a_long_operation_draws_a_bar_and_clears_it() -> None:
    out, shown = on_a_terminal(BAR, "1.8")
    assert out == "True\n"
    assert "packing root" in shown
    assert "━" in shown
    assert " of 1 GiB" in shown
    assert shown.endswith("\x1b[2K"), "the line is cleared in the end"
    assert "\x1b[?25h" in shown, "the cursor is back"


def test_a_short_operation_draws_nothing_and_loads_no_rich() -> None:
    assert on_a_terminal(BAR, "0") == ("False\n", "")


def test_a_dumb_terminal_gets_no_bar() -> None:
    assert on_a_terminal(BAR, "1.5", term="dumb") == ("False\n", "")
