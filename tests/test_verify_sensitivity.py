"""Sensitivity: every change that is planted in a machine is found, and named.

Each machine is recorded once and booted again with one thing changed. A change counts as found when
a layer of facts promises the item and says that it differs: likeness of console, picture or reads
is never enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.planted import (
    SECTOR,
    Change,
    assert_found,
    assert_nothing_found,
    boot_all,
    differences,
    machine,
    more_disks,
    nothing_to_boot,
    recorded,
    sector,
)
from tests.support.runner import HOSTS
from vmpack.errors import InfrastructureError
from vmpack.verify import boot as booting
from vmpack.verify.boot import Boot

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

MORE_DISK = '[[disk]]\nid = "more"\n'
SECOND_CARD = '[[nic]]\nid = "more"\nmac = "52:54:00:12:34:99"\n'
CARD = '[[nic]]\nid = "lan"\nmodel = "virtio-net"\nmac = "52:54:00:12:34:56"\naddress = "00:10.0"\n'
DRIVE = '[[disk]]\nid = "drive"\nkind = "cdrom"\nbus = "sata"\nempty = true\n'
DATA = '[[disk]]\nid = "data"\nserial = "D-1"\naddress = "00:12.0"\n'

FIRMWARE = f'[firmware]\ndigest = "sha256:{64 * "5"}"\n'

SECTORS: Mapping[str, Change] = {
    "more memory": Change("hardware", "changed", "memory.base", (("128M", "192M"),)),
    "one more core": Change("hardware", "changed", "cpus.cores", (("cores = 2", "cores = 3"),)),
    "threads for cores": Change(
        "hardware", "changed", "cpus.threads", (("cores = 2", "cores = 1\nthreads = 2"),)
    ),
    "CPU model": Change("hardware", "changed", "cpus.model", (("Nehalem-v1", "Westmere-v1"),)),
    "CPU vendor": Change(
        "hardware", "changed", "cpus.vendor", (("cores = 2", 'cores = 2\nvendor = "AuthenticAMD"'),)
    ),
    "CPU feature more": Change(
        "hardware", "changed", "cpu-model.aes", (("cores = 2", 'cores = 2\nflags = ["+aes"]'),)
    ),
    "CPU feature less": Change(
        "hardware",
        "changed",
        "cpu-model.popcnt",
        (("cores = 2", 'cores = 2\nflags = ["-popcnt"]'),),
    ),
    "machine version": Change("hardware", "changed", "machine", (("pc-q35-7.2", "pc-q35-7.1"),)),
    "chipset": Change("hardware", "changed", "machine", (("pc-q35-7.2", "pc-i440fx-7.2"),)),
    "NIC model": Change("hardware", "changed", "nic:lan.device", (("virtio-net", "e1000"),)),
    "NIC gone": Change(
        "hardware",
        "missing",
        "nic:lan",
        ((CARD, ""), ("memory", "nic = []\nmemory")),
    ),
    "second NIC": Change("hardware", "added", "nic:more", (("", SECOND_CARD),)),
    "MAC": Change("hardware", "changed", "nic:lan.mac", (("34:56", "34:57"),)),
    "MTU": Change(
        "hardware", "changed", "nic:lan.mtu", (('"virtio-net"', '"virtio-net"\nmtu = 9000'),)
    ),
    "PCI address of a NIC": Change(
        "hardware", "changed", "nic:lan.place", (("00:10.0", "00:13.0"),)
    ),
    "PCI address of a disk": Change(
        "hardware", "missing", "pci:00:12.0", (("00:12.0", "00:14.0"),)
    ),
    "swapped disks": Change(
        "hardware",
        "changed",
        "disk:root.place",
        (("00:11.0", "00:99.0"), ("00:12.0", "00:11.0"), ("00:99.0", "00:12.0")),
    ),
    "disk gone": Change("hardware", "missing", "disk:data", ((DATA, ""),), disks=more_disks()),
    "third disk": Change(
        "hardware", "added", "disk:more", (("", MORE_DISK),), disks=more_disks(2, 2)
    ),
    "disk larger": Change("hardware", "changed", "disk:data.size", disks=more_disks(3)),
    "disk bus": Change(
        "hardware",
        "changed",
        "disk:data.device",
        (('"D-1"\naddress = "00:12.0"', '"D-1"\nbus = "sata"'),),
    ),
    "disk serial": Change("hardware", "changed", "disk:data.serial", (("D-1", "D-2"),)),
    "disk read-only": Change(
        "hardware", "changed", "disk:data.read-only", (('"D-1"', '"D-1"\nread-only = true'),)
    ),
    "disk sectors": Change(
        "hardware",
        "changed",
        "disk:data.logical-block-size",
        (('"D-1"', '"D-1"\nlogical-block-size = 4096\nphysical-block-size = 4096'),),
    ),
    "boot order": Change("hardware", "changed", "disk:data.boot", (('"D-1"', '"D-1"\nboot = 2'),)),
    "CD-ROM drive": Change("hardware", "added", "disk:drive", (("", DRIVE),)),
    "graphics card": Change(
        "hardware", "changed", "display.device", (('model = "std"', 'model = "virtio-vga"'),)
    ),
    "no pvpanic": Change(
        "hardware", "missing", "device:pvpanic", (("memory", "pvpanic = false\nmemory"),)
    ),
    "no agent's channel": Change(
        "hardware", "missing", "device:agent-port", (("memory", "guest-agent = false\nmemory"),)
    ),
    "tablet": Change(
        "hardware", "added", "device:tablet", (("memory", 'input = "usb-tablet"\nmemory'),)
    ),
    "second serial port": Change(
        "hardware", "added", "serial:1", (("", "[[serial]]\nport = 0\n[[serial]]\nport = 1"),)
    ),
    "TPM": Change("hardware", "changed", "tpm", (("[rtc]", '[tpm]\nversion = "2.0"\n[rtc]'),)),
    "RTC's start": Change(
        "hardware",
        "changed",
        "rtc.start",
        (('clock = "utc"', 'clock = "utc"\nstart = "2001-02-03T04:05:06"'),),
    ),
    "RTC's base": Change("hardware", "changed", "rtc.clock", (('"utc"', '"localtime"'),)),
    "SMBIOS serial": Change("hardware", "changed", "smbios:system.serial", (("A-1", "A-2"),)),
    "SMBIOS BIOS version": Change(
        "hardware", "changed", "smbios:bios.version", (('"1.0"', '"1.1"'),)
    ),
    "UUID": Change("hardware", "changed", "uuid", (("1c01", "1c99"),)),
    "UEFI for BIOS": Change(
        "firmware", "changed", "kind", (("[cpu]", '[firmware]\nkind = "uefi"\n[cpu]'),)
    ),
    "panic at once": Change("ending", "changed", "kind", disks=sector("panic")),
    "power-off": Change("ending", "changed", "reason", disks=sector("poweroff")),
    "reset loop": Change("ending", "changed", "resets", disks=sector("reset")),
    "hang": Change("ending", "changed", "kind", disks=sector("hang")),
    "no boot loader": Change("ending", "changed", "kind", disks=nothing_to_boot),
}
"""Changes of a machine that boots a sector."""


def asked(request: pytest.FixtureRequest) -> dict[str, Change]:
    """The rows whose tests were asked for."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    return {name: row for name, row in SECTORS.items() if name in names}


@pytest.fixture(scope="module")
def sector_boots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Boot]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(booting, "SETTLE_S", 0.2)
        return recorded(asked(request), tmp_path_factory.mktemp("sectors"), SECTOR)


@pytest.mark.parametrize("name", SECTORS)
def test_a_change_of_the_machine_is_found(name: str, sector_boots: Mapping[str, Boot]) -> None:
    assert_found(sector_boots, name, SECTORS[name])


def test_the_machine_as_it_was_shows_no_difference(sector_boots: Mapping[str, Boot]) -> None:
    assert_nothing_found(sector_boots)


def test_another_firmware_is_shown_and_a_pin_refuses_it(
    sector_boots: Mapping[str, Boot], tmp_path: Path
) -> None:
    """Firmware belongs to the host, which promises nothing of it, unless the bundle pins it."""
    pinned = Change("firmware", "changed", "code", (("[cpu]", f"{FIRMWARE}[cpu]"),))
    with pytest.raises(InfrastructureError, match="firmware"):
        boot_all([machine(tmp_path, SECTOR, pinned)], SECTOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(booting, "SETTLE_S", 0.2)
        (tmp_path / "other").mkdir()
        plain = machine(tmp_path / "other", SECTOR)
        (other,) = boot_all([plain], SECTOR, host=HOSTS[-1])
    found = differences({**sector_boots, "other": other}, "other")
    assert [one for one in found if one.counts] == []
    assert pinned.difference in [(one.layer, one.code, one.item) for one in found]


def test_there_are_enough_changes() -> None:
    assert len(SECTORS) >= 40
    assert len({row.difference for row in SECTORS.values()}) >= 36
