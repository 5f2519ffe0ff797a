"""Client of the QEMU guest agent: runs commands in the guest, and moves files in and out.

The protocol is qemu-ga's: one JSON object a line over a virtio-serial port, with
``guest-sync-delimited`` to find the start. What answers is the guest, so nothing of a reply is
trusted: its length, shape, types and the amount of data are bounded, and everything has a deadline.
Commands run in the guest only, never on the host.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from vmpack.binary import escape
from vmpack.errors import InfrastructureError, OperationError, UnsupportedError

__all__ = ["MAX_OUTPUT", "Agent", "ExecResult"]

MAX_OUTPUT = 16 << 20
"""Bytes of stdout, and of stderr, that qemu-ga keeps of a command; it says when there was more."""

MAX_REPLY = 1 << 20
"""Bytes of one reply; more than a chunk of a file needs."""

MAX_EXEC_REPLY = 2 * (MAX_OUTPUT * 4 // 3) + MAX_REPLY
"""Bytes of the reply that carries a command's whole output."""

WRITE_CHUNK = 256 << 10
"""Bytes of a file in one request. The agent answers each, so larger is faster."""

READ_CHUNK = 256 << 10
MAX_UNSIZED = 16 << 20
"""Bytes that are read of a file which tells no size (in ``/proc``, a pipe)."""

REPLY_S = 60.0
"""Seconds for one reply, where nothing else is said; a guest under TCG may be slow."""

POLL_S = (0.02, 0.5)
"""First and longest pause between two looks at a running command."""

NO_AGENT_HINT = "install qemu-guest-agent in the guest, and set guest-agent = true in its config"


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command that ended in the guest."""

    exit_code: int
    """As a shell tells it: 128 and the signal's number where one ended the command."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """The command printed more than :data:`MAX_OUTPUT`; the rest is lost."""


class Agent:
    """The guest agent at the other end of ``sock``, the host's side of its virtio-serial port.

    One call at a time. ``sock`` is closed by :meth:`close`.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._synced = False

    async def ready(self, timeout_s: float) -> None:
        """Return once the agent answers; raises :class:`InfrastructureError` if it does not.

        What is written before the guest opens its port waits in the socket, so one question is
        enough however long the boot takes.
        """
        number = int.from_bytes(os.urandom(4), "little")
        try:
            async with asyncio.timeout(timeout_s):
                await self._send("guest-sync-delimited", {"id": number}, prefix=b"\xff")
                while True:
                    reply = await self._line(MAX_REPLY)
                    # Everything before the delimiter is left over from someone else's questions.
                    answer = _parse(reply.rpartition(b"\xff")[2], strict=False)
                    if isinstance(answer, dict) and answer.get("return") == number:
                        break
        except TimeoutError as exc:
            raise InfrastructureError(
                f"the guest agent did not answer within {timeout_s:g} s", hint=NO_AGENT_HINT
            ) from exc
        self._synced = True

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = REPLY_S,
        max_reply: int = MAX_REPLY,
    ) -> object:
        """What the agent's ``command`` returns.

        Raises :class:`OperationError` when the guest refuses or answers nonsense,
        :class:`UnsupportedError` for a command that its agent lacks or forbids,
        :class:`InfrastructureError` when there is no answer.
        """
        if not self._synced:
            await self.ready(timeout_s)
        # Left early, a late reply would be taken for the answer to the next question.
        self._synced = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(command, arguments)
                reply = await self._line(max_reply)
        except TimeoutError as exc:
            raise InfrastructureError(
                f"the guest agent did not answer {command} within {timeout_s:g} s"
            ) from exc
        self._synced = True
        answer = _parse(reply)
        if not isinstance(answer, dict):
            raise _nonsense(command)
        if "error" in answer:
            raise _refused(command, answer["error"])
        if "return" not in answer:
            raise _nonsense(command)
        return answer["return"]

    def forget(self) -> None:
        """The guest is another one now (a snapshot, a reset): the next command begins anew."""
        self._synced = False
        self._received.clear()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        max_reply: int = MAX_EXEC_REPLY,
    ) -> ExecResult:
        """Run a program in the guest to its end; ``argv[0]`` is searched on the agent's PATH.

        ``max_reply`` bounds the bytes of the reply with its output, in base64. Raises
        :class:`TimeoutError` after ``timeout_s`` (the program runs on), and what :meth:`execute`
        raises.
        """
        request: dict[str, object] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "capture-output": True,
        }
        if stdin is not None:
            request["input-data"] = base64.b64encode(stdin).decode()
        started = _object(await self.execute("guest-exec", request), "guest-exec")
        pid = _whole(started, "pid", "guest-exec")
        async with asyncio.timeout(timeout_s):
            return await self._ended(pid, max_reply)

    async def shell(self, command: str, *, timeout_s: float | None = None) -> ExecResult:
        """Run a command line with the guest's ``/bin/sh``."""
        return await self.run(["/bin/sh", "-c", command], timeout_s=timeout_s)

    async def write_file(
        self, path: str, source: BinaryIO, *, progress: Callable[[int], None] | None = None
    ) -> int:
        """Write all of ``source`` to ``path`` in the guest; the number of bytes.

        ``progress`` is told the bytes of each chunk. Raises what :meth:`execute` raises.
        """
        handle = await self._open(path, "wb")
        written = 0
        try:
            while chunk := source.read(WRITE_CHUNK):
                await self._write_chunk(handle, path, chunk)
                written += len(chunk)
                if progress is not None:
                    progress(len(chunk))
        except BaseException:
            await self._abandon(handle)
            raise
        await self.execute("guest-file-flush", {"handle": handle})
        await self.execute("guest-file-close", {"handle": handle})
        return written

    async def read_file(
        self,
        path: str,
        sink: Callable[[bytes], object],
        *,
        max_bytes: int | None = None,
    ) -> int:
        """Hand the content of the guest's ``path`` to ``sink``; the number of bytes.

        As many bytes as the file has at the start: one that grows does not hold the reader. Raises
        :class:`OperationError` for one larger than ``max_bytes``, and what :meth:`execute` raises.
        """
        handle = await self._open(path, "rb")
        try:
            size = await self._size(handle)
            if max_bytes is not None and size > max_bytes:
                raise OperationError(
                    f"has {size} bytes in the guest, of which {max_bytes} fit here", path=path
                )
            done = await self._read_all(handle, sink, size or MAX_UNSIZED)
        finally:
            await self._abandon(handle)
        if not size and done >= MAX_UNSIZED:
            raise OperationError(
                f"tells no size in the guest, and has {done >> 20} MiB or more",
                path=path,
                hint="copy it to a regular file in the guest first",
            )
        return done

    def close(self) -> None:
        """Let go of the guest's port."""
        self._sock.close()

    async def _ended(self, pid: int, max_reply: int) -> ExecResult:
        pause, longest = POLL_S
        while True:
            answer = await self.execute("guest-exec-status", {"pid": pid}, max_reply=max_reply)
            status = _object(answer, "guest-exec-status")
            if status.get("exited") is True:
                return _exec_result(status)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def _open(self, path: str, mode: str) -> int:
        handle = await self.execute("guest-file-open", {"path": path, "mode": mode})
        if not isinstance(handle, int) or isinstance(handle, bool):
            raise _nonsense("guest-file-open")
        return handle

    async def _write_chunk(self, handle: int, path: str, chunk: bytes) -> None:
        while chunk:
            data = base64.b64encode(chunk).decode()
            reply = await self.execute("guest-file-write", {"handle": handle, "buf-b64": data})
            count = _whole(_object(reply, "guest-file-write"), "count", "guest-file-write")
            if not 0 < count <= len(chunk):
                raise OperationError("the guest took no more bytes of the file", path=path)
            chunk = chunk[count:]

    async def _size(self, handle: int) -> int:
        """Bytes of an open file, then back at its start; 0 where it has no such thing."""
        try:
            end = await self.execute(
                "guest-file-seek", {"handle": handle, "offset": 0, "whence": "end"}
            )
            await self.execute("guest-file-seek", {"handle": handle, "offset": 0, "whence": "set"})
        except OperationError:
            return 0
        size = _whole(_object(end, "guest-file-seek"), "position", "guest-file-seek")
        return max(size, 0)

    async def _read_all(self, handle: int, sink: Callable[[bytes], object], limit: int) -> int:
        done = 0
        while done < limit:
            count = min(READ_CHUNK, limit - done)
            reply = _object(
                await self.execute("guest-file-read", {"handle": handle, "count": count}),
                "guest-file-read",
            )
            data = _data(reply, "buf-b64", "guest-file-read")
            if len(data) > count or (not data and reply.get("eof") is not True):
                raise _nonsense("guest-file-read")
            sink(data)
            done += len(data)
            if reply.get("eof") is True:
                return done
        return done

    async def _abandon(self, handle: int) -> None:
        """Close a file of the guest; what goes wrong with that is nobody's concern any more."""
        if self._synced:
            try:
                await self.execute("guest-file-close", {"handle": handle})
            except (OperationError, InfrastructureError, UnsupportedError):
                return

    async def _send(
        self, command: str, arguments: Mapping[str, object] | None, *, prefix: bytes = b""
    ) -> None:
        request: dict[str, object] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(
                self._sock, prefix + json.dumps(request).encode("ascii") + b"\n"
            )
        except OSError as exc:
            raise _gone() from exc

    async def _line(self, limit: int) -> bytes:
        """The next line; raises :class:`OperationError` past ``limit`` bytes without an end."""
        loop = asyncio.get_running_loop()
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > limit:
                self._received.clear()
                raise OperationError(f"the guest agent's reply is longer than {limit} bytes")
            try:
                data = await loop.sock_recv(self._sock, 65536)
            except OSError as exc:
                raise _gone() from exc
            if not data:
                raise _gone()
            self._received += data
            # A guest that never pauses must not keep deadlines and Ctrl-C from their turn.
            await asyncio.sleep(0)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line


def _gone() -> InfrastructureError:
    return InfrastructureError("the guest ended before its agent answered")


def _parse(line: bytes, *, strict: bool = True) -> object:
    try:
        # 0xFF is the delimiter of a sync; it is in no JSON text.
        found: object = json.loads(line.replace(b"\xff", b""))
    except (ValueError, RecursionError) as exc:
        if not strict:
            return None
        raise OperationError("the guest agent's reply is no JSON") from exc
    return found


def _nonsense(command: str) -> OperationError:
    return OperationError(f"the guest agent's reply to {command} makes no sense")


def _refused(command: str, error: object) -> OperationError | UnsupportedError:
    found = error if isinstance(error, dict) else {}
    said = escape(str(found.get("desc", "no reason given"))[:500])
    if found.get("class") == "CommandNotFound":
        return UnsupportedError(
            f"the guest agent does not offer {command}: {said}",
            hint="allow it in the guest's /etc/qemu/qemu-ga.conf or /etc/sysconfig/qemu-ga",
        )
    return OperationError(f"the guest agent refused {command}: {said}")


def _object(value: object, command: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _nonsense(command)
    return value


def _whole(value: Mapping[str, object], key: str, command: str) -> int:
    found = value.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or abs(found) >= 1 << 63:
        raise _nonsense(command)
    return found


def _data(value: Mapping[str, object], key: str, command: str) -> bytes:
    text = value.get(key, "")
    if not isinstance(text, str):
        raise _nonsense(command)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _nonsense(command) from exc


def _exec_result(status: Mapping[str, object]) -> ExecResult:
    what = "guest-exec-status"
    if "signal" in status:
        number = _whole(status, "signal", what)
        code = 128 + number if 0 < number < signal.NSIG else 255
    else:
        # A Windows guest has exit codes of 32 bits; a process of this host has 8.
        code = _whole(status, "exitcode", what)
        code = code if 0 <= code <= 255 else 255
    return ExecResult(
        code,
        _data(status, "out-data", what),
        _data(status, "err-data", what),
        status.get("out-truncated") is True or status.get("err-truncated") is True,
    )
