"""Devices in OVAs that are written, and what was carried along, given back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ova import OVF, RASD, VMW, Written, family, planned, subtypes, texts, written
from tests.support.ovf import BASIC, envelope, package, vmdk
from vmpack.errors import UnsupportedError
from vmpack.hypervisors import xmlsafe
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer


@pytest.mark.parametrize(
    ("toml", "lowest"),
    [
        ("", "vmx-13"),
        ('[ova]\nhardware = "vmx-19"', "vmx-19"),
        ('[ova]\nhardware = "vmx-08"', "vmx-08"),
        ('[ova]\nhardware = "vmx-08"\n[[disk]]\nid = "root"\nbus = "sata"', "vmx-10"),
        ('[ova]\nhardware = "vmx-08"\n[[disk]]\nid = "root"\nbus = "nvme"', "vmx-13"),
        ('[ova]\nhardware = "vmx-08"\n[firmware]\nsecure-boot = true', "vmx-13"),
        ('[ova]\nhardware = "vmx-08"\n[tpm]', "vmx-14"),
        ('[ova]\nhardware = "virtualbox-2.2"', "vmx-13"),
    ],
)
def test_a_family_has_what_the_machine_needs(toml: str, lowest: str) -> None:
    """OVF-WRITE-6."""
    root, verdicts = planned(toml)
    assert family(root) == lowest
    if "hardware" in toml:
        kept = f'"{lowest}"' in toml
        assert verdicts["ova.hardware"] == ("kept" if kept else "approximated")


@pytest.mark.parametrize(
    ("to", "bus", "system", "kind", "subtype"),
    [
        ("ova", "virtio-blk", "linux", 6, "lsilogic"),
        ("esxi", "virtio-blk", "linux", 6, "VirtualSCSI"),
        ("esxi", "virtio-scsi", "windows", 20, "vmware.sata.ahci"),
        ("ova", "virtio-blk", "windows", 20, "AHCI"),
        ("esxi", "pvscsi", "linux", 6, "VirtualSCSI"),
        ("esxi", "sata", "linux", 20, "vmware.sata.ahci"),
        ("ova", "sata", "linux", 20, "AHCI"),
        ("esxi", "nvme", "linux", 20, "vmware.nvme.controller"),
        ("esxi", "buslogic", "other", 6, "buslogic"),
        ("virtualbox", "virtio-blk", "linux", 20, "AHCI"),
        ("virtualbox", "virtio-scsi", "linux", 20, "VirtioSCSI"),
        ("virtualbox", "pvscsi", "linux", 20, "AHCI"),
        ("virtualbox", "lsilogic", "linux", 6, "lsilogic"),
        ("virtualbox", "ide", "linux", 5, "PIIX4"),
        ("ova", "ide", "linux", 5, ""),
    ],
)
def test_controllers(to: str, bus: str, system: str, kind: int, subtype: str) -> None:
    """kubevirt#16703: a bus that the importer lacks becomes one that the guest starts from."""
    root, verdicts = planned(
        f'[guest-os]\nfamily = "{system}"\n[[disk]]\nid = "root"\nbus = "{bus}"', to
    )
    assert subtypes(root, kind) == [subtype]
    there = {"virtualbox": ("virtio-blk", "pvscsi")}.get(to, ("virtio-blk", "virtio-scsi"))
    assert verdicts["disk[0].bus"] == ("approximated" if bus in there else "kept")


@pytest.mark.parametrize(
    ("to", "model", "written_as"),
    [
        ("ova", "virtio-net", "E1000"),
        ("esxi", "virtio-net", "VmxNet3"),
        ("virtualbox", "virtio-net", "virtio"),
        ("esxi", "rtl8139", "E1000e"),
        ("ova", "igb", "E1000"),
        ("esxi", "e1000e", "E1000e"),
        ("virtualbox", "e1000e", "E1000"),
        ("esxi", "pcnet", "PCNet32"),
    ],
)
def test_cards(to: str, model: str, written_as: str) -> None:
    """xenadmin#128: a card keeps its MAC address."""
    root, verdicts = planned(f'[[nic]]\nmodel = "{model}"\nmac = "52:54:00:00:00:01"', to)
    assert subtypes(root, 10) == [written_as]
    assert verdicts["nic[0].mac"] == "kept"
    assert root.findtext(f".//{RASD}Address[.='52:54:00:00:00:01']")


def test_firmware() -> None:
    """xen-orchestra#8162, cockpit#17330, packer-plugin-vsphere#95: firmware, Secure Boot, NVRAM."""
    for toml, kind, secure in (
        ("", "bios", None),
        ('[firmware]\nkind = "uefi"', "efi", "false"),
        ("[firmware]\nsecure-boot = true", "efi", "true"),
    ):
        root, _ = planned(toml)
        found = {one.get(f"{VMW}key"): one.get(f"{VMW}value") for one in root.iter(f"{VMW}Config")}
        assert found["firmware"] == kind
        assert found.get("bootOptions.efiSecureBootEnabled") == secure
    root, verdicts = planned('[firmware]\nkind = "uefi"', nvram=b"OVMF", vmware_nvram=b"VMware")
    assert (verdicts["nvram"], verdicts["vmware-nvram"]) == ("dropped", "kept")
    assert [one.get(f"{OVF}href") for one in root.iter(f"{OVF}File")][-1] == "machine.nvram"
    _, verdicts = planned("[tpm]", tpm_state=b"secret")
    assert (verdicts["tpm.version"], verdicts["tpm-state"]) == ("approximated", "dropped")


def test_too_many_drives() -> None:
    drive = 'kind = "cdrom"\nempty = true\nbus = "sata"\n'
    disks = "".join(f'[[disk]]\nid = "d{number}"\n{drive}' for number in range(31))
    toml = f'machine = "pc-i440fx-7.2"\n{disks}[[disk]]\nid = "root"\nbus = "virtio-scsi"'
    with pytest.raises(UnsupportedError, match="no place left on sata"):
        planned(toml, "virtualbox")
    planned(toml, "esxi")
    planned(toml.replace("i440fx", "q35"), "virtualbox")


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("vmware.ovf", "ova"),
        ("vmware.ovf", "esxi"),
        ("ubuntu.2.0.ovf", "ova"),
        ("ubuntu.2.0.ovf", "virtualbox"),
    ],
)
def test_a_foreign_package_there_and_back(
    name: str, to: str, samples: Path, tmp_path: Path
) -> None:
    """OVA -> bundle -> OVA loses nothing: each leaf of the sample is in what is written."""
    text = (samples / name).read_bytes()
    vmdk(tmp_path / "d.vmdk")
    disk = "input.vmdk" if name == "vmware.ovf" else "ubuntu.2.0-disk1.vmdk"
    source = package({name: text, disk: (tmp_path / "d.vmdk").read_bytes()}, tmp_path / "in.ova")
    pack([source], tmp_path / "x.vmpack")
    found = written(tmp_path / "x.vmpack", tmp_path / "out", to)
    before, after = texts(xmlsafe.parse(text, path=name)), texts(found.root)
    lost = {pair for pair in before if pair not in after}
    if name == "vmware.ovf":
        # Its "virtio lsilogic" is read as virtio, which VMware's importers lack.
        gone = {("ResourceSubType", "virtio lsilogic"), ("ElementName", "SCSI controller 0")}
        assert lost <= gone | {("value", "160")}
    else:
        # The items are written from what vbox:Machine says.
        again = {"Caption", "Description", "ResourceSubType", "HostResource", "ResourceType"}
        assert {pair for pair in lost if pair[0] not in again} == set()
    result = export_bundle(tmp_path / "x.vmpack", tmp_path / "again", to)
    items = json.loads(json.dumps(result.report))["items"]
    dropped = {one["field"] for one in items if one["verdict"] == "dropped"}
    assert all("controller:virtio-scsi:0" in one for one in dropped), dropped


HOSTILE_FIELDS = [
    ("disk:root/rasd:ElementName", "</rasd:ElementName></Item></Envelope>", "dropped"),
    ("disk:root/rasd:ElementName", "<rasd:ElementName>a<b/>", "dropped"),
    ("disk:root/rasd:ElementName", "<a/><b/>", "dropped"),
    ("disk:root/rasd:ElementName", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "dropped"),
    ("disk:root/rasd:ElementName", "<rasd:ElementName>mine</rasd:ElementName>", "kept"),
    ("disk:root@xmlns:rasd", "urn:x", "dropped"),
    ("disk:root@nowhere:x", "y", "dropped"),
    ("disk:root@a b", "y", "dropped"),
    ("disk:root@ovf:required", '"><x y="', "kept"),
    ("disk:gone/rasd:Description", "<rasd:Description>x</rasd:Description>", "dropped"),
    (
        "hardware/Item(x)",
        (
            "<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:Parent>place:no"
            "</rasd:Parent><rasd:ElementName>x</rasd:ElementName><rasd:ResourceType>23"
            "</rasd:ResourceType></Item>"
        ),
        "kept",
    ),
    (
        "hardware/vmw:Config(firmware)",
        '<vmw:Config vmw:key="firmware" vmw:value="bios"/>',
        "approximated",
    ),
    ("Envelope@ovf:\u0661", "x", "dropped"),
]


@pytest.mark.parametrize(("key", "value", "verdict"), HOSTILE_FIELDS)
def test_carried_fields_of_a_strangers_bundle(key: str, value: str, verdict: str) -> None:
    """hostile: 43: whatever they say, the envelope stays one, and each has its word."""
    toml = '[firmware]\nkind = "uefi"\n[[disk]]\nid = "root"\n[[verbatim.ovf]]\n'
    root, verdicts = planned(f"{toml}key = {json.dumps(key)}\nvalue = {json.dumps(value)}\n")
    assert verdicts[key] == verdict
    numbers = [one.text for one in root.iter(f"{RASD}InstanceID")]
    assert len(set(numbers)) == len(numbers)
    assert len(list(root.iter(f"{OVF}VirtualSystem"))) == 1
    assert next(one.get(f"{VMW}value") for one in root.iter(f"{VMW}Config")) == "efi"


def test_from_vmware_to_virtualbox_takes_nothing_of_vmwares(tmp_path: Path) -> None:
    """What was carried from one kind of importer is of no use to the other; that is said."""
    extra = '<vmw:Config ovf:required="false" vmw:key="tools.x" vmw:value="1"/>'
    vmdk(tmp_path / "d1.vmdk")
    files = {"vm.ovf": envelope(BASIC + extra), "d1.vmdk": (tmp_path / "d1.vmdk").read_bytes()}
    source = package(files, tmp_path / "in.ova")
    for to, there in (("esxi", True), ("virtualbox", False)):
        result = transfer(source, tmp_path / to, to)
        assert (b"tools.x" in Written(Path(result.files[0])).ovf) is there
