"""UTM: machines read and written. Clauses: specs/hypervisors/utm.md."""

from __future__ import annotations

import copy
import plistlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.hv import RICH, UEFI, bundle_of, read_back, written_for
from vmpack import hypervisors
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.report import Verdict
from vmpack.hypervisors.utm import HYPERVISOR
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle

MIB = 1 << 20
MACHINE: dict[str, Any] = {
    "Backend": "QEMU",
    "ConfigurationVersion": 4,
    "Information": {
        "Name": "shop",
        "Icon": "linux",
        "IconCustom": False,
        "Notes": "Sells\nthings.",
        "UUID": "12345678-9ABC-4DEF-8123-456789ABCDEF",
    },
    "System": {
        "Architecture": "x86_64",
        "Target": "q35",
        "CPU": "Nehalem",
        "CPUFlagsAdd": ["aes"],
        "CPUFlagsRemove": ["x2apic"],
        "CPUCount": 4,
        "ForceMulticore": True,
        "MemorySize": 2048,
        "JITCacheSize": 0,
    },
    "QEMU": {
        "DebugLog": False,
        "UEFIBoot": True,
        "RNGDevice": True,
        "BalloonDevice": True,
        "TPMDevice": False,
        "Hypervisor": True,
        "TSO": False,
        "RTCLocalTime": False,
        "PS2Controller": False,
        "AdditionalArguments": [],
    },
    "Input": {"UsbBusSupport": "3.0", "UsbSharing": True, "MaximumUsbShare": 3},
    "Sharing": {
        "DirectoryShareMode": "WebDAV",
        "DirectoryShareReadOnly": False,
        "ClipboardSharing": True,
    },
    "Display": [
        {
            "Hardware": "virtio-vga-gl",
            "DynamicResolution": True,
            "NativeResolution": False,
            "UpscalingFilter": "Nearest",
            "DownscalingFilter": "Linear",
        }
    ],
    "Drive": [
        {
            "Identifier": "0E5E5C7F-9C7B-4F63-9F6E-6E6C63C7A7E5",
            "ImageName": "root.img",
            "ImageType": "Disk",
            "Interface": "VirtIO",
            "InterfaceVersion": 1,
            "ReadOnly": False,
        },
        {
            "Identifier": "1E5E5C7F-9C7B-4F63-9F6E-6E6C63C7A7E5",
            "ImageType": "CD",
            "Interface": "IDE",
            "InterfaceVersion": 1,
            "ReadOnly": True,
        },
    ],
    "Network": [
        {
            "Mode": "Shared",
            "Hardware": "virtio-net-pci",
            "MacAddress": "52:54:00:AA:BB:CC",
            "IsolateFromHost": False,
            "PortForward": [],
        }
    ],
    "Serial": [{"Mode": "Terminal", "Target": "Auto", "Terminal": {"FontSize": 12}}],
    "Sound": [{"Hardware": "intel-hda"}],
}


def read(machine: dict[str, Any], fmt: plistlib.PlistFormat = plistlib.FMT_XML) -> Imported:
    data = plistlib.dumps(machine, fmt=fmt)
    known = hypervisors.recognise("config.plist", data)
    assert known is HYPERVISOR
    assert known.read is not None
    return known.read(ConfigSource("config.plist", data))


def changed(*path: str | int, value: object) -> dict[str, Any]:
    made = copy.deepcopy(MACHINE)
    at: Any = made
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return made


@pytest.mark.parametrize("fmt", list(plistlib.PlistFormat))
def test_a_whole_machine_is_read(fmt: plistlib.PlistFormat) -> None:
    """UTM-READ-1: XML and binary property lists."""
    found = read(MACHINE, fmt)
    config = found.config
    assert (config.name, config.description) == ("shop", "Sells\nthings.")
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert (config.cpu.cores, config.cpu.model) == (4, "Nehalem-v1")
    assert config.cpu.flags == ("+aes", "-x2apic")
    assert config.memory == 2048 * MIB
    assert config.machine == "pc-q35-7.2"
    assert config.firmware.kind == "uefi"
    assert found.blobs["nvram"].name == "Data/efi_vars.fd"
    disks = config.disks or ()
    assert [(one.id, one.bus, one.boot, one.empty) for one in disks] == [
        ("root", "virtio-blk", 1, None),
        ("drive1", "sata", 2, True),
    ]
    assert found.disks["root"].name == "Data/root.img"
    nics = config.nics or ()
    assert [(one.mac, one.network) for one in nics] == [("52:54:00:aa:bb:cc", "shared")]
    assert config.display.model == "virtio-vga"
    assert config.input == "usb-tablet"
    assert len(config.serials or ()) == 1
    carried = {one.key: one.value for one in config.verbatim["utm"]}
    assert carried["drive(root)/Identifier"] == '"0E5E5C7F-9C7B-4F63-9F6E-6E6C63C7A7E5"'
    assert carried["Sound"] == '[{"Hardware":"intel-hda"}]'


def machine_in(folder: Path, machine: dict[str, Any]) -> Path:
    """NAME.utm with its disk and variables."""
    (folder / "Data").mkdir(parents=True)
    random_disk(folder / "Data" / "root.img", MIB)
    (folder / "config.plist").write_bytes(plistlib.dumps(machine))
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    """UTM-WRITE-1: the same property list comes out, but for what pins say more exactly."""
    folder = machine_in(tmp_path / "shop.utm", MACHINE)
    pack([folder], tmp_path / "a.vmpack")
    _, source = written_for("utm", tmp_path / "a.vmpack", tmp_path / "out")
    again = plistlib.loads((tmp_path / "out" / "shop.utm" / "config.plist").read_bytes())
    expected = copy.deepcopy(MACHINE)
    expected["Drive"][0]["ImageName"] = "root.qcow2"
    expected["System"] |= {"Target": "pc-q35-7.2", "CPU": "Nehalem-v1"}
    assert again == expected
    imported, digests = read_back(source)
    assert list(digests) == ["root"]
    assert imported.config.uuid == "12345678-9abc-4def-8123-456789abcdef"


@pytest.mark.parametrize("toml", [RICH, UEFI])
def test_what_utm_needs_is_there(tmp_path: Path, toml: str) -> None:
    """UTM-WRITE-2: every key that UTM's decoder asks for; the same bytes again."""
    bundle = bundle_of(tmp_path, toml)
    result, source = written_for("utm", bundle, tmp_path / "out")
    path = tmp_path / "out" / "shop.utm" / "config.plist"
    found = plistlib.loads(path.read_bytes())
    for key, value in MACHINE.items():
        assert type(found[key]) is type(value)
    for key in ("System", "Input", "Sharing"):
        assert set(found[key]) == set(MACHINE[key])
    assert set(MACHINE["QEMU"]) - set(found["QEMU"]) == {"TSO"}
    for key in ("Display", "Network", "Drive"):
        for one in found[key]:
            assert {*MACHINE[key][0]} - {*one} <= {"ImageName"}
    assert [one.get("ImageName") for one in found["Drive"]] == ["root.qcow2", "data.qcow2", None]
    assert result.instructions == ("open ./shop.utm",)
    imported, digests = read_back(source)
    assert set(digests) == {"root", "data"}
    assert [one.mac for one in imported.config.nics or ()] == [
        "52:54:00:12:34:56",
        "52:54:00:12:34:57",
    ]
    export_bundle(bundle, tmp_path / "again", "utm", verify=False)
    assert (tmp_path / "again" / "shop.utm" / "config.plist").read_bytes() == path.read_bytes()


def test_variables_go_along(tmp_path: Path) -> None:
    """NVRAM missing: no boot (packer-plugin-vsphere#95, vagrant-libvirt#1753)."""
    folder = machine_in(tmp_path / "shop.utm", MACHINE)
    variables = Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()
    (folder / "Data" / "efi_vars.fd").write_bytes(variables)
    pack([folder], tmp_path / "a.vmpack")
    export_bundle(tmp_path / "a.vmpack", tmp_path / "out", "utm", verify=False)
    assert (tmp_path / "out" / "shop.utm" / "Data" / "efi_vars.fd").read_bytes() == variables


def test_metacharacters_in_every_field(tmp_path: Path) -> None:
    # hostile: 43
    text = "a <b> & \"c\" 'd' ]]> $(x)"
    machine = changed("Information", value={**MACHINE["Information"], "Name": text, "Notes": text})
    machine["Drive"][0]["Extra"] = text
    folder = machine_in(tmp_path / "a.utm", machine)
    pack([folder], tmp_path / "a.vmpack")
    result = export_bundle(tmp_path / "a.vmpack", tmp_path / "out", "utm", verify=False)
    config = next(Path(one) for one in result.files if one.endswith("config.plist"))
    found = plistlib.loads(config.read_bytes())
    assert found["Information"]["Notes"] == text
    assert found["Drive"][0]["Extra"] == text


def test_other_backends_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="Apple"):
        read(changed("Backend", value="Apple"))
    with pytest.raises(UnsupportedError, match="ConfigurationVersion"):
        read(changed("ConfigurationVersion", value=2))
    with pytest.raises(UnsupportedError, match="aarch64"):
        read(changed("System", "Architecture", value="aarch64"))


def test_a_carried_argument_is_not_given_to_qemu(tmp_path: Path) -> None:
    """UTM-WRITE-3: a bundle of a stranger's chooses no arguments of a program."""
    machine = changed("QEMU", "AdditionalArguments", value=["-snapshot"])
    folder = machine_in(tmp_path / "shop.utm", machine)
    pack([folder], tmp_path / "a.vmpack")
    result = export_bundle(tmp_path / "a.vmpack", tmp_path / "out", "utm", verify=False)
    items: Any = result.report["items"]
    said = {one["field"]: one["verdict"] for one in items}
    assert said["QEMU/AdditionalArguments"] == "dropped"


ENTITY = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaa">]>
<plist version="1.0"><dict><key>a</key><string>&a;</string></dict></plist>"""


def bomb() -> bytes:
    value: list[object] = []
    for _ in range(24):
        value = [value, value]
    return plistlib.dumps({"a": value}, fmt=plistlib.FMT_BINARY)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (ENTITY, DamagedError),
        (b"bplist00", DamagedError),
        (b"bplist00" + bytes(64), DamagedError),
        (b"<plist><dict>", DamagedError),
        (b"<plist><array/></plist>", DamagedError),
        (b"<plist>" + b"<array>" * 100 + b"</array>" * 100 + b"</plist>", VmpackError),
        (b"<plist><dict><key>a</key><integer>x</integer></dict></plist>", DamagedError),
    ],
)
def test_hostile_lists(data: bytes, error: type[VmpackError]) -> None:
    """UTM-READ-2. hostile line 42 for property lists: entities are refused."""
    # hostile: 42
    assert HYPERVISOR.read is not None
    with pytest.raises(error):
        HYPERVISOR.read(ConfigSource("config.plist", data))


def test_a_list_that_stands_for_gigabytes() -> None:
    """UTM-READ-2: a binary list may refer to one object again and again."""
    assert HYPERVISOR.read is not None
    with pytest.raises(UnsafeError, match="values"):
        HYPERVISOR.read(ConfigSource("config.plist", bomb()))


def test_every_byte_of_a_binary_list() -> None:
    assert HYPERVISOR.read is not None
    data = plistlib.dumps(MACHINE, fmt=plistlib.FMT_BINARY)
    for index in range(len(data)):
        broken = bytearray(data)
        broken[index] ^= 0xFF
        with suppress(VmpackError):
            HYPERVISOR.read(ConfigSource("config.plist", bytes(broken)))


VALUES: tuple[Any, ...] = (7, "text", [], {}, True, [{}])


def test_every_value_may_be_of_any_type() -> None:
    def paths(value: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        found = [at] if at else []
        items = value.items() if isinstance(value, dict) else ()
        for key, one in [*items, *(enumerate(value) if isinstance(value, list) else ())]:
            found += paths(one, (*at, key))
        return found

    for path in paths(MACHINE):
        for value in VALUES:
            with suppress(VmpackError):
                read(changed(*path, value=value))


def test_the_ide_of_a_pc_is_ide() -> None:
    machine = changed("System", "Target", value="pc")
    machine["Drive"][0]["Interface"] = "IDE"
    config = read(machine).config
    assert config.machine == "pc-i440fx-7.2"
    assert [one.bus for one in config.disks or ()] == ["ide", "ide"]


def test_drives_that_vmpack_does_not_have() -> None:
    machine = copy.deepcopy(MACHINE)
    machine["Drive"] += [
        {"ImageType": "LinuxKernel", "Interface": "None", "ImageName": "vmlinuz"},
        {"ImageType": "Disk", "Interface": "USB", "ImageName": "usb.img"},
    ]
    found = read(machine)
    assert list(found.disks) == ["root", "usb"]
    said = {one.field: one.verdict for one in found.report.items}
    assert said["Drive[2]"] is Verdict.DROPPED
    assert said["Drive[3]"] is Verdict.APPROXIMATED
