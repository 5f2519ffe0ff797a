"""Incus: exports, images, instances; what is written. Clauses: specs/hypervisors/incus.md."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
import zstandard

from tests.support.disks import disk_bytes, random_disk
from tests.support.hv import RICH, UEFI, bundle_of, read_back, written_for
from tests.support.xva import tar
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.errors import UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.incus import HYPERVISOR
from vmpack.hypervisors.incus.read import size_of
from vmpack.hypervisors.report import Verdict
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle
from vmpack.ops.unpack import unpack

MIB = 1 << 20
INDEX = """
name: shop
backend: zfs
pool: default
type: virtual-machine
optimized: false
config:
  pool: {name: default, driver: zfs}
  instance:
    name: shop
    type: virtual-machine
    architecture: x86_64
    status: Stopped
    description: Sells things.
    profiles: [default]
    config: {user.note: mine}
    devices: {}
    expanded_config:
      limits.cpu: "3"
      limits.memory: 1GiB
      security.secureboot: "false"
      image.os: Debian
      image.release: "12"
      user.note: mine
      boot.autostart: "true"
      volatile.uuid: 12345678-9abc-4def-8123-456789abcdef
      volatile.eth0.hwaddr: 10:66:6a:00:00:01
      volatile.last_state.power: STOPPED
    expanded_devices:
      root: {type: disk, path: /, pool: default, size: 10GiB, boot.priority: "5"}
      data: {type: disk, pool: default, source: shop-data, io.bus: nvme}
      src: {type: disk, path: /mnt, source: /srv/share}
      eth0: {type: nic, name: eth0, network: incusbr0}
      tpm0: {type: tpm, path: /dev/tpm0}
      gpu: {type: gpu}
"""
METADATA = """
architecture: x86_64
creation_date: 1700000000
properties: {name: debian-12, os: debian, release: "12", serial: "1"}
templates: {/etc/hostname: {template: hostname.tpl}}
"""
ROOT = disk_bytes(2 * MIB, seed=1)


def read(text: str, name: str = "index.yaml", members: tuple[str, ...] = ()) -> Imported:
    known = hypervisors.recognise(name, text.encode())
    assert known is HYPERVISOR
    assert known.read is not None
    return known.read(ConfigSource(name, text.encode(), dict.fromkeys(members, 1)))


def test_a_whole_export_is_read() -> None:
    """INCUS-READ-1: the expanded config is the machine's."""
    found = read(INDEX)
    config = found.config
    assert (config.name, config.description) == ("shop", "Sells things.")
    assert (config.cpu.cores, config.memory) == (3, 1024 * MIB)
    assert (config.firmware.kind, config.firmware.secure_boot) == ("uefi", False)
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert config.guest_os.id == "debian12"
    assert [(one.id, one.bus, one.boot) for one in config.disks or ()] == [
        ("root", "virtio-scsi", 60),
        ("data", "nvme", None),
    ]
    assert found.disks["root"].name == "virtual-machine.img"
    assert found.disks["data"].is_volume
    assert [(one.mac, one.network) for one in config.nics or ()] == [
        ("10:66:6a:00:00:01", "incusbr0")
    ]
    assert config.tpm is not None
    carried = {one.key: one.value for one in config.verbatim["incus"]}
    assert carried["config/user.note"] == '"mine"'
    assert carried["config/boot.autostart"] == '"true"'
    assert "devices/gpu" in carried
    assert "/srv" not in json.dumps(carried)
    said = {one.field: one.verdict for one in found.report.items}
    assert said["volatile.last_state.power"] is Verdict.DROPPED


def export_tar(first: str = "backup/index.yaml") -> bytes:
    """As ``incus export`` writes it, with the link that it has for its NVRAM."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (
            (first, INDEX.encode()),
            ("backup/virtual-machine/backup.yaml", b"{}"),
            ("backup/virtual-machine/OVMF_VARS.4MB.fd", bytes(540672)),
            ("backup/virtual-machine.img", ROOT),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            if name.endswith("backup.yaml"):
                info = tarfile.TarInfo("backup/virtual-machine/qemu.nvram")
                info.type, info.linkname = tarfile.SYMTYPE, "OVMF_VARS.4MB.fd"
                archive.addfile(info)
    return out.getvalue()


def plain(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        ("tar", plain),
        ("tar.gz", gzip.compress),
        ("tar.xz", lambda data: lzma.compress(data, preset=0)),
        ("tar.zst", zstandard.compress),
    ],
)
def test_exports_are_packed(tmp_path: Path, suffix: str, packed: Callable[[bytes], bytes]) -> None:
    """INCUS-READ-2: in place, or spooled once; a link is passed over, never followed."""
    path = tmp_path / f"shop.{suffix}"
    path.write_bytes(packed(export_tar()))
    random_disk(tmp_path / "data.raw", MIB)
    with pytest.raises(UsageError, match="a volume, not a file"):
        pack([path], tmp_path / "a.vmpack")
    pack([path], tmp_path / "a.vmpack", disks={"data": tmp_path / "data.raw"})
    unpack(tmp_path / "a.vmpack", tmp_path / "out", to="raw")
    assert (tmp_path / "out" / "root.raw").read_bytes() == ROOT
    with Bundle.open(tmp_path / "a.vmpack") as bundle:
        assert bundle.blob("nvram") == bytes(540672)


def test_links_of_other_archives_are_refused(tmp_path: Path) -> None:
    # hostile: 40
    path = tmp_path / "a.tar"
    path.write_bytes(export_tar("backup/other.yaml"))
    with pytest.raises(UnsafeError, match="not a regular file"):
        pack([path], tmp_path / "a.vmpack")


def test_an_image_is_packed(tmp_path: Path) -> None:
    """INCUS-READ-3: metadata.yaml and rootfs.img in one archive."""
    path = tmp_path / "image.tar"
    path.write_bytes(tar([("metadata.yaml", METADATA.encode()), ("rootfs.img", ROOT)]))
    pack([path], tmp_path / "a.vmpack")
    with Bundle.open(tmp_path / "a.vmpack") as bundle:
        config = bundle.config
    assert (config.name, config.guest_os.id, config.firmware.kind) == (
        "debian-12",
        "debian12",
        "uefi",
    )
    assert {one.key for one in config.verbatim["incus"]} >= {"properties/serial"}


def test_what_is_no_machine_is_refused() -> None:
    for text, word in (
        (INDEX.replace("type: virtual-machine", "type: container"), "container"),
        (INDEX.replace("optimized: false", "optimized: true"), "storage driver"),
        (INDEX.replace("x86_64", "aarch64"), "aarch64"),
    ):
        with pytest.raises(UnsupportedError, match=word):
            read(text)
    with pytest.raises(UnsupportedError, match=r"rootfs\.img"):
        read(METADATA, "metadata.yaml")


@pytest.mark.parametrize("toml", [RICH, UEFI])
def test_there_and_back(tmp_path: Path, toml: str) -> None:
    """INCUS-WRITE-1: the split image and the instance; read as the same machine again."""
    bundle = bundle_of(tmp_path, toml)
    result, source = written_for("incus", bundle, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "incus.tar") as archive:
        inner = archive.extractfile("metadata.yaml")
        assert inner is not None
        assert yaml.safe_load(inner.read())["architecture"] == "x86_64"
    instance = yaml.safe_load((tmp_path / "out" / "instance.yaml").read_text())
    assert instance["config"]["limits.memory"] == "512MiB"
    assert instance["config"].get("security.csm") == (None if toml is UEFI else "true")
    assert all(
        isinstance(value, str)
        for one in (instance["config"], *instance["devices"].values())
        for value in one.values()
    )
    assert result.instructions[0] == "incus image import incus.tar root.qcow2 --alias shop"
    assert "incus init shop shop --vm < instance.yaml" in result.instructions
    imported, digests = read_back(source)
    assert len(digests) == 2
    config = imported.config
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert config.guest_os.id == "debian12"
    assert (config.disks or ())[0].boot == 1
    assert [one.mac for one in config.nics or ()] == ["52:54:00:12:34:56", "52:54:00:12:34:57"]
    export_bundle(bundle, tmp_path / "again", "incus", verify=False)
    for name in ("incus.tar", "instance.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_carried_fields_come_back_and_open_nothing(tmp_path: Path) -> None:
    """INCUS-WRITE-2. hostile line 43 as well."""
    # hostile: 43
    fields = (
        ("config/user.note", json.dumps("a: b # ' \" $(x)")),
        ("config/raw.qemu", '"-drive file=x"'),
        ("config/security.secureboot", '"true"'),
        ("devices/evil", '{"type":"disk","source":"/etc","path":"/mnt"}'),
        ("devices/gpu", "{'type':'gpu'}"),
        ("devices/usb", '{"type":"usb"}'),
    )
    toml = RICH + "".join(
        f"[[verbatim.incus]]\nkey = {json.dumps(key)}\nvalue = {json.dumps(value)}\n"
        for key, value in fields
    )
    written_for("incus", bundle_of(tmp_path, toml), tmp_path / "out")
    instance = yaml.safe_load((tmp_path / "out" / "instance.yaml").read_text())
    assert instance["config"]["user.note"] == "a: b # ' \" $(x)"
    assert instance["config"]["security.secureboot"] == "false"
    assert "raw.qemu" not in instance["config"]
    assert not {"evil", "gpu", "usb"} & set(instance["devices"])


def test_a_running_instance_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        "architecture: x86_64\nname: a\nstatus: Running\nprofiles: []\nconfig: {}\n"
        "devices:\n  root: {type: disk, path: /, pool: default}\n"
    )
    with pytest.raises(UnsafeError, match="running"):
        pack([path], tmp_path / "a.vmpack")


def test_every_value_may_be_of_any_type() -> None:
    assert HYPERVISOR.read is not None
    lines = INDEX.split("\n")
    for line in range(1, len(lines)):
        head, colon, _ = lines[line].partition(":")
        for value in ("null", "[]", "7", "[{}]"):
            changed = [*lines[:line], f"{head}: {value}" if colon else head, *lines[line + 1 :]]
            with suppress(VmpackError):
                HYPERVISOR.read(ConfigSource("index.yaml", "\n".join(changed).encode()))


def test_sizes() -> None:
    assert [size_of(one) for one in ("1GiB", "5MB", "7", "50%", "1XB", "2 kB")] == [
        1 << 30, 5_000_000, 7, None, None, 2000,
    ]  # fmt: skip
