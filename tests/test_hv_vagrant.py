"""Vagrant boxes: what is read of them, and what is written for vagrant-libvirt."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.hypervisors import get, recognise
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.report import Verdict
from vmpack.hypervisors.vagrant.vagrantfile import quoted, settings
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer

MIB = 1 << 20
VAGRANTFILE = """# -*- mode: ruby -*-
Vagrant.configure("2") do |config|
  config.vm.base_mac = "525400AABBCC"
  config.vm.synced_folder "/home/me", "/vagrant"
  config.vm.provider :libvirt do |libvirt|
    libvirt.memory = 2048 # MiB
    libvirt.cpus = 4
    libvirt.cputopology :sockets => '2', :cores => '2', :threads => '1'
    libvirt.machine_type = "q35"
    libvirt.disk_bus = 'sata'
    libvirt.nic_model_type = "e1000e"
    libvirt.video_type = :vga
    libvirt.nested = true
    libvirt.keymap = "de"
    libvirt.cpu_mode = "host-passthrough"
    libvirt.loader = "/usr/share/OVMF/OVMF_CODE.fd"
    libvirt.emulator_path = "/usr/bin/qemu"
    system("touch /tmp/pwned")
    libvirt.title = "#{`id`}"
  end
end
"""


def box(path: Path, members: dict[str, bytes], *, gz: bool = True) -> Path:
    """A box of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(buffer.getvalue(), 1) if gz else buffer.getvalue())
    return path


def raw(seed: int) -> bytes:
    return bytes(4096) + bytes([seed]) * MIB + bytes(MIB - 4096)


def read(metadata: Any, extra: dict[str, bytes] | None = None) -> Imported:
    hypervisor = get("vagrant")
    assert hypervisor.read is not None
    data = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return hypervisor.read(ConfigSource("metadata.json", data, {}, extra or {}))


def verdicts(imported: Imported, verdict: Verdict) -> dict[str, str]:
    return {item.field: item.detail for item in imported.report.of(verdict)}


@pytest.mark.parametrize("gz", [True, False], ids=["gzip", "tar"])
def test_a_box_of_format_1(gz: bool, tmp_path: Path, qemu_img: QemuImg) -> None:
    """VAG-READ-2."""
    (tmp_path / "d.raw").write_bytes(raw(7))
    qemu_img.run("convert", "-O", "qcow2", tmp_path / "d.raw", tmp_path / "d.qcow2")
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": 1}
    source = box(
        tmp_path / "x.box",
        {
            "./metadata.json": json.dumps(metadata).encode(),
            "./Vagrantfile": VAGRANTFILE.encode(),
            "./box.img": (tmp_path / "d.qcow2").read_bytes(),
        },
        gz=gz,
    )
    pack([source], tmp_path / "x.vmpack")
    pack([tmp_path / "d.raw"], tmp_path / "d.vmpack")
    with Bundle.open(tmp_path / "x.vmpack") as one, Bundle.open(tmp_path / "d.vmpack") as two:
        assert one.disks[0].content_digest == two.disks[0].content_digest
        config = one.config
    assert (config.memory, config.machine) == (2 << 30, "pc-q35-7.2")
    assert (config.cpu.sockets, config.cpu.cores) == (2, 2)
    assert config.disks is not None
    assert config.nics is not None
    assert (config.disks[0].bus, config.nics[0].model) == ("sata", "e1000e")
    assert config.nics[0].mac == "52:54:00:aa:bb:cc"
    assert config.firmware.kind == "uefi"


def test_a_box_of_format_2_names_its_disks(tmp_path: Path) -> None:
    """VAG-READ-2."""
    disks = [
        {"path": "disk1.img", "format": "raw"},
        {"path": "more/disk2.img", "name": "Second Disk", "format": "raw"},
    ]
    members = {
        "metadata.json": json.dumps({"provider": "libvirt", "disks": disks}).encode(),
        "disk1.img": raw(1),
        "more/disk2.img": raw(2),
    }
    pack([box(tmp_path / "x.box", members)], tmp_path / "x.vmpack")
    with Bundle.open(tmp_path / "x.vmpack") as bundle:
        assert [disk.id for disk in bundle.disks] == ["root", "second-disk"]


def test_ruby_is_never_run_and_never_carried() -> None:
    """VAG-READ-4, CFG-FORM-4: plain settings are read, code and paths are dropped."""
    found = read(
        {"provider": "libvirt", "format": "qcow2", "note": "/etc/passwd", "colour": [1]},
        {"Vagrantfile": VAGRANTFILE.encode()},
    )
    dropped = verdicts(found, Verdict.DROPPED)
    assert "Ruby" in dropped["Vagrantfile:18"]
    assert "Ruby" in dropped["Vagrantfile:19"]
    assert "Ruby" in dropped["Vagrantfile:4"]
    assert "Vagrantfile:17 emulator_path" in dropped
    assert "metadata.json/note" in dropped
    approximated = verdicts(found, Verdict.APPROXIMATED)
    assert "Vagrantfile:15 cpu_mode" in approximated
    assert "Vagrantfile:16 loader" in approximated
    carried = {field.key: field.value for field in found.config.verbatim["vagrant"]}
    assert carried == {
        "metadata.json/colour": "[1]",
        "libvirt.nested": "true",
        "libvirt.keymap": '"de"',
    }


def test_a_box_of_virtualbox_is_its_ovf(tmp_path: Path, qemu_img: QemuImg) -> None:
    """VAG-READ-3: Its MAC address stands in the Vagrantfile (field note "MAC lost")."""
    (tmp_path / "d.raw").write_bytes(raw(3))
    config = MachineConfig.from_toml('memory = "256M"\n[[disk]]\nid = "root"\nbus = "sata"\n')
    pack([tmp_path / "d.raw"], tmp_path / "d.vmpack", config=config, name="boxed")
    export_bundle(tmp_path / "d.vmpack", tmp_path / "ova", "ova")
    (ova,) = (tmp_path / "ova").iterdir()
    members = {
        "metadata.json": b'{"provider": "virtualbox"}',
        "Vagrantfile": b'Vagrant.configure("2") do |config|\n'
        b'  config.vm.base_mac = "080027123456"\nend\n',
    }
    with tarfile.open(ova) as archive:
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            if not info.name.endswith(".mf"):
                members["box.ovf" if info.name.endswith(".ovf") else info.name] = file.read()
    result = pack([box(tmp_path / "v.box", members)], tmp_path / "v.vmpack")
    with Bundle.open(tmp_path / "v.vmpack") as one, Bundle.open(tmp_path / "d.vmpack") as two:
        assert one.disks[0].content_digest == two.disks[0].content_digest
        assert one.config.nics is not None
        assert one.config.nics[0].mac == "08:00:27:12:34:56"
        assert one.config.memory == 256 << 20
    assert result.report is not None
    assert result.report["hypervisor"] == "vagrant"


def test_a_box_of_virtualbox_without_its_ovf() -> None:
    with pytest.raises(UnsupportedError, match=r"box\.ovf"):
        read({"provider": "virtualbox"})


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'{"provider":"libvirt","disks":[]}',
        b'{"provider":"libvirt","disks":[{}]}',
        b'{"provider":"libvirt","disks":[{"path":7}]}',
        b'{"provider":"libvirt","disks":7}',
        b'{"provider":"libvirt","disks":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe\x00",
    ],
)
def test_damaged_metadata(data: bytes) -> None:
    """VAG-READ-1: hostile: 10."""
    with pytest.raises(DamagedError):
        read(data)


def test_disks_outside_the_box_are_not_opened(tmp_path: Path) -> None:
    """hostile: 4, 40."""
    (tmp_path / "secret.img").write_bytes(raw(9))
    for path in ("../secret.img", str(tmp_path / "secret.img"), "sub/../../secret.img"):
        metadata = {"provider": "libvirt", "disks": [{"path": path, "format": "raw"}]}
        source = box(tmp_path / "x.box", {"metadata.json": json.dumps(metadata).encode()})
        with pytest.raises(VmpackError):
            pack([source], tmp_path / "no.vmpack")


def test_only_boxes_are_recognised() -> None:
    def name(file: str, data: bytes) -> str | None:
        found = recognise(file, data)
        return None if found is None else found.name

    assert name("metadata.json", b'{"provider": "libvirt"}') == "vagrant"
    assert name("metadata.json", b'{"provider": "docker"}') is None
    assert name("metadata.json", b'{"versions": []}') is None
    assert name("other.json", b'{"provider": "libvirt"}') is None


CARRIED_FIELD = 'key = "libvirt.keymap"\nvalue = "\\"de\\""\n'
METACHARACTERS = "a'b\\c\"d#{`id`}$(x)\n</y>&;"


def test_what_is_written_is_a_box_of_format_1(tmp_path: Path, qemu_img: QemuImg) -> None:
    """VAG-OUT-1, VAG-OUT-2, VAG-OUT-3, hostile: 43 - strings are single-quoted Ruby."""
    (tmp_path / "d.raw").write_bytes(raw(5))
    config = MachineConfig(description=METACHARACTERS).to_toml()
    pack(
        [tmp_path / "d.raw"],
        tmp_path / "b.vmpack",
        config=MachineConfig.from_toml(config + '[firmware]\nkind = "uefi"\n'),
        name="it's a $box",
    )
    result = export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "vagrant")
    assert result.instructions[0].startswith(
        "vagrant box add --provider libvirt --name it-s-a-box "
    )
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "it-s-a-box.box"
    with tarfile.open(path, "r:gz") as archive:
        assert archive.getnames() == ["metadata.json", "Vagrantfile", "box.img"]
        archive.extractall(tmp_path / "x", filter="data")
    metadata = json.loads((tmp_path / "x/metadata.json").read_text())
    assert metadata == {"provider": "libvirt", "format": "qcow2", "virtual_size": 1}
    qemu_img.assert_clean(tmp_path / "x/box.img")
    qemu_img.run("compare", "-f", "qcow2", "-F", "raw", tmp_path / "x/box.img", tmp_path / "d.raw")
    text = (tmp_path / "x/Vagrantfile").read_text()
    assert """libvirt.description = 'a\\'b\\\\c"d#{`id`}$(x) </y>&;'""" in text
    assert ".find { |path| File.exist?(path) }" in text
    export_bundle(tmp_path / "b.vmpack", tmp_path / "again", "vagrant")
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_vagrant_adds_the_box_and_knows_its_settings(tmp_path: Path) -> None:
    """Debian's Vagrant with vagrant-libvirt, in a home of its own."""
    vagrant = require_tool("vagrant")
    random_disk(tmp_path / "d.raw", MIB, seed=1)
    toml = '[firmware]\nkind = "uefi"\n[tpm]\n[[disk]]\nid = "a"\nbus = "lsilogic"\n'
    config = MachineConfig.from_toml(toml + f"[[verbatim.vagrant]]\n{CARRIED_FIELD}")
    pack([tmp_path / "d.raw"], tmp_path / "b.vmpack", config=config, name="boxed")
    export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "vagrant")
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "VAGRANT_HOME": str(home / "v"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    words = ["box", "add", "--provider", "libvirt", "--name", "boxed", tmp_path / "out/boxed.box"]
    added = run([vagrant, *words], env=env, cwd=home)
    assert b"Successfully added box 'boxed'" in added.stdout
    with tarfile.open(tmp_path / "out/boxed.box") as archive:
        file = archive.extractfile("Vagrantfile")
        assert file is not None
        text = file.read().decode()
    assert "libvirt.keymap = 'de'" in text
    text = text.replace("|config|\n", '|config|\n  config.vm.box = "boxed"\n', 1)
    (home / "Vagrantfile").write_text(text)
    assert b"validated successfully" in run([vagrant, "validate"], env=env, cwd=home).stdout


def test_more_disks_make_a_box_of_format_2(tmp_path: Path) -> None:
    """VAG-OUT-1."""
    images = []
    for number in range(3):
        images.append(tmp_path / f"d{number}.raw")
        random_disk(images[-1], MIB, seed=number + 1)
    toml = '[[disk]]\nid = "a"\n[[disk]]\nid = "b"\n[[disk]]\nid = "c"\nkind = "cdrom"\n'
    pack(images, tmp_path / "b.vmpack", config=MachineConfig.from_toml(toml), name="x")
    result = export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "vagrant")
    found = result.report["items"]
    assert isinstance(found, list)
    dropped = [one["field"] for one in found if one["verdict"] == "dropped"]
    assert any(field.startswith("disk[2]") for field in dropped)
    pack([tmp_path / "out/x.box"], tmp_path / "again.vmpack")
    with Bundle.open(tmp_path / "b.vmpack") as one, Bundle.open(tmp_path / "again.vmpack") as two:
        wanted = {disk.id: disk.content_digest for disk in one.disks if disk.id != "c"}
        digests = {disk.id: disk.content_digest for disk in two.disks}
    assert digests == wanted


def test_there_and_back(tmp_path: Path) -> None:
    """What a box can say comes back; what was carried is given back."""
    metadata = {"provider": "libvirt", "format": "raw"}
    text = VAGRANTFILE.replace("q35", "pc-q35-7.2")
    members = {
        "metadata.json": json.dumps(metadata).encode(),
        "Vagrantfile": text.encode(),
        "box.img": raw(4),
    }
    source = box(tmp_path / "x.box", members)
    transfer(source, tmp_path / "one", "vagrant")
    (first,) = (tmp_path / "one").iterdir()
    with tarfile.open(first) as archive:
        file = archive.extractfile("Vagrantfile")
        assert file is not None
        written = file.read().decode()
    assert "libvirt.nested = true" in written
    assert "libvirt.keymap = 'de'" in written
    pack([source], tmp_path / "a.vmpack")
    pack([first], tmp_path / "b.vmpack")
    with Bundle.open(tmp_path / "a.vmpack") as one, Bundle.open(tmp_path / "b.vmpack") as two:
        left, right = one.config.to_json_dict(), two.config.to_json_dict()
    for config in (left, right):
        # The UUID is each machine's own, and the name is the box's.
        for name in ("uuid", "name"):
            config.pop(name)
        config["cpu"].pop("vendor", None)
    assert left == right


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("libvirt.qemuargs", '"-drive"'),
        ("libvirt.keymap", '"/etc/shadow"'),
        ("libvirt.nested = true; system('x') #", "true"),
        ("libvirt.title", '{"a": 1}'),
        ("libvirt.title", "no json"),
        ("nested", "true"),
    ],
)
def test_what_a_stranger_carries_is_no_code(key: str, value: str, tmp_path: Path) -> None:
    """VAG-OUT-2: CFG-FORM-4, hostile: 43."""
    random_disk(tmp_path / "d.raw", MIB, seed=1)
    data = {"name": "x", "verbatim": {"vagrant": [{"key": key, "value": value}]}}
    (tmp_path / "c.json").write_text(json.dumps(data))
    config = MachineConfig.from_file(tmp_path / "c.json")
    pack([tmp_path / "d.raw"], tmp_path / "b.vmpack", config=config)
    result = export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "vagrant")
    items = result.report["items"]
    assert isinstance(items, list)
    (item,) = (one for one in items if one["field"].startswith("verbatim.vagrant"))
    assert item["verdict"] == "dropped"
    with tarfile.open(tmp_path / "out/x.box") as archive:
        file = archive.extractfile("Vagrantfile")
        assert file is not None
        assert value.strip('"') not in file.read().decode().replace("kvm", "")


def test_ruby_strings_are_read_as_they_are_written() -> None:
    for value in ("plain", "it's", 'a"b', "", 7, True, False):
        (found,) = list(settings(f"libvirt.title = {quoted(value)}"))
        assert found[1:] in (("title", value), ("", None))
    assert list(settings("x" * 2000)) == [(1, "", None)]
