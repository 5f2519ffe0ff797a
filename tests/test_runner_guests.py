"""A small Linux boots from its bundle to its login, by BIOS and by UEFI, and takes commands."""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runner import TCG, in_session
from tests.support.tools import require_tool
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.runner.options import Ending
from vmpack.runner.session import Session
from vmpack.runner.state import Kept

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


async def log_in(session: Session) -> None:
    ending = await session.wait(lambda console: b"vmpack-small login:" in console.data)
    assert ending.kind == "expected", ending
    typed = session.console.total
    await session.send(b"root\n")
    assert await session.console.wait_for("# ", 60, after=typed)


def small_bundle(path: Path, disk: Path, config: str) -> Path:
    # Less memory than the default: it boots sooner.
    pack([disk], path, config=MachineConfig.from_toml(config))
    return path


def test_bios_login_typing_and_panic(guest_bios: Path, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bios.vmpack", guest_bios, 'memory = "256M"')
    before = bundle.read_bytes()

    async def work(session: Session) -> Ending:
        await log_in(session)
        typed = session.console.total
        await session.send(b"seq 1 2000; echo the-$((40 + 2))nd\n")
        assert await session.console.wait_for("the-42nd", 60, after=typed)
        lines = session.console.since(typed).replace(b"\r", b"").split(b"\n")
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers == list(range(1, 2001))
        assert session.detector.has("kernel")
        assert session.detector.has("login")
        await session.send(b"echo c >/proc/sysrq-trigger\n")
        return await session.wait()

    ending = in_session(bundle, work)
    assert (ending.kind, ending.reason, ending.exit_code) == ("panic", "guest-panic", 255)
    assert "the guest's kernel panicked: sysrq triggered crash" in ending.message
    assert bundle.read_bytes() == before


def test_uefi_tpm_login_port_reboot_and_what_it_changed(guest_uefi: Path, tmp_path: Path) -> None:
    """One boot of the newest QEMU for all of it: each costs the suite 20 seconds."""
    require_tool("swtpm")
    config = 'memory = "512M"\ntpm = {}\n'
    bundle = small_bundle(tmp_path / "uefi.vmpack", guest_uefi, config)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def work(session: Session) -> bytes:
        template = session.host.firmware.vars
        assert template is not None
        await log_in(session)
        # The firmware has measured into the TPM, and Linux found where.
        assert re.search(rb"efi: .*TPMFinalLog=0x", session.console.data)
        assert await session.console.wait_for("vmpack-guest: address", 60)
        # It serves its files; its network is closed but for this port.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.")
        writer.close()
        rebooted = session.console.total
        await session.send(b"reboot\n")
        again = await session.wait(
            lambda console: b"vmpack-guest: boot loader" in console.since(rebooted)
        )
        assert (again.kind, again.resets) == ("expected", 1)
        return template

    options = replace(TCG, forwards=((port, 80),))
    with Kept() as kept:
        template = in_session(bundle, work, options=options, host="trixie-backports", storage=kept)
        changed = kept.nvram_bytes()
        assert changed is not None
        assert len(changed) == len(template)
        assert changed != template
        assert kept.tpm_bytes()
        with kept.overlays()["root"] as overlay:
            assert overlay.size > 256 << 10
