"""Disks, drives, cards and ports of a VMX, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tools import run
from tests.support.vmx import read_vmx, verdicts, vmx_text, write_machine
from vmpack.errors import UnsafeError, UsageError
from vmpack.ops import importing
from vmpack.ops.pack import pack


@pytest.mark.parametrize(
    ("word", "guest", "bus", "verdict"),
    [
        ("pvscsi", "debian12-64", "pvscsi", "kept"),
        ("LsiLogic", "debian12-64", "lsilogic", "kept"),
        ("lsisas1068", "windows7-64", "lsisas1068", "kept"),
        ("buslogic", "winxppro", "buslogic", "kept"),
        (None, "winxppro", "buslogic", "approximated"),
        (None, "rhel6-64", "lsilogic", "approximated"),
        ("ramdisk", "rhel6-64", "lsilogic", "approximated"),
    ],
)
def test_scsi_controllers(word: str | None, guest: str, bus: str, verdict: str) -> None:
    imported = read_vmx(vmx_text(**{"scsi0.virtualDev": word, "guestOS": guest}))
    [disk] = imported.config.disks or ()
    assert disk.bus == bus
    assert verdicts(imported)["scsi0:0.fileName"] == verdict


@pytest.mark.parametrize(
    ("place", "found", "verdict"),
    [
        ("sata0:1", ("sata", 0, 1, 0), "kept"),
        ("sata1:5", ("sata", 1, 5, 0), "kept"),
        ("sata0:9", ("sata", None, None, None), "approximated"),
        ("ide0:1", ("ide", 0, 0, 1), "kept"),
        ("ide1:0", ("ide", 0, 1, 0), "kept"),
        ("ide2:0", ("ide", None, None, None), "approximated"),
        ("nvme0:3", ("nvme", None, None, None), "kept"),
        ("scsi0:15", ("pvscsi", 0, 15, 0), "kept"),
        ("scsi40:1", ("pvscsi", None, None, None), "approximated"),
    ],
)
def test_places(place: str, found: tuple[object, ...], verdict: str) -> None:
    controller = place.partition(":")[0]
    lines = [f'{place}.present = "TRUE"', f'{place}.fileName = "data.vmdk"']
    lines.append(f'{controller}.present = "TRUE"')
    if controller == "scsi40":
        lines.append('scsi40.virtualDev = "pvscsi"')
    imported = read_vmx(vmx_text(*lines))
    disk = (imported.config.disks or ())[1]
    assert (disk.bus, disk.controller, disk.port, disk.unit) == found
    assert verdicts(imported)[f"{place}.fileName"] == verdict


def test_a_wide_lsilogic_bus_is_spread() -> None:
    """Ids 8 to 15, which VMware has and the config has not."""
    lines = [
        f'scsi0:{unit}.{key} = "{value}"'
        for unit in (*range(1, 7), *range(8, 16))
        for key, value in (("present", "TRUE"), ("fileName", f"d{unit}.vmdk"))
    ]
    imported = read_vmx(vmx_text(*lines, **{"scsi0.virtualDev": "lsilogic"}))
    assert len(imported.disks) == 15
    assert sum(one.port is None for one in imported.config.disks or ()) == 8


def test_absent_and_unusual_drives() -> None:
    lines = [
        'scsi0:1.present = "FALSE"',
        'scsi0:1.fileName = "old.vmdk"',
        'scsi0:2.fileName = "unsaid.vmdk"',
        'scsi1.present = "FALSE"',
        'scsi1:0.present = "TRUE"',
        'scsi1:0.fileName = "lost.vmdk"',
        'scsi0:3.present = "TRUE"',
        'scsi0:3.deviceType = "scsi-passthru"',
        'scsi0:3.fileName = "sg1"',
        'scsi0:4.present = "TRUE"',
        'scsi0:4.fileName = ""',
    ]
    imported = read_vmx(vmx_text(*lines))
    assert [file.name for file in imported.disks.values()] == ["shop.vmdk", "unsaid.vmdk"]
    found = verdicts(imported)
    assert found["scsi1:0.fileName"] == found["scsi0:3.fileName"] == found["scsi0:4.fileName"]
    assert found["scsi1:0.fileName"] == "dropped"


def test_more_disks_than_a_config_holds_are_dropped_by_name() -> None:
    lines = [
        f'scsi{bus}:{unit}.{key} = "{value}"'
        for bus in range(1, 4)
        for unit in range(8, 40)
        for key, value in (("present", "TRUE"), ("fileName", f"d{bus}-{unit}.vmdk"))
    ]
    lines += [f'scsi{bus}.virtualDev = "pvscsi"' for bus in range(1, 4)]
    imported = read_vmx(vmx_text(*lines))
    assert len(imported.disks) == 64
    assert verdicts(imported)["scsi3:39.fileName"] == "dropped"


def test_drives_with_an_image_beside_the_vmx_and_without() -> None:
    def drive(place: str, device: str, file: str, *more: str) -> list[str]:
        return [
            f'{place}.present = "TRUE"',
            f'{place}.deviceType = "{device}"',
            f'{place}.fileName = "{file}"',
            *more,
        ]

    lines = [
        *drive("ide0:0", "cdrom-image", "seed.iso"),
        *drive("ide0:1", "cdrom-image", "gone.iso"),
        *drive("ide1:0", "atapi-cdrom", "/dev/sr0"),
        *drive("sata0:0", "cdrom-image", "seed.iso", 'sata0:0.startConnected = "FALSE"'),
        *drive("ide1:1", "cdrom-raw", "auto detect"),
    ]
    imported = read_vmx(vmx_text(*lines), {"seed.iso": 2048})
    drives = [one for one in imported.config.disks or () if one.kind == "cdrom"]
    assert [one.empty for one in drives] == [None, True, True, True, True]
    assert imported.disks["seed"].format == "raw"
    found = verdicts(imported)
    assert found["ide0:0.fileName"] == found["ide1:1.fileName"] == "kept"
    assert found["ide0:1.fileName"] == found["ide1:0.fileName"] == "dropped"


@pytest.mark.parametrize(
    ("order", "hdd", "boot"),
    [
        (None, None, [None, None, None]),
        ("cdrom,hdd", None, [2, 3, 1]),
        ("hdd,cdrom", "scsi0:1,scsi0:0", [2, 1, 3]),
        ("ethernet0,hdd", None, [1, 2, None]),
        ("allow:cd", None, [None, None, 1]),
    ],
)
def test_boot_order(order: str | None, hdd: str | None, boot: list[int | None]) -> None:
    lines = ['scsi0:1.present = "TRUE"', 'scsi0:1.fileName = "b.vmdk"']
    lines += ['ide1:0.present = "TRUE"', 'ide1:0.deviceType = "cdrom-raw"']
    changes: dict[str, str | None] = {"bios.bootOrder": order, "bios.hddOrder": hdd}
    imported = read_vmx(vmx_text(*lines, **changes))
    assert [one.boot for one in imported.config.disks or ()] == boot


def test_an_ssd_is_one() -> None:
    imported = read_vmx(vmx_text('scsi0:0.virtualSSD = "1"'))
    assert (imported.config.disks or ())[0].rotation_rate == 1


@pytest.mark.parametrize(
    ("word", "guest", "model", "verdict"),
    [
        ("e1000", "rhel6-64", "e1000", "kept"),
        ("E1000E", "rhel6-64", "e1000e", "kept"),
        ("vmxnet3", "rhel6-64", "vmxnet3", "kept"),
        ("vlance", "winxppro", "pcnet", "kept"),
        ("vmxnet", "winxppro", "pcnet", "approximated"),
        ("nonesuch", "rhel6-64", "e1000", "approximated"),
    ],
)
def test_network_cards(word: str, guest: str, model: str, verdict: str) -> None:
    imported = read_vmx(vmx_text(**{"ethernet0.virtualDev": word, "guestOS": guest}))
    [nic] = imported.config.nics or ()
    assert nic.model == model
    assert verdicts(imported)["ethernet0.virtualDev"] == verdict


@pytest.mark.parametrize(
    ("lines", "mac"),
    [
        (['addressType = "static"', 'address = "00:50:56:AA:BB:CC"'], "00:50:56:aa:bb:cc"),
        (['addressType = "generated"', 'generatedAddress = "00:0c:29:1:2:3"'], None),
        (['addressType = "vpx"', 'generatedAddress = "00:50:56:aa:bb:cc"'], "00:50:56:aa:bb:cc"),
        (['generatedAddress = "00-0C-29-AA-BB-CC"'], "00:0c:29:aa:bb:cc"),
        (['addressType = "static"', 'address = "01:50:56:aa:bb:cc"'], None),
        (['addressType = "generated"', 'address = "00:50:56:aa:bb:cc"'], None),
    ],
)
def test_addresses_are_not_lost(lines: list[str], mac: str | None) -> None:
    """VMX-NIC-1, xenadmin#128: a generated address is the card's as much as a fixed one."""
    gone: dict[str, str | None] = {"ethernet0.addressType": None, "ethernet0.address": None}
    imported = read_vmx(vmx_text(*(f"ethernet0.{line}" for line in lines), **gone))
    [nic] = imported.config.nics or ()
    assert nic.mac == mac


def test_no_card_is_no_card_and_one_address_is_one_cards() -> None:
    none = read_vmx(vmx_text(**{"ethernet0.present": "FALSE"}))
    assert none.config.nics == ()
    twin = [
        f'ethernet1.{key} = "{value}"'
        for key, value in (
            ("present", "TRUE"),
            ("addressType", "static"),
            ("address", "00:50:56:12:34:56"),
        )
    ]
    imported = read_vmx(vmx_text(*twin))
    assert [one.mac for one in imported.config.nics or ()] == ["00:50:56:12:34:56", None]
    assert verdicts(imported)["ethernet1.address"] == "dropped"
    many = [f'ethernet{number}.present = "TRUE"' for number in range(40)]
    crowd = read_vmx(vmx_text(*many, **{"ethernet0.present": None}))
    assert len(crowd.config.nics or ()) == 32
    assert verdicts(crowd)["ethernet39.present"] == "dropped"


@pytest.mark.parametrize(
    ("lines", "network"),
    [
        (['connectionType = "nat"'], "user"),
        (['connectionType = "bridged"'], "bridged"),
        (['connectionType = "hostonly"'], "hostonly"),
        (['connectionType = "custom"', 'vnet = "VMnet2"'], "VMnet2"),
        (['connectionType = "custom"', 'vnet = "/dev/vmnet8"'], "vmnet8"),
        (['networkName = "VM Network"'], "VM Network"),
        (['networkName = "a/b"'], "a-b"),
        (['connectionType = "nat"', 'startConnected = "FALSE"'], "none"),
        ([], "bridged"),
    ],
)
def test_networks_have_names_and_no_host_side(lines: list[str], network: str) -> None:
    gone: dict[str, str | None] = {"ethernet0.connectionType": None}
    imported = read_vmx(vmx_text(*(f"ethernet0.{line}" for line in lines), **gone))
    [nic] = imported.config.nics or ()
    assert nic.network == network


def test_serial_ports_lead_nowhere() -> None:
    lines = [
        'serial1.present = "TRUE"',
        'serial1.fileType = "pipe"',
        'serial1.fileName = "/tmp/socket"',
        'serial0.present = "TRUE"',
        'serial0.fileType = "thinprint"',
    ]
    imported = read_vmx(vmx_text(*lines))
    assert [one.port for one in imported.config.serials or ()] == [1]
    found = verdicts(imported)
    assert found["serial1.fileName"] == "dropped"
    assert found["serial1.fileType"] == "approximated"


def test_a_running_machine_is_not_packed(tmp_path: Path) -> None:
    """VMX-RUN-1: a lock of VMware's is a folder; ``info`` still reads the config."""
    path = write_machine(tmp_path / "in", vmx_text())
    (tmp_path / "in" / "vm.vmx.lck").mkdir()
    found = importing.find(path)
    assert found is not None
    assert importing.read_config(found).running
    with pytest.raises(UnsafeError, match="running") as caught:
        pack([path], tmp_path / "out.vmpack")
    assert "vm.vmx.lck" in (caught.value.hint or "")
    assert not (tmp_path / "out.vmpack").exists()


def test_a_chain_of_snapshots_is_flattened_where_that_is_allowed(tmp_path: Path) -> None:
    """The order is the descriptors', not the names'. hostile: 26"""
    folder = tmp_path / "in"
    path = write_machine(folder, vmx_text(**{"scsi0:0.fileName": "shop-000001.vmdk"}))
    backing = ["-b", "shop.vmdk", "-F", "vmdk"]
    run(["qemu-img", "create", "-f", "vmdk", *backing, "shop-000002.vmdk"], cwd=folder)
    run(["qemu-io", "-f", "vmdk", "-c", "write -P 7 0 64k", folder / "shop-000002.vmdk"])
    backing[1] = "shop-000002.vmdk"
    run(["qemu-img", "create", "-f", "vmdk", *backing, "shop-000001.vmdk"], cwd=folder)
    run(["qemu-io", "-f", "vmdk", "-c", "write -P 9 0 4k", folder / "shop-000001.vmdk"])
    with pytest.raises(UnsafeError) as caught:
        pack([path], tmp_path / "out.vmpack")
    assert "--allow-backing" in (caught.value.hint or "")
    result = pack([path], tmp_path / "out.vmpack", allow_backing=True)
    run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", folder / "shop-000001.vmdk",
         tmp_path / "want.raw"])  # fmt: skip
    raw = pack([tmp_path / "want.raw"], tmp_path / "raw.vmpack")
    assert result.disks[0]["content-digest"] == raw.disks[0]["content-digest"]
    assert result.disks[0]["id"] == "shop"


def test_a_disk_that_is_elsewhere_is_asked_for(tmp_path: Path) -> None:
    """VMX-DISK-1."""
    changes: dict[str, str | None] = {"scsi0:0.fileName": "/vmfs/volumes/1/shop/shop.vmdk"}
    path = write_machine(tmp_path / "in", vmx_text(**changes), ())
    with pytest.raises(UsageError, match="shop") as caught:
        pack([path], tmp_path / "out.vmpack")
    assert "--disk shop=PATH" in (caught.value.hint or "")
    elsewhere = write_machine(tmp_path / "other", vmx_text())
    image = elsewhere.parent / "shop.vmdk"
    assert pack([path], tmp_path / "a.vmpack", disks={"shop": image}).disks[0]["id"] == "shop"
    # A path of the old host counts by its last component.
    image.rename(tmp_path / "in" / "shop.vmdk")
    assert pack([path], tmp_path / "b.vmpack").disks[0]["id"] == "shop"
