"""Lint: limits of every registered target, what PATH may be, exit codes, lint before exports."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.boot_disks import initramfs, patch, pe_file, uefi_disk
from tests.support.bundles import raw_reader
from tests.support.disks import random_disk
from tests.support.spec_tables import SPECS
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.cli.main import run
from vmpack.errors import UnsupportedError, UsageError
from vmpack.hypervisors.base import Hypervisor, Limits
from vmpack.machine import MachineConfig, pe_structs
from vmpack.ops.lint import lint, lint_machine
from vmpack.ops.lint_codes import CODES
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle
from vmpack.units import GiB, MiB

LOADER = "EFI/BOOT/BOOTX64.EFI"
TARGETS = [name for name in hypervisors.names() if hypervisors.get(name).plan is not None]
MACHINE = """
name = "web/1"
memory = "8 GiB"
[cpu]
sockets = 2
cores = 4
[firmware]
kind = "uefi"
secure-boot = true
[tpm]
version = "2.0"
[[disk]]
id = "root"
bus = "virtio-blk"
[[nic]]
model = "virtio-net"
""".replace("web/1", "web 1")


def target(**values: object) -> Hypervisor:
    """A hypervisor with these limits."""
    return Hypervisor("test", "Test", limits=Limits(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "code", "field"),
    [
        ({"max_disk": MiB}, "limit-disk-size", "disk[0]"),
        ({"disk_alignment": MiB}, "limit-disk-alignment", "disk[0]"),
        ({"max_cpus": 7}, "limit-cpus", "cpu"),
        ({"max_memory": 4 * GiB}, "limit-memory", "memory"),
        ({"firmware": ("bios",)}, "limit-firmware", "firmware.kind"),
        ({"secure_boot": False}, "limit-secure-boot", "firmware.secure-boot"),
        ({"tpm": False}, "limit-tpm", "tpm"),
        ({"disk_buses": ("sata", "ide")}, "limit-disk-bus", "disk[0].bus"),
        ({"nic_models": ("e1000",)}, "limit-nic-model", "nic[0].model"),
        ({"name_pattern": "[a-z0-9-]+"}, "limit-name", "name"),
    ],
)
def test_each_limit(limits: dict[str, object], code: str, field: str, tmp_path: Path) -> None:
    """LINT-LIMIT-1: what is beyond a limit is found, and what is at it is not."""
    random_disk(tmp_path / "disk", MiB + 512)
    reader = raw_reader(tmp_path / "disk")
    config = MachineConfig.from_toml(MACHINE)

    def found(**values: object) -> dict[str, str]:
        findings = lint_machine(target(**values), config, {"root": reader}, {"tpm-state": b""})
        return {one.code: one.field for one in findings if one.code.startswith("limit")}

    assert found(**limits) == {code: field}
    at_it = {
        "max_disk": MiB + 512,
        "max_cpus": 8,
        "max_memory": 8 * GiB,
        "disk_buses": ("virtio-blk",),
        "nic_models": ("virtio-net",),
        "name_pattern": "[a-z0-9 -]+",
        "firmware": ("uefi",),
    }
    assert found(**at_it) == {}
    reader.close()


def test_what_is_open_is_not_looked_at() -> None:
    """LINT-LIMIT-1: a config that pins nothing."""
    narrow = target(
        max_cpus=1,
        max_memory=1,
        firmware=(),
        disk_buses=("x",),
        nic_models=("x",),
        name_pattern="x",
    )
    config = MachineConfig.from_toml('[[disk]]\nid = "root"\n[[nic]]\n')
    codes = {one.code for one in lint_machine(narrow, config, {}, {})}
    assert codes == {"boot-disk-absent"}
    assert {one.code for one in lint_machine(Hypervisor("x", "X"), config, {}, {})} == {
        "boot-disk-absent",
        "limits-unknown",
    }


def test_a_tpm_without_its_state_is_told() -> None:
    """Field note: vTPM state lost (virtnbdbackup#169, harvester#9182): carry it or warn."""
    config = MachineConfig.from_toml('[firmware]\nkind = "uefi"\n[tpm]\n')
    assert "state-tpm-missing" in {one.code for one in lint_machine(None, config, {}, {})}
    state = {"tpm-state": b"x"}
    assert "state-tpm-missing" not in {one.code for one in lint_machine(None, config, {}, state)}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_lints_a_plain_machine(name: str, guest_bios: Path) -> None:
    """Nothing of a machine that boots is an error anywhere, and every target says its limits."""
    known = hypervisors.get(name)
    assert known.limits is not None
    assert known.limits.source, "the document that says so"
    re.compile(known.limits.name_pattern)
    result = lint(guest_bios, name)
    if "bios" in known.limits.firmware:
        assert [one for one in result.findings if one.severity == "error"] == []
    else:
        assert "limit-firmware" in {one.code for one in result.findings}


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_target_says_it_takes_is_a_name_of_the_config(name: str) -> None:
    from typing import get_args

    from vmpack.machine.names import DiskBus, NicModel

    limits = hypervisors.get(name).limits
    assert limits is not None
    assert set(limits.disk_buses) <= set(get_args(DiskBus))
    assert set(limits.nic_models) <= set(get_args(NicModel))
    assert set(limits.firmware) <= {"bios", "uefi"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of a UEFI machine without a boot loader."""
    disk = uefi_disk(tmp_path / "disk.raw", {"other": b"x"})
    (tmp_path / "vm.toml").write_text('name = "a\u00e9"\n[firmware]\nkind = "uefi"\n')
    pack([disk], tmp_path / "a.vmpack", config_path=tmp_path / "vm.toml")
    return tmp_path / "a.vmpack"


def test_a_bundle_in_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LINT-EXIT-1."""
    assert run(["lint", str(bundle), "--output", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["target"], document["errors"], document["warnings"]) == (None, 1, 0)
    assert document["findings"][0] == {
        "code": "boot-no-loader",
        "severity": "error",
        "message": f"disk root has no {LOADER}",
        "hint": CODES["boot-no-loader"].hint,
    }


def test_a_disk_that_cannot_be_read(bundle: Path) -> None:
    """The first frames of the pool are damaged: a finding, whatever lies behind them."""
    with Bundle.open(bundle) as opened:
        at = opened.manifest.pool_offset
    bundle.chmod(0o644)
    patch(bundle, at, b"\xff" * 200)
    assert "boot-disk-unreadable" in {one.code for one in lint(bundle).findings}


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LINT-EXIT-1: warnings count with --strict only; other failures have their own codes."""
    good = uefi_disk(tmp_path / "a.raw", {LOADER: pe_file(), "initrd": initramfs(["virtio_blk"])})
    assert run(["lint", str(good)]) == 0
    assert "nothing stands in its way" in capsys.readouterr().out
    grown = tmp_path / "b.raw"
    grown.write_bytes(good.read_bytes() + bytes(MiB))
    assert run(["lint", str(grown)]) == 0
    assert run(["lint", str(grown), "--strict"]) == 1
    assert "1 warning\n" in capsys.readouterr().out
    assert run(["lint", str(tmp_path / "none.raw")]) == 1
    assert run(["lint", str(good), "--to", "nowhere"]) == 2
    (tmp_path / "c.vmpack").write_bytes(b"\x89VMPACK\n" + bytes(900))
    assert run(["lint", str(tmp_path / "c.vmpack")]) == 5
    capsys.readouterr()


def test_a_config_without_its_disks(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LINT-DISK-1: what a config says is held against the target, its disks absent."""
    vmx = samples / "test-i-vmx-1.vmx"
    assert run(["lint", str(vmx), "--to", "vmware", "--output", "json"]) == 0
    found = {one["code"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert "boot-disk-absent" in found


def test_info_of_a_config_without_its_disks(
    samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config that would be imported, its disks' names, and what would become of its fields."""
    vmx = samples / "test-i-vmx-1.vmx"
    assert run(["info", str(vmx), "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "vmware"
    assert document["config"]["nic"][0]["mac"] == "00:0c:29:36:ef:31"
    first = document["disks"][0]
    assert first["filename"] == "BZ1308535_21disks.vmdk"
    assert (first["found"], first["volume"]) == (False, False)
    assert document["report"]["kept"] > 100
    assert MachineConfig.from_json_dict(document["config"]).memory is not None
    assert run(["info", str(vmx)]) == 0
    text = capsys.readouterr().out
    assert "fields from vmware: " in text
    assert "not there" in text


class TestExports:
    """Lint runs before an export."""

    def narrowed(self, monkeypatch: pytest.MonkeyPatch, **limits: object) -> None:
        known = hypervisors.get("qemu")
        assert known.limits is not None
        narrow = replace(known, limits=replace(known.limits, **limits))  # type: ignore[arg-type]
        monkeypatch.setattr("vmpack.hypervisors.qemu.HYPERVISOR", narrow)

    def test_what_the_target_cannot_hold_is_refused(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """LINT-EXPORT-1: nothing is written; without lint it is."""
        self.narrowed(monkeypatch, max_disk=MiB)
        with pytest.raises(UnsupportedError, match="limit-disk-size") as caught:
            export_bundle(bundle, tmp_path / "out", "qemu")
        assert caught.value.clause == "LINT-EXPORT-1"
        assert not (tmp_path / "out").exists()
        assert export_bundle(bundle, tmp_path / "out", "qemu", lint=False).findings == ()
        assert (tmp_path / "out").exists()

    def test_other_findings_are_in_the_result(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """LINT-EXPORT-1: a disk that does not start is written, and said."""
        words = ["unpack", str(bundle), "--to", "qemu", "-o"]
        assert run([*words, str(tmp_path / "a"), "--output", "json"]) == 0
        found = json.loads(capsys.readouterr().out)["findings"]
        assert "boot-no-loader" in {one["code"] for one in found}
        assert run([*words, str(tmp_path / "b")]) == 0
        assert "error: boot-no-loader: disk root has no" in capsys.readouterr().out
        assert run([*words, str(tmp_path / "c"), "--no-lint"]) == 0
        assert "boot-no-loader" not in capsys.readouterr().out

    def test_no_lint_is_for_hypervisors(self, bundle: Path, tmp_path: Path) -> None:
        assert run(["unpack", str(bundle), "--no-lint", "-o", str(tmp_path / "a")]) == 2
        words = ["convert", str(bundle) + "#root", str(tmp_path / "b.raw"), "--no-lint"]
        assert run(words) == 2


def test_what_is_only_read_is_no_target(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readable = replace(hypervisors.get("qemu"), plan=None)
    monkeypatch.setattr("vmpack.hypervisors.qemu.HYPERVISOR", readable)
    with pytest.raises(UsageError, match="read, not written"):
        lint(bundle, "qemu")


def test_the_page_has_every_code() -> None:
    text = (SPECS / "lint-v1.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.M)
    assert listed == [(name, *code) for name, code in CODES.items()]


@pytest.mark.parametrize("name", ["DOS_HEADER", "PE_HEADER", "SECTION"])
def test_byte_table_is_the_struct(name: str) -> None:
    text = (SPECS / "lint-v1.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    offset, rows = 0, []
    for field in getattr(pe_structs, name).subcons:
        rows.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    assert block.splitlines()[2:] == rows


def test_every_clause_and_every_code_is_named_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_lint*.py"))
    clauses = set(re.findall(r"^\| (LINT-[A-Z]+-\d+) \|", (SPECS / "lint-v1.md").read_text(), re.M))
    assert clauses - set(re.findall(r"LINT-[A-Z]+-\d+", tests)) == set()
    assert {code for code in CODES if f'"{code}"' not in tests} == set()
