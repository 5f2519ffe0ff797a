"""A machine as tests see it: a synchronous face of :class:`vmpack.runner.session.Session`."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vmpack.bundle import Bundle
from vmpack.errors import InfrastructureError, OperationError
from vmpack.pytest_plugin.loop import LoopThread
from vmpack.runner.milestones import Detector
from vmpack.runner.options import Ending, RunOptions
from vmpack.runner.session import Session

if TYPE_CHECKING:
    from vmpack.runner.agent import Agent, ExecResult

__all__ = ["VM", "CommandResult", "VmAgent", "VmConsole", "VmEndedError"]

T = TypeVar("T")

BOOT_S = 600.0
"""Seconds for a boot where nothing else is said; those in which the host was busy do not count."""
EXPECT_S = 60.0
PROMPT_BYTES = 4096
LOGIN = "login"


class VmEndedError(AssertionError):
    """The machine ended, or did not do in time, what the test waits for."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that ended in the guest."""

    exit_code: int
    stdout: str
    stderr: str


class VM:
    """A machine that runs, from a bundle, with disks whose changes are thrown away.

    Every call waits until it is done. Errors of the host are :class:`vmpack.errors.VmpackError`;
    what the guest does wrong is an ``AssertionError``.
    """

    def __init__(self, bundle: Path, options: RunOptions, *, until: str | None = None) -> None:
        self.bundle = bundle
        """The bundle's path."""
        self.console = VmConsole(self)
        """The first serial port."""
        self.agent = VmAgent(self)
        """The guest agent."""
        self._options = options
        self._until = until
        self._loop = LoopThread(f"vm {bundle.name}")
        self._stack: AsyncExitStack | None = None
        self._session: Session | None = None
        self._ending: Ending | None = None
        self._kept = False
        self._detector = Detector()

    @property
    def ending(self) -> Ending | None:
        """How the machine ended; ``None`` while nothing is known of an end."""
        return self._ending

    @property
    def session(self) -> Session:
        """The runner's own object, for what is not here; its coroutines run in another thread."""
        if self._session is None:
            raise VmEndedError("the machine does not run")
        return self._session

    def boot(self) -> None:
        """Start the machine anew and wait for the end of its boot.

        Raises :class:`InfrastructureError` where this host cannot run it, and
        :class:`VmEndedError` for a boot that does not come as far as expected.
        """
        self.call(self._stop)
        self._ending, self._kept = None, False
        self.call(self._start)
        self._booted()

    def reboot(self) -> None:
        """Press the reset button, and wait for the end of the boot that follows."""
        self._detector = self._new_detector()
        self.qmp("system_reset")
        self._booted()

    def powerdown(self, timeout: float = 120.0) -> Ending:
        """Press the power button and wait for the guest to go; its ending.

        Raises :class:`VmEndedError` for a guest that stays.
        """
        self.call(self.session.powerdown)
        ending = self.wait(timeout=timeout)
        if ending.reason != "guest-shutdown":
            raise VmEndedError(f"asked to power off: {ending.message}")
        return ending

    def wait(self, timeout: float = EXPECT_S) -> Ending:
        """Wait for the machine's own end; its ending, a time-out included (in seconds)."""
        ending = self.call(lambda: self.session.wait(None, timeout))
        self._note(ending)
        return ending

    def screenshot(self) -> bytes:
        """The screen as PNG. Raises :class:`OperationError` for a machine without one."""
        picture = self.call(self.session.screendump)
        if not picture:
            raise OperationError("the machine has no screen")
        return picture

    def qmp(self, command: str, **arguments: object) -> Any:
        """What a QMP command of QEMU returns."""
        return self.call(lambda: self.session.qmp(command, **arguments))

    def keep(self) -> bool:
        """Keep the machine as it is now for :meth:`restore`; whether QEMU could."""
        from vmpack.pytest_plugin import snapshot

        try:
            self.call(lambda: snapshot.save(self.session))
        except OperationError:
            # Some devices cannot be kept. A boot takes longer and does the same.
            self._kept = False
            if self.qmp("query-status")["status"] == "paused":
                self.qmp("cont")
        else:
            self._kept = True
        return self._kept

    def restore(self) -> None:
        """The machine as :meth:`keep` left it; without that, or after its end, a new boot."""
        from vmpack.pytest_plugin import snapshot

        if not self._kept or self._ending is not None or self._session is None:
            self.boot()
            return
        try:
            self.call(lambda: snapshot.load(self.session))
        except (OperationError, InfrastructureError):
            self.boot()
            return
        self.agent.forget()
        self.console.at_boot()

    def close(self) -> None:
        """End the machine and everything of it."""
        self.call(self._stop)
        self._loop.close()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine that ``work`` makes returns, run in the machine's own thread."""

        async def made() -> T:
            return await work()

        return self._loop.call(made())

    async def _start(self) -> None:
        stack = AsyncExitStack()
        try:
            opened = stack.enter_context(Bundle.open(self.bundle))
            self._patterns = (self._until,) if self._until else opened.config.expected.milestones
            self._detector = self._new_detector()
            self._session = await stack.enter_async_context(
                Session.start(opened, self._options, on_console=self._feed)
            )
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack

    async def _stop(self) -> None:
        self._session = None
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
        self.agent.forget()
        self.console.skip()

    def _new_detector(self) -> Detector:
        return Detector(self._patterns)

    def _feed(self, data: bytes) -> None:
        self._detector.feed(data, 0.0)

    def _booted(self) -> None:
        def complete(_console: object) -> bool:
            if self._patterns:
                return not self._detector.missing
            return self._detector.has(LOGIN)

        limit = self._options.timeout_s or BOOT_S
        ending = self.call(lambda: self.session.wait(complete, limit))
        self._note(ending)
        if ending.kind != "expected":
            missing = ", ".join(self._detector.missing) or LOGIN
            raise VmEndedError(f"the boot did not come to {missing}: {ending.message}")
        self.console.at_boot(new=True)

    def _note(self, ending: Ending) -> None:
        if ending.kind not in ("expected", "timeout") or ending.reason is not None:
            self._ending = ending


class VmConsole:
    """What the guest prints, and what is typed. Waiting goes on behind what was found last."""

    def __init__(self, machine: VM) -> None:
        self._machine = machine
        self._position = 0
        self._before = b""
        """What counts as unread although it was printed before ``_position``."""
        self._prompt = b""

    @property
    def text(self) -> str:
        """What the guest printed since the start of the test, or since the last match."""
        return self._new().decode(errors="replace")

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines, without escape sequences."""
        if self._machine._session is None:
            return ()
        return self._machine._session.console.tail(lines)

    def send(self, text: str) -> None:
        """Type ``text``; a newline is the Enter key."""
        data = text.replace("\n", "\r").encode()
        self._machine.call(lambda: self._machine.session.send(data))

    def expect(self, pattern: str | re.Pattern[str], timeout: float = EXPECT_S) -> re.Match[str]:
        """Wait until the guest prints ``pattern``: literal text, or a compiled expression.

        ``timeout`` is in seconds during which the host had a CPU for the guest. Raises
        :class:`VmEndedError` when it does not come, with what came instead.
        """
        __tracebackhide__ = True
        said = pattern if isinstance(pattern, str) else pattern.pattern
        wanted = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        raw = re.compile(wanted.pattern.encode(), wanted.flags & ~re.UNICODE)
        found: list[re.Match[bytes]] = []

        def there(_console: object) -> bool:
            match = raw.search(self._new())
            if match is not None:
                found.append(match)
            return match is not None

        machine = self._machine
        ending = machine.call(lambda: machine.session.wait(there, timeout))
        if ending.kind != "expected" or not found:
            machine._note(ending)
            last = "\n  | ".join(self.tail(10))
            raise VmEndedError(f"{said!r} did not come: {ending.message}\n  | {last}")
        self._consume(found[0].end())
        text = found[0][0].decode(errors="replace")
        match = wanted.search(text) or re.compile(re.escape(text)).search(text)
        assert match is not None
        return match

    def skip(self) -> None:
        """Forget what was printed until now."""
        session = self._machine._session
        self._position = 0 if session is None else session.console.total
        self._before = b""

    def at_boot(self, *, new: bool = False) -> None:
        """The boot has ended here, anew or once more: its last line, a prompt mostly, is unread."""
        if new:
            last = self._machine.session.console.data[-PROMPT_BYTES:].rstrip(b"\r\n")
            # A kernel may print behind the prompt.
            prompt = last.rfind(b"login:")
            self._prompt = last[last.rfind(b"\n", 0, prompt if prompt >= 0 else None) + 1 :]
        self.skip()
        self._before = self._prompt

    def _new(self) -> bytes:
        return self._before + self._machine.session.console.since(self._position)

    def _consume(self, length: int) -> None:
        """The first ``length`` bytes of what is unread are read."""
        start = max(self._position, self._machine.session.console.start)
        self._position = start + max(0, length - len(self._before))
        self._before = self._before[length:]


class VmAgent:
    """The guest agent: commands and files in the guest."""

    def __init__(self, machine: VM) -> None:
        self._machine = machine
        self._ready = False

    def run(self, command: str, timeout: float = EXPECT_S) -> CommandResult:
        """Run a shell command in the guest to its end, at most ``timeout`` seconds.

        Raises :class:`InfrastructureError` where no agent answers, ``TimeoutError`` when it takes
        longer.
        """
        import asyncio

        async def done() -> ExecResult:
            async with asyncio.timeout(timeout):
                return await self._agent().shell(command)

        self._wait(timeout)
        result = self._machine.call(done)
        return CommandResult(
            result.exit_code,
            result.stdout.decode(errors="replace"),
            result.stderr.decode(errors="replace"),
        )

    def read(self, path: str, max_bytes: int = 16 << 20) -> bytes:
        """The content of a file of the guest, at most ``max_bytes`` of it."""
        taken = bytearray()
        self._wait(EXPECT_S)
        self._machine.call(lambda: self._agent().read_file(path, taken.extend, max_bytes=max_bytes))
        return bytes(taken)

    def forget(self) -> None:
        """What was said so far belongs to another state of the guest."""
        self._ready = False
        session = self._machine._session
        if session is not None and session.agent is not None:
            session.agent.forget()

    def _agent(self) -> Agent:
        agent = self._machine.session.agent
        if agent is None:
            raise InfrastructureError(
                "the machine has no channel for a guest agent",
                hint="set guest-agent = true in its config, and pack it again",
            )
        return agent

    def _wait(self, timeout: float) -> None:
        if not self._ready:
            self._machine.call(lambda: self._agent().ready(timeout))
            self._ready = True
