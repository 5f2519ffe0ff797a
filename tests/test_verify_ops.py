"""Verification as a library: what contradicts itself, how a record is kept, what a host lacks."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runner import TCG, sector_bundle
from tests.support.tools import require_tool, run
from vmpack.bundle import Bundle
from vmpack.cli.console import Common, Console
from vmpack.cli.verify_show import lines
from vmpack.errors import InputError, OutputError, RefusedError, UsageError, VmpackError
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.verify import verify
from vmpack.ops.verify_record import own_record, record_of, store, times_of
from vmpack.ops.verify_request import RECORD_BOOTS, Request
from vmpack.runner.milestones import Reached
from vmpack.runner.options import RunOptions
from vmpack.runner.qemu import find_qemu
from vmpack.verify.record import read_record

ROOT = Path(__file__).resolve().parents[1]
POWERS_OFF = '[expected]\nmilestones = ["boot sector"]\nending = "power-off"\n'
RECORD = Request(record=True, boots=2)

CONTRADICTIONS: tuple[tuple[Request, RunOptions, str, str], ...] = (
    (Request(record_to="r"), RunOptions(), "--record-to", "add --record"),
    (Request(record=True, force=True), RunOptions(), "--force", "--record-to"),
    (Request(record=True, against="r"), RunOptions(), "--record", "bundle alone"),
    (Request(record=True, as_target="vmware"), RunOptions(), "--record", "bundle alone"),
    (Request(record=True), RunOptions(qemu_args=("-s",)), "--record", "bundle alone"),
    (Request(record=True, on=("a", "b")), RunOptions(), "--record", "on one host"),
    (Request(no_boot=True), RunOptions(), "--no-boot", "name that with --against"),
    (Request(no_boot=True, against="r", record=True), RunOptions(), "--record", "bundle alone"),
    (Request(no_boot=True, against="r", boots=2), RunOptions(), "--no-boot", "leave one"),
    (Request(no_boot=True, against="r", exact=True), RunOptions(), "--no-boot", "leave one"),
    (Request(no_boot=True, against="r", on=("a",)), RunOptions(), "--no-boot", "as they are"),
    (Request(no_boot=True, against="r", preflight=True), RunOptions(), "--no-boot", "as they"),
    (Request(no_boot=True, against="r", as_target="proxmox"), RunOptions(), "--no-boot", "as they"),
    (Request(no_boot=True, against="r"), RunOptions(qemu_args=("-s",)), "--no-boot", "as they"),
    (Request(preflight=True, record=True), RunOptions(), "--preflight", "leave one"),
    (Request(preflight=True, boots=1), RunOptions(), "--preflight", "leave one"),
    (Request(preflight=True, against="r"), RunOptions(), "--preflight", "pins alone"),
    (Request(exact=True, as_target="vmware"), RunOptions(), "--exact", "the bundle's own"),
    (Request(exact=True), RunOptions(accel="kvm"), "--exact", "--accel tcg"),
    (Request(exact=True, against="r"), RunOptions(), "--exact", "this bundle's own"),
    (Request(exact=True, record=True, record_to="r"), RunOptions(), "--exact", "in the bundle"),
    (Request(hosts="h"), RunOptions(), "--hosts", "--on"),
    (Request(boots=1001), RunOptions(), "--boots", "at most 1000"),
)


@pytest.mark.parametrize(("request_", "options", "field", "hint"), CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_with_what_to_do(
    request_: Request, options: RunOptions, field: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        request_.check(options)
    assert caught.value.field == field
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("request_", "boots"),
    [
        (Request(), 1),
        (Request(record=True), RECORD_BOOTS),
        (Request(record=True, boots=5), 5),
        (Request(record=True, record_to="r", force=True), RECORD_BOOTS),
        (Request(against="r", as_target="vmware", on=("a", "b"), hosts="h"), 1),
        (Request(no_boot=True, against="r"), 0),
        (Request(preflight=True, on=("a",)), 0),
        (Request(record=True, exact=True, on=("a",)), RECORD_BOOTS),
    ],
)
def test_what_goes_together(request_: Request, boots: int) -> None:
    request_.check(RunOptions())
    assert request_.boot_count == boots


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a record of two boots."""
    bundle = sector_bundle(tmp_path_factory.mktemp("recorded"), "poweroff", POWERS_OFF)
    assert verify(bundle, RECORD, options=TCG).recorded == str(bundle)
    return bundle


def copied(bundle: Path, folder: Path) -> Path:
    target = folder / "copy.vmpack"
    target.write_bytes(bundle.read_bytes())
    target.chmod(0o444)
    return target


@pytest.mark.qemu
class TestARecord:
    def test_stays_the_same_machine_and_file(self, tmp_path: Path) -> None:
        bundle = sector_bundle(tmp_path, "poweroff", POWERS_OFF)
        bundle.chmod(0o640)
        os.chown(bundle, os.geteuid(), os.getegid())
        (tmp_path / "link").symlink_to(bundle.name)
        with Bundle.open(bundle) as before:
            result = verify(tmp_path / "link", RECORD, options=TCG)
            assert result.exit_code == 0
            assert result.machine_id == before.machine_id
            # Whoever has the old one open still has it whole.
            assert not list(before.check(full=True))
        assert (tmp_path / "link").is_symlink()
        assert bundle.stat().st_mode & 0o7777 == 0o640
        with Bundle.open(bundle) as after:
            assert after.machine_id == result.machine_id
            assert after.id != result.id
            assert after.manifest.provenance["parent"] == result.id
            assert not list(after.check(full=True))
            record = own_record(after)
        assert record is not None
        assert (record.machine_id, record.observation.boots) == (result.machine_id, 2)
        assert sorted(os.listdir(tmp_path)) == ["link", "poweroff.raw", "poweroff.vmpack"]

    def test_is_what_the_next_boot_is_held_against(self, recorded: Path) -> None:
        result = verify(recorded, options=TCG)
        assert (result.kind, result.exit_code) == ("expected", 0)
        assert result.record is not None
        assert (result.record.source, result.record.same_machine) == ("bundle", True)
        (host,) = result.hosts
        assert host.comparison is not None
        assert host.comparison.relation == "same-host"
        assert host.comparison.verdicts["hardware"] == "same"
        assert host.comparison.verdicts["ending"] == "same"
        assert host.pins
        assert not result.notes

    def test_can_be_replaced(self, recorded: Path, tmp_path: Path) -> None:
        bundle = copied(recorded, tmp_path)
        verify(bundle, replace(RECORD, boots=1), options=TCG)
        with Bundle.open(bundle) as opened:
            record = own_record(opened)
            assert record is not None
            assert record.observation.boots == 1

    def test_goes_to_a_file(self, recorded: Path, tmp_path: Path) -> None:
        bundle = copied(recorded, tmp_path)
        before = bundle.read_bytes()
        target = tmp_path / "record.json"
        wish = replace(RECORD, boots=1, record_to=target)
        assert verify(bundle, wish, options=TCG).recorded == str(target)
        assert bundle.read_bytes() == before
        assert json.loads(target.read_text())["boots"] == 1
        text = target.read_text()
        with pytest.raises(OutputError, match="exists already"):
            verify(bundle, wish, options=TCG)
        assert target.read_text() == text
        assert verify(bundle, Request(against=target, no_boot=True)).exit_code == 0

    def test_is_not_made_where_it_could_not_be_kept(self, recorded: Path, tmp_path: Path) -> None:
        """That is found out before the boots."""
        told: list[int] = []
        wish = replace(RECORD, record_to=tmp_path / "no" / "record.json")
        with pytest.raises(OutputError, match="no such file"):
            verify(recorded, wish, options=TCG, on_reached=lambda boot, _one: told.append(boot))
        assert not told
        (tmp_path / "file").write_text("")
        for junit in (tmp_path, tmp_path / "file" / "junit.xml"):
            with pytest.raises(OutputError):
                verify(recorded, Request(junit=junit), options=TCG)

    def test_another_file_in_the_bundles_place_is_left_alone(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        bundle = copied(recorded, tmp_path)
        with Bundle.open(bundle) as opened:
            record = own_record(opened)
            assert record is not None
            (tmp_path / "new").write_bytes(b"somebody else's")
            os.replace(tmp_path / "new", bundle)
            with pytest.raises(RefusedError, match="replaced by another file"):
                store(opened, bundle, record)
        assert bundle.read_bytes() == b"somebody else's"

    def test_can_hold_whatever_a_guest_calls_its_milestones(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        names = ("target cryptsetup.\u2026get", "\x1b[2J", "\udcff", "x" * 5000, "", "login")
        seen = tuple(Reached(name, 0.5 + number) for number, name in enumerate(names))
        bundle = copied(recorded, tmp_path)
        boot = replace(verify(bundle, options=TCG).boots[0], seen=seen)
        with Bundle.open(bundle) as opened:
            store(opened, bundle, record_of(opened, [boot]))
        with Bundle.open(bundle) as opened:
            record = own_record(opened)
        assert record is not None
        assert times_of(record)["login"] == 5500
        assert len(times_of(record)) == len(names) + 1

    def test_other_names_of_the_file_are_told(self, recorded: Path, tmp_path: Path) -> None:
        bundle = copied(recorded, tmp_path)
        os.link(bundle, tmp_path / "other.vmpack")
        with Bundle.open(bundle) as opened:
            record = own_record(opened)
            assert record is not None
            where, warnings = store(opened, bundle, record)
        assert where == str(bundle)
        assert "another name" in warnings[0]
        assert (tmp_path / "other.vmpack").stat().st_nlink == 1

    def test_killed_at_every_step_leaves_the_old_or_the_new(
        self, recorded: Path, tmp_path: Path
    ) -> None:
        record = tmp_path / "record.json"
        with Bundle.open(recorded) as opened:
            document = opened.manifest.behaviour
        record.write_text(json.dumps(document))
        folder = tmp_path / "there"
        folder.mkdir()
        bundle = sector_bundle(tmp_path, "poweroff", POWERS_OFF)
        target = folder / "x.vmpack"
        target.write_bytes(bundle.read_bytes())
        target.chmod(0o640)
        words = [sys.executable, "-m", "tests.support.crashing_record", target, record]
        deaths = json.loads(run(words, cwd=ROOT, timeout_s=120).stdout)
        assert len(deaths) > 10
        with Bundle.open(recorded) as opened:
            machine = opened.machine_id
        new = {"machine-id": machine, "boots": 2, "sound": True, "mode": 0o640}
        for death in deaths:
            after, following = death["after"], death["next"]
            assert following == {**new, "files": ["x.vmpack"]}, death
            assert after.pop("files")
            assert after in (new, {**new, "boots": None}), death
        found = [death["after"]["boots"] for death in deaths]
        assert (found[0], found[-1]) == (None, 2)

    def test_boots_that_disagree_make_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second network card at every other start is what a host promises not to do."""
        real = require_tool("qemu-system-x86_64")
        script = tmp_path / "qemu"
        script.write_text(
            "#!/bin/sh\n"
            f'case "$*" in *fdset*) echo >> {tmp_path}/starts;; *) exec {real} "$@";; esac\n'
            f'[ $(($(wc -l < {tmp_path}/starts) % 2)) = 0 ] || exec {real} "$@"\n'
            f'exec {real} "$@" -device e1000,addr=1d.0,romfile=\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        bundle = sector_bundle(tmp_path, "poweroff", POWERS_OFF)
        before = bundle.read_bytes()
        result = verify(bundle, RECORD, options=TCG, qemu=find_qemu((str(script),)))
        assert (result.kind, result.exit_code, result.recorded) == ("unstable", 1, None)
        assert bundle.read_bytes() == before
        (host,) = result.hosts
        assert len(host.boots) == 2
        assert host.unstable is not None
        assert any("1d.0" in key for key in host.unstable["hardware"])
        assert host.comparison is not None
        assert not host.comparison.good
        told = list(lines(Console(Common()), result))
        at = told.index("not recorded: these were not the same in all boots")
        assert told[at + 1].startswith("  virtual hardware: ")
        assert "pci:00:1d.0" in told[at + 1]
        assert "observed" in "".join(told[at + 2 :])
        assert any(line.startswith("hint: let the guest settle") for line in told)

    def test_a_boot_that_fails_makes_none(self, tmp_path: Path) -> None:
        bundle = sector_bundle(tmp_path, "panic", POWERS_OFF)
        before = bundle.read_bytes()
        result = verify(bundle, RECORD, options=TCG)
        assert (result.exit_code, result.recorded, len(result.boots)) == (255, None, 1)
        assert bundle.read_bytes() == before


@pytest.mark.qemu
class TestComparing:
    def test_a_change_is_found_and_named(self, recorded: Path, tmp_path: Path) -> None:
        disk = recorded.with_name("poweroff.raw")
        changed = tmp_path / "b.vmpack"
        pack([disk], changed, config=MachineConfig.from_toml('memory = "128M"\n' + POWERS_OFF))
        result = verify(changed, Request(against=recorded), options=TCG)
        assert (result.kind, result.exit_code) == ("differs", 1)
        assert result.record is not None
        assert (result.record.source, result.record.same_machine) == (str(recorded), False)
        assert "another machine" in result.notes[0]
        comparison = result.hosts[0].comparison
        assert comparison is not None
        found = {(one.layer, one.item) for one in comparison.differences if one.counts}
        assert ("hardware", "memory.base") in found
        assert result.boots[0].good

    def test_a_bundle_without_a_record_is_no_record(self, recorded: Path, tmp_path: Path) -> None:
        plain = sector_bundle(tmp_path, "poweroff", POWERS_OFF)
        with pytest.raises(InputError, match="no behaviour record") as caught:
            verify(recorded, Request(against=plain, no_boot=True))
        assert "--record" in (caught.value.hint or "")
        with pytest.raises(UsageError, match="no behaviour record"):
            verify(plain, Request(against=recorded, no_boot=True))

    def test_two_records_are_compared_without_a_boot(
        self, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        result = verify(recorded, Request(against=recorded, no_boot=True))
        assert (result.exit_code, result.boots) == (0, ())
        (host,) = result.hosts
        assert host.name == "recorded"
        assert host.host_facts is not None
        assert host.host_facts["accel"] == "tcg"

    def test_more_arguments_for_qemu_promise_less(self, recorded: Path) -> None:
        options = replace(TCG, qemu_args=("-device", "e1000,addr=1d.0,romfile="))
        result = verify(recorded, options=options)
        assert result.unverified == options.qemu_args
        comparison = result.hosts[0].comparison
        assert comparison is not None
        assert comparison.verdicts["hardware"] == "drift"
        assert result.exit_code == 0

    def test_a_damaged_record_is_named(self, recorded: Path, tmp_path: Path) -> None:
        for text in (b"{}", b"[" * 100_000, b'{"vmpack-behaviour": 2}', b"\xff\xfe", b""):
            (tmp_path / "r.json").write_bytes(text)
            with pytest.raises(VmpackError) as caught:
                verify(recorded, Request(against=tmp_path / "r.json", no_boot=True))
            assert caught.value.exit_code in (4, 5), text[:20]
        with pytest.raises(InputError, match="no such file"):
            read_record(tmp_path / "absent.json")


@pytest.mark.qemu
class TestPins:
    def test_are_looked_at_without_a_boot(self, recorded: Path) -> None:
        result = verify(recorded, Request(preflight=True), options=TCG)
        assert (result.exit_code, result.boots, result.record) == (0, (), None)
        (host,) = result.hosts
        assert {pin.pin for pin in host.pins} == {"machine", "cpu.model", "firmware", "devices"}
        machine = next(pin for pin in host.pins if pin.pin == "machine")
        assert machine.expires == "13.2"
        assert {"firmware", "tables", "accelerator"} <= {one.item for one in host.left_open}

    @pytest.mark.parametrize("preflight", [True, False])
    def test_that_are_missing_end_it_before_the_boot(
        self, tmp_path: Path, *, preflight: bool
    ) -> None:
        bundle = sector_bundle(tmp_path, "poweroff", 'cpu.model = "Skylake-Server-v1"\n')
        result = verify(bundle, Request(preflight=preflight), options=TCG)
        assert (result.kind, result.exit_code) == ("pin-unavailable", 125)
        (host,) = result.hosts
        assert host.boots == ()
        assert [pin.pin for pin in host.pins if pin.status == "unavailable"] == ["cpu.model"]
        assert host.error is not None
        assert "avx512f" in str(host.error["message"])
        assert host.error["hint"]

    def test_of_firmware_are_a_kind_of_their_own(self, tmp_path: Path) -> None:
        digest = "sha256:" + "00" * 32
        bundle = sector_bundle(tmp_path, "poweroff", f'firmware.digest = "{digest}"\n')
        result = verify(bundle, options=TCG)
        assert (result.kind, result.exit_code) == ("firmware-missing", 125)

    def test_without_any_qemu(
        self, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("VMPACK_QEMU", raising=False)
        monkeypatch.setattr("vmpack.runner.qemu.OTHER_PLACES", ())
        result = verify(recorded, options=TCG)
        assert (result.kind, result.exit_code) == ("qemu-missing", 125)
        assert result.hosts[0].pins == ()
