"""The boot sectors: each boots under real QEMU and ends the way that its name says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.build import sectors
from tests.support.boot import Guest, boot, disk_arguments
from tests.support.tools import require_tool

MACHINES = {"pc": "ide-hd", "q35": "virtio-blk"}
ENDINGS = {
    "poweroff": "guest-shutdown",
    "report": "guest-shutdown",
    "reset": "guest-reset",
    "triple-fault": "guest-reset",
    "panic": "guest-panic",
}
pytestmark = pytest.mark.qemu


def devices(name: str, folder: Path, machine: str) -> list[str]:
    disk = sectors.write_disk(name, folder / "disk.raw")
    return [*disk_arguments(disk, MACHINES[machine]), "-device", "pvpanic"]


@pytest.mark.parametrize("name", sectors.NAMES)
def test_source_assembles_to_the_committed_sector(name: str) -> None:
    require_tool("as")
    require_tool("ld")
    sector = sectors.committed(name)
    assert sectors.assemble(name) == sector
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ENDINGS)
def test_sector_ends_as_named(name: str, machine: str, tmp_path: Path) -> None:
    with boot(devices(name, tmp_path, machine), tmp_path, machine=machine) as guest:
        assert guest.wait_end() == ENDINGS[name]
        assert guest.saw("GUEST_PANICKED") == (name == "panic")
        expected = "done" if name == "report" else f"vmpack boot sector: {name.replace('-', ' ')}"
        assert expected in guest.serial()


def registers(guest: Guest) -> str:
    shown: str = guest.command("human-monitor-command", **{"command-line": "info registers"})
    return shown


@pytest.mark.parametrize("machine", MACHINES)
def test_hang_stays_running_without_an_event(machine: str, tmp_path: Path) -> None:
    with boot(devices("hang", tmp_path, machine), tmp_path, machine=machine) as guest:
        guest.wait_serial("hang\r\n")
        assert guest.command("query-status")["status"] == "running"
        guest.wait_until(lambda: "HLT=1" in registers(guest), 20, "never halted")
        assert not guest.saw("SHUTDOWN")


def test_endless_output_goes_on(tmp_path: Path) -> None:
    line = "vmpack boot sector: \x1b[31mendless\x1b[0m output\r\n"
    with boot(devices("endless-output", tmp_path, "q35"), tmp_path) as guest:
        guest.wait_serial(line * 200)
        guest.wait_serial(line, after=len(guest.serial()) + 1)
        assert not guest.saw("SHUTDOWN")


def report_of(folder: Path, machine: str) -> list[str]:
    folder.mkdir()
    with boot(devices("report", folder, machine), folder, machine=machine) as guest:
        guest.wait_end()
        return guest.serial().split("\r\n")


@pytest.mark.parametrize("machine", MACHINES)
def test_report_is_well_formed_and_the_same_twice(machine: str, tmp_path: Path) -> None:
    lines = report_of(tmp_path / "first", machine)
    assert lines == report_of(tmp_path / "second", machine)
    facts = [line for line in lines if line not in {"", "done"}]
    assert all(re.fullmatch(r"[a-z0-9]+( [0-9A-F]{8})+", fact) for fact in facts)
    assert "answer 56A8D321" in facts
    assert "base 0000027F" in facts
    vendor = next(fact for fact in facts if fact.startswith("cpuid 00000000")).split()[3:6]
    ebx, ecx, edx = (int(word, 16).to_bytes(4, "little") for word in vendor)
    assert ebx + edx + ecx == b"GenuineIntel"
    ram = [fact.split()[1:] for fact in facts if fact.startswith("e820")]
    usable = sum(int(entry[2], 16) for entry in ram if entry[4] == "00000001")
    assert 63 << 20 < usable <= 64 << 20
