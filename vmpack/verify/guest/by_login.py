"""A login on the serial console as a means: the probe is typed, and read back between markers."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from vmpack.errors import OperationError
from vmpack.runner.console import clean_lines
from vmpack.runner.milestones import Pattern
from vmpack.verify.guest.framed import MAX_CONSOLE, Framed, FrameError
from vmpack.verify.guest.parse import parse
from vmpack.verify.guest.report import GuestReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmpack.machine.expectation import Login
    from vmpack.runner.session import Session

__all__ = ["ask_login"]

AGAIN_S = 3.0
"""Seconds after which a question is typed again: a login throws away what was typed too early."""

TAIL = 4096
"""Bytes of the console's end in which a prompt is looked for."""

SHOWN_TIMES = 4
"""How often the probe's output is shown, until no other line was printed into it."""

LOGIN = re.compile(r"(?:^|\s)(?!Last )\S* ?login:\s*$")
PASSWORD = re.compile(r"^[Pp]ass(?:word|phrase)[^:]*:")
REFUSED = re.compile(r"^(?:Login incorrect|Authentication failure|login: timed out)")

READER = (
    " stty -echo;p=;n=$(printf '\\nx');n=${{n%x}};printf '%s:%s\\n' {nonce} read;"
    'while IFS= read -r l;do [ "$l" = {nonce}. ]&&break;p=$p$l$n;done;eval "$p";show\r'
)
"""Takes the lines that follow, without echo, up to one that is the nonce and a dot."""


async def ask_login(session: Session, login: Login) -> GuestReport:
    """What the guest reports when one logs in on its console.

    Raises :class:`OperationError` for a login that fails, a shell that is none, and endless or
    broken output; whoever calls it bounds the time.
    """
    console = _Typist(session)
    await _log_in(console, login)
    await _find_shell(console, login)
    framed = Framed()
    await console.type(READER.format(nonce=framed.nonce))
    await console.wait(lambda data: f"{framed.nonce}:read".encode() in data, "its shell")
    await console.type(f"{framed.script}{framed.nonce}.\n")
    output = await _shown(console, framed)
    await console.type("stty echo;exit\r")
    parsed = parse(output)
    if not parsed.complete:
        raise OperationError("what was run gave no whole answer")
    return GuestReport(parsed.facts, parsed.tables, "serial-login")


async def _log_in(console: _Typist, login: Login) -> None:
    at_login = console.at(LOGIN)
    if not at_login:
        await console.type("\r")
        await console.wait(lambda data: _prompt_in(data, LOGIN), "a login prompt")
    await console.type(f"{login.user}\r")
    if login.password is not None:
        await console.wait(lambda data: _prompt_in(data, PASSWORD), "a prompt for the password")
        await console.type(f"{login.password}\r")


async def _find_shell(console: _Typist, login: Login) -> None:
    """Return once a shell answers: the sum of two numbers, which typing them does not show."""
    begin = console.place
    if login.prompt is not None:
        pattern = Pattern(login.prompt)
        await console.wait(
            lambda data: any(pattern.find(line) is not None for line in clean_lines(data[-TAIL:])),
            "the shell's prompt",
        )
    one, two = int.from_bytes(os.urandom(3), "big"), int.from_bytes(os.urandom(3), "big")
    answer = re.compile(rb"vmpack-%d-up" % (one + two))
    while True:
        place = console.place
        await console.type(f" echo vmpack-$(({one}+{two}))-up\r")
        if await console.look(lambda data: answer.search(data) is not None, place):
            return
        lines = console.lines(begin)
        if login.password is None and any(PASSWORD.search(line) for line in lines):
            raise OperationError("the login asks for a password, and the config has none")
        if console.at(LOGIN) or any(REFUSED.search(line) for line in lines):
            raise OperationError("the login was refused")


async def _shown(console: _Typist, framed: Framed) -> bytes:
    for times in range(1, SHOWN_TIMES + 1):
        place = console.place
        await console.wait(framed.shown, "the probe's output")
        try:
            return framed.read(console.since(place))
        except FrameError as exc:
            if times == SHOWN_TIMES:
                raise OperationError(f"the probe's output is broken: {exc}") from exc
        await console.type("show\r")
    raise AssertionError


class _Typist:
    """Types on the console, and looks at what it shows since the last time; within bounds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._start = session.console.total
        self.place = self._start
        """Where what was typed last began."""

    def since(self, place: int) -> bytes:
        """What the console shows from there on."""
        return self._session.console.since(place)

    def lines(self, place: int) -> list[str]:
        """The last lines of it, as plain text."""
        return clean_lines(self.since(place)[-TAIL:])

    def at(self, prompt: re.Pattern[str]) -> bool:
        """Whether the console ends with that prompt."""
        return _prompt_in(self._session.console.data[-TAIL:], prompt)

    async def type(self, text: str) -> None:
        """Type it; what is waited for afterwards has to come afterwards."""
        self.place = self._session.console.total
        await self._session.send(text.encode())

    async def look(self, found: Callable[[bytes], bool], place: int) -> bool:
        """Whether it comes soon."""
        return await self._wait(found, place, AGAIN_S)

    async def wait(self, found: Callable[[bytes], bool], what: str) -> None:
        """Return when it has come; the caller's patience ends the wait."""
        if not await self._wait(found, self.place, 1e9):
            raise OperationError(f"the console ended without {what}")

    async def _wait(self, found: Callable[[bytes], bool], place: int, limit_s: float) -> bool:
        console = self._session.console

        def enough(data: bytes) -> bool:
            return console.total - self._start > MAX_CONSOLE or found(data)

        there = await console.wait_for(enough, limit_s, after=place)
        if console.total - self._start > MAX_CONSOLE:
            raise OperationError("the console prints without end")
        return there


def _prompt_in(data: bytes, prompt: re.Pattern[str]) -> bool:
    lines = clean_lines(data[-TAIL:])
    return bool(lines) and prompt.search(lines[-1]) is not None
