"""VMware machines there and back, and what others' tools make of those that vmpack writes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vmx import read_vmx, vmx_text, write_machine
from vmpack.hypervisors.vmware.syntax import parse
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer
from vmpack.units import MiB


def test_there_and_back_nothing_is_lost(tmp_path: Path, samples: Path) -> None:
    """VMX -> bundle -> VMX: every key that the import did not drop, with its value."""
    source = write_machine(
        tmp_path / "in",
        (samples / "test-i-vmx-4.vmx").read_bytes(),
        ("Windows-7-x64.vmdk",),
    )
    bundle = tmp_path / "w.vmpack"
    report = pack([source], bundle).report
    assert report is not None
    items: Any = report["items"]
    result = export_bundle(bundle, tmp_path / "out", "vmware")
    assert result.report["dropped"] == 0
    after = parse(Path(result.files[0]).read_bytes(), path="out.vmx")
    before = parse(source.read_bytes(), path="in.vmx")
    dropped = {item["field"] for item in items if item["verdict"] == "dropped"}
    renamed = {"scsi0:0.fileName", "ethernet0.addressType", "ethernet0.generatedAddress"}
    renamed |= {"ide1:0.deviceType"}
    for key, value in before:
        if key not in dropped | renamed:
            assert after.get(key) == value, key
    assert after.get("ethernet0.address") == before.get("ethernet0.generatedAddress")


def test_a_machine_is_the_same_after_a_second_trip(tmp_path: Path) -> None:
    """Config -> VMX -> config: equal, apart from what the report says."""
    source = write_machine(tmp_path / "in", vmx_text('firmware = "efi"', 'usb.present = "TRUE"'))
    first = transfer(source, tmp_path / "one", "vmware")
    second = transfer(first.files[0], tmp_path / "two", "vmware")
    assert [Path(one).name for one in first.files] == ["shop.vmx"]
    assert Path(first.files[0]).read_bytes() == Path(second.files[0]).read_bytes()
    one, two = (read_vmx(Path(x.files[0]).read_bytes()).config for x in (first, second))
    assert one == two
    begun = read_vmx(source.read_bytes()).config
    for part in ("name", "uuid", "memory", "cpu", "firmware", "guest_os", "disks", "nics", "ova"):
        assert getattr(one, part) == getattr(begun, part), part


@pytest.mark.qemu
def test_virt_v2v_and_qemu_img_take_what_is_written(tmp_path: Path, qemu_img: QemuImg) -> None:
    """virt-v2v's reader of VMX is not ours, and opens every disk."""
    tool = require_tool("virt-v2v")
    disk = write_sparse(tmp_path / "root.raw", disk_bytes(2 * MiB, seed=3))
    data = write_sparse(tmp_path / "data.raw", disk_bytes(MiB, seed=4))
    config = tmp_path / "vm.toml"
    config.write_text(
        """name = 'Sh|op "1"'
        memory = "1G"
        firmware = {kind = "uefi", secure-boot = true}
        cpu = {sockets = 2, cores = 2}
        guest-os = {family = "linux", id = "debian12"}
        disk = [{id = "root"}, {id = "data", bus = "sata"},
          {id = "cd", kind = "cdrom", bus = "sata", empty = true}]
        nic = [{mac = "52:54:00:12:34:56", network = "bridged"}]
        """
    )
    bundle = tmp_path / "shop.vmpack"
    pack([disk, data], bundle, config_path=config)
    result = export_bundle(bundle, tmp_path / "out", "vmware", strict=True)
    assert json.dumps(result.as_dict())
    for (_, image), raw in zip(result.disks, (disk, data), strict=True):
        qemu_img.assert_clean(image, fmt="vmdk")
        qemu_img.assert_identical(image, raw, fmt_a="vmdk", fmt_b="raw")
        assert b'createType="monolithicSparse"' in Path(image).read_bytes()[:4096]
    done = run([tool, "-i", "vmx", result.files[0], "--print-source"], env={"LC_ALL": "C.UTF-8"})
    shown = re.sub(r"[ \t]+", " ", done.stdout.decode())
    for line in (
        'source name: Sh|op "1"',
        "memory: 1073741824 (bytes)",
        "nr vCPUs: 4",
        "CPU topology: sockets: 2 cores/socket: 2 threads/core: 1",
        "firmware: uefi",
        "0 [scsi]",
        "1 [sata]",
        'Bridge "ethernet0" [vmxnet3]',
    ):
        assert line in shown, shown
    assert b"warning" not in done.stderr, done.stderr


def test_a_new_identity_repeats_nothing_of_the_old_one(tmp_path: Path, samples: Path) -> None:
    """nixops#1173: what VMware derived from the UUID would be there twice."""
    data = (samples / "test-i-vmx-4.vmx").read_bytes()
    source = write_machine(tmp_path / "in", data, ("Windows-7-x64.vmdk",))
    bundle = tmp_path / "w.vmpack"
    pack([source], bundle)
    result = export_bundle(bundle, tmp_path / "out", "vmware", identity="derive")
    text = Path(result.files[0]).read_text()
    for old in ("63 a5 a8", "00:0c:29:94:89:23", "496273699", "63a5a83e"):
        assert old not in text


def test_the_command_line_says_what_became_of_it(tmp_path: Path) -> None:
    path = write_machine(tmp_path / "in", vmx_text('scsi9.x = "/dev/sda"'))
    report = tmp_path / "report.json"
    words = ["convert", path, tmp_path / "out", "--to", "vmware", "--report", report]
    done = run([sys.executable, "-m", "vmpack", *words, "--output", "json"])
    shown = json.loads(done.stdout)
    assert shown["target"] == "vmware"
    assert shown["instructions"] == [
        "vmrun -T ws start ./shop.vmx",
        "vmrun -T fusion start ./shop.vmx",
    ]
    kept = json.loads(report.read_text())
    assert kept["import"]["dropped"] == 1
    strict = run(
        [sys.executable, "-m", "vmpack", *words[:2], tmp_path / "no", *words[3:5], "--strict"],
        check=False,
    )
    assert strict.returncode == 4
    assert b"scsi9.x" in strict.stderr
    assert not (tmp_path / "no").exists()


def test_every_clause_has_a_test() -> None:
    tests = Path(__file__).parent
    page = (tests.parent / "specs/hypervisors/vmware.md").read_text()
    claimed = "".join(path.read_text() for path in tests.glob("test_hv_vmware*.py"))
    assert not [one for one in set(re.findall(r"VMX-[A-Z]+-[0-9]+", page)) if one not in claimed]
