"""``vmpack verify`` as a command: what people and scripts read, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import HOSTS, qemu_of, sector_bundle
from tests.support.tools import missing
from vmpack.bundle import Bundle
from vmpack.cli.main import run
from vmpack.ops.verify_record import own_record, store
from vmpack.verify.layers import LAYERS
from vmpack.verify.record import Record, read_record

pytestmark = pytest.mark.qemu
DEADLINE_S = 150
POWERS_OFF = '[expected]\nmilestones = ["boot sector"]\nending = "power-off"\n'
TCG = ("--accel", "tcg")
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202e<b>\r::error ##[error]x"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a record."""
    return sector_bundle(tmp_path_factory.mktemp("plain"), "poweroff", POWERS_OFF)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that the command has recorded, with what it said beside it."""
    path = sector_bundle(tmp_path_factory.mktemp("recorded"), "poweroff", POWERS_OFF)
    done = vmpack("verify", path, "--record", "--boots", 2, *TCG)
    assert done.returncode == 0, done.stderr
    path.with_suffix(".txt").write_bytes(done.stdout)
    return path


def vmpack(*more: object, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vmpack", *map(str, more)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **environ},
        timeout=DEADLINE_S,
        check=False,
    )


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[str]:
    assert run([*map(str, words)]) == code, capsys.readouterr()
    return capsys.readouterr().out.splitlines()


def document(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    return json.loads("\n".join(said(capsys, *words, "--output", "json", code=code)))


def with_record(bundle: Path, target: Path, record: Record) -> Path:
    """A copy of ``bundle`` whose record is ``record``."""
    target.write_bytes(bundle.read_bytes())
    with Bundle.open(target) as opened:
        store(opened, target, record)
    return target


def changed(record: Record, layer: str, key: str, value: Any) -> Record:
    """``record`` with another value of one fact."""
    seen = record.observation
    layers: Any = {name: dict(facts) for name, facts in seen.layers.items()}
    layers.setdefault(layer, {})[key] = value
    return replace(record, observation=replace(seen, layers=layers))


def test_a_recording_for_people(recorded: Path) -> None:
    lines = recorded.with_suffix(".txt").read_text().splitlines()
    assert lines[0].startswith("QEMU ")
    assert lines[0].endswith(", tcg (asked for)")
    assert [line.split(":")[0] for line in lines[1:3]] == ["  boot 1", "  boot 2"]
    assert lines[3] == f"recorded 2 boots in {recorded}"


def test_a_bundle_without_a_record_says_how_to_make_one(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "verify", bundle, *TCG)
    assert lines[-1].startswith("hint: ")
    assert lines[-1].endswith(f"vmpack verify --record {bundle}")


def test_info_tells_of_the_record(
    recorded: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = (line for line in said(capsys, "info", recorded) if line.startswith("record"))
    assert line.split(None, 1)[1].startswith("2 boots on QEMU ")
    assert line.endswith(", tcg")
    assert not [line for line in said(capsys, "info", bundle) if line.startswith("record")]


def test_a_boot_as_recorded_in_both_forms(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "verify", recorded, *TCG)
    assert (found["kind"], found["exit-code"], found["recorded"]) == ("expected", 0, None)
    record = found["record"]
    assert (record["source"], record["boots"], record["same-machine"]) == ("bundle", 2, True)
    assert record["host"]["accel"] == "tcg"
    (host,) = found["hosts"]
    assert (host["name"], host["kind"], host["error"]) == ("here", "expected", None)
    assert host["boots"] == found["boots"]
    assert host["facts"]["firmware"].startswith("sha256:")
    assert list(host["comparison"]["layers"]) == [row.name for row in LAYERS]
    assert host["comparison"]["differences"] == []
    assert found["report"] == []


def test_a_difference_for_people(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = changed(read_record(recorded), "hardware", "machine", "pc-q35-5.2")
    other = with_record(recorded, tmp_path / "other.vmpack", record)
    lines = said(capsys, "verify", recorded, "--against", other, "--no-boot", code=1)
    (row,) = (line for line in lines if line.strip().startswith("virtual hardware"))
    assert "differs" in row
    assert "1 difference" in row
    at = lines.index("1. virtual hardware: machine is another")
    assert lines[at + 1] == "   expected  pc-q35-5.2"
    assert lines[at + 2] == "   observed  pc-q35-7.2"
    assert lines[at + 3].startswith("   usually: ")
    assert lines[-1] == "it does not behave as recorded"
    assert not said(capsys, "verify", recorded, "--against", other, "--no-boot", "-q", code=1)


def test_nothing_that_a_record_says_reaches_a_terminal(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """hostile: a record comes with the bundle, from anybody."""
    record = read_record(recorded)
    for layer in ("hardware", "guest", "milestones", "ending"):
        record = changed(record, layer, f"unit:{HOSTILE}", HOSTILE)
    record = changed(record, "console", "lines", [HOSTILE] * 50)
    record = replace(
        record, vmpack=HOSTILE, extra={"times": {HOSTILE: 1, "login": HOSTILE, "x": -5}}
    )
    host = replace(record.observation.host, qemu=HOSTILE, accel=HOSTILE, name=HOSTILE)
    record = replace(record, observation=replace(record.observation, host=host))
    other = with_record(recorded, tmp_path / "other.vmpack", record)
    for words in (
        ("verify", recorded, "--against", other, "--no-boot", "--verbose"),
        ("verify", recorded, "--against", other, "--no-boot", "--report", tmp_path / "report"),
        ("verify", other, "--against", recorded, "--no-boot"),
        ("verify", other, "--against", recorded, "--no-boot", "--output", "json"),
        ("info", other),
    ):
        run([*map(str, words)])
        out, err = capsys.readouterr()
        for text in (out, err):
            assert all(one == "\n" or " " <= one < "\x7f" or one > "\xa0" for one in text), words
            assert "\u202e" not in text


def test_differences_are_cut_and_counted(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(recorded)
    for number in range(50):
        record = changed(record, "hardware", f"pci:00:{number:02x}.7", {"vendor": "x" * 2000})
    other = with_record(recorded, tmp_path / "other.vmpack", record)
    lines = said(capsys, "verify", recorded, "--against", other, "--no-boot", code=1)
    assert "   and 44 more: --report DIR shows all of them" in lines
    assert sum("pci:00:" in line for line in lines) == 6
    assert max(map(len, lines)) < 600


def test_preflight_for_people_and_scripts(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "verify", recorded, "--preflight", *TCG)
    assert lines[0].startswith("available  machine pc-q35-7.2")
    assert "not pinned: the host decides" in lines
    assert lines[-1] == "the pins are available"
    found = document(capsys, "verify", recorded, "--preflight", *TCG)
    assert found["hosts"][0]["left-open"]
    assert found["boots"] == []
    lacking = sector_bundle(tmp_path, "poweroff", 'cpu.model = "Skylake-Server-v1"\n')
    for more in (["--preflight"], []):
        assert run(["verify", str(lacking), *more, *TCG]) == 125
        out, err = capsys.readouterr()
        assert "unavailable  cpu.model Skylake-Server-v1: TCG here lacks" in out
        assert err.startswith("vmpack: error: this host cannot provide cpu.model")
        assert "hint: " in err
    found = document(capsys, "verify", lacking, "-q", *TCG, code=125)
    assert (found["kind"], found["hosts"][0]["error"]["kind"]) == ("pin-unavailable",) * 2


def test_a_machine_type_that_goes_is_told(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = qemu_of(HOSTS[-1])
    if newest.version[0] < 11:
        missing("a QEMU that calls the machine type deprecated", "run `make hosts`")
    monkeypatch.setenv("VMPACK_QEMU", " ".join(newest.prefix))
    assert run(["verify", str(bundle), "--preflight", *TCG]) == 0
    err = capsys.readouterr().err
    assert "warning: machine pc-q35-7.2: " in err
    assert "record it again" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--no-boot"], "--no-boot: is not enough"),
        (["--record", "--against", "x"], "--record: does not go with --against"),
        (["--record", "--as", "vmware"], "--record: does not go with --as"),
        (["--as", "qemu"], "--as"),
        (["--on", "nowhere"], "nowhere"),
        (["--boots", "0"], "--boots"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    recorded: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(recorded), *words]) == 2
    assert says in capsys.readouterr().err


def test_exact_is_refused_for_several_cpus(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(recorded), "--exact"]) == 4
    assert "exact mode is for machines with one CPU" in capsys.readouterr().err


def test_in_a_workflow_of_github_nothing_is_a_command_but_ours(
    recorded: Path, tmp_path: Path
) -> None:
    record = changed(read_record(recorded), "hardware", "disk:::error ::x", HOSTILE)
    other = with_record(recorded, tmp_path / "other.vmpack", record)
    done = vmpack(
        *("verify", recorded, "--against", other, "--no-boot", "--report", tmp_path / "report"),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
        GITHUB_OUTPUT=str(tmp_path / "output"),
    )
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    after = lines[lines.index(f"::{token}::") + 1 :]
    assert after
    assert all(line.startswith(("::error title=", "::warning title=")) for line in after)
    assert "differs" in (tmp_path / "output").read_text()
    assert str(tmp_path / "report" / "index.html") in (tmp_path / "output").read_text()
    assert (tmp_path / "summary").read_text().startswith("<h2>")


def test_hosts_stand_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Without a screen: that of a boot sector still shows the firmware's version.
    bundle = sector_bundle(tmp_path, "poweroff", f'display.model = "none"\n{POWERS_OFF}')
    said(capsys, "verify", bundle, "--record", "--boots", 1, *TCG)
    place = Path(qemu_of("trixie").prefix[-1]).parents[2]
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(f'[host.other]\nroot = "{place}"\n')
    words = ("verify", bundle, "--on", "here", "--on", "other", "--hosts", hosts, *TCG)
    lines = said(capsys, *words)
    (head,) = (line for line in lines if line.startswith("layer"))
    assert head.split() == ["layer", "here", "other"]
    rows = {line.split()[0]: line.split() for line in lines[lines.index(head) :] if line}
    assert rows["boot"] == ["boot", "expected", "expected"]
    assert rows["milestones"] == ["milestones", "same", "same"]
    assert lines[-1] == "it behaves as recorded"


def test_a_record_of_before_a_change_is_told(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = replace(read_record(recorded), machine_id="sha256:" + "0" * 64)
    other = with_record(recorded, tmp_path / "other.vmpack", record)
    assert run(["verify", str(other), *TCG]) == 0
    assert "warning: the record is of another machine" in capsys.readouterr().err
    assert any("of another machine" in line for line in said(capsys, "info", other))
    with Bundle.open(other) as opened:
        assert own_record(opened) == record


def test_as_another_hypervisor_less_is_promised(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "verify", recorded, "--as", "vmware", *TCG)
    assert (
        "  changed on purpose (--as vmware): ending, milestones and own checks are promised"
        in lines
    )
    (row,) = (line for line in lines if line.strip().startswith("virtual hardware"))
    assert "drift" in row
    assert any(line.startswith("note: disk root: on pvscsi") for line in lines)
    assert lines[-1] == "it behaves as recorded"
    assert run(["verify", str(recorded), "--as", "azure"]) == 125
    assert "lint" in capsys.readouterr().err


def test_a_deterministic_boot_is_kept_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sector_bundle(tmp_path, "poweroff", f"cpu.cores = 1\n{POWERS_OFF}")
    said(capsys, "verify", path, "--record", "--exact", "--boots", 1, *TCG)
    lines = said(capsys, "verify", path, "--exact", *TCG)
    assert any(line.startswith("replay: same: ") for line in lines)
    (line,) = (line for line in said(capsys, "info", path) if line.startswith("record"))
    assert line.endswith("; with one to replay")
    # A new record without one leaves nothing of it behind.
    plain = with_record(path, tmp_path / "plain.vmpack", replace(read_record(path), replay=None))
    assert not any("replay" in line for line in said(capsys, "info", plain))
