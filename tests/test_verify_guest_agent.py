"""Asking a guest through its agent: a real qemu-ga, and agents that lie, stall or never stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.test_runner_agent import qemu_ga, replies
from vmpack.errors import InfrastructureError, OperationError
from vmpack.runner.agent import MAX_REPLY as MAX_LINE
from vmpack.runner.agent import Agent
from vmpack.verify.guest.by_agent import MAX_REPLY, ask_agent
from vmpack.verify.guest.report import GuestReport

FORBIDDEN = ("-b", "guest-exec")


def asked(folder: Path, *more: str) -> GuestReport:
    """What a real agent on this machine reports, and that it can be asked again."""

    async def ask(sock: Any) -> GuestReport:
        agent = Agent(sock)
        first = await ask_agent(agent)
        assert (await ask_agent(agent)).means == first.means
        return first

    with qemu_ga(folder, *more) as sock:
        try:
            return asyncio.run(ask(sock))
        finally:
            sock.close()


def test_a_real_agent_runs_the_probe(tmp_path: Path) -> None:
    report = asked(tmp_path)
    assert (report.means, report.problem) == ("agent", "")
    assert report.facts is not None
    assert report.facts["uname"]
    assert report.tables is not None


def test_an_agent_that_may_not_run_programs_tells_what_it_may(tmp_path: Path) -> None:
    report = asked(tmp_path, *FORBIDDEN)
    assert (report.means, report.tables) == ("agent-info", None)
    assert report.facts is not None
    assert "hostname" in report.facts
    assert [key for key in report.facts if key.startswith("mount:")]


def test_an_agent_that_may_tell_nothing_is_said_to(tmp_path: Path) -> None:
    telling = (
        "guest-get-osinfo,guest-get-host-name,guest-get-users,"
        "guest-network-get-interfaces,guest-get-fsinfo,guest-get-disks"
    )
    with pytest.raises(OperationError, match="offers nothing"):
        asked(tmp_path, "-b", f"guest-exec,{telling}")


def against(answers: bytes) -> GuestReport:
    """The report of a guest that answers its first sync, then sends ``answers`` and leaves."""

    async def guest(theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = b""
        while b"\n" not in request:
            request += await loop.sock_recv(theirs, 65536)
        number = json.loads(request.lstrip(b"\xff"))["arguments"]["id"]
        with contextlib.suppress(OSError):
            await loop.sock_sendall(theirs, b'\xff{"return": %d}\n' % number + answers)
            theirs.shutdown(socket.SHUT_WR)

    async def ask() -> GuestReport:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        task = asyncio.create_task(guest(theirs))
        try:
            return await ask_agent(Agent(ours))
        finally:
            ours.close()
            theirs.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return asyncio.run(ask())


def told(output: bytes) -> dict[str, object]:
    """The status of a command that printed ``output``."""
    text = base64.b64encode(output).decode()
    return {"exited": True, "exitcode": 0, "out-data": text}


REFUSED = b'{"error": {"class": "GenericError", "desc": "no \\u001b]0;x\\u0007"}}\n'
NO_PROGRAM = REFUSED.replace(b"no ", b"Failed to execute child process")


@pytest.mark.parametrize(
    "answers",
    [
        # Shapes of all kinds, in the place of an answer.
        replies({"pid": 1}, told(b"")),
        replies({"pid": 1}, told(b"== uname\nLinux\n")),
        replies({"pid": 1}, told(b"== end\n" * 300_000)),
        replies({"pid": 1}, told(b"\x1b]0;x\x07" * 1000)),
        replies({"pid": 1}, {"exited": True, "exitcode": 0, "out-data": "*"}),
        # Out of turn: answers to questions that nobody has asked.
        replies(*[{"pid": 1}] * 6),
        replies(*[told(b"== end\n")] * 1000),
        # Without an end, or deeper than any answer.
        b"x" * (MAX_REPLY + MAX_LINE + 100_000),
        replies({"pid": 1}) + b'{"return": "' + b"x" * (MAX_REPLY + 100_000),
        b'{"return": ' + b"[" * 500_000 + b"\n",
        b'{"return": {"pid": ' + b"9" * 500_000 + b"}}\n",
        b'{"return": ' + b"{}, " * 100_000 + b"\n",
    ],
)
def test_an_agent_that_answers_nonsense_is_an_error(answers: bytes) -> None:
    """hostile: 48."""
    with pytest.raises((OperationError, InfrastructureError)) as caught:
        against(answers)
    assert "\x1b" not in caught.value.message


def test_an_agent_that_runs_no_programs_and_answers_nonsense_is_an_error() -> None:
    """hostile: 48."""
    nonsense = replies(*[["x"]] * 3, {"host-name": 5}, [None, [], "x"], 7)
    with pytest.raises(OperationError, match="offers nothing"):
        against(NO_PROGRAM + nonsense)
    with pytest.raises(OperationError, match="offers nothing"):
        against(NO_PROGRAM + REFUSED * 6)


def test_what_an_agent_invents_is_bounded() -> None:
    """hostile: 48."""
    cards = [
        {"name": f"eth{n}", "hardware-address": f"52:54:00:00:{n // 256:02x}:{n % 256:02x}"}
        for n in range(9000)
    ]
    rows = [replies({"host-name": "h" * 100_000}), replies(0)]
    rows.append(replies(cards) + replies([]) + replies([]))
    report = against(NO_PROGRAM + replies({}) + b"".join(rows))
    assert report.means == "agent-info"
    assert report.facts is not None
    assert len(report.facts) < 300
    assert len(str(report.facts["hostname"])) < 5000
