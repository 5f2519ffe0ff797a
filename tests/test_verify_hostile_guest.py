"""Guests that are up to no good under the whole of ``vmpack verify``, and ends at random moments.

Endless output, terminal sequences, logins that are none, devices that leave, a flooded debug port
or agent: each run ends with the kind it should have, in bounded memory, and nothing that the
guest said does anything in a terminal or in a page.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import stuck
from tests.support.runner import sector_bundle
from vmpack.runner.milestones import Detector

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
DEADLINE_S = 400
MAX_RSS_KIB = 200 << 10
MAX_REPORT = 64 << 20
"""Bytes of a whole report: 4 MiB of console, as text and in pages, and pictures."""

MEASURED = """
import atexit, re, runpy, sys
peak, sys.argv = sys.argv[1], ["vmpack", *sys.argv[2:]]
def tell():
    with open("/proc/self/status") as status, open(peak, "w") as out:
        out.write(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
atexit.register(tell)
runpy.run_module("vmpack", run_name="__main__")
"""
"""vmpack, with the most memory that it had in the file named first; its QEMU is not counted."""

FLOOD = """\
#!/bin/sh
while true; do
    for port in /dev/vport*; do
        yes '{"return": {"\\u001b]0;title\\u0007": [[[[' >$port
    done
    usleep 100000
done
"""
INITTAB = """\
::sysinit:/bin/hostname -F /etc/hostname
::respawn:/bin/flood
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
"""


@dataclass(frozen=True)
class Run:
    """What one verification gave."""

    exit_code: int
    shown: str
    said: str
    report: Path
    peak_kib: int

    @property
    def ending(self) -> dict[str, object]:
        """That of the boot."""
        document = json.loads((self.report / "report.json").read_text())
        ending: dict[str, object] = document["hosts"][0]["boots"][0]["ending"]
        return ending


LIMIT = ("--timeout", "3")
GUESTS = {
    # sector, what its config pins, more words, exit code, kind
    "endless-output": ("", LIMIT, 124, "timeout"),
    "endless-line": ("", LIMIT, 124, "timeout"),
    "debug-flood": ("", LIMIT, 124, "timeout"),
    "escapes": ("", LIMIT, 124, "timeout"),
    "eject": ('machine = "pc-i440fx-7.2"\n', (), 126, "hang"),
    "reset": ("", (), 126, "reset-loop"),
}


def started(bundle: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """``vmpack verify`` with a report in ``folder``."""
    words = ["verify", str(bundle), "--accel", "tcg", "-v", "--report", str(folder / "report")]
    return subprocess.Popen(
        [sys.executable, "-c", MEASURED, str(folder / "peak"), *words, *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes], folder: Path) -> Run:
    shown, said = process.communicate(timeout=DEADLINE_S)
    return Run(
        process.returncode,
        shown.decode(),
        said.decode(),
        folder / "report",
        int((folder / "peak").read_text()),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every hostile guest, verified; they run together."""
    processes = {}
    for name, (config, words, _, _) in GUESTS.items():
        folder = tmp_path_factory.mktemp(name)
        processes[name] = (started(sector_bundle(folder, name, config), folder, *words), folder)
    folder = tmp_path_factory.mktemp("agent-flood")
    files = {"bin/flood": FLOOD.encode(), "etc/inittab": INITTAB.encode()}
    bundle = stuck.bundle_of(stuck.variant(folder, "flood", files=files))
    processes["agent-flood"] = (started(bundle, folder, "--timeout", "300"), folder)
    return {name: ended(*each) for name, each in processes.items()}


@pytest.mark.parametrize("name", GUESTS)
def test_a_hostile_guest_ends_with_its_kind(name: str, runs: dict[str, Run]) -> None:
    """hostile: 48."""
    run, (_, _, code, kind) = runs[name], GUESTS[name]
    assert run.exit_code == code, run
    assert run.ending["kind"] == kind
    assert "Traceback" not in run.said


def test_a_flooded_agent_port_is_no_agent(runs: dict[str, Run]) -> None:
    """hostile: 48. The boot is what it is; the guest just is not asked that way."""
    run = runs["agent-flood"]
    assert run.exit_code == 0, run
    assert run.ending["kind"] == "expected"
    assert "Traceback" not in run.said


@pytest.mark.parametrize("name", [*GUESTS, "agent-flood"])
def test_its_words_reach_nobody_s_terminal(name: str, runs: dict[str, Run]) -> None:
    """hostile: 48."""
    run = runs[name]
    for text in (run.shown, run.said):
        assert all(line.isprintable() for line in text.splitlines()), name
    for path in run.report.rglob("*"):
        if path.suffix in (".txt", ".json", ".xml"):
            text = path.read_text()
            assert not re.search("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]", text), path
        if path.suffix == ".html":
            page = path.read_text()
            assert "<script>alert" not in page
            assert "\x1b" not in page
            assert "\u202e" not in page
    assert sum(path.stat().st_size for path in run.report.rglob("*")) < MAX_REPORT


@pytest.mark.parametrize("name", [*GUESTS, "agent-flood"])
def test_its_words_cost_bounded_memory(name: str, runs: dict[str, Run]) -> None:
    """hostile: 48."""
    assert runs[name].peak_kib < MAX_RSS_KIB


def test_a_login_within_a_terminal_sequence_is_none(runs: dict[str, Run]) -> None:
    """hostile: 48."""
    boot = json.loads((runs["escapes"].report / "report.json").read_text())["hosts"][0]["boots"][0]
    assert boot["milestones"] == [{"name": "login", "milliseconds": None}]
    assert "login" not in [one["name"] for one in boot["seen"]]
    sneaky = b"\x1b]0;host login: \x07" * 3 + b"\x1b]2;" + b"x" * 4000 + b"host login: \x1b\\\r\n"
    detector = Detector()
    for start in range(0, len(sneaky), 7):
        detector.feed(sneaky[start : start + 7], 0.0)
    assert not detector.has("login")


LINE = """
import asyncio, os, re
from vmpack.runner.console import Console
async def run():
    console, seen = Console("line"), 0
    def count(data):
        nonlocal seen
        seen += len(data)
    console.listen(count)
    for _ in range(1600):
        os.write(console.output_fd, b"x" * 65536)
        await console.drain()
    held, (line,) = len(console.data), console.tail()
    await console.close()
    status = open("/proc/self/status").read()
    print(seen, held, len(line), re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
asyncio.run(run())
"""


def test_a_line_of_100_mib_is_followed_in_bounded_memory() -> None:
    """hostile: 48."""
    done = subprocess.run([sys.executable, "-c", LINE], capture_output=True, check=True)
    seen, held, line, peak = map(int, done.stdout.split())
    assert seen == 1600 << 16
    assert held <= 2 << 20
    assert line <= 32768
    assert peak < 80 << 10


# SIGKILL at random moments.


def machines(mark: str) -> list[int]:
    """Processes with ``mark`` among their arguments: QEMU's, whose name it is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"qemu" in words[0] and any(mark.encode() in word for word in words):
                found.append(int(entry.name))
    return found


def until(condition: object, process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition while the process runs."""
    assert callable(condition)
    end = time.monotonic() + DEADLINE_S
    while not condition() and process.poll() is None and time.monotonic() < end:
        os.sched_yield()


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """A name for QEMU, the words of a verification that never ends, and its environment."""
    mark = f"vmpack-{uuid.uuid4()}"
    bundle = sector_bundle(tmp_path, "reads", '[expected]\nmilestones = ["what never comes"]')
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-m", "vmpack", "verify", str(bundle), "--accel", "tcg"]
    words += ["--qemu-arg=-name", f"--qemu-arg={mark}", "--output", "json"]
    yield mark, words, {**os.environ, "TMPDIR": str(scratch)}
    for pid in machines(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("seed", range(4))
def test_no_machine_outlives_a_killed_verification(
    seed: int, marked: tuple[str, list[str], dict[str, str]]
) -> None:
    """Whatever had a name is gone once the next one has begun."""
    mark, words, environment = marked
    moment = random.Random(seed).uniform(0, 0.6)
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        if seed % 2:
            until(lambda: machines(mark), process)
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate(timeout=DEADLINE_S)
    end = time.monotonic() + DEADLINE_S
    while machines(mark) and time.monotonic() < end:
        os.sched_yield()
    assert machines(mark) == []
    if seed == 3:
        again = subprocess.run(
            [*words, "--timeout", "0.3"],
            env=environment,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert again.returncode == 124, again
    assert os.listdir(environment["TMPDIR"]) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_qemu_is_told_as_such(
    seed: int, marked: tuple[str, list[str], dict[str, str]]
) -> None:
    mark, words, environment = marked
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: machines(mark), process)
    try:
        process.communicate(timeout=random.Random(seed).uniform(0, 0.5))
    except subprocess.TimeoutExpired:
        for pid in machines(mark):
            os.kill(pid, signal.SIGKILL)
    shown, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 125, (shown, said)
    told = json.loads(shown)
    kind = told.get("kind") or told["error"]["kind"]
    assert kind == "qemu-died"
    assert machines(mark) == []
    assert os.listdir(environment["TMPDIR"]) == []
