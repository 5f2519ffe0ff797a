"""The console: nothing lost in either direction, bounded, and safe to print."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runner import HOSTS, in_session, sector_bundle
from vmpack.runner.console import KEPT, Console, clean_lines
from vmpack.runner.options import Ending
from vmpack.runner.session import Session


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
def test_what_is_typed_comes_back_whole(host: str, tmp_path: Path) -> None:
    """More than a pipe holds, and every byte but the one that ends the guest."""
    text = bytes(byte for byte in range(256) if byte != ord("!")) * 40
    seen = bytearray()

    async def work(session: Session) -> tuple[bool, Ending]:
        console = session.console
        await console.wait_for("echo\r\n", 60)
        start = console.total
        await session.send(text)
        arrived = await console.wait_for(lambda _: console.total >= start + len(text), 100)
        await session.send(b"!")
        return arrived, await session.wait()

    bundle = sector_bundle(tmp_path, "echo")
    arrived, ending = in_session(bundle, work, host=host, on_console=seen.extend)
    assert arrived
    assert ending.kind == "shutdown"
    assert bytes(seen).endswith(b"vmpack boot sector: echo\r\n" + text + b"!")


def test_output_is_followed_and_its_end_kept() -> None:
    lines = b"".join(b"line %d\n" % number for number in range(400_000))
    seen = bytearray()

    async def run() -> None:
        console = Console("test", seen.extend)
        following = asyncio.create_task(console.follow())
        waiting = asyncio.create_task(console.wait_for(re.compile(rb"line 399999\n"), 60))
        for start in range(0, len(lines), 100_003):
            os.write(console.output_fd, lines[start : start + 100_003])
            await asyncio.sleep(0)
        assert await waiting
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert console.total == len(lines)
        assert lines.endswith(console.data)
        assert KEPT <= len(console.data) <= 2 * KEPT
        assert console.start == len(lines) - len(console.data)
        assert console.since(len(lines) - 10) == lines[-10:]
        assert console.since(0) == console.data
        assert console.tail(2) == ("line 399998", "line 399999")
        await console.close()

    asyncio.run(run())
    assert seen == lines


def test_waiting_looks_at_new_output_only_when_told() -> None:
    async def run() -> list[bool]:
        console = Console("test")
        os.write(console.output_fd, b"login: ")
        await console.drain()
        found = [await console.wait_for("login:", 0), await console.wait_for(b"login:", 0, after=7)]
        closing = asyncio.create_task(console.wait_for("never", 60))
        await asyncio.sleep(0)
        await console.close()
        await console.close()
        return [*found, await closing]

    assert asyncio.run(run()) == [True, False, False]


def test_typing_waits_for_room_and_ends_with_the_console() -> None:
    async def run() -> int:
        console = Console("test")
        typing = asyncio.create_task(console.send(bytes(1 << 20)))
        await asyncio.sleep(0)
        assert not typing.done()
        read = len(os.read(console.input_fd, 1 << 20))
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
        await console.close()
        await console.send(b"nobody is there")
        return read

    assert 0 < asyncio.run(run()) < 1 << 20


CLEANED = {
    b"\x1b[31mred\x1b[0m": ["red"],
    b"\x1b]0;title\x07text": ["text"],
    b"\x1b]8;;http://x\x1b\\link": ["link"],
    b"10%\r20%\r30%\r\ndone\r\n": ["30%", "done"],
    b"a\x00b\x07c\xc2\x9b\n\n\n": ["abc"],
    "\u202eevil\u2066".encode(): ["evil"],
    b"\xff\xfe": ["\ufffd\ufffd"],
    b"": [],
}


@pytest.mark.parametrize("raw", CLEANED)
def test_lines_are_cleaned(raw: bytes) -> None:
    assert clean_lines(raw) == CLEANED[raw]


@given(st.binary(max_size=400))
def test_no_output_can_steer_a_terminal(raw: bytes) -> None:
    for line in clean_lines(raw):
        assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line)


def test_cleaning_is_linear_in_hostile_output() -> None:
    assert clean_lines(b"\x1b]" * 16384 + b"\x1b[" * 16384) == []
