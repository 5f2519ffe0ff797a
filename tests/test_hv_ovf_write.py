"""OVAs that are written: what VMware's and VirtualBox's importers trip over, line by line."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support import hv
from tests.support.ova import TARGETS, Written, written
from tests.support.ovf import opened
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.errors import UsageError
from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.base import ExportDisk, Machine, WrittenDisk
from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.plan import file_stem, plan
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops.archive import header

APPLIANCE = """
[ova]
product = "Shop"
vendor = "Example & Co"
version = "1"
full-version = "1.2.3"
product-url = "http://example.com/p"
vendor-url = "http://example.com/"
application-url = "http://${ip}/"
annotation = "take care"
eula = ["one", "two\\n  lines"]

[[ova.property]]
key = "ip"
type = "ip"
value = "10.0.0.1"
label = "Address"
description = "of the shop"
category = "Network"
user-configurable = true

[[ova.property]]
key = "secret"
type = "password"
category = "Network"

[[ova.property]]
key = "debug"
type = "boolean"
value = ""
category = "Other"
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hv.bundle_of(tmp_path_factory.mktemp("ova"), hv.UEFI + APPLIANCE)


def require_structure(found: Written) -> None:
    """What DSP0243 asks of an envelope, held without its schema, which may not be copied."""
    root = found.root
    space = xmlsafe.split(root.tag)[0]
    ovf = f"{{{space}}}"
    assert [xmlsafe.local(one.tag) for one in root] == [
        "References",
        "DiskSection",
        "NetworkSection",
        "VirtualSystem",
    ]
    files = {one.get(f"{ovf}id"): one for one in root.iter(f"{ovf}File")}
    assert [one.get(f"{ovf}href") for one in files.values()] == [
        one.name for one in found.members if not one.name.endswith((".ovf", ".mf"))
    ], "OVF-WRITE-1: the order of the References"
    for one in files.values():
        assert one.get(f"{ovf}size") == str(len(found.data[one.get(f"{ovf}href") or ""]))
    disks = {one.get(f"{ovf}diskId"): one for one in root.iter(f"{ovf}Disk")}
    for one in disks.values():
        assert one.get(f"{ovf}fileRef") in files
        assert one.get(f"{ovf}capacityAllocationUnits") == "byte"
    networks = {one.get(f"{ovf}name") for one in root.iter(f"{ovf}Network")}
    items = found.items()
    numbers = [one["InstanceID"] for one in items]
    assert len(set(numbers)) == len(numbers)
    for item in items:
        assert item["ElementName"]
        assert item.get("Parent", numbers[0]) in numbers
        kind, _, name = item.get("HostResource", "").rpartition("/")
        assert name in (disks if kind == "ovf:/disk" else files) or not name
        assert item.get("Connection", min(map(str, networks))) in networks
        properties = [key for key in item if key in names.ORDER]
        assert properties == sorted(properties, key=names.ORDER.index), "a sequence in XML Schema"
    for section in root.iter():
        if xmlsafe.local(section.tag).endswith("Section"):
            assert xmlsafe.local(section[0].tag) == "Info"
    (hardware,) = root.iter(f"{ovf}VirtualHardwareSection")
    tags = [xmlsafe.local(one.tag) for one in hardware]
    assert tags == sorted(
        tags,
        key=(
            "Info",
            "System",
            "Item",
            "StorageItem",
            "EthernetPortItem",
            "Config",
            "ExtraConfig",
        ).index,
    )


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("to", TARGETS)
def test_the_archive(to: str, version: str, bundle: Path, tmp_path: Path) -> None:
    """image-builder#431, coreos-assembler#1141, gardenlinux#2322, packer#8995, open-vmdk#65:
    the .ovf first, then the manifest, disks in order; true sizes and capacities; ustar.
    OVF-WRITE-1, OVF-WRITE-2, OVF-WRITE-5."""
    found = written(bundle, tmp_path, to, **{"ovf-version": version})
    assert [one.name for one in found.members] == [
        "shop.ovf",
        "shop.mf",
        "shop-root.vmdk",
        "shop-data.vmdk",
    ]
    raw = found.path.read_bytes()
    for one in found.members:
        assert raw[one.offset + 257 : one.offset + 265] == b"ustar\x0000", "ustar, no PAX"
        assert (one.type, one.pax_headers, one.mode) == (tarfile.REGTYPE, {}, 0o644)
    assert len(raw) % 10240 == 0
    require_structure(found)
    ovf = f"{{{names.OVF2 if version == '2.0' else names.OVF1}}}"
    sizes = [one.get(f"{ovf}capacity") for one in found.root.iter(f"{ovf}Disk")]
    assert sizes == [str(hv.SIZES["root"]), str(hv.SIZES["data"])]
    assert all(
        "streamOptimized" in (one.get(f"{ovf}format") or "")
        for one in found.root.iter(f"{ovf}Disk")
    )


def test_large_members() -> None:
    """open-vmdk#65: GNU's form above 8 GiB, since vSphere reads no PAX."""
    for size in (8 << 30, 100 << 30, 62 << 40):
        head = header("disk.vmdk", size)
        assert len(head) == 512
        assert head[257:265] == b"ustar  \0"
        assert tarfile.TarInfo.frombuf(head, "utf-8", "strict").size == size
    assert header("disk.vmdk", (8 << 30) - 1)[257:265] == b"ustar\x0000"


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "none"])
def test_manifests(algorithm: str, bundle: Path, tmp_path: Path) -> None:
    """haos#826, MISP#3947, haos#3654: no space before the parenthesis; SHA1 for some, none for
    others; every file but the manifest itself. OVF-WRITE-4."""
    found = written(bundle, tmp_path, "ova", manifest=algorithm)
    listed = [one.name for one in found.members if not one.name.endswith(".mf")]
    if algorithm == "none":
        assert "shop.mf" not in found.data
        return
    lines = found.data["shop.mf"].decode().splitlines()
    for name, line in zip(listed, lines, strict=True):
        digest = hashlib.new(algorithm, found.data[name]).hexdigest()
        assert line == f"{algorithm.upper()}({name})= {digest}"


@pytest.mark.qemu
@pytest.mark.parametrize("to", TARGETS)
def test_the_disks(to: str, bundle: Path, tmp_path: Path, qemu_img: QemuImg) -> None:
    """haos#1695, kiwi#1847, lmeve#45: lsilogic and never ide, streamOptimized; a CID that is none
    of VMware's reserved ones, hardware version, tools version, geometry, UUID."""
    found = written(bundle, tmp_path / "out", to)
    for disk_id in hv.SIZES:
        image = tmp_path / f"{disk_id}.vmdk"
        image.write_bytes(found.data[f"shop-{disk_id}.vmdk"])
        facts = qemu_img.json("info", "-f", "vmdk", image)
        assert facts["format-specific"]["data"]["create-type"] == "streamOptimized"
        qemu_img.assert_clean(image, fmt="vmdk")
        qemu_img.run("compare", "-f", "raw", "-F", "vmdk", bundle.parent / f"{disk_id}.raw", image)
        text = image.read_bytes()[512 : 1024 + 512].decode("ascii", "ignore")
        assert 'ddb.adapterType = "lsilogic"' in text
        assert "ide" not in text
        cid = re.search(r"CID=([0-9a-f]{8})", text)
        assert cid is not None
        assert cid[1] not in ("ffffffff", "fffffffe")
        hardware = {"ova": "10", "esxi": "13", "virtualbox": "4"}[to]
        assert f'ddb.virtualHWVersion = "{hardware}"' in text
        for key in ("ddb.toolsVersion", "ddb.geometry.sectors", "ddb.uuid"):
            assert key in text, key


def test_hardware_families(bundle: Path, tmp_path: Path) -> None:
    """open-semantic-search#96, packetfence#5522: vmx-NN but for VirtualBox; no PIIX4 elsewhere."""
    for to, family in (("ova", "vmx-10"), ("esxi", "vmx-13"), ("virtualbox", "virtualbox-2.2")):
        found = written(bundle, tmp_path / to, to)
        assert f"<vssd:VirtualSystemType>{family}<".encode() in found.ovf
        assert (b"PIIX4" in found.ovf) is False
        assert (b"vbox:Machine" in found.ovf) == (to == "virtualbox")


def test_an_iso_and_a_boot_order(tmp_path: Path) -> None:
    toml = """
    name = "with cd"
    [[disk]]
    id = "root"
    bus = "sata"
    boot = 2
    [[disk]]
    id = "install"
    kind = "cdrom"
    bus = "sata"
    boot = 1
    [[nic]]
    boot = 3
    """
    bundle = hv.bundle_of(tmp_path / "b", toml)
    found = written(bundle, tmp_path / "out", "esxi")
    assert found.members[3].name == "with-cd-install.iso"
    assert found.data["with-cd-install.iso"] == (tmp_path / "b/install.raw").read_bytes()
    (cdrom,) = found.items(15)
    assert cdrom["HostResource"] == "ovf:/file/file2"
    with opened(found.path) as (imported, _):
        disks, nics = imported.config.disks or (), imported.config.nics or ()
        assert [(one.kind, one.boot) for one in disks] == [(None, 2), ("cdrom", 1)]
        assert nics[0].boot == 3
    other = written(bundle, tmp_path / "ova", "ova")
    assert b"BootOrder" not in other.ovf


@pytest.mark.parametrize("to", TARGETS)
def test_an_appliance_keeps_its_papers(to: str, bundle: Path, tmp_path: Path) -> None:
    """Product, vendor, licences and properties are there when the OVA is read again."""
    found = written(bundle, tmp_path, to)
    with opened(found.path) as (imported, _):
        before, after = hv.bundle_config(bundle).ova, imported.config.ova
        again = after.model_copy(update={"hardware": None})
        assert again == before
    assert b'ovf:transport="com.vmware.guestInfo"' in found.ovf
    assert b'ovf:password="true"' in found.ovf
    assert b'vmw:qualifiers="Ip"' in found.ovf


def test_lengths_do_not_depend_on_the_disks() -> None:
    """OVF-WRITE-3: the config stands before the disks, and is written after them."""
    config = pin(MachineConfig(), [DiskFacts("root", hv.MIB)], seed=b"x")
    for to in TARGETS:
        made = plan(Machine(config, {"root": ExportDisk("root", hv.MIB, 0)}), to)
        lengths = set()
        for size in (0, 1, 10**9, 10**15):
            digests = {"sha256": hashlib.sha256(b"%d" % size).hexdigest()}
            files = made.render({"root": WrittenDisk(size, digests)})
            assert f'ovf:size="{size}"'.encode() in files[0].data
            lengths.add(tuple(len(one.data) for one in files))
        assert len(lengths) == 1
        assert files == made.render({"root": WrittenDisk(10**15, digests)})


def test_options() -> None:
    config = pin(MachineConfig(), [DiskFacts("root", hv.MIB)], seed=b"x")
    machine = Machine(config, {"root": ExportDisk("root", hv.MIB, 0)}, options={"manifest": "md5"})
    with pytest.raises(UsageError, match="manifest=md5"):
        plan(machine, "ova")


@pytest.mark.parametrize("name", ["a/../b", "Büro & <Söhne>", "..x", "-rf *", "漢字", "a" * 128])
def test_file_names(name: str) -> None:
    """Nothing in a file's name needs escaping in a URI, a manifest, a shell or a tar."""
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}", file_stem(name))


@pytest.mark.qemu
@pytest.mark.parametrize("to", TARGETS)
def test_virt_v2v_takes_it(to: str, bundle: Path, tmp_path: Path) -> None:
    """Another tool's reader finds name, memory, CPUs, firmware, disks, drives and cards."""
    program = require_tool("virt-v2v")
    found = written(bundle, tmp_path, to)
    done = run([program, "--print-source", "-i", "ova", found.path], env={"LC_ALL": "C"})
    said = " ".join(done.stdout.decode().split())
    for text in (
        "source name: shop",
        "hypervisor type: vmware",
        f"memory: {512 << 20} (bytes)",
        "nr vCPUs: 2",
        "0 [sata]",
        "1 [sata]",
        "CD-ROM [sata] in slot",
        "mac: 52:54:00:12:34:56 [e1000]",
        "mac: 52:54:00:12:34:57 [e1000]",
        # VirtualBox keeps the firmware in settings of its own.
        "firmware: bios" if to == "virtualbox" else "firmware: uefi",
    ):
        assert text in said, said


def test_the_command_line(bundle: Path, tmp_path: Path) -> None:
    words = ["unpack", bundle, "--to", "ova", "-o", tmp_path, "--manifest", "sha1"]
    done = run([sys.executable, "-m", "vmpack", *words, "--ovf-version", "2.0"])
    found = Written(tmp_path / "shop.ova")
    assert found.root.tag == f"{{{names.OVF2}}}Envelope"
    assert found.data["shop.mf"].startswith(b"SHA1(shop.ovf)= ")
    assert b"ovftool shop.ova" in done.stdout
