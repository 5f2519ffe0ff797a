"""A TPM for a machine: swtpm over an inherited socket, its state in memory, in and out as a blob.

The state is what swtpm keeps as ``tpm2-00.permall`` (TPM 1.2: ``tpm-00.permall``): libvirt and
Proxmox keep the same bytes. While the machine runs they are in a nameless file of swtpm's linear
layout, so that nothing is left behind. Source: swtpm(8), swtpm_ioctls(3); the layout is that of
swtpm 0.7 to 0.10, version 1. Integers of the layout are little-endian, of the socket big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import DamagedError, InfrastructureError, PinUnavailableError
from vmpack.runner.process import ChildProcess, User, plain_user, spawn
from vmpack.runner.scratch import memory_file

if TYPE_CHECKING:
    from vmpack.machine.hardware import Tpm

__all__ = ["MAX_STATE", "TpmEmulator", "find_swtpm", "from_linear", "start_tpm", "to_linear"]

INSTALL = "install it (Debian, Ubuntu, Fedora, Arch: swtpm)"
MAX_STATE = 1 << 20
"""Bytes of state that are taken: swtpm's own stay under 130 KiB."""
HEADER = struct.Struct("<8sBxH")
"""Linear layout: magic, version, bytes of the header with its table."""
SECTION = struct.Struct("<III")
"""Of each kind of state: offset, bytes, bytes reserved. Permanent state is the first kind."""
MAGIC, VERSION = b"nilmptws", 1
SECTIONS = 15
HEADER_SIZE = HEADER.size + SECTIONS * SECTION.size
RESERVED_STEP = 1024
GET_CAPABILITY = struct.pack(">I", 1)
ANSWER_SIZE = 8
DISCONNECT_S = 1.0
"""swtpm ends milliseconds after QEMU has."""
ANSWER_S = 20.0
"""swtpm answers after milliseconds; on a loaded machine it may wait for a CPU."""


def find_swtpm() -> str | None:
    """Path of swtpm, when it is installed."""
    return shutil.which("swtpm")


class TpmEmulator:
    """A running swtpm. It ends when QEMU closes its socket, and dies with vmpack."""

    def __init__(self, process: ChildProcess, ours: socket.socket, state: int):
        self.process = process
        self._socket: socket.socket | None = ours
        self._state = state

    @property
    def socket(self) -> int:
        """Descriptor that QEMU inherits, for the chardev of its ``-tpmdev emulator``."""
        assert self._socket is not None, "it was handed over already"
        return self._socket.fileno()

    def handed_over(self) -> None:
        """QEMU has inherited the socket: from now on swtpm ends when QEMU does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def state(self) -> bytes | None:
        """The permanent state as it is now; ``None`` while there is none.

        Whole once :meth:`stop` has returned; swtpm may be writing it until then. Raises
        :class:`DamagedError` when it is none.
        """
        size = os.fstat(self._state).st_size
        return from_linear(os.pread(self._state, min(size, MAX_STATE), 0)) if size else None

    async def stop(self) -> bytes | None:
        """End swtpm in order and return the state. QEMU must have ended, or never started."""
        self.handed_over()
        try:
            await asyncio.wait_for(self.process.wait(), DISCONNECT_S)
        except TimeoutError:
            # A QEMU that ended before it reached the TPM leaves swtpm waiting for it.
            if self.process.returncode is None:
                os.kill(self.process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), ANSWER_S)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        return self.state()

    async def close(self) -> None:
        """End it at once, and release what belongs to it. Closing twice is harmless."""
        self.handed_over()
        await self.process.close()
        if self._state >= 0:
            os.close(self._state)
            self._state = -1


async def start_tpm(tpm: Tpm, state: bytes | None = None) -> TpmEmulator:
    """Start a TPM of that version, with ``state`` or with a new one.

    Raises :class:`PinUnavailableError` when this host has no swtpm, :class:`DamagedError` for a
    state of impossible size, :class:`InfrastructureError` when swtpm does not come up.
    """
    program = find_swtpm()
    if program is None:
        raise PinUnavailableError(
            "the machine has a TPM, and swtpm is not installed", field="tpm", hint=INSTALL
        )
    kept = memory_file("vmpack-tpm", b"" if state is None else to_linear(state))
    ours, theirs = socket.socketpair()
    try:
        process = _spawn(program, tpm.version or "2.0", theirs.fileno(), kept)
    except BaseException:
        os.close(kept)
        ours.close()
        raise
    finally:
        theirs.close()
    emulator = TpmEmulator(process, ours, kept)
    try:
        await _greet(emulator, ours)
    except BaseException:
        await emulator.close()
        raise
    return emulator


def _spawn(program: str, version: str, control: int, state: int) -> ChildProcess:
    argv = [program, "socket", *(["--tpm2"] if version == "2.0" else [])]
    argv += ["--terminate", "--ctrl", f"type=unixio,clientfd={control}"]
    argv += ["--tpmstate", f"backend-uri=file:///proc/self/fd/{state}"]
    user: User | None = plain_user([program])
    if user is not None:
        os.fchown(state, user.uid, user.gid)
    return spawn(argv, inherit=(control, state), user=user)


async def _greet(emulator: TpmEmulator, ours: socket.socket) -> None:
    """Have swtpm answer once, so that QEMU finds it ready, and a failure is told by its words."""
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    try:
        async with asyncio.timeout(ANSWER_S):
            await loop.sock_sendall(ours, GET_CAPABILITY)
            answer = await loop.sock_recv(ours, ANSWER_SIZE)
    except (OSError, TimeoutError):
        answer = b""
    ours.setblocking(True)
    if not answer:
        # Its words come with its end, which is near when it hangs up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await emulator.process.wait()
        words = escape(" ".join(emulator.process.stderr[-500:].split()))
        raise InfrastructureError(
            f"swtpm did not start: {words or 'it says nothing'}",
            field="tpm",
            hint="swtpm 0.7 or newer is needed; vmpack doctor says which one is here",
        )


def to_linear(state: bytes) -> bytes:
    """Permanent state in swtpm's linear layout. Raises :class:`DamagedError` for an absurd size."""
    if not 0 < len(state) <= MAX_STATE - HEADER_SIZE - RESERVED_STEP:
        raise DamagedError(
            f"a TPM state of {len(state)} bytes",
            field="tpm-state",
            hint="without the blob tpm-state the machine starts with a new TPM",
        )
    reserved = -(-len(state) // RESERVED_STEP) * RESERVED_STEP
    table = SECTION.pack(HEADER_SIZE, len(state), reserved) + bytes(SECTION.size * (SECTIONS - 1))
    return HEADER.pack(MAGIC, VERSION, HEADER_SIZE) + table + state.ljust(reserved, b"\0")


def from_linear(raw: bytes) -> bytes | None:
    """Permanent state out of swtpm's linear layout; ``None`` when it holds none.

    Raises :class:`DamagedError` for anything else.
    """
    if len(raw) >= HEADER_SIZE:
        magic, version, size = HEADER.unpack_from(raw)
        offset, length, _ = SECTION.unpack_from(raw, HEADER.size)
        if (magic, version) == (MAGIC, VERSION) and offset + length <= len(raw):
            return None if length == 0 or size < HEADER_SIZE else raw[offset : offset + length]
    raise DamagedError(
        "the TPM's state is not laid out as swtpm 0.7 to 0.10 do",
        field="tpm-state",
        hint="use one of those versions of swtpm",
    )
