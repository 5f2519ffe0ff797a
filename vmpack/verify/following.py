"""A replay on its way: its console held against the recorded one, its place in its log watched."""

from __future__ import annotations

import asyncio
import contextlib
import os

from vmpack.binary import escape
from vmpack.runner.qmp import Event
from vmpack.runner.session import Session
from vmpack.runner.watch import Clock
from vmpack.verify.replay import ExactResult

__all__ = ["STALLED_S", "TICK_S", "Following"]

STALLED_S = 30.0
"""Effective seconds without a step through the log and without output, after which a replay is
given up."""
TICK_S = 0.1
ENDS = ("SHUTDOWN", "GUEST_PANICKED")
"""A machine that pauses at a panic sends no SHUTDOWN for it."""
POWER_OFF = "guest-shutdown"


class Following:
    """A replay on its way: the console held against the recorded one as it comes."""

    def __init__(self, wanted: bytes):
        self._wanted = wanted
        self._printed = bytearray()
        self.differs = False
        """It printed something that was not recorded."""
        self._powered_off = False

    @property
    def printed(self) -> bytes:
        """What it has printed, up to the first difference."""
        return bytes(self._printed)

    @property
    def complete(self) -> bool:
        """All was printed that a replay can print, and nothing else.

        QEMU notes a power-off before the last instructions that led to it: a replay of it ends some
        of them earlier, not always the same number.
        """
        if self._powered_off:
            return self._wanted.startswith(self._printed)
        return self._wanted == self._printed

    def feed(self, data: bytes) -> None:
        """The console's next bytes."""
        if self.differs:
            return
        begin = len(self._printed)
        self._printed += data
        self.differs = self._wanted[begin : begin + len(data)] != data

    async def follow(self, session: Session, log: int) -> str:
        """Wait for the end; ``""`` for that of the log, otherwise why it was given up."""
        clock = Clock(session.process)
        last, since = (-1, -1), 0.0
        while True:
            if session.process.returncode is not None:
                await session.console.drain()
                words = session.process.stderr.strip().splitlines()
                return f"QEMU ended it: {escape(words[-1])}" if words else "QEMU ended it"
            ends = [event for event in session.events if event.get("event") in ENDS]
            if ends:
                self._powered_off = _reason(ends[0]) == POWER_OFF
                await session.console.drain()
                return ""
            if self.differs:
                return "its console differs"
            seconds = clock.read()
            now = (session.console.total, _position(session.process.pid, log))
            if now != last:
                last, since = now, seconds
            if seconds - since >= STALLED_S:
                return f"it did nothing for {STALLED_S:.0f} s"
            await asyncio.sleep(TICK_S)

    def result(self, end: str, seconds: float) -> ExactResult:
        """What is told of it, once it has ended."""
        printed = self.printed
        if self.complete and not end:
            message = f"replayed to its end: all {len(printed)} bytes of the console are the same"
            lost = len(self._wanted) - len(printed)
            if lost:
                message += f", but for the last {lost} before the power-off, which QEMU left out"
            return ExactResult("same", message, console=printed, seconds=seconds)
        offset = _first_difference(self._wanted, printed)
        if offset is None or (offset == len(printed) and end):
            message = f"the replay stopped after {len(printed)} bytes of the console: {end}"
            return ExactResult("stalled", message, console=printed, seconds=seconds)
        line, expected = _line_at(self._wanted, offset)
        _, observed = _line_at(printed, offset)
        message = (
            f"the console differs from byte {offset} on, in line {line}:"
            f" recorded {escape(expected[:200])!r}, replayed {escape(observed[:200])!r}"
        )
        return ExactResult("differs", message, offset, line, expected, observed, printed, seconds)


def _reason(event: Event) -> object:
    data = event.get("data")
    return data.get("reason") if isinstance(data, dict) else None


def _first_difference(wanted: bytes, printed: bytes) -> int | None:
    if wanted == printed:
        return None
    for offset, (one, other) in enumerate(zip(wanted, printed, strict=False)):
        if one != other:
            return offset
    return min(len(wanted), len(printed))


def _line_at(text: bytes, offset: int) -> tuple[int, str]:
    """Number and text of the line that the byte at ``offset`` is in."""
    begin = text.rfind(b"\n", 0, offset) + 1
    end = text.find(b"\n", offset)
    line = text[begin : len(text) if end < 0 else end]
    return text.count(b"\n", 0, offset) + 1, line.decode(errors="replace").rstrip("\r")


def _position(pid: int, log: int) -> int:
    """How far QEMU has read its log, in bytes; 0 where that cannot be seen.

    Whether it moves is all that counts. QEMU's main loop is not asked: it may be what is stuck.
    """
    file = os.fstat(log)
    furthest = 0
    with contextlib.suppress(OSError, ValueError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
                # The inherited descriptor stands where it was left; QEMU reads one of its own.
                if name == str(log) or (found.st_dev, found.st_ino) != (file.st_dev, file.st_ino):
                    continue
                with open(f"/proc/{pid}/fdinfo/{name}") as info:
                    furthest = max(furthest, int(info.readline().split()[1]))
            except (OSError, IndexError):
                continue
    return furthest
