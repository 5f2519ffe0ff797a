"""``vmpack doctor``: what this host has, what a bundle pins, and a hint wherever one lacks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import HOSTS, packed, qemu_of
from tests.support.tools import find_tool, require_tool
from vmpack.cli.main import run
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops.doctor import doctor
from vmpack.ops.doctor_bundle import diagnose
from vmpack.runner.left_open import left_open
from vmpack.runner.preflight import Pin, _why_absent, expiry, preflight

pytestmark = pytest.mark.qemu


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VMPACK_QEMU", raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    return packed(tmp_path / "app.vmpack", [tmp_path / "disk.raw"])


def document(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> Any:
    assert run(["doctor", *words, "--output", "json"]) == code
    return json.loads(capsys.readouterr().out)


def test_this_host_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    require_tool("qemu-system-x86_64")
    found = document(capsys, code=0)
    assert found["ready"] is True
    assert found["qemu"][0]["path"] == require_tool("qemu-system-x86_64")
    assert found["qemu"][0]["used"] is True
    assert found["qemu"][0]["zstd"] is True
    kvm, tcg = found["accelerators"]
    assert (kvm["accelerator"], tcg["accelerator"]) == ("kvm", "tcg")
    assert tcg["usable"] is True
    assert {one["kind"] for one in found["firmware"]} == {"bios", "uefi"}
    assert any(one.get("enrolled-keys") for one in found["firmware"])
    assert (found["swtpm"] is not None) == (find_tool("swtpm") is not None)
    assert "bundle" not in found
    for one in found["diagnoses"]:
        assert one["status"] == "ok" or one["hint"], one


def test_this_host_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    require_tool("qemu-system-x86_64")
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("QEMU ")
    assert lines[-1] == "a bundle runs here"
    assert any(line.startswith("ok") and " tcg: " in line for line in lines)


def test_a_host_without_anything(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bundle: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("vmpack.runner.qemu.OTHER_PLACES", ())
    found = document(capsys, str(bundle), code=125)
    assert found["ready"] is False
    assert (found["qemu"], found["accelerators"], found["swtpm"]) == ([], [], None)
    assert [one["status"] for one in found["diagnoses"]] == ["missing", "warning", "warning"]
    assert all(one["hint"] for one in found["diagnoses"])
    assert [one["status"] for one in found["pins"]] == ["unavailable"]
    assert run(["doctor"]) == 125
    assert capsys.readouterr().out.endswith("a bundle does not run here\n")


def test_a_qemu_that_is_named_stands_beside_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = require_tool("qemu-system-x86_64")
    (tmp_path / "qemu").write_text(f'#!/bin/sh\nexec {real} "$@" | sed -u \'s/"zstd"/"zst"/g\'\n')
    (tmp_path / "qemu").chmod(0o755)
    monkeypatch.setenv("VMPACK_QEMU", str(tmp_path / "qemu"))
    result = doctor()
    assert [(one.used, one.zstd) for one in result.qemus[:2]] == [(True, False), (False, True)]
    assert result.exit_code == 125
    (lacking,) = (one for one in result.diagnoses if one.status == "missing")
    assert "without zstd" in lacking.message


@pytest.mark.parametrize("host", HOSTS)
def test_a_bundles_pins_on_each_qemu(host: str, bundle: Path) -> None:
    qemu = qemu_of(host)
    result = doctor(bundle, qemu_prefix=qemu.prefix, accel="tcg")
    assert result.ready
    assert result.pins is not None
    status = {one.pin: one.status for one in result.pins}
    machine = "deprecated" if qemu.version[0] >= 11 else "available"
    others = dict.fromkeys(("cpu.model", "firmware", "devices"), "available")
    assert status == {"machine": machine, **others}


def test_pins_that_a_host_lacks_end_with_125(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cpu = 'cpu.model = "Skylake-Server-v1"\n'
    packed(bundle, [tmp_path / "disk.raw"], cpu)
    found = document(capsys, str(bundle), "--accel", "tcg", code=125)
    assert found["bundle"] == str(bundle)
    (lacking,) = (one for one in found["pins"] if one["status"] == "unavailable")
    assert lacking["pin"] == "cpu.model"
    assert "avx512f" in lacking["message"]
    assert lacking["hint"]
    assert run(["doctor", str(bundle), "--accel", "tcg"]) == 125
    text = capsys.readouterr().out
    assert "unavailable  cpu.model Skylake-Server-v1" in text
    assert text.endswith("this bundle does not run here\n")


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    error = document(capsys, str(tmp_path / "x"), code=4)["error"]
    assert error["kind"] == "refused"


def pins_of(toml: str, host: str = "machine") -> dict[str, Pin]:
    config = pin(MachineConfig.from_toml(toml), [DiskFacts(id="root", size=1 << 20)], seed=b"x")
    return {one.pin: one for one in preflight(config, qemu_of(host), "tcg")}


@pytest.mark.parametrize(
    ("toml", "field", "message"),
    [
        ('machine = "pc-q35-9.2"', "machine", "QEMU 7.2.22 is too old for it"),
        ('machine = "pc-q35-1.0"', "machine", "no longer has it"),
        ('cpu.model = "SierraForest-v1"', "cpu.model", "does not know it"),
        ('cpu.flags = ["+avx512f"]', "cpu.flags", "lacks avx512f"),
        ('[[nic]]\nmodel = "igb"', "devices", "no such device"),
    ],
)
def test_each_pin_is_told_by_itself(toml: str, field: str, message: str) -> None:
    found = pins_of(toml)
    assert found[field].status == "unavailable"
    assert message.replace("7.2.22", _version()) in found[field].message
    assert found[field].hint
    assert [name for name, one in found.items() if one.status == "unavailable"] == [field]


def _version() -> str:
    return ".".join(map(str, qemu_of("machine").version))


def test_a_machine_type_that_a_distribution_left_out_is_told_apart() -> None:
    assert _why_absent("pc-q35-7.2", (9, 0))[0] == "was built without it"
    assert _why_absent("pc-q35-7.2", (7, 1))[0] == "is too old for it"
    assert _why_absent("pc-q35-7.2", (13, 2))[0] == "no longer has it"


def test_features_that_a_flag_takes_away_are_not_missed() -> None:
    model = 'cpu.model = "SandyBridge-v1"\n'
    assert pins_of(model)["cpu.model"].status == "unavailable"
    off = 'cpu.flags = ["-tsc-deadline", "-x2apic"]\n'
    assert pins_of(model + off)["cpu.model"].status == "available"
    assert pins_of('cpu.flags = ["+aes"]\n')["cpu.flags"].status == "available"


def test_a_tpm_needs_swtpm(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu_of("machine")
    monkeypatch.setattr("vmpack.runner.tpm.find_swtpm", lambda: None)
    assert pins_of("tpm = {}")["tpm"].status == "unavailable"
    monkeypatch.setattr("vmpack.runner.tpm.find_swtpm", lambda: "/usr/bin/swtpm")
    assert pins_of("tpm = {}")["tpm"].status == "available"


def test_firmware_that_is_not_here_is_a_pin_of_its_own() -> None:
    digest = "sha256:" + "0" * 64
    found = pins_of(f'firmware = {{kind = "uefi", digest = "{digest}"}}')
    assert found["firmware.digest"].status == "unavailable"
    assert found["devices"].status == "available"


def test_when_a_machine_type_goes() -> None:
    """QEMU's rule: three years until it is deprecated, six until it is gone."""
    assert expiry("pc-q35-7.2") == "13.2"
    assert expiry("pc-i440fx-10.0") == "16.0"
    assert expiry("pc-q35-4.0.1") == "10.0"
    found = pins_of("", "trixie-backports")["machine"]
    assert found.status == "deprecated"
    assert "QEMU 13.2 will not" in found.message
    gone = [name for name in ("pc-q35-5.1", "pc-q35-5.2") if expiry(name) == "11.1"]
    assert gone == ["pc-q35-5.1"]
    assert pins_of('machine = "pc-q35-5.1"', "trixie-backports")["machine"].status == "unavailable"
    assert pins_of('machine = "pc-q35-5.2"', "trixie-backports")["machine"].status == "deprecated"


def test_doctor_leaves_no_process_behind(bundle: Path) -> None:
    doctor(bundle)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert children == ""


def test_what_pins_leave_open_and_what_all_qemus_have(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, str(bundle), "--accel", "tcg", code=0)
    items = {one["item"]: one for one in found["left-open"]}
    assert set(items) == {"firmware", "option-roms", "tables", "accelerator", "clock", "network"}
    assert "--embed-firmware" in items["firmware"]["hint"]
    machines = {one["name"]: one["expires"] for one in found["common"]["machine-types"]}
    assert machines["pc-q35-7.2"] == "13.2"
    assert all(name.startswith("pc-q35-") for name in machines)
    assert list(machines)[-1] == min(machines, key=lambda name: version(name))
    assert "Nehalem-v1" in found["common"]["cpu-models"]
    assert "Skylake-Server-v1" not in found["common"]["cpu-models"]
    (machine,) = (one for one in found["pins"] if one["pin"] == "machine")
    assert machine["expires"] == "13.2"
    assert run(["doctor", str(bundle), "--accel", "tcg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("not pinned: this host decides")
    assert lines[at + 1].startswith("firmware ")
    assert any(line.startswith("machine  ") and "until QEMU 13.2" in line for line in lines)


def version(name: str) -> list[int]:
    return [int(part) for part in name.rpartition("-")[2].split(".")]


def test_machine_types_of_two_qemus_are_those_of_both(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest QEMU calls old types deprecated; the oldest one lacks new ones."""
    old, new = qemu_of(HOSTS[0]), qemu_of(HOSTS[-1])
    monkeypatch.setenv("PATH", os.path.dirname(old.prefix[-1]))
    both = diagnose(bundle, [new, old], "tcg").common
    assert both is not None
    assert both == diagnose(bundle, [old, new], "tcg").common
    alone = [diagnose(bundle, [one], "tcg").common for one in (old, new)]
    for one in alone:
        assert one is not None
        assert set(both.machines) <= set(one.machines)
        assert set(both.cpu_models) <= set(one.cpu_models)
    if new.version[0] >= 11:
        assert "pc-q35-7.2" not in both.machines


def test_a_machine_that_leaves_little_open(tmp_path: Path) -> None:
    config = """
machine = "pc-q35-7.2"
[firmware]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[rtc]
start = "2026-01-01T00:00:00"
"""
    machine = pin(MachineConfig.from_toml(config), [DiskFacts("root", 1 << 20)], seed=b"x" * 32)
    machine = machine.model_copy(update={"nics": (), "smbios": type(machine.smbios)()})
    found = {one.item: one for one in left_open(machine, qemu_of("machine"), "kvm")}
    assert set(found) == {"option-roms", "smbios", "tables", "accelerator"}
    assert "bios.vendor" in found["smbios"].message
    assert "microcode" in found["accelerator"].message
