"""VirtualBox: .vbox settings as 4.3 to 7.1 write them, and OVAs with settings in them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree.ElementTree import tostring

import pytest

from tests.support import hv
from tests.support.hostile import WATCH
from tests.support.ova import Written, planned
from tests.support.ovf import opened
from tests.support.vbox import ATTACHED, DISK, HARDWARE, REGISTRY, vbox
from tests.support.vdi import write_vdi
from vmpack import hypervisors
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.formats.vdi.structs import FREE
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.ovf.names import VBOX
from vmpack.hypervisors.virtualbox.settings import read
from vmpack.ops.pack import pack
from vmpack.ops.transfer import transfer

MIB = 1 << 20


def imported(data: bytes, name: str = "box.vbox") -> Imported:
    return read(ConfigSource(name, data))


def verdicts(found: Imported, verdict: str) -> dict[str, str]:
    return {one.field: one.detail for one in found.report.items if one.verdict.value == verdict}


def test_settings() -> None:
    found = imported(vbox())
    config = found.config
    assert (config.name, config.description, config.memory) == ("box", "a box", 768 * MIB)
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert (config.cpu.sockets, config.cpu.cores) == (1, 2)
    assert (config.guest_os.id, config.firmware.kind, config.rtc.clock) == (
        "debian12",
        "bios",
        "utc",
    )
    assert (config.input, config.machine) == ("usb-tablet", "pc-i440fx-7.2")
    assert [one.port for one in config.serials or ()] == [0]
    root, tools, empty = config.disks or ()
    assert (root.id, root.bus, root.port, root.rotation_rate, root.boot) == ("box", "sata", 0, 1, 3)
    assert (tools.id, tools.kind, tools.port, tools.boot) == ("tools", "cdrom", 3, 1)
    assert (empty.empty, empty.port, empty.boot) == (True, 2, 2)
    assert {name: (one.name, one.format) for name, one in found.disks.items()} == {
        "box": ("box.vdi", "vdi"),
        "tools": ("tools.iso", "raw"),
    }
    assert [(one.model, one.mac, one.network) for one in config.nics or ()] == [
        ("e1000", "08:00:27:4f:2b:7a", "user"),
        ("virtio-net", "08:00:27:4f:2b:7b", "bridged"),
        ("e1000", "08:00:27:4f:2b:7c", "lab-1"),
        ("pcnet", "08:00:27:4f:2b:7d", "none"),
    ]
    assert not found.running


def test_nothing_of_the_host_is_carried() -> None:
    """CFG-FORM-4: paths, the host's network cards, shared folders, passwords; each with a word."""
    found = imported(vbox())
    text = "\n".join(one.value for one in found.config.verbatim["virtualbox"])
    for secret in ("enp3s0", "/home/me", "hunter2"):
        assert secret not in text
        assert secret not in str(found.report.as_dict())
    lost = verdicts(found, "dropped")
    assert sum("host" in one or "password" in one for one in lost.values()) >= 4
    assert "GUI/LastCloseAction" in text
    assert "hostport" in text, "ports that are forwarded name nothing of the host"
    assert "/VirtualBox/HostInfo/GUI" in text


@pytest.mark.parametrize(
    ("kind", "bus", "chipset"),
    [
        ("AHCI", "sata", "i440fx"),
        ("PIIX3", "ide", "i440fx"),
        ("PIIX4", "ide", "i440fx"),
        ("ICH6", "ide", "i440fx"),
        ("LsiLogic", "lsilogic", "i440fx"),
        ("LsiLogicSas", "lsisas1068", "i440fx"),
        ("BusLogic", "buslogic", "i440fx"),
        ("NVMe", "nvme", "q35"),
        ("VirtioSCSI", "virtio-scsi", "q35"),
        ("USB", "sata", "q35"),
    ],
)
def test_controllers(kind: str, bus: str, chipset: str) -> None:
    device = f'<AttachedDevice type="HardDisk" port="1" device="0"><Image uuid="{DISK}"/>'
    storage = f"""<StorageControllers><StorageController name="c" type="{kind}" PortCount="2">
      {device}</AttachedDevice></StorageController></StorageControllers>"""
    hardware = HARDWARE + ('<Chipset type="ICH9"/>' if chipset == "q35" else "")
    (disk,) = imported(vbox(hardware, storage)).config.disks or ()
    assert disk.bus == bus
    assert disk.port == (None if kind in ("NVMe", "USB") else 1)
    assert imported(vbox(hardware, storage)).config.machine == f"pc-{chipset}-7.2"
    inside = imported(vbox(hardware + storage, "")).config
    assert inside.disks == (disk,), "VirtualBox 7 has them in the hardware"


@pytest.mark.parametrize(
    ("more", "kind", "tpm"),
    [
        ("", "bios", None),
        ('<Firmware type="EFI"/>', "uefi", None),
        ('<Firmware type="BIOS"/>', "bios", None),
        ('<Firmware type="EFI64"/>', "uefi", None),
        ('<Firmware type="EFI32"/>', "uefi", None),
        ('<Firmware type="EFI"/><TrustedPlatformModule type="v2_0" location=""/>', "uefi", "2.0"),
        ('<TrustedPlatformModule type="v1_2"/>', "bios", "1.2"),
        ('<TrustedPlatformModule type="Swtpm" location="127.0.0.1:2321"/>', "bios", "2.0"),
        ('<TrustedPlatformModule type="None"/>', "bios", None),
    ],
)
def test_firmware_and_tpm(more: str, kind: str, tpm: str | None) -> None:
    found = imported(vbox(HARDWARE + more))
    assert found.config.firmware.kind == kind
    assert (found.config.tpm.version if found.config.tpm else None) == tpm
    assert ("EFI32" in more) == ("Firmware@type" in verdicts(found, "approximated"))


def test_the_uuid_as_the_guest_sees_it() -> None:
    """Without the setting VirtualBox has its first fields the other way round."""
    plain = HARDWARE.replace('<SmbiosUuidLittleEndian enabled="true"/>', "")
    found = imported(vbox(plain))
    assert found.config.uuid == "78563412-bc9a-ef4d-8123-456789abcdef"
    assert "vbox:Machine@uuid" in verdicts(found, "approximated")


def test_virtualbox_7_1() -> None:
    """VBOX-READ-3: settings 1.20 have a platform; others than x86 are refused by name."""
    platform = """<Platform architecture="x86"><Chipset type="ICH9"/><RTC localOrUTC="local"/>
      <CPU count="3"/></Platform>"""
    hardware = '<Memory RAMSize="512"/><Firmware type="EFI"><IOAPIC enabled="true"/></Firmware>'
    found = imported(vbox(hardware + ATTACHED, platform, version="1.20-linux"))
    config = found.config
    assert (config.cpu.cores, config.rtc.clock, config.firmware.kind) == (3, "localtime", "uefi")
    assert config.machine == "pc-q35-7.2"
    with pytest.raises(UnsupportedError, match="machine for ARM"):
        imported(vbox(storage=platform.replace("x86", "ARM")))


def test_what_is_no_machine() -> None:
    """VBOX-READ-1, VBOX-READ-2, VBOX-READ-4, VBOX-READ-5."""
    for data, error in (
        (b'<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12"/>', "no machine"),
        (
            b'<VirtualBox version="1.19"><MachineEncrypted/></VirtualBox>',
            "encrypted machine",
        ),
        (vbox(version="1.7-linux"), "version '1.7-linux'"),
        (vbox(version="2.0"), "version '2.0'"),
        (
            vbox(
                registry=REGISTRY.replace(
                    'type="Normal"/>',
                    'type="Normal"><Property name="CRYPT/KeyId" value="x"/></HardDisk>',
                )
            ),
            "is encrypted",
        ),
    ):
        with pytest.raises(UnsupportedError, match=re.escape(error)):
            imported(data)
    with pytest.raises(DamagedError, match="not in the settings"):
        imported(vbox(registry=""))


def test_a_saved_machine_is_running(tmp_path: Path) -> None:
    """Its disks are as they were in the middle of its work."""
    write_vdi(tmp_path / "box.vdi", [0], {0: b"x" * MIB})
    (tmp_path / "tools.iso").write_bytes(bytes(2048))
    (tmp_path / "box.vbox").write_bytes(vbox(machine='stateFile="Snapshots/x.sav"'))
    with pytest.raises(UnsafeError, match="is running") as caught:
        pack([tmp_path / "box.vbox"], tmp_path / "x.vmpack")
    assert "discardstate" in (caught.value.hint or "")


LEAF = "{00000000-0000-0000-0000-000000000003}"
TREE = f"""<MediaRegistry><HardDisks>
  <HardDisk uuid="{DISK}" location="box.vdi" format="VDI" type="Normal">
    <HardDisk uuid="{{00000000-0000-0000-0000-000000000002}}" location="Snapshots/a.vdi"
      format="VDI"><HardDisk uuid="{LEAF}" location="Snapshots\\b.vdi" format="VDI"/></HardDisk>
    <HardDisk uuid="{{00000000-0000-0000-0000-000000000009}}" location="Snapshots/z.vdi"
      format="VDI"/>
  </HardDisk></HardDisks></MediaRegistry>"""
ONE = f"""<StorageControllers><StorageController name="SATA" type="AHCI" PortCount="1">
  <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{LEAF}"/></AttachedDevice>
  </StorageController></StorageControllers>"""
SNAPSHOT = """<Snapshot uuid="{00000000-0000-0000-0000-00000000000a}" name="before"
  timeStamp="2024-01-01T00:00:00Z"><Hardware><Memory RAMSize="4"/></Hardware></Snapshot>"""


def test_a_tree_of_snapshots(tmp_path: Path) -> None:
    """The current state is a leaf; the settings say what it holds changes to."""
    block = [bytes([65 + number]) * MIB for number in range(3)]
    (tmp_path / "Snapshots").mkdir()
    base = write_vdi(tmp_path / "box.vdi", [0, 1, 2], dict(enumerate(block)), number=1)
    middle = tmp_path / "Snapshots/a.vdi"
    two = write_vdi(middle, [FREE, 0, FREE], {0: b"a" * MIB}, parent=base, number=2)
    leaf = tmp_path / "Snapshots/b.vdi"
    write_vdi(leaf, [FREE, FREE, 0], {0: b"b" * MIB}, parent=two, number=3)
    machine = 'currentSnapshot="{00000000-0000-0000-0000-00000000000a}" currentStateModified="true"'
    (tmp_path / "box.vbox").write_bytes(
        vbox(storage=ONE, registry=TREE, machine=machine, more=SNAPSHOT)
    )
    with WATCH.opened() as seen, opened(tmp_path / "box.vbox") as (config, found):
        assert found.readers["box"].read(0, 3 * MIB) == block[0] + b"a" * MIB + b"b" * MIB
    names = {Path(name).name for name in seen}
    assert {"box.vdi", "a.vdi", "b.vdi"} <= names
    assert "z.vdi" not in names
    lost = verdicts(config, "dropped")
    assert "Snapshot before" in lost
    assert "vbox:Machine@currentSnapshot" in lost
    middle.unlink()
    with pytest.raises(UnsafeError, match="needs its parent"):
        pack([tmp_path / "box.vbox"], tmp_path / "x.vmpack")


def test_absolute_places_are_looked_for_beside(tmp_path: Path) -> None:
    """Windows' paths, too; what is elsewhere is not opened."""
    write_vdi(tmp_path / "my disk.vdi", [0], {0: b"x" * MIB})
    place = "C:\\Users\\me\\VirtualBox VMs\\my disk.vdi"
    registry = REGISTRY.replace("box.vdi", place)
    storage = ONE.replace(LEAF, DISK)
    (tmp_path / "box.vbox").write_bytes(vbox(storage=storage, registry=registry))
    with opened(tmp_path / "box.vbox") as (config, found):
        assert found.readers["my-disk"].virtual_size == MIB
    assert "Users" not in str(config.report.as_dict())


def _package(folder: Path) -> Path:
    write_vdi(folder / "box.vdi", [0, FREE], {0: b"x" * MIB})
    (folder / "tools.iso").write_bytes(b"iso!" * 512)
    (folder / "box.vbox").write_bytes(vbox())
    return folder / "box.vbox"


def test_there_and_back(tmp_path: Path) -> None:
    """.vbox -> bundle -> OVA: VirtualBox gets its settings back, but for what was the host's."""
    source = _package(tmp_path)
    pack([source], tmp_path / "x.vmpack")
    result, where = hv.written_for("virtualbox", tmp_path / "x.vmpack", tmp_path / "out")
    found = Written(where.path)
    (machine,) = found.root.iter(f"{{{VBOX}}}Machine")
    text = found.ovf.decode()
    for setting in (
        'provider="KVM"',
        'executionCap="80"',
        'VRAMSize="33"',
        'hotpluggable="true"',
        'IDE0MasterEmulationPort="0"',
        'name="ssh"',
        'driver="Pulse"',
        'slot="4" enabled="false"',
        'name="GUI/LastCloseAction"',
        'nonrotational="true"',
        "<Description>a box</Description>",
    ):
        assert setting in text, setting
    assert machine.get("version") == "1.16-linux"
    before = imported(vbox()).config
    after, _ = hv.read_back(where)
    same: dict[str, object] = {"disks": None, "ova": before.ova, "verbatim": {}}
    assert after.config.model_copy(update=same) == before.model_copy(
        update={**same, "guest_os": after.config.guest_os, "nics": after.config.nics}
    )
    assert [one.mac for one in after.config.nics or ()] == [one.mac for one in before.nics or ()]
    disks = [(one.id, one.bus, one.port, one.boot) for one in after.config.disks or ()]
    assert disks == [(one.id, one.bus, one.port, one.boot) for one in before.disks or ()]
    dropped = [one for one in result.report["items"] if one["verdict"] == "dropped"]  # type: ignore[attr-defined]
    assert dropped == []


def test_settings_that_are_written() -> None:
    """VBOX-WRITE-1, VBOX-WRITE-2: the oldest version of settings; disks by the package's UUIDs."""
    for toml, version, texts in (
        ("", "1.16-linux", ('type="PIIX3"', 'device="HardDisk"')),
        (
            'machine = "pc-q35-7.2"\ninput = "usb-tablet"\n[firmware]\nkind = "uefi"',
            "1.16-linux",
            ('type="ICH9"', 'type="EFI"', "USBTablet", 'type="OHCI"'),
        ),
        ('[[disk]]\nid = "root"\nbus = "virtio-scsi"', "1.18-linux", ("VirtioSCSI",)),
        ("[tpm]", "1.19-linux", ('TrustedPlatformModule type="v2_0"',)),
        ('[rtc]\nclock = "localtime"', "1.16-linux", ('localOrUTC="local"',)),
        (
            '[[nic]]\nnetwork = "lab"\n[[nic]]\nnetwork = "none"\n[[nic]]\nnetwork = "hostonly"',
            "1.16-linux",
            ('InternalNetwork name="lab"', 'cable="false"', "HostOnlyInterface"),
        ),
    ):
        start = "" if "machine" in toml or "scsi" in toml else 'machine = "pc-i440fx-7.2"\n'
        root, _ = planned(start + toml, "virtualbox")
        (machine,) = root.iter(f"{{{VBOX}}}Machine")
        assert machine.get("version") == version
        written = tostring(machine, encoding="unicode")
        for text in texts:
            assert text in written, text
        (disk,) = (one for one in root.iter() if one.tag.endswith("}Disk"))
        assert f"{{{disk.get(f'{{{VBOX}}}uuid')}}}" in written


def test_secure_boot_and_state_are_not_taken() -> None:
    _, verdicts_of = planned("[firmware]\nsecure-boot = true", "virtualbox", nvram=b"x")
    assert verdicts_of["firmware.secure-boot"] == "dropped"
    assert verdicts_of["nvram"] == "dropped"


def test_from_virtualbox_to_others(tmp_path: Path) -> None:
    """Straight on: VirtualBox's own settings are of no use there, and that is said."""
    source = _package(tmp_path)
    result = transfer(source, tmp_path / "out", "ova")
    found = Written(Path(result.files[0]))
    assert b"vbox:Machine" not in found.ovf
    report = result.report["export"]
    lost = [one["field"] for one in report["items"] if one["verdict"] == "dropped"]  # type: ignore[index]
    assert "verbatim.virtualbox" in lost


def test_it_is_recognised() -> None:
    data = vbox()
    for name in ("box.vbox", "box.vbox-prev", "anything.xml"):
        found = hypervisors.recognise(name, data)
        assert found is not None
        assert found.name == "virtualbox"
    other = b'<VirtualBox xmlns="http://www.virtualbox.org/"><Global/></VirtualBox>'
    assert hypervisors.recognise("VirtualBox.xml", other) is None


def test_only_our_own_errors() -> None:
    """hostile: 10, 42: settings whose parts are moved, doubled, gone or nonsense."""
    words = re.findall(rb"[\w.:/-]+|\s+|.", vbox())
    rng = random.Random(11)
    for _ in range(400):
        found = list(words)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(found))
            kind = rng.randrange(3)
            if kind == 0:
                del found[at]
            elif kind == 1:
                found.insert(at, rng.choice(words))
            else:
                found[at] = bytes(rng.choice(b'<>/"=&;0123456789azAZ -{}') for _ in range(6))
        try:
            imported(b"".join(found)).config.to_json_dict()
        except VmpackError:
            continue
    for data in (b"<!DOCTYPE x []>" + vbox()[21:], b"<a>" * 100):
        with pytest.raises((UnsafeError, DamagedError)):
            imported(data)
