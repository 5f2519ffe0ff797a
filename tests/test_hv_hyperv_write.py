"""Hyper-V: what is written. Clauses: specs/hypervisors/hyperv.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.powershell import require_sound, strings
from tests.support.proxmox import machine
from tests.test_hv_hyperv import SECOND, parsed
from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import Machine, WrittenDisk
from vmpack.hypervisors.hyperv.powershell import quoted
from vmpack.hypervisors.hyperv.write import plan
from vmpack.machine import MachineConfig

NASTY = "a'b\u2018c\u2019\u201a\u201b\"d `e $(f) $g ; & | < > @{} # %h -x\u96ea"


def script(made: Machine) -> str:
    planned = plan(made)
    written = {one.disk: WrittenDisk(1) for one in planned.disks}
    files = {one.name: one.data for one in planned.render(written)}
    data = files["import-hyperv.ps1"]
    assert data.startswith(b"\xef\xbb\xbf#Requires")
    assert b"\n" not in data.replace(b"\r\n", b"")
    require_sound(data)
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def test_generation_2() -> None:
    """HYPERV-WRITE-2, HYPERV-WRITE-5, HYPERV-WRITE-6, HYPERV-WRITE-7."""
    # note: Hyper-V refuses VHDX files with the sparse attribute (vagrant#11118, packer#9922)
    text = script(
        machine(
            {
                "name": "shop",
                "memory": "2G",
                "guest-os": {"family": "linux"},
                "firmware": {"kind": "uefi", "secure-boot": True},
                "tpm": {},
                "uuid": "6e1d8a9c-3b6f-4bd4-9d0e-112233445566",
                "cpu": {"sockets": 2, "cores": 2},
                "disk": [
                    {"id": "root", "bus": "virtio-blk", "boot": 1},
                    {"id": "cd", "bus": "sata", "kind": "cdrom", "empty": True, "boot": 3},
                ],
                "nic": [
                    {"mac": "52:54:00:12:34:56", "network": "LAN 1", "boot": 2},
                    {"network": "none"},
                ],
            }
        )
    )
    for line in (
        "$vm = New-VM -Name 'shop' -Generation 2 -MemoryStartupBytes 2147483648 -NoVHD",
        "Set-VMProcessor -VM $vm -Count 4",
        (
            "Set-VMFirmware -VM $vm -EnableSecureBoot On"
            " -SecureBootTemplate 'MicrosoftUEFICertificateAuthority'"
        ),
        "Enable-VMTPM -VM $vm",
        (
            "$disk0 = Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0"
            " -ControllerLocation 0 -Path (Join-Path $Folder 'root.vhdx') -Passthru"
        ),
        "$disk1 = Add-VMDvdDrive -VM $vm -ControllerNumber 0 -ControllerLocation 1 -Passthru",
        (
            "$nic0 = Add-VMNetworkAdapter -VM $vm -Name 'net0' -StaticMacAddress '525400123456'"
            " -IsLegacy $false -Passthru"
        ),
        "Connect-Adapter $nic0 'LAN 1'",
        "Set-VMFirmware -VM $vm -BootOrder $disk0, $nic0, $disk1",
        "$settings.BIOSGUID = '{6E1D8A9C-3B6F-4BD4-9D0E-112233445566}'",
    ):
        assert line in text.splitlines(), line
    assert "Connect-Adapter $nic1" not in text
    assert "fsutil.exe sparse setflag" in text


def test_generation_1() -> None:
    """HYPERV-WRITE-2: the boot disk where a BIOS looks for it."""
    # note: Hyper-V generation 1 or 2 from the firmware (vagrant#6372)
    text = script(
        machine(
            {
                "firmware": {"kind": "bios"},
                "machine": "pc-i440fx-7.2",
                "disk": [
                    {"id": "data", "bus": "virtio-scsi"},
                    {"id": "root", "bus": "virtio-blk", "boot": 1},
                    {"id": "cd", "bus": "ide", "kind": "cdrom", "port": 0, "unit": 0},
                ],
                "nic": [{"model": "tulip"}],
            }
        )
    )
    assert "-Generation 1 " in text
    assert "-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0 -Path" in text
    assert "$disk2 = Add-VMDvdDrive -VM $vm -ControllerNumber 1 -ControllerLocation 0" in text
    assert "$disk0 = Add-VMHardDiskDrive -VM $vm -ControllerType SCSI" in text
    assert "-IsLegacy $true" in text
    assert "Set-VMBios -VM $vm -StartupOrder 'IDE', 'CD'" in text
    assert "Set-VMFirmware" not in text


def test_text_is_text() -> None:
    """HYPERV-WRITE-1: in every field that has text."""
    # hostile: 43
    made = machine(
        {
            "name": NASTY,
            "description": f"{NASTY}\nsecond",
            "smbios": {
                "system": {"serial": "a'b$(c)`d"},
                "baseboard": {"serial": "'; Remove-VM *"},
                "chassis": {"asset": "''", "serial": "'"},
            },
            "disk": [{"id": "root", "bus": "sata"}],
            "nic": [{"network": "a b.c_d-e"}],
        }
    )
    text = script(made)
    found = strings(text.encode())
    undoubled = [re.sub("([\u2018\u2019\u201a\u201b])\\1", r"\1", one) for one in found]
    for value in (NASTY, f"{NASTY}\nsecond", "a'b$(c)`d", "'; Remove-VM *", "''", "'", "a b.c_d-e"):
        assert value in undoubled, value


@pytest.mark.parametrize("quote", "'\u2018\u2019\u201a\u201b")
def test_every_quote_is_doubled(quote: str) -> None:
    """HYPERV-WRITE-1."""
    assert quoted(f"a{quote}b") == f"'a{quote * 2}b'"


def test_there_and_back() -> None:
    """HYPERV-WRITE-4: what Hyper-V said is given back, and read again."""
    first = parsed(SECOND).config
    data = first.to_json_dict()
    made = machine(data)
    text = script(made)
    for line in (
        "Set-VM -VM $vm -AutomaticStartAction StartIfRunning",
        "Set-VM -VM $vm -AutomaticStartDelay 30",
        "Set-VMMemory -VM $vm -DynamicMemoryEnabled $true",
        "Set-VMMemory -VM $vm -MinimumBytes 536870912",
        "Set-VMNetworkAdapter -VMNetworkAdapter $nic0 -MacAddressSpoofing On",
        "Set-VMNetworkAdapterVlan -VMNetworkAdapter $nic0 -Access -VlanId 12",
        "    Where-Object { $_.Name -eq 'Guest Service Interface' } |",
        "    Disable-VMIntegrationService",
    ):
        assert line in text.splitlines(), line
    assert "-ControllerNumber 0 -ControllerLocation 2 -Path (Join-Path $Folder 'data.vhdx')" in text
    planned = plan(made)
    files = {one.name: one.data for one in planned.render({})}
    again = parsed(json.loads(files["machine.json"])).config
    for name in ("name", "description", "uuid", "memory", "firmware", "hyperv_generation", "tpm"):
        mine = getattr(made.config, name)
        theirs = getattr(again, name)
        assert theirs == mine or name == "tpm", name
    assert [one.id for one in again.disks or ()] == [one.id for one in made.config.disks or ()]
    kept = {one.key for one in again.verbatim["hyperv"]}
    assert {"AutomaticStartAction", "net0.AccessVlanId", "Memory.Minimum"} <= kept


EVIL = {
    "AutomaticStartAction": "Nothing; Remove-Item C:\\",
    "AutomaticStartDelay": "1; Stop-Computer",
    "Memory.Buffer": "$(evil)",
    "net0.MacAddressSpoofing": "On; evil",
    "net0.AccessVlanId": "1; evil",
    "root.place": "SCSI 0 0; evil",
    "Firmware.SecureBootTemplate": "'; evil",
    "Firmware.ConsoleMode": "evil evil",
    "Processor.Evil": "evil",
    "IntegrationServices.x": "evil",
}


@pytest.mark.parametrize("key", EVIL)
def test_a_strangers_bundle_cannot_run_commands(key: str) -> None:
    """HYPERV-WRITE-4."""
    # hostile: 43, 46
    made = machine({"firmware": {"kind": "uefi"}, "disk": [{"id": "root", "bus": "sata"}]})
    fields = [{"key": key, "value": EVIL[key]}]
    data = made.config.to_json_dict() | {"verbatim": {"hyperv": fields}}
    evil = Machine(MachineConfig.model_validate(data, context={"person": True}), made.disks)
    assert script(evil) in (script(made),)


def test_every_field_is_accounted_for() -> None:
    """HYPERV-WRITE-3."""
    config: dict[str, Any] = {
        "disk": [
            {"id": "a", "bus": "nvme"},
            {"id": "b", "bus": "sata", "wwn": "0x5000c50015ea71aa"},
        ],
        "nic": [{"mtu": 1400}],
        "serial": [{"port": 0}, {"port": 3}],
        "ova": {"product": "x"},
        "rtc": {"clock": "utc"},
        "verify": {"check": [{"wait-for": "login"}]},
    }
    names = [one.field for one in plan(machine(config)).report.items]
    assert len(names) == len(set(names))
    assert {"disk[1].wwn", "nic[0].mtu", "serial[1].port", "ova.product", "rtc.clock"} <= set(names)


def test_too_many_devices() -> None:
    with pytest.raises(UnsupportedError, match="network cards"):
        plan(machine({"disk": [{"id": "a", "bus": "sata"}], "nic": [{} for _ in range(9)]}))
    drives = [{"id": f"d{n}", "bus": "sata", "kind": "cdrom", "empty": True} for n in range(5)]
    with pytest.raises(UnsupportedError, match="no place is left"):
        plan(machine({"firmware": {"kind": "bios"}, "disk": drives}))


def test_the_clauses_are_tested() -> None:
    assert "HYPERV-WRITE-1" in Path(__file__).read_text()
