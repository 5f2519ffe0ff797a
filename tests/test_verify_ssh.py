"""Verification on another machine: a real sshd in a network of its own, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import sector_bundle
from tests.support.sshd import VMPACK, Sshd, machine
from tests.support.tools import run
from vmpack.bundle import Bundle
from vmpack.cli.main import understand
from vmpack.cli.run import run_options
from vmpack.ops.verify_host import Task
from vmpack.ops.verify_hosts import verify_on
from vmpack.runner.options import RunOptions
from vmpack.verify import remote
from vmpack.verify.hosts import Ssh, find_hosts
from vmpack.verify.remote import Order
from vmpack.verify.result import HostResult
from vmpack.verify.ssh import ssh_argv

pytestmark = pytest.mark.qemu

DEADLINE_S = 120
ROUNDS = 3
OFF = '[expected]\nmilestones = ["sector"]\nending = "power-off"\n'
NEVER = '[expected]\nmilestones = ["echo", "never"]\n'


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with machine(tmp_path_factory.mktemp("far") / "machine") as made:
        yield made


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that says its name and powers off."""
    return sector_bundle(tmp_path_factory.mktemp("off"), "poweroff", OFF)


@pytest.fixture(scope="module")
def forever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that runs until somebody ends it."""
    return sector_bundle(tmp_path_factory.mktemp("echo"), "echo", NEVER)


def words_of(bundle: Path, hosts: Path, *more: object) -> list[str]:
    words = [sys.executable, "-m", "vmpack", "verify", bundle, "--hosts", hosts, "--on", "far"]
    return [str(word) for word in [*words, "--accel", "tcg", "--output", "json", *more]]


def verified(bundle: Path, hosts: Path, *more: object) -> tuple[int, dict[str, Any]]:
    """The exit code, and the host's part of the document."""
    done = run(words_of(bundle, hosts, *more), check=False, timeout_s=DEADLINE_S)
    told = json.loads(done.stdout)
    assert "hosts" in told, told
    return done.returncode, told["hosts"][0]


def asked(bundle: Path, hosts: Path) -> HostResult:
    """The same without a process for it."""

    async def ask() -> HostResult:
        with Bundle.open(bundle) as opened:
            found = find_hosts(["far"], hosts)
            return (await verify_on(found, opened, Task(RunOptions(accel="tcg"))))[0]

    return asyncio.run(ask())


def test_the_client_is_started_with_words_that_no_shell_reads() -> None:
    """HOSTS-SSH-1, HOSTS-SSH-2."""
    ssh = Ssh("me@far", 2222, "/key file", "/config", "vm pack")
    argv = ssh_argv(ssh, "echo $1", ["it's; $(touch /tmp/x) `id` !!", "-n"])
    assert argv[0] == "ssh"
    assert argv[-3:-1] == ["--", "me@far"]
    pairs = list(pairwise(argv))
    for flag, value in [("-p", "2222"), ("-i", "/key file"), ("-F", "/config")]:
        assert (flag, value) in pairs
    for option in ("BatchMode=yes", "ControlPath=none", "ServerAliveInterval=15"):
        assert ("-o", option) in pairs
    assert "StrictHostKeyChecking" not in " ".join(argv)
    said = run(["sh", "-c", argv[-1]]).stdout.decode()
    assert said == "it's; $(touch /tmp/x) `id` !!\n"


def test_another_machine_boots_and_this_one_compares(far: Sshd, off: Path, tmp_path: Path) -> None:
    """HOSTS-SSH-3, HOSTS-SSH-4, HOSTS-SSH-8, HOSTS-BACK-1, HOSTS-BACK-2."""
    hosts = far.hosts_toml()
    record = tmp_path / "record.json"
    recorded = ["verify", off, "--accel", "tcg", "--record", "--boots", 1, "--record-to", record]
    run([sys.executable, "-m", "vmpack", *recorded])
    report = tmp_path / "report"
    code, told = verified(off, hosts, "--against", record, "--report", report)
    assert code == 0, told
    assert [boot["good"] for boot in told["boots"]] == [True]
    assert told["comparison"]["good"] is True
    assert told["comparison"]["layers"]["hardware"]["verdict"] == "same"
    assert told["notes"] == []
    names = sorted(path.name for path in (report / "far").iterdir())
    assert {"boot-1.console.txt", "boot-1.observation.json", "boot-1.png"} <= set(names)
    seen = json.loads((report / "far/boot-1.observation.json").read_text())
    assert (seen["host"]["name"], seen["end"]) == ("far", "ending")
    there = {path.name: path.stat().st_ino for path in (far.folder / "bundles").iterdir()}
    # A record of something else, and the leftovers of a dead command.
    document = json.loads(record.read_text())
    document["layers"]["hardware"] = {"machine": "another"}
    record.write_text(json.dumps(document))
    (far.folder / "bundles/.vmpack-4194999-report").mkdir()
    code, told = verified(off, hosts, "--against", record)
    assert (code, told["kind"]) == (1, "differs")
    after = {path.name: path.stat().st_ino for path in (far.folder / "bundles").iterdir()}
    assert there.items() <= after.items()
    assert len(after) == len(there) + 1 == 3
    with Bundle.open(off) as opened:
        name = opened.id.removeprefix("sha256:") + ".vmpack"
    assert (far.folder / "bundles" / name).read_bytes() == off.read_bytes()
    assert stat.S_IMODE((far.folder / "bundles" / name).stat().st_mode) == 0o444


def test_pins_are_looked_at_there(far: Sshd, off: Path, tmp_path: Path) -> None:
    """HOSTS-SSH-2, HOSTS-SSH-7: behind a login shell that talks, by another version of vmpack."""
    other = tmp_path / "vm pack"
    other.write_text(
        "#!/bin/sh\n"
        'case $1 in --version) echo "{\\"version\\": \\"9.9\\"}";; '
        f'*) exec {VMPACK} "$@";; esac\n'
    )
    other.chmod(0o755)
    key = (far.folder / "user-key.pub").read_text()
    talking = f'command="echo welcome; eval $SSH_ORIGINAL_COMMAND" {key}'
    keys = far.folder / "authorized"
    before = keys.read_text()
    keys.write_text(talking.replace("eval $", 'eval \\"$').replace('COMMAND" ', 'COMMAND\\"" '))
    try:
        code, told = verified(off, far.hosts_toml(vmpack=str(other)), "--preflight")
    finally:
        keys.write_text(before)
    assert code == 0, told
    assert [pin["status"] for pin in told["pins"]].count("unavailable") == 0
    assert told["pins"]
    assert "vmpack 9.9 there" in told["notes"][0]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"ssh": "root@nowhere.invalid"}, "no machine of that name"),
        ({"ssh": "root@198.18.255.1", "port": "1"}, "cannot be reached"),
        ({"identity": "/dev/null"}, "does not let you in"),
        ({"vmpack": "/nowhere/vmpack"}, "there is no /nowhere/vmpack on far that runs"),
        ({"vmpack": "/bin/true"}, "is not vmpack"),
        ({"vmpack": "FLOOD"}, "sends more than"),
        ({"folder": "/proc/bundles"}, "cannot write to /proc/bundles"),
        ({"config": "/nowhere/config"}, "ssh to root@"),
    ],
)
def test_a_machine_that_cannot_be_asked(
    far: Sshd, off: Path, tmp_path: Path, entry: dict[str, str], says: str
) -> None:
    """HOSTS-SSH-5, HOSTS-SSH-6."""
    flood = tmp_path / "flood"
    flood.write_text("#!/bin/sh\nexec yes\n")
    flood.chmod(0o755)
    entry = {key: value.replace("FLOOD", str(flood)) for key, value in entry.items()}
    port = entry.pop("port", None)
    if port is not None:
        entry["ssh"] = f"root@{far.address}"
    hosts = far.hosts_toml(**entry)
    if port is not None:
        hosts.write_text(hosts.read_text() + f"port = {port}\n")
    found = asked(off, hosts)
    assert (found.exit_code, found.kind) == (125, "remote"), found
    assert found.error is not None
    assert says in str(found.error["message"]), found.error
    assert found.error["hint"]


def test_another_host_key_is_no_host(far: Sshd, off: Path) -> None:
    """HOSTS-SSH-5."""
    before = far.known.read_text()
    try:
        far.know((far.folder / "user-key.pub").read_text())
        code, changed = verified(off, far.hosts_toml())
        far.known.write_text("")
        unknown = asked(off, far.hosts_toml())
    finally:
        far.known.write_text(before)
    assert (code, changed["kind"], unknown.exit_code) == (125, "remote", 125)
    assert "host key is not the one that is known" in changed["error"]["message"]
    assert "host key is not known" in str(unknown.error)


def test_a_full_disk_there_is_told(far: Sshd, off: Path, tmp_path: Path) -> None:
    """HOSTS-SSH-5, HOSTS-SSH-3: and no part of the bundle stays."""
    folder = tmp_path / "full"
    folder.mkdir()
    far.run("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder)
    found = asked(off, far.hosts_toml(folder=str(folder)))
    assert far.run("ls", "-A", folder) == ""
    far.run("umount", folder)
    assert (found.exit_code, found.kind) == (125, "remote")
    assert found.error is not None
    assert "no space left" in str(found.error["message"]).lower()
    assert "free some space" in str(found.error["hint"])


def there_is_nothing(far: Sshd) -> bool:
    """Nothing but sshd."""
    return all("sshd" in line.split()[0] for line in far.pids().values())


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A vmpack that is gone afterwards, also when the test fails."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_nothing_runs_on_when_sshd_is_killed(far: Sshd, forever: Path, seed: int) -> None:
    """HOSTS-TETHER-1, HOSTS-SSH-4: at a random moment, from the first command to the guest."""
    chance = random.Random(seed)
    with started(words_of(forever, far.hosts_toml())) as process:
        stage = chance.choice(["verify --output", "qemu-system", "sh -c", "qemu-system"])
        far.wait_for(lambda: any(stage in line for line in far.pids().values()), stage)
        # Any moment will do: nothing here depends on how long it is.
        time.sleep(chance.uniform(0, 0.4))
        far.kill()
        said, _ = process.communicate(timeout=DEADLINE_S)
        far.wait_for(lambda: not far.qemus(), "the end of QEMU")
        far.wait_for(lambda: there_is_nothing(far), "the end of vmpack")
        far.start()
    told = json.loads(said)["hosts"][0]
    assert (process.returncode, told["kind"]) == (125, "remote"), told
    far.wait_for(lambda: not [*(far.folder / "bundles").glob(".vmpack-*")], "an empty folder")


@pytest.mark.parametrize("who", ["vmpack", "ssh", "interrupt"])
def test_nothing_runs_on_when_the_connection_ends_here(far: Sshd, forever: Path, who: str) -> None:
    """HOSTS-TETHER-1, HOSTS-TETHER-3, HOSTS-RUN-4."""
    with started(words_of(forever, far.hosts_toml())) as process:
        far.wait_for(lambda: bool(far.qemus()), "QEMU")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (client,) = [
            int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "ssh\n"
        ]
        if who == "ssh":
            os.kill(client, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL if who == "vmpack" else signal.SIGINT)
        said, _ = process.communicate(timeout=DEADLINE_S)
        far.wait_for(lambda: there_is_nothing(far), "the end of vmpack")
        assert process.returncode == {"vmpack": -9, "ssh": 125, "interrupt": 130}[who]
    if who == "ssh":
        assert "broke" in json.loads(said)["hosts"][0]["error"]["message"]


def test_a_network_that_vanishes_ends_what_runs_there(
    far: Sshd, forever: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOSTS-TETHER-2: neither side is told anything."""
    monkeypatch.setattr(remote, "PATIENCE_S", 4)
    monkeypatch.setattr(remote, "BEAT_S", 1)

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await asyncio.sleep(0.05)

    async def work() -> None:
        with Bundle.open(forever) as opened:
            found = find_hosts(["far"], far.hosts_toml())
            task = Task(RunOptions(accel="tcg"))
            job = asyncio.create_task(verify_on(found, opened, task))
            await until(lambda: bool(far.qemus()))
            run(["ip", "link", "set", far.link, "down"])
            await until(lambda: not far.qemus())
            assert not job.done()
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    try:
        asyncio.run(work())
    finally:
        run(["ip", "link", "set", far.link, "up"])
        # Sessions of the connection that is gone wait for it.
        far.kill()
        far.start()
    far.wait_for(lambda: there_is_nothing(far), "the end of vmpack")


def test_what_is_asked_for_arrives() -> None:
    """HOSTS-SSH-2."""
    options = RunOptions("kvm", timeout_s=1.25, qemu_args=("-device", "a b,c=';$x"))
    words = Order(options, 7, as_target="vmware").words()
    command, values, _ = understand(["verify", *words, "./bundle"])
    assert command is not None
    assert run_options(values) == options
    assert (values.boots, values.as_target, values.bundle) == (7, "vmware", "./bundle")
    assert understand(["verify", *Order(options, preflight=True).words(), "b"])[1].preflight


@pytest.mark.parametrize("how", ["end", "silence"])
def test_verify_ends_with_its_input(forever: Path, how: str) -> None:
    """HOSTS-TETHER-1, HOSTS-TETHER-2."""
    words = [sys.executable, "-m", "vmpack", "verify", "-v", "--accel", "tcg", str(forever)]
    with started([*words, "--end-with-stdin"]) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"hello\n60\n\n99999\n60")
        process.stdin.flush()
        assert b"echo" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        guests = [os.pidfd_open(int(pid)) for pid in children]
        assert len(guests) == 1
        if how == "end":
            process.stdin.close()
        else:
            process.stdin.write(b"\n1\n")
            process.stdin.flush()
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr.read() == b"vmpack: interrupted\n"
        assert select.select(guests, [], [], DEADLINE_S)[0] == guests
        os.close(guests[0])
