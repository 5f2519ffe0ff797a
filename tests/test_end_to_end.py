"""The main job on a real Debian: it goes into one file, boots from it, and comes out again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.qemu import QemuImg, image

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
DEADLINE_S = 400
CONFIG = """
name = "debian"

[expected]
milestones = ["Linux version", "Reached target *multi-user", "vmpack-debian login:"]
ending = "running"

[[verify.check]]
name = "system"
command = "systemctl is-system-running --wait; findmnt -n -o SOURCE /"
stdout = "running\\n/dev/vda3"
"""


def vmpack(*words: object, code: int = 0) -> Any:
    """The JSON document of a command that ends with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "vmpack", *map(str, words), "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == code, (done.stdout + done.stderr).decode(errors="replace")[-4000:]
    return json.loads(done.stdout)


def test_debian_packs_boots_verifies_and_comes_out_the_same(
    guest_debian: Path, tmp_path: Path, qemu_img: QemuImg
) -> None:
    config = tmp_path / "vm.toml"
    config.write_text(CONFIG)
    bundle = tmp_path / "debian.vmpack"
    packed = vmpack("pack", guest_debian, "-o", bundle, "--config", config)

    verified = vmpack("verify", bundle, "--report", tmp_path / "report")
    (boot,) = verified["boots"]
    assert boot["good"]
    assert verified["machine-id"] == packed["machine-id"]
    times = [one["milliseconds"] for one in boot["milestones"]]
    assert times[0] < times[1]
    assert [one["verdict"] for one in boot["checks"]] == ["passed"]
    assert (tmp_path / "report" / "here" / "boot-1.png").read_bytes().startswith(b"\x89PNG")
    console = (tmp_path / "report" / "here" / "boot-1.console.txt").read_text()
    assert "\nvmpack-debian login: " in console
    assert "\x1b" not in console

    work_in_the_guest(bundle, tmp_path)

    # Two boots later the bundle holds what was packed, byte for byte.
    vmpack("check", "--full", bundle)
    disk = packed["disks"][0]["id"]
    vmpack("unpack", bundle, "-o", tmp_path / "raw", "--to", "raw")
    out = tmp_path / "raw" / f"{disk}.raw"
    qemu_img.assert_identical(image(guest_debian, "raw"), image(out, "raw"))
    assert out.stat().st_size == guest_debian.stat().st_size
    vmpack("compare", f"{tmp_path / 'changed.vmpack'}#{disk}", out, "-F", "raw", code=1)


def work_in_the_guest(bundle: Path, folder: Path) -> None:
    """A script goes in and runs, a file comes out; the machine is saved as it is then."""
    source = folder / "numbers.sh"
    source.write_text("#!/bin/sh\nseq 1 100000 >/root/numbers\necho done\nexit 7\n")
    source.chmod(0o755)
    changed = folder / "changed.vmpack"
    ran = vmpack(
        *("run", bundle, "--copy-in", f"{source}:/root/", "--exec", "/root/numbers.sh"),
        *("--copy-out", f"/root/numbers:{folder}", "--save", changed),
        code=7,
    )
    assert ran["exec"] == {"exit-code": 7, "stdout": "done\n", "stderr": "", "truncated": False}
    assert ran["ending"]["reason"] == "guest-shutdown"
    numbers = "".join(f"{number}\n" for number in range(1, 100_001))
    assert (folder / "numbers").read_text() == numbers
    assert ran["copied"] == [{"filename": str(folder / "numbers"), "size": len(numbers)}]
    assert ran["saved"]["machine-id"] != ran["machine-id"]
    vmpack("check", "--full", changed)
    # Only what the boot and the command changed was added.
    assert changed.stat().st_size < bundle.stat().st_size * 1.2
