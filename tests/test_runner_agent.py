"""The guest agent's client: beside a real qemu-ga, and beside guests that answer as they like."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import require_tool
from vmpack.errors import InfrastructureError, OperationError, UnsupportedError, VmpackError
from vmpack.runner import agent as agent_module
from vmpack.runner.agent import MAX_OUTPUT, MAX_REPLY, Agent

READY_S = 20.0


@contextlib.contextmanager
def qemu_ga(folder: Path, *more: str) -> Iterator[socket.socket]:
    """A socket that a real qemu-ga listens at, on this machine in place of a guest."""
    path = folder / "ga.sock"
    words = ["-m", "unix-listen", "-p", path, "-t", folder, "-f", folder / "ga.pid", *more]
    process = subprocess.Popen([require_tool("qemu-ga"), *map(str, words)])
    try:
        yield _connected(path, process)
    finally:
        process.kill()
        process.wait()


def _connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(os.fspath(path))
        except OSError:
            sock.close()
            assert process.poll() is None, "qemu-ga ended"
            os.sched_yield()
            continue
        return sock


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[Callable[[Agent], Coroutine[Any, Any, Any]]], Any]]:
    """``ask(question)`` runs a coroutine function with a client of a real qemu-ga."""
    with qemu_ga(tmp_path) as sock:

        async def with_agent(question: Callable[[Agent], Coroutine[Any, Any, Any]]) -> Any:
            agent = Agent(sock)
            await agent.ready(READY_S)
            return await question(agent)

        try:
            yield lambda question: asyncio.run(with_agent(question))
        finally:
            sock.close()


def test_a_command_gives_its_output_and_exit_code(ask: Any) -> None:
    result = ask(lambda agent: agent.shell("echo out; echo err >&2; exit 7"))
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
    assert not result.truncated


def test_a_command_that_a_signal_ends_is_told_as_by_a_shell(ask: Any) -> None:
    assert ask(lambda agent: agent.shell("kill -TERM $$")).exit_code == 143


def test_arguments_are_no_shell_words(ask: Any) -> None:
    words = ["printf", "%s|", "a b", "$HOME;", "x,y=z", 'q"']
    assert ask(lambda agent: agent.run(words)).stdout == b'a b|$HOME;|x,y=z|q"|'


def test_a_command_can_be_given_input(ask: Any) -> None:
    assert ask(lambda agent: agent.run(["cat"], stdin=b"\x00\xffbytes")).stdout == b"\x00\xffbytes"


def test_more_output_than_the_agent_keeps_is_said_to_be_cut(ask: Any) -> None:
    result = ask(lambda agent: agent.shell(f"head -c {MAX_OUTPUT + 5} /dev/zero"))
    assert result.truncated
    assert len(result.stdout) == MAX_OUTPUT


def test_a_program_that_is_not_there_is_refused_in_the_agents_words(ask: Any) -> None:
    with pytest.raises(OperationError, match=r"refused guest-exec: .*No such file"):
        ask(lambda agent: agent.run(["/no/such/program"]))


def test_a_command_that_takes_too_long_leaves_the_agent_usable(ask: Any, tmp_path: Path) -> None:
    # A FIFO that nobody writes to: the command waits until this test opens it.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def late(agent: Agent) -> bytes:
        with pytest.raises(TimeoutError):
            await agent.run(["cat", str(fifo)], timeout_s=0.05)
        os.close(os.open(fifo, os.O_WRONLY))
        result = await agent.shell("echo still here")
        return result.stdout

    assert ask(late) == b"still here\n"


@pytest.mark.parametrize("size", [0, 1, 255, agent_module.WRITE_CHUNK * 2 + 1])
def test_a_file_goes_in_and_out_unchanged(ask: Any, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    inside = tmp_path / "inside"

    async def there_and_back(agent: Agent) -> bytes:
        assert await agent.write_file(str(inside), io.BytesIO(data)) == size
        assert inside.read_bytes() == data
        back = bytearray()
        assert await agent.read_file(str(inside), back.extend) == size
        return bytes(back)

    assert ask(there_and_back) == data


def test_a_file_without_a_size_is_read_to_its_end(ask: Any) -> None:
    back = bytearray()
    ask(lambda agent: agent.read_file("/proc/self/status", back.extend))
    assert b"qemu-ga" in back


def test_an_endless_file_has_an_end_here(ask: Any) -> None:
    seen: list[int] = []
    with pytest.raises(OperationError, match="tells no size"):
        ask(lambda agent: agent.read_file("/dev/zero", lambda data: seen.append(len(data))))
    assert sum(seen) == agent_module.MAX_UNSIZED


def test_a_file_larger_than_there_is_room_for_is_refused_first(ask: Any, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OperationError, match="of which 1000 fit here"):
        ask(lambda agent: agent.read_file(str(tmp_path / "large"), print, max_bytes=1000))


def test_files_that_cannot_be_opened_are_told_in_the_agents_words(ask: Any) -> None:
    with pytest.raises(OperationError, match="No such file"):
        ask(lambda agent: agent.read_file("/no/such/file", print))
    with pytest.raises(OperationError, match="No such file"):
        ask(lambda agent: agent.write_file("/no/such/folder/file", io.BytesIO(b"x")))


def test_an_agent_that_may_not_run_commands_is_said_to(tmp_path: Path) -> None:
    with qemu_ga(tmp_path, "-b", "guest-exec") as sock:

        async def question() -> None:
            await Agent(sock).run(["true"])

        with pytest.raises(UnsupportedError, match="does not offer guest-exec") as caught:
            asyncio.run(question())
        sock.close()
    assert caught.value.hint is not None


# From here on: guests that answer whatever they like.


def against(answers: bytes, question: Callable[[Agent], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``question`` beside a guest that answers its sync, then sends ``answers`` and leaves."""

    async def run() -> Any:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()

        async def guest() -> None:
            request = b""
            while b"\n" not in request:
                request += await loop.sock_recv(theirs, 65536)
            number = json.loads(request.lstrip(b"\xff"))["arguments"]["id"]
            reply = b'old reply\n\xff{"return": %d}\n' % number
            with contextlib.suppress(OSError):
                await loop.sock_sendall(theirs, reply + answers)
                theirs.shutdown(socket.SHUT_WR)

        agent = Agent(ours)
        task = asyncio.create_task(guest())
        try:
            await agent.ready(READY_S)
            return await question(agent)
        finally:
            agent.close()
            theirs.close()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return asyncio.run(run())


def ping(agent: Agent) -> Coroutine[Any, Any, object]:
    return agent.execute("guest-ping")


@pytest.mark.parametrize(
    "answer",
    [
        b"no json at all\n",
        b"[1, 2]\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b'{"return": ' * 50_000 + b"\n",
        b"\xc3\x28\n",
        b"\n",
    ],
)
def test_a_reply_of_any_shape_is_an_error_in_our_words(answer: bytes) -> None:
    """hostile: 48."""
    with pytest.raises(OperationError, match="guest agent"):
        against(answer, ping)


def test_a_reply_without_an_end_is_cut_off() -> None:
    """hostile: 48."""
    with pytest.raises(OperationError, match="longer than"):
        against(b"x" * (MAX_REPLY * 3), ping)


def test_a_guest_that_leaves_in_the_middle_is_no_answer() -> None:
    with pytest.raises(InfrastructureError, match="ended before"):
        against(b'{"return"', ping)


def test_an_error_of_the_agent_cannot_steer_the_terminal() -> None:
    answer = json.dumps({"error": {"class": "GenericError", "desc": "\x1b]0;x\x07" + "y" * 9999}})
    with pytest.raises(OperationError) as caught:
        against(answer.encode() + b"\n", ping)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 1000


def replies(*values: object) -> bytes:
    return b"".join(json.dumps({"return": value}).encode() + b"\n" for value in values)


@pytest.mark.parametrize(
    "status",
    [
        {"exited": True},
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": True},
        {"exited": True, "exitcode": 0, "out-data": "***"},
        {"exited": True, "exitcode": 0, "out-data": 5},
        {"exited": True, "exitcode": 0, "err-data": "\u00e9"},
        "exited",
        None,
    ],
)
def test_a_status_of_any_shape_is_an_error_in_our_words(status: object) -> None:
    with pytest.raises(OperationError, match="makes no sense"):
        against(replies({"pid": 1}, status), lambda agent: agent.run(["true"]))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"exitcode": 0xC0000005}, 255),
        ({"exitcode": -1}, 255),
        ({"signal": 9}, 137),
        ({"signal": 100_000}, 255),
    ],
)
def test_exit_codes_fit_a_process(status: dict[str, int], code: int) -> None:
    answers = replies({"pid": 1}, {"exited": True, **status})
    assert against(answers, lambda agent: agent.run(["true"])).exit_code == code


def test_a_guest_cannot_send_more_of_a_file_than_was_asked_for() -> None:
    large = base64.b64encode(bytes(200)).decode()
    answers = replies(
        1, {"position": 100, "eof": False}, {"position": 0}, {"count": 200, "buf-b64": large}
    )
    taken = bytearray()
    with pytest.raises(OperationError, match="makes no sense"):
        against(answers, lambda agent: agent.read_file("/x", taken.extend))
    assert not taken


@pytest.mark.parametrize("chunk", [{"count": 0, "buf-b64": ""}, {}, {"eof": "no"}])
def test_a_guest_that_sends_nothing_for_ever_is_left(chunk: dict[str, object]) -> None:
    answers = replies(1, {"position": 5}, {"position": 0}, chunk)
    with pytest.raises(OperationError, match="makes no sense"):
        against(answers, lambda agent: agent.read_file("/x", print))


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_a_guest_that_takes_nothing_of_a_file_is_left(count: int) -> None:
    with pytest.raises(OperationError, match="took no more"):
        against(
            replies(1, {"count": count}), lambda agent: agent.write_file("/x", io.BytesIO(b"abc"))
        )


def test_an_agent_that_is_silent_is_given_up() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs), contextlib.closing(Agent(ours)) as agent:
            await agent.ready(0.01)

    with pytest.raises(InfrastructureError, match="did not answer") as caught:
        asyncio.run(run())
    assert "qemu-guest-agent" in (caught.value.hint or "")


def test_a_guest_that_never_pauses_does_not_outlive_the_deadline() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()

        async def chatter() -> None:
            while True:
                await loop.sock_sendall(theirs, b'{"return": 1}\n' * 1000)
                await asyncio.sleep(0)

        task = asyncio.create_task(chatter())
        with contextlib.closing(theirs), contextlib.closing(Agent(ours)) as agent:
            try:
                await agent.ready(0.05)
            finally:
                task.cancel()

    with pytest.raises(InfrastructureError, match="did not answer"):
        asyncio.run(run())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.lists(json_values, max_size=5), st.binary(max_size=50))
def test_whatever_a_guest_answers_only_our_errors_come_out(values: list[Any], end: bytes) -> None:
    for question in (
        lambda agent: agent.run(["true"]),
        lambda agent: agent.read_file("/x", lambda data: None),
        lambda agent: agent.write_file("/x", io.BytesIO(b"abc")),
    ):
        with contextlib.suppress(VmpackError):
            against(replies(*values) + end, question)
