"""--as: what becomes of a machine's devices, and that guests start on them for real."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import guests
from tests.support.runner import TCG, qemu_of, sector_bundle
from tests.support.spec_tables import SPECS
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.errors import InfrastructureError, UsageError
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops.pack import pack
from vmpack.verify import boot
from vmpack.verify.boot import Boot, boot_once
from vmpack.verify.imitate import imitate
from vmpack.verify.profiles import PROFILES, Profile

BOOTABLE = ("vmware", "virtualbox", "hyperv", "proxmox")
PAGE = (SPECS / "imitation-v1.md").read_text()
DISK = '[[disk]]\nid = "root"\n'


def machine(toml: str = DISK) -> MachineConfig:
    """A pinned config."""
    config = MachineConfig.from_toml('memory = "64M"\n' + toml)
    ids = [disk.id for disk in config.disks or () if not disk.empty]
    return pin(config, [DiskFacts(each, 1 << 20) for each in ids], seed=b"test")


def rows(head: str) -> Iterator[tuple[str, list[str]]]:
    """The table of the page whose head begins so: target -> its cells."""
    lines = iter(PAGE[PAGE.index(head) :].splitlines()[2:])
    for line in lines:
        if not line.startswith("|"):
            return
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield name.strip("`"), cells


def names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(", "))


def test_the_page_has_the_profiles() -> None:
    """IMI-DISK-1, IMI-NIC-1, IMI-OTHER-1, IMI-DMI-1."""

    def disks(one: Profile) -> list[object]:
        first = [one.disk_buses, one.disk_bus, one.windows_bus]
        return [*first, one.cdrom_buses, one.cdrom_bus]

    found = {
        target: [names(stay), other, windows, names(cdroms), cdrom]
        for target, (stay, other, windows, cdroms, cdrom) in rows("| target | disks stay on")
    }
    assert found == {target: disks(PROFILES[target]) for target in BOOTABLE}
    for target, cells in rows("| target | network cards stay"):
        one = PROFILES[target]
        yes = {True: "yes", False: "no"}
        assert [*map(names, (cells[0], cells[2], cells[4]))] == [
            *(one.nic_models, one.displays, one.inputs)
        ]
        told = [cells[1], cells[3], *cells[5:]]
        more = [yes[one.has_rng], yes[one.has_tpm], one.chipset or "own"]
        assert told == [one.nic_model, one.display, *more]
    for target, cells in rows("| target | manufacturer"):
        assert tuple(cells) == (PROFILES[target].system or ("its own", "its own"))
    assert {target for target, _ in rows("| target | not as there")} == set(PROFILES)


@pytest.mark.parametrize("target", BOOTABLE)
def test_a_profile_has_only_what_the_target_takes(target: str) -> None:
    """IMI-DISK-1, IMI-NIC-1."""
    limits, one = hypervisors.get(target).limits, PROFILES[target]
    assert limits is not None
    assert set(one.disk_buses) <= set(limits.disk_buses)
    assert set(one.nic_models) <= set(limits.nic_models)
    assert {one.disk_bus, one.windows_bus, one.cdrom_bus} <= set(one.disk_buses)
    assert (one.nic_model in one.nic_models, one.display in one.displays) == (True, True)


EXPECTED = {
    "vmware": ("pvscsi", "vmxnet3", "vmware", "none", "pc-q35-7.2"),
    "virtualbox": ("sata", "virtio-net", "std", "none", "pc-q35-7.2"),
    "hyperv": ("ide", "tulip", "std", "none", "pc-i440fx-7.2"),
    "proxmox": ("virtio-blk", "virtio-net", "std", "virtio-rng", "pc-q35-7.2"),
}


@pytest.mark.parametrize("target", BOOTABLE)
def test_a_machine_of_vmpack_gets_the_targets_devices(target: str) -> None:
    """IMI-KEEP-1, IMI-LOOK-1, IMI-DMI-1."""
    before = machine()
    after, notes = imitate(before, target)
    disk, nic = (after.disks or ())[0], (after.nics or ())[0]
    found = (disk.bus, nic.model, after.display.model, after.rng.model, after.machine)
    assert found == EXPECTED[target]
    for name in ("uuid", "memory", "cpu", "firmware", "serials", "guest_agent", "pvpanic", "rtc"):
        assert getattr(after, name) == getattr(before, name), name
    assert (disk.id, disk.boot, disk.serial) == ("root", 1, (before.disks or ())[0].serial)
    assert nic.mac == (before.nics or ())[0].mac
    assert any(note.startswith("not as in ") for note in notes)
    assert any("kept to look through" in note for note in notes)
    changed = any(note.startswith("disk root: ") for note in notes)
    assert changed == (disk.bus != "virtio-blk")
    # What it became is one that stays.
    again, told = imitate(after, target)
    assert again == after
    assert not any(note.startswith(("disk", "network", "machine")) for note in told)


def test_windows_gets_a_bus_that_it_has_a_driver_for() -> None:
    """IMI-DISK-1."""
    toml = '[guest-os]\nfamily = "windows"\n[[disk]]\nid = "c"\nbus = "virtio-blk"\n'
    config, _ = imitate(machine(toml), "vmware")
    assert [disk.bus for disk in config.disks or ()] == ["sata"]


def test_what_a_target_lacks_goes_and_is_told() -> None:
    """IMI-DISK-1, IMI-OTHER-1."""
    toml = (
        'input = "usb-tablet"\n[tpm]\n[[disk]]\nid = "big"\nlogical-block-size = 4096\n'
        '[[disk]]\nid = "cd"\nkind = "cdrom"\n[[disk]]\nid = "n"\nbus = "nvme"\n'
    )
    config, notes = imitate(machine(toml), "hyperv")
    assert (config.tpm, config.input) == (None, "ps2")
    assert [disk.logical_block_size for disk in config.disks or ()] == [512, None, 512]
    places = [(disk.bus, disk.port, disk.unit) for disk in config.disks or ()]
    assert len(set(places)) == 3
    assert {bus for bus, _, _ in places} == {"ide"}
    assert {one.bus for one in config.controllers} == {"ide", "virtio-serial"}
    for word in ("no TPM", "input: ps2", "sectors of 512 bytes", "disk n: on ide for nvme"):
        assert any(word in note for note in notes), word


def test_too_many_disks_are_refused() -> None:
    """IMI-POSSIBLE-2."""
    toml = "".join(f'[[disk]]\nid = "d{number}"\n' for number in range(5))
    with pytest.raises(InfrastructureError, match="no free place on ide") as caught:
        imitate(machine(toml), "hyperv")
    assert caught.value.clause == "IMI-POSSIBLE-2"


@pytest.mark.parametrize(
    ("target", "toml"),
    [
        ("azure", DISK),
        ("hyperv", DISK + '[firmware]\nkind = "uefi"\n'),
        ("hyperv", "hyperv-generation = 2\n" + DISK),
    ],
)
def test_what_qemu_has_nothing_of_is_refused_with_what_can_be_done(target: str, toml: str) -> None:
    """IMI-POSSIBLE-1."""
    with pytest.raises(InfrastructureError, match="cannot be imitated") as caught:
        imitate(machine(toml), target)
    assert caught.value.exit_code == 125
    assert f"vmpack lint BUNDLE --to {target}" in (caught.value.hint or "")


def test_a_target_without_a_profile_is_named() -> None:
    with pytest.raises(UsageError, match="no profile of xen"):
        imitate(machine(), "xen")


def boots(bundle: Path, target: str, host: str = "machine") -> Boot:
    """One boot of the bundle as ``target``."""
    with Bundle.open(bundle) as opened:
        config, _ = imitate(opened.config, target)
        return asyncio.run(boot_once(opened, TCG, config=config, qemu=qemu_of(host), observe=False))


@pytest.mark.qemu
@pytest.mark.parametrize("target", BOOTABLE)
def test_the_newest_qemu_takes_the_profile_too(tmp_path: Path, target: str) -> None:
    config = '[expected]\nmilestones = ["sector"]\nending = "power-off"\n'
    boot = boots(sector_bundle(tmp_path, "poweroff", config), target, "trixie-backports")
    assert boot.good, boot.ending


DRIVERS = {
    "vmware": ("vmw_pvscsi", "vmxnet3"),
    "virtualbox": ("ahci", "virtio_net"),
    "hyperv": ("ata_piix", "tulip"),
    "proxmox": ("virtio_blk", "virtio_net"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small guest, which has drivers for all of it; done once it has looked around."""
    text = 'memory = "256M"\n[cpu]\ncores = 1\n[expected]\nmilestones = ["vmpack-guest: ready"]\n'
    path = tmp_path_factory.mktemp("small") / "small.vmpack"
    pack([guests.small("bios")], path, config=MachineConfig.from_toml(text))
    return path


@pytest.mark.qemu
@pytest.mark.parametrize("target", BOOTABLE)
def test_a_guest_with_the_drivers_finds_its_disk_and_card(
    small: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "SETTLE_S", 0.2)
    done = boots(small, target)
    assert done.good, done.ending
    text = done.console.decode(errors="replace")
    loaded = re.search(r"vmpack-guest: modules ([a-z0-9_ ]*)", text)
    assert loaded is not None
    assert set(DRIVERS[target]) <= set(loaded[1].split())
    assert re.search(r"vmpack-guest: data /dev/[a-z0-9]+ boots 1 sum", text)
