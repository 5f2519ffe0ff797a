"""Lint: whether an initramfs has the boot disk's driver; initramfs files that are hostile."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boot_disks import cpio, initramfs, pe_file, uefi_disk
from tests.support.bundles import raw_reader
from vmpack.hypervisors.base import Hypervisor, Limits
from vmpack.machine import MachineConfig
from vmpack.machine import initramfs as module
from vmpack.machine.initramfs import read_initramfs
from vmpack.machine.pe_structs import PeFile
from vmpack.ops.lint import lint_machine
from vmpack.ops.lint_initramfs import DRIVERS

LOADER = {"EFI/BOOT/BOOTX64.EFI": pe_file()}
UEFI = '[firmware]\nkind = "uefi"\n[[disk]]\nid = "root"\nbus = "{bus}"\n'
TREE = {
    "init": b"#!/bin/sh\n",
    "lib/modules/6.1/kernel/drivers/ata/ahci.ko": b"x" * 5,
    "usr/lib/modules/6.1/extra/virtio-blk.ko.zst": b"",
    "lib/modules/6.1/kernel/nvme.ko.xz": b"1234",
    "lib/modules/6.1/modules.builtin": b"kernel/a/sd_mod.ko\nkernel/a/vmw-pvscsi.ko.gz\n",
    "lib/other/none.ko": b"",
}


def target(name: str = "test", *buses: str) -> Hypervisor:
    return Hypervisor(name, name, limits=Limits(disk_buses=buses))


def codes(
    folder: Path,
    files: dict[str, bytes],
    *,
    bus: str = "virtio-blk",
    to: Hypervisor | None = None,
    config: str = "",
) -> set[str]:
    """The codes about drivers for a machine whose EFI system partition holds ``files``."""
    reader = raw_reader(uefi_disk(folder / "disk", {**LOADER, **files}))
    try:
        machine = MachineConfig.from_toml(config + UEFI.format(bus=bus))
        found = lint_machine(to, machine, {"root": reader}, {})
    finally:
        reader.close()
    return {one.code for one in found if one.code.startswith(("initramfs", "windows"))}


def entry(initrd: str) -> dict[str, bytes]:
    text = f"title Arch\nlinux /vmlinuz\ninitrd  {initrd}\noptions root=x\n"
    return {"loader/entries/arch.conf": text.encode()}


def places(data: bytes) -> list[dict[str, bytes]]:
    """Where an initramfs is found."""
    return [
        {"initrd.img-6.1": data},
        {"boot/initramfs-linux.img": data},
        {"EFI/Linux/arch.efi": pe_file(sections={".linux": b"x" * 99, ".initrd": data})},
        {**entry("/abc/6.1/main"), "abc/6.1/main": data},
    ]


@pytest.mark.parametrize("number", range(4))
def test_it_is_found_where_boot_loaders_look(number: int, tmp_path: Path) -> None:
    """LINT-INITRD-1."""
    for bus, expected in (("virtio-blk", set()), ("pvscsi", {"initramfs-no-driver"})):
        data = initramfs(["block/virtio_blk"], ["scsi/sd_mod"])
        assert codes(tmp_path, places(data)[number], bus=bus) == expected


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """LINT-INITRD-3: none there, none that is read, none that has modules, one that is cut."""
    unread = {"initramfs-unknown"}
    assert codes(tmp_path, {}) == unread
    assert codes(tmp_path, {"initrd": b"\x02\x21\x4c\x18" + bytes(90)}) == unread
    assert codes(tmp_path, {"initrd": cpio({"init": b"x"})}) == unread
    assert codes(tmp_path, {"initrd": initramfs(["a"] * 40)[:40]}) == unread
    assert codes(tmp_path, {"EFI/Linux/a.efi": pe_file(sections={".linux": b"x"})}) == unread
    assert codes(tmp_path, entry("/none")) == unread


def test_a_driver_that_the_kernel_may_have(tmp_path: Path) -> None:
    """LINT-INITRD-2: without the list of what is built in, nothing is certain."""
    some = {"initrd": initramfs(["ata/ahci"], None)}
    assert codes(tmp_path, some) == {"initramfs-driver-unseen"}
    assert codes(tmp_path, {"initrd": initramfs(["ata/ahci"], ["block/virtio_blk"])}) == set()
    rescue = {**some, "initrd-rescue": initramfs(["block/virtio_blk"])}
    assert codes(tmp_path, rescue) == set()


def test_the_bus_is_the_one_that_the_target_gives(tmp_path: Path) -> None:
    """LINT-INITRD-2. Field note: default bus by guest and target."""
    files = {"initrd": initramfs(["block/virtio_blk", "ata/ahci"])}
    missing = {"initramfs-no-driver"}
    assert codes(tmp_path, files, to=target("test", "virtio-blk", "pvscsi")) == set()
    assert codes(tmp_path, files, to=target("test", "sata", "pvscsi")) == set()
    assert codes(tmp_path, files, to=target("test", "pvscsi", "nvme")) == missing
    assert codes(tmp_path, files, to=target("hyperv", "virtio-blk")) == missing
    hyperv = {"initrd": initramfs(["hv/hv_storvsc"])}
    assert codes(tmp_path, hyperv, to=target("azure", "sata")) == set()
    assert codes(tmp_path, hyperv, to=target("xen", "sata")) == missing


def test_every_bus_has_its_drivers() -> None:
    from typing import get_args

    from vmpack.machine.names import DiskBus

    assert set(DRIVERS) == set(get_args(DiskBus))


def test_windows_on_a_bus_that_goes_away(tmp_path: Path) -> None:
    """Field note: Windows stops with 0x7B (kubevirt#16703)."""
    windows = '[guest-os]\nfamily = "windows"\n'
    sata = target("test", "sata")
    assert codes(tmp_path, {}, to=sata, config=windows) == {"windows-boot-bus"}
    assert codes(tmp_path, {}, to=sata, config=windows, bus="sata") == set()
    assert codes(tmp_path, {}, config=windows) == set()


def test_real_guests_have_their_drivers(guest_uefi: Path) -> None:
    """The small guest's initramfs, made for every bus."""
    reader = raw_reader(guest_uefi)
    for bus in DRIVERS:
        config = MachineConfig.from_toml(
            '[firmware]\nkind = "uefi"\n[guest-os]\nfamily = "linux"\n'
            f'[[disk]]\nid = "root"\nbus = "{bus}"\n'
        )
        found = lint_machine(None, config, {"root": reader}, {})
        assert [one.code for one in found] == [], bus
    reader.close()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("early", [b"", cpio({"kernel/x86/microcode/AuthenticAMD.bin": b"m" * 99})])
def test_compressions(name: str, early: bytes) -> None:
    """LINT-INITRD-2: alone, and behind an archive with microcode and its padding."""
    padded = early + bytes(-len(early) % 512)
    found = read_initramfs(padded + COMPRESSORS[name](cpio(TREE)))
    assert found.problem == ""
    assert found.modules == {"ahci", "virtio_blk", "nvme"}
    assert found.builtin == {"sd_mod", "vmw_pvscsi"}
    assert found.has("ahci")
    assert found.has("vmw_pvscsi")
    assert not found.has("none")


def test_a_bomb_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """LINT-INITRD-2. hostile: 7."""
    monkeypatch.setattr(module, "MAX_DECODED", 4 << 20)
    monkeypatch.setattr(module, "MAX_MEMBERS", 1000)
    large = cpio({"a": bytes(16 << 20), "lib/modules/1/late.ko": b""})
    for name, compress in COMPRESSORS.items():
        found = read_initramfs(compress(large))
        if name != "plain":
            assert "more than 4 MiB" in found.problem, name
            assert not found.modules
    many = read_initramfs(gzip.compress(cpio({f"f{number}": b"" for number in range(1500)})))
    assert "more than 1000 members" in many.problem
    endless = b"070701" + b"0" * 88 + b"FFFFFFFF" + b"0" * 8
    assert read_initramfs(endless).problem


@given(st.sampled_from(sorted(COMPRESSORS)), st.integers(0, 2**32))
def test_mutations_are_problems_never_errors(name: str, seed: int) -> None:
    """hostile: 10."""
    rng = random.Random(seed)
    data = bytearray(COMPRESSORS[name](cpio(TREE)))
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    read_initramfs(bytes(data[: rng.randrange(len(data) + 1)]))


@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_pe_files_of_any_bytes(tail: bytes, seed: int) -> None:
    """hostile: 10."""
    rng = random.Random(seed)
    data = bytearray(pe_file(sections={".initrd": b"x" * 20, ".linux": b"y"}) + tail)
    for _ in range(rng.randrange(12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    found = PeFile.decode(bytes(data[: rng.randrange(len(data) + 1)]))
    if found is not None:
        for offset, size in found.sections.values():
            assert 0 <= offset <= offset + size <= len(data)
