"""Asking a guest by a login on its console: real shells at a terminal, and consoles that lie."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.support.shells import GREETING, shell_console
from tests.support.tools import require_tool, run
from vmpack.errors import OperationError
from vmpack.machine.expectation import Login
from vmpack.verify.guest import by_login
from vmpack.verify.guest.by_login import ask_login
from vmpack.verify.guest.framed import Framed, FrameError, posix_cksum
from vmpack.verify.guest.report import GuestReport

DEADLINE_S = 60
ROOT = Login(user="root", password="secret")
NO_PASSWORD = Login(user="root")
FAKE_MARKERS = """printf 'vm login: '; read u; while read -r l
do printf 'vmpack-probe:0000000000000000:plain\\nvmpack-1-up\\n%s\\n' "$l"; done"""
FAKE_SUM = """printf 'vm login: '; read u; cksum() { echo 1 1; }
while read -r l; do eval "$l"; done"""


@pytest.fixture(autouse=True)
def _ask_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_login, "AGAIN_S", 0.5)


def asked(script: str, login: Login = ROOT, shell: tuple[str, ...] = ("dash",)) -> GuestReport:
    """The report of a console on which ``script`` runs."""

    async def ask() -> GuestReport:
        async with asyncio.timeout(DEADLINE_S):
            async with shell_console([*shell, "-c", script]) as session:
                await session.console.wait_for(b"login:", DEADLINE_S)
                return await ask_login(session, login)

    return asyncio.run(ask())


@pytest.mark.parametrize("shell", ["dash -i", "bash --norc -i", "busybox sh -i"])
def test_every_shell_reports_the_same(shell: str) -> None:
    require_tool(shell.split()[0])
    report = asked(f"{GREETING} exec {shell}")
    assert report.facts is not None
    assert (report.means, report.problem) == ("serial-login", "")
    assert report.facts["uname"]
    # What runs differs by the shell that is asked; nothing else does.
    assert not [key for key in report.facts if key in ("process:gzip", "process:base64")]


def test_a_prompt_can_be_waited_for() -> None:
    login = Login(user="root", password="secret", prompt="this*shell")
    report = asked(f"{GREETING} echo this is a shell; exec dash -i", login)
    assert report.means == "serial-login"


def test_without_a_password_none_is_typed() -> None:
    script = "printf 'vm login: '; read -r user; exec dash -i"
    assert asked(script, NO_PASSWORD).means == "serial-login"


def test_a_shell_without_gzip_and_cksum_is_read_as_well() -> None:
    script = "printf 'vm login: '; read -r user; PATH=/nowhere exec /bin/dash -i"
    report = asked(script, NO_PASSWORD)
    assert report.facts is not None
    assert report.facts["cpu"]


@pytest.mark.parametrize(
    ("script", "login", "says"),
    [
        (f"{GREETING} exec dash -i", Login(user="root", password="wrong"), "was refused"),
        (f"{GREETING} exec dash -i", NO_PASSWORD, "asks for a password"),
        ("printf 'vm login: '; exec yes", NO_PASSWORD, "prints without end"),
        # Answers everything with what it was sent.
        ("stty raw; printf 'vm login: '; exec cat", ROOT, None),
        # Markers of its own, and no shell.
        (
            FAKE_MARKERS,
            NO_PASSWORD,
            None,
        ),
        # A shell in which every other program is a lie.
        (
            FAKE_SUM,
            NO_PASSWORD,
            "broken",
        ),
        # Titles, queries and half sequences without end.
        ("printf 'vm login: '; while :; do printf '\\033]0;x\\033[6n\\033['; done", ROOT, "end"),
    ],
)
def test_a_console_that_lies_is_an_error(
    monkeypatch: pytest.MonkeyPatch, script: str, login: Login, says: str | None
) -> None:
    """hostile: 48."""
    if says is None:
        # Nothing comes that could be taken for an answer: whoever asks gives up.
        monkeypatch.setattr(sys.modules[__name__], "DEADLINE_S", 1)
    with pytest.raises((OperationError, TimeoutError), match=says):
        asked(script, login)


def test_the_checksum_is_cksums() -> None:
    assert posix_cksum(b"") == 4294967295
    data = bytes(range(256)) * 5
    told = run([require_tool("cksum")], stdin=data).stdout.split()
    assert [int(each) for each in told] == [posix_cksum(data), len(data)]


def shown(framed: Framed, payload: bytes, total: bytes | None = None) -> bytes:
    mark = f"vmpack-probe:{framed.nonce}:".encode()
    number = b"%d %d" % (posix_cksum(payload), len(payload)) if total is None else total
    return mark + b"plain\r\n" + payload.replace(b"\n", b"\r\n") + mark + b"end:" + number + b"\r\n"


def test_what_was_printed_into_it_is_noticed() -> None:
    framed = Framed()
    good = shown(framed, b"== a\n\nline\n")
    assert framed.read(b"boot\n" + good + b"$ ") == b"== a\n\nline\n"
    assert framed.without(b"boot\n" + good + b"$ ") == b"boot\n$ "
    with pytest.raises(FrameError, match="printed into it"):
        framed.read(good.replace(b"line", b"li[ 12.3] usb 1-1\r\nne"))
    # Shown again, it is the later one that counts.
    assert framed.read(good.replace(b"line", b"lie") + good) == b"== a\n\nline\n"


@pytest.mark.parametrize(
    "console",
    [
        b"",
        b"vmpack-probe:",
        shown(Framed("0" * 16), b"== a\n"),
        b"vmpack-probe:%s:end:1\n",
        b"vmpack-probe:%s:gzip\n" * 1000,
        b"vmpack-probe:%s:gzip\nAAAA\nvmpack-probe:%s:end:\n",
        b"vmpack-probe:%s:gzip\n%%%%\nvmpack-probe:%s:end:\n",
        b"vmpack-probe:%s:plain\nx\nvmpack-probe:%s:end:12\n",
    ],
)
def test_broken_frames_are_errors(console: bytes) -> None:
    """hostile: 48."""
    framed = Framed()
    with pytest.raises(FrameError):
        framed.read(console.replace(b"%s", framed.nonce.encode()))
    framed.without(console)


def test_a_small_frame_cannot_become_a_large_one() -> None:
    """hostile: 48."""
    import base64
    import gzip

    framed = Framed()
    bomb = base64.encodebytes(gzip.compress(bytes(64 << 20)))
    console = shown(framed, bomb).replace(b":plain", b":gzip")
    with pytest.raises(FrameError, match="no end"):
        framed.read(console)
