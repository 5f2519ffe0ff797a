"""Xen: xl configs and XVA machines read, xl configs written. Clauses: specs/hypervisors/xen.md."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.hv import RICH, UEFI, bundle_of, read_back, written_for
from tests.support.xva import machine, ova_xml
from vmpack import hypervisors
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.report import Verdict
from vmpack.hypervisors.xen import HYPERVISOR
from vmpack.hypervisors.xen.read_xl import DiskSpec, disk_spec
from vmpack.hypervisors.xen.syntax import encode, parse
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle

MIB = 1 << 20
CONFIG = """# a machine
name = 'shop'; type = "hvm"
uuid = "12345678-9ABC-4def-8123-456789abcdef"
memory = 1024
maxmem = 2048
vcpus = 0x2
maxvcpus = 2
bios = "ovmf"
boot = "dc"
localtime = 1
vga = "stdvga"
serial = "pty"
usbdevice = ["tablet"]
disk = [
    '/dev/vg0/root,raw,xvda,rw',   # LVM
    "format=qcow2, vdev=hdb, access=ro, target=/srv/xen/a,b.qcow2",
    'file:/srv/xen/inst.iso,hdc:cdrom,r',
    'vdev=hdd, devtype=cdrom, target=',
    'format=raw,vdev=xvdf,access=w,direct-io-safe,target=/dev/vg0/data',
]
vif = [ 'mac=00:16:3E:11:22:33,bridge=xenbr0,model=e1000', 'bridge=br1,type=vif,vifname=v1' ]
on_crash = 'restart'
viridian = 1
cpuid = [ "0:eax=0x3" ]
kernel = "/boot/vmlinuz"
device_model_override = "/usr/local/bin/qemu"
"""


def read(text: str) -> Imported:
    known = hypervisors.recognise("shop.cfg", text.encode())
    assert known is HYPERVISOR
    assert known.read is not None
    return known.read(ConfigSource("shop.cfg", text.encode()))


def test_a_whole_machine_is_read() -> None:
    """XEN-XL-2."""
    found = read(CONFIG)
    config = found.config
    assert (config.name, config.memory, config.cpu.cores) == ("shop", 1024 * MIB, 2)
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert (config.firmware.kind, config.rtc.clock) == ("uefi", "localtime")
    assert (config.display.model, config.input) == ("std", "usb-tablet")
    disks = config.disks or ()
    assert [(one.id, one.bus, one.kind, one.boot, one.port, one.unit) for one in disks] == [
        ("xvda", "ide", None, 3, 0, 0),
        ("hdb", "ide", None, 4, 0, 1),
        ("hdc", "ide", "cdrom", 1, 1, 0),
        ("hdd", "ide", "cdrom", 2, 1, 1),
        ("xvdf", "virtio-blk", None, 5, None, None),
    ]
    assert disks[1].read_only
    assert disks[3].empty
    nics = config.nics or ()
    assert [(one.model, one.mac, one.network) for one in nics] == [
        ("e1000", "00:16:3e:11:22:33", "xenbr0"),
        ("virtio-net", None, "br1"),
    ]
    carried = {one.key: one.value for one in config.verbatim["xen"]}
    assert carried["viridian"] == "1"
    assert carried["on_crash"] == '"restart"'
    assert carried["vif(net1)"] == "type=vif,vifname=v1"
    assert carried["disk(xvdf)"] == "direct-io-safe"
    said = {one.field: one.verdict for one in found.report.items}
    for key in ("kernel", "device_model_override", "maxmem"):
        assert said[key] is Verdict.DROPPED
    assert "/srv" not in json.dumps(carried)
    assert found.disks["xvda"].is_volume
    assert found.disks["hdb"].name == "/srv/xen/a,b.qcow2"


def test_volumes_are_named_by_the_user(tmp_path: Path) -> None:
    """Proxmox, xl, KubeVirt and libvirt pools name volumes, not paths."""
    path = tmp_path / "shop.cfg"
    path.write_text(CONFIG)
    random_disk(tmp_path / "d.raw", MIB)
    random_disk(tmp_path / "inst.iso", MIB)
    with pytest.raises(UsageError, match="a volume, not a file") as caught:
        pack([path], tmp_path / "a.vmpack")
    assert "--disk xvda=PATH --disk hdb=PATH" in str(caught.value.hint)
    given = dict.fromkeys(("xvda", "hdb", "xvdf"), tmp_path / "d.raw")
    result = pack([path], tmp_path / "a.vmpack", disks=given)
    assert [one["id"] for one in result.disks] == ["xvda", "hdb", "hdc", "xvdf"]
    export = export_bundle(tmp_path / "a.vmpack", tmp_path / "out", "xen", verify=False)
    settings: dict[str, Any] = parse((tmp_path / "out" / "shop.cfg").read_bytes(), path="shop.cfg")
    assert settings["viridian"] == 1
    assert settings["on_crash"] == "restart"
    assert settings["boot"] == "dc"
    specs = [disk_spec(one) for one in settings["disk"]]
    assert [(one.vdev, one.target) for one in specs] == [
        ("xvda", "xvda.qcow2"),
        ("hdb", "hdb.qcow2"),
        ("hdc", "hdc.iso"),
        ("hdd", ""),
        ("xvdf", "xvdf.qcow2"),
    ]
    assert specs[4].rest == "direct-io-safe"
    assert settings["vif"][0] == "mac=00:16:3e:11:22:33, model=e1000, bridge=xenbr0"
    assert "type=vif,vifname=v1" in settings["vif"][1]
    assert export.instructions == ("xl create ./shop.cfg",)
    assert not {"kernel", "device_model_override"} & set(settings)


@pytest.mark.parametrize("toml", [RICH, UEFI])
def test_there_and_back(tmp_path: Path, toml: str) -> None:
    """XEN-WRITE-1: what is written is read as the same machine; the same bytes again."""
    bundle = bundle_of(tmp_path, toml)
    _, source = written_for("xen", bundle, tmp_path / "out")
    imported, digests = read_back(source)
    assert len(digests) == 2
    config = imported.config
    assert (config.name, config.memory, config.cpu.cores) == ("shop", 512 * MIB, 2)
    assert config.firmware.kind == ("uefi" if toml is UEFI else "bios")
    assert [one.mac for one in config.nics or ()] == ["52:54:00:12:34:56", "52:54:00:12:34:57"]
    export_bundle(bundle, tmp_path / "again", "xen", verify=False)
    one, two = (tmp_path / name / "shop.cfg" for name in ("out", "again"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("/dev/vg/g,,hda", DiskSpec("/dev/vg/g", "raw", "hda")),
        ("phy:/dev/vg/g,hda,w", DiskSpec("/dev/vg/g", "raw", "hda")),
        ("tap:qcow2:/a.qcow2,xvda,w", DiskSpec("/a.qcow2", "qcow2", "xvda")),
        ("/a.iso,,hdc,cdrom", DiskSpec("/a.iso", "raw", "hdc", is_cdrom=True)),
        ("/a.img,raw,xvda,r", DiskSpec("/a.img", "raw", "xvda", is_read_only=True)),
        ("vdev=xvda,target=a,b=c", DiskSpec("a,b=c", "raw", "xvda")),
        ("", DiskSpec()),
    ],
)
def test_disk_specs(text: str, spec: DiskSpec) -> None:
    """XEN-XL-3: positional, named and deprecated forms."""
    assert disk_spec(text) == spec


@pytest.mark.parametrize(
    "text",
    ["name", "name =", "a = [", "a = [1", "a = [1 2]", "a = 'x", "a = 1 b = 2", "a = ]",
     "a = 1.5", "= 1", "a = " + "[" * 100, "a = {}", "a = os.system('x')", "a == 1"],
)  # fmt: skip
def test_broken_syntax(text: str) -> None:
    """XEN-XL-1: parsed, never evaluated."""
    with pytest.raises(DamagedError, match="line 1"):
        parse(text.encode(), path="a.cfg")
    with pytest.raises(UnsafeError):
        parse(b"a = [" + b"1," * 60_000 + b"]", path="a.cfg")


def test_values_come_back() -> None:
    for value in ("", "a\"b'c\\d", 7, -1, ["x"], ["a", "b, c"], [1, "two"]):
        assert parse(f"key = {encode(value)}\n".encode(), path="a") == {"key": value}  # type: ignore[arg-type]
    assert parse(b"a = 'x'\na += 'y'\nb = ['1']\nb += ['2']", path="a") == {
        "a": "xy",
        "b": ["1", "2"],
    }


def test_metacharacters_in_every_field(tmp_path: Path) -> None:
    # hostile: 43
    text = 'a" ; kernel = "b\' # [x] $(y)'
    toml = RICH.replace('name = "shop"', f"name = {json.dumps(text)}")
    result, source = written_for("xen", bundle_of(tmp_path, toml), tmp_path / "out")
    imported, _ = read_back(source)
    assert imported.config.name == text
    config = next(Path(one) for one in result.files if one.endswith(".cfg"))
    assert "kernel" not in parse(config.read_bytes(), path="a")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device_model_override", '"x"'),
        ("kernel", '"x"'),
        ("firmware_override", '"x"'),
        ("device_model_args", '["-drive", "file=x"]'),
        ("name", '"other"'),
        ("a = 1; b", "1"),
        ("pci", '["0:1.0"]'),
        ("vif(net0)", "script=/bin/x"),
        ("disk(root)", "x, target=secret"),
        ("on_crash", '"/etc/shadow"'),
        ("extra", '"x"'),
        ("cpus", "{}"),
        ("cpus", "[" * 5000),
    ],
)
def test_carried_settings_choose_no_programs(tmp_path: Path, key: str, value: str) -> None:
    """XEN-WRITE-2: a bundle of a stranger's names no file or program of the host."""
    toml = RICH + (
        f"[[verbatim.xen]]\nkey = {json.dumps(key)}\nvalue = {json.dumps(value)}\n"
        '[[verbatim.xen]]\nkey = "viridian"\nvalue = "1"\n'
    )
    written_for("xen", bundle_of(tmp_path, toml), tmp_path / "out")
    text = (tmp_path / "out" / "shop.cfg").read_bytes()
    found = parse(text, path="shop.cfg")
    assert found["name"] == "shop"
    assert found["viridian"] == 1
    if key != "name":
        assert key not in found
    assert b"secret" not in text
    assert b"script" not in text


def test_places_have_an_end(tmp_path: Path) -> None:
    toml = 'name = "a"\n' + "".join(
        f'[[disk]]\nid = "cd{number}"\nkind = "cdrom"\nbus = "sata"\nempty = true\n'
        for number in range(5)
    )
    toml += '[[disk]]\nid = "root"\nbus = "virtio-blk"\n'
    with pytest.raises(UnsupportedError, match="no place left"):
        written_for("xen", bundle_of(tmp_path, toml), tmp_path / "out")


def test_a_machine_of_an_archive() -> None:
    """XVA-READ-6: its rows become a config."""
    data = ova_xml(machine({"Ref:5": MIB, "Ref:6": MIB}))
    known = hypervisors.recognise("ova.xml", data)
    assert known is HYPERVISOR
    assert known.read is not None
    members = {"ova.xml": len(data), "Ref:5": MIB, "Ref:6": MIB}
    found = known.read(ConfigSource("ova.xml", data, members))
    config = found.config
    assert (config.name, config.description) == ("shop", "Sells things.")
    assert (config.cpu.sockets, config.cpu.cores) == (2, 2)
    assert config.memory == 512 * MIB
    disks = config.disks or ()
    assert [(one.id, one.boot, one.empty) for one in disks] == [
        ("disk-0", 2, None),
        ("disk-1", 3, None),
        ("disk2", 1, True),
    ]
    assert found.disks["disk-0"].name == "Ref:5"
    assert [(one.mac, one.network) for one in config.nics or ()] == [
        ("52:54:00:12:34:56", "Pool network")
    ]
    carried = {one.key for one in config.verbatim["xen"]}
    assert {"viridian", "xva/tags", "xva/platform/device-model"} <= carried


ANYTHING: tuple[Any, ...] = ("x", [], {}, True, ["Ref:0"], {"a": {"b": []}})


def test_every_value_of_an_archive_may_be_anything() -> None:
    rows = machine({"Ref:5": MIB})
    assert HYPERVISOR.read is not None
    for index, (_, _, fields) in enumerate(rows):
        for key in fields:
            for value in ANYTHING:
                changed = [(kind, ref, dict(one)) for kind, ref, one in rows]
                changed[index][2][key] = value
                data = ova_xml(changed)  # type: ignore[arg-type]
                with suppress(VmpackError):
                    HYPERVISOR.read(ConfigSource("ova.xml", data, {"Ref:5": MIB}))


def test_every_value_of_a_config_may_be_anything() -> None:
    for line in CONFIG.replace("; type", "\ntype").split("\n"):
        key = line.partition("=")[0].strip()
        for value in ("[]", "''", "'x'", "-1", "[['a']]", "99999999999"):
            text = CONFIG + f"\n{key} = {value}\n"
            with suppress(VmpackError):
                assert HYPERVISOR.read is not None
                HYPERVISOR.read(ConfigSource("a.cfg", text.encode()))


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE a [<!ENTITY b 'c'>]><value>&b;</value>", b"<value>x</value>", b"<value><"]
)
def test_hostile_xml(data: bytes) -> None:
    # hostile: 42
    assert HYPERVISOR.read is not None
    with pytest.raises(VmpackError):
        HYPERVISOR.read(ConfigSource("ova.xml", data))
