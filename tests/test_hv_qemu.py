"""The export for QEMU: a script that is the machine of ``vmpack run``, and boots.

Clauses: specs/hypervisors/qemu.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.nvram import ovmf, with_boot_entry
from tests.support.tools import missing, require_tool, run
from vmpack.bundle import Bundle
from vmpack.hypervisors import get
from vmpack.hypervisors.base import ExportDisk, Machine
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle
from vmpack.runner.accel import probe_rom
from vmpack.runner.argv import build_argv
from vmpack.runner.options import Firmware, Plan, Qemu, RunOptions

MIB = 1 << 20
HOSTILE = 'it\'s "$(touch owned)" `touch owned`; touch owned & | > owned * ~ ,id=x %s {x} #!'
DISK = '[[disk]]\nid = "root"\n'


def pinned(toml: str = DISK) -> MachineConfig:
    config = MachineConfig.from_toml('memory = "64M"\n' + toml)
    ids = [disk.id for disk in config.disks or () if not disk.empty]
    return pin(config, [DiskFacts(each, MIB) for each in ids], seed=b"test")


def machine(config: MachineConfig, **blobs: bytes) -> Machine:
    ids = [disk.id for disk in config.disks or () if not disk.empty]
    named = {name.replace("_", "-"): data for name, data in blobs.items()}
    return Machine(config, {one: ExportDisk(one, MIB, MIB) for one in ids}, named)


def files(config: MachineConfig, **blobs: bytes) -> dict[str, bytes]:
    plan = get("qemu").plan
    assert plan is not None
    return {one.name: one.data for one in plan(machine(config, **blobs)).render({})}


def verdicts(config: MachineConfig, **blobs: bytes) -> dict[str, tuple[str, str]]:
    plan = get("qemu").plan
    assert plan is not None
    items = plan(machine(config, **blobs)).report.items
    return {one.field: (one.verdict.value, one.detail) for one in items}


def words_of(script: Path, *arguments: str, **environment: str) -> list[str]:
    """The words by which the script starts QEMU: a program that prints them stands in its place."""
    fake = script.parent / "print-words"
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@"\n')
    fake.chmod(0o755)
    env = {**os.environ, "QEMU": str(fake), "VM_ACCEL": "tcg", **environment}
    done = run([script, *arguments], env=env)
    return done.stdout.decode().split("\0")[:-1]


def nodes(words: list[str], option: str) -> list[dict[str, Any]]:
    found = [words[n + 1] for n, word in enumerate(words) if word == option]
    return [json.loads(one) for one in found if one.startswith("{")]


def exported(folder: Path, toml: str = DISK, **blobs: bytes) -> Path:
    """The script of a machine with small disks."""
    config = MachineConfig.from_toml('memory = "64M"\n' + toml)
    disks = {}
    for disk in config.disks or ():
        if not disk.empty:
            random_disk(folder / f"{disk.id}.raw", MIB)
            disks[disk.id] = folder / f"{disk.id}.raw"
    given = {}
    for name, data in blobs.items():
        (folder / name).write_bytes(data)
        given[name.replace("_", "-")] = folder / name
    bundle = folder / "app.vmpack"
    pack([], bundle, config=config, disks=disks, blobs=given)
    export_bundle(bundle, folder / "out", "qemu")
    return folder / "out" / "run.sh"


MACHINES = {
    "plain": DISK,
    "uefi": DISK + '[firmware]\nkind = "uefi"\n',
    "tpm": DISK + "[tpm]\n",
    "ide": '[[disk]]\nid = "a"\nbus = "ide"\n[[disk]]\nid = "b"\nbus = "ide"\nread-only = true\n',
    "scsi": '[[disk]]\nid = "a"\nbus = "lsilogic"\n[[disk]]\nid = "b"\nbus = "buslogic"\n',
    "cd": '[[disk]]\nid = "cd"\nkind = "cdrom"\nempty = true\n' + DISK,
    "cards": DISK + '[[nic]]\nnetwork = "none"\n[[nic]]\nnetwork = "lab"\n[[nic]]\nmtu = 1400\n',
    "names": f"name = {json.dumps(HOSTILE.replace('/', ''))}\n"
    f"description = {json.dumps(HOSTILE)}\n" + DISK + "[smbios.system]\n"
    f"serial = {json.dumps(HOSTILE)}\nfamily = {json.dumps(HOSTILE)}\n",
    "serials": DISK + "[[serial]]\nport = 1\n[[serial]]\nport = 0\n",
    "blind": 'serial = []\nguest-agent = false\npvpanic = false\ndisplay.model = "none"\n' + DISK,
}


@pytest.mark.parametrize("toml", MACHINES.values(), ids=MACHINES)
def test_qemu_takes_every_word_and_shells_find_nothing(toml: str, tmp_path: Path) -> None:
    """hostile: 43, 46. QEMU-OUT-1, QEMU-OUT-2.

    QEMU builds the whole machine, and stops before the first instruction.
    """
    script = exported(tmp_path, toml)
    run([require_tool("bash"), "-n", script])
    run([require_tool("shellcheck"), "-S", "warning", script])
    require_tool("qemu-system-x86_64")
    blind = "serial = []" in toml
    done = subprocess.run(
        [script, "-S", *(["-monitor", "stdio"] if blind else [])],
        input=b"info name\nquit\n" if blind else b"\x01cinfo name\nquit\n",
        env={**os.environ, "VM_ACCEL": "tcg"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert not list(tmp_path.rglob("*owned*"))


@pytest.mark.parametrize("toml", MACHINES.values(), ids=MACHINES)
def test_it_is_the_machine_of_vmpack_run(toml: str, tmp_path: Path) -> None:
    """QEMU-OUT-1: the same board and the same devices, place by place."""
    script = exported(tmp_path, toml)
    require_tool("swtpm")
    words = words_of(script)
    config = MachineConfig.from_toml((script.parent / "vm.toml").read_text())
    if "buslogic" in toml:
        controllers = [one["driver"] for one in nodes(words, "-device")]
        assert controllers.count("lsi53c895a") == 2
        return
    plan = runner_plan(config)
    mine, theirs = nodes(words, "-device"), nodes(build_argv(plan), "-device")
    for node in theirs:
        if "drive" in node:
            node["drive"] = node["drive"].replace("overlay", "disk")
    assert mine == theirs
    ours = build_argv(plan)
    for option in ("-machine", "-cpu", "-smp", "-m", "-uuid", "-rtc", "-smbios", "-boot"):
        assert values(words, option) == values(ours, option), option
    assert nodes(words, "-object") == nodes(ours, "-object")


def values(words: list[str], option: str) -> list[str]:
    return [words[n + 1] for n, word in enumerate(words) if word == option]


def runner_plan(config: MachineConfig) -> Plan:
    uefi = config.firmware.kind == "uefi"
    ids = [disk.id for disk in config.disks or () if not disk.empty]
    fdsets = {"console": 1, "typing": 2, "firmware-log": 3}
    fdsets |= {"code": 4, "nvram": 5} if uefi else {}
    fdsets |= {f"disk:{one}": 7 for one in ids}
    fdsets |= {f"overlay:{one}": 8 + number for number, one in enumerate(ids)}
    sockets = {"qmp": 10} | ({"agent": 11} if config.guest_agent else {})
    return Plan(
        config=config,
        options=RunOptions(network="user"),
        accel="tcg",
        qemu=Qemu(("qemu",), (7, 2, 0)),
        firmware=Firmware(kind="uefi" if uefi else "bios"),
        windows=dict.fromkeys(ids, (65536, MIB)),
        fdsets=fdsets,
        inherited={},
        sockets=sockets | ({"tpm": 12} if config.tpm is not None else {}),
    )


def test_text_of_a_config_reaches_qemu_whole(tmp_path: Path) -> None:
    """hostile: 43. QEMU-OUT-2."""
    words = words_of(exported(tmp_path, MACHINES["names"]))
    doubled = HOSTILE.replace(",", ",,")
    assert values(words, "-name") == ["guest=" + doubled.replace("/", "")]
    smbios = next(one for one in values(words, "-smbios") if one.startswith("type=1,"))
    assert f"serial={doubled}" in smbios
    assert f"family={doubled}" in smbios


def test_options_of_whoever_starts_it(tmp_path: Path) -> None:
    """QEMU-OUT-5: accelerator, screen, forwarded ports, further arguments."""
    script = exported(tmp_path)
    words = words_of(script, "-m", "128M", VM_FORWARD="2222:22 8080:80", VM_DISPLAY="vnc")
    assert words[-2:] == ["-m", "128M"]
    rules = "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8080-:80"
    assert values(words, "-netdev") == [f"user,id=net-net0,{rules}"]
    assert values(words, "-display") == ["vnc=127.0.0.1:0"]
    assert values(words_of(script, VM_DISPLAY="gtk"), "-sandbox")[0].endswith("spawn=allow")
    assert values(words, "-sandbox")[0].endswith("spawn=deny")
    assert values(words_of(script, VM_ACCEL="kvm"), "-accel") == ["kvm"]
    for name, value in (
        ("VM_FORWARD", "22"),
        ("VM_FORWARD", "1:2,hostfwd=x"),
        ("VM_ACCEL", "xen"),
        ("QEMU", "no-such-qemu"),
    ):
        env = {**os.environ, "VM_ACCEL": "tcg", name: value}
        done = subprocess.run([script], env=env, capture_output=True, check=False)
        assert done.returncode == 1
        # The message, or for QEMU its program, is named.
        assert (value if name == "QEMU" else name).encode() in done.stderr


@pytest.mark.parametrize(("code", "accel"), [(37, "kvm"), (35, "tcg"), (1, "tcg")])
def test_kvm_is_taken_after_its_probe(code: int, accel: str, tmp_path: Path) -> None:
    """QEMU-OUT-4: the probe's exit code decides; a program stands in for a QEMU with KVM."""
    script = exported(tmp_path)
    fake = tmp_path / "qemu"
    fake.write_text(
        '#!/usr/bin/env bash\ncase " $* " in *isa-debug-exit*)\n'
        f'cp "$(sed "s/.*-bios \\([^ ]*\\) .*/\\1/" <<<"$*")" {tmp_path}/rom; exit {code} ;;\n'
        'esac\nprintf "%s\\0" "$@"\n'
    )
    fake.chmod(0o755)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing("/dev/kvm", "run this test where it is")
    done = run([script], env={**os.environ, "QEMU": str(fake)})
    words = done.stdout.decode().split("\0")
    assert values(words, "-accel")[0].split(",")[0] == accel
    assert (tmp_path / "rom").read_bytes() == probe_rom()


def test_the_firmware_that_fits_the_variables_is_taken(tmp_path: Path) -> None:
    """QEMU-FW-1: by size; QEMU-FW-2: the template is copied once, and kept."""
    script = exported(tmp_path, MACHINES["uefi"])
    code, template = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"code")
    template.write_bytes(b"template")
    named = {"VM_FIRMWARE_CODE": str(code), "VM_FIRMWARE_VARS": str(template)}
    words_of(script, **named)
    nvram = script.parent / "nvram.fd"
    assert nvram.read_bytes() == b"template"
    nvram.write_bytes(b"changed!")
    words_of(script, **named)
    assert nvram.read_bytes() == b"changed!"
    nvram.write_bytes(b"of another layout")
    env = {**os.environ, "VM_ACCEL": "tcg", **named}
    done = subprocess.run([script], env=env, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"no UEFI firmware" in done.stderr


def test_a_pinned_firmware_is_told_by_its_digest(tmp_path: Path) -> None:
    """QEMU-FW-3."""
    code, template = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"code")
    template.write_bytes(b"template")
    named = {"VM_FIRMWARE_CODE": str(code), "VM_FIRMWARE_VARS": str(template)}
    digest = hashlib.sha256(b"code").hexdigest()
    toml = DISK + f'[firmware]\nkind = "uefi"\ndigest = "sha256:{digest}"\n'
    script = exported(tmp_path, toml)
    assert words_of(script, **named)
    code.write_bytes(b"another")
    env = {**os.environ, "VM_ACCEL": "tcg", **named}
    assert subprocess.run([script], env=env, capture_output=True, check=False).returncode == 1


def test_nvram_is_the_machines_own(tmp_path: Path) -> None:
    """QEMU-FW-4: as raw flash, whatever it was; what OVMF cannot read is kept aside, and said.

    Note: NVRAM missing: no boot.
    """
    config = pinned(MACHINES["uefi"])
    store = with_boot_entry(ovmf("OVMF_VARS_4M.fd"), "of this machine")
    assert files(config, nvram=store)["nvram.fd"] == store
    assert verdicts(config, nvram=store)["nvram"] == ("kept", "nvram.fd")
    foreign = files(config, nvram=b"MRVN" + bytes(500))
    assert "nvram.fd" not in foreign
    assert foreign["blobs/nvram"] == b"MRVN" + bytes(500)
    verdict, detail = verdicts(config, nvram=b"MRVN" + bytes(500))["nvram"]
    assert (verdict, "new variables" in detail) == ("approximated", True)
    bios = verdicts(pinned(), nvram=store)["nvram"]
    assert bios[0] == "approximated"


def test_carried_firmware_needs_none_of_the_host(tmp_path: Path) -> None:
    """QEMU-FW-5."""
    toml = DISK + '[firmware]\nkind = "uefi"\nblob = "fw"\n'
    found = files(pinned(toml), fw=b"c" * 100, nvram=ovmf("OVMF_VARS_4M.fd"))
    assert found["firmware-code.fd"] == b"c" * 100
    assert b"candidates=(\n    firmware-code.fd nvram.fd\n)" in found["run.sh"]


def test_the_tpm_keeps_its_state(tmp_path: Path) -> None:
    """QEMU-OUT-6. Note: vTPM state lost."""
    found = files(pinned(MACHINES["tpm"]), tpm_state=b"state")
    assert found["tpm/tpm2-00.permall"] == b"state"
    assert b"swtpm socket --tpm2 --tpmstate dir=tpm" in found["run.sh"]


def test_every_field_has_a_verdict() -> None:
    """QEMU-REP-1."""
    for toml in MACHINES.values():
        config = pinned(toml)
        found = verdicts(config)
        for key in config.to_json_dict():
            assert any(one == key or one.startswith((f"{key}.", f"{key}[")) for one in found), key
        assert not [one for one, (verdict, _) in found.items() if verdict == "dropped"]
    cards = verdicts(pinned(MACHINES["cards"]))
    assert [cards[f"nic[{n}].network"][0] for n in range(3)] == [
        *("approximated", "approximated", "kept")
    ]
    assert verdicts(pinned(MACHINES["ide"]))["disk[1].read-only"][0] == "approximated"
    assert verdicts(pinned(MACHINES["scsi"]))["disk[1].bus"][0] == "approximated"


def test_its_vm_toml_packs_the_same_machine_again(tmp_path: Path) -> None:
    """QEMU-OUT-7: nothing is lost on the way out and back."""
    for number, toml in enumerate(MACHINES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        out = exported(folder, toml).parent
        config = MachineConfig.from_file(out / "vm.toml")
        disks = {one.stem: one for one in out.glob("*.qcow2")}
        again = pack([], folder / "again.vmpack", config=config, disks=disks)
        with Bundle.open(folder / "app.vmpack") as first:
            assert first.manifest.machine_id == again.machine_id


def run_until(script: Path, text: bytes, folder: Path, **environment: str) -> bytes:
    """The console's output until ``text`` is on it; the machine is ended then."""
    env = {**os.environ, "VM_ACCEL": "tcg", **environment}
    process = subprocess.Popen(
        [script],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=folder,
    )
    assert process.stdout is not None
    seen = b""
    with Deadline(process, 120):
        while text not in seen:
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            seen += piece
    assert process.stdin is not None
    if process.poll() is None:
        process.stdin.write(b"\x01x")
        process.stdin.close()
    seen += process.stdout.read()
    process.stdout.close()
    process.wait(30)
    return seen


class Deadline:
    """Ends a machine that takes too long, so that a hang is a failure."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float):
        self._timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_the_script_boots_to_login(
    firmware: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """QEMU-OUT-1: from another folder, twice, and what the machine wrote is there."""
    disk: Path = request.getfixturevalue(f"guest_{firmware}")
    config = MachineConfig.from_toml('memory = "512M"\n')
    bundle = tmp_path / "app.vmpack"
    pack([disk], bundle, config=config, disks={})
    export_bundle(bundle, tmp_path / "out", "qemu")
    script = tmp_path / "out" / "run.sh"
    seen = run_until(script, b"login:", tmp_path)
    assert b"vmpack-small login:" in seen, seen[-2000:]
    assert b"boots 1" in seen
    if firmware == "bios":
        assert b"boots 2" in run_until(script, b"login:", tmp_path)
    else:
        assert (tmp_path / "out" / "nvram.fd").stat().st_size == 540672
