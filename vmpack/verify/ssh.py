"""OpenSSH's client: one command on another machine, with bounded output, and an end.

Profile: specs/hosts-v1.md, HOSTS-SSH-*. Nothing is asked of a person, and no text of ours is read
by a shell there unquoted. The client dies with vmpack, and what it started there with the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import IO, NoReturn

from vmpack.binary import escape
from vmpack.errors import RemoteError
from vmpack.runner.parent import die_with_parent
from vmpack.verify.hosts import Ssh

__all__ = ["Answer", "Feed", "ask", "ssh_argv"]

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "EscapeChar=none",
    "LogLevel=ERROR",
)
"""No question and no terminal; a silent server is given up after 45 s; nothing is left open."""
MAX_GREETING = 64 << 10
"""Bytes that a login shell there may print before what was asked for."""
MAX_WORDS = 16 << 10
"""Bytes that are kept of what the client and the programs there say."""
PIECE = 64 << 10
STALL_S = 300.0
"""Seconds without room for one more byte, after which the other side is given up."""
REFUSED = 255
"""The client's exit code for its own failures; what is run there ends with another one."""

Feed = Callable[[], AsyncIterator[bytes]]
"""What the command there gets on standard input, piece by piece."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command there did."""

    code: int
    output: IO[bytes]
    """A nameless file with what it printed after the mark, at its start; close it."""
    size: int
    words: str
    """What it, or the client, said on standard error; escaped, shortened."""


def ssh_argv(ssh: Ssh, script: str, arguments: Sequence[str]) -> list[str]:
    """The client's command line for a one-line ``script`` of sh there, with its arguments."""
    words = ["ssh"]
    if ssh.config is not None:
        words += ["-F", ssh.config]
    for each in OPTIONS:
        words += ["-o", each]
    if ssh.port is not None:
        words += ["-p", str(ssh.port)]
    if ssh.identity is not None:
        words += ["-i", ssh.identity, "-o", "IdentitiesOnly=yes"]
    # The user's own shell there reads this, whichever it is: quoted, in one line.
    there = f"exec sh -c {shlex.join([script, 'sh', *arguments])}"
    return [*words, "--", ssh.target, there]


async def ask(
    name: str,
    ssh: Ssh,
    script: str,
    arguments: Sequence[str],
    *,
    feed: Feed,
    limit: int,
    timeout_s: float | None,
) -> Answer:
    """Run ``script`` there; its ``$1`` is a mark that it echoes before its answer.

    ``feed`` is written to its standard input, which is closed after it; ``limit`` bounds the answer
    in bytes. Raises :class:`RemoteError`, in which ``name`` names the host, when there is no
    connection, when it breaks, and past a bound. Cancelling ends the client at once.
    """
    mark = secrets.token_hex(16)
    process = await _start(ssh_argv(ssh, script, [mark, *arguments]))
    output = tempfile.TemporaryFile()  # noqa: SIM115  the caller's, where nothing goes wrong
    words = bytearray()
    taker = _Taker(output, f"{mark}\n".encode(), limit, name)
    jobs = [
        asyncio.create_task(_take(process.stdout, taker.feed)),
        asyncio.create_task(_take(process.stderr, lambda data: _keep(words, data))),
    ]
    writer = asyncio.create_task(_write(process, feed))
    try:
        async with asyncio.timeout(timeout_s):
            await _all_of(jobs, writer)
            code = await process.wait()
    except TimeoutError:
        output.close()
        raise RemoteError(
            f"{name} did not answer within {timeout_s:g} s",
            hint=f"look at it by hand: ssh {ssh.target}",
        ) from None
    except BaseException:
        output.close()
        raise
    finally:
        await _end(process, [*jobs, writer])
    said = escape(" ".join(words.decode(errors="replace").split()))
    if code == REFUSED or code < 0:
        output.close()
        _refused(name, ssh, said, connected=taker.found)
    output.seek(0)
    return Answer(code, output, taker.size, said)


async def _start(argv: list[str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as exc:
        raise RemoteError(
            f"cannot start ssh: {(exc.strerror or str(exc)).lower()}",
            hint="install OpenSSH's client (Debian: openssh-client)",
        ) from exc


async def _all_of(readers: list[asyncio.Task[None]], writer: asyncio.Task[None]) -> None:
    """Until both outputs have ended; an error of the writer is one of the whole."""
    pending: set[asyncio.Task[None]] = {*readers, writer}
    while any(not each.done() for each in readers):
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()


async def _end(process: asyncio.subprocess.Process, jobs: list[asyncio.Task[None]]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    for each in jobs:
        each.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
    # The transport closes its pipes in callbacks; without them it complains when it is collected.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
    await asyncio.sleep(0)


async def _take(stream: asyncio.StreamReader | None, sink: Callable[[bytes], None]) -> None:
    assert stream is not None
    while data := await stream.read(PIECE):
        sink(data)


async def _write(process: asyncio.subprocess.Process, feed: Feed) -> None:
    stdin = process.stdin
    assert stdin is not None
    try:
        async for piece in feed():
            stdin.write(piece)
            async with asyncio.timeout(STALL_S):
                await stdin.drain()
        stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        # It has ended, and how is told by its exit code and its words.
        return
    except TimeoutError:
        raise RemoteError(
            f"took nothing for {STALL_S:g} s", hint="look at its disk and at the network"
        ) from None


def _keep(words: bytearray, data: bytes) -> None:
    words += data
    if len(words) > MAX_WORDS:
        # Causes stand at the start, consequences at the end.
        del words[MAX_WORDS // 2 : len(words) - MAX_WORDS // 2]


class _Taker:
    """Leaves out what a login shell prints, and keeps what follows the mark."""

    def __init__(self, output: IO[bytes], mark: bytes, limit: int, name: str) -> None:
        self.found = False
        self.size = 0
        self._output = output
        self._mark = mark
        self._limit = limit
        self._name = name
        self._before = b""

    def feed(self, data: bytes) -> None:
        if not self.found:
            self._before += data
            _, self.found, data = self._split()
            if not self.found:
                if len(self._before) > MAX_GREETING:
                    raise RemoteError(
                        f"{self._name} prints more than {MAX_GREETING} bytes before it answers",
                        hint="let the login shell there say nothing to commands",
                    )
                return
        self.size += len(data)
        if self.size > self._limit:
            raise RemoteError(
                f"{self._name} sends more than {self._limit} bytes",
                hint="is the vmpack there the one that is meant?",
            )
        self._output.write(data)

    def _split(self) -> tuple[bytes, bool, bytes]:
        before, found, after = self._before.partition(self._mark)
        return before, bool(found), after


def _refused(name: str, ssh: Ssh, said: str, *, connected: bool) -> NoReturn:
    """Say what the client's words mean."""
    if connected:
        raise RemoteError(
            f"the connection to {name} broke: {said or 'without a word'}",
            hint="nothing goes on there; try again",
        )
    for pattern, what, hint in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            raise RemoteError(
                f"{name}: {what}: {_shown(said)}", hint=hint.format(target=ssh.target)
            )
    raise RemoteError(
        f"{name}: ssh to {ssh.target} failed: {_shown(said) or 'without a word'}",
        hint=f"try it by hand: ssh {ssh.target}",
    )


def _shown(said: str) -> str:
    return said if len(said) <= 600 else f"{said[:300]} ... {said[-300:]}"


_MEANINGS = (
    (
        r"IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "its host key is not the one that is known",
        "somebody may stand between you and it; was it installed anew? Then: ssh-keygen -R HOST",
    ),
    (
        r"host key verification failed|host key is known",
        "its host key is not known",
        "log in by hand once, and compare the key: ssh {target}",
    ),
    (
        r"permission denied|too many authentication failures",
        "it does not let you in",
        "log in without a password: ssh-copy-id {target}, or identity = in the hosts file",
    ),
    (
        r"could not resolve|name or service not known",
        "there is no machine of that name",
        "correct ssh = in the hosts file",
    ),
    (
        r"connection refused|timed out|no route to host|unreachable|connection closed by",
        "it cannot be reached",
        "is it on, and its ssh server? Try it by hand: ssh {target}",
    ),
)
