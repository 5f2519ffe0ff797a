"""The virtual hardware of a machine: what ``specs/config-v1.md`` describes table by table.

Every field may be absent, which means "not pinned": :func:`vmpack.machine.pins.pin` fills it in.
The default of every optional field is absence, so that a canonical config has one form.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vmpack.machine.names import ControllerBus, DiskBus, Display, NicModel
from vmpack.machine.scalars import (
    Address,
    Ascii,
    Bool,
    Count,
    CpuModel,
    Date,
    Digest,
    Flag,
    Id,
    Index,
    LongAscii,
    Mac,
    Mtu,
    Network,
    NoBoolean,
    Order,
    Part,
    Port,
    Release,
    RotationRate,
    Serial,
    Time,
    Wwn,
)

__all__ = [
    "Baseboard",
    "Bios",
    "Chassis",
    "Controller",
    "Cpu",
    "Disk",
    "Firmware",
    "Nic",
    "Rng",
    "Rtc",
    "SerialPort",
    "Smbios",
    "System",
    "Tpm",
    "Video",
]


class Cpu(Part):
    """``[cpu]``: the CPU model, and how many of it in what topology."""

    model: CpuModel | None = Field(default=None, description="versioned CPU model")
    vendor: Literal["GenuineIntel", "AuthenticAMD"] | None = Field(
        default=None, description="CPUID vendor; KVM would show the host's"
    )
    flags: Annotated[tuple[Flag, ...], Field(max_length=128)] = Field(
        default=(),
        description="CPU features switched on (+) or off (-), in ascending order of their names",
    )
    sockets: Count | None = Field(default=None, description="sockets")
    dies: Count | None = Field(default=None, description="dies in a socket")
    cores: Count | None = Field(default=None, description="cores in a die")
    threads: Count | None = Field(default=None, description="threads in a core")


class Firmware(Part):
    """``[firmware]``: what starts the machine."""

    kind: Literal["bios", "uefi"] | None = Field(default=None, description="firmware interface")
    secure_boot: Bool | None = Field(
        default=None, description="Secure Boot enforced; UEFI on q35 only"
    )
    digest: Digest | None = Field(
        default=None, description="digest of the only code image to start with"
    )
    blob: Id | None = Field(
        default=None, description="blob of the bundle that holds the code image"
    )


class Controller(Part):
    """``[[controller]]``: a controller that disks or channels hang on."""

    bus: ControllerBus = Field(description="kind of controller")
    index: Index = Field(description="number among the controllers of this bus")
    address: Address | None = Field(default=None, description="PCI address")


class Disk(Part):
    """``[[disk]]``: a disk or CD-ROM drive; its content is the bundle's disk of the same id."""

    id: Id = Field(description="name of the disk, unique")
    kind: Literal["disk", "cdrom"] | None = Field(
        default=None, description="hard disk or CD-ROM drive"
    )
    bus: DiskBus | None = Field(default=None, description="bus, or model of SCSI controller")
    controller: Index | None = Field(default=None, description="index of its controller")
    port: Port | None = Field(default=None, description="SATA port, IDE channel, or SCSI target")
    unit: Port | None = Field(default=None, description="IDE device 0 or 1; otherwise 0")
    address: Address | None = Field(
        default=None, description="PCI address; virtio-blk and nvme only"
    )
    boot: Order | None = Field(default=None, description="place in the boot order, 1 first")
    serial: Serial | None = Field(default=None, description="serial number shown to the guest")
    wwn: Wwn | None = Field(default=None, description="world wide name")
    rotation_rate: RotationRate | None = Field(default=None, description="1 for an SSD, else rpm")
    logical_block_size: Annotated[Literal[512, 4096], NoBoolean] | None = Field(
        default=None, description="bytes"
    )
    physical_block_size: Annotated[Literal[512, 4096], NoBoolean] | None = Field(
        default=None, description="bytes"
    )
    read_only: Bool | None = Field(default=None, description="the guest cannot write to it")
    empty: Bool | None = Field(default=None, description="a CD-ROM drive with no medium in it")


class Nic(Part):
    """``[[nic]]``: a network card."""

    id: Id | None = Field(default=None, description="name of the card, unique")
    model: NicModel | None = Field(default=None, description="model")
    mac: Mac | None = Field(default=None, description="MAC address, unicast, lower case")
    address: Address | None = Field(default=None, description="PCI address")
    network: Network | None = Field(
        default=None, description='"user", "none" (cable unplugged), or the name of a network'
    )
    boot: Order | None = Field(default=None, description="place in the boot order, 1 first")
    mtu: Mtu | None = Field(default=None, description="MTU told to the guest")


class Tpm(Part):
    """``[tpm]``: a TPM; its state is the blob ``tpm-state``."""

    version: Literal["1.2", "2.0"] | None = Field(default=None, description="TPM family")
    model: Literal["tpm-tis", "tpm-crb"] | None = Field(default=None, description="interface")


class Rng(Part):
    """``[rng]``: a source of randomness for the guest."""

    model: Literal["virtio-rng", "none"] | None = Field(default=None, description="model")
    address: Address | None = Field(default=None, description="PCI address")


class Rtc(Part):
    """``[rtc]``: the clock."""

    clock: Literal["utc", "localtime"] | None = Field(
        default=None, description="what the clock keeps"
    )
    start: Time | None = Field(
        default=None, description="time at which every boot starts; host's if none"
    )


class Video(Part):
    """``[display]``: the graphics card."""

    model: Display | None = Field(default=None, description="model")
    address: Address | None = Field(default=None, description="PCI address")


class SerialPort(Part):
    """``[[serial]]``: a serial port; the first one is the console that vmpack records."""

    model: Literal["isa-serial"] | None = Field(default=None, description="model")
    port: Annotated[int, Field(strict=True, ge=0, le=3)] = Field(description="0 is COM1, ttyS0")


class Bios(Part):
    """``[smbios.bios]``: SMBIOS type 0."""

    vendor: Ascii | None = Field(default=None, description="vendor")
    version: Ascii | None = Field(default=None, description="version")
    date: Date | None = Field(default=None, description="release date, MM/DD/YYYY")
    release: Release | None = Field(default=None, description="major.minor")


class System(Part):
    """``[smbios.system]``: SMBIOS type 1; its UUID is the machine's."""

    manufacturer: Ascii | None = Field(default=None, description="manufacturer")
    product: Ascii | None = Field(default=None, description="product name")
    version: Ascii | None = Field(default=None, description="version")
    serial: Ascii | None = Field(default=None, description="serial number")
    sku: Ascii | None = Field(default=None, description="SKU number")
    family: Ascii | None = Field(default=None, description="family")


class Baseboard(Part):
    """``[smbios.baseboard]``: SMBIOS type 2."""

    manufacturer: Ascii | None = Field(default=None, description="manufacturer")
    product: Ascii | None = Field(default=None, description="product name")
    version: Ascii | None = Field(default=None, description="version")
    serial: Ascii | None = Field(default=None, description="serial number")
    asset: Ascii | None = Field(default=None, description="asset tag")
    location: Ascii | None = Field(default=None, description="location in the chassis")


class Chassis(Part):
    """``[smbios.chassis]``: SMBIOS type 3."""

    manufacturer: Ascii | None = Field(default=None, description="manufacturer")
    version: Ascii | None = Field(default=None, description="version")
    serial: Ascii | None = Field(default=None, description="serial number")
    asset: Ascii | None = Field(default=None, description="asset tag")
    sku: Ascii | None = Field(default=None, description="SKU number")


class Smbios(Part):
    """``[smbios]``: what the firmware says about the machine."""

    bios: Bios = Field(default=Bios(), description="type 0")
    system: System = Field(default=System(), description="type 1")
    baseboard: Baseboard = Field(default=Baseboard(), description="type 2")
    chassis: Chassis = Field(default=Chassis(), description="type 3")
    oem_strings: Annotated[tuple[LongAscii, ...], Field(max_length=64)] = Field(
        default=(), description="type 11, in this order"
    )
