"""The items of an OVF's hardware, kind by kind: what each is in a config."""

from __future__ import annotations

import pytest

from tests.support.ovf import (
    BASIC,
    CPU,
    DISK,
    MEMORY,
    SCSI,
    envelope,
    imported,
    item,
    items,
    verdicts,
)
from vmpack.hypervisors.base import FileRef, Imported
from vmpack.hypervisors.ovf.units import factor
from vmpack.machine.hardware import Disk


def disk(found: Imported) -> Disk:
    assert found.config.disks is not None
    return found.config.disks[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("byte * 2^20", 1 << 20),
        ("byte*2^30", 1 << 30),
        ("bytes * 2^10", 1 << 10),
        ("byte", 1),
        ("", 1),
        ("MegaBytes", 1 << 20),
        ("MB", 1 << 20),
        ("GB", 1 << 30),
        ("byte * 1024", 1024),
        ("byte * 10^6", 10**6),
        ("hertz * 10^6", None),
        ("byte * 2^99", None),
        ("parsec", None),
    ],
)
def test_units(text: str, size: int | None) -> None:
    """OVF-READ-7."""
    assert factor(text) == size


def test_memory_of_odd_sizes() -> None:
    for quantity, units, size, verdict in (
        ("512", "byte * 2^20", 512 << 20, "kept"),
        ("1", "GigaBytes", 1 << 30, "kept"),
        ("1000", "byte * 10^6", 954 << 20, "approximated"),
        ("512", "", 512 << 20, "approximated"),
    ):
        unit = (f"AllocationUnits={units}",) if units else ()
        found = imported(
            envelope(items(CPU, (4, f"VirtualQuantity={quantity}", *unit), SCSI, DISK))
        )
        assert found.config.memory == size
        assert "Item 101/rasd:VirtualQuantity" in verdicts(found, verdict)
    for quantity, units in (("lots", "byte"), ("1", "parsec"), ("9" * 30, "byte")):
        bad = (4, f"VirtualQuantity={quantity}", f"AllocationUnits={units}")
        found = imported(envelope(items(CPU, bad, SCSI, DISK)))
        assert found.config.memory is None
        assert "Item 101/rasd:VirtualQuantity" in verdicts(found, "dropped")


def test_topology() -> None:
    """VMware's sockets, VirtualBox's cores, VMware's cores in a socket."""
    for system, more, sockets, cores in (
        ("vmx-10", "", 4, 1),
        ("virtualbox-2.2", "", 1, 4),
        ("", "", 1, 4),
        ("vmx-10", "<vmw:CoresPerSocket>2</vmw:CoresPerSocket>", 2, 2),
        ("vmx-10", "<vmw:CoresPerSocket>3</vmw:CoresPerSocket>", 4, 1),
    ):
        cpu = item(3, "VirtualQuantity=4", more=more)
        found = imported(envelope(cpu + items(MEMORY, SCSI, DISK), system=system))
        assert (found.config.cpu.sockets, found.config.cpu.cores) == (sockets, cores)


@pytest.mark.parametrize(
    ("controller", "bus"),
    [
        ((6, "ResourceSubType=lsilogic"), "lsilogic"),
        ((6, "ResourceSubType=lsilogicsas"), "lsisas1068"),
        ((6, "ResourceSubType=VirtualSCSI"), "pvscsi"),
        ((6, "ResourceSubType=buslogic"), "buslogic"),
        ((6,), "lsilogic"),
        ((20, "ResourceSubType=AHCI"), "sata"),
        ((20, "ResourceSubType=vmware.sata.ahci"), "sata"),
        ((20, "ResourceSubType=vmware.nvme.controller"), "nvme"),
        ((20, "ResourceSubType=VirtioSCSI"), "virtio-scsi"),
        ((5, "ResourceSubType=PIIX4", "Address=1"), "ide"),
        ((5, "Address=0"), "ide"),
    ],
)
def test_controllers(controller: tuple[int | str, ...], bus: str) -> None:
    found = imported(envelope(items(CPU, MEMORY, (*controller, "InstanceID=3"), DISK)))
    one = disk(found)
    assert one.bus == bus
    if bus == "nvme":
        assert one.port is None
    elif bus == "ide":
        assert (one.port, one.unit) == (1 if "Address=1" in controller else 0, 0)
    else:
        assert (one.controller, one.port) == (0, 0)


def test_places() -> None:
    """Two controllers of a kind; a place that QEMU's bus has not; no controller at all."""
    second = (6, "InstanceID=9", "ResourceSubType=lsilogic", "Address=1")
    for parent, unit, place in (
        ("9", "5", ("lsilogic", 1, 5)),
        ("3", "12", ("lsilogic", None, None)),
        ("77", "0", (None, None, None)),
    ):
        drive = (17, "HostResource=/disk/d1", f"Parent={parent}", f"AddressOnParent={unit}")
        found = imported(envelope(items(CPU, MEMORY, SCSI, second, drive)))
        one = disk(found)
        assert (one.bus, one.controller, one.port) == place
        assert bool(verdicts(found, "approximated")) == (one.port is None)


def test_a_controller_without_drives_is_carried() -> None:
    """It stands in the OVF again, and vmpack's machine has none."""
    found = imported(envelope(BASIC + items((5, "InstanceID=44", "Address=0"))))
    assert found.config.controllers == ()
    assert "hardware/Item(type 5)" in {one.key for one in found.config.verbatim["ovf"]}


def test_network_cards() -> None:
    cards = items(
        (10, "ResourceSubType=VmxNet3", "Connection=VM Network", "AutomaticAllocation=true"),
        (10, "ResourceSubType=E1000", "Connection=NAT", "Address=080027AABBCC"),
        (10, "Connection=a/b", "AutomaticAllocation=false", "Address=00:50:56:00:00:01"),
        (10, "ResourceSubType=Flexible", "Connection=" + "n" * 80),
        (10, "ResourceSubType=PCNet32 E1000", "Address=01:00:00:00:00:00"),
        first=200,
    )
    found = imported(envelope(BASIC + cards))
    assert [(one.model, one.network, one.mac) for one in found.config.nics or ()] == [
        ("vmxnet3", "VM Network", None),
        ("e1000", "user", "08:00:27:aa:bb:cc"),
        ("e1000", "none", "00:50:56:00:00:01"),
        ("pcnet", "n" * 64, None),
        ("pcnet", None, None),
    ]
    assert sum("Address" in one for one in verdicts(found, "dropped")) == 1
    assert imported(envelope()).config.nics == (), "no card is no card"


def test_drives() -> None:
    """An ISO of the package, a drive of the host, an empty one, a floppy drive, a blank disk."""
    drives = items(
        (15, "HostResource=ovf:/file/f2", "Parent=3", "AddressOnParent=1", "ElementName=boot cd"),
        (16, "HostResource=/dev/cdrom", "Parent=3", "AddressOnParent=2"),
        (15, "Parent=3", "AddressOnParent=3"),
        (14, "ElementName=Floppy 1"),
        (17, "HostResource=ovf:/disk/d2", "Parent=3", "AddressOnParent=4"),
        first=200,
    )
    data = envelope(BASIC + drives).replace(
        b"</References>", b'<File ovf:href="x.iso" ovf:id="f2"/></References>'
    )
    data = data.replace(
        b"</DiskSection>",
        b'<Disk ovf:diskId="d2" ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^20"/>'
        b"</DiskSection>",
    )
    found = imported(data)
    assert {name: (one.name, one.format, one.blank) for name, one in found.disks.items()} == {
        "d1": ("d1.vmdk", "vmdk", 0),
        "f2": ("x.iso", "raw", 0),
        "d2": ("blank disk d2", "raw", 2 << 20),
    }
    kinds = [(one.kind, one.empty) for one in found.config.disks or ()]
    assert kinds == [
        (None, None),
        ("cdrom", None),
        ("cdrom", True),
        ("cdrom", True),
        (None, None),
    ]
    assert any("drive of the host" in one for one in verdicts(found, "dropped").values())
    assert "hardware/Item(Floppy 1)" in {one.key for one in found.config.verbatim["ovf"]}


def test_vmwares_settings() -> None:
    """Firmware, Secure Boot, TPM, UUID, boot order, NVRAM."""
    config = "".join(
        f'<vmw:Config ovf:required="false" vmw:key="{key}" vmw:value="{value}"/>'
        for key, value in (
            ("firmware", "efi"),
            ("bootOptions.efiSecureBootEnabled", "true"),
            ("tools.syncTimeWithHost", "false"),
        )
    )
    extra = (
        '<vmw:ExtraConfig vmw:key="uuid.bios" vmw:value="56 4d 01 02 03 04 05 06-07 08 09 0a 0b 0c'
        ' 0d 0e"/><vmw:ExtraConfig vmw:key="nvram" vmw:value="ovf:/file/f2"/>'
        '<vmw:ExtraConfig vmw:key="log.fileName" vmw:value="/vmfs/volumes/x/y.log"/>'
    )
    hardware = BASIC + items(
        (1, "InstanceID=19", "ResourceSubType=vmware.vtpm"), (10, "InstanceID=20")
    )
    boot = "".join(
        f'<vmw:BootOrderSection vmw:instanceId="{number}" vmw:type="x"><Info>x</Info>'
        "</vmw:BootOrderSection>"
        for number in (20, 103)
    )
    data = envelope(hardware + config + extra, inside=boot).replace(
        b"</References>", b'<File ovf:href="vm.nvram" ovf:id="f2"/></References>'
    )
    found = imported(data)
    assert (found.config.firmware.kind, found.config.firmware.secure_boot) == ("uefi", True)
    assert found.config.tpm is not None
    assert found.config.uuid == "564d0102-0304-0506-0708-090a0b0c0d0e"
    assert found.blobs["vmware-nvram"] == FileRef("vm.nvram")
    assert (disk(found).boot, (found.config.nics or ())[0].boot) == (2, 1)
    lost = verdicts(found, "dropped")
    assert list(lost) == ["hardware/vmw:ExtraConfig(log.fileName)@vmw:value"], "a path of the host"


def test_secure_boot_with_ide() -> None:
    """VMware's CD-ROM is on IDE, which q35 lacks."""
    ide = items(
        (5, "InstanceID=8", "Address=1"), (15, "Parent=8", "InstanceID=9", "AddressOnParent=0")
    )
    secure = '<vmw:Config vmw:key="firmware" vmw:value="efi"/>'
    secure += '<vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>'
    found = imported(envelope(BASIC + ide + secure))
    assert found.config.firmware.secure_boot
    assert [one.bus for one in found.config.disks or ()] == ["lsilogic", "sata"]
