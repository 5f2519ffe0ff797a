"""A machine for Hyper-V: VHDX files and a script. Profile: specs/hypervisors/hyperv.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.account import Account
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.hyperv.describe import DESCRIPTION, described_as, startup_order
from vmpack.hypervisors.hyperv.layout import Drive, lay_out
from vmpack.hypervisors.hyperv.powershell import boolean, document, quoted

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.machine.hardware import Nic

SCRIPT = "import-hyperv.ps1"
MAX_NICS, MAX_LEGACY_NICS = 8, 4
_HEAD = """\
#Requires -Version 5.1
#Requires -Modules Hyper-V
#Requires -RunAsAdministrator
# Makes the machine whose disks are beside this script; they are used where they are.
param(
    [string] $SwitchName = 'Default Switch',
    [string] $Folder = $PSScriptRoot
)
$ErrorActionPreference = 'Stop'
Set-StrictMode -Version Latest

# Hyper-V refuses disk files that have the attribute "sparse".
Get-ChildItem -LiteralPath $Folder -File |
    Where-Object { $_.Attributes -band [System.IO.FileAttributes]::SparseFile } |
    ForEach-Object { & fsutil.exe sparse setflag $_.FullName 0 }

function Connect-Adapter($Adapter, [string] $Wanted) {
    $known = @(Get-VMSwitch | ForEach-Object { $_.Name })
    foreach ($name in @($Wanted, $SwitchName)) {
        if ($known -contains $name) {
            Connect-VMNetworkAdapter -VMNetworkAdapter $Adapter -SwitchName $name
            return
        }
    }
    Write-Warning "no switch '$Wanted' or '$SwitchName': the adapter is not connected"
}
"""
_IDENTITY = """\
$filter = { $_.VirtualSystemIdentifier -eq [string] $vm.VMId -and
    $_.VirtualSystemType -eq 'Microsoft:Hyper-V:System:Realized' }
$space = 'root\\virtualization\\v2'
$settings = Get-CimInstance -Namespace $space -ClassName 'Msvm_VirtualSystemSettingData' |
    Where-Object $filter | Select-Object -First 1"""
_APPLY = """\
$serializer = [Microsoft.Management.Infrastructure.Serialization.CimSerializer]::Create()
$options = [Microsoft.Management.Infrastructure.Serialization.InstanceSerializationOptions]::None
$text = [System.Text.Encoding]::Unicode.GetString($serializer.Serialize($settings, $options))
$service = Get-CimInstance -Namespace $space -ClassName 'Msvm_VirtualSystemManagementService'
$null = Invoke-CimMethod -InputObject $service -MethodName 'ModifySystemSettings' `
    -Arguments @{ SystemSettings = $text }"""
_WHY = {
    "smbios": "Hyper-V has SMBIOS strings of its own",
    "ova": "of OVF packages",
    "controller": "Hyper-V makes the controllers itself",
    "display": "Hyper-V has one graphics card",
    "machine": "Hyper-V has one board for each generation",
    "rng": "Hyper-V gives its guests no device for that",
    "guest-agent": "Hyper-V's integration services do that",
    "pvpanic": "Hyper-V's guests report a panic through its VM bus",
}
_OWN = (
    *("controller", "display", "guest-agent", "input", "machine", "pvpanic", "rng", "rtc.clock"),
    *("smbios.bios", "smbios.system.manufacturer", "smbios.system.product"),
    *("smbios.system.version", "uuid", "watchdog"),
)
"""What every machine has there in one way, whatever it was before."""
_COUNT = re.compile(r"[0-9]{1,18}")
_WORD = re.compile(r"[A-Za-z]{1,40}")
_BOOLEAN = re.compile(r"[Tt]rue|[Ff]alse")
_GIVEN_BACK = {
    "AutomaticStartAction": ("Set-VM", "AutomaticStartAction", _WORD),
    "AutomaticStartDelay": ("Set-VM", "AutomaticStartDelay", _COUNT),
    "AutomaticStopAction": ("Set-VM", "AutomaticStopAction", _WORD),
    "CheckpointType": ("Set-VM", "CheckpointType", _WORD),
    "Processor.Reserve": ("Set-VMProcessor", "Reserve", _COUNT),
    "Processor.Maximum": ("Set-VMProcessor", "Maximum", _COUNT),
    "Processor.RelativeWeight": ("Set-VMProcessor", "RelativeWeight", _COUNT),
    "Processor.CompatibilityForMigrationEnabled": (
        *("Set-VMProcessor", "CompatibilityForMigrationEnabled", _BOOLEAN),
    ),
    "Processor.ExposeVirtualizationExtensions": (
        *("Set-VMProcessor", "ExposeVirtualizationExtensions", _BOOLEAN),
    ),
    "Memory.DynamicMemoryEnabled": ("Set-VMMemory", "DynamicMemoryEnabled", _BOOLEAN),
    "Memory.Minimum": ("Set-VMMemory", "MinimumBytes", _COUNT),
    "Memory.Maximum": ("Set-VMMemory", "MaximumBytes", _COUNT),
    "Memory.Buffer": ("Set-VMMemory", "Buffer", _COUNT),
    "Memory.Priority": ("Set-VMMemory", "Priority", _COUNT),
    "Firmware.ConsoleMode": ("Set-VMFirmware", "ConsoleMode", _WORD),
    "Firmware.PreferredNetworkBootProtocol": (
        *("Set-VMFirmware", "PreferredNetworkBootProtocol", _WORD),
    ),
}
"""Carried field -> command, its option, and what a value may be (HYPERV-WRITE-4)."""
_NIC_GIVEN_BACK = {"MacAddressSpoofing": _WORD, "DhcpGuard": _WORD, "RouterGuard": _WORD}
_TEMPLATES = {"MicrosoftWindows", "MicrosoftUEFICertificateAuthority", "OpenSourceShieldedVM"}


def plan(machine: Machine) -> Plan:
    """Plan the export. Raises :class:`UnsupportedError` for more devices than Hyper-V has."""
    config = machine.config
    account = Account("hyperv", config)
    carried = {one.key: one.value for one in config.verbatim.get("hyperv", ())}
    second = config.firmware.kind == "uefi"
    drives = lay_out(config, account, carried)
    lines = _HEAD.splitlines()
    lines += ["", *_machine(config, account, second)]
    lines += ["", *_firmware(config, account, carried, second)]
    lines += ["", *_disks(drives)]
    lines += ["", *_nics(config, account, carried, second)]
    lines += _serials(config, account)
    lines += ["", *_order(config, drives, second), "", *_identity(config, account)]
    lines += ["", *_carried(account, carried, second, {one.disk.id for one in drives})]
    lines += [f"Write-Output {quoted('the machine is there; start it with Start-VM')}"]
    for name in machine.blobs:
        account.report.dropped(name, "Hyper-V keeps its own, in a file of no documented format")
    report = account.finish(_WHY, "Hyper-V has one of its own, or none", _OWN)
    described = described_as(config, drives, carried, _GIVEN_BACK)
    files = (TextFile(SCRIPT, document(lines)), TextFile(DESCRIPTION, described))

    def render(_: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        return files

    return Plan(
        disks=[_disk_file(one) for one in drives if one.file],
        render=render,
        report=report,
        instructions=(
            "copy the folder to the Hyper-V host, then there, as administrator:",
            f"powershell -ExecutionPolicy Bypass -File .\\{SCRIPT} -SwitchName SWITCH",
        ),
    )


def _disk_file(drive: Drive) -> DiskFile:
    kind = "raw" if drive.disk.kind == "cdrom" else "vhdx"
    return DiskFile(drive.disk.id, drive.file, kind)


def _machine(config: MachineConfig, account: Account, second: bool) -> Iterator[str]:
    account.kept("name")
    account.kept("memory")
    account.kept("architecture")
    account.kept("firmware.kind", f"generation {2 if second else 1}")
    generation = "" if config.hyperv_generation == (2 if second else 1) else "as the firmware is"
    account.said("hyperv-generation", generation)
    yield (
        f"$vm = New-VM -Name {quoted(config.name or 'machine')} -Generation {2 if second else 1}"
        f" -MemoryStartupBytes {config.memory} -NoVHD"
    )
    yield "Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter"
    yield "Get-VMDvdDrive -VM $vm | Remove-VMDvdDrive"
    yield f"Set-VMMemory -VM $vm -DynamicMemoryEnabled $false -StartupBytes {config.memory}"
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    yield f"Set-VMProcessor -VM $vm -Count {count}"
    how = "" if count == (cpu.cores or 1) else f"{count} processors; Hyper-V makes the topology"
    for name in ("sockets", "dies", "cores", "threads"):
        account.said(f"cpu.{name}", how)
    account.approximated("cpu", "the host's own CPU")
    if config.description:
        text = config.description.replace("\n", "\r\n")
        yield f"Set-VM -VM $vm -Notes {quoted(text)}"
    account.kept("description", "Notes")


def _firmware(
    config: MachineConfig, account: Account, carried: Mapping[str, str], second: bool
) -> Iterator[str]:
    account.approximated("firmware.digest", "Hyper-V has firmware of its own")
    account.dropped("firmware.blob", "Hyper-V has firmware of its own")
    windows = config.guest_os.family == "windows"
    account.approximated("guest-os", "it decides the template of Secure Boot, and is not kept")
    if second:
        template = carried.get("Firmware.SecureBootTemplate", "")
        if template not in _TEMPLATES:
            template = "MicrosoftWindows" if windows else "MicrosoftUEFICertificateAuthority"
        if config.firmware.secure_boot:
            yield f"Set-VMFirmware -VM $vm -EnableSecureBoot On -SecureBootTemplate '{template}'"
        else:
            yield "Set-VMFirmware -VM $vm -EnableSecureBoot Off"
    account.kept("firmware.secure-boot")
    if config.tpm is None:
        return
    if second and config.tpm.version != "1.2":
        yield "Set-VMKeyProtector -VM $vm -NewLocalKeyProtector"
        yield "Enable-VMTPM -VM $vm"
        account.kept("tpm.version", "a new TPM, without the old one's keys")
        account.approximated("tpm.model", "Hyper-V chooses the interface")
    account.dropped("tpm", "Hyper-V has a TPM 2.0, in generation 2 only")


def _disks(drives: Sequence[Drive]) -> Iterator[str]:
    most = max((one.place[1] for one in drives if one.place[0] == "SCSI"), default=0)
    yield f"while (@(Get-VMScsiController -VM $vm).Count -le {most}) {{"
    yield "    Add-VMScsiController -VM $vm"
    yield "}"
    for drive in drives:
        kind, controller, location = drive.place
        place = f"-ControllerNumber {controller} -ControllerLocation {location}"
        file = f"(Join-Path $Folder {quoted(drive.file)})"
        variable = f"$disk{drive.index}"
        if drive.disk.kind == "cdrom":
            medium = f" -Path {file}" if drive.file else ""
            yield f"{variable} = Add-VMDvdDrive -VM $vm {place}{medium} -Passthru"
        else:
            yield (
                f"{variable} = Add-VMHardDiskDrive -VM $vm -ControllerType {kind} {place}"
                f" -Path {file} -Passthru"
            )


def _nics(
    config: MachineConfig, account: Account, carried: Mapping[str, str], second: bool
) -> Iterator[str]:
    nics = config.nics or ()
    legacy = [nic for nic in nics if _is_legacy(nic, second)]
    if len(legacy) > MAX_LEGACY_NICS or len(nics) - len(legacy) > MAX_NICS:
        raise UnsupportedError(
            f"{len(nics)} network cards, Hyper-V has {MAX_NICS} and {MAX_LEGACY_NICS} legacy ones",
            field="nic",
            hint="take some of them out",
        )
    for index, nic in enumerate(nics):
        path, name = f"nic[{index}]", f"$nic{index}"
        old = _is_legacy(nic, second)
        account.said(f"{path}.model", "" if old else "Hyper-V's own: the guest needs its driver")
        for field in ("id", "mac", "boot"):
            account.kept(f"{path}.{field}")
        yield (
            f"{name} = Add-VMNetworkAdapter -VM $vm -Name {quoted(nic.id or f'net{index}')}"
            f" -StaticMacAddress '{(nic.mac or '').replace(':', '').upper()}'"
            f" -IsLegacy {boolean(old)} -Passthru"
        )
        if nic.network == "none":
            account.kept(f"{path}.network", "connected to no switch")
        else:
            wanted = "" if nic.network in (None, "user") else nic.network or ""
            yield f"Connect-Adapter {name} {quoted(wanted)}"
            account.said(f"{path}.network", "" if wanted else "the switch of -SwitchName")
        account.approximated(f"{path}.address", "Hyper-V has a bus of its own")
        account.dropped(f"{path}.mtu", "Hyper-V tells its guests no MTU")
        yield from _nic_given_back(account, carried, index)


def _is_legacy(nic: Nic, second: bool) -> bool:
    return nic.model == "tulip" and not second


def _nic_given_back(account: Account, carried: Mapping[str, str], index: int) -> Iterator[str]:
    for option, pattern in _NIC_GIVEN_BACK.items():
        value = carried.get(f"net{index}.{option}", "")
        if pattern.fullmatch(value):
            account.report.kept(f"net{index}.{option}", "given back")
            yield f"Set-VMNetworkAdapter -VMNetworkAdapter $nic{index} -{option} {value}"
    vlan = carried.get(f"net{index}.AccessVlanId", "")
    if re.fullmatch(r"[1-9][0-9]{0,3}", vlan):
        account.report.kept(f"net{index}.AccessVlanId", "given back")
        yield f"Set-VMNetworkAdapterVlan -VMNetworkAdapter $nic{index} -Access -VlanId {vlan}"


def _serials(config: MachineConfig, account: Account) -> Iterator[str]:
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", config.name or "machine")[:64]
    for index, port in enumerate(config.serials or ()):
        if port.port < 2:
            pipe = quoted(f"\\\\.\\pipe\\{plain}-com{port.port + 1}")
            yield f"Set-VMComPort -VM $vm -Number {port.port + 1} -Path {pipe}"
            account.kept(f"serial[{index}]", f"COM{port.port + 1}, a pipe")
        account.dropped(f"serial[{index}]", "Hyper-V has two serial ports")
    account.kept("serial")


def _order(config: MachineConfig, drives: Sequence[Drive], second: bool) -> Iterator[str]:
    order = [(one.disk.boot, f"$disk{one.index}") for one in drives if one.disk.boot]
    order += [(nic.boot, f"$nic{index}") for index, nic in enumerate(config.nics or ()) if nic.boot]
    if second and order:
        names = ", ".join(name for _, name in sorted(order))
        yield f"Set-VMFirmware -VM $vm -BootOrder {names}"
    elif not second:
        names = ", ".join(quoted(one) for one in startup_order(config, drives))
        yield f"Set-VMBios -VM $vm -StartupOrder {names}"


def _identity(config: MachineConfig, account: Account) -> Iterator[str]:
    """UUID and serial numbers: only WMI sets them."""
    smbios = config.smbios
    values = {
        "BIOSGUID": ("uuid", config.uuid and f"{{{config.uuid.upper()}}}"),
        "BIOSSerialNumber": ("smbios.system.serial", smbios.system.serial),
        "BaseBoardSerialNumber": ("smbios.baseboard.serial", smbios.baseboard.serial),
        "ChassisSerialNumber": ("smbios.chassis.serial", smbios.chassis.serial),
        "ChassisAssetTag": ("smbios.chassis.asset", smbios.chassis.asset),
    }
    yield from _IDENTITY.splitlines()
    for name, (path, value) in values.items():
        if value:
            yield f"$settings.{name} = {quoted(value)}"
        account.kept(path, name)
    yield from _APPLY.splitlines()


def _carried(
    account: Account, carried: Mapping[str, str], second: bool, disks: set[str]
) -> Iterator[str]:
    report = account.report
    said = {one.field for one in report.items}
    dynamic = carried.get("Memory.DynamicMemoryEnabled", "").lower() == "true"
    for key, value in carried.items():
        command, option, pattern = _GIVEN_BACK.get(key, ("", "", _WORD))
        if command == "Set-VMFirmware" and not second:
            command = ""
        service = key.removeprefix("IntegrationServices.")
        if key.startswith("Memory.M") and not dynamic:
            report.kept(key, "without dynamic memory it means nothing")
        elif service != key and _BOOLEAN.fullmatch(value):
            verb = "Enable" if value.lower() == "true" else "Disable"
            report.kept(key, "given back")
            yield "Get-VMIntegrationService -VM $vm |"
            yield f"    Where-Object {{ $_.Name -eq {quoted(service)} }} |"
            yield f"    {verb}-VMIntegrationService"
        elif command and pattern.fullmatch(value):
            shown = f"${value.lower()}" if pattern is _BOOLEAN else value
            report.kept(key, "given back")
            yield f"{command} -VM $vm -{option} {shown}"
        elif key == "Firmware.SecureBootTemplate" and second and value in _TEMPLATES:
            report.kept(key, "given back")
        elif key.endswith(".place") and key[: -len(".place")] in disks:
            report.kept(key, "given back where that place is free")
        elif key not in said:
            report.dropped(key, "no command sets it, or not to this")
