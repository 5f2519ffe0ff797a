"""``vmpack verify``: what is expected is found, or what came instead is named; whole reports."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import TCG, sector_bundle
from vmpack.errors import UsageError
from vmpack.ops.verify import verify
from vmpack.runner.options import RunOptions
from vmpack.verify import boot as booting
from vmpack.verify.boot import Boot

pytestmark = pytest.mark.qemu
DEADLINE_S = 150
ECHO = "boot sector: *echo"


@pytest.fixture(autouse=True)
def _settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot sectors have nothing more to do after they greeted."""
    monkeypatch.setattr(booting, "SETTLE_S", 0.2)


def expecting(*milestones: str, ending: str | None = None, more: str = "") -> str:
    lines = ["[expected]", f"milestones = {json.dumps(milestones)}"]
    lines += [f'ending = "{ending}"'] if ending else []
    return "\n".join([*lines, more])


def only_boot(bundle: Path, **more: Any) -> Boot:
    (boot,) = verify(bundle, options=TCG, **more).boots
    return boot


def vmpack(*more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vmpack", *map(str, more)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_milestones_are_reached_with_their_times(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo", expecting("vmpack boot", "sector: echo"))
    seen: list[str] = []
    boot = only_boot(bundle, on_reached=lambda _boot, milestone: seen.append(milestone.name))
    assert boot.good
    assert seen == ["vmpack boot", "sector: echo"]
    assert boot.ending.message == "every milestone was reached"
    assert [one.name for one in boot.reached] == ["vmpack boot", "sector: echo"]
    assert all(0 < one.seconds <= boot.ending.seconds for one in boot.reached)
    assert boot.ending.picture is not None


@pytest.mark.parametrize(
    ("sector", "ending", "others"),
    [
        ("poweroff", "power-off", ("panic", "running")),
        ("panic", "panic", ("power-off", "running")),
        ("hang", "hang", ()),
        ("reset", "reset", ()),
    ],
)
def test_the_ending_is_part_of_what_is_expected(
    tmp_path: Path, sector: str, ending: str, others: tuple[str, ...]
) -> None:
    config = expecting("boot sector", ending=ending)
    assert only_boot(sector_bundle(tmp_path, sector, config)).good
    for other in others:
        boot = only_boot(sector_bundle(tmp_path, sector, expecting("boot sector", ending=other)))
        assert not boot.good, (sector, other)


def test_an_ending_alone_can_be_expected(tmp_path: Path) -> None:
    assert only_boot(sector_bundle(tmp_path, "poweroff", '[expected]\nending="power-off"')).good


def test_a_milestone_that_never_comes_is_named(tmp_path: Path) -> None:
    boot = only_boot(sector_bundle(tmp_path, "poweroff", expecting("boot sector", "login:")))
    assert (boot.good, boot.missing) == (False, ("login:",))
    assert boot.ending.kind == "unexpected"
    assert "not reached: 'login:'" in boot.ending.message


def test_a_time_out_is_one(tmp_path: Path) -> None:
    result = verify(
        sector_bundle(tmp_path, "echo", expecting("never")),
        options=RunOptions(accel="tcg", timeout_s=0.3),
    )
    assert (result.exit_code, result.boots[0].ending.kind) == (124, "timeout")
    config = expecting("never").replace("[expected]", "[expected]\ntimeout = 1")
    result = verify(sector_bundle(tmp_path, "echo", config), options=RunOptions(accel="tcg"))
    assert result.exit_code == 124


def test_a_machine_that_goes_down_before_its_milestone_is_no_success(tmp_path: Path) -> None:
    boot = only_boot(sector_bundle(tmp_path, "poweroff", expecting("never", ending="power-off")))
    assert boot.ending.kind == "unexpected"


def test_without_expectations_it_is_a_login(tmp_path: Path) -> None:
    boot = only_boot(sector_bundle(tmp_path, "poweroff"))
    assert boot.missing == ("login",)
    assert boot.as_dict()["milestones"] == [{"name": "login", "milliseconds": None}]


def test_checks_type_and_wait(tmp_path: Path) -> None:
    more = """
[[verify.check]]
wait-for = "sector: echo"
[[verify.check]]
name = "hello"
send = "hello there\\n"
[[verify.check]]
wait-for = "hello*there"
[[verify.check]]
screenshot = "after"
"""
    bundle = sector_bundle(tmp_path, "echo", expecting("echo", more=more))
    result = verify(bundle, options=TCG, report=tmp_path / "report")
    (boot,) = result.boots
    assert boot.good, boot.ending
    assert [(each.name, each.verdict) for each in boot.checks] == [
        ("check 1", "passed"),
        ("hello", "passed"),
        ("check 3", "passed"),
        ("check 4", "not-compared"),
    ]
    picture = tmp_path / "report" / "here" / "boot-1.check-4.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ('wait-for = "never"\ntimeout = 1', "not done within 1 s"),
        ('command = "true"', "guest-agent = true"),
        ('command = "true"\ntimeout = 1', "guest-agent = true"),
    ],
)
def test_a_check_that_fails_ends_the_boot(tmp_path: Path, check: str, says: str) -> None:
    more = f'[[verify.check]]\nname = "first"\n{check}\n[[verify.check]]\nsend = "x"\n'
    config = "guest-agent = false\n" + expecting("echo", more=more)
    boot = only_boot(sector_bundle(tmp_path, "echo", config))
    assert boot.ending.kind == "unexpected"
    assert boot.ending.message.startswith("check first failed: ")
    assert says in boot.ending.message
    assert len(boot.checks) == 1


def test_a_guest_that_ends_during_a_check_is_what_counts(tmp_path: Path) -> None:
    more = '[[verify.check]]\nsend = "!"\n[[verify.check]]\nname = "after"\nwait-for = "never"\n'
    boot = only_boot(sector_bundle(tmp_path, "echo", expecting("echo", more=more)))
    assert not boot.good
    assert "the guest powered off" in boot.ending.message
    assert "check after" in boot.ending.message


def test_the_first_bad_boot_is_the_last_one(tmp_path: Path) -> None:
    good = sector_bundle(tmp_path, "poweroff", expecting("sector", ending="power-off"))
    assert len(verify(good, options=TCG, boots=3).boots) == 3
    bad = sector_bundle(tmp_path, "panic", expecting("sector"))
    result = verify(bad, options=TCG, boots=3)
    assert (len(result.boots), result.exit_code) == (1, 255)


def test_a_machine_that_dies_after_its_last_milestone_is_no_success(tmp_path: Path) -> None:
    boot = only_boot(sector_bundle(tmp_path, "poweroff", expecting("boot sector")))
    assert (boot.ending.kind, boot.missing) == ("unexpected", ())
    assert boot.ending.message == "the guest powered off after the last milestone"


def test_nothing_of_a_verification_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no state"):
        verify(sector_bundle(tmp_path, "echo"), options=RunOptions(state_dir=tmp_path / "state"))


def test_the_report_tells_all_of_it(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff", expecting("sector", ending="power-off"))
    folder = tmp_path / "new" / "report"
    done = vmpack("verify", bundle, "--boots", 2, "--report", folder, "--output", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert json.loads((folder / "report.json").read_text()) == told
    kinds = ("console.txt", "observation.json", "png")
    boots = {f"here/boot-{number}.{kind}" for number in (1, 2) for kind in kinds}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == boots | {"report.json", "index.html"}
    assert sorted(told["report"]) == sorted(str(folder / name) for name in there)
    text = (folder / "here" / "boot-1.console.txt").read_text()
    assert text == "vmpack boot sector: poweroff\n"
    assert told["kind"] == "expected"
    assert [boot["good"] for boot in told["boots"]] == [True, True]


def test_the_report_for_people(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "panic", expecting("boot sector", "never"))
    done = vmpack("verify", bundle, "--verbose")
    assert done.returncode == 255
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("boot: QEMU ")
    assert lines[1].split() == ["reached", "milestone"]
    assert lines[2].endswith(" s  boot sector")
    assert lines[3].split() == ["never", "never"]
    assert lines[4].startswith("  panic: the guest panicked; not reached: ")
    assert lines[5] == "  | vmpack boot sector: panic"
    assert "boot sector" in done.stderr.decode()


def test_ctrl_c_ends_a_verification(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "echo", expecting("echo", "never"))
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "vmpack", "verify", "-v", str(bundle)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        assert b"echo" in process.stderr.readline()
        process.send_signal(number)
        said, more = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert (said, more) == (b"", b"vmpack: interrupted\n")
