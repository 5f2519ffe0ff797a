"""The small Linux guests boot to their end on real firmware, and keep what they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.boot import Guest, boot, disk_arguments
from tests.support.guests import copy_of, set_ending, uefi_arguments
from tests.support.tools import require_tool, run

BOOT_S = 120
pytestmark = [pytest.mark.qemu, pytest.mark.slow]


def milestones(guest: Guest) -> dict[str, str]:
    """The guest's report: the first word of each line -> the rest of it."""
    lines = [line for line in guest.serial().splitlines() if line.startswith("vmpack-guest: ")]
    facts = [line.removeprefix("vmpack-guest: ").partition(" ") for line in lines]
    return {word: rest for word, _, rest in facts}


def test_bios_guest_boots_to_a_root_shell_and_panics_on_demand(
    guest_bios: Path, tmp_path: Path
) -> None:
    disk = copy_of(guest_bios, tmp_path)
    nic = ["-nic", "user,restrict=on,model=virtio,mac=52:54:00:aa:bb:01", "-device", "pvpanic"]
    arguments = [*disk_arguments(disk, "ide-hd"), *nic]
    with boot(arguments, tmp_path, machine="pc", memory_mib=256, typing=True) as guest:
        guest.wait_serial("login: ", BOOT_S)
        facts = milestones(guest)
        assert facts["firmware"] == "bios"
        assert facts["ready"] == "end=login"
        assert facts["data"].startswith("/dev/sda2 boots 1 sum ")
        assert facts["nic"].startswith("eth0 52:54:00:aa:bb:01 virtio_net")
        guest.type_into_serial("root\n")
        guest.wait_serial("/root # ", BOOT_S)
        guest.type_into_serial("cat /data/files/index.html; echo c >/proc/sysrq-trigger\n")
        assert guest.wait_end(BOOT_S) == "guest-panic"
        assert "the small guest of vmpack" in guest.serial()


def test_uefi_guest_powers_off_when_told_to(guest_uefi: Path, tmp_path: Path) -> None:
    disk = copy_of(guest_uefi, tmp_path)
    set_ending(disk, "poweroff")
    arguments = [*disk_arguments(disk), *uefi_arguments(tmp_path)]
    with boot(arguments, tmp_path, memory_mib=512) as guest:
        assert guest.wait_end(BOOT_S) == "guest-shutdown"
        facts = milestones(guest)
    assert facts["firmware"] == "uefi"
    assert facts["ready"] == "end=poweroff"
    assert facts["disk"].startswith("vda 131072 sectors")
    assert disk.read_bytes() != guest_uefi.read_bytes()


@pytest.mark.parametrize(("firmware", "label"), [("bios", "dos"), ("uefi", "gpt")])
def test_guest_disk_is_partitioned_for_its_firmware(
    firmware: str, label: str, request: pytest.FixtureRequest
) -> None:
    disk: Path = request.getfixturevalue(f"guest_{firmware}")
    shown = run([require_tool("sfdisk"), "--json", disk]).stdout
    table = json.loads(shown)["partitiontable"]
    assert table["label"] == label
    assert len(table["partitions"]) == 2
    assert disk.stat().st_blocks * 512 < disk.stat().st_size // 2
