"""Whole machines on the command line: pack, unpack and convert between hypervisors."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import hv
from tests.support.disks import random_disk
from tests.support.vmx import vmx_text
from tests.test_cli_commands import Cli
from tests.test_cli_process import VMPACK, names, slow_disk
from vmpack import hypervisors
from vmpack.ops.convert import convert

MIB = 1 << 20


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, capsys)


@pytest.fixture
def vmx(cli: Cli) -> Path:
    """``vm/shop.vmx`` with its disk; one of its keys is a host's path, which is dropped."""
    folder = cli.folder / "vm"
    folder.mkdir()
    random_disk(folder / "scratch.raw", MIB)
    convert(folder / "scratch.raw", folder / "shop.vmdk", output_format="vmdk")
    (folder / "scratch.raw").unlink()
    (folder / "shop.vmx").write_bytes(vmx_text('ethernet0.vnet = "/dev/vmnet9"'))
    return Path("vm/shop.vmx")


def items(report: Any, verdict: str) -> list[str]:
    return [one["field"] for one in report["items"] if one["verdict"] == verdict]


def test_pack_tells_what_became_of_each_field(cli: Cli, vmx: Path) -> None:
    """HV-REP-1."""
    found = cli.json("pack", str(vmx), "-o", "a.vmpack", "--report", "report.json")
    assert found["report"]["direction"] == "import"
    assert found["report"]["hypervisor"] == "vmware"
    assert json.loads(Path("report.json").read_text()) == found["report"]
    assert found["name"] == "shop"
    out, _ = cli.text("pack", str(vmx), "-o", "b.vmpack")
    counts = ", ".join(f"{found['report'][one]} {one}" for one in ("kept", "approximated"))
    assert f"fields from vmware: {counts}, " in out
    for field in items(found["report"], "dropped"):
        assert f"  dropped  {field}: " in out


def test_unpack_tells_what_is_there_and_how_to_import_it(cli: Cli, vmx: Path) -> None:
    cli.text("pack", str(vmx), "-o", "a.vmpack")
    found = cli.json(
        "unpack", "a.vmpack", "--to", "qemu", "-o", "out", "--report", "out/report.json"
    )
    assert found["target"] == "qemu"
    assert found["report"]["direction"] == "export"
    assert json.loads(Path("out/report.json").read_text()) == found["report"]
    for path in (*found["files"], *(one["filename"] for one in found["disks"])):
        assert Path(path).is_file()
    out, _ = cli.text("unpack", "a.vmpack", "--to", "qemu", "-o", "again")
    assert "fields to qemu: " in out
    assert "to import it:\n  ./run.sh\n" in out


def test_convert_reports_both_ways(cli: Cli, vmx: Path) -> None:
    found = cli.json("convert", str(vmx), "out", "--to", "qemu", "--report", "report.json")
    assert json.loads(Path("report.json").read_text()) == found["report"]
    assert found["report"]["import"]["hypervisor"] == "vmware"
    assert found["report"]["export"]["hypervisor"] == "qemu"
    out, _ = cli.text("convert", str(vmx), "again", "--to", "qemu")
    assert "fields from vmware: " in out
    assert "fields to qemu: " in out
    assert os.access("again/run.sh", os.X_OK)
    # A bundle is a source like any other.
    cli.text("pack", str(vmx), "-o", "a.vmpack")
    assert cli.json("convert", "a.vmpack", "third", "--to", "qemu")["report"]["direction"]


@pytest.mark.parametrize("way", ["pack", "convert"])
def test_strict_turns_a_drop_into_an_error(way: str, cli: Cli, vmx: Path) -> None:
    words = {
        "pack": ("pack", str(vmx), "-o", "out"),
        "convert": ("convert", str(vmx), "out", "--to", "qemu"),
    }[way]
    found = cli.json(*words)
    report = found["report"].get("import", found["report"])
    dropped = items(report, "dropped")
    assert dropped, "the machine has a field that is dropped"
    error = cli.json(*(word if word != "out" else "strict" for word in words), "--strict", code=4)
    assert error["error"]["field"] == dropped[0]
    assert "--strict" in error["error"]["message"]
    assert not Path("strict").exists()


def test_a_report_replaces_nothing_but_a_report(cli: Cli, vmx: Path) -> None:
    """The name of a disk after --report must not cost the disk."""
    before = Path("vm/shop.vmdk").read_bytes()
    words = ("pack", str(vmx), "-o", "a.vmpack", "--report")
    error = cli.json(*words, "vm/shop.vmdk", code=1)
    assert "no report" in error["error"]["message"]
    assert Path("vm/shop.vmdk").read_bytes() == before
    assert not Path("a.vmpack").exists()
    cli.json(*words, "a.vmpack", code=1)
    assert cli.json("check", "a.vmpack")
    cli.text(*words, "report.json", "--force")
    cli.text(*words, "report.json", "--force")
    cli.json("convert", str(vmx), "out", "--to", "qemu", "--report", "report.json")
    cli.json("convert", str(vmx), "x", "--to", "qemu", "--report", "vm", code=1)
    assert not Path("x").exists()


def test_nothing_to_report_is_said_before_the_work(cli: Cli) -> None:
    random_disk("disk.raw", MIB)
    error = cli.json("pack", "disk.raw", "-o", "a.vmpack", "--report", "r.json", code=2)
    assert error["error"]["field"] == "--report"
    assert names(cli.folder) == ["disk.raw"]


def test_a_missing_disk_is_asked_for(cli: Cli, vmx: Path) -> None:
    Path("vm/shop.vmdk").rename("elsewhere.vmdk")
    error = cli.json("pack", str(vmx), "-o", "a.vmpack", code=2)["error"]
    assert error["field"] == "--disk"
    option = error["hint"].split("--disk ")[1].split("=")[0]
    cli.text("pack", str(vmx), "-o", "a.vmpack", "--disk", f"{option}=elsewhere.vmdk")
    cli.text("convert", str(vmx), "out", "--to", "qemu", "--disk", f"{option}=elsewhere.vmdk")
    for wrong, code in (("rot=elsewhere.vmdk", 2), (f"{option}=absent.vmdk", 1), (option, 2)):
        cli.text("pack", str(vmx), "-o", "b.vmpack", "--disk", wrong, code=code)
    assert not Path("b.vmpack").exists()
    assert "shop" in cli.text("info", str(vmx))[0]


@pytest.mark.parametrize(
    "words",
    [
        ("unpack", "a.vmpack", "--to", "libvrt", "-o", "out"),
        ("convert", "vm/shop.vmx", "out", "--to", "libvrt"),
        ("convert", "vm/shop.vmx", "out", "--to", "qcow2"),
        ("pack", "vm/shop.vmx", "-o", "out", "--identity", "kep"),
        ("unpack", "a.vmpack", "--to", "qemu", "-o", "out", "--identity", "other"),
        ("unpack", "a.vmpack", "--to", "qemu", "-o", "out", "--in-place"),
        ("unpack", "a.vmpack", "--to", "raw", "-o", "out", "--strict"),
        ("unpack", "a.vmpack", "--to", "raw", "-o", "out", "--report", "r.json"),
        ("unpack", "a.vmpack", "--to", "ova", "-o", "out", "--manifest", "md5"),
        ("convert", "vm/shop.vmx", "out", "--to", "qemu", "-O", "qcow2"),
        ("convert", "vm/shop.vmx", "out", "--to", "qemu", "-c"),
        ("convert", "vm/shop.vmdk", "out", "-O", "raw", "--strict"),
        ("convert", "vm/shop.vmdk", "out", "-O", "raw", "--identity", "new"),
    ],
    ids=" ".join,
)
def test_what_does_not_fit_together_is_a_usage_error(
    words: tuple[str, ...], cli: Cli, vmx: Path
) -> None:
    cli.text("pack", str(vmx), "-o", "a.vmpack")
    before = names(cli.folder)
    error = cli.json(*words, code=2)["error"]
    assert error["hint"] or error["message"]
    assert names(cli.folder) == before
    if "libvrt" in words:
        assert "libvirt" in str(error)


def test_every_target_is_in_the_help(cli: Cli) -> None:
    for command in ("unpack", "convert"):
        text = cli.text(command, "--help")[0]
        for name in hypervisors.names():
            assert name in text


def test_instructions_and_reports_have_no_escapes(cli: Cli, vmx: Path) -> None:
    """hostile: 11."""
    text = vmx.read_bytes() + b'bad.key = "x\xe2\x80\xae\xc2\x9b]0;owned"\n'
    vmx.write_bytes(text)
    for output in ("human", "json"):
        out, err = cli.text(
            "convert", str(vmx), f"out-{output}", "--to", "qemu", "--output", output
        )
        assert not any(char in out + err for char in "\x1b\x9b\u202e")


def test_a_full_disk_is_told_and_nothing_is_left(vmx: Path, tmp_path: Path) -> None:
    """hostile: 50: every file of the process is limited to less than a disk takes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    for target in {"qemu", "ova", "vagrant"} & set(hv.writing()):
        done = subprocess.run(
            [*VMPACK, "convert", vmx, "out", "--to", target, "--output", "json"],
            cwd=tmp_path,
            capture_output=True,
            preexec_fn=limit,
            check=False,
        )
        assert done.returncode == 1, (target, done.stderr)
        assert json.loads(done.stdout)["error"]["kind"] == "output"
        assert names(tmp_path) == ["vm"], target


@pytest.mark.parametrize("target", ["qemu", "ova"])
def test_an_interrupted_export_leaves_nothing(target: str, tmp_path: Path) -> None:
    """hostile: 50: Ctrl-C while disks are written."""
    if target not in hypervisors.names():
        target = "qemu"
    slow_disk(tmp_path / "disk.raw")
    subprocess.run([*VMPACK, "pack", "disk.raw", "-o", "a.vmpack", "-q"], cwd=tmp_path, check=True)
    before = names(tmp_path)
    process = subprocess.Popen(
        [*VMPACK, "unpack", "a.vmpack", "--to", target, "-o", "out", "--progress", "json"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert b"{" in line, line
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (130, -signal.SIGINT)
    assert names(tmp_path) == before
