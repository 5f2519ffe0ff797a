"""Watches a machine from outside while somebody waits: time-outs, hangs, boots that are stuck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError
from vmpack.runner import endings

if TYPE_CHECKING:
    from vmpack.runner.options import Where
    from vmpack.runner.process import ChildProcess
    from vmpack.runner.session import Session
    from vmpack.runner.troubles import Trouble

__all__ = ["Clock", "Watch"]

SAMPLE_S = 0.5
SCREEN_S = 1.5
"""The screen's text is looked at as often, once the console has been still for as long."""
KERNEL_RUNS = ("kernel", "init", "systemd", "login")
"""Milestones of the console after which a prompt on the screen is an old one."""
SLOWEST = 4.0
"""However busy the host, a time-out is over after this many times its wall-clock time."""


class Clock:
    """Effective seconds: without the time in which QEMU could run and the host had no CPU."""

    def __init__(self, process: ChildProcess):
        self._process = process
        self._wall = time.monotonic()
        self._starved = 0.0
        self.seconds = 0.0

    def read(self) -> float:
        """Effective seconds since the process started."""
        wall, starved = time.monotonic(), self._process.starved_seconds()
        passed = wall - self._wall
        lost = max(0.0, starved - self._starved)
        self.seconds += max(passed - lost, passed / SLOWEST)
        self._wall, self._starved = wall, max(starved, self._starved)
        return self.seconds


class Watch:
    """One wait: what it takes for the machine to be late, dead or stuck."""

    def __init__(self, session: Session, clock: Clock, limit_s: float | None, *, awaited: bool):
        self.awaited = awaited
        """Something is expected of the machine beyond its end."""
        self._session = session
        self._clock = clock
        self._limit_s = limit_s
        self._begin = clock.read()
        self._sampled = float("-inf")
        self._deadlines = endings.DEADLINES[session.host.accel]
        self._stall = endings.Stall(self._deadlines)
        self._trouble_from: tuple[tuple[object, ...], float] | None = None
        self._printed = (-1, self._begin)
        self._looked = self._begin

    async def look(self) -> endings.Verdict | None:
        """The ending, when there is one; costs something only twice a second."""
        now = time.monotonic()
        if now - self._sampled < SAMPLE_S:
            if self._limit_s is not None and self._limit_s < SAMPLE_S:
                return self._late(self._clock.read())
            return None
        self._sampled = now
        seconds = self._clock.read()
        await self._look_at_screen(seconds)
        return self._late(seconds) or self._stuck(seconds) or await self._dead(seconds)

    def _late(self, seconds: float) -> endings.Verdict | None:
        if self._limit_s is None or seconds - self._begin < self._limit_s:
            return None
        return endings.Verdict("timeout", f"not done within {self._limit_s:g} s")

    async def _look_at_screen(self, seconds: float) -> None:
        if self._session.plan.options.interactive:
            return
        total = self._session.console.total
        if total != self._printed[0]:
            self._printed = (total, seconds)
        if seconds - max(self._printed[1], self._looked) >= SCREEN_S:
            self._looked = seconds
            await self._session.screen.look()

    def _stuck(self, seconds: float) -> endings.Verdict | None:
        """A prompt that waits for somebody, and nobody is there."""
        session = self._session
        trouble, where = self._trouble()
        if trouble is None or session.plan.options.interactive:
            self._trouble_from = None
            return None
        changes = session.screen.changes if where == "screen" else 0
        mark = (trouble, session.console.total, changes)
        if self._trouble_from is None or self._trouble_from[0] != mark:
            self._trouble_from = (mark, seconds)
        if seconds - self._trouble_from[1] < self._deadlines.prompt_s:
            return None
        expected = session.plan.config.expected.ending
        if trouble.kind == "panic" and expected == "panic" and not self.awaited:
            return endings.Verdict("expected", trouble.message, where)
        return endings.Verdict(trouble.kind, trouble.message, where)

    def _trouble(self) -> tuple[Trouble | None, Where | None]:
        """Where the boot is stuck, and what shows it: the console, or else the screen."""
        session = self._session
        trouble = session.detector.trouble
        if trouble is not None and trouble != session.accepted:
            return trouble, "console"
        trouble = session.screen.trouble
        if trouble is None or trouble == session.accepted:
            return None, None
        old = any(session.detector.has(name) for name in KERNEL_RUNS)
        return (None, None) if old and trouble.kind != "panic" else (trouble, "screen")

    async def _dead(self, seconds: float) -> endings.Verdict | None:
        session = self._session
        expected = session.plan.config.expected.ending
        try:
            blocks = _operations(await session.qmp("query-blockstats"))
            self._stall.add(
                endings.Sample(
                    seconds,
                    session.process.cpu_seconds(),
                    session.console.total + session.firmware_log.total + session.screen.changes,
                    blocks,
                )
            )
            if self._stall.stopped and not session.suspended:
                line = {"command-line": "info registers -a"}
                registers = await session.qmp("human-monitor-command", **line)
                if endings.cannot_wake(str(registers)):
                    message = "every CPU is halted with interrupts off"
                    return endings.of_hang(message, expected, awaited=self.awaited)
        except VmpackError:
            # QEMU is gone or going, which the session sees by itself.
            return None
        quiet = self._stall.gave_up
        if quiet is None or session.suspended or not (self.awaited or expected == "hang"):
            return None
        return endings.of_quiet(quiet, expected, session.detector.has, awaited=self.awaited)


def _operations(stats: list[dict[str, dict[str, int]]]) -> int:
    names = ("rd_operations", "wr_operations", "flush_operations", "unmap_operations")
    return sum(one["stats"].get(name, 0) for one in stats for name in names)
