"""Proxmox VE: qm configs and backups, read. Clauses: specs/hypervisors/proxmox.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from tests.support.disks import disk_bytes, write_sparse
from tests.support.proxmox import DISKS, OLD, TPM_STATE, TYPICAL, backup, parsed, report_of
from tests.support.spec_tables import clauses
from tests.support.vma import Vma
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors.base import ConfigSource
from vmpack.hypervisors.proxmox import HYPERVISOR
from vmpack.hypervisors.proxmox.read import read
from vmpack.ops.pack import pack
from vmpack.units import GiB


def test_a_typical_config() -> None:
    """PVE-READ-1, PVE-READ-2, PVE-READ-3: and snapshots are left behind."""
    found = parsed(TYPICAL)
    config = found.config
    assert (config.name, config.description) == ("shop", "Shop: the shop\nsecond line")
    assert config.machine == "pc-q35-8.1"
    assert (config.cpu.sockets, config.cpu.cores) == (2, 4)
    assert config.cpu.model == "Nehalem-v1"
    assert config.cpu.flags == ("+aes", "+pcid", "-spec-ctrl")
    assert config.memory == 4 * GiB
    assert (config.firmware.kind, config.firmware.secure_boot) == ("uefi", True)
    assert config.tpm is not None
    assert config.tpm.version == "2.0"
    assert config.uuid == "6e1d8a9c-3b6f-4bd4-9d0e-112233445566"
    assert config.smbios.system.manufacturer == "Acme"
    assert config.guest_agent is True
    assert config.display.model == "none"
    disks = {one.id: one for one in config.disks or ()}
    assert list(disks) == ["ide2", "scsi0", "scsi1"]
    assert (disks["ide2"].bus, disks["ide2"].empty, disks["ide2"].port) == ("sata", True, 2)
    assert (disks["scsi0"].bus, disks["scsi0"].boot) == ("virtio-scsi", 1)
    assert (disks["scsi0"].serial, disks["scsi0"].rotation_rate) == ("ab c", 1)
    assert (disks["scsi1"].controller, disks["scsi1"].wwn) == (1, "0x5000c50015ea71aa")
    nics = config.nics or ()
    assert (nics[0].model, nics[0].mac, nics[0].network, nics[0].boot) == (
        *("virtio-net", "bc:24:11:0a:0b:0c", "vmbr0"),
        3,
    )
    assert (nics[1].model, nics[1].network) == ("e1000e", "none")
    assert found.disks["scsi0"].is_volume
    said = report_of(found)
    assert said["[before-upgrade]"][0] == "dropped"
    assert said["ide2"][0] == "approximated"
    assert said["efidisk0"][0] == "approximated"
    keys = {one.key for one in config.verbatim["proxmox"]}
    assert {"scsi0.discard", "scsi0.iothread", "net0.tag", "balloon", "onboot", "tags"} <= keys


def test_an_old_config_keeps_the_slots_that_the_guest_knows() -> None:
    """PVE-PCI-1: the card of net0 stays ens18."""
    # note: NIC renamed because the PCI slot changed (proxcenter-ui#554)
    config = parsed(OLD).config
    assert config.machine == "pc-i440fx-7.2"
    assert (config.nics or ())[0].address == "00:12.0"
    disks = {one.id: one for one in config.disks or ()}
    assert disks["virtio0"].address == "00:0a.0"
    assert (disks["scsi7"].bus, disks["scsi7"].controller, disks["scsi7"].port) == (
        "lsilogic",
        1,
        0,
    )
    assert (disks["ide3"].bus, disks["ide3"].port, disks["ide3"].unit) == ("ide", 1, 1)
    assert {(one.bus, one.index): one.address for one in config.controllers} == {
        ("lsilogic", 0): "00:05.0",
        ("lsilogic", 1): "00:06.0",
    }
    order = {one.boot: one.id for one in config.disks or () if one.boot}
    assert order == {1: "virtio0", 2: "ide0"}
    assert (config.nics or ())[0].boot == 3


HOST = {
    "args": "-device vfio-pci,host=01:00.0",
    "hookscript": "local:snippets/x.pl",
    "hostpci0": "0000:01:00.0,pcie=1",
    "usb0": "host=1234:5678",
    "parallel0": "/dev/parport0",
    "cicustom": "user=local:snippets/u.yaml",
    "cipassword": "$5$abc$def",
    "unused0": "local-lvm:vm-100-disk-7",
    "lock": "backup",
}


@pytest.mark.parametrize("key", HOST)
def test_what_is_the_hosts_stays_with_the_host(key: str) -> None:
    """PVE-READ-5, CFG-FORM-4."""
    # hostile: 46
    found = parsed(f"{OLD}{key}: {HOST[key]}\n")
    assert report_of(found)[key][0] == "dropped"
    assert HOST[key] not in json.dumps(found.config.to_json_dict())


def test_every_option_is_accounted_for() -> None:
    """PVE-READ-4."""
    for text in (TYPICAL, OLD):
        said = set(report_of(parsed(text)))
        for line in text.partition("\n[")[0].splitlines():
            key = line.partition(":")[0]
            if not line.startswith("#"):
                assert any(one == key or one.startswith(f"{key}.") for one in said), key


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("memory: lots", "memory"),
        ("cores: -1", "cores"),
        ("cores: 99999", "cores"),
        ("smbios1: uuid=nonsense", "smbios1.uuid"),
        ("smbios1: serial=%%%,base64=1", "smbios1.serial"),
        ("net0: virtio=zz:zz,bridge=vmbr0", "net0"),
        ("startdate: tomorrow", "startdate"),
        ("no option at all", "no option at all"),
        ("scsi99: local:x", "scsi99"),
        ("machine: pc;rm -rf", "machine"),
    ],
)
def test_values_that_are_none(line: str, field: str) -> None:
    """PVE-READ-4: dropped or approximated, never fatal."""
    key = line.partition(":")[0]
    rest = "\n".join(one for one in OLD.splitlines() if not one.startswith(f"{key}:"))
    assert report_of(parsed(f"{rest}\n{line}\n"))[field][0] in ("dropped", "approximated")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff\xfe\xfd", DamagedError),
        (b"a: b\n" * 20000, UnsafeError),
        (b"name: " + b"x" * 70000, UnsafeError),
    ],
)
def test_absurd_configs(data: bytes, error: type[VmpackError]) -> None:
    """PVE-READ-1."""
    # hostile: 7
    with pytest.raises(error):
        read(ConfigSource("100.conf", data))


def test_recognised_by_content() -> None:
    assert HYPERVISOR.recognise is not None
    for text in (TYPICAL, OLD):
        assert HYPERVISOR.recognise("anything", text.encode())
        assert HYPERVISOR.recognise("100.conf", text.replace("\n", "\r\n").encode())
    for text in (
        "name: x\nmemory: 2\n",
        "kind: VirtualMachine\nspec:\n  memory: 4\n",
        "",
        "memory = 4",
    ):
        assert not HYPERVISOR.recognise("a.yaml", text.encode())


@pytest.mark.parametrize("suffix", [".vma", ".vma.zst"])
def test_a_backup_becomes_a_bundle(tmp_path: Path, suffix: str) -> None:
    """PVE-READ-6: disks, variables and the TPM's state; VMA-READ-3."""
    # note: vTPM state lost (virtnbdbackup#169); NVRAM missing: no boot (packer-plugin-vsphere#95)
    source = tmp_path / f"vzdump-qemu-100{suffix}"
    data = backup()
    source.write_bytes(zstandard.compress(data) if suffix.endswith("zst") else data)
    out = tmp_path / "shop.vmpack"
    result = pack([source], out)
    assert result.report is not None
    with Bundle.open(out) as bundle:
        assert {one.id for one in bundle.manifest.disks} == {"scsi0", "scsi1"}
        for one in bundle.manifest.disks:
            disk = bundle.disk(one.id)
            assert disk.read(0, disk.virtual_size) == DISKS[f"drive-{one.id}"]
        assert bundle.blob("nvram") == disk_bytes(540672, seed=3)
        assert bundle.blob("tpm-state") == TPM_STATE
        assert bundle.manifest.config["name"] == "shop"


def test_volumes_are_named_by_the_user(tmp_path: Path) -> None:
    """PVE-READ-7."""
    # note: Proxmox names volumes, not paths: the user says which file is which disk
    source = tmp_path / "100.conf"
    source.write_text(TYPICAL)
    write_sparse(tmp_path / "a.raw", DISKS["drive-scsi0"])
    write_sparse(tmp_path / "vm-100-disk-3", DISKS["drive-scsi1"])
    with pytest.raises(UsageError, match="a volume") as caught:
        pack([source], tmp_path / "x.vmpack")
    assert "--disk scsi0=PATH --disk scsi1=PATH" in str(caught.value.hint)
    write_sparse(tmp_path / "b.raw", DISKS["drive-scsi1"])
    disks = {"scsi0": tmp_path / "a.raw", "scsi1": tmp_path / "b.raw"}
    pack([source], tmp_path / "x.vmpack", disks=disks)


def test_an_archive_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "x.vma"
    path.write_bytes(Vma({"other.txt": b"hello"}, DISKS).build())
    with pytest.raises(UnsupportedError, match="without a config"):
        pack([path], tmp_path / "x.vmpack")


def test_registered() -> None:
    assert hypervisors.get("proxmox") is HYPERVISOR


def test_every_clause_is_tested() -> None:
    text = "".join(one.read_text() for one in Path(__file__).parent.glob("test_hv_proxmox*.py"))
    assert {one for one in clauses("hypervisors/proxmox.md") if one not in text} == set()
