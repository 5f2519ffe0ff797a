"""Every ending by a real guest: boot sectors, GRUB, memtest86+, OVMF, sysvinit, initramfs-tools.

Clauses: specs/endings.md.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.build import overlays
from tests.support import stuck
from tests.support.runner import TCG, in_session, sector_bundle
from vmpack.bundle import Bundle
from vmpack.runner import endings, troubles
from vmpack.runner.endings import DEADLINES, Deadlines
from vmpack.runner.options import EXIT_CODES, Ending, RunOptions
from vmpack.runner.session import Session
from vmpack.verify.boot import boot_once

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
PAGE = (Path(__file__).parents[1] / "specs/endings.md").read_text()
SOON = Deadlines(prompt_s=1.5, idle_s=3.0, busy_s=4.0)
NEVER = b"what never comes"
BUSY_MACHINE = RunOptions(accel="tcg", timeout_s=300)


@pytest.fixture(autouse=True, scope="module")
def _soon() -> Iterator[None]:
    """What is given up is given up soon: the guests here are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endings, "DEADLINES", dict.fromkeys(DEADLINES, SOON))
        yield


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real deadlines: what is larger computes for seconds without a word."""
    monkeypatch.setattr(endings, "DEADLINES", DEADLINES)


def rows(*wanted: str) -> list[list[str]]:
    """The page's table with these columns, cells without their backticks."""
    _, _, after = PAGE.partition(f"| {' | '.join(wanted)} |\n")
    lines = after.splitlines()[1:]
    cells = [line.strip("|").split("|") for line in lines[: lines.index("")]]
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def test_the_page_has_every_kind_with_its_exit_code() -> None:
    """END-KIND."""
    table = rows("kind", "exit code", "what shows it", "proven by")
    assert {row[0]: int(row[1]) for row in table} == dict(EXIT_CODES)
    assert {kind for kind, _, _ in troubles.TROUBLES} <= set(EXIT_CODES)
    sentence = (Path(__file__).parents[1] / "specs/cli-v1.md").read_text()
    (said,) = re.findall(r"Exit codes, each for the JSON `kind`s(.*?)With `--exec`", sentence, re.S)
    codes: dict[str, int] = {}
    for code, kinds in re.findall(r"\b(\d+) ((?:`[a-z-]+`[,;.\s]*)+)", said):
        codes |= dict.fromkeys(re.findall(r"`([a-z-]+)`", kinds), int(code))
    assert codes.pop("infrastructure") == 125
    assert codes == dict(EXIT_CODES)


def test_the_page_has_the_deadlines_of_each_accelerator() -> None:
    """END-TIME."""
    table = {row[0]: [float(cell) for cell in row[1:]] for row in rows(*TIMES)}
    assert table == {
        name: [one.prompt_s, one.idle_s, one.busy_s] for name, one in DEADLINES.items()
    }


TIMES = ("accelerator", "prompt", "idle", "busy")


async def until_never(session: Session) -> Ending:
    """The ending of a boot that waits for what does not come."""
    return await session.wait(lambda console: NEVER in console.data)


@dataclass(frozen=True)
class Case:
    """A boot sector, what its config says, and how it has to end."""

    sector: str
    kind: str
    says: str
    config: str = ""
    where: str | None = "qemu"


HANG = '[expected]\nending = "hang"'
CASES = {
    "idle": Case("idle", "hang", "no output and no block I/O"),
    "busy": Case("busy", "hang", "of a CPU in that time"),
    "halted": Case("hang", "hang", "interrupts off"),
    "idle, as expected": Case("idle", "expected", "no output", HANG),
    "busy, as expected": Case("busy", "expected", "no output", HANG),
    "halted, as expected": Case("hang", "expected", "interrupts off", HANG),
    "escapes": Case("escapes", "hang", "no output"),
    "panic": Case("panic", "panic", "the guest panicked"),
    "reset loop": Case("reset", "reset-loop", "3 times in a row"),
    "power-off": Case("poweroff", "unexpected", "before it came as far"),
}


@pytest.fixture(scope="module")
def sectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """How the sectors end: machines that wait together."""
    runs = []
    for number, case in enumerate(CASES.values()):
        folder = tmp_path_factory.mktemp(f"sector{number}")
        bundle = sector_bundle(folder, case.sector, case.config)
        runs.append((bundle, Session.wait if "expected" in case.config else until_never))
    return dict(zip(CASES, stuck.side_by_side(runs), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_sector_ends(name: str, sectors: dict[str, Ending]) -> None:
    """END-HANG, END-WHERE, END-KEPT."""
    case, ending = CASES[name], sectors[name]
    assert (ending.kind, ending.where) == (case.kind, case.where), ending
    assert case.says in ending.message
    assert any("vmpack boot sector" in line for line in ending.console_tail)
    assert ending.picture is not None


def test_who_works_without_a_word_or_waits_where_expected_does_not_hang(tmp_path: Path) -> None:
    """END-HANG: neither is given up, however long it goes on."""

    async def work(session: Session) -> Ending:
        return await session.wait(lambda _: NEVER in session.console.data, 3 * SOON.busy_s)

    async def idle(session: Session) -> Ending:
        reached = await session.wait(lambda console: b"sector: idle" in console.data)
        assert reached.kind == "expected"
        return await session.wait(None, 3 * SOON.idle_s)

    (tmp_path / "more").mkdir()
    reads, waits = stuck.side_by_side(
        [
            (sector_bundle(tmp_path, "reads"), work),
            (sector_bundle(tmp_path / "more", "idle"), idle),
        ]
    )
    assert (reads.kind, reads.exit_code) == ("timeout", 124), reads
    assert (waits.kind, waits.where) == ("timeout", None), waits


# Screens: nothing is printed on the console.


async def press(session: Session, key: str) -> None:
    await session.qmp("send-key", keys=[{"type": "qcode", "data": key}])


async def shows(session: Session, text: str) -> None:
    """Wait until the screen shows a text."""
    async with asyncio.timeout(240):
        while not any(text in line for line in session.screen.lines):
            await session.screen.look()
            await asyncio.sleep(0.1)


async def grub_console(session: Session) -> Ending:
    """grub-rescue-pc's menu, left for its command line."""
    await shows(session, "Press enter to boot the selected OS")
    await press(session, "c")
    return await until_never(session)


async def boot_menu(session: Session) -> Ending:
    """SeaBIOS's menu, which nobody answers."""
    await session.firmware_log.wait_for("Press ESC for boot menu", 240)
    await press(session, "esc")
    return await until_never(session)


async def memory_test(session: Session) -> Ending:
    """memtest86+: longer than what a hang takes, then its time is over."""
    await shows(session, "Status: Testing")
    with pytest.MonkeyPatch.context() as patch:
        # It paints its clock each second, and measures the memory before that.
        patch.setattr(endings, "DEADLINES", {"tcg": Deadlines(1.5, 6.0, 6.0)})
        return await session.wait(lambda _: NEVER in session.console.data, 8.0)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """How guests end that use the screen alone."""
    folder = tmp_path_factory.mktemp("screens")
    rescue = stuck.bundle_of(stuck.of_package(stuck.RESCUE, folder))
    memtest = stuck.of_package(stuck.MEMTEST, folder)
    test = stuck.bundle_of(memtest, 'memory = "64M"\ncpu = {cores = 1}\n')
    without = stuck.bundle_of(stuck.without_modules(folder))
    found = stuck.side_by_side([(rescue, grub_console), (without, until_never)])
    found += stuck.side_by_side([(test, memory_test)])
    options = RunOptions(
        accel="tcg", timeout_s=120, qemu_args=("-boot", "menu=on,splash-time=30000")
    )
    found += stuck.side_by_side([(sector_bundle(folder, "idle"), boot_menu)], options)
    return dict(zip(("grub", "grub rescue", "memtest", "boot menu"), found, strict=True))


SCREENS = {
    "grub": ("bootloader-prompt", "screen", "grub>"),
    "grub rescue": ("bootloader-prompt", "screen", "grub rescue>"),
    "memtest": ("timeout", None, "Memtest86+"),
    "boot menu": ("firmware-setup", "screen", "Select boot device:"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_silent_boot_is_told_by_its_screen(name: str, screens: dict[str, Ending]) -> None:
    """END-SCREEN, END-KEPT; a test that paints its progress does not hang."""
    kind, where, text = SCREENS[name]
    ending = screens[name]
    assert (ending.kind, ending.where) == (kind, where), ending
    assert any(text in line for line in ending.console_tail), ending.console_tail
    assert all(line.isprintable() for line in ending.console_tail)


def test_verify_names_a_prompt_on_the_screen(tmp_path: Path) -> None:
    """It is no quiet end of a machine without a console."""
    path = stuck.bundle_of(stuck.without_modules(tmp_path))

    async def run() -> Ending:
        with Bundle.open(path) as bundle:
            return (await boot_once(bundle, TCG)).ending

    ending = asyncio.run(run())
    assert (ending.kind, ending.exit_code, ending.where) == ("bootloader-prompt", 1, "screen")
    assert "not reached: 'login'" in ending.message


# Linux and OVMF: several endings to a boot, each of which costs seconds.


@pytest.mark.usefixtures("patient")
def test_sysvinit_without_a_getty_offers_no_login(tmp_path: Path) -> None:
    """END-LOGIN."""
    files = {"etc/inittab": overlays.INITTAB.encode()}
    options = "rdinit=/sbin/init"
    disk = stuck.variant(tmp_path, "sysv", system=overlays.sysvinit, files=files, options=options)

    async def work(session: Session) -> Ending:
        ending = await until_never(session)
        assert session.detector.has("sysvinit")
        assert session.detector.has("runlevel")
        return ending

    ending = in_session(stuck.bundle_of(disk), work, options=BUSY_MACHINE)
    assert (ending.kind, ending.exit_code, ending.where) == ("login-missing", 1, "console")
    assert "INIT: no more processes left in this runlevel" in ending.console_tail


@pytest.mark.usefixtures("patient")
def test_an_initramfs_without_a_root_stops_in_its_shell_and_panics(tmp_path: Path) -> None:
    """No driver for pvpanic is there: the console's words alone tell of the panic."""
    disk = stuck.variant(tmp_path, "root", system=overlays.initramfs_tools)

    async def work(session: Session) -> tuple[Ending, Ending]:
        shell = await until_never(session)
        assert session.detector.has("initramfs")
        assert session.detector.has("busybox")
        await session.send(b"echo c >/proc/sysrq-trigger\n")
        assert await session.console.wait_for("Kernel panic", 240)
        return shell, await until_never(session)

    shell, panic = in_session(stuck.bundle_of(disk), work, options=BUSY_MACHINE)
    assert (shell.kind, shell.exit_code, shell.where) == ("emergency-shell", 1, "console")
    assert "(initramfs)" in shell.console_tail
    assert (panic.kind, panic.exit_code, panic.where) == ("panic", 255, "console")
    assert panic.message == "the guest's kernel panicked: sysrq triggered crash"


@pytest.mark.usefixtures("patient")
def test_ovmf_opens_its_shell_and_its_setup(tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    bundle = stuck.bundle_of(disk, 'memory = "128M"\nfirmware = {kind = "uefi"}\n')

    async def work(session: Session) -> tuple[Ending, Ending]:
        shell = await until_never(session)
        await session.send(b"exit\r")
        assert await session.console.wait_for("Boot Maintenance Manager", 240)
        return shell, await until_never(session)

    shell, setup = in_session(bundle, work, options=BUSY_MACHINE)
    assert (shell.kind, shell.exit_code, shell.where) == ("firmware-shell", 1, "console")
    assert (setup.kind, setup.exit_code, setup.where) == ("firmware-setup", 1, "console")
