"""The command as scripts see it: a process with exit code, stdout, stderr and files."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import vmpack
from tests.support.disks import random_disk
from tests.support.tools import run

VMPACK = [sys.executable, "-m", "vmpack"]


def cli(
    *words: str | os.PathLike[str], check: bool = False, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return run([*VMPACK, *words], check=check, cwd=cwd)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def slow_disk(path: Path) -> Path:
    """A disk that takes seconds at the highest level of compression: text without repeats."""
    path.write_bytes(random.Random(1).randbytes(16 << 20).hex().encode())
    return path


def noise_disk(path: Path, size: int) -> Path:
    """A disk that cannot be made smaller."""
    path.write_bytes(random.Random(1).randbytes(size))
    return path


def test_version_is_the_distributions_and_loads_no_parser() -> None:
    done = run([sys.executable, "-X", "importtime", "-m", "vmpack", "--version"])
    assert done.stdout.decode() == f"vmpack {vmpack.__version__}\n"
    with (Path(vmpack.__file__).parents[1] / "pyproject.toml").open("rb") as file:
        assert vmpack.__version__ == tomllib.load(file)["project"]["version"]
    loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert {b"vmpack"} <= loaded
    assert not loaded & {b"vmpack.cli", b"argparse", b"dataclasses"}


def test_version_in_json() -> None:
    done = cli("--version", "--output", "json", check=True)
    assert json.loads(done.stdout) == {"version": vmpack.__version__}


def test_a_command_loads_no_other_and_nothing_heavy(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", 1 << 16)
    cli("pack", tmp_path / "disk.raw", "-o", tmp_path / "a.vmpack", check=True)
    for path in (tmp_path / "disk.raw", tmp_path / "a.vmpack"):
        done = run([sys.executable, "-X", "importtime", *VMPACK[1:], "info", path])
        loaded = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
        assert b"vmpack.ops.info" in loaded
        assert not loaded & {b"vmpack.ops.pack", b"rich", b"pydantic", b"tomli_w"}
        assert not loaded & {b"typer", b"argparse", b"concurrent.futures"}
    # The last was the bundle: its header needs no registry of formats.
    assert not loaded & {b"vmpack.formats.base", b"vmpack.bundle.index", b"vmpack.extent"}


def test_the_result_is_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", 3 << 20)
    done = cli(
        *("pack", tmp_path / "disk.raw", "-o", tmp_path / "a.vmpack"),
        *("--output", "json", "--progress", "json"),
        check=True,
    )
    document = json.loads(done.stdout)
    assert document["format"] == "vmpack"
    assert [disk["id"] for disk in document["disks"]] == ["root"]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {tuple(event) for event in events} == {("event", "stage", "done", "total")}
    packing = [event for event in events if event["stage"] == "packing root"]
    assert packing[0]["done"] == 0
    assert packing[-1]["done"] == packing[-1]["total"]


def test_nothing_but_the_result_without_a_terminal(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", 1 << 20)
    done = cli("pack", tmp_path / "disk.raw", "-o", tmp_path / "a.vmpack", check=True)
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    done = cli("pack", tmp_path / "disk.raw", "-o", tmp_path / "b.vmpack", "-q", check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_missing_file_is_one_line_with_a_hint(tmp_path: Path) -> None:
    done = cli("pack", tmp_path / "none.raw", "-o", tmp_path / "a.vmpack")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == (
        f"vmpack: error: {tmp_path}/none.raw: no such file or directory\n  hint: check the path\n"
    )


def test_an_existing_output_stays_without_force(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", 1 << 16)
    (tmp_path / "a.vmpack").write_text("old")
    done = cli("pack", tmp_path / "disk.raw", "-o", tmp_path / "a.vmpack")
    assert done.returncode == 1
    assert b"--force" in done.stderr
    assert (tmp_path / "a.vmpack").read_text() == "old"
    cli("pack", tmp_path / "disk.raw", "-o", tmp_path / "a.vmpack", "--force", check=True)
    assert names(tmp_path) == ["a.vmpack", "disk.raw"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_pack_leaves_everything_as_it_was(
    number: signal.Signals, tmp_path: Path
) -> None:
    disk = slow_disk(tmp_path / "disk.raw")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.vmpack").write_text("old")
    process = subprocess.Popen(
        [
            *(*VMPACK, "--progress=json", "--output=json"),
            *("pack", disk, "-o", out / "a.vmpack", "--force", "--level", "19"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["done"] == 0
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == b"vmpack: interrupted"
    assert json.loads(stdout)["error"]["kind"] == "interrupted"
    assert names(out) == ["a.vmpack"]
    assert (out / "a.vmpack").read_text() == "old"


def shell(script: str, *prefix: str) -> subprocess.CompletedProcess[bytes]:
    return run([*prefix, "sh", "-c", script], check=False)


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_is_told_and_nothing_is_left(
    existing: bool, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    noise_disk(tmp_path / "disk.raw", 4 << 20)
    full = tmp_path / "full"
    full.mkdir()
    vm = shlex.join([*VMPACK, "pack", f"{tmp_path}/disk.raw", "-o", f"{full}/a.vmpack", "--force"])
    old = f"echo old > {full}/a.vmpack;" if existing else ""
    # The name space is the test's own: the mount goes with its process.
    done = shell(
        f"mount -t tmpfs -o size=1m none {full} && {{ {old} {vm}; echo code $?; "
        f"ls -A {full}; cat {full}/* 2>/dev/null; }}",
        *(require_tool("unshare"), "--map-root-user", "--mount"),
    )
    left = ["a.vmpack", "old"] if existing else []
    assert done.stdout.decode().split() == ["code", "1", *left]
    assert b"no space left on device" in done.stderr
    assert b"hint: free some space" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_size_limit_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    noise_disk(tmp_path / "disk.raw", 4 << 20)
    out = tmp_path / "out"
    out.mkdir()
    vm = shlex.join([*VMPACK, "pack", f"{tmp_path}/disk.raw", "-o", f"{out}/a.vmpack"])
    done = shell(f"ulimit -f 1024; exec {vm}")
    assert done.returncode == 1
    assert b"file too large" in done.stderr
    assert b"ulimit -f" in done.stderr
    assert names(out) == []


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    process = subprocess.Popen([*VMPACK, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_result_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*VMPACK, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"vmpack: error: no space left on device\n"


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """``nohup vmpack pack ...`` goes on when the terminal is closed."""
    disk = tmp_path / "disk.raw"
    random_disk(disk, 4 << 20)
    command = shlex.join([*VMPACK, "pack", str(disk), "-o", f"{tmp_path}/a.vmpack"])
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec {command} --progress json"], stderr=subprocess.PIPE
    )
    with process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        process.stderr.read()
    assert process.returncode == 0
