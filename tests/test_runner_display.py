"""``--display``: what may be said, and a screen that a viewer really sees and types at."""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.runner import HOSTS, in_session, sector_bundle
from vmpack.errors import UsageError
from vmpack.runner import endings
from vmpack.runner.display import address_of, display_words, is_window, vnc_socket
from vmpack.runner.options import RunOptions
from vmpack.runner.session import Session

NO_SECURITY = b"\x01"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "none"),
        ("none", "none"),
        ("gtk", "gtk"),
        ("gtk,zoom-to-fit=on", "gtk,zoom-to-fit=on"),
        ("sdl,gl=on", "sdl,gl=on"),
        ("spice-app", "spice-app"),
        ("vnc", "vnc=127.0.0.1:0,to=99"),
        ("vnc=:7", "vnc=127.0.0.1:7"),
        ("vnc=localhost:7", "vnc=localhost:7"),
        ("vnc=[::1]:7,share=force-shared", "vnc=[::1]:7,share=force-shared"),
        ("vnc=unix:/run/a,b", "vnc=unix:/run/a,,b"),
    ],
)
def test_what_qemu_is_told(text: str | None, word: str) -> None:
    assert display_words(text) == ["-display", word]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no display"),
        ("x11", "no display"),
        ("gtk2", "no display"),
        ("none=", "no display"),
        ("\x1b[2J", "no display"),
        ("curses", "console already"),
        ("curses,charset=utf8", "console already"),
        ("vnc=unix:", "no place"),
        ("vnc=0", "no place"),
        ("vnc=:x", "no place"),
        ("vnc=:59636", "no place"),
        ("vnc=0.0.0.0:1", "could use the guest's keyboard"),
        ("vnc=::1", "could use the guest's keyboard"),
        ("vnc=example.org:1,password=on", "could use the guest's keyboard"),
        ("vnc=127.0.0.1:1,to=99", None),
    ],
)
def test_what_is_refused_before_the_start(text: str, says: str | None) -> None:
    if says is None:
        assert display_words(text)
        return
    with pytest.raises(UsageError, match=says) as error:
        display_words(text)
    assert error.value.hint
    assert "\x1b" not in str(error.value)


def test_a_relative_socket_is_vmpacks_to_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vnc_socket("vnc=unix:a.sock") == str(tmp_path / "a.sock")
    assert vnc_socket("vnc=:1") is None
    assert not any(map(is_window, (None, "none", "vnc", "vnc=:1", "vnc=unix:gtk")))
    assert all(map(is_window, ("gtk", "gtk,gl=on", "spice-app")))


def test_addresses_are_those_that_viewers_take() -> None:
    answer = {"enabled": True, "host": "::1", "service": "5901"}
    assert address_of(answer, "vnc=[::1]:1") == "vnc://[::1]:5901"
    assert address_of(answer | {"host": "127.0.0.1"}, "vnc") == "vnc://127.0.0.1:5901"
    assert address_of({"enabled": False}, "vnc") is None
    assert address_of(None, "vnc") is None


@pytest.mark.parametrize(
    "words",
    [
        "Display 'gtk' is not available.",
        "gtk initialization failed",
        "Could not initialize SDL(x11 not available) - exiting",
        "egl: render node init failed",
        "You need a capable Spice client, such as virt-viewer 8.0",
    ],
)
def test_a_host_without_windows_is_told_what_helps(words: str) -> None:
    error = endings.failed_start(1, f"qemu-system-x86_64: {words}")
    assert (error.kind, error.exit_code) == ("infrastructure", 125)
    assert "--display vnc" in (error.hint or "")


@pytest.mark.qemu
def test_a_machine_without_a_graphics_card_has_no_screen(tmp_path: Path) -> None:
    bundle = sector_bundle(tmp_path, "hang", '[display]\nmodel = "none"\n')
    options = RunOptions(accel="tcg", display="vnc")
    with pytest.raises(UsageError, match="no graphics card"):
        in_session(bundle, lambda session: session.wait(), options=options)


@asynccontextmanager
async def viewer(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A VNC viewer that has been let in (RFC 6143, sections 7.1 to 7.3)."""
    if address.startswith("vnc+unix://"):
        opened = asyncio.open_unix_connection(address.removeprefix("vnc+unix://"))
    else:
        host, _, port = address.removeprefix("vnc://").rpartition(":")
        opened = asyncio.open_connection(host, int(port))
    reader, writer = await opened
    try:
        assert (await reader.readexactly(12)).startswith(b"RFB 003.008")
        writer.write(b"RFB 003.008\n")
        offered = await reader.readexactly((await reader.readexactly(1))[0])
        assert NO_SECURITY in offered
        writer.write(NO_SECURITY)
        assert await reader.readexactly(4) == bytes(4)
        writer.write(b"\x01")
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def picture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The whole screen, in raw pixels of four bytes (section 7.5.1, 7.6.1)."""
    width, height = struct.unpack(">HH16x", await reader.readexactly(20))
    await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
    writer.write(struct.pack(">BBHi", 2, 0, 1, 0))
    writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    pixels = b""
    while len(pixels) < width * height * 4:
        (rectangles,) = struct.unpack(">xxH", await reader.readexactly(4))
        for _ in range(rectangles):
            *_, wide, high, encoding = struct.unpack(">HHHHi", await reader.readexactly(12))
            assert encoding == 0
            pixels += await reader.readexactly(wide * high * 4)
    return pixels


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_a_viewer_sees_the_screen_and_nobody_else_does(host: str, tmp_path: Path) -> None:
    async def work(session: Session) -> tuple[str, bytes]:
        # The firmware has greeted on the screen before the sector greets on the console.
        assert await session.console.wait_for("hang\r\n", 60)
        address = await session.screen_address()
        assert address is not None
        async with viewer(address) as (reader, writer):
            return address, await picture(reader, writer)

    options = RunOptions(accel="tcg", display="vnc")
    address, pixels = in_session(sector_bundle(tmp_path, "hang"), work, options=options, host=host)
    assert re.fullmatch(r"vnc://127\.0\.0\.1:59\d\d", address)
    assert len(set(struct.unpack(f"<{len(pixels) // 4}I", pixels))) > 1, "all of one colour"


@pytest.mark.qemu
def test_a_socket_is_the_users_own_and_goes_with_the_machine(tmp_path: Path) -> None:
    place = tmp_path / "screen, 1.sock"

    async def work(session: Session) -> bytes:
        assert await session.console.wait_for("hang\r\n", 60)
        address = await session.screen_address()
        assert address == f"vnc+unix://{place}"
        # Whoever may not write to it may not connect.
        assert not place.stat().st_mode & 0o022
        async with viewer(address) as (reader, writer):
            return await picture(reader, writer)

    options = RunOptions(accel="tcg", display=f"vnc=unix:{place}")
    assert in_session(sector_bundle(tmp_path, "hang"), work, options=options)
    assert not place.exists()


@pytest.mark.qemu
def test_two_machines_have_a_screen_each_and_the_user_is_told_where(
    tmp_path: Path,
) -> None:
    bundle = sector_bundle(tmp_path, "echo")
    words = [sys.executable, "-m", "vmpack", "run", str(bundle), "--display", "vnc"]
    machines = [
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    told = []
    for machine in machines:
        assert machine.stderr is not None
        told.append(machine.stderr.readline())
    for machine in machines:
        machine.terminate()
        machine.communicate()
    assert len(set(told)) == 2
    assert all(line.startswith(b"vmpack: the screen is at vnc://127.0.0.1:59") for line in told)


@pytest.mark.qemu
def test_a_display_that_there_is_not_is_a_usage_error(tmp_path: Path) -> None:
    words = ["run", str(sector_bundle(tmp_path, "hang")), "--display", "curses"]
    done = subprocess.run(
        [sys.executable, "-m", "vmpack", *words, "--output", "json"],
        capture_output=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["field"] == "--display"
