"""A person at a machine's console: what it prints is shown, what they type reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from vmpack.binary import escape
from vmpack.runner.sanitize import RESET, Sanitizer

if TYPE_CHECKING:
    from vmpack.cli.console import Console
    from vmpack.runner.session import Session

__all__ = ["Person", "Screen"]

WAITING = 1 << 20
"""Bytes that wait for a slow terminal; what comes on top of that is not shown."""

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_WORDS_S = 2.0
"""Seconds for a slow terminal to take what still waits at the end."""


class Screen:
    """Shows the guest's console on ``stream`` without ever holding the guest up.

    Writing happens in a thread: a terminal that is stopped (Ctrl-S), or a pipe that nobody reads,
    delays neither time-outs nor Ctrl-C. ``raw`` passes every byte on; otherwise what could harm a
    terminal is taken out, and into anything but a terminal goes plain text.
    """

    def __init__(self, stream: TextIO, *, raw: bool = False) -> None:
        self._stream = stream
        self._drawing = stream.isatty()
        self._raw = raw
        self._sanitizer = Sanitizer(drawing=self._drawing)
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._skipped = 0
        self._closing = False
        self._failed: OSError | None = None
        self._line_open = False
        self._thread = threading.Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> OSError | None:
        """Why nothing can be shown any more: whoever read it has left, or the disk is full."""
        return self._failed

    def show(self, data: bytes) -> None:
        """More of the console."""
        with self._changed:
            room = max(0, WAITING - len(self._waiting))
            self._waiting += data[:room]
            self._skipped += len(data) - min(room, len(data))
            self._changed.notify()

    def close(self) -> None:
        """Show what still waits, as far as the terminal takes it soon, and tidy the terminal."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_WORDS_S)

    def _write(self) -> None:
        try:
            while self._next():
                pass
            if self._drawing:
                self._put(RESET.encode() + (b"\r\n" if self._line_open else b""))
        except OSError as exc:
            self._failed = exc

    def _next(self) -> bool:
        with self._changed:
            while not (self._waiting or self._skipped or self._closing):
                self._changed.wait()
            data, self._waiting = bytes(self._waiting), bytearray()
            skipped, self._skipped = self._skipped, 0
            last = self._closing
        self._put(data if self._raw else self._sanitizer.feed(data, last=last).encode())
        if skipped:
            self._put(f"\r\n[vmpack: {skipped} bytes of output are not shown]\r\n".encode())
        return not last

    def _put(self, data: bytes) -> None:
        descriptor = self._stream.fileno()
        self._line_open = not data.endswith(b"\n") if data else self._line_open
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


class Person:
    """The companion of a run: signals, and keys where the console is a terminal."""

    def __init__(self, console: Console, screen: Screen | None, *, typing: bool) -> None:
        self._console = console
        self._screen = screen
        self._typing = typing

    async def __call__(self, session: Session) -> None:
        """Until cancelled. Raises ``OSError`` when the output cannot be shown any more."""
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[int] = asyncio.Queue()
        before = {each: signal.getsignal(each) for each in CAUGHT}
        caught = [each for each in CAUGHT if before[each] is not signal.SIG_IGN]
        for number in caught:
            loop.add_signal_handler(number, signals.put_nowait, number)
        try:
            screen = await session.screen_address()
            if screen is not None:
                self._say(f"the screen is at {screen}")
            async with asyncio.TaskGroup() as group:
                group.create_task(self._obey(session, signals))
                group.create_task(self._watch_screen())
                if self._typing:
                    group.create_task(_type(session))
        except* OSError as failures:
            raise failures.exceptions[0] from None
        finally:
            for number in caught:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number])

    async def _obey(self, session: Session, signals: asyncio.Queue[int]) -> None:
        asked = False
        while True:
            number = await signals.get()
            if not asked and number == signal.SIGINT:
                self._say("\nasking the guest to shut down; press Ctrl-C again to end it at once")
            asked = True
            await session.interrupt()
            if number != signal.SIGINT:
                # Whoever sends these does not wait for a guest to shut down.
                await session.interrupt()

    def _say(self, message: str) -> None:
        if not self._console.quiet:
            text = message.lstrip("\n")
            self._console.stderr.write(f"{message[: -len(text)]}vmpack: {escape(text)}\n")
            self._console.stderr.flush()

    async def _watch_screen(self) -> None:
        while self._screen is not None:
            if self._screen.failed is not None:
                raise self._screen.failed
            await asyncio.sleep(0.2)


async def _type(session: Session) -> None:
    """Send what is typed on this terminal to the guest's console."""
    loop = asyncio.get_running_loop()
    keys: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        data = os.read(descriptor, 4096)
        if not data:
            loop.remove_reader(descriptor)
        elif not keys.full():
            keys.put_nowait(data)

    with _keys_as_they_are(descriptor):
        loop.add_reader(descriptor, read)
        try:
            while True:
                await session.send(await keys.get())
        finally:
            loop.remove_reader(descriptor)


@contextlib.contextmanager
def _keys_as_they_are(descriptor: int) -> Iterator[None]:
    """Every key at once, unechoed, for the guest; Ctrl-C alone stays vmpack's."""
    before = termios.tcgetattr(descriptor)
    wanted = termios.tcgetattr(descriptor)
    wanted[0] &= ~(termios.ICRNL | termios.INLCR | termios.IXON)
    wanted[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    disabled = os.fpathconf(descriptor, "PC_VDISABLE")
    for key in (termios.VQUIT, termios.VSUSP):
        wanted[6][key] = bytes([disabled])
    termios.tcsetattr(descriptor, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
