"""A real libvirtd defines, boots and hands over what vmpack writes for it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.guests import OVMF
from tests.support.libvirt import Libvirt, libvirtd
from tests.support.qemu import QemuImg
from tests.support.tools import run
from vmpack.bundle import Bundle
from vmpack.errors import InputError, UnsafeError, UsageError
from vmpack.hypervisors.report import Verdict
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops import importing
from vmpack.ops.exporting import ExportResult
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer

pytestmark = pytest.mark.qemu
MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirt]:
    with libvirtd() as found:
        yield found


def for_tcg(xml: Path) -> Path:
    """The XML as the printed instruction makes it for a host without KVM."""
    text = xml.read_text()
    assert text.count('<domain type="kvm"') == 1
    xml.write_text(text.replace('<domain type="kvm"', '<domain type="qemu"'))
    return xml


def made(folder: Path, toml: str, *disks: str, blobs: dict[str, bytes] | None = None) -> Path:
    """A bundle of small random disks."""
    folder.mkdir(exist_ok=True)
    images = []
    for number, disk in enumerate(disks):
        images.append(folder / f"{disk}.raw")
        random_disk(images[-1], MIB, seed=number + 1)
    kept = {}
    for name, data in (blobs or {}).items():
        kept[name] = folder / name
        kept[name].write_bytes(data)
    bundle = folder / "x.vmpack"
    title = None if toml.startswith("name") else "x"
    config = MachineConfig.from_toml('memory = "64M"\n' + toml)
    pack(images, bundle, config=config, blobs=kept, name=title)
    return bundle


VARIANTS = {
    "plain": "",
    "metacharacters": 'name = "a <&>\\"\' $(x) `y`; é"\ndescription = "]]> <b>&"\n'
    '[smbios.system]\nserial = "a,b=c<>&\'"\n[smbios]\noem-strings = ["x,y=z", "<&>"]\n',
    "i440fx": 'machine = "pc-i440fx-7.2"\n[[disk]]\nid = "root"\nbus = "ide"\nport = 1\nunit = 1\n'
    '[[nic]]\nmodel = "pcnet"\n[[nic]]\nmodel = "ne2k"\nnetwork = "none"\n',
    "scsi": '[[disk]]\nid = "root"\nbus = "lsilogic"\nport = 5\n[[disk]]\nid = "b"\n'
    'bus = "virtio-scsi"\nport = 77\nwwn = "0x5000c50015ea71ad"\n[[disk]]\nid = "c"\n'
    'bus = "lsisas1068"\n[[disk]]\nid = "d"\nbus = "pvscsi"\nrotation-rate = 1\n',
    "devices": 'input = "usb-tablet"\n[tpm]\n[display]\nmodel = "qxl"\n[rtc]\n'
    'start = "2026-01-31T12:00:00"\n[[disk]]\nid = "root"\nlogical-block-size = 4096\n'
    '[[disk]]\nid = "cd"\nkind = "cdrom"\nbus = "sata"\n[[disk]]\nid = "e"\nkind = "cdrom"\n'
    'bus = "sata"\nempty = true\n[[nic]]\nmodel = "igb"\nnetwork = "lan 0"\nmtu = 1400\nboot = 2\n',
    "bare": "pvpanic = false\nguest-agent = false\nserial = []\nnic = []\n[display]\n"
    'model = "none"\n[rng]\nmodel = "none"\n',
    "uefi": '[firmware]\nkind = "uefi"\n[guest-os]\nfamily = "linux"\nid = "debian12"\n',
    "secure": '[firmware]\nkind = "uefi"\nsecure-boot = true\n',
    "cpu": '[cpu]\nmodel = "Haswell-v4"\nflags = ["-lahf-lm", "+aes", "-pclmulqdq", "+sse4.2"]\n'
    "sockets = 2\ncores = 2\nthreads = 2\n",
    "functions": "".join(f'[[disk]]\nid = "d{n}"\n' for n in range(13)),
}


@pytest.mark.parametrize("in_place", [False, True], ids=["disks", "in-place"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_virsh_defines_what_is_written(
    variant: str, in_place: bool, daemon: Libvirt, tmp_path: Path
) -> None:
    """LV-OUT-1, LV-OUT-5, LV-OUT-6, hostile: 43; schema and libvirt's checks."""
    toml = VARIANTS[variant]
    ids = re.findall(r'id = "([a-z0-9]+)"\n(?!kind = "cdrom"\nbus = "sata"\nempty)', toml)
    ids = [one for one in ids if one != "debian12"] or ["root"]
    bundle = made(tmp_path / "b", toml, *ids)
    result = export_bundle(bundle, tmp_path / "out", "libvirt", in_place=in_place)
    (xml,) = (Path(name) for name in result.files if name.endswith(".xml"))
    with Bundle.open(bundle) as opened:
        name = str(opened.config.name)
    with daemon.defined(for_tcg(xml), name):
        back = daemon.virsh("dumpxml", "--inactive", "--domain", name).encode()
    # Nothing is added that the guest would see, and nothing is moved.
    again = tmp_path / "again.xml"
    again.write_bytes(back)
    found = importing.find(again)
    assert found is not None
    imported = importing.read_config(found)
    assert imported.report.count(Verdict.DROPPED) == 0, list(imported.report.of(Verdict.DROPPED))
    with Bundle.open(bundle) as opened:
        ours = opened.config
    theirs = pinned(imported.config, ids)
    assert without(theirs.to_json_dict()) == without(ours.to_json_dict())


def pinned(config: MachineConfig, ids: list[str]) -> MachineConfig:
    facts = [DiskFacts(one, MIB) for one in ids]
    return pin(config, facts, seed=b"x")


def without(config: dict[str, Any]) -> dict[str, Any]:
    """A config in one order, without what a user network does not have and what was carried."""
    found = {key: value for key, value in config.items() if key != "verbatim"}
    listed = found.get("controller", ())
    found["controller"] = sorted(listed, key=lambda one: (one["bus"], one["index"]))
    return found


def domain_of(result: ExportResult) -> Path:
    """The XML of an export, for a host without KVM."""
    (xml,) = (Path(name) for name in result.files if name.endswith(".xml"))
    return for_tcg(xml)


def test_the_instruction_for_hosts_without_kvm_is_right(daemon: Libvirt, tmp_path: Path) -> None:
    """LV-OUT-2, LV-OUT-3."""
    bundle = made(tmp_path / "b", 'name = "it\'s $HOME"\n', "root")
    result = export_bundle(bundle, tmp_path / "o u't", "libvirt")
    strict, other, start = result.instructions
    assert strict.startswith("virsh define --validate ")
    assert start == "virsh start -- 'it'\"'\"'s $HOME'"
    virsh = f"virsh --connect {daemon.uri!r}"
    other = other.replace("virsh define", f"{virsh} define")
    try:
        done = run(["sh", "-c", other])
        assert b"Domain 'it's $HOME' defined" in done.stdout
    finally:
        daemon.virsh("undefine", "--domain", "it's $HOME", check=False)


@pytest.mark.slow
def test_the_bios_guest_boots(daemon: Libvirt, guest_bios: Path) -> None:
    """LV-LIVE-2: It reaches the milestones of ``vmpack verify``; a running domain is not packed."""
    work = Path(tempfile.mkdtemp(dir=daemon.folder))
    bundle = work / "bios.vmpack"
    pack([guest_bios], bundle, config=MachineConfig.from_toml('memory = "256M"'), name="lv-bios")
    result = export_bundle(bundle, work / "out", "libvirt")
    daemon.give(work)
    with daemon.defined(domain_of(result), "lv-bios"):
        said = daemon.wait_console("lv-bios", b"vmpack-small login:")
        with pytest.raises(UnsafeError, match="is running") as caught:
            pack([f"libvirt:{daemon.uri}#lv-bios"], work / "again.vmpack")
    assert "virsh shutdown" in (caught.value.hint or "")
    assert said.index(b"Linux version") < said.index(b"vmpack-small login:")


@pytest.mark.slow
def test_the_uefi_guest_boots_in_place_with_its_nvram(
    daemon: Libvirt, guest_uefi: Path, qemu_img: QemuImg
) -> None:
    """LV-INP-1, LV-INP-2, LV-OUT-4, xen-orchestra#6054: variables are in the export's file.

    The bundle stays as it is, even where somebody commits the overlay into it.
    """
    work = Path(tempfile.mkdtemp(dir=daemon.folder))
    bundle = work / "uefi.vmpack"
    nvram = work / "nvram"
    nvram.write_bytes((OVMF / "OVMF_VARS_4M.fd").read_bytes())
    config = MachineConfig.from_toml('memory = "512M"')
    pack([guest_uefi], bundle, config=config, name="lv-uefi", blobs={"nvram": nvram})
    before = bundle.read_bytes()
    result = export_bundle(bundle, work / "out", "libvirt", in_place=True)
    daemon.give(work)
    variables = work / "out/lv-uefi_VARS.fd"
    assert variables.read_bytes() == nvram.read_bytes()
    with daemon.defined(domain_of(result), "lv-uefi"):
        said = daemon.wait_console("lv-uefi", b"vmpack-small login:")
        assert variables.read_bytes() != nvram.read_bytes()
        descriptors = daemon.open_files("lv-uefi", bundle)
        assert descriptors
        assert all(flags & os.O_ACCMODE == os.O_RDONLY for flags in descriptors)
        words = ["--domain", "lv-uefi", "--path", "vda", "--active", "--pivot", "--wait"]
        assert "rror" in daemon.virsh("blockcommit", *words, check=False)
    assert b"Linux version" in said
    assert bundle.read_bytes() == before
    qemu_img.run("check", "-f", "qcow2", work / "out/root.qcow2")


def test_a_domain_that_is_off_is_packed(daemon: Libvirt, tmp_path: Path) -> None:
    """LV-LIVE-1, LV-LIVE-3: files of the domain's own XML are followed, its NVRAM too."""
    bundle = made(tmp_path / "b", VARIANTS["uefi"], "root", blobs={"nvram": b"\xff" * 540672})
    work = Path(tempfile.mkdtemp(dir=daemon.folder))
    result = export_bundle(bundle, work / "out", "libvirt")
    with daemon.defined(domain_of(result), "x"):
        address = f"libvirt:{daemon.uri}#x"
        packed = pack([address], tmp_path / "again.vmpack")
        with Bundle.open(bundle) as one, Bundle.open(packed.path) as two:
            assert one.disks[0].content_digest == two.disks[0].content_digest
            assert one.blob("nvram") == two.blob("nvram")
            assert one.machine_id == two.machine_id
        for bad in ("libvirt:///nobody", "libvirt:test:///default#test", f"libvirt:{daemon.uri}#"):
            with pytest.raises((InputError, UsageError)):
                pack([bad], tmp_path / "no.vmpack")
        with pytest.raises(InputError, match="failed to get domain"):
            transfer(f"libvirt:{daemon.uri}#other", tmp_path / "o", "libvirt")


def test_a_storage_volume_becomes_its_file(daemon: Libvirt, tmp_path: Path) -> None:
    """Field note "Proxmox, xl, KubeVirt and libvirt pools": a live libvirt knows the file."""
    bundle = made(tmp_path / "b", "", "root")
    work = Path(tempfile.mkdtemp(dir=daemon.folder))
    result = export_bundle(bundle, work / "out", "libvirt")
    daemon.give(work)
    daemon.virsh("pool-create-as", "--name", "lv", "--type", "dir", "--target", work / "out")
    try:
        xml = domain_of(result)
        text = xml.read_text().replace('<disk type="file"', '<disk type="volume"')
        source = f'<source file="{work}/out/root.qcow2" />'
        assert source in text
        xml.write_text(text.replace(source, '<source pool="lv" volume="root.qcow2" />'))
        with daemon.defined(xml, "x"):
            packed = pack([f"libvirt:{daemon.uri}#x"], tmp_path / "again.vmpack")
            with Bundle.open(bundle) as one, Bundle.open(packed.path) as two:
                assert one.disks[0].content_digest == two.disks[0].content_digest
        with pytest.raises(UsageError, match="a volume, not a file") as caught:
            pack([xml], tmp_path / "no.vmpack")
        assert "--disk root=PATH" in (caught.value.hint or "")
        named = pack([xml], tmp_path / "named.vmpack", disks={"root": work / "out/root.qcow2"})
        assert named.disks[0]["content-digest"] == packed.disks[0]["content-digest"]
    finally:
        daemon.virsh("pool-destroy", "lv")
