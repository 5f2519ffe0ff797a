"""QEMU as a child: whom it runs as, what it may do, and that it never outlives vmpack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runner import HOSTS, in_session, qemu_of, sector_bundle
from tests.support.tools import require_tool
from vmpack.runner.process import KEPT, plain_user, spawn
from vmpack.runner.session import Session

GONE_S = 2.0
RUN = """
import asyncio, sys
from vmpack.bundle import Bundle
from vmpack.runner.options import RunOptions
from vmpack.runner.session import Session

async def main():
    with Bundle.open(sys.argv[1]) as bundle:
        async with Session.start(bundle, RunOptions(accel="tcg")) as session:
            await session.console.wait_for("hang", 60)
            with open("/proc/self/status") as file:
                status = dict(line.split(":", 1) for line in file)
            print(session.process.pid, status["VmRSS"].split()[0], status["VmHWM"].split()[0])
            sys.stdout.flush()
            await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def running(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A vmpack process with a guest: it, QEMU's process id, its own memory at its peak in KiB."""
    words = [sys.executable, "-c", RUN, str(bundle)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            yield process, int(line[0]), int(line[2])
        finally:
            process.kill()


@pytest.mark.qemu
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_qemu_is_gone_soon_after_vmpack(how: signal.Signals, tmp_path: Path) -> None:
    with running(sector_bundle(tmp_path, "hang")) as (process, qemu, _):
        watched = os.pidfd_open(qemu)
        process.send_signal(how)
        gone, _, _ = select.select([watched], [], [], GONE_S)
        os.close(watched)
    assert gone, f"QEMU still runs {GONE_S} s after {how.name}"


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for each in threads for one in (each / "children").read_text().split()]


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_a_killed_command_leaves_no_process_and_no_file(host: str, tmp_path: Path) -> None:
    """With a TPM, so that there are two processes; a killed vmpack can tidy nothing up."""
    require_tool("swtpm")
    bundle = sector_bundle(tmp_path, "hang", "tpm = {}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    named = {"TMPDIR": str(scratch), "VMPACK_QEMU": shlex.join(qemu_of(host).prefix)}
    words = [sys.executable, "-m", "vmpack", "run", str(bundle), "--save", f"{tmp_path}/new.vmpack"]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=os.environ | named
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"vmpack boot sector: hang\n"
            children = children_of(process.pid)
            assert len(children) == 2, "QEMU and swtpm"
            watched = [os.pidfd_open(child) for child in children]
        finally:
            process.kill()
        deadline = time.monotonic() + GONE_S
        for one in watched:
            gone, _, _ = select.select([one], [], [], max(0, deadline - time.monotonic()))
            os.close(one)
            assert gone, f"a child still runs {GONE_S} s after SIGKILL"
    assert list(scratch.iterdir()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        *("hang.raw", "hang.vmpack", "scratch")
    ]


@pytest.mark.qemu
def test_memory_while_a_guest_runs(tmp_path: Path) -> None:
    with running(sector_bundle(tmp_path, "hang")) as (_, _, peak_kib):
        assert peak_kib < 80 << 10


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_qemu_runs_confined_and_without_root(host: str, tmp_path: Path) -> None:
    """hostile: 47."""

    async def work(session: Session) -> tuple[dict[str, str], list[str]]:
        pid = session.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        return dict(line.split(":", 1) for line in status.splitlines()), links

    status, links = in_session(sector_bundle(tmp_path, "hang"), work, host=host)
    assert status["Seccomp"].strip() == "2"
    if os.geteuid() == 0 and plain_user(["/usr/bin/env"]) is not None:
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split()
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == 0
    named = [link for link in links if link.startswith("/") and not link.endswith(" (deleted)")]
    outside = [link for link in named if not link.startswith(("/memfd:", "/dev/", str(tmp_path)))]
    assert outside == [], "QEMU has a descriptor that it was not given"


def test_what_a_child_prints_is_kept_shortened() -> None:
    async def run() -> tuple[str, int]:
        text = "print('head' + 'x' * 1000000 + 'tail'); import sys; sys.exit(3)"
        child = spawn([sys.executable, "-c", text])
        code = await child.wait()
        await child.close()
        return child.stderr, code

    text, code = asyncio.run(run())
    assert code == 3
    assert text.startswith("headxxx")
    assert text.endswith("xxxtail\n")
    assert "bytes left out" in text
    assert len(text) < 2 * KEPT + 100


def test_a_child_gets_no_input_and_only_the_descriptors_it_is_given() -> None:
    given, other = os.pipe()
    os.set_inheritable(other, True)
    text = (
        "import os, sys\n"
        "def is_open(fd):\n"
        "    try:\n"
        "        return bool(os.fstat(fd))\n"
        "    except OSError:\n"
        "        return False\n"
        f"print(repr(sys.stdin.read()), is_open({given}), is_open({other}))\n"
    )

    async def run() -> str:
        child = spawn([sys.executable, "-c", text], inherit=[given])
        await child.wait()
        await child.close()
        return child.stderr

    try:
        assert asyncio.run(run()) == "'' True False\n"
    finally:
        os.close(given)
        os.close(other)


def test_a_child_that_was_killed_says_by_what() -> None:
    async def run() -> int:
        child = spawn([sys.executable, "-c", "import time; time.sleep(1000)"])
        child.kill()
        code = await child.wait()
        await child.close()
        await child.close()
        return code

    assert asyncio.run(run()) == -signal.SIGKILL


def test_a_program_in_a_closed_folder_runs_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        assert plain_user(["/usr/bin/env"]) is None
        return
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.write_bytes(Path("/usr/bin/env").read_bytes())
    program.chmod(0o755)
    assert plain_user([str(program)]) is None
    user = plain_user(["/usr/bin/env"])
    assert user is not None
    assert user.uid != 0


def test_a_device_that_only_root_opens_needs_root(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch(mode=0o600)
    assert plain_user(["/usr/bin/env"], devices=[str(device)]) is None
