"""Watches a machine from outside while somebody waits: time-outs, hangs, boots that are stuck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError
from vmpack.runner import endings

if TYPE_CHECKING:
    from vmpack.runner.process import ChildProcess
    from vmpack.runner.session import Session

__all__ = ["Clock", "Watch"]

SAMPLE_S = 0.5
SETTLE_S = 3.0
"""Seconds that a shell or prompt stays the last thing on the console before it is the end."""
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
        self._stall = endings.Stall()
        self._trouble_from: tuple[int, float] | None = None

    async def look(self) -> endings.Verdict | None:
        """The ending, when there is one; costs something only twice a second."""
        now = time.monotonic()
        if now - self._sampled < SAMPLE_S:
            if self._limit_s is not None and self._limit_s < SAMPLE_S:
                return self._late(self._clock.read())
            return None
        self._sampled = now
        seconds = self._clock.read()
        return self._late(seconds) or self._stuck(seconds) or await self._dead(seconds)

    def _late(self, seconds: float) -> endings.Verdict | None:
        if self._limit_s is None or seconds - self._begin < self._limit_s:
            return None
        return "timeout", f"not done within {self._limit_s:g} s"

    def _stuck(self, seconds: float) -> endings.Verdict | None:
        """A prompt that waits for somebody, and nobody is there."""
        session = self._session
        trouble = session.detector.trouble
        if trouble is None or session.plan.options.interactive:
            self._trouble_from = None
            return None
        total = session.console.total
        if self._trouble_from is None or self._trouble_from[0] != total:
            self._trouble_from = (total, seconds)
        if seconds - self._trouble_from[1] < SETTLE_S:
            return None
        expected = session.plan.config.expected.ending
        if trouble.kind == "panic" and expected == "panic" and not self.awaited:
            return "expected", trouble.message
        return trouble.kind, trouble.message

    async def _dead(self, seconds: float) -> endings.Verdict | None:
        session = self._session
        expected = session.plan.config.expected.ending
        try:
            blocks = _operations(await session.qmp("query-blockstats"))
            self._stall.add(
                endings.Sample(
                    seconds,
                    session.process.cpu_seconds(),
                    session.console.total + session.firmware_log.total,
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
        reason = self._stall.gave_up if self.awaited else None
        return None if reason is None else endings.of_hang(reason, expected, awaited=True)


def _operations(stats: list[dict[str, dict[str, int]]]) -> int:
    names = ("rd_operations", "wr_operations", "flush_operations", "unmap_operations")
    return sum(one["stats"].get(name, 0) for one in stats for name in names)
