"""How long a guest is waited for: by what it does, not by the clock on the wall alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from vmpack.runner.watch import Clock

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["LIMIT_S", "StalledError", "patiently"]

LIMIT_S = 30.0
"""Seconds for a whole answer, without those in which the host had no CPU for the guest. The probe
takes about one under TCG."""

IDLE_S = 4.0
"""Such seconds in which a guest that owes an answer does next to nothing: it will not answer."""

BUSY = 0.1
"""Share of a CPU that is more than next to nothing."""

TICK_S = 0.1
SAMPLE_S = 0.5
"""Between two looks at the CPU time, whose unit is a hundredth of a second."""

Result = TypeVar("Result")


class StalledError(Exception):
    """The guest does not answer; the message says how that showed."""


async def patiently(
    session: Session,
    work: Coroutine[Any, Any, Result],
    *,
    limit_s: float | None = None,
    idle_s: float | None = None,
) -> Result:
    """What ``work`` returns or raises; :class:`StalledError` when it is not worth waiting.

    :data:`LIMIT_S` and :data:`IDLE_S` hold where nothing else is said.
    """
    task = asyncio.create_task(work)
    watch = _Watch(session, limit_s or LIMIT_S, idle_s or IDLE_S)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=TICK_S)
            if done:
                return task.result()
            watch.look()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Watch:
    """What the guest does while it owes an answer."""

    def __init__(self, session: Session, limit_s: float, idle_s: float) -> None:
        self._process = session.process
        self._clock = Clock(session.process)
        self._limit_s = limit_s
        self._idle_s = idle_s
        self._sampled = self._busy_until = 0.0
        self._cpu = self._process.cpu_seconds()

    def look(self) -> None:
        """Raise :class:`StalledError` when it is time."""
        if self._process.returncode is not None:
            raise StalledError("QEMU ended before the guest had answered")
        seconds = self._clock.read()
        if seconds > self._limit_s:
            raise StalledError(f"no whole answer within {self._limit_s:g} s")
        if seconds - self._sampled < SAMPLE_S:
            return
        cpu = self._process.cpu_seconds()
        if cpu - self._cpu > BUSY * (seconds - self._sampled):
            self._busy_until = seconds
        self._sampled, self._cpu = seconds, cpu
        if seconds - self._busy_until > self._idle_s:
            raise StalledError("the guest is idle and does not answer")
