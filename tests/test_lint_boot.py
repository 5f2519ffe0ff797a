"""Lint: whether a boot disk could start, by BIOS and by UEFI, and what is said where it cannot."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import boot_disks
from tests.support.boot_disks import BIOS_BOOT, ESP, LINUX, disk, patch, pe_file, put_fat, uefi_disk
from tests.support.bundles import raw_reader
from tests.support.disks import random_disk
from tests.support.nvram import boot_entry, ovmf, variable, with_variables
from vmpack.machine import MachineConfig
from vmpack.ops.lint import lint, lint_machine
from vmpack.units import MiB

LOADER = "EFI/BOOT/BOOTX64.EFI"
CODE = b"\xeb\x63\x90"
MBR = "label: dos\nstart=2048, size=4096, type=83{active}\n"
ANOTHER = r"\EFI\debian\grubx64.efi"


def codes(path: Path, config: str, **blobs: bytes) -> list[str]:
    """The codes found for the machine with this one disk."""
    reader = raw_reader(path)
    try:
        machine = MachineConfig.from_toml(config + '\n[[disk]]\nid = "root"\nbus = "sata"\n')
        found = lint_machine(None, machine, {"root": reader}, blobs)
    finally:
        reader.close()
    return [one.code for one in found if one.code != "initramfs-unknown"]


def bios(path: Path) -> list[str]:
    return codes(path, '[firmware]\nkind = "bios"')


def uefi(path: Path, *, secure: bool = False, **blobs: bytes) -> list[str]:
    switch = "\nsecure-boot = true" if secure else ""
    return codes(path, f'[firmware]\nkind = "uefi"{switch}', **blobs)


def mbr_disk(path: Path, *, active: bool = True, code: bytes = CODE) -> Path:
    disk(path, MBR.format(active=", bootable" if active else ""))
    patch(path, MiB + 510, b"\x55\xaa")
    return patch(path, 0, code) if code else path


def test_bios_disks_that_start(tmp_path: Path) -> None:
    """LINT-BIOS-1."""
    assert bios(mbr_disk(tmp_path / "a")) == []
    grub = CODE + bytes(300) + b"GRUB \0Geom"
    assert bios(mbr_disk(tmp_path / "b", active=False, code=grub)) == []
    script = f"label: gpt\nstart=2048, size=2048, type={BIOS_BOOT}\n"
    assert bios(patch(disk(tmp_path / "c", script), 0, CODE)) == []
    boot_sector = tmp_path / "d"
    boot_sector.write_bytes(CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(512))
    assert bios(boot_sector) == []


def test_bios_disks_that_do_not(tmp_path: Path) -> None:
    """LINT-BIOS-1: no code, no active partition, an active one that is empty, nothing at all."""
    assert bios(mbr_disk(tmp_path / "a", code=b"")) == ["boot-no-code"]
    assert bios(mbr_disk(tmp_path / "b", active=False)) == ["boot-no-active"]
    assert bios(patch(mbr_disk(tmp_path / "c"), MiB + 510, b"\0\0")) == ["boot-partition-empty"]
    random_disk(tmp_path / "d", 1 << 20, seed=3)
    assert bios(tmp_path / "d") == ["boot-empty"]
    script = f"label: gpt\nstart=2048, size=2048, type={LINUX}\n"
    assert bios(disk(tmp_path / "e", script)) == ["boot-no-code"]
    (tmp_path / "f").write_bytes(b"")
    assert bios(tmp_path / "f") == ["boot-empty"]


def test_the_other_firmwares_disk_is_named_as_that(tmp_path: Path) -> None:
    """LINT-MATCH-1. Field note: EFI/BIOS flag ignored (xen-orchestra#8162, cockpit#17330)."""
    assert bios(uefi_disk(tmp_path / "a", {LOADER: pe_file()})) == ["boot-firmware"]
    assert uefi(mbr_disk(tmp_path / "b")) == ["boot-firmware"]


def test_uefi_disks_that_start(tmp_path: Path) -> None:
    """LINT-UEFI-1: by GPT, by MBR, and without partitions."""
    files = {LOADER: pe_file()}
    assert uefi(uefi_disk(tmp_path / "a", files)) == []
    script = "label: dos\nstart=2048, size=8192, type=ef\n"
    assert uefi(put_fat(disk(tmp_path / "b", script), files)) == []
    whole = tmp_path / "c"
    whole.write_bytes(bytes(4 * MiB))
    assert uefi(put_fat(whole, {LOADER.lower(): pe_file()}, 0, 4 * MiB)) == []


def test_uefi_disks_that_do_not(tmp_path: Path) -> None:
    """LINT-UEFI-1, LINT-UEFI-2."""
    assert uefi(uefi_disk(tmp_path / "a", {"EFI/debian/grubx64.efi": b"x"})) == ["boot-no-loader"]
    assert uefi(uefi_disk(tmp_path / "b", {LOADER: b"no program"})) == ["boot-loader-bad"]
    aarch64 = pe_file(machine=0xAA64)
    assert uefi(uefi_disk(tmp_path / "c", {LOADER: aarch64})) == ["boot-loader-bad"]
    script = f"label: gpt\nstart=2048, size=2048, type={LINUX}\n"
    assert uefi(disk(tmp_path / "d", script)) == ["boot-no-esp"]
    random_disk(tmp_path / "e", 1 << 20, seed=3)
    assert uefi(tmp_path / "e") == ["boot-empty"]
    unformatted = disk(tmp_path / "f", f"label: gpt\nstart=2048, size=2048, type={ESP}\n")
    assert uefi(unformatted) == ["boot-esp-damaged"]
    folder = uefi_disk(tmp_path / "g", {f"{LOADER}/x": b""})
    assert uefi(folder) == ["boot-no-loader"]


def test_secure_boot_needs_a_signed_loader_and_keys(tmp_path: Path) -> None:
    """LINT-UEFI-2. Field note: Secure Boot keys."""
    unsigned = uefi_disk(tmp_path / "a", {LOADER: pe_file()})
    assert uefi(unsigned, secure=True) == ["boot-loader-unsigned"]
    signed = uefi_disk(tmp_path / "b", {LOADER: pe_file(signed=True)})
    assert uefi(signed, secure=True) == []
    assert uefi(signed, secure=True, nvram=ovmf("OVMF_VARS_4M.ms.fd")) == []
    assert uefi(signed, secure=True, nvram=ovmf("OVMF_VARS_4M.fd")) == ["state-no-keys"]


def entry_to(part: Path, file: str) -> bytes:
    """An NVRAM whose one entry starts ``file`` on the first partition."""
    assert part.exists()
    entry = variable("Boot0042", boot_entry("debian", path=file))
    order = variable("BootOrder", struct.pack("<H", 0x42))
    return with_variables(ovmf("OVMF_VARS_4M.fd"), order, entry)


def test_a_disk_that_only_its_nvram_starts(tmp_path: Path) -> None:
    """LINT-UEFI-1. Field note: NVRAM missing: no boot (packer-plugin-vsphere#95)."""
    path = uefi_disk(tmp_path / "a", {"EFI/debian/grubx64.efi": pe_file()})
    assert uefi(path) == ["boot-no-loader"]
    assert uefi(path, nvram=entry_to(path, ANOTHER)) == ["boot-needs-nvram"]
    assert uefi(path, nvram=entry_to(path, r"\EFI\gone.efi")) == [
        "boot-no-loader",
        "boot-entry-stale",
    ]
    assert uefi(path, nvram=b"\0" * 100) == ["boot-no-loader", "state-nvram-unreadable"]
    both = uefi_disk(tmp_path / "b", {LOADER: pe_file(), "EFI/debian/grubx64.efi": pe_file()})
    assert uefi(both, nvram=entry_to(both, ANOTHER)) == []


def test_damaged_partition_tables(tmp_path: Path) -> None:
    """LINT-TABLE-1: primary, backup, both; and a disk that has grown."""
    files = {LOADER: pe_file()}
    assert uefi(patch(uefi_disk(tmp_path / "a", files), 600, b"X")) == ["boot-table-problem"]
    assert uefi(patch(uefi_disk(tmp_path / "b", files), -500, b"X")) == ["boot-table-problem"]
    both = patch(patch(uefi_disk(tmp_path / "c", files), 600, b"X"), -500, b"X")
    assert uefi(both) == ["boot-table-damaged"]
    grown = uefi_disk(tmp_path / "d", files)
    with grown.open("r+b") as file:
        file.truncate(boot_disks.SIZE + MiB)
    assert uefi(grown) == ["boot-table-problem"]
    outside = mbr_disk(tmp_path / "e")
    patch(outside, 446 + 16 + 4, b"\x83\0\0\0\0\0\0\x10\xff\xff\xff\x0f")
    assert bios(outside) == ["boot-table-problem"]


def test_a_file_system_that_lies(tmp_path: Path) -> None:
    """An EFI system partition whose FAT runs in a circle is a finding. hostile: 7."""
    path = uefi_disk(tmp_path / "a", {LOADER: pe_file()})
    patch(path, MiB + 13, b"\0")
    assert uefi(path) == ["boot-esp-damaged"]
    path = uefi_disk(tmp_path / "b", {LOADER: bytes(9000)})
    # FAT12 or FAT16: every cluster is followed by none.
    reserved = struct.unpack("<H", path.read_bytes()[MiB + 14 : MiB + 16])[0]
    patch(path, MiB + reserved * 512 + 3, b"\1\x10\0" * 40)
    assert uefi(path) == ["boot-esp-damaged"]


def test_a_cdrom_needs_a_boot_record(tmp_path: Path) -> None:
    config = MachineConfig.from_toml(
        '[firmware]\nkind = "bios"\n[[disk]]\nid = "cd"\nkind = "cdrom"\nbus = "sata"\nboot = 1\n'
    )
    for record, expected in ((b"", ["boot-empty"]), (b"\0CD001\1EL TORITO SPECIFICATION", [])):
        path = tmp_path / "cd.iso"
        path.write_bytes(bytes(17 * 2048) + record.ljust(2048, b"\0"))
        reader = raw_reader(path)
        assert [one.code for one in lint_machine(None, config, {"cd": reader}, {})] == expected
        reader.close()


def test_the_boot_disk_is_the_first_of_the_boot_order(tmp_path: Path) -> None:
    """LINT-DISK-1."""
    good, bad = raw_reader(mbr_disk(tmp_path / "a")), raw_reader(mbr_disk(tmp_path / "b", code=b""))
    disks = '\n[[disk]]\nid = "one"\nbus = "sata"\n[[disk]]\nid = "two"\nbus = "sata"\n'
    plain = MachineConfig.from_toml('[firmware]\nkind = "bios"' + disks)
    ordered = MachineConfig.from_toml('[firmware]\nkind = "bios"' + disks + "boot = 1\n")
    readers = {"one": good, "two": bad}
    assert all(one.severity != "error" for one in lint_machine(None, plain, readers, {}))
    assert lint_machine(None, ordered, readers, {})[0].code == "boot-no-code"
    none = MachineConfig.from_toml('[[disk]]\nid = "cd"\nkind = "cdrom"\nempty = true\n')
    assert [one.code for one in lint_machine(None, none, {}, {})] == ["boot-no-disk"]
    assert [one.code for one in lint_machine(None, plain, {}, {})] == ["boot-disk-absent"]
    good.close()
    bad.close()


@pytest.mark.parametrize("name", ["guest_bios", "guest_uefi", "guest_debian"])
def test_guests_that_boot_have_no_errors(name: str, request: pytest.FixtureRequest) -> None:
    """Real boot loaders: GRUB by MBR, by UEFI, and by both on one GPT disk."""
    path: Path = request.getfixturevalue(name)
    assert [one for one in lint(path).findings if one.severity != "info"] == []


def test_the_wrong_firmware_for_a_guest_is_found(
    guest_bios: Path, guest_uefi: Path, random_disk: Callable[..., object]
) -> None:
    """LINT-MATCH-1, with the guests that really do not start so."""
    assert uefi(guest_bios) == ["boot-firmware"]
    assert bios(guest_uefi) == ["boot-firmware"]
