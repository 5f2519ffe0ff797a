"""Bundles run under real QEMU: every way that a run ends, on each QEMU that is here."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from fixtures.build import sectors
from tests.support.runner import (
    HOSTS,
    TCG,
    ending_of,
    in_session,
    packed,
    qemu_of,
    sector_bundle,
)
from vmpack.bundle import Bundle
from vmpack.errors import PinUnavailableError, QemuMissingError
from vmpack.runner.options import Ending, Qemu, RunOptions
from vmpack.runner.session import Session

pytestmark = pytest.mark.qemu
ENDINGS = {
    "poweroff": ("shutdown", "guest-shutdown"),
    "reset": ("reset-loop", None),
    "triple-fault": ("reset-loop", None),
    "panic": ("panic", "guest-panic"),
    "hang": ("hang", None),
}
EXPECTED = {"poweroff": "power-off", "reset": "reset", "panic": "panic", "hang": "hang"}


EACH = [
    (name, host)
    for name in ENDINGS
    for host in HOSTS
    # As a reset to QEMU, and the command line's tests have it on this machine's own.
    if name != "triple-fault" or host == HOSTS[-1]
]


EXPECTING = [(name, "expected") for name in EXPECTED]


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ending]:
    """How each sector ends on each host, and as it is expected to: machines that wait together."""
    folder = tmp_path_factory.mktemp("endings")

    async def one(name: str, host: str, bundle: Path) -> Ending:
        with Bundle.open(bundle) as opened:
            async with Session.start(opened, TCG, qemu=qemu_of(host)) as session:
                return await session.wait()

    async def all_of_them() -> list[Ending]:
        plain = {name: sector_bundle(folder, name) for name in ENDINGS}
        more = folder / "expected"
        more.mkdir()
        runs = [one(name, host, plain[name]) for name, host in EACH]
        for name, ending in EXPECTED.items():
            bundle = sector_bundle(more, name, f'[expected]\nending = "{ending}"')
            runs.append(one(name, "machine", bundle))
        return await asyncio.gather(*runs)

    return dict(zip([*EACH, *EXPECTING], asyncio.run(all_of_them()), strict=True))


@pytest.mark.parametrize(("name", "host"), EACH)
def test_each_ending_is_told_apart(
    name: str, host: str, endings: dict[tuple[str, str], Ending]
) -> None:
    ending = endings[name, host]
    assert (ending.kind, ending.reason) == ENDINGS[name], ending
    assert f"vmpack boot sector: {name.replace('-', ' ')}" in "\n".join(ending.console_tail)
    assert ending.picture is not None
    assert ending.picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert ending.picture.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("name", EXPECTED)
def test_an_expected_ending_is_a_success(name: str, endings: dict[tuple[str, str], Ending]) -> None:
    ending = endings[name, "expected"]
    assert (ending.kind, ending.exit_code) == ("expected", 0), ending


def test_another_ending_than_the_expected_one_is_named(tmp_path: Path) -> None:
    ending = ending_of(sector_bundle(tmp_path, "poweroff", '[expected]\nending = "running"'))
    assert (ending.kind, ending.exit_code) == ("unexpected", 1)
    assert ending.message == "the guest powered off; expected was: running"


def test_a_power_off_before_the_milestone_is_no_success(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff", '[expected]\nending = "power-off"')
    ending = ending_of(bundle, until=lambda console: b"login:" in console.data)
    assert ending.kind == "unexpected"
    assert "before it came as far as expected" in ending.message


def test_until_is_met_by_the_last_words_too(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "report")
    ending = ending_of(bundle, until=lambda console: b"\ndone\r\n" in console.data)
    assert ending.kind == "expected"


def test_endless_output_ends_in_time_and_costs_no_memory(tmp_path: Path) -> None:
    """hostile: 48."""
    seen = 0

    async def work(session: Session) -> tuple[Ending, int, int]:
        console = session.console
        assert await console.wait_for(lambda _: console.total > 1 << 20, 100)
        blocks = os.fstat(console._file).st_blocks * 512
        return await session.wait(timeout_s=0.2), len(console.data), blocks

    def count(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    bundle = sector_bundle(tmp_path, "endless-output")
    ending, kept, blocks = in_session(bundle, work, on_console=count)
    assert (ending.kind, ending.exit_code) == ("timeout", 124)
    assert kept <= 2 << 20
    assert seen >= 1 << 20
    assert blocks < 1 << 19
    assert all(line.isprintable() for line in ending.console_tail)
    assert "vmpack boot sector: endless output" in ending.console_tail


def test_nothing_to_boot_is_told_by_the_firmware(tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    ending = ending_of(packed(tmp_path / "empty.vmpack", [disk]))
    assert (ending.kind, ending.exit_code) == ("no-boot-device", 1)
    assert any("No bootable device" in line for line in ending.console_tail)


def test_a_damaged_cluster_is_an_error_for_the_guest_never_wrong_data(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff")
    bundle.chmod(0o644)
    content = bytearray(bundle.read_bytes())
    frame = content.index(b"\x28\xb5\x2f\xfd")
    content[frame + 40] ^= 0x40
    bundle.write_bytes(content)
    ending = ending_of(bundle)
    assert ending.kind == "no-boot-device"
    assert "reads of its disks failed: vmpack check" in ending.message


def test_an_error_of_the_listener_ends_the_wait(tmp_path: Path) -> None:
    def listen(data: bytes) -> None:
        raise BrokenPipeError

    bundle = sector_bundle(tmp_path, "hang")
    with pytest.raises(BrokenPipeError):
        in_session(bundle, lambda session: session.wait(), on_console=listen)


def test_ports_are_forwarded_on_loopback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = RunOptions(accel="tcg", forwards=((port, 22),))

    async def work(session: Session) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        return str(await session.qmp("human-monitor-command", **{"command-line": "info usernet"}))

    bundle = sector_bundle(tmp_path, "hang", '[[nic]]\nmodel = "virtio-net"')
    listed = in_session(bundle, work, options=options)
    assert re.search(rf"127\.0\.0\.1 +{port} ", listed), listed


def test_a_qemu_that_dies_is_no_ending_of_the_guest(tmp_path: Path) -> None:
    async def work(session: Session) -> Ending:
        await session.console.wait_for("hang\r\n", 60)
        os.kill(session.process.pid, signal.SIGKILL)
        return await session.wait()

    ending = in_session(sector_bundle(tmp_path, "hang"), work)
    assert (ending.kind, ending.exit_code) == ("qemu-died", 125)
    assert "signal 9" in ending.message
    assert "vmpack boot sector: hang" in ending.console_tail


def test_ctrl_c_asks_first_and_ends_then(tmp_path: Path) -> None:
    async def work(session: Session) -> tuple[list[str], Ending]:
        await session.console.wait_for("hang\r\n", 60)
        waiting = asyncio.create_task(session.wait())
        await session.interrupt()
        assert not waiting.done()
        await session.interrupt()
        ending = await waiting
        return [str(event["event"]) for event in session.events], ending

    events, ending = in_session(sector_bundle(tmp_path, "hang"), work)
    assert "POWERDOWN" in events
    assert (ending.kind, ending.exit_code) == ("interrupted", 130)


def test_a_machine_type_that_no_qemu_has_is_named_before_the_start(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff", 'machine = "pc-q35-99.0"')
    with pytest.raises(PinUnavailableError, match=r"pc-q35-99\.0"):
        ending_of(bundle)


def test_a_device_that_this_qemu_lacks_is_named(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff", '[[nic]]\nmodel = "igb"')
    with pytest.raises(PinUnavailableError, match="igb"):
        ending_of(bundle)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "poweroff")

    async def run() -> None:
        qemu = Qemu((str(tmp_path / "no-qemu"),), (7, 2))
        with Bundle.open(bundle) as opened:
            async with Session.start(opened, TCG, qemu=qemu):
                pass

    with pytest.raises(QemuMissingError, match="no-qemu"):
        asyncio.run(run())


def test_the_bundle_stays_as_it_is_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    bundle = sector_bundle(tmp_path, "poweroff")
    before, files = bundle.read_bytes(), sorted(os.listdir("/proc/self/fd"))

    async def work(session: Session) -> tuple[Ending, list[str]]:
        return await session.wait(), os.listdir(scratch)

    with pytest.raises(PinUnavailableError):
        ending_of(sector_bundle(tmp_path, "hang", 'machine = "pc-q35-99.0"'))
    ending, during = in_session(bundle, work)
    assert ending.kind == "shutdown"
    assert during == os.listdir(scratch) == []
    assert bundle.read_bytes() == before
    assert sorted(os.listdir("/proc/self/fd")) == files


def test_two_machines_of_one_bundle_run_side_by_side(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "hang")

    async def one(session: Session) -> bool:
        return await session.console.wait_for("hang\r\n", 60)

    async def outer(_: Session) -> bool:
        return await asyncio.to_thread(in_session, bundle, one)

    assert in_session(bundle, outer)


def test_extra_words_reach_qemu(tmp_path: Path) -> None:
    options = RunOptions(accel="tcg", qemu_args=("-name", "guest=other"))

    async def work(session: Session) -> object:
        return await session.qmp("query-name")

    bundle = sector_bundle(tmp_path, "hang")
    assert in_session(bundle, work, options=options) == {"name": "other"}


def test_the_sectors_are_those_of_the_fixtures() -> None:
    others = ("test_verify_endings", "test_verify_hostile_guest")
    texts = [(Path(__file__).parent / f"{name}.py").read_text() for name in others]
    rest = set(sectors.NAMES) - {*ENDINGS, "echo", "endless-output", "report"}
    assert [name for name in rest if not any(f'"{name}"' in text for text in texts)] == []
