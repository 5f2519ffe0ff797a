"""Pins: every row of the page's table, and that pinning depends on nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmpack.errors import UsageError
from vmpack.machine import BootLayout, DiskFacts, MachineConfig, machine_id, pin
from vmpack.machine.boot_layout import BIOS_BOOT, ESP, Partition

PAGE = (Path(__file__).parent.parent / "specs/config-v1.md").read_text()
ROW = re.compile(r"^\| (CFG-PIN-\d+) \| `([^`]+)` \| (.+?) \| `(.+)` \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE)]

EFI = Partition(1 << 20, 1 << 20, ESP)
NTFS = Partition(1 << 20, 1 << 20, "0x07", bootable=True)
UEFI_ONLY = BootLayout("gpt", True, False, True, (EFI,))
BOTH = BootLayout("gpt", True, True, True, (EFI, Partition(4096, 512, BIOS_BOOT)))
WINDOWS = BootLayout("mbr", True, True, False, (NTFS,))
I440FX = 'machine = "pc-i440fx-7.2"\n'
ROOT = [DiskFacts("root", 1 << 30)]
LONG_ID = "a-disk-with-a-rather-long-name"

SITUATIONS: dict[str, tuple[str, list[DiskFacts]]] = {
    "always": ("", ROOT),
    "seed `vmpack`": ("", ROOT),
    "bios": ("", ROOT),
    "no `cpu.model` given": ("", ROOT),
    "no topology given": ("", ROOT),
    "no boot order given": ("", ROOT),
    "no EFI system partition": ("", ROOT),
    "`cpu.sockets` given": ("[cpu]\nsockets = 2", ROOT),
    "a disk on ide": ('[[disk]]\nid = "root"\nbus = "ide"', ROOT),
    "a disk on sata": ('[[disk]]\nid = "root"\nbus = "sata"', ROOT),
    "a disk on virtio-scsi": ('[[disk]]\nid = "root"\nbus = "virtio-scsi"', ROOT),
    "windows": ("", [DiskFacts("root", 1 << 30, layout=WINDOWS)]),
    "windows on i440fx": (I440FX, [DiskFacts("root", 1 << 30, layout=WINDOWS)]),
    "i440fx": (I440FX, ROOT),
    "uefi": ('[firmware]\nkind = "uefi"', ROOT),
    "`firmware.secure-boot = true`": ("[firmware]\nsecure-boot = true", ROOT),
    "`hyperv-generation = 2`": ("hyperv-generation = 2", ROOT),
    "EFI system partition on the boot disk, no BIOS boot code": (
        "",
        [DiskFacts("root", 1 << 30, layout=UEFI_ONLY)],
    ),
    "EFI system partition and BIOS boot code": ("", [DiskFacts("root", 1 << 30, layout=BOTH)]),
    "a CD-ROM": ("", [DiskFacts("cd", 1 << 20, "cdrom")]),
    "a CD-ROM on i440fx": (I440FX, [DiskFacts("cd", 1 << 20, "cdrom")]),
    "an id of more than 20 characters": ("", [DiskFacts(LONG_ID, 512)]),
    "twelve disks": ("", [DiskFacts(f"d{n}", 512) for n in range(12)]),
    "seven disks on sata": (
        "".join(f'[[disk]]\nid = "d{n}"\nbus = "sata"\n' for n in range(7)),
        [DiskFacts(f"d{n}", 512) for n in range(7)],
    ),
    "`tpm` given": ("[tpm]", ROOT),
    '`tpm.version = "1.2"`': ('[tpm]\nversion = "1.2"', ROOT),
}


def at(config: MachineConfig, field: str) -> Any:
    value: Any = config.to_json_dict()
    for name, index in re.findall(r"([a-z-]+)|\[(\d+)\]", field):
        value = value[name] if name else value[int(index)]
    return value


@pytest.mark.parametrize(("clause", "field", "when", "value"), ROWS, ids=[r[0] for r in ROWS])
def test_row_of_the_table(clause: str, field: str, when: str, value: str) -> None:
    toml, disks = SITUATIONS[when]
    pinned = pin(MachineConfig.from_toml(toml), disks, seed=b"vmpack")
    assert at(pinned, field) == json.loads(value), clause


def test_the_table_has_a_row_for_every_pin() -> None:
    """What pinning writes and the page does not list would be a pin that nobody documented."""
    pinned = pin(None, ROOT, seed=b"vmpack").to_json_dict()
    listed = {field for _, field, _, _ in ROWS} | {"version", "disk[0].id"}

    def leaves(value: Any, field: str) -> list[str]:
        if field in listed:
            return []
        if isinstance(value, dict):
            return [x for k, v in value.items() for x in leaves(v, f"{field}.{k}".strip("."))]
        if isinstance(value, list):
            return [x for n, v in enumerate(value) for x in leaves(v, f"{field}[{n}]")]
        return [field]

    assert leaves(pinned, "") == []


@pytest.mark.qemu
def test_qemu_knows_what_is_pinned_and_nothing_versioned_is_left_out(
    require_tool: Callable[[str], str],
) -> None:
    """The names are QEMU's: a model that QEMU has and a config cannot name could not be packed."""
    qemu = require_tool("qemu-system-x86_64")

    def listed(what: str) -> list[str]:
        done = subprocess.run([qemu, what, "help"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    models = [one for one in listed("-cpu") if re.fullmatch(r".+-v\d+", one)]
    assert "Nehalem-v1" in models
    for model in models:
        assert MachineConfig.from_toml(f'[cpu]\nmodel = "{model}"').cpu.model == model
    assert {"pc-q35-7.2", "pc-i440fx-7.2"} <= set(listed("-machine"))


@pytest.mark.parametrize("when", SITUATIONS)
def test_pinned_configs_stay_as_they_are(when: str) -> None:
    """CFG-PIN-0; the seed matters only where something is left open."""
    toml, disks = SITUATIONS[when]
    once = pin(MachineConfig.from_toml(toml), disks, seed=b"one", name="x")
    assert pin(once, disks, seed=b"two") == once
    assert MachineConfig.from_json_dict(once.to_json_dict()) == once
    assert MachineConfig.from_toml(once.to_toml()) == once


def test_what_the_config_says_wins() -> None:
    """CFG-PIN-0."""
    toml = (
        'machine = "pc-i440fx-6.2"\nmemory = "64M"\npvpanic = false\nguest-agent = false\n'
        'nic = []\nserial = []\n[cpu]\nmodel = "EPYC-v1"\ncores = 4\n[rng]\nmodel = "none"\n'
        '[display]\nmodel = "none"\n[[disk]]\nid = "root"\nbus = "nvme"\naddress = "00:02.0"\n'
        'serial = "S1"\n[smbios.system]\nmanufacturer = "VMware, Inc."\n'
    )
    given = MachineConfig.from_toml(toml)
    pinned = pin(given, ROOT, seed=b"").to_json_dict()

    def contains(outer: Any, inner: Any) -> None:
        if isinstance(inner, dict):
            for key, value in inner.items():
                contains(outer[key], value)
        elif isinstance(inner, list):
            assert len(outer) == len(inner)
            for pair in zip(outer, inner, strict=True):
                contains(*pair)
        else:
            assert outer == inner

    contains(pinned, given.to_json_dict())
    assert "vendor" not in pinned["cpu"]
    assert "controller" not in pinned


def test_given_addresses_are_passed_over() -> None:
    config = MachineConfig.from_toml(
        '[rng]\naddress = "00:03.0"\n[display]\naddress = "00:14.0"\n'
        '[[controller]]\nbus = "virtio-serial"\nindex = 0\naddress = "00:01.0"\n'
        "[[nic]]\n[[nic]]\n"
    )
    pinned = pin(config, ROOT, seed=b"")
    assert [nic.address for nic in pinned.nics or ()] == ["00:04.0", "00:05.0"]
    assert [disk.address for disk in pinned.disks or ()] == ["00:15.0"]


def test_many_devices_get_functions_of_a_slot_and_then_an_error() -> None:
    many = "".join(f'[[disk]]\nid = "d{n}"\n' for n in range(64)) + "[[nic]]\n" * 32
    facts = [DiskFacts(f"d{n}", 512) for n in range(64)]
    pinned = pin(MachineConfig.from_toml(many), facts, seed=b"")
    places = [one.address for one in pinned.disks or ()]
    places += [one.address for one in pinned.nics or ()]
    assert len(set(places)) == 96
    ide = "".join(f'[[disk]]\nid = "d{n}"\nbus = "ide"\n' for n in range(5))
    with pytest.raises(UsageError, match="no free place on ide") as caught:
        pin(MachineConfig.from_toml(ide), facts[:5], seed=b"")
    assert caught.value.field == "disk[4]"


def test_identity_policies() -> None:
    """CFG-PIN-92."""
    given = MachineConfig.from_toml(
        'uuid = "12345678-9abc-8def-8123-456789abcdef"\n'
        '[[nic]]\nmac = "00:0c:29:00:00:01"\n[[nic]]\n'
        '[smbios.system]\nserial = "VMware-56 4d"\nfamily = "f"\n'
        '[[disk]]\nid = "root"\nwwn = "0x5000c50015ea71ac"\nserial = "S1"\n'
    )

    def facts(config: MachineConfig) -> tuple[Any, ...]:
        macs = [nic.mac for nic in config.nics or ()]
        disk = (config.disks or ())[0]
        return config.uuid, *macs, config.smbios.system.serial, disk.wwn

    keep = pin(given, ROOT, seed=b"s")
    derive = pin(given, ROOT, seed=b"s", identity="derive")
    new = [pin(given, ROOT, seed=b"s", identity="new") for _ in range(2)]
    assert facts(keep)[:2] == (given.uuid, "00:0c:29:00:00:01")
    assert facts(keep)[3:] == ("VMware-56 4d", "0x5000c50015ea71ac")
    assert facts(derive) == facts(pin(keep, ROOT, seed=b"s", identity="derive"))
    assert facts(derive)[3:] == (None, None)
    assert derive.smbios.system.family == "f"
    every = [facts(one)[n] for one in (keep, derive, *new) for n in range(3)]
    # "keep" derives what is not given from the same seed as "derive": the second card's address.
    assert len(set(every)) == len(every) - 1
    for one in (derive, *new):
        assert [nic.mac[:9] for nic in one.nics or () if nic.mac] == ["52:54:00:"] * 2
        assert one.uuid is not None
        assert one.uuid[14] == "8"


def test_images_and_listed_disks_are_brought_together() -> None:
    """CFG-PIN-93."""
    config = MachineConfig.from_toml(
        '[[disk]]\nid = "b"\n[[disk]]\nid = "drive"\nkind = "cdrom"\nempty = true\n'
    )
    facts = [DiskFacts("a", 512, "cdrom"), DiskFacts("b", 512)]
    disks = pin(config, facts, seed=b"").disks or ()
    assert [(one.id, one.kind, one.boot) for one in disks] == [
        ("b", "disk", 1),
        ("drive", "cdrom", None),
        ("a", "cdrom", None),
    ]
    with pytest.raises(UsageError, match="has no image") as caught:
        pin(config, facts[:1], seed=b"")
    assert "--disk b=PATH" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="has an image"):
        pin(config, [*facts, DiskFacts("drive", 512)], seed=b"")
    with pytest.raises(UsageError, match="same id"):
        pin(None, [facts[0], facts[0]], seed=b"")


def test_the_boot_disk_decides_the_firmware() -> None:
    facts = [DiskFacts("data", 512), DiskFacts("efi", 1 << 30, layout=UEFI_ONLY)]
    boot = MachineConfig.from_toml('[[disk]]\nid = "data"\n[[disk]]\nid = "efi"\nboot = 1\n')
    assert pin(boot, facts, seed=b"").firmware.kind == "uefi"
    assert pin(None, facts, seed=b"").firmware.kind == "bios"


@pytest.mark.parametrize("name", ["", "a/b", ".x", "a\nb", "x" * 129, "a\x1b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        pin(None, ROOT, seed=b"", name=name)


def test_the_name_of_the_call_replaces_the_configs() -> None:
    assert pin(MachineConfig(name="a"), ROOT, seed=b"", name="b").name == "b"
    assert pin(MachineConfig(name="a"), ROOT, seed=b"").name == "a"


def test_machine_id_vector_of_the_page() -> None:
    """CFG-ID-1."""
    config = pin(None, [DiskFacts("root", 0)], seed=b"vmpack")
    digest = "vmpack-content-v1:" + "0" * 64
    found = machine_id(config.observable(), [("root", digest)])
    assert f"machine-id `{found}`" in PAGE.replace("\n", " ")


def test_machine_id_depends_on_what_the_guest_sees_alone() -> None:
    """CFG-ID-1, CFG-ID-2."""
    seen = pin(None, ROOT, seed=b"", name="a").observable()
    disks = [("a", "d1"), ("b", "d2")]
    base = machine_id(seen, disks)
    assert machine_id(pin(None, ROOT, seed=b"", name="b").observable(), disks[::-1]) == base
    other = pin(None, ROOT, seed=b"x").observable()
    changed = [
        machine_id(other, disks),
        machine_id(seen, [("a", "d2"), ("b", "d1")]),
        machine_id(seen, disks[:1]),
        machine_id(seen, disks, nvram="00"),
        machine_id(seen, disks, tpm_state="00"),
    ]
    assert len({base, *changed}) == 6
