"""Reading a VMX: its text, and what each key becomes (``specs/hypervisors/vmware.md``)."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vmx import MACHINE, read_vmx, verdicts, vmx_text
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.hypervisors.vmware.syntax import encode, parse

NAME = "Büro"


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [("UTF-8", "utf-8"), ("windows-1252", "cp1252"), ("ISO-8859-1", "latin-1"), (None, "cp1252")],
)
def test_the_encoding_is_the_one_that_the_file_names(encoding: str | None, codec: str) -> None:
    """VMX-SYN-1, VMX-SYN-2; without a name UTF-8, otherwise the code page of old Windows hosts."""
    text = vmx_text(**{".encoding": encoding, "displayName": NAME}).decode()
    assert read_vmx(text.encode(codec)).config.name == NAME


@pytest.mark.parametrize(
    ("bom", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_a_byte_order_mark_decides(bom: bytes, codec: str) -> None:
    text = vmx_text(displayName=NAME).decode().replace("\n", "\r\n")
    assert read_vmx(bom + text.encode(codec)).config.name == NAME


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'ebcdic'") as caught:
        read_vmx(vmx_text(**{".encoding": "EBCDIC"}))
    assert caught.value.clause == "VMX-SYN-2"


def test_text_that_its_encoding_cannot_hold_is_damage() -> None:
    with pytest.raises(DamagedError) as caught:
        read_vmx(vmx_text() + b'annotation = "\xff"\n')
    assert caught.value.clause == "VMX-SYN-1"
    with pytest.raises(DamagedError, match="control characters"):
        read_vmx(vmx_text() + b"\0" * 512)


def test_lines_comments_quotes_and_escapes() -> None:
    """VMX-SYN-3, VMX-SYN-4."""
    vmx = parse(
        b'#!/usr/bin/vmware\n  # note\n\nmemSize=512\r\nA.b = "x |22y|22 |7C |0A z" # end\r'
        b'c = ""\nd =\ne = "|C3|BC |zz |"\n',
        path="vm.vmx",
    )
    assert dict(vmx) == {
        "memSize": "512",
        "A.b": 'x "y" | \n z',
        "c": "",
        "d": "",
        "e": "ü |zz |",
    }
    assert vmx.get("MEMSIZE") == "512"
    assert vmx.number("memsize") == 512


@pytest.mark.parametrize("line", ["nonsense", 'a = "x" "y"', '= "x"', 'a b = "c"', 'a = "x'])
def test_a_line_that_vmware_refuses_is_refused(line: str) -> None:
    with pytest.raises(DamagedError, match="line 19") as caught:
        read_vmx(vmx_text(line))
    assert caught.value.clause == "VMX-SYN-3"


def test_a_key_twice_is_refused_where_the_values_differ() -> None:
    """VMX-SYN-5: VMware says "already defined"; the same line twice does no harm."""
    assert read_vmx(vmx_text('DISPLAYNAME = "shop"')).config.name == "shop"
    with pytest.raises(DamagedError) as caught:
        read_vmx(vmx_text('DISPLAYNAME = "other"'))
    assert caught.value.clause == "VMX-SYN-5"


def test_a_flood_of_keys_is_refused() -> None:
    with pytest.raises(UnsafeError) as caught:
        read_vmx(vmx_text(*(f'k{number} = "1"' for number in range(20_000))))
    assert caught.value.clause == "VMX-SYN-6"


def test_what_has_no_key_of_a_machine_is_no_vmx() -> None:
    with pytest.raises(DamagedError) as caught:
        read_vmx(b'colour = "red"\n')
    assert caught.value.clause == "VMX-SYN-7"


@given(
    st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9.:]{0,9}\Z"), st.text(max_size=40), max_size=5)
)
def test_what_is_written_is_read_back(entries: dict[str, str]) -> None:
    """Any text at all, in any value. hostile: 43"""
    plain = {key: value.encode("utf-8", "replace").decode() for key, value in entries.items()}
    assert dict(parse(encode(plain), path="vm.vmx")) == {".encoding": "UTF-8", **plain}


@pytest.mark.parametrize(
    "key", ["encryption.keySafe", "encryption.data", "encryption.encryptedKey"]
)
def test_an_encrypted_machine_is_refused_by_name(key: str) -> None:
    with pytest.raises(UnsupportedError, match=key) as caught:
        read_vmx(vmx_text(f'{key} = "vmware:key/list/(pair/(phrase/x"'))
    assert caught.value.clause == "VMX-ENC-1"
    assert "Remove" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "disks", "guest"),
    [
        ("test-i-vmx-1.vmx", 21, ("linux", "rhel6")),
        ("test-i-vmx-4.vmx", 1, ("windows", "win7")),
    ],
)
def test_every_line_of_a_machine_of_vmwares_is_in_the_report(
    samples: Path, name: str, disks: int, guest: tuple[str, str]
) -> None:
    data = (samples / name).read_bytes()
    imported = read_vmx(data, name=name)
    fields = [item.field for item in imported.report.items]
    for key, _ in parse(data, path=name):
        assert fields.count(key) == 1, key
    config = imported.config
    assert len(imported.disks) == disks
    assert len(config.disks or ()) == disks + 1
    assert (config.guest_os.family, config.guest_os.id) == guest
    assert config.memory == 2 << 30
    assert config.ova.hardware == "vmx-08"
    assert all(item.detail for item in imported.report.items)
    # vmfs paths of the ISO and of the swap file stay behind.
    assert "/vmfs/" not in json.dumps(config.to_json_dict())


def test_the_first_sample_reads_as_the_machine_that_it_is(samples: Path) -> None:
    config = read_vmx((samples / "test-i-vmx-1.vmx").read_bytes()).config
    places = [
        (one.bus, one.controller, one.port) for one in config.disks or () if one.kind == "disk"
    ]
    first = [number for number in range(16) if number != 7]
    assert places == [
        *(("pvscsi", 0, number) for number in first),
        *(("pvscsi", 1, number) for number in range(6)),
    ]
    nics = config.nics or ()
    assert [(one.model, one.mac, one.network) for one in nics] == [
        ("vmxnet3", "00:0c:29:36:ef:31", "VM Network")
    ]
    # Hardware 8 shows SMBIOS 2.4, whose UUIDs are read byte by byte.
    assert config.uuid == "564d96af-e646-bd86-5c4d-654e7736ef31"
    carried = {one.key: one.value for one in config.verbatim["vmware"]}
    # The slot is what names the card in the guest (proxcenter-ui#554).
    assert carried["ethernet0.pciSlotNumber"] == "224"
    assert carried["svga.vramSize"] == "8388608"


@pytest.mark.parametrize(
    ("hardware", "found"),
    [
        ("12", "564d96af-e646-bd86-5c4d-654e7736ef31"),
        ("13", "af964d56-46e6-86bd-5c4d-654e7736ef31"),
    ],
)
def test_the_uuid_is_the_one_that_the_guest_reads(hardware: str, found: str) -> None:
    """VMX-UUID-1: from hardware 13 on SMBIOS 2.7, three fields little-endian (VMware KB 53609)."""
    assert read_vmx(vmx_text(**{"virtualHW.version": hardware})).config.uuid == found


@pytest.mark.parametrize(
    ("count", "per_socket", "cpu"),
    [("4", "2", (2, 2)), ("4", None, (4, 1)), (None, None, (1, 1)), ("6", "4", (6, 1)),
     ("x", "1", (1, 1))],
)  # fmt: skip
def test_processors(count: str | None, per_socket: str | None, cpu: tuple[int, int]) -> None:
    changes: dict[str, str | None] = {"numvcpus": count, "cpuid.coresPerSocket": per_socket}
    found = read_vmx(vmx_text(**changes)).config.cpu
    assert (found.sockets, found.cores) == cpu


@pytest.mark.parametrize(
    ("lines", "kind", "secure"),
    [
        ([], "bios", None),
        (['firmware = "efi"'], "uefi", False),
        (['firmware = "EFI"', 'uefi.secureBoot.enabled = "TRUE"'], "uefi", True),
        (['firmware = "efi"', 'uefi.secureBoot.enabled = "FALSE"'], "uefi", False),
    ],
)
def test_firmware_is_what_the_machine_has(lines: list[str], kind: str, secure: bool | None) -> None:
    """An EFI machine is never taken for a BIOS one (xen-orchestra#8162, cockpit#17330)."""
    firmware = read_vmx(vmx_text(*lines)).config.firmware
    assert (firmware.kind, firmware.secure_boot) == (kind, secure)


def test_secure_boot_has_no_ide_beside_it() -> None:
    lines = ['firmware = "efi"', 'uefi.secureBoot.enabled = "TRUE"', 'ide1:0.present = "TRUE"']
    lines += ['ide1:0.deviceType = "cdrom-raw"', 'ide1:0.fileName = "auto detect"']
    imported = read_vmx(vmx_text(*lines))
    assert [one.bus for one in imported.config.disks or ()] == ["pvscsi", "sata"]
    assert verdicts(imported)["ide1:0.deviceType"] == "approximated"


def test_nvram_of_vmwares_is_kept_for_vmware() -> None:
    """VMX-NVRAM-1 (packer-plugin-vsphere#95: NVRAM missing, no boot)."""
    lines = ['firmware = "efi"', 'nvram = "shop.nvram"']
    imported = read_vmx(vmx_text(*lines), {"shop.nvram": 8684})
    assert imported.blobs["vmware-nvram"].name == "shop.nvram"
    assert verdicts(imported)["nvram"] == "approximated"
    assert verdicts(read_vmx(vmx_text(*lines)))["nvram"] == "dropped"


def test_a_virtual_tpm_is_said_to_be_empty() -> None:
    imported = read_vmx(vmx_text('vtpm.present = "TRUE"', 'vtpm.ekCRT = "secret"'))
    assert imported.config.tpm is not None
    assert verdicts(imported)["vtpm.present"] == "approximated"
    assert verdicts(imported)["vtpm.ekCRT"] == "dropped"
    assert "secret" not in json.dumps(imported.config.to_json_dict())


@pytest.mark.parametrize(
    ("members", "lines", "running"),
    [
        ({}, [], False),
        ({"vm.vmx.lck/": 0}, [], True),
        ({"vm.vmx.lck/M1.lck": 20}, [], True),
        ({"vm.vmss": 1 << 20}, [], True),
        ({"vm.vmss": 1 << 20}, ['checkpoint.vmState = ""'], False),
        ({}, ['checkpoint.vmState = "vm-1.vmss"'], True),
        # Memory of a snapshot, not of a running machine.
        ({"vm-Snapshot1.vmem": 1 << 20}, [], False),
    ],
)
def test_a_machine_that_runs_or_sleeps_is_told(
    members: dict[str, int], lines: list[str], running: bool
) -> None:
    """VMX-RUN-1."""
    imported = read_vmx(vmx_text(*lines), members)
    assert imported.running is running
    assert bool(imported.running_hint) is running


def test_snapshots_are_not_dropped_without_a_word() -> None:
    """webvirtcloud#89."""
    listed = b'snapshot.numSnapshots = "2"\nsnapshot0.displayName = "before"\n'
    imported = read_vmx(vmx_text(), {"vm.vmsd": 60}, {"vm.vmsd": listed})
    [item] = [item for item in imported.report.items if item.field == "snapshots"]
    assert item.verdict.value == "dropped"
    assert "before" in item.detail
    broken = read_vmx(vmx_text(), {"vm.vmsd": 60}, {"vm.vmsd": b"\xff\0"})
    assert verdicts(broken)["snapshots"] == "dropped"


@pytest.mark.parametrize(
    ("kind", "family", "verdict"),
    [
        ("rhel9-64", ("linux", "rhel9"), "kept"),
        ("other-64", ("other", None), "kept"),
        ("windows17-64", ("windows", None), "approximated"),
        ("openbsd-64", ("bsd", None), "approximated"),
        ("beos", (None, None), "kept"),
    ],
)
def test_guest_operating_systems(kind: str, family: tuple[Any, Any], verdict: str) -> None:
    imported = read_vmx(vmx_text(guestOS=kind))
    guest = imported.config.guest_os
    assert (guest.family, guest.id) == family
    assert imported.report.items
    first = next(item for item in imported.report.items if item.field == "guestOS")
    assert first.verdict.value == verdict


def test_names_and_notes() -> None:
    imported = read_vmx(vmx_text('annotation = "one|0Atwo|07"', displayName="a/b"))
    assert (imported.config.name, imported.config.description) == ("a-b", "one\ntwo")
    carried = {one.key: one.value for one in imported.config.verbatim["vmware"]}
    assert carried["displayName"] == "a/b"
    unnamed = read_vmx(vmx_text(displayName=None), name="shop 7.vmx")
    assert unnamed.config.name == "shop 7"


def test_clocks() -> None:
    lines = ['rtc.diffFromUTC = "0"', 'rtc.startTime = "1700000000"']
    rtc = read_vmx(vmx_text(*lines)).config.rtc
    assert (rtc.clock, rtc.start) == ("utc", "2023-11-14T22:13:20")


def test_what_is_carried_is_bounded_as_a_config_is() -> None:
    """CFG-RULE-9: what would be too much is dropped by name, the rest stays."""
    lines = [f'guestinfo.k{number} = "{"x" * 8000}"' for number in range(200)]
    lines.append(f'guestinfo.long = "{"x" * 9000}"')
    imported = read_vmx(vmx_text(*lines))
    found = verdicts(imported)
    assert found["guestinfo.long"] == "dropped"
    assert found["guestinfo.k0"] == "kept"
    assert found["guestinfo.k199"] == "dropped"
    assert 100 < len(imported.config.verbatim["vmware"]) < 140


HOST = (
    "/vmfs/volumes/x/canary",
    "C:\\\\VMs\\\\canary",
    "\\\\\\\\.\\\\pipe\\\\canary",
    "../canary",
    "~/canary",
    "file:///canary",
    "[datastore1] canary/x.vmdk",
    "/dev/canary",
)


@pytest.mark.parametrize("value", HOST)
def test_no_path_of_a_host_gets_into_a_config(value: str) -> None:
    """CFG-FORM-4, VMX-HOST-1."""
    keys = ["scsi0:0.fileName", "nvram", "serial0.fileName", "ethernet0.vnet", "workingDir"]
    keys += ["sharedFolder0.hostPath", "floppy0.fileName", "ide1:0.fileName", "sched.swap.x"]
    changes: dict[str, str | None] = dict.fromkeys(keys, value.replace("\\\\", "\\"))
    changes |= {"ethernet0.connectionType": "custom", "serial0.present": "TRUE"}
    changes |= {"serial0.fileType": "pipe", "ide1:0.present": "TRUE"}
    imported = read_vmx(vmx_text('ide1:0.deviceType = "cdrom-image"', **changes))
    config = imported.config.to_json_dict()
    for disk in config["disk"]:
        disk.pop("id")
    for nic in config["nic"]:
        assert "/" not in nic.pop("network", "")
    assert "canary" not in json.dumps(config)


@given(
    st.dictionaries(st.sampled_from(sorted({*MACHINE, "scsi0:1.present", "ide1:0.fileName",
        "serial0.present", "bios.bootOrder", "rtc.startTime", "annotation", "firmware",
        "ethernet1.present", "nvme9:99.fileName", "scsi99:0.fileName"})),
        st.text(max_size=12) | st.sampled_from(["TRUE", "efi", "cdrom,hdd", "-1", "9" * 12])),
    st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4),
)  # fmt: skip
def test_whatever_the_values_only_vmpacks_errors_escape(
    changes: dict[str, str], more: dict[str, str]
) -> None:
    """hostile: 10"""
    data = encode({**MACHINE, **changes}) + "".join(f"{k}={v}\n" for k, v in more.items()).encode(
        "utf-8", "replace"
    )
    try:
        imported = read_vmx(data)
    except VmpackError:
        return
    fields = {item.field for item in imported.report.items}
    assert {key for key in changes if key in MACHINE} <= fields
