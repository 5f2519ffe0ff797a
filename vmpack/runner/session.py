"""One run of a bundle: QEMU started, followed, ended, and nothing left behind.

QEMU starts paused and stays, paused, when the guest is done, so that its screen can still be read.
Whoever waits waits for everything at once: the process, its events, the console, the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.binary import escape
from vmpack.bundle import Bundle
from vmpack.errors import InfrastructureError, OperationError, QemuDiedError, VmpackError
from vmpack.machine.config import MachineConfig
from vmpack.runner import endings
from vmpack.runner.console import Console
from vmpack.runner.devices import unplugged
from vmpack.runner.display import address_of
from vmpack.runner.endings import Verdict
from vmpack.runner.launch import Files, Host, find_host, keep_tpm, plan_of, start_qemu, start_tpm
from vmpack.runner.milestones import Detector
from vmpack.runner.options import EXIT_CODES, Ending, Plan, Qemu, RunOptions
from vmpack.runner.process import ChildProcess
from vmpack.runner.qmp import Event, Qmp
from vmpack.runner.scratch import Scratch, Storage
from vmpack.runner.screen import Screen
from vmpack.runner.watch import Clock, Watch

if TYPE_CHECKING:
    from vmpack.runner.agent import Agent
    from vmpack.runner.troubles import Trouble

__all__ = ["Session"]

TICK_S = 0.1
START_S = 60.0
"""Seconds in which a QEMU that is not stuck says hello, on a busy host too."""
QUIT_S = 20.0
"""Seconds that a QEMU with kept overlays has to write its caches back."""
NO_DEVICE = b"No bootable device"
"""SeaBIOS's last words on its debug console."""
AS_FAR = Verdict("expected", "came as far as expected")

OnConsole = Callable[[bytes], None]
Until = Callable[[Console], bool]


class Session:
    """A machine that runs. Use :meth:`start`; everything else from within its block."""

    def __init__(
        self,
        plan: Plan,
        host: Host,
        files: Files,
        console: Console,
        firmware_log: Console,
        process: ChildProcess,
    ):
        self.plan = plan
        self.host = host
        self.console = console
        """The first serial port."""
        self.firmware_log = firmware_log
        self.process = process
        self.events: list[Event] = []
        """QEMU's events, the last 1,000 of them."""
        self.detector = Detector()
        """Where the boot is stuck, as far as the console shows it."""
        self.screen = Screen(self)
        """The text of its screen."""
        self.accepted: Trouble | None = None
        """A prompt at which the machine was expected to wait: :meth:`accept`."""
        self._files = files
        self._picturing = asyncio.Lock()
        self._qmp = Qmp(self._on_event)
        self._wake = asyncio.Event()
        self._shutdown: str | None = None
        self._stopped: str | None = None
        self._halted = False
        self._unread = 0
        self.suspended = False
        """The guest sleeps (S3): it does nothing, and can be woken."""
        self._resets = endings.Resets()
        self._looping = False
        self._no_device = False
        self._interrupts = 0
        self._typing = False
        self._started = time.monotonic()
        self._clock = Clock(process)
        self._agent: Agent | None = None
        self._followers: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        bundle: Bundle,
        options: RunOptions,
        *,
        config: MachineConfig | None = None,
        on_console: OnConsole | None = None,
        storage: Storage | None = None,
        qemu: Qemu | None = None,
    ) -> AsyncIterator[Session]:
        """Run ``bundle``, whose file has to stay open meanwhile.

        ``config`` stands in for the bundle's own; ``storage`` keeps what is written, which is
        thrown away otherwise; ``qemu`` is another one than the host's first. Call it from the main
        thread: QEMU dies with the thread that started it. ``on_console`` gets the console's bytes.

        Raises :class:`InfrastructureError` (its kind says which) when the machine cannot start.
        """
        config = config or bundle.config
        storage = storage or Scratch()
        host = find_host(bundle, config, options, qemu)
        async with contextlib.AsyncExitStack() as stack:
            console = Console("vmpack-console", on_console)
            stack.push_async_callback(console.close)
            log = Console("vmpack-firmware-log")
            stack.push_async_callback(log.close)
            files = Files()
            stack.callback(files.close)
            tpm = await start_tpm(files, bundle, config, storage)
            if tpm is not None:
                stack.push_async_callback(tpm.close)
            plan = plan_of(files, bundle, config, options, host, storage, (console, log))
            process = start_qemu(plan, files)
            stack.push_async_callback(process.close)
            if tpm is not None:
                tpm.handed_over()
                stack.push_async_callback(keep_tpm, tpm, process, storage)
            session = cls(plan, host, files, console, log, process)
            stack.push_async_callback(session._close)
            console.listen(session._on_output)
            log.listen(session._on_firmware)
            session._followers = [asyncio.create_task(each.follow()) for each in (console, log)]
            stack.push_async_callback(_cancel, session._followers)
            await session._begin()
            yield session

    async def _begin(self) -> None:
        """Connect, plug and unplug what only QMP can, and let the CPUs go."""
        connecting = asyncio.create_task(self._qmp.connect(self._files.ours["qmp"]))
        ended = asyncio.create_task(self.process.wait())
        try:
            async with asyncio.timeout(START_S):
                await asyncio.wait({connecting, ended}, return_when=asyncio.FIRST_COMPLETED)
                # When QEMU has ended, the connection's end is near.
                await connecting
                await self._prepare()
                return
        except (QemuDiedError, TimeoutError):
            self.process.kill()
            await ended
        finally:
            await _cancel([connecting, ended])
        added = self.plan.options.qemu_args
        raise endings.failed_start(self.process.returncode or 0, self._stderr(), added)

    async def _prepare(self) -> None:
        sets = self.plan.fdsets
        backend = {
            "out": f"/dev/fdset/{sets['console']}",
            "in": f"/dev/fdset/{sets['typing']}",
            "append": True,
        }
        # QEMU 7.2 takes an input for a file only this way; nothing was printed before.
        await self.qmp("chardev-change", id="console", backend={"type": "file", "data": backend})
        for nic in unplugged(self.plan):
            await self.qmp("set_link", name=f"nic-{nic}", up=False)
        await self.qmp("cont")
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the guest's first instruction."""
        return time.monotonic() - self._started

    @property
    def effective_seconds(self) -> float:
        """A clock that stands still while the host has no CPU for the machine."""
        return self._clock.read()

    @property
    def agent(self) -> Agent | None:
        """The guest agent's client, where the machine has a channel for it."""
        if self._agent is None and "agent" in self._files.ours:
            from vmpack.runner.agent import Agent

            self._agent = Agent(self._files.ours["agent"])
        return self._agent

    async def qmp(self, command: str, **arguments: object) -> Any:
        """What a QMP command returns; see :meth:`vmpack.runner.qmp.Qmp.execute`."""
        return await self._qmp.execute(command, arguments)

    async def send(self, data: bytes) -> None:
        """Type on the console."""
        self._resets.forgive()
        await self.console.send(data)

    def accept(self) -> None:
        """Where the machine waits now is where it was expected to: a prompt is no trouble then."""
        self.accepted = self.detector.trouble

    async def powerdown(self) -> None:
        """Press the power button: the guest decides what that means."""
        await self.qmp("system_powerdown")

    async def interrupt(self) -> None:
        """What Ctrl-C means: the first one asks the guest to shut down, the second one ends it."""
        self._interrupts += 1
        self._wake.set()
        if self._interrupts == 1:
            with contextlib.suppress(VmpackError):
                await self.powerdown()

    async def kill(self) -> None:
        """End QEMU at once."""
        self.process.kill()
        await self.process.wait()

    async def screen_address(self) -> str | None:
        """Where a VNC viewer finds the screen, such as ``vnc://127.0.0.1:5900``."""
        display = self.plan.options.display
        if display is None or not display.startswith("vnc"):
            return None
        return address_of(await self.qmp("query-vnc"), display)

    async def screendump(self) -> bytes | None:
        """The screen as PNG; ``None`` without a graphics card.

        Raises :class:`OperationError` when QEMU cannot make one.
        """
        if self._files.picture < 0:
            return None
        # There is one file: whoever looks at the screen beside a boot takes turns with its end.
        async with self._picturing:
            self._files.clear_picture()
            name = f"/dev/fdset/{self.plan.fdsets['picture']}"
            await self.qmp("screendump", filename=name, format="png")
            return self._files.read_picture()

    async def wait(self, until: Until | None = None, timeout_s: float | None = None) -> Ending:
        """How it goes on: the ending, or ``expected`` as soon as ``until`` holds.

        ``until`` is asked whenever something has happened; the machine runs on afterwards.
        ``timeout_s`` counts from now, in seconds during which the host had a CPU for the machine:
        a busy host does not make a machine late. Without ``timeout_s`` the options' one is taken.
        """
        limit = self.plan.options.timeout_s if timeout_s is None else timeout_s
        watch = Watch(self, self._clock, limit, awaited=until is not None)
        ended = asyncio.create_task(self.process.wait())
        try:
            while True:
                if until is not None and until(self.console):
                    return await self._ending(AS_FAR)
                for follower in self._followers:
                    if follower.done():
                        # Whoever listens to the console has failed: that is the caller's error.
                        follower.result()
                if self._halted:
                    await self._ask_why()
                verdict = self._verdict(watch) or await watch.look()
                if verdict is not None:
                    return await self._final(verdict, until)
                await self._something(ended)
        finally:
            await _cancel([ended])

    async def _final(self, verdict: endings.Verdict, until: Until | None) -> Ending:
        """What was printed last may still be what was waited for."""
        await self.console.drain()
        if until is not None and until(self.console):
            return await self._ending(AS_FAR)
        return await self._ending(verdict)

    async def _something(self, ended: asyncio.Task[int]) -> None:
        """Return when anything has happened, or a tick later."""
        waking = asyncio.create_task(self._wake.wait())
        tasks: set[asyncio.Task[Any]] = {waking, ended}
        try:
            await asyncio.wait(tasks, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel([waking])
        self._wake.clear()

    async def _ask_why(self) -> None:
        """The CPUs stopped: mostly for a SHUTDOWN that follows, sometimes for good."""
        self._halted = False
        with contextlib.suppress(VmpackError):
            status = (await self.qmp("query-status"))["status"]
            if status in ("internal-error", "io-error"):
                self._stopped = self._stopped or f"QEMU stopped the machine: {status}"

    def _verdict(self, watch: Watch) -> endings.Verdict | None:
        """The ending that QEMU itself has reported."""
        expected = self.plan.config.expected.ending
        if self._shutdown is not None:
            return endings.of_shutdown(
                self._shutdown, expected, awaited=watch.awaited, interrupted=self._interrupts > 0
            )
        if self._interrupts > 1:
            return Verdict("interrupted", "ended on request")
        if self.process.returncode is not None:
            return endings.of_exit(self.process.returncode, self._stderr())
        if self._looping:
            message = f"the guest reset the machine {endings.LOOP} times in a row"
            return Verdict("reset-loop", message, "qemu")
        if self._stopped is not None:
            return Verdict("qemu-died", self._stopped, "qemu")
        if self._no_device:
            message = "the firmware found nothing to boot from"
            return Verdict("no-boot-device", message, "firmware-log")
        return None

    async def _ending(self, verdict: Verdict) -> Ending:
        seconds = self.seconds
        await self.console.drain()
        await self.firmware_log.drain()
        message = verdict.message
        trouble = self.detector.trouble
        if verdict.kind == "panic" and trouble is not None and trouble.kind == "panic":
            message = trouble.message
        if self._unread and EXIT_CODES[verdict.kind]:
            message += f"; {self._unread} reads of its disks failed: vmpack check says more"
        picture = None
        if self.process.returncode is None:
            with contextlib.suppress(OperationError, InfrastructureError):
                picture = await self.screendump()
            if not self.console.total:
                await self.screen.look()
        return Ending(
            kind=verdict.kind,
            message=escape(message),
            reason=self._shutdown,
            seconds=seconds,
            console_tail=(self.console.tail() or self.screen.tail() or self.firmware_log.tail()),
            picture=picture or None,
            stderr=self._stderr(),
            resets=self._resets.total,
            where=verdict.where,
        )

    def _stderr(self) -> str:
        return "\n".join(escape(line) for line in self.process.stderr.splitlines())

    def _on_output(self, data: bytes) -> None:
        self.detector.feed(data, self.seconds)
        self._wake.set()

    def _on_firmware(self, data: bytes) -> None:
        # The words may be cut in two: the kept output has them whole.
        tail = self.firmware_log.since(self.firmware_log.total - len(data) - len(NO_DEVICE))
        self._no_device = self._no_device or NO_DEVICE in tail

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        del self.events[:-1000]
        name, data = event.get("event"), event.get("data") or {}
        if name == "SHUTDOWN":
            self._shutdown = str(data.get("reason"))
        elif name == "GUEST_PANICKED":
            # A machine that pauses at its end sends no SHUTDOWN for this one.
            self._shutdown = "guest-panic"
        elif name == "RESET" and data.get("guest"):
            self._looping = self._resets.add(self._clock.read()) or self._looping
        elif name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self._stopped = f"the host cannot store what the guest writes: {data.get('reason')}"
        elif name == "BLOCK_IO_ERROR" and data.get("operation") == "read":
            self._unread += 1
        elif name in ("SUSPEND", "WAKEUP"):
            self.suspended = name == "SUSPEND"
        elif name == "STOP":
            self._halted = True
        self._wake.set()

    async def _close(self) -> None:
        if self.process.returncode is None and self.plan.durable:
            with contextlib.suppress(VmpackError, TimeoutError):
                await self.qmp("quit")
                async with asyncio.timeout(QUIT_S):
                    await self.process.wait()
        if self._agent is not None:
            self._agent.close()
        self.process.kill()
        await self._qmp.close()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and take their ends, whatever they are, so that none is reported as lost."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
