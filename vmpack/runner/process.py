"""Child processes that cannot outlive vmpack, and that run without root where they can.

The kernel kills the child when the thread that spawned it ends (``PR_SET_PDEATHSIG``), so
:func:`spawn` belongs into a thread that lives as long as the child: the main one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmpack.errors import QemuMissingError
from vmpack.runner.parent import die_with_parent

__all__ = ["ChildProcess", "User", "plain_user", "spawn"]

PLAIN_USER = "nobody"
KEPT = 16384
"""Bytes that are kept of the start, and as many of the end, of what a child prints."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def plain_user(argv: Sequence[str], *, devices: Iterable[str] = ()) -> User | None:
    """The unprivileged user that ``argv`` can run as; ``None``: as vmpack itself.

    ``None`` also when vmpack is no root, or that user could not run a program that ``argv`` names,
    or open a device (such as ``/dev/kvm``) even as a member of the device's group.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(PLAIN_USER)
    except KeyError:
        return None
    programs = [word for word in argv if os.path.isfile(word)]
    if not all(_runnable_by_others(os.path.realpath(program)) for program in programs):
        return None
    groups = []
    for device in devices:
        state = os.stat(device)
        if state.st_mode & 0o006 == 0o006:
            continue
        if state.st_mode & 0o060 != 0o060 or state.st_gid == 0:
            return None
        groups.append(state.st_gid)
    return User(entry.pw_uid, entry.pw_gid, tuple(groups))


def _runnable_by_others(path: str) -> bool:
    try:
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        while path != "/":
            path = os.path.dirname(path)
            if not os.stat(path).st_mode & stat.S_IXOTH:
                return False
    except OSError:
        return False
    return True


class ChildProcess:
    """A running child. What it prints is read as it comes, and kept shortened."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self._head = bytearray()
        self._tail = bytearray()
        self._skipped = 0
        self._ended = asyncio.Event()
        assert process.stdout is not None
        self._stderr = process.stdout.fileno()
        os.set_blocking(self._stderr, False)
        self._loop.add_reader(self._stderr, self._read)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """``None`` while it runs; minus the signal's number when a signal ended it."""
        return self._process.returncode

    @property
    def stderr(self) -> str:
        """What it has printed: the start and the end, and how much is left out between."""
        parts = [self._head.decode(errors="replace")]
        if self._skipped:
            parts.append(f"\n[{self._skipped} bytes left out]\n")
        parts.append(self._tail.decode(errors="replace"))
        return "".join(parts)

    async def wait(self) -> int:
        """Its exit code, once it has ended and everything that it printed was read."""
        await self._ended.wait()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """End it at once. Harmless when it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """End it and release what belongs to it. Closing twice is harmless."""
        if self._pidfd < 0:
            return
        self.kill()
        await self.wait()
        os.close(self._pidfd)
        self._pidfd = -1

    def cpu_seconds(self) -> float:
        """CPU time that it has used, in all its threads; 0 when it has ended."""
        fields = self._proc("stat").rpartition(")")[2].split()
        if len(fields) < 13:
            return 0.0
        ticks = os.sysconf("SC_CLK_TCK")
        return (int(fields[11]) + int(fields[12])) / ticks

    def starved_seconds(self) -> float:
        """Time that the most delayed of its threads was ready to run and had no CPU to run on."""
        folder = f"/proc/{self.pid}/task"
        waits = []
        with contextlib.suppress(OSError):
            for thread in os.listdir(folder):
                fields = self._proc(f"task/{thread}/schedstat").split()
                waits.append(int(fields[1]) if len(fields) > 1 else 0)
        return max(waits, default=0) / 1e9

    def _proc(self, name: str) -> str:
        try:
            with open(f"/proc/{self.pid}/{name}") as file:
                return file.read()
        except OSError:
            return ""

    def _read(self) -> None:
        try:
            data = os.read(self._stderr, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._stderr)
            return
        room = KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        extra = len(self._tail) - KEPT
        if extra > 0:
            self._skipped += extra
            del self._tail[:extra]

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        # A grandchild may hold the pipe open: take what is there, do not wait for its end.
        for _ in range(2 * KEPT // 65536 + 64):
            before = len(self._head) + len(self._tail) + self._skipped
            self._read()
            if len(self._head) + len(self._tail) + self._skipped == before:
                break
        self._loop.remove_reader(self._stderr)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._ended.set()


def spawn(
    argv: Sequence[str],
    *,
    inherit: Iterable[int] = (),
    user: User | None = None,
    env: Mapping[str, str] | None = None,
) -> ChildProcess:
    """Start ``argv`` in its own session, with exactly these descriptors, and no standard input.

    Ctrl-C reaches vmpack only, which decides what it means. Raises :class:`QemuMissingError` when
    the program cannot be started. Call it inside a running event loop.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent()
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    identity: dict[str, object] = {}
    if user is not None:
        identity = {"user": user.uid, "group": user.gid, "extra_groups": list(user.groups)}
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - argv is a list, no shell
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(inherit),
            start_new_session=True,
            # Makes three system calls and allocates nothing, so threads do not matter.
            preexec_fn=prepare,  # noqa: PLW1509 - the signal has to be set after the change of user
            env=None if env is None else dict(env),
            **identity,  # type: ignore[call-overload]  # the keys' types are right above
        )
    except OSError as exc:
        raise QemuMissingError(
            f"cannot start {argv[0]}: {exc.strerror}",
            path=argv[0],
            hint="install qemu-system-x86; vmpack doctor says more",
        ) from exc
    return ChildProcess(process)
