"""Hyper-V: what is read. Clauses: specs/hypervisors/hyperv.md."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.powershell import require_sound
from tests.support.spec_tables import SPECS, clauses
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.hyperv import HYPERVISOR, export_script
from vmpack.hypervisors.hyperv.read import read
from vmpack.ops.pack import pack
from vmpack.units import GiB, MiB

SECOND: dict[str, Any] = {
    "VmpackHyperV": 1,
    "Name": "Shop",
    "Notes": "Sells\r\nthings.",
    "State": "Off",
    "Generation": 2,
    "Version": "9.0",
    "AutomaticStartAction": "StartIfRunning",
    "AutomaticStartDelay": 30,
    "AutomaticStopAction": "Save",
    "CheckpointType": "Production",
    "Checkpoints": ["before the upgrade"],
    "Processor": {"Count": 4, "Reserve": 0, "Maximum": 100, "RelativeWeight": 100},
    "Memory": {
        "Startup": 2147483648,
        "DynamicMemoryEnabled": True,
        "Minimum": 536870912,
        "Maximum": 4294967296,
        "Buffer": 20,
        "Priority": 50,
    },
    "Firmware": {
        "SecureBoot": "On",
        "SecureBootTemplate": "MicrosoftUEFICertificateAuthority",
        "ConsoleMode": "Default",
        "PreferredNetworkBootProtocol": "IPv4",
        "BootOrder": [
            {"BootType": "File"},
            {
                "BootType": "Drive",
                "ControllerType": "SCSI",
                "ControllerNumber": 0,
                "ControllerLocation": 1,
            },
            {"BootType": "Network", "AdapterId": "Microsoft:1\\2"},
        ],
    },
    "Bios": None,
    "TpmEnabled": True,
    "Shielded": False,
    "BiosGuid": "{7FFEE066-9755-4950-9A16-4C94AC67AD00}",
    "BiosSerialNumber": "1981-9952",
    "BaseBoardSerialNumber": "1981-9953",
    "ChassisSerialNumber": "1981-9954",
    "ChassisAssetTag": "1981-9955",
    "HardDiskDrives": [
        {
            "Path": "C:\\VMs\\Shop\\data.vhdx",
            "ParentPaths": [],
            "DiskNumber": None,
            "ControllerType": "SCSI",
            "ControllerNumber": 0,
            "ControllerLocation": 2,
            "SupportPersistentReservations": False,
        },
        {
            "Path": "\\\\server\\share\\System Disk.vhdx",
            "ParentPaths": [],
            "DiskNumber": None,
            "ControllerType": "SCSI",
            "ControllerNumber": 0,
            "ControllerLocation": 1,
        },
        {"Path": None, "DiskNumber": 3, "ControllerType": "SCSI", "ControllerNumber": 1},
    ],
    "DvdDrives": {
        "Path": None,
        "ControllerType": "SCSI",
        "ControllerNumber": 0,
        "ControllerLocation": 0,
    },
    "NetworkAdapters": [
        {
            "Id": "Microsoft:1\\2",
            "Name": "Network Adapter",
            "MacAddress": "00155D0107DC",
            "DynamicMacAddressEnabled": False,
            "SwitchName": "LAN 1",
            "IsLegacy": False,
            "MacAddressSpoofing": "On",
            "AccessVlanId": 12,
        },
        {"Id": "b", "MacAddress": "000000000000", "SwitchName": None, "IsLegacy": False},
    ],
    "ComPorts": [{"Number": 1, "Connected": True}, {"Number": 2, "Connected": False}],
    "IntegrationServices": [{"Name": "Guest Service Interface", "Enabled": False}],
}
LEGACY = """<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
  <_55225880-49c0-4438-9ce2-5a01402fd8cb_>
    <ChannelInstanceGuid type="string">{b57a8519-55d4-47aa-be66-018ecb6260ff}</ChannelInstanceGuid>
    <Connection><AltSwitchName type="string">External</AltSwitchName></Connection>
    <FriendlyName type="string">Network Adapter</FriendlyName>
    <IsConnected type="bool">True</IsConnected>
    <MacAddress type="string">00-15-5D-01-07-DC</MacAddress>
    <MacAddressIsStatic type="bool">True</MacAddressIsStatic>
    <VDEVVersion type="integer">256</VDEVVersion>
  </_55225880-49c0-4438-9ce2-5a01402fd8cb_>
  <_6aaf0dea-2c2a-4e0b-8c3c-3d1a2f0f8d11_>
    <IsConnected type="bool">False</IsConnected>
    <MacAddress type="string">00-15-5D-01-07-DD</MacAddress>
    <VDEVVersion type="integer">256</VDEVVersion>
  </_6aaf0dea-2c2a-4e0b-8c3c-3d1a2f0f8d11_>
  <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
    <VDEVVersion type="integer">1280</VDEVVersion>
    <controller0>
      <drive0><pathname type="string">D:\\vm\\system.vhd</pathname>
        <type type="string">VHD</type></drive0>
      <drive1><pathname type="string"></pathname><type type="string">NONE</type></drive1>
    </controller0>
    <controller1>
      <drive0><pathname type="string"></pathname><type type="string">ISO</type></drive0>
    </controller1>
  </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <_8f0d2762-0b00-4e04-af4f-19010527cb93_>
    <controller0><drive0><pathname type="string"/><type type="string">VFD</type></drive0>
    </controller0>
  </_8f0d2762-0b00-4e04-af4f-19010527cb93_>
  <_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>
    <base_board><serial_number type="string">1-2</serial_number></base_board>
    <bios_guid type="string">{7FFEE066-9755-4950-9A16-4C94AC67AD00}</bios_guid>
    <boot>
      <device0 type="string">Optical</device0>
      <device1 type="string">HardDrive</device1>
      <device2 type="string">Network</device2>
      <device3 type="string">Floppy</device3>
    </boot>
  </_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>
  <_d7a36e9b-9256-4f0d-be2c-3a13887f7b03_>
    <ChannelInstanceGuid type="string">{125506a8-a651-4852-87ad-3e7a29dd07fa}</ChannelInstanceGuid>
    <VDEVVersion type="integer">256</VDEVVersion>
    <controller0>
      <drive3><pathname type="string">D:\\vm\\data.vhd</pathname>
        <type type="string">VHD</type></drive3>
    </controller0>
  </_d7a36e9b-9256-4f0d-be2c-3a13887f7b03_>
  <global_settings>
    <snapshots><list><size type="integer">1</size></list></snapshots>
  </global_settings>
  <manifest>
    <size type="integer">1</size>
    <vdev001><instance type="string">55225880-49C0-4438-9CE2-5A01402FD8CB</instance></vdev001>
  </manifest>
  <properties>
    <name type="string">old shop</name>
    <notes type="string">n</notes>
    <subtype type="integer">0</subtype>
    <type_id type="string">Virtual Machines</type_id>
  </properties>
  <settings>
    <memory><bank><size type="integer">1024</size></bank></memory>
    <processors><count type="integer">2</count></processors>
  </settings>
</configuration>
"""


def parsed(data: dict[str, Any]) -> Imported:
    return read(ConfigSource("machine.json", json.dumps(data).encode()))


def report_of(imported: Imported) -> dict[str, tuple[str, str]]:
    return {one.field: (one.verdict.value, one.detail) for one in imported.report.items}


def test_a_machine_of_generation_2() -> None:
    """HYPERV-READ-2, HYPERV-READ-3."""
    found = parsed(SECOND)
    config = found.config
    assert (config.name, config.description) == ("Shop", "Sells\nthings.")
    assert (config.hyperv_generation, config.firmware.kind) == (2, "uefi")
    assert config.firmware.secure_boot is True
    assert config.tpm is not None
    assert (config.memory, config.cpu.cores) == (2 * GiB, 4)
    assert config.uuid == "7ffee066-9755-4950-9a16-4c94ac67ad00"
    assert config.smbios.chassis.asset == "1981-9955"
    disks = config.disks or ()
    assert [one.id for one in disks] == ["data", "system-disk", "scsi0-0"]
    assert (disks[2].kind, disks[2].empty, disks[2].bus) == ("cdrom", True, "sata")
    assert [one.boot for one in disks] == [None, 1, None]
    nics = config.nics or ()
    assert (nics[0].mac, nics[0].network, nics[0].boot) == ("00:15:5d:01:07:dc", "LAN 1", 2)
    assert (nics[1].mac, nics[1].network) == (None, "none")
    assert [one.port for one in config.serials or ()] == [0]
    assert found.disks["data"].format == "vhdx"
    said = report_of(found)
    assert said["HardDiskDrives[2]"][0] == "dropped"
    assert said["Checkpoints: before the upgrade"][0] == "dropped"
    assert said["TPM state"][0] == said["UEFI variables"][0] == "dropped"
    text = json.dumps(config.to_json_dict())
    assert "VMs" not in text
    assert "server" not in text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_a_config_of_2012(encoding: str) -> None:
    """HYPERV-XML-1, HYPERV-XML-2."""
    # note: Hyper-V generation 1 or 2 from the firmware (vagrant#6372)
    data = LEGACY.replace("UTF-16", encoding.upper()).encode(encoding)
    assert HYPERVISOR.recognise is not None
    assert HYPERVISOR.recognise("A1.xml", data[:65536])
    found = read(ConfigSource("A1.xml", data))
    config = found.config
    assert (config.name, config.hyperv_generation, config.firmware.kind) == ("old shop", 1, "bios")
    assert (config.memory, config.cpu.cores) == (GiB, 2)
    disks = {one.id: one for one in config.disks or ()}
    assert (disks["system"].bus, disks["system"].port, disks["system"].unit) == ("ide", 0, 0)
    assert (disks["ide1-0"].kind, disks["ide1-0"].empty, disks["ide1-0"].port) == ("cdrom", True, 1)
    assert disks["data"].bus == "sata"
    assert {one.boot: one.id for one in disks.values() if one.boot} == {1: "ide1-0", 2: "system"}
    nics = config.nics or ()
    assert (nics[0].mac, nics[0].model, nics[0].network) == ("00:15:5d:01:07:dc", None, "External")
    assert (nics[1].model, nics[1].network, nics[1].boot) == ("tulip", "none", 3)
    assert config.smbios.baseboard.serial == "1-2"
    assert report_of(found)["Checkpoints: checkpoint 1"][0] == "dropped"


@pytest.mark.parametrize("name", ["A1.vmcx", "B.VMRS", "c.vmgs"])
def test_binary_configs_are_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    """HYPERV-READ-1."""
    # note: PowerShell, not VMCX, is how Hyper-V machines are moved by script
    path = tmp_path / name
    path.write_bytes(b"\x01\x02\x03\x00" * 5000)
    with pytest.raises(UnsupportedError, match="binary config of Hyper-V") as caught:
        pack([path], tmp_path / "x.vmpack")
    assert "python -m vmpack.hypervisors.hyperv" in str(caught.value.hint)


def test_an_export_of_2008() -> None:
    """HYPERV-XML-3."""
    data = b'<DECLARATIONS><DECLGROUP><INSTANCE CLASSNAME="Msvm_X"/></DECLGROUP></DECLARATIONS>'
    assert HYPERVISOR.recognise is not None
    assert HYPERVISOR.recognise("x.exp", data)
    with pytest.raises(UnsupportedError, match="CIM-XML"):
        read(ConfigSource("x.exp", data))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", DamagedError),
        (b'{"VmpackHyperV": 2}', UnsupportedError),
        (b"[1]", VmpackError),
        (b'{"VmpackHyperV": 1, "a": ' + b"[" * 100000, DamagedError),
        (b'<!DOCTYPE x [<!ENTITY e "x">]><configuration>&e;</configuration>', UnsafeError),
        (b"<configuration/>", DamagedError),
        (b"<configuration>" + b"<a>" * 100, VmpackError),
    ],
)
def test_what_is_no_config(data: bytes, error: type[VmpackError]) -> None:
    # hostile: 42
    with pytest.raises(error):
        read(ConfigSource("machine.json", data))


def test_a_running_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(SECOND | {"State": "Running"}))
    with pytest.raises(UnsafeError, match="is running"):
        pack([path], tmp_path / "x.vmpack")


def test_packed_with_its_disks_beside_it(tmp_path: Path) -> None:
    """HYPERV-READ-4."""
    from vmpack.ops.convert import convert

    contents = {"data": disk_bytes(2 * MiB, seed=1), "System Disk": disk_bytes(MiB, seed=2)}
    path = tmp_path / "machine.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(SECOND).encode())
    with pytest.raises(UsageError, match="not beside the config"):
        pack([path], tmp_path / "x.vmpack")
    for name, content in contents.items():
        raw = write_sparse(tmp_path / "raw.raw", content)
        convert(raw, tmp_path / f"{name}.vhdx", output_format="vhdx")
        raw.unlink()
    pack([path], tmp_path / "x.vmpack")
    with Bundle.open(tmp_path / "x.vmpack") as bundle:
        for disk_id, name in (("data", "data"), ("system-disk", "System Disk")):
            disk = bundle.disk(disk_id)
            assert disk.read(0, disk.virtual_size) == contents[name]


MUTATIONS: list[Any] = [
    None,
    0,
    -1,
    1 << 70,
    "",
    "x" * 10000,
    [],
    {},
    [None],
    [[]],
    True,
    1.5,
    "\x00\x1b[2J",
]


def test_any_value_anywhere(tmp_path: Path) -> None:
    # hostile: 10
    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = [(*at, key) for key, _ in items]
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(one, (dict, list)):
                found += paths(one, (*at, key))
        return found

    for path in paths(SECOND):
        for value in MUTATIONS:
            data = copy.deepcopy(SECOND)
            target: Any = data
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = value
            try:
                parsed(data)
            except VmpackError:
                continue


def test_the_script_that_describes_a_machine() -> None:
    """HYPERV-READ-5: it is sound, it is printed, and what it writes is what is read."""
    script = export_script()
    require_sound(script.encode())
    printed = subprocess.run(
        [sys.executable, "-m", "vmpack.hypervisors.hyperv"], check=True, capture_output=True
    ).stdout
    assert printed.decode() == script
    for key in SECOND:
        assert f"    {key} " in script, key
    assert "export-hyperv.ps1" in (SPECS / "hypervisors" / "hyperv.md").read_text()


def test_registered() -> None:
    assert hypervisors.get("hyperv") is HYPERVISOR


def test_every_clause_is_tested() -> None:
    text = "".join(one.read_text() for one in Path(__file__).parent.glob("test_hv_hyperv*.py"))
    assert {one for one in clauses("hypervisors/hyperv.md") if one not in text} == set()
