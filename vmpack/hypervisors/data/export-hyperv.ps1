#Requires -Version 5.1
#Requires -Modules Hyper-V
#Requires -RunAsAdministrator
# Describes a machine of Hyper-V as JSON, which 'vmpack pack' takes, beside copies of its disks:
#     .\export-hyperv.ps1 -Name 'the machine' -Path machine.json
# It changes nothing. The machine should be off.
param(
    [Parameter(Mandatory = $true)] [string] $Name,
    [string] $Path = 'machine.json'
)
$ErrorActionPreference = 'Stop'
$vm = @(Get-VM | Where-Object { $_.Name -eq $Name })
if ($vm.Count -ne 1) { throw "there are $($vm.Count) machines called '$Name'" }
$vm = $vm[0]

function Get-Chain([string] $File) {
    while ($File) {
        $File
        $File = (Get-VHD -Path $File -ErrorAction Stop).ParentPath
    }
}

$settings = Get-CimInstance -Namespace 'root\virtualization\v2' -ClassName 'Msvm_VirtualSystemSettingData' |
    Where-Object {
        $_.VirtualSystemIdentifier -eq [string] $vm.VMId -and
        $_.VirtualSystemType -eq 'Microsoft:Hyper-V:System:Realized'
    } | Select-Object -First 1
$processor = Get-VMProcessor -VM $vm
$memory = Get-VMMemory -VM $vm
$security = $null
if ($vm.Generation -eq 2) { $security = Get-VMSecurity -VM $vm }

$disks = @(Get-VMHardDiskDrive -VM $vm | ForEach-Object {
        $chain = @()
        if ($_.Path -and $null -eq $_.DiskNumber) { $chain = @(Get-Chain $_.Path) }
        [ordered]@{
            Path                          = $_.Path
            ParentPaths                   = @($chain | Select-Object -Skip 1)
            DiskNumber                    = $_.DiskNumber
            ControllerType                = [string] $_.ControllerType
            ControllerNumber              = $_.ControllerNumber
            ControllerLocation            = $_.ControllerLocation
            SupportPersistentReservations = $_.SupportPersistentReservations
        }
    })
$drives = @(Get-VMDvdDrive -VM $vm | ForEach-Object {
        [ordered]@{
            Path               = $_.Path
            ControllerType     = [string] $_.ControllerType
            ControllerNumber   = $_.ControllerNumber
            ControllerLocation = $_.ControllerLocation
        }
    })
$adapters = @(Get-VMNetworkAdapter -VM $vm | ForEach-Object {
        $vlan = Get-VMNetworkAdapterVlan -VMNetworkAdapter $_
        [ordered]@{
            Id                       = $_.Id
            Name                     = $_.Name
            MacAddress               = $_.MacAddress
            DynamicMacAddressEnabled = $_.DynamicMacAddressEnabled
            SwitchName               = $_.SwitchName
            IsLegacy                 = $_.IsLegacy
            MacAddressSpoofing       = [string] $_.MacAddressSpoofing
            DhcpGuard                = [string] $_.DhcpGuard
            RouterGuard              = [string] $_.RouterGuard
            AccessVlanId             = $vlan.AccessVlanId
        }
    })
$ports = @(Get-VMComPort -VM $vm | ForEach-Object {
        [ordered]@{ Number = [int] ($_.Name -replace '\D', ''); Connected = [bool] $_.Path }
    })

$firmware = $null
$bios = $null
if ($vm.Generation -eq 2) {
    $found = Get-VMFirmware -VM $vm
    $order = @($found.BootOrder | ForEach-Object {
            $device = $_.Device
            $entry = [ordered]@{ BootType = [string] $_.BootType }
            if ($_.BootType -eq 'Network') { $entry.AdapterId = $device.Id }
            if ($_.BootType -eq 'Drive') {
                $entry.ControllerType = [string] $device.ControllerType
                $entry.ControllerNumber = $device.ControllerNumber
                $entry.ControllerLocation = $device.ControllerLocation
            }
            $entry
        })
    $firmware = [ordered]@{
        SecureBoot                   = [string] $found.SecureBoot
        SecureBootTemplate           = [string] $found.SecureBootTemplate
        ConsoleMode                  = [string] $found.ConsoleMode
        PreferredNetworkBootProtocol = [string] $found.PreferredNetworkBootProtocol
        BootOrder                    = $order
    }
} else {
    $found = Get-VMBios -VM $vm
    $bios = [ordered]@{
        NumLockEnabled = $found.NumLockEnabled
        StartupOrder   = @($found.StartupOrder | ForEach-Object { [string] $_ })
    }
}

$machine = [ordered]@{
    VmpackHyperV         = 1
    Name                 = $vm.Name
    Notes                = $vm.Notes
    State                = [string] $vm.State
    Generation           = $vm.Generation
    Version              = [string] $vm.Version
    AutomaticStartAction = [string] $vm.AutomaticStartAction
    AutomaticStartDelay  = $vm.AutomaticStartDelay
    AutomaticStopAction  = [string] $vm.AutomaticStopAction
    CheckpointType       = [string] $vm.CheckpointType
    Checkpoints          = @(Get-VMSnapshot -VM $vm | ForEach-Object { $_.Name })
    Processor            = [ordered]@{
        Count                            = $processor.Count
        Reserve                          = $processor.Reserve
        Maximum                          = $processor.Maximum
        RelativeWeight                   = $processor.RelativeWeight
        CompatibilityForMigrationEnabled = $processor.CompatibilityForMigrationEnabled
        ExposeVirtualizationExtensions   = $processor.ExposeVirtualizationExtensions
    }
    Memory               = [ordered]@{
        Startup              = $memory.Startup
        DynamicMemoryEnabled = $memory.DynamicMemoryEnabled
        Minimum              = $memory.Minimum
        Maximum              = $memory.Maximum
        Buffer               = $memory.Buffer
        Priority             = $memory.Priority
    }
    Firmware             = $firmware
    Bios                 = $bios
    TpmEnabled           = [bool] ($security -and $security.TpmEnabled)
    Shielded             = [bool] ($security -and $security.Shielded)
    BiosGuid             = $settings.BIOSGUID
    BiosSerialNumber     = $settings.BIOSSerialNumber
    BaseBoardSerialNumber = $settings.BaseBoardSerialNumber
    ChassisSerialNumber  = $settings.ChassisSerialNumber
    ChassisAssetTag      = $settings.ChassisAssetTag
    HardDiskDrives       = $disks
    DvdDrives            = $drives
    NetworkAdapters      = $adapters
    ComPorts             = $ports
    IntegrationServices  = @(Get-VMIntegrationService -VM $vm | ForEach-Object {
            [ordered]@{ Name = $_.Name; Enabled = $_.Enabled }
        })
}
$machine | ConvertTo-Json -Depth 6 | Set-Content -LiteralPath $Path -Encoding UTF8
Write-Output "$Path describes '$Name'; copy its disks beside it:"
$disks | ForEach-Object { $_.Path; $_.ParentPaths } | Where-Object { $_ }
