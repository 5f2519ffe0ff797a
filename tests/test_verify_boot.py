"""One boot: how its end is recognised, and what is left to see of one that went wrong."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support import guests
from tests.support.runner import TCG, packed, qemu_of, sector_bundle
from vmpack.bundle import Bundle
from vmpack.runner.milestones import Detector
from vmpack.runner.session import Session
from vmpack.verify import boot as booting
from vmpack.verify import ends
from vmpack.verify.boot import Boot, boot_once
from vmpack.verify.ends import Pause, Quiet, targets_missing

NO_CONSOLE = "serial = []\nguest-agent = false\n"
ECHO = 'expected = { milestones = ["boot sector: *echo"] }\n'


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot sectors have nothing more to do after they greeted."""
    monkeypatch.setattr(booting, "SETTLE_S", 0.2)
    monkeypatch.setattr(ends, "STILL_S", 0.3)


def booted(bundle: Path, **more: Any) -> Boot:
    with Bundle.open(bundle) as opened:
        options = more.pop("options", TCG)
        return asyncio.run(boot_once(opened, options, qemu=qemu_of("machine"), **more))


@pytest.mark.qemu
@pytest.mark.usefixtures("_soon")
def test_a_machine_without_console_and_agent_is_over_when_nothing_moves(tmp_path: Path) -> None:
    """BHV-END-1: the picture is all there is; hardware and reads are seen as well."""
    boot = booted(sector_bundle(tmp_path, "echo", NO_CONSOLE))
    assert boot.good
    assert boot.end == "quiet"
    assert boot.missing == ()
    assert boot.ending.message == "nothing moves any more on screen, console and disks"
    assert boot.observation is not None
    layers = boot.observation.layers
    assert layers["picture"]["screen"]
    assert layers["reads"] == {"disk:root": {"bytes": 512, "operations": 1}}
    assert layers["console"]["lines"] == []


@pytest.mark.qemu
@pytest.mark.usefixtures("_soon")
def test_a_record_says_where_a_boot_ends(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo")
    assert booted(bundle, end="quiet").end == "quiet"
    late = booted(bundle, end="login", options=replace(TCG, timeout_s=1.0))
    assert (late.ending.kind, late.end, late.missing) == ("timeout", "login", ("login",))


@pytest.mark.qemu
@pytest.mark.usefixtures("_soon")
def test_the_configs_own_milestones_end_a_boot_whatever_a_record_says(tmp_path: Path) -> None:
    boot = booted(sector_bundle(tmp_path, "echo", ECHO), end="login")
    assert (boot.good, boot.end) == (True, "milestones")


@pytest.mark.qemu
@pytest.mark.usefixtures("_soon")
def test_nothing_is_observed_unless_asked_for(tmp_path: Path) -> None:
    boot = booted(sector_bundle(tmp_path, "poweroff", 'expected = { ending = "power-off" }\n'))
    assert boot.end == "ending"
    assert boot.observation is not None
    assert boot.observation.layers["ending"]["order"] == ["SHUTDOWN guest-shutdown"]
    bundle = sector_bundle(tmp_path, "echo", ECHO)
    assert booted(bundle, observe=False).observation is None
    changed = booted(bundle, host_name="lab", changed=("--as vmware",))
    assert (changed.host.name, changed.host.changed) == ("lab", ("--as vmware",))


def _kill_qemu(_reached: object) -> None:
    """The only child of this process is QEMU."""
    for child in Path("/proc/thread-self/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.qemu
@pytest.mark.usefixtures("_soon")
def test_what_was_printed_is_left_of_a_qemu_that_died(tmp_path: Path) -> None:
    boot = booted(sector_bundle(tmp_path, "echo", ECHO), on_reached=_kill_qemu)
    assert boot.ending.kind == "qemu-died"
    assert boot.observation is not None
    layers = boot.observation.layers
    assert layers["ending"]["kind"] == "qemu-died"
    assert layers["console"]["lines"] == ["vmpack boot sector: echo"]
    assert "hardware" not in layers
    assert boot.problems


@pytest.mark.qemu
def test_a_login_prompt_and_quiet_end_a_boot(tmp_path: Path) -> None:
    """A real Linux: its milestones with their details, and every disk's reads."""
    disk = guests.copy_of(guests.small("bios"), tmp_path)
    bundle = packed(tmp_path / "small.vmpack", [disk])
    boot = booted(bundle, options=replace(TCG, memory=256 << 20))
    assert (boot.good, boot.end, boot.missing) == (True, "login", ())
    login = next(one.seconds for one in boot.seen if one.name == "login")
    assert boot.ending.seconds - login >= booting.QUIET_S
    assert boot.observation is not None
    layers = boot.observation.layers
    assert layers["milestones"]["order"] == ["kernel", "command-line", "init"]
    assert str(layers["milestones"]["milestone:command-line"]).startswith("BOOT_IMAGE=")
    assert layers["milestones"]["milestone:login"] is True
    assert "pattern:login" not in layers["milestones"]
    reads = layers["reads"]["disk:root"]
    assert isinstance(reads, dict)
    assert isinstance(reads["bytes"], int)
    assert reads["bytes"] > 8 << 20


@dataclass
class Scripted:
    """A session whose clock, console and CPU time are what a case says."""

    effective_seconds: float = 0.0
    cpu_s: float = 0.0
    total: int = 0
    console: Any = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        self.console = self.process = self

    def cpu_seconds(self) -> float:
        return self.cpu_s

    def pass_by(self, seconds: float, *, busy: float = 0.0, printed: int = 0) -> None:
        self.effective_seconds += seconds
        self.cpu_s += busy * seconds
        self.total += printed


def test_an_idle_machine_is_quiet_sooner_than_one_that_computes() -> None:
    """BHV-END-1: what counts is not wall time, but that nothing more is to come."""
    for busy, seconds in ((0.03, 3), (1.0, 9)):
        machine = Scripted()
        quiet = Quiet(cast(Session, machine), Pause(3.0, 30.0))
        machine.pass_by(2, busy=1.0, printed=100)
        passed = 0
        while not quiet.enough:
            machine.pass_by(1, busy=busy)
            passed += 1
        assert passed == seconds


def test_a_console_that_is_never_still_is_not_waited_for_for_ever() -> None:
    machine = Scripted()
    quiet = Quiet(cast(Session, machine), Pause(3.0, 30.0))
    for _ in range(29):
        machine.pass_by(1, printed=1)
        assert not quiet.enough
        assert not quiet.overdue
    machine.pass_by(1, printed=1)
    assert quiet.overdue


@pytest.mark.parametrize(
    ("console", "missing"),
    [
        (b"small login: \r\n", False),
        (b"systemd[1]: Queued start job for default target graphical.target.\r\n", True),
        (
            (
                b"systemd[1]: Queued start job for default target graphical.target - X.\r\n"
                b"[  OK  ] Reached target multi-user.target - Multi-User System.\r\n"
            ),
            True,
        ),
        (
            (
                b"systemd[1]: Queued start job for default target graphical.target.\r\n"
                b"[  OK  ] Reached target graphical.target - Graphical Interface.\r\n"
            ),
            False,
        ),
        (b"Welcome to Debian GNU/Linux 12 (bookworm)!\r\n", True),
        (
            (
                b"Welcome to Debian GNU/Linux 12 (bookworm)!\r\n"
                b"[  OK  ] Reached target multi-user.target - Multi-User System.\r\n"
            ),
            False,
        ),
    ],
)
def test_a_system_is_up_when_its_default_target_is(console: bytes, missing: bool) -> None:
    detector = Detector()
    detector.feed(console, 1.0)
    assert targets_missing(detector) is missing
