"""A shell of this machine behind a terminal, in the place of a guest's serial console."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from vmpack.runner.console import Console
from vmpack.runner.session import Session

GREETING = """
printf 'vm login: '; read -r user
stty -echo; printf 'Password: '; read -r word; stty echo; echo
[ "$user/$word" = root/secret ] || { echo 'Login incorrect'; printf 'vm login: '; read -r user; }
echo 'Last login: never'
"""
"""A login as getty and login(1) show it; what follows it is the shell."""


class ShellConsole:
    """What a session has of a console: the terminal's output goes through a real ``Console``."""

    def __init__(self, terminal: int) -> None:
        self.console = Console("vmpack-test-console")
        self._terminal = terminal

    async def send(self, data: bytes) -> None:
        """Type."""
        view = memoryview(data)
        while view:
            # A terminal takes 4 KiB ahead; this process has to read as well.
            view = view[os.write(self._terminal, view[:512]) :]
            await asyncio.sleep(0.005)

    async def pump(self) -> None:
        """Take what the shell prints."""
        loop = asyncio.get_running_loop()
        while True:
            readable = asyncio.Event()
            loop.add_reader(self._terminal, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._terminal)
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                return
            os.write(self.console.output_fd, data)
            await self.console.drain()


@contextlib.asynccontextmanager
async def shell_console(argv: Sequence[str]) -> AsyncIterator[Session]:
    """A program behind a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execvpe(argv[0], list(argv), {**os.environ, "PS1": "$ ", "HISTFILE": ""})
        finally:
            os._exit(127)
    guest = ShellConsole(terminal)
    pumping = asyncio.create_task(guest.pump())
    try:
        yield cast(Any, guest)
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
        await guest.console.close()
