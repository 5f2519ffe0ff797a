"""``vmpack run`` as people and scripts use it: console, keys, Ctrl-C, exit codes, leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import packed, sector_bundle
from tests.support.tools import run
from vmpack.cli.terminal import Screen

pytestmark = pytest.mark.qemu
DEADLINE_S = 100


def words(*more: object) -> list[str]:
    return [sys.executable, "-m", "vmpack", *map(str, more)]


def vmpack(*more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        words(*more), stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False
    )


def document(*more: object) -> tuple[int, Any]:
    """Exit code and JSON of a run that is told to print some."""
    done = vmpack(*more, "--output", "json")
    return done.returncode, json.loads(done.stdout)


class Terminal:
    """A program whose streams are a terminal, and the person in front of it."""

    def __init__(self, argv: list[str]) -> None:
        self.screen = b""
        self._mine, theirs = pty.openpty()
        self.descriptor = theirs
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            self.read()

    def read(self) -> bool:
        """What there is within a moment; whether there was anything."""
        ready, _, _ = select.select([self._mine], [], [], 0.05)
        if ready:
            self.screen += os.read(self._mine, 65536)
        return bool(ready)

    def type(self, keys: bytes) -> None:
        os.write(self._mine, keys)

    def end(self) -> int:
        """The exit code, with everything read before."""
        while self.process.poll() is None or self.read():
            self.read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._mine)
        os.close(self.descriptor)


@contextlib.contextmanager
def terminal(*more: object) -> Iterator[Terminal]:
    found = Terminal(words(*more))
    try:
        yield found
    finally:
        found.close()


def test_the_console_is_on_stdout_and_the_ending_on_stderr(tmp_path: Path) -> None:
    done = vmpack("run", sector_bundle(tmp_path, "poweroff"))
    assert done.returncode == 0
    assert done.stdout == b"vmpack boot sector: poweroff\n"
    assert done.stderr.startswith(b"vmpack: the guest powered off, ")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["poweroff.raw", "poweroff.vmpack"]


def test_exit_code_and_kind_tell_the_ending(tmp_path: Path) -> None:
    endings = {
        "poweroff": (0, "shutdown"),
        "panic": (255, "panic"),
        "triple-fault": (126, "reset-loop"),
        "hang": (126, "hang"),
    }
    running = {
        sector: subprocess.Popen(
            words("run", sector_bundle(tmp_path, sector), "--accel", "tcg", "--output", "json"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for sector in endings
    }
    for sector, process in running.items():
        told = json.loads(process.communicate(timeout=DEADLINE_S)[0])
        code = process.returncode
        assert code == told["exit-code"] == told["ending"]["exit-code"]
        assert told["kind"] == told["ending"]["kind"]
        assert (code, told["kind"]) == endings[sector]
        assert told["accel"] == "tcg"
        assert f"vmpack boot sector: {sector.replace('-', ' ')}" in told["ending"]["console-tail"]


def test_json_is_alone_on_stdout_and_the_console_on_stderr(tmp_path: Path) -> None:
    done = vmpack("run", sector_bundle(tmp_path, "poweroff"), "--output", "json")
    assert json.loads(done.stdout)["kind"] == "shutdown"
    assert done.stderr == b"vmpack boot sector: poweroff\n"
    done = vmpack("run", tmp_path / "poweroff.vmpack", "--output", "json", "--console", "none")
    assert done.stderr == b""


def test_endless_output_ends_in_time_and_its_sequences_stay_out_of_the_file(
    tmp_path: Path,
) -> None:
    done = vmpack("run", sector_bundle(tmp_path, "endless-output"), "--timeout", "0.5")
    assert done.returncode == 124
    assert done.stdout.count(b"vmpack boot sector: endless output\n") > 100
    assert b"\x1b" not in done.stdout
    raw = vmpack("run", tmp_path / "endless-output.vmpack", "--timeout", "0.5", "--console", "raw")
    assert b"\x1b" in raw.stdout


def test_what_is_typed_reaches_the_guest_and_comes_back(tmp_path: Path) -> None:
    with terminal("run", sector_bundle(tmp_path, "echo")) as person:
        person.wait_for(b"boot sector: echo")
        person.type(b"typed by a person\r")
        person.wait_for(b"typed by a person")
        # Every key is the guest's: neither end of file nor quit mean anything here.
        person.type(b"\x04\x1c\x1a.still here")
        person.wait_for(b"still here")
        person.type(b"!")
        assert person.end() == 0
        # Nobody but the guest echoes.
        assert person.screen.count(b"typed by a person") == 1
        assert termios.tcgetattr(person.descriptor) == person.before


def test_ctrl_c_asks_and_asks_no_more(tmp_path: Path) -> None:
    with terminal("run", sector_bundle(tmp_path, "echo")) as person:
        person.wait_for(b"boot sector: echo")
        # The terminal of this test controls no session: what it would send on Ctrl-C is sent here.
        person.process.send_signal(signal.SIGINT)
        person.wait_for(b"asking the guest to shut down")
        person.type(b"it runs on")
        person.wait_for(b"it runs on")
        person.process.send_signal(signal.SIGINT)
        assert person.end() == 130
        assert b"(interrupted)" in person.screen
        assert termios.tcgetattr(person.descriptor) == person.before


def test_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo")
    process = subprocess.Popen(
        words("run", bundle), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"vmpack boot sector: echo\n"
    process.terminate()
    assert process.wait(DEADLINE_S) == 130
    process.stdout.close()


def test_a_reader_that_leaves_ends_the_run(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "endless-output")
    process = subprocess.Popen(
        words("run", bundle), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(DEADLINE_S) == 1


def test_a_reader_that_sleeps_holds_nothing_up(tmp_path: Path) -> None:
    process = subprocess.Popen(
        words("run", sector_bundle(tmp_path, "endless-output"), "--timeout", "1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # Nobody reads: the pipe fills up, and the time-out comes all the same.
        assert process.wait(DEADLINE_S) == 124
        assert process.stderr is not None
        assert b"(timeout)" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_what_a_slow_terminal_missed_is_said() -> None:
    mine, theirs = os.pipe()
    with os.fdopen(mine, "rb") as reader, os.fdopen(theirs, "w") as stream:
        screen = Screen(stream)
        # More than the pipe takes, so that the rest has to wait, and more than may wait.
        screen.show(b"x" * (1 << 20))
        while not screen._skipped:
            screen.show(b"y")
        text = b""
        while b"not shown" not in text:
            text += reader.read1(1 << 16)
        screen.close()
    assert b"bytes of output are not shown]" in text


def test_added_arguments_are_told_in_every_report(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff")
    extra = ("--qemu-arg=-name", "--qemu-arg=x,process=vmpack-test")
    code, told = document("run", bundle, *extra)
    assert (code, told["unverified"]) == (0, ["-name", "x,process=vmpack-test"])
    done = vmpack("run", bundle, *extra)
    assert b"warning: ran with arguments of QEMU that were added: -name x,process" in done.stderr
    code, told = document("verify", bundle, *extra)
    assert told["unverified"] == ["-name", "x,process=vmpack-test"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--forward", "0:80"), "--forward"),
        (("--forward", "80:x"), "--forward"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "3d"), "--timeout"),
        (("--cpus", "0"), "--cpus"),
        (("--cpus", "289"), "at most 288"),
        (("--memory", "0"), "--memory"),
        (("--memory", "64"), "64M"),
        (("--memory", "1.5M"), "whole number of MiB"),
        (("--display", "x11"), "--display"),
        (("--copy-in", "file"), "--copy-in"),
        (("--copy-in", "file:relative"), "--copy-in"),
        (("--copy-out", "/file"), "--copy-out"),
        (("--copy-out", "relative:here"), "absolute"),
        (("--console", "loud"), "--console"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, more: Any, said: str) -> None:
    done = vmpack("run", sector_bundle(tmp_path, "poweroff"), *more, "--accel", "tcg")
    assert done.returncode == 2
    assert said.encode() in done.stderr


def test_work_without_an_agent_is_infrastructure(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo", "guest-agent = false")
    done = vmpack("run", bundle, "--exec", "true")
    assert done.returncode == 125
    assert b"guest-agent = true" in done.stderr


def test_a_guest_that_ends_before_the_command_is_what_counts(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "panic", "guest-agent = true")
    code, told = document("run", bundle, "--exec", "true")
    assert (code, told["kind"], told["exec"]) == (255, "panic", None)


def test_an_agent_that_never_answers_is_given_up(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo", "guest-agent = true")
    done = vmpack("run", bundle, "--exec", "true", "--timeout", "0.5")
    assert done.returncode == 124


def test_a_file_that_is_not_there_is_said_before_the_boot(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "hang", "guest-agent = true")
    done = vmpack("run", bundle, "--copy-in", f"{tmp_path}/none:/x")
    assert done.returncode == 1
    assert b"no such file" in done.stderr.lower()


def test_saving_where_something_is_already_is_refused_before_the_boot(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "hang")
    done = vmpack("run", bundle, "--save", bundle)
    assert done.returncode == 1
    assert b"--force" in done.stderr


def test_a_machine_is_saved_only_when_it_went_down_properly(tmp_path: Path) -> None:
    target = tmp_path / "new.vmpack"
    done = vmpack("run", sector_bundle(tmp_path, "panic"), "--save", target)
    assert done.returncode == 255
    assert not target.exists()
    assert b"is not written" in done.stderr
    code, told = document("run", sector_bundle(tmp_path, "poweroff"), "--save", target)
    assert code == 0
    assert told["saved"]["filename"] == str(target)
    assert vmpack("check", "--full", target).returncode == 0


def test_a_state_stays_and_belongs_to_its_bundle(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert vmpack("run", sector_bundle(tmp_path, "poweroff"), "--state", state).returncode == 0
    assert (state / "state.json").exists()
    done = vmpack("run", sector_bundle(tmp_path, "report"), "--state", state)
    assert done.returncode == 4
    assert b"another bundle" in done.stderr


def test_an_image_is_no_bundle(tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    done = vmpack("run", disk)
    assert done.returncode in {4, 5}
    assert vmpack("run", packed(tmp_path / "empty.vmpack", [disk])).returncode == 1


def test_what_the_host_cannot_give_is_told(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "hang")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = vmpack("run", bundle, "--forward", f"{port}:22")
    assert done.returncode == 125
    assert b"hint: that port is in use" in done.stderr
    assert b'"hostfwd"' not in done.stderr
    file = tmp_path / "file"
    file.touch()
    assert b"is no folder" in vmpack("run", bundle, "--state", file).stderr
    assert b"without --qemu-arg -nonsense" in vmpack("run", bundle, "--qemu-arg=-nonsense").stderr


@pytest.mark.parametrize("command", ["run", "verify"])
def test_what_is_no_bundle_is_named_and_the_next_step_told(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.vmpack").write_bytes(b"x")
    for name, message in ((tmp_path, "is a folder"), (f"{tmp_path}/a.vmpack#root", "is one disk")):
        done = run([sys.executable, "-m", "vmpack", command, name], check=False)
        assert done.returncode == 2
        assert message in done.stderr.decode()
        assert "hint: name " in done.stderr.decode()
