"""The recorded console: a file in memory that QEMU appends to and this process follows.

A file loses no byte, unlike a socket. What was read is punched out of it, so that endless output
costs neither memory nor disk; the end of it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import mmap
import os
import re
from collections.abc import Callable

from vmpack.runner.scratch import memory_file, reopen

__all__ = ["KEPT", "Console", "Wanted", "clean_lines"]

KEPT = 1 << 20
"""Bytes of the end of the output that are kept; at most twice as many are held."""
CHUNK = 1 << 18
POLL_S = 0.02
TYPED_AHEAD = 4096
"""Bytes that can be typed before the guest takes them."""
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)

Wanted = bytes | str | re.Pattern[bytes] | Callable[[bytes], bool]
"""What is waited for: text, a pattern, or a predicate; each looks at the kept output."""

_ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    rb"|\x1b[]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM, APC: titles, links
    rb"|\x1b[ -/]*[0-~]"
)
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Console:
    """What the guest prints on one port, and what is typed to it."""

    def __init__(self, name: str, on_data: Callable[[bytes], None] | None = None):
        self.total = 0
        """Bytes that the guest has printed."""
        self._kept = bytearray()
        self._listeners = [] if on_data is None else [on_data]
        self._closed = False
        self._changed = asyncio.Condition()
        self._file = memory_file(name)
        self.output_fd = reopen(self._file, os.O_WRONLY | os.O_APPEND)
        """For QEMU: it takes a descriptor of an fdset only when it is opened as it wants it."""
        self.input_fd, self._keyboard = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.input_fd, True)
        fcntl.fcntl(self._keyboard, fcntl.F_SETPIPE_SZ, TYPED_AHEAD)

    @property
    def data(self) -> bytes:
        """The end of the output, at least the last ``KEPT`` bytes of it."""
        return bytes(self._kept)

    @property
    def start(self) -> int:
        """Where in the whole output ``data`` begins."""
        return self.total - len(self._kept)

    def since(self, position: int) -> bytes:
        """The kept output from ``position`` in the whole output on."""
        return bytes(self._kept[max(0, position - self.start) :])

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines, safe to print."""
        return tuple(clean_lines(bytes(self._kept[-32768:]))[-lines:])

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Have ``listener`` called with what comes from now on."""
        self._listeners.append(listener)

    async def follow(self) -> None:
        """Read what comes, until cancelled."""
        while True:
            more = await self.poll()
            await asyncio.sleep(0 if more else POLL_S)

    async def poll(self) -> bool:
        """Read what is there now; whether there may be more."""
        data = os.pread(self._file, CHUNK, self.total)
        if not data:
            return False
        self._punch(self.total, len(data))
        self.total += len(data)
        self._kept += data
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]
        for listener in self._listeners:
            listener(data)
        async with self._changed:
            self._changed.notify_all()
        return True

    def _punch(self, offset: int, length: int) -> None:
        # Gives the memory back, in whole pages; where it cannot be done the file only stays longer.
        begin = offset - offset % mmap.PAGESIZE
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        size = ctypes.c_longlong(offset + length - begin)
        _LIBC.fallocate64(self._file, mode, ctypes.c_longlong(begin), size)

    async def drain(self) -> None:
        """Read everything that QEMU has written until now."""
        if not self._closed:
            end = os.fstat(self._file).st_size
            while self.total < end and await self.poll():
                pass

    async def wait_for(self, wanted: Wanted, timeout_s: float, *, after: int = 0) -> bool:
        """Whether ``wanted`` appears in the output from position ``after`` on, in that time.

        ``False`` as well when the console is closed first.
        """
        found = matcher(wanted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                while not found(self.since(after)):
                    if self._closed:
                        return False
                    await self._changed.wait()
                return True
        return found(self.since(after))

    async def send(self, data: bytes) -> None:
        """Type ``data``; returns once the guest's side has room for all of it."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and not self._closed:
            try:
                view = view[os.write(self._keyboard, view) :]
            except BlockingIOError:
                room = asyncio.Event()
                loop.add_writer(self._keyboard, room.set)
                try:
                    await room.wait()
                finally:
                    loop.remove_writer(self._keyboard)

    async def close(self) -> None:
        """Release the file and wake whoever waits. What was kept stays readable."""
        if self._closed:
            return
        self._closed = True
        async with self._changed:
            self._changed.notify_all()
        for fd in (self._file, self.output_fd, self.input_fd, self._keyboard):
            os.close(fd)


def matcher(wanted: Wanted) -> Callable[[bytes], bool]:
    """A predicate of the kept output."""
    if isinstance(wanted, str):
        wanted = wanted.encode()
    if isinstance(wanted, bytes):
        text = wanted
        return lambda data: text in data
    if isinstance(wanted, re.Pattern):
        pattern = wanted
        return lambda data: pattern.search(data) is not None
    return wanted


def clean_lines(data: bytes) -> list[str]:
    """Lines of a guest's output without escape sequences and control characters; no empty ones."""
    text = _ESCAPES.sub(b"", data).decode(errors="replace")
    lines = (line.rpartition("\r")[2] if line.strip("\r") else "" for line in _split(text))
    return [shown for line in lines if (shown := _UNSAFE.sub("", line).rstrip())]


def _split(text: str) -> list[str]:
    return [line.rstrip("\r") for line in text.split("\n")]
