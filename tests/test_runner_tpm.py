"""A machine's TPM: its state goes in and comes out, and nothing of it stays anywhere."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from fixtures.build import sectors
from tests.support.runner import HOSTS, TCG, qemu_of
from tests.support.tools import require_tool
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, InfrastructureError, PinUnavailableError
from vmpack.machine import MachineConfig
from vmpack.machine.hardware import Tpm
from vmpack.ops.derive import pack_state
from vmpack.ops.pack import pack
from vmpack.ops.run import run
from vmpack.runner import tpm as module
from vmpack.runner.options import RunOptions
from vmpack.runner.tpm import MAX_STATE, TpmEmulator, from_linear, start_tpm, to_linear

Result = TypeVar("Result")
INIT, SET_DATA_FD = 2, 16
STARTUP = bytes.fromhex("80010000000c000001440000")
INDEX = 0x01500000


def with_tpm(
    work: Callable[[TpmEmulator], Awaitable[Result]],
    state: bytes | None = None,
    version: str = "2.0",
) -> tuple[Result, bytes | None]:
    """What ``work`` returns, and the state when swtpm has ended."""
    require_tool("swtpm")

    async def run() -> tuple[Result, bytes | None]:
        emulator = await start_tpm(Tpm.model_validate({"version": version}), state)
        try:
            return await work(emulator), await emulator.stop()
        finally:
            await emulator.close()

    return asyncio.run(run())


def connect(emulator: TpmEmulator) -> socket.socket:
    """Do what QEMU does: hand swtpm a socket for commands, and start the TPM."""
    ours, theirs = socket.socketpair()
    with theirs, socket.socket(fileno=os.dup(emulator.socket)) as control:
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
        control.sendmsg([struct.pack(">I", SET_DATA_FD)], passed)
        assert control.recv(4) == bytes(4)
        control.sendall(struct.pack(">II", INIT, 0))
        assert control.recv(4) == bytes(4)
    return ours


def command(data: socket.socket, request: bytes) -> int:
    """The TPM's response code."""
    data.sendall(request)
    return int(struct.unpack_from(">HII", data.recv(4096))[2])


def define_space(data: socket.socket) -> int:
    """TPM2_NV_DefineSpace: 8 bytes that stay, owned by the owner, whose password is empty."""
    password = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    public = struct.pack(">IHIHH", INDEX, 0x000B, 0x02040004, 0, 8)
    body = struct.pack(">I", 0x40000001) + struct.pack(">I", len(password)) + password
    body += bytes(2) + struct.pack(">H", len(public)) + public
    return command(data, struct.pack(">HII", 0x8002, 10 + len(body), 0x12A) + body)


def read_public(data: socket.socket) -> int:
    """TPM2_NV_ReadPublic: 0 when the space is there."""
    return command(data, struct.pack(">HIII", 0x8001, 14, 0x169, INDEX))


def test_what_a_guest_stores_is_there_at_the_next_start() -> None:
    async def store(emulator: TpmEmulator) -> list[int]:
        with connect(emulator) as data:
            return [command(data, STARTUP), define_space(data)]

    async def look(emulator: TpmEmulator) -> list[int]:
        with connect(emulator) as data:
            return [command(data, STARTUP), read_public(data)]

    codes, state = with_tpm(store)
    assert codes == [0, 0]
    assert state is not None
    assert with_tpm(look, state)[0] == [0, 0]
    assert with_tpm(look)[0] != [0, 0], "a new TPM has no such space"


def test_a_tpm_of_version_1_2_has_another_state() -> None:
    async def start(emulator: TpmEmulator) -> int:
        with connect(emulator) as data:
            return command(data, bytes.fromhex("00c10000000c000000990001"))

    code, state = with_tpm(start, version="1.2")
    assert code == 0
    assert state
    assert with_tpm(start, state, version="1.2")[0] == 0


async def nothing(emulator: TpmEmulator) -> int:
    return emulator.process.pid


def test_a_tpm_that_no_machine_reached_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISCONNECT_S", 0.05)
    pid, state = with_tpm(nothing)
    assert state is None
    assert not Path(f"/proc/{pid}").exists()


def test_its_state_has_no_name(tmp_path: Path) -> None:
    async def files(emulator: TpmEmulator) -> list[str]:
        with connect(emulator):
            folder = Path(f"/proc/{emulator.process.pid}/fd")
            return [os.readlink(one) for one in folder.iterdir()]

    paths = [path for path in with_tpm(files)[0] if path.startswith("/")]
    assert any("memfd:vmpack-tpm" in path for path in paths)
    assert all("deleted" in path or path.startswith("/dev/") for path in paths), paths


def test_without_swtpm_the_pin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PinUnavailableError, match="swtpm is not installed") as error:
        asyncio.run(start_tpm(Tpm(version="2.0")))
    assert error.value.exit_code == 125
    assert error.value.field == "tpm"


def test_a_swtpm_that_does_not_come_up_is_told_by_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "swtpm"
    broken.write_text("#!/bin/sh\necho no backend file >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="did not start: no backend file"):
        asyncio.run(start_tpm(Tpm(version="2.0")))


@pytest.mark.parametrize("size", [1, 1024, 1025, 100_000])
def test_the_linear_layout_and_back(size: int) -> None:
    state = bytes(range(256)) * (size // 256 + 1)
    assert from_linear(to_linear(state[:size])) == state[:size]


@pytest.mark.parametrize("size", [0, MAX_STATE])
def test_a_state_of_absurd_size_is_refused(size: int) -> None:
    with pytest.raises(DamagedError, match=f"a TPM state of {size} bytes"):
        to_linear(bytes(size))


def test_another_layout_is_refused() -> None:
    good = bytearray(to_linear(b"state"))
    for offset, value in ((0, 0), (8, 2), (12, 0xFF), (18, 0xFF)):
        bad = good.copy()
        bad[offset] = value
        if offset < 12 or offset == 18:
            with pytest.raises(DamagedError, match="not laid out"):
                from_linear(bytes(bad))
    with pytest.raises(DamagedError):
        from_linear(bytes(good[:100]))


def answer_of(data: socket.socket, request: bytes) -> bytes:
    """The response to a command that succeeds."""
    data.sendall(request)
    answer = data.recv(4096)
    assert answer[6:10] == bytes(4), answer.hex()
    return answer


def resets(data: socket.socket) -> int:
    """TPM2_ReadClock: how often the TPM was started anew."""
    answer = answer_of(data, struct.pack(">HII", 0x8001, 10, 0x181))
    return int(struct.unpack_from(">I", answer, 10 + 8 + 8)[0])


def endorsement_key(data: socket.socket) -> bytes:
    """TPM2_CreatePrimary under the endorsement seed: the public part of an elliptic-curve key."""
    password = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    symmetric = struct.pack(">HHH", 0x0006, 128, 0x0043)
    public = struct.pack(">HHIH", 0x0023, 0x000B, 0x00030072, 0) + symmetric
    public += struct.pack(">HHHHH", 0x0010, 0x0003, 0x0010, 0, 0)
    body = struct.pack(">I", 0x4000000B) + struct.pack(">I", len(password)) + password
    body += struct.pack(">HHH", 4, 0, 0) + struct.pack(">H", len(public)) + public
    body += struct.pack(">HI", 0, 0)
    answer = answer_of(data, struct.pack(">HII", 0x8002, 10 + len(body), 0x131) + body)
    size = struct.unpack_from(">H", answer, 18)[0]
    return answer[20 : 20 + size]


async def facts(emulator: TpmEmulator) -> tuple[int, int, bytes]:
    """Whether the space is there (0), the resets, the endorsement key."""
    with connect(emulator) as data:
        assert command(data, STARTUP) == 0
        return read_public(data), resets(data), endorsement_key(data)


def state_of(bundle: Path) -> bytes:
    with Bundle.open(bundle) as opened:
        return opened.blob("tpm-state")


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_a_machines_tpm_stays_its_own_through_runs_and_bundles(host: str, tmp_path: Path) -> None:
    """Packed with a TPM's state, run twice with a state folder, saved, and run again."""

    async def prepare(emulator: TpmEmulator) -> None:
        with connect(emulator) as data:
            assert [command(data, STARTUP), define_space(data)] == [0, 0]

    _, first = with_tpm(prepare)
    assert first is not None
    (_, count, key), _ = with_tpm(facts, first)
    (tmp_path / "tpm").write_bytes(first)
    disk = sectors.write_disk("poweroff", tmp_path / "poweroff.raw")
    config = MachineConfig.from_toml('memory = "64M"\ntpm = {}\n')
    one, two, three = (tmp_path / f"{name}.vmpack" for name in ("one", "two", "three"))
    pack([disk], one, config=config, blobs={"tpm-state": tmp_path / "tpm"})

    qemu = qemu_of(host)
    kept = RunOptions(accel="tcg", timeout_s=120, state_dir=tmp_path / "state")
    assert run(one, options=kept, qemu=qemu).exit_code == 0
    assert run(one, options=kept, qemu=qemu, save=two).saved is not None
    # The firmware started the TPM at each of the two boots, and nothing of it was lost.
    assert with_tpm(facts, state_of(two))[0] == (0, count + 2, key)
    assert run(two, options=TCG, qemu=qemu, save=three).saved is not None
    assert with_tpm(facts, state_of(three))[0] == (0, count + 3, key)
    pack_state(one, tmp_path / "state", tmp_path / "packed.vmpack")
    assert with_tpm(facts, state_of(tmp_path / "packed.vmpack"))[0] == (0, count + 2, key)
    assert state_of(one) == first
    # A machine whose TPM is new has another endorsement key.
    assert with_tpm(facts)[0][2] != key
