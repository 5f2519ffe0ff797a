"""Boot entries and Secure Boot in UEFI variables: as virt-firmware has them, and lies."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import write_bundle
from tests.support.disks import random_disk
from tests.support.nvram import boot_entry, ovmf, variable, with_boot_entry, with_variables
from tests.support.spec_tables import SPECS
from tests.support.tools import missing
from vmpack.cli.main import run
from vmpack.errors import DamagedError, VmpackError
from vmpack.machine import nvram_structs
from vmpack.machine.boot_entries import MAX_ENTRIES, SECURE_BOOT_ENABLE, firmware_state
from vmpack.machine.nvram import MAX_VARIABLES, parse

STORES = ["OVMF_VARS.fd", "OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd"]


def store(name: str) -> bytes:
    try:
        return ovmf(name)
    except OSError:
        missing("OVMF", "run `make setup`")


def option(description: str, *nodes: bytes, attributes: int = 1) -> bytes:
    """Data of a Boot#### variable."""
    path = b"".join(nodes) + b"\x7f\xff\x04\0"
    text = description.encode("utf-16-le") + b"\0\0"
    return struct.pack("<IH", attributes, len(path)) + text + path


def node(kind: int, sub: int, data: bytes = b"") -> bytes:
    return struct.pack("<BBH", kind, sub, 4 + len(data)) + data


def oracle(path: Path) -> dict[str, Any]:
    """The variables as virt-firmware reads them."""
    try:
        from virt.firmware.varstore import edk2
    except ImportError:
        missing("virt-firmware", "run `make setup`")
    found: dict[str, Any] = edk2.Edk2VarStore(str(path)).get_varlist()
    return found


@pytest.mark.parametrize("name", STORES)
def test_variables_are_those_that_virt_firmware_reads(name: str, tmp_path: Path) -> None:
    raw = store(name)
    path = tmp_path / "vars.fd"
    path.write_bytes(raw)
    ours = {one.name: (one.vendor, one.attributes, one.data) for one in parse(raw).variables}
    theirs = {key: (one.guid, one.attr, bytes(one.data)) for key, one in oracle(path).items()}
    assert ours == theirs


def test_boot_entries_are_those_that_virt_firmware_reads(tmp_path: Path) -> None:
    """NVR-BOOT-1: numbers, descriptions, and the nodes of their device paths."""
    from virt.firmware.efi import bootentry

    nodes = [node(2, 1, struct.pack("<II", 0x0A0341D0, 0)), node(1, 1, b"\x02\x1f")]
    raw = with_variables(
        store("OVMF_VARS_4M.fd"),
        variable("BootOrder", struct.pack("<3H", 0x42, 7, 0x99)),
        variable("Boot0007", option("Netz\u00f6", *nodes, node(3, 12, bytes(23)), attributes=9)),
        variable("Boot0042", boot_entry("debian", path=r"\EFI\debian\shimx64.efi")),
        variable("Boot0001", option("off", attributes=0)),
    )
    path = tmp_path / "vars.fd"
    path.write_bytes(raw)
    state = firmware_state(parse(raw))
    assert state.order == (0x42, 7, 0x99)
    assert [one.number for one in state.entries] == [0x42, 7, 1]
    assert [one.active for one in state.entries] == [True, True, False]
    theirs = oracle(path)
    for one in state.entries:
        entry = bootentry.BootEntry(data=theirs[f"Boot{one.number:04X}"].data)
        assert one.description == str(entry.title)
        assert len(entry.devicepath) == (one.path.count("/") + 1 if one.path else 0)
    debian = state.entries[0]
    assert (debian.file, debian.partition) == (r"\EFI\debian\shimx64.efi", (2048, 40 * 2048))


GUID = bytes(range(16))
TEXT = "03020100-0504-0706-0809-0A0B0C0D0E0F"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (node(2, 1, struct.pack("<II", 0x0A0341D0, 1)), "PciRoot(0x1)"),
        (node(2, 1, struct.pack("<II", 0x050141D0, 0)), "Acpi(0x050141D0,0x0)"),
        (node(1, 1, b"\x02\x1f"), "Pci(0x1F,0x2)"),
        (node(1, 4, GUID + b"more"), f"VenHw({TEXT})"),
        (node(3, 1, b"\1\0\0\0"), "Ata(1,0)"),
        (node(3, 2, b"\3\0\1\0"), "Scsi(0x3,0x1)"),
        (node(3, 5, b"\2\0"), "USB(0x2,0x0)"),
        (node(3, 11, bytes.fromhex("525400123456") + bytes(26) + b"\1"), "MAC(525400123456,0x1)"),
        (node(3, 18, b"\1\0\xff\xff\0\0"), "Sata(0x1,0xFFFF,0x0)"),
        (node(3, 23, b"\1\0\0\0" + bytes(range(8))), "NVMe(0x1,07-06-05-04-03-02-01-00)"),
        (node(3, 24, b"http://host/x.efi"), "Uri(http://host/x.efi)"),
        (node(4, 2, struct.pack("<IQQ", 1, 27, 1000)), "CDROM(0x1,0x1B,0x3E8)"),
        (
            node(4, 1, struct.pack("<IQQ", 2, 2048, 4096) + GUID + b"\2\2"),
            f"HD(2,GPT,{TEXT},0x800,0x1000)",
        ),
        (
            node(4, 1, struct.pack("<IQQ", 1, 63, 99) + b"\x78\x56\x34\x12" + bytes(12) + b"\1\1"),
            "HD(1,MBR,0x12345678,0x3F,0x63)",
        ),
        (node(4, 3, GUID), f"VenMedia({TEXT})"),
        (node(4, 4, "\\a\\b.efi\0".encode("utf-16-le")), "\\a\\b.efi"),
        (node(4, 6, GUID), f"FvFile({TEXT})"),
        (node(4, 7, GUID), f"Fv({TEXT})"),
        (node(3, 99, b"\xab\xcd"), "Path(3,99,ABCD)"),
        (node(1, 1, b"\x02"), "Path(1,1,02)"),
        (node(1, 1, b"\x02\x1f") + b"\x7f\x01\x04\0" + node(1, 1, b"\0\1"), "Pci(0x1F,0x2)"),
        (node(1, 1, b"\x02\x1f") + b"\x01\x01\x03\0", "Pci(0x1F,0x2)"),
        (node(1, 1, b"\x02\x1f") + b"\x01\x01\xff\xff", "Pci(0x1F,0x2)"),
        (node(3, 2, b"\0\0\0\0") * 99, "/".join(["Scsi(0x0,0x0)"] * 32)),
    ],
)
def test_device_paths_read_as_the_specification_writes_them(raw: bytes, text: str) -> None:
    """NVR-BOOT-2."""
    full = with_variables(store("OVMF_VARS_4M.fd"), variable("Boot0000", option("x", raw)))
    assert [one.path for one in firmware_state(parse(full)).entries] == [text]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0\0",
        struct.pack("<IH", 1, 0),
        struct.pack("<IH", 1, 0) + b"a",
        struct.pack("<IH", 1, 0) + b"a\0b",
        struct.pack("<IH", 1, 99) + b"a\0\0\0\x7f\xff\4\0",
    ],
)
def test_what_is_no_load_option_is_left_out(data: bytes) -> None:
    """NVR-BOOT-1. hostile: 9."""
    raw = with_variables(store("OVMF_VARS_4M.fd"), variable("Boot0000", data))
    assert firmware_state(parse(raw)).entries == ()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ([], (False, False)),
        ([variable("PK", b"key")], (True, True)),
        (
            [
                variable("PK", b"key"),
                variable("SecureBootEnable", b"\0", vendor=SECURE_BOOT_ENABLE),
            ],
            (False, True),
        ),
        (
            [
                variable("PK", b"key"),
                variable("SecureBootEnable", b"\1", vendor=SECURE_BOOT_ENABLE),
            ],
            (True, True),
        ),
        ([variable("PK", b"key", vendor=SECURE_BOOT_ENABLE)], (False, False)),
    ],
)
def test_secure_boot(variables: list[bytes], expected: tuple[bool, bool]) -> None:
    """NVR-BOOT-3."""
    state = firmware_state(parse(with_variables(store("OVMF_VARS_4M.fd"), *variables)))
    assert (state.secure_boot, state.has_keys) == expected


def test_the_stores_with_keys_have_secure_boot() -> None:
    assert firmware_state(parse(store("OVMF_VARS_4M.ms.fd"))).secure_boot


def test_counts_are_bounded() -> None:
    """NVR-BOOT-1, NVR-VAR-3. hostile: 6 and 7."""
    template = bytearray(store("OVMF_VARS_4M.fd"))
    entries = [variable(f"Boot{number:04X}", option("x")) for number in range(MAX_ENTRIES + 50)]
    raw = with_variables(bytes(template), variable("BootOrder", bytes(4000)), *entries)
    state = firmware_state(parse(raw))
    assert len(state.entries) == MAX_ENTRIES
    # A flash that QEMU would take, full of deleted variables without a name.
    size = 8 << 20
    struct.pack_into("<Q", template, 32, size)
    struct.pack_into("<H", template, 50, 0)
    header = struct.unpack_from("<H", template, 48)[0]
    total = sum(struct.unpack_from(f"<{header // 2}H", template)) & 0xFFFF
    struct.pack_into("<H", template, 50, -total & 0xFFFF)
    struct.pack_into("<I", template, header + 16, size - header)
    one = struct.pack("<HBBIQ16sIII16s", 0x55AA, 0x3C, 0, 0, 0, bytes(16), 0, 0, 0, bytes(16))
    full = (bytes(template[:100]) + one * (size // len(one) + 1))[:size]
    with pytest.raises(DamagedError) as caught:
        parse(full)
    assert caught.value.clause == "NVR-VAR-3"
    assert size // len(one) > MAX_VARIABLES


@given(st.integers(0, 2**32))
def test_mutated_stores_end_in_the_projects_own_errors(seed: int) -> None:
    """hostile: 10."""
    rng = random.Random(seed)
    raw = bytearray(with_boot_entry(store("OVMF_VARS_4M.fd"), "x"))
    for _ in range(rng.randrange(1, 20)):
        raw[rng.choice((rng.randrange(400), 72 + rng.randrange(300)))] = rng.randrange(256)
    try:
        firmware_state(parse(bytes(raw)))
    except VmpackError:
        return


def bundle_with(nvram: bytes, folder: Path) -> Path:
    random_disk(folder / "disk.raw", 1 << 16)
    return write_bundle(
        folder / "a.vmpack", [("root", folder / "disk.raw", 4096)], blobs={"nvram": nvram}
    )


def test_info_shows_what_the_firmware_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle's NVRAM in both forms of output; a name cannot break either. hostile: 11."""
    raw = with_boot_entry(
        store("OVMF_VARS_4M.ms.fd")[:100] + store("OVMF_VARS_4M.fd")[100:], "a\x1b[1m"
    )
    bundle = bundle_with(raw, tmp_path)
    assert run(["info", "--output", "json", str(bundle)]) == 0
    nvram = json.loads(capsys.readouterr().out)["nvram"]
    assert nvram["boot-order"] == ["Boot0042"]
    assert nvram["boot-entries"][0]["description"] == "a\x1b[1m"
    assert nvram["boot-entries"][0]["path"].endswith("/\\EFI\\BOOT\\BOOTX64.EFI")
    assert (nvram["secure-boot"], nvram["platform-key"]) == (False, False)
    assert run(["info", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "NVRAM: Secure Boot off, no platform key" in text
    assert "Boot0042" in text
    assert "\x1b" not in text


def test_info_of_a_broken_nvram_still_tells_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with(b"no variables" * 50, tmp_path)
    assert run(["info", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "NVRAM: no UEFI variables in it" in text
    assert "root" in text


STRUCTS = ["VOLUME", "STORE", "VARIABLE", "WORKSPACE", "WRITE", "LOAD_OPTION", "NODE", "HARD_DRIVE"]


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_table_is_the_struct(name: str) -> None:
    text = (SPECS / "nvram.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    offset, rows = 0, []
    for field in getattr(nvram_structs, name).subcons:
        rows.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    assert block.splitlines()[2:] == rows
