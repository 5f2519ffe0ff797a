"""--verify-boot: what was written is read back and boots; otherwise the exit code says so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import TCG, sector_bundle
from vmpack import hypervisors
from vmpack.errors import InfrastructureError, UsageError
from vmpack.ops.convert import convert
from vmpack.ops.exporting import ExportResult, export
from vmpack.ops.transfer import export_bundle, transfer
from vmpack.ops.unpack import unpack
from vmpack.ops.verify_boot import PROFILE_OF, prove_image, prove_unpacked
from vmpack.runner.options import RunOptions
from vmpack.verify.profiles import PROFILES

pytestmark = pytest.mark.qemu
LINUX = '[guest-os]\nfamily = "linux"\n'
OFF = LINUX + '[expected]\nmilestones = ["boot sector"]\nending = "power-off"\n'


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that says so and powers off."""
    return sector_bundle(tmp_path_factory.mktemp("source"), "poweroff", OFF)


@pytest.mark.parametrize(
    ("target", "machine"),
    [
        ("vmware", "read-back"),
        ("virtualbox", "read-back"),
        ("hyperv", "read-back"),
        ("proxmox", "read-back"),
        ("libvirt", "read-back"),
        ("kubevirt", "read-back"),
        ("qemu", "config"),
    ],
)
def test_an_export_boots(bundle: Path, tmp_path: Path, target: str, machine: str) -> None:
    result = export_bundle(bundle, tmp_path / "out", target, boot=TCG)
    proof = result.proof
    assert proof is not None
    assert proof.boot.good, proof.boot.ending
    assert (proof.machine, proof.profile) == (machine, PROFILE_OF.get(target))
    assert proof.exit_code == 0
    # What the source expects, though no other config can say it.
    assert [one.name for one in proof.boot.reached] == ["boot sector"]
    document = json.loads(json.dumps(result.as_dict()))["verify-boot"]
    assert (document["good"], document["kind"], document["as"]) == (True, "expected", proof.profile)
    assert not list((tmp_path / "out").glob("*.vmpack"))


def test_a_source_of_another_hypervisor_comes_all_the_way(bundle: Path, tmp_path: Path) -> None:
    """From VMware's files to VirtualBox', with what was not carried told for both directions."""
    first = export_bundle(bundle, tmp_path / "vmware", "vmware")
    result = transfer(first.files[0], tmp_path / "vbox", "virtualbox", boot=quick())
    assert result.proof is not None
    # Nothing of [expected] is in a VMX: a login is what is waited for, and this machine is off.
    assert result.proof.boot.ending.kind == "unexpected"
    assert (result.proof.exit_code, result.proof.profile) == (1, "virtualbox")
    assert set(result.report) == {"import", "export"}


def quick() -> RunOptions:
    return replace(TCG, timeout_s=60)


def test_a_boot_that_fails_leaves_the_files(tmp_path: Path) -> None:
    source = sector_bundle(tmp_path, "panic", LINUX + '[expected]\nmilestones = ["never"]\n')
    result = export_bundle(source, tmp_path / "out", "libvirt", boot=TCG)
    assert result.proof is not None
    assert (result.proof.exit_code, result.proof.boot.ending.kind) == (255, "panic")
    assert all(Path(path).exists() for _, path in result.disks)


def test_what_was_written_is_what_boots(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is empty in the export alone is found out, whatever the bundle holds."""

    def broken(*given: Any, **more: Any) -> ExportResult:
        result = export(*given, **more)
        blank = tmp_path / "blank.raw"
        blank.write_bytes(bytes(1 << 20))
        for _, path in result.disks:
            convert(blank, path, output_format="qcow2", force=True)
        return result

    monkeypatch.setattr("vmpack.ops.transfer.export", broken)
    result = export_bundle(bundle, tmp_path / "out", "kubevirt", boot=quick())
    assert result.proof is not None
    assert (result.proof.boot.ending.kind, result.proof.exit_code) == ("no-boot-device", 1)


@pytest.mark.parametrize(
    ("target", "config"), [("azure", OFF), ("hyperv", "hyperv-generation = 2\n" + OFF)]
)
def test_what_cannot_be_imitated_is_said_before_anything_is_written(
    tmp_path: Path, target: str, config: str
) -> None:
    """IMI-POSSIBLE-1."""
    source = sector_bundle(tmp_path, "poweroff", config)
    with pytest.raises(InfrastructureError, match="cannot be imitated"):
        export_bundle(source, tmp_path / "out", target, boot=TCG, lint=False)
    assert not (tmp_path / "out").exists()


def test_disks_that_stay_in_the_bundle_are_not_booted(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no disk is written"):
        export_bundle(bundle, tmp_path / "out", "libvirt", in_place=True, boot=TCG)


@pytest.mark.parametrize("to", ["raw", "vhdx"])
def test_unpacked_images_boot_by_their_toml(bundle: Path, tmp_path: Path, to: str) -> None:
    proof = prove_unpacked(unpack(bundle, tmp_path / "out", to=to), options=TCG)
    assert proof.boot.good, proof.boot.ending
    assert (proof.machine, proof.profile, proof.notes) == ("read-back", None, ())


def test_a_converted_image_boots_as_its_machine(bundle: Path, tmp_path: Path) -> None:
    result = convert(f"{bundle}#root", tmp_path / "disk.img", output_format="vmdk")
    proof = prove_image(result, options=TCG)
    assert (proof.boot.good, proof.machine) == (True, "config"), proof.boot.ending
    with pytest.raises(UsageError, match="no image to boot"):
        prove_image(replace(result, dry_run=True), options=TCG)


def test_an_image_of_nobody_boots_as_pack_would_have_it(bundle: Path, tmp_path: Path) -> None:
    image = Path(unpack(bundle, tmp_path / "out", to="raw").disks[0][1])
    proof = prove_image(convert(image, tmp_path / "b.qcow2"), options=quick())
    # It powers off where a login is expected of a machine that says nothing.
    assert (proof.machine, proof.exit_code) == ("read-back", 1)
    assert b"boot sector: poweroff" in proof.boot.console


def test_on_the_command_line(bundle: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vmpack", "unpack", str(bundle), "-o", str(tmp_path / "out")]
    words += ["--to", "proxmox", "--verify-boot"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("booted what was written"))
    assert ", read back, as proxmox shows it: QEMU " in lines[start]
    assert lines[start + 1].startswith("  as expected: the guest powered off, ")
    words = [sys.executable, "-m", "vmpack", "convert", f"{bundle}#root", "-", "-O", "raw"]
    done = subprocess.run([*words, "--verify-boot"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--verify-boot" in done.stderr


def test_the_profiles_of_targets_are_there() -> None:
    assert set(PROFILE_OF.values()) <= set(PROFILES)
    assert set(PROFILE_OF) <= set(hypervisors.names())
