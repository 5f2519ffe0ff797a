"""Azure: fixed VHD files, and a script that uploads them. Profile: specs/hypervisors/azure.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING

from vmpack.hypervisors.base import DiskFile, Hypervisor, Limits, Machine, Plan, TextFile
from vmpack.units import GiB, MiB

if TYPE_CHECKING:
    from vmpack.hypervisors.account import Account
    from vmpack.hypervisors.base import WrittenDisk
    from vmpack.machine.hardware import Disk

SCRIPT = "import-azure.sh"
MAX_OS_DISK = 4095 * GiB
MAX_DATA_DISK = 32767 * GiB
MAX_DATA_DISKS = 64
_HEAD = """\
#!/bin/sh
# Uploads the disks to Azure and makes the machine; needs az (logged in) and azcopy.
# Usage: RESOURCE_GROUP=... LOCATION=... VM_SIZE=... sh import-azure.sh
set -eu
: "${RESOURCE_GROUP:?name the resource group}" "${LOCATION:?name the region}"
: "${VM_SIZE:?name a size, such as Standard_D2s_v5}"
SKU=${SKU:-StandardSSD_LRS}
here=$(cd -- "$(dirname -- "$0")" && pwd)

upload() {
    name=$1
    file=$here/$2
    shift 2
    az disk create --resource-group "$RESOURCE_GROUP" --location "$LOCATION" --name "$name" \\
        --upload-type Upload --upload-size-bytes "$(wc -c < "$file" | tr -d ' ')" --sku "$SKU" "$@"
    sas=$(az disk grant-access --resource-group "$RESOURCE_GROUP" --name "$name" \\
        --access-level Write --duration-in-seconds 86400 --query 'accessSAS || accessSas' \\
        --output tsv)
    azcopy copy "$file" "$sas" --blob-type PageBlob
    az disk revoke-access --resource-group "$RESOURCE_GROUP" --name "$name"
}
"""
_WHY = {
    "smbios": "Azure has SMBIOS strings of its own",
    "ova": "of OVF packages",
    "controller": "Azure makes the controllers itself",
    "display": "Azure's machines have no graphics card",
    "machine": "Azure has one board for each generation",
    "rng": "Azure gives its guests no device for that",
    "guest-agent": "Azure has an agent of its own",
    "uuid": "Azure gives every machine its own",
}

_OWN = (
    *("controller", "display", "guest-agent", "input", "machine", "pvpanic", "rng", "rtc.clock"),
    *("smbios.bios", "smbios.system.manufacturer", "smbios.system.product"),
    *("smbios.system.version", "uuid", "watchdog"),
)
"""What every machine has there in one way, whatever it was before."""


def _plan(machine: Machine) -> Plan:
    from vmpack.errors import UnsupportedError
    from vmpack.hypervisors.account import Account

    account = Account("azure", machine.config)
    system, data = _disks(machine, account)
    if len(data) > MAX_DATA_DISKS:
        raise UnsupportedError(
            f"{len(data)} data disks, Azure has {MAX_DATA_DISKS} at most",
            field="disk",
            clause="AZURE-WRITE-2",
        )
    for disk in [system, *data]:
        _require_size(machine, disk, MAX_OS_DISK if disk is system else MAX_DATA_DISK)
    script = "\n".join([_HEAD, *_commands(machine, account, system, data), ""])
    for blob in machine.blobs:
        account.report.dropped(blob, "Azure has firmware and TPMs of its own")
    report = account.finish(_WHY, "Azure has one of its own, or none", _OWN)
    files = (TextFile(SCRIPT, script.encode(), executable=True),)

    def render(_: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        return files

    return Plan(
        disks=[
            DiskFile(one.id, f"{one.id}.vhd", "vhd", {"azure": "on"}) for one in [system, *data]
        ],
        render=render,
        report=report,
        instructions=(
            "az login",
            "az group create --name GROUP --location westeurope",
            f"RESOURCE_GROUP=GROUP LOCATION=westeurope VM_SIZE=Standard_D2s_v5 sh {SCRIPT}",
        ),
    )


def _disks(machine: Machine, account: Account) -> tuple[Disk, list[Disk]]:
    """The disk that the machine starts from, and the others; CD-ROMs stay behind."""
    from vmpack.errors import UnsupportedError

    hard = []
    for index, disk in enumerate(machine.config.disks or ()):
        path = f"disk[{index}]"
        if disk.kind == "cdrom":
            account.dropped(path, "Azure's machines have no CD-ROM drives")
            continue
        hard.append(disk)
        account.kept(f"{path}.id", f"{disk.id}.vhd")
        account.kept(f"{path}.kind")
        account.kept(f"{path}.boot", "the OS disk")
        account.approximated(f"{path}.bus", "Azure's own SCSI or NVMe: the guest needs its driver")
        for field in ("controller", "port", "unit", "address"):
            account.approximated(f"{path}.{field}", "Azure's own place")
        if disk.logical_block_size == 512:
            account.kept(f"{path}.logical-block-size")
        if not disk.read_only:
            account.kept(f"{path}.read-only")
        for field in ("serial", "logical-block-size", "physical-block-size"):
            account.approximated(f"{path}.{field}", "Azure gives disks their own")
        account.dropped(path, "Azure gives disks their own")
    if not hard:
        raise UnsupportedError(
            "there is no disk to start from", field="disk", clause="AZURE-WRITE-2"
        )
    system = min(hard, key=lambda one: (one.boot or 99, hard.index(one)))
    return system, [one for one in hard if one is not system]


def _require_size(machine: Machine, disk: Disk, most: int) -> None:
    from vmpack.errors import UnsupportedError

    size = machine.disks[disk.id].virtual_size
    if size > most:
        raise UnsupportedError(
            f"disk {disk.id!r} has {size // GiB} GiB, Azure takes {most // GiB}",
            field="disk",
            clause="AZURE-WRITE-2",
        )


def vm_name(name: str, *, windows: bool) -> str:
    """A name that Azure takes: 64 characters, 15 of a Windows machine."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[: 15 if windows else 64].strip("-")
    return plain or "machine"


def _commands(
    machine: Machine, account: Account, system: Disk, data: Sequence[Disk]
) -> Iterator[str]:
    config = machine.config
    windows = config.guest_os.family == "windows"
    name = vm_name(config.name or "machine", windows=windows)
    account.said("name", "" if name == config.name else f"{name}: letters, digits and '-'")
    kind = "Windows" if windows else "Linux"
    account.said("guest-os", f"{kind}, which is all that Azure asks")
    second = config.firmware.kind == "uefi"
    account.kept("firmware.kind", f"generation {2 if second else 1}")
    account.said(
        "hyperv-generation", "" if second == (config.hyperv_generation == 2) else "as UEFI"
    )
    account.kept("architecture")
    facts = f"--os-type {kind} --hyper-v-generation V{2 if second else 1}"
    trusted = second and (bool(config.firmware.secure_boot) or config.tpm is not None)
    security = " --security-type TrustedLaunch" if trusted else ""
    account.kept("firmware.secure-boot")
    if trusted:
        account.kept("tpm.version", "a new TPM, without the old one's keys")
        account.approximated("tpm.model", "Azure chooses the interface")
    account.approximated("firmware.digest", "Azure has firmware of its own")
    _sizes(machine, account)
    yield f"upload {quote(f'{name}-os')} {quote(f'{system.id}.vhd')} {facts}{security}"
    for number, disk in enumerate(data):
        yield f"upload {quote(f'{name}-data{number}')} {quote(f'{disk.id}.vhd')}"
    words = [
        'az vm create --resource-group "$RESOURCE_GROUP" --location "$LOCATION" --size "$VM_SIZE"',
        f"--name {quote(name)} --attach-os-disk {quote(f'{name}-os')} --os-type {kind}",
    ]
    if data:
        attached = " ".join(quote(f"{name}-data{number}") for number in range(len(data)))
        words.append(f"--attach-data-disks {attached}")
    if trusted:
        secure = str(bool(config.firmware.secure_boot)).lower()
        words.append(f"--security-type TrustedLaunch --enable-secure-boot {secure}")
        words.append(f"--enable-vtpm {str(config.tpm is not None).lower()}")
    yield " \\\n    ".join(words)


def _sizes(machine: Machine, account: Account) -> None:
    """What a size of Azure's decides."""
    account.approximated("cpu", "as many as VM_SIZE has, of Azure's own kind")
    account.approximated("memory", "as much as VM_SIZE has")
    for index in range(len(machine.config.nics or ())):
        if index:
            account.dropped(f"nic[{index}]", "az vm create makes one network card")
            continue
        for field in ("id", "model", "network", "address"):
            account.approximated(f"nic[0].{field}", "Azure's own card, in a network of its own")
        account.approximated("nic[0].mac", "Azure gives its cards their own")
        account.dropped("nic[0]", "Azure gives its cards their own")
    for index, port in enumerate(machine.config.serials or ()):
        if port.port == 0:
            account.kept(f"serial[{index}]", "Azure's serial console")
        account.dropped(f"serial[{index}]", "Azure has one serial console")
    account.kept("serial")


HYPERVISOR = Hypervisor(
    name="azure",
    title="Azure",
    writes="fixed VHD, az script",
    plan=_plan,
    limits=Limits(
        disk_buses=("virtio-scsi", "nvme"),
        max_disk=MAX_OS_DISK,
        max_cpus=416,
        max_memory=11400 * GiB,
        disk_alignment=MiB,
        name_pattern=r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?",
        source="Microsoft, Prepare a Windows VHD or VHDX to upload to Azure; az disk create",
    ),
    proven_by="structure only",
)
