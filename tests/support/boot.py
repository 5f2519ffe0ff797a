"""Boots a guest under real QEMU and tells how it ended, by QMP's events, not by exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.tools import require_tool

TCG = ("-accel", "tcg", "-cpu", "Nehalem-v1")
POLL_S = 0.02
REPLY_S = 20


class Guest:
    """A running guest: QMP on the process's standard streams, its serial console in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self.log = log
        self.events: list[dict[str, Any]] = []
        self.keyboard: int | None = None
        self._process = process
        self._pending = b""
        self._replies: list[dict[str, Any]] = []
        self._ended = False
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """Run one QMP command and return what it returns."""
        assert self._process.stdin is not None
        request = json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        self._process.stdin.write(request)
        self._process.stdin.flush()
        self.wait_until(lambda: bool(self._replies), REPLY_S, f"no reply to {name}")
        reply = self._replies.pop(0)
        assert "return" in reply, reply
        return reply["return"]

    def serial(self) -> str:
        """What the guest has printed so far."""
        return self.log.read_bytes().decode(errors="replace")

    def wait_serial(self, text: str, timeout_s: float = 60, *, after: int = 0) -> None:
        """Return once the guest has printed ``text``; a guest that ends first fails the test."""

        def printed() -> bool:
            return text in self.serial()[after:]

        self.wait_until(lambda: printed() or self._ended, timeout_s, f"never printed {text!r}")
        assert printed(), f"ended before it printed {text!r}:\n{self._tail()}"

    def wait_end(self, timeout_s: float = 20) -> str:
        """Reason of the SHUTDOWN event that ends the guest."""
        self.wait_until(lambda: self._ended, timeout_s, "did not end")
        for event in reversed(self.events):
            if event["event"] == "SHUTDOWN":
                return str(event["data"]["reason"])
        raise AssertionError(f"QEMU ended without SHUTDOWN: {self.events}\n{self._tail()}")

    def type_into_serial(self, text: str) -> None:
        """Send keystrokes to the serial console; needs a guest booted with ``typing=True``."""
        assert self.keyboard is not None, "booted without typing=True"
        os.write(self.keyboard, text.encode())

    def saw(self, event: str) -> bool:
        """True when QEMU has reported this event."""
        return any(seen["event"] == event for seen in self.events)

    def _tail(self) -> str:
        return self.serial()[-2000:]

    def wait_until(self, done: Callable[[], bool], timeout_s: float, complaint: str) -> None:
        """Return once ``done()``; past the deadline the test fails, with the console's end."""
        deadline = time.monotonic() + timeout_s
        while not done():
            self._receive()
            if time.monotonic() > deadline:
                raise AssertionError(f"{complaint} within {timeout_s} s:\n{self._tail()}")

    def _receive(self) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        ready, _, _ = select.select([] if self._ended else [fd], [], [], POLL_S)
        if not ready:
            return
        data = os.read(fd, 65536)
        self._ended = not data
        *lines, self._pending = (self._pending + data).split(b"\n")
        for message in map(json.loads, lines):
            if "event" in message:
                self.events.append(message)
            elif "return" in message or "error" in message:
                self._replies.append(message)


@contextlib.contextmanager
def boot(
    arguments: Sequence[str],
    folder: Path,
    *,
    machine: str = "q35",
    memory_mib: int = 64,
    cpus: int = 1,
    typing: bool = False,
) -> Iterator[Guest]:
    """A guest with these devices under TCG. It is killed on the way out, however that comes."""
    program = require_tool("qemu-system-x86_64")
    log = folder / "serial.log"
    log.touch()
    argv = [program, *TCG, "-machine", machine, "-m", str(memory_mib), "-smp", str(cpus)]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-qmp", "stdio"]
    argv += ["-chardev", f"file,id=serial,path={log},append=on", "-serial", "chardev:serial"]
    with (folder / "qemu.stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*argv, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    guest = None
    with process:
        try:
            guest = Guest(process, log)
            if typing:
                guest.keyboard = _open_for_typing(guest)
            yield guest
        finally:
            process.kill()
            if guest is not None and guest.keyboard is not None:
                os.close(guest.keyboard)


def _open_for_typing(guest: Guest) -> int:
    # A file backend loses nothing and still takes input when a FIFO is its `in`. The FIFO stays
    # open here: QEMU stops listening at the first end of file.
    fifo = guest.log.with_suffix(".in")
    os.mkfifo(fifo, 0o600)
    keyboard = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
    backend = {"out": str(guest.log), "in": str(fifo), "append": True}
    guest.command("chardev-change", id="serial", backend={"type": "file", "data": backend})
    return keyboard


def disk_arguments(path: Path, device: str = "virtio-blk", *, driver: str = "raw") -> list[str]:
    """Arguments for a writable disk on a device such as ``virtio-blk`` or ``ide-hd``."""
    node = {
        "driver": driver,
        "node-name": "disk",
        "read-only": False,
        "file": {"driver": "file", "filename": str(path)},
    }
    return ["-blockdev", json.dumps(node), "-device", f"{device},drive=disk,bootindex=1"]
