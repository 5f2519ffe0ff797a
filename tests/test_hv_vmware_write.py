"""Writing a VMX: what becomes of each field, round trips, and what strangers put into a config."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import run
from tests.support.vmx import read_vmx
from vmpack import hypervisors
from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import ExportDisk, Machine, Plan
from vmpack.hypervisors.vmware.naming import file_stem, image_name
from vmpack.hypervisors.vmware.notes import leaves
from vmpack.hypervisors.vmware.syntax import Vmx, parse
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.machine.reading import from_person

MIB = 1 << 20


def _config(**data: Any) -> MachineConfig:
    """A pinned config of what a person would write; a disk unless ``disk`` says otherwise."""
    config = from_person(MachineConfig, {"disk": [{"id": "root"}], **data})
    facts = [DiskFacts(one.id, MIB) for one in config.disks or () if not one.empty]
    return pin(config, facts, seed=b"test", name=config.name or "vm")


def _plan(config: MachineConfig, blobs: dict[str, bytes] | None = None) -> Plan:
    plan = hypervisors.get("vmware").plan
    assert plan is not None
    disks = {one.id: ExportDisk(one.id, MIB, 0) for one in config.disks or () if not one.empty}
    return plan(Machine(config, disks, blobs or {}))


def _vmx(plan: Plan) -> Vmx:
    return parse(plan.render({})[0].data, path="out.vmx")


def _written(**data: Any) -> Vmx:
    return _vmx(_plan(_config(**data)))


def _verdicts(plan: Plan) -> dict[str, str]:
    return {item.field: item.verdict.value for item in plan.report.items}


def test_no_field_of_a_config_is_left_without_a_word() -> None:
    config = _config(
        description="a shop",
        memory="514M",
        cpu={"model": "Nehalem-v1", "flags": ["+aes"], "sockets": 2, "cores": 2, "threads": 2},
        firmware={"kind": "uefi", "secure-boot": True},
        tpm={},
        rtc={"clock": "localtime", "start": "2026-01-31T12:00:00"},
        smbios={"system": {"serial": "S-1"}, "oem-strings": ["x"]},
        disk=[
            {"id": "root", "bus": "virtio-blk", "wwn": "0x5000000000000001"},
            {"id": "data", "bus": "pvscsi", "rotation-rate": 7200, "read-only": True},
            {"id": "cd", "kind": "cdrom", "bus": "virtio-scsi", "empty": True},
        ],
        nic=[{"model": "igb", "mtu": 9000}, {"network": "none", "model": "vmxnet3"}],
        serial=[{"port": 0}, {"port": 2}],
        expected={"milestones": ["login:"]},
        verify={"check": [{"name": "web", "command": "true"}]},
        ova={"product": "Shop", "hardware": "vmx-08"},
        verbatim={
            "vmware": [{"key": "svga.vramSize", "value": "8388608"}],
            "libvirt": [{"key": "a", "value": "b"}],
        },
    )
    plan = _plan(config, {"nvram": b"x", "tpm-state": b"y"})
    fields = [item.field for item in plan.report.items]
    for path in leaves(config.to_json_dict()):
        assert fields.count(path) == (0 if path == "verbatim.vmware" else 1), path
    found = _verdicts(plan)
    assert found["svga.vramSize"] == "kept"
    for path in ("nvram", "tpm-state", "cpu.flags", "verify.check[0].name", "verbatim.libvirt"):
        assert found[path] == "dropped"
    for path in (
        "memory",
        "ova.hardware",
        "disk[0].bus",
        "disk[2].bus",
        "nic[0].model",
        "tpm.model",
    ):
        assert found[path] == "approximated"
    for path in ("uuid", "nic[0].mac", "nic[1].network", "firmware.secure-boot", "rtc.start"):
        assert found[path] == "kept"
    vmx = _vmx(plan)
    assert vmx.get("memsize") == "516"
    assert (vmx.get("numvcpus"), vmx.get("cpuid.coresPerSocket")) == ("8", "4")
    assert vmx.get("managedVM.autoAddVTPM") == "software"


def test_a_plain_machine_loses_nothing() -> None:
    """What vmpack pins for every machine is no loss of its own: --strict writes it."""
    assert "dropped" not in _verdicts(_plan(_config())).values()


@pytest.mark.parametrize(
    ("family", "bus", "found"),
    [
        ("linux", "virtio-blk", "pvscsi"),
        ("linux", "virtio-scsi", "pvscsi"),
        ("windows", "virtio-blk", "sata"),
        ("windows", "virtio-scsi", "sata"),
        ("bsd", "virtio-blk", "lsilogic"),
        *((None, bus, bus) for bus in ("pvscsi", "lsilogic", "lsisas1068", "buslogic")),
        *((None, bus, bus) for bus in ("sata", "ide", "nvme")),
    ],
)
def test_disks_are_on_a_bus_that_the_guest_starts_from(
    family: str | None, bus: str, found: str
) -> None:
    """VMX-DISK-2: Windows stops with 0x7B where it has no driver (kubevirt#16703)."""
    guest = {"family": family} if family else {}
    vmx = _written(**{"guest-os": guest, "disk": [{"id": "root", "bus": bus}]})
    kind = found if found in ("sata", "ide", "nvme") else "scsi"
    assert vmx.get(f"{kind}0:0.fileName") == "root.vmdk"
    assert vmx.get(f"{kind}0:0.present") == "TRUE"
    if kind == "scsi":
        assert vmx.get("scsi0.virtualDev") == found
    if kind != "ide":
        assert vmx.get(f"{kind}0.present") == "TRUE"


def test_places_are_kept_and_shared_by_nobody() -> None:
    """VMX-DISK-3."""
    disks = [
        {"id": "a", "bus": "virtio-blk"},
        {"id": "b", "bus": "pvscsi", "controller": 0, "port": 0},
        {"id": "c", "bus": "pvscsi", "controller": 0, "port": 7},
        {"id": "d", "bus": "lsilogic", "controller": 0, "port": 3},
        {"id": "e", "bus": "pvscsi", "controller": 9, "port": 63},
        {"id": "f", "bus": "sata", "controller": 1, "port": 5},
        {"id": "g", "bus": "nvme"},
        {"id": "h", "bus": "nvme"},
    ]
    plan = _plan(_config(**{"guest-os": {"family": "linux"}, "disk": disks}))
    vmx = _vmx(plan)
    found = {value: key for key, value in vmx if key.endswith(".fileName") and "vmdk" in value}
    assert found == {
        "a.vmdk": "scsi0:1.fileName",
        "b.vmdk": "scsi0:0.fileName",
        "c.vmdk": "scsi0:2.fileName",
        "d.vmdk": "scsi1:3.fileName",
        "e.vmdk": "scsi0:63.fileName",
        "f.vmdk": "sata1:5.fileName",
        "g.vmdk": "nvme0:0.fileName",
        "h.vmdk": "nvme0:1.fileName",
    }
    assert (vmx.get("scsi0.virtualDev"), vmx.get("scsi1.virtualDev")) == ("pvscsi", "lsilogic")
    assert _verdicts(plan)["disk[2].port"] == "approximated"
    options = {one.disk: one.options for one in plan.disks}
    assert options["a"] == {
        "subformat": "monolithicSparse",
        "adapter_type": "lsilogic",
        "hwversion": "18",
    }


def test_more_than_vmware_has_room_for_is_refused() -> None:
    buses = ("pvscsi", "lsilogic", "lsisas1068", "buslogic")
    disks = [{"id": f"d{n}", "bus": "lsilogic", "controller": n // 7, "port": n % 7}
             for n in range(28)]  # fmt: skip
    four = [{"id": bus, "bus": bus, "controller": 9, "port": 0} for bus in buses[1:]]
    with pytest.raises(UnsupportedError, match="no place left"):
        _plan(_config(disk=[*disks, *four]))
    with pytest.raises(UnsupportedError, match="11 network cards"):
        _plan(_config(nic=[{} for _ in range(11)]))


@pytest.mark.parametrize(
    ("needs", "version"),
    [
        ({}, "18"),
        ({"ova": {"hardware": "vmx-21"}}, "21"),
        ({"ova": {"hardware": "vmx-08"}}, "8"),
        ({"ova": {"hardware": "vmx-03"}}, "18"),
        ({"ova": {"hardware": "virtualbox-2.2"}}, "18"),
        ({"ova": {"hardware": "vmx-08"}, "disk": [{"id": "r", "bus": "nvme"}]}, "13"),
        ({"ova": {"hardware": "vmx-08"}, "disk": [{"id": "r", "bus": "sata"}]}, "10"),
        ({"ova": {"hardware": "vmx-08"}, "tpm": {}}, "14"),
    ],
)
def test_hardware_versions(needs: dict[str, Any], version: str) -> None:
    """VMX-HW-1: its own, or the first with its devices (open-semantic-search#96)."""
    data = {"disk": [{"id": "r", "bus": "pvscsi"}], "nic": [{"model": "e1000"}], **needs}
    assert _written(**data).get("virtualHW.version") == version


def test_uuids_are_what_the_guest_read_before() -> None:
    number = "564d96af-e646-bd86-5c4d-654e7736ef31"
    straight = "56 4d 96 af e6 46 bd 86-5c 4d 65 4e 77 36 ef 31"
    swapped = "af 96 4d 56 46 e6 86 bd-5c 4d 65 4e 77 36 ef 31"
    old = {"ova": {"hardware": "vmx-10"}, "disk": [{"id": "r", "bus": "pvscsi"}]}
    assert _written(uuid=number, **old).get("uuid.bios") == straight
    new = _written(uuid=number)
    assert new.get("uuid.bios") == swapped
    # VMware would otherwise ask whether it was moved or copied, and make a new one.
    assert new.get("uuid.action") == "keep"


@pytest.mark.parametrize(
    ("family", "model", "word"),
    [
        ("linux", "virtio-net", "vmxnet3"),
        ("windows", "virtio-net", "e1000e"),
        (None, "virtio-net", "e1000"),
        (None, "pcnet", "vlance"),
        (None, "rtl8139", "e1000"),
        (None, "igb", "e1000e"),
        (None, "vmxnet3", "vmxnet3"),
    ],
)
def test_cards_that_the_guest_has_drivers_for(family: str | None, model: str, word: str) -> None:
    vmx = _written(**{"guest-os": {"family": family} if family else {}, "nic": [{"model": model}]})
    assert vmx.get("ethernet0.virtualDev") == word


@pytest.mark.parametrize(
    ("mac", "unchecked"),
    [("00:50:56:3f:ff:ff", False), ("00:50:56:40:00:00", True), ("52:54:00:12:34:56", True)],
)
def test_any_address_stays(mac: str, unchecked: bool) -> None:
    """VMX-NIC-2: outside 00:50:56:00 to 3f VMware takes it if told not to check."""
    vmx = _written(nic=[{"mac": mac}])
    assert (vmx.get("ethernet0.addressType"), vmx.get("ethernet0.address")) == ("static", mac)
    assert ("ethernet0.checkMACAddress" in vmx) is unchecked


@pytest.mark.parametrize("network", ["user", "bridged", "hostonly", "VMnet3", "DMZ 1", "none"])
def test_networks_are_read_back(network: str) -> None:
    data = _plan(_config(nic=[{"network": network}])).render({})[0].data
    [nic] = read_vmx(data).config.nics or ()
    assert nic.network == network


@pytest.mark.parametrize("boot", [[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 3, 2], [None, None, 1]])
def test_boot_orders_are_read_back(boot: list[int | None]) -> None:
    disks: list[dict[str, Any]] = [
        {"id": "a", "bus": "pvscsi"},
        {"id": "b", "bus": "pvscsi"},
        {"id": "cd", "kind": "cdrom", "bus": "sata", "empty": True},
    ]
    for disk, place in zip(disks, boot, strict=True):
        disk |= {} if place is None else {"boot": place}
    config = _config(disk=disks)
    plan = _plan(config)
    found = [one.boot for one in read_vmx(plan.render({})[0].data).config.disks or ()]
    mixed = "approximated" in {v for k, v in _verdicts(plan).items() if k.endswith(".boot")}
    wanted = [one.boot for one in config.disks or ()]
    assert mixed is (boot == [1, 3, 2])
    if not mixed and None not in boot:
        order = [n for n, _ in sorted(enumerate(wanted), key=lambda pair: pair[1] or 0)]
        assert [n for n, _ in sorted(enumerate(found), key=lambda pair: pair[1] or 0)] == order


METACHARACTERS = "a\"b|c#d$e`f;g&h'i\\j%k<l>m=n,o"


def test_metacharacters_stay_in_their_value() -> None:
    """VMX-SYN-8: whatever a field holds, the file has the lines that it would have. hostile: 43"""
    plain = _written(name="vm", description="x")
    config = _config(
        name=METACHARACTERS.replace("\\", ""),
        description=f'{METACHARACTERS}\n.encoding = "EBCDIC"\nscsi9.present = "TRUE"',
        verbatim={
            "vmware": [
                {"key": "guestinfo.x", "value": f'{METACHARACTERS}\nscsi3.present = "TRUE"'},
                {"key": 'x = "y"', "value": "z"},
            ]
        },
    )
    plan = _plan(config)
    vmx = _vmx(plan)
    assert {key for key, _ in vmx} - {key for key, _ in plain} == {"guestinfo.x"}
    assert vmx.get("displayName") == config.name
    assert vmx.get("annotation") == config.description
    assert _verdicts(plan)['x = "y"'] == "dropped"
    again = read_vmx(plan.render({})[0].data).config
    assert (again.name, again.description) == (config.name, config.description)
    [instruction, _] = plan.instructions
    echoed = run(["sh", "-c", instruction.replace("vmrun -T ws start", "printf %s")]).stdout
    assert echoed.decode() == f"./{plan.render({})[0].name}"


@given(st.text(min_size=1, max_size=40))
def test_file_names_are_names_everywhere(name: str) -> None:
    stem = file_stem(name)
    assert stem
    assert not re.search(r'[<>:"|?*/\\\x00-\x1f]', stem)
    assert len(stem.encode()) <= 125
    assert stem == stem.strip(" ")
    assert not stem.endswith(".")
    assert file_stem("CON") == "vm-CON"
    assert image_name("aux", is_cdrom=False) == "disk-aux.vmdk"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("serial3.fileName", "/dev/sda"),
        ("scsi3:0.fileName", "/etc/shadow"),
        ("ide0:0.fileName", "other.vmdk"),
        ("sharedFolder0.hostPath", "C:\\Users"),
        ("pciPassthru0.id", "00000:001:00.0"),
        ("RemoteDisplay.vnc.password", "hunter2"),
        ("scsi2:0.mode", "persistent"),
        ("ethernet7.virtualDev", "e1000"),
        ("scsi0:0.fileName", "../../x.vmdk"),
    ],
)
def test_a_strangers_bundle_names_nothing_of_this_host(key: str, value: str) -> None:
    """VMX-BACK-1: CFG-FORM-4 is the importer's duty; the exporter does not rely on it."""
    plan = _plan(_config(verbatim={"vmware": [{"key": key, "value": value}]}))
    vmx = _vmx(plan)
    assert vmx.get(key) != value
    assert _verdicts(plan)[key] == "dropped"


def test_the_nvram_of_vmwares_goes_back_to_it() -> None:
    plan = _plan(_config(firmware={"kind": "uefi"}), {"vmware-nvram": b"MRVN"})
    vmx, nvram = plan.render({})
    assert (vmx.name, nvram.name, nvram.data) == ("vm.vmx", "vm.nvram", b"MRVN")
    assert _vmx(plan).get("nvram") == "vm.nvram"
