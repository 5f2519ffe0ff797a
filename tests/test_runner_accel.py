"""Whether KVM is believed: the probe, what it says, how long that is remembered."""

from __future__ import annotations

import grp
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runner import HOSTS, qemu_of
from tests.support.tools import require_tool, run
from vmpack.errors import InfrastructureError
from vmpack.runner import accel
from vmpack.runner.accel import choose, kvm_verdict, probe, probe_rom, tcg_verdict
from vmpack.runner.options import Qemu
from vmpack.runner.qemu import features

pytestmark = pytest.mark.qemu


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def impostor(folder: Path, text: str) -> Qemu:
    """A QEMU that does ``text`` where the probe is run, and is the real one otherwise."""
    path = folder / "qemu"
    real = require_tool("qemu-system-x86_64")
    path.write_text(f'#!/bin/bash\n[[ "$*" == *isa-debug-exit* ]] || exec {real} "$@"\n{text}\n')
    path.chmod(0o755)
    return Qemu((str(path),), (7, 2))


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of /dev/kvm that can be opened: what counts is then the probe."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(accel, "_DEVICE", path)
    return path


def test_the_source_assembles_to_the_committed_probe(tmp_path: Path) -> None:
    built, linked = tmp_path / "probe.o", tmp_path / "probe.bin"
    run([require_tool("as"), "--64", "-o", built, accel.PROBE.with_suffix(".S")])
    words = [require_tool("ld"), "-m", "elf_x86_64", "-e", "start", "-Ttext", "0"]
    run([*words, "--oformat", "binary", "-o", linked, built])
    assert linked.read_bytes() == accel.PROBE.read_bytes()


def test_the_rom_jumps_to_its_start() -> None:
    rom = probe_rom()
    assert len(rom) == 64 << 10
    assert rom[0xFFF0] == 0xE9
    assert (0xFFF3 + int.from_bytes(rom[0xFFF1:0xFFF3], "little")) & 0xFFFF == 0


@pytest.mark.parametrize("host", HOSTS)
def test_an_accelerator_that_works_passes(host: str) -> None:
    usable, reason = probe(qemu_of(host), "tcg")
    assert usable, reason
    assert "ran right" in reason


@pytest.mark.parametrize("host", HOSTS)
def test_this_hosts_kvm_is_believed_only_when_it_works(host: str) -> None:
    """Where it is broken for real, as on hosts without nested virtualization, auto is TCG."""
    qemu = qemu_of(host)
    verdict = kvm_verdict(qemu)
    chosen, reason = choose("auto", qemu)
    assert chosen == ("kvm" if verdict.usable else "tcg")
    assert verdict.reason in reason
    assert verdict.usable or verdict.hint
    assert verdict.probed == os.access("/dev/kvm", os.R_OK | os.W_OK)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 35", "lost an exception"),
        ("exit 33", "computed a wrong result"),
        ("echo cannot set up >&2; exit 1", "QEMU ended with 1: cannot set up"),
        ("exit 0", "QEMU ended with 0: without a word"),
        ("echo KVM internal error. Suberror: 1 >&2; exec sleep 600", "internal error of KVM"),
    ],
)
def test_what_goes_wrong_is_said(text: str, reason: str, tmp_path: Path, device: Path) -> None:
    verdict = kvm_verdict(impostor(tmp_path, text))
    assert not verdict.usable
    assert reason in verdict.reason
    assert verdict.hint is not None


def test_a_guest_that_crawls_is_given_up(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "PROBE_LIMIT_S", 0.2)
    verdict = kvm_verdict(impostor(tmp_path, "exec sleep 600"))
    assert not verdict.usable
    assert verdict.reason == "the probe did not end within 0.2 s"


def test_a_verdict_holds_until_the_host_boots_again(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    qemu = impostor(tmp_path, f"echo >>{calls}; exit 37")
    for _ in range(2):
        assert choose("auto", qemu)[0] == "kvm"
    assert calls.read_text() == "\n"
    assert kvm_verdict(qemu, fresh=True).usable
    assert calls.read_text() == "\n\n"
    monkeypatch.setattr(accel, "_boot_id", lambda: "another boot")
    assert kvm_verdict(qemu).usable
    assert calls.read_text() == "\n\n\n"


def test_without_the_device_there_is_tcg_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_DEVICE", tmp_path / "kvm")
    qemu = qemu_of("machine")
    chosen, reason = choose("auto", qemu)
    assert chosen == "tcg"
    assert f"there is no {tmp_path / 'kvm'}" in reason
    with pytest.raises(InfrastructureError, match="KVM cannot be used: there is no") as error:
        choose("kvm", qemu)
    assert "modprobe" in (error.value.hint or "")
    monkeypatch.setattr(accel, "_DEVICE", tmp_path)
    assert "is a directory" in kvm_verdict(qemu).reason


def test_a_device_without_permission_says_what_helps(device: Path) -> None:
    device.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        verdict = kvm_verdict(qemu_of("machine"))
    finally:
        if root:
            os.seteuid(0)
    assert "may not be opened" in verdict.reason
    assert "sudo" in (verdict.hint or "")
    # Nobody but root may: joining a group would not help.
    assert "chgrp" in accel._permission()
    if root:
        os.chown(device, 0, 1)
        device.chmod(0o660)
        assert f"usermod -aG {grp.getgrgid(1).gr_name} " in accel._permission()


def test_what_is_asked_for_is_not_probed(tmp_path: Path, device: Path) -> None:
    qemu = impostor(tmp_path, "exit 1")
    assert choose("kvm", qemu) == ("kvm", "asked for")
    assert choose("tcg", qemu) == ("tcg", "asked for")


def test_a_qemu_with_neither_accelerator_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = features(qemu_of("machine"))
    none = {name: getattr(found, name) for name in found.__slots__} | {"tcg": False, "kvm": False}
    monkeypatch.setattr(accel, "features", lambda _: type(found)(**none))
    qemu = qemu_of("machine")
    for wanted in ("auto", "tcg", "kvm"):
        with pytest.raises(InfrastructureError, match="built without"):
            choose(wanted, qemu)
    assert not tcg_verdict(qemu).usable


def test_the_probe_dies_with_vmpack(tmp_path: Path, device: Path) -> None:
    """A KVM that hangs the probe leaves no QEMU behind, even when vmpack is killed."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    qemu = impostor(tmp_path, f"echo $$ >{fifo}; exec sleep 600")
    code = "import sys; from vmpack.runner.accel import probe; from vmpack.runner.options import "
    code += "Qemu; probe(Qemu((sys.argv[1],), ()), 'kvm')"
    with subprocess.Popen([sys.executable, "-c", code, qemu.prefix[0]]) as parent:
        child = os.pidfd_open(int(fifo.read_text()))
        try:
            os.kill(parent.pid, signal.SIGKILL)
            ended, _, _ = select.select([child], [], [], 10)
            assert ended, "QEMU outlived vmpack"
        finally:
            os.close(child)
