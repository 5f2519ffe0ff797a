"""Domain XML as others write it: what becomes of each field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.disks import random_disk
from tests.support.libvirt_xml import RICH, plain
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors import recognise
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.libvirt import reader
from vmpack.hypervisors.report import Verdict
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer


def read(data: bytes | str) -> Imported:
    text = data.encode() if isinstance(data, str) else data
    return reader.read_domain(ConfigSource("x.xml", text))


def items(imported: Imported, verdict: Verdict) -> dict[str, str]:
    return {item.field: item.detail for item in imported.report.of(verdict)}


@pytest.fixture(scope="module")
def rich() -> Imported:
    return read(RICH)


def test_the_machine_of_a_rich_domain(rich: Imported) -> None:
    """Every kind of field that a config has."""
    config = rich.config
    assert (config.name, config.uuid) == ("win-10 & co", "4dea24b3-1d52-d8f3-2516-782e98a23fa0")
    assert (config.memory, config.machine) == (4 << 30, "pc-q35-6.2")
    assert (config.guest_os.id, config.guest_os.family) == ("win10", "windows")
    cpu = config.cpu
    assert (cpu.model, cpu.flags) == ("Haswell-v4", ("-lahf-lm", "+pclmulqdq"))
    assert (cpu.sockets, cpu.dies, cpu.cores, cpu.threads) == (1, 1, 2, 2)
    assert (config.firmware.kind, config.firmware.secure_boot) == ("uefi", True)
    assert config.smbios.system.serial == "S-1"
    assert config.smbios.oem_strings == ("one", "two")
    assert (config.rtc.clock, config.input, config.display.model) == (
        "localtime",
        "usb-tablet",
        "qxl",
    )
    assert (config.guest_agent, config.pvpanic, config.rng.model) == (True, False, "virtio-rng")
    assert config.tpm is not None
    assert (config.tpm.version, config.tpm.model) == ("2.0", "tpm-crb")


def test_its_disks_keep_bus_place_and_order(rich: Imported) -> None:
    """Field notes "Buses, identity" and "name volumes, not paths"."""
    assert rich.config.disks is not None
    by_id = {disk.id: disk for disk in rich.config.disks}
    assert list(by_id) == ["sda", "vdb", "sdb", "vdc", "sdc"]
    assert (by_id["sda"].bus, by_id["sda"].port, by_id["sda"].boot) == ("sata", 2, 1)
    assert (by_id["sda"].serial, by_id["sda"].wwn) == ("ROOT-1", "0x5000c50015ea71ad")
    assert by_id["sda"].rotation_rate == 1
    assert (by_id["sdb"].bus, by_id["sdb"].controller, by_id["sdb"].port) == ("virtio-scsi", 0, 3)
    assert (by_id["sdc"].kind, by_id["sdc"].empty) == ("cdrom", True)
    files = rich.disks
    assert (files["sda"].name, files["sda"].format) == (
        "/var/lib/libvirt/images/win10.qcow2",
        "qcow2",
    )
    assert not files["vdb"].is_volume
    assert files["sdb"].is_volume
    assert files["vdc"].is_volume
    assert rich.blobs["nvram"].name == "/var/lib/libvirt/qemu/nvram/w.fd"
    assert rich.blobs["tpm-state"].name.endswith("/tpm2-00.permall")


def test_its_cards_keep_mac_network_and_tell_of_a_moved_slot(rich: Imported) -> None:
    """LV-READ-1: Field notes "MAC lost" and "NIC renamed because the PCI slot changed"."""
    assert rich.config.nics is not None
    first, second = rich.config.nics
    assert (first.mac, first.model, first.network, first.mtu) == (
        "52:54:00:12:34:56",
        "virtio-net",
        "br0",
        9000,
    )
    assert (second.model, second.network) == ("e1000e", "none")
    moved = items(rich, Verdict.APPROXIMATED)["devices/interface(net0)/address"]
    assert "the guest may name the device anew" in moved


def test_what_names_the_host_is_dropped_and_the_rest_carried(rich: Imported) -> None:
    """LV-READ-6: CFG-FORM-4: no path, device or socket of the host, and no secret."""
    text = str(rich.config.to_json_dict())
    for hidden in ("/var", "/usr", "/etc", "/srv", "/dev/", "vnet0", "eth0", "hush", "/boot/"):
        assert hidden not in text, hidden
    dropped = items(rich, Verdict.DROPPED)
    for field in (
        *("domain/qemu:commandline", "devices/hostdev", "devices/filesystem", "os/kernel"),
        *("domain/resource", "domain/seclabel", "devices/newfangled", "metadata/place"),
        *("devices/interface(hostdev)", "currentMemory", "vcpu@current", "cpu/feature(aes)"),
    ):
        assert field in dropped, field
    carried = {field.key: field.value for field in rich.config.verbatim["libvirt"]}
    assert carried["domain/features/hyperv"].startswith("<hyperv mode=")
    assert carried["domain/devices/disk(sda)/driver(qemu)@cache"] == "none"
    assert carried["domain/devices/sound(ich9)"].startswith("<sound ")
    assert carried["domain/genid"] == "<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>"
    assert not any("commandline" in key for key in carried)


def test_every_attribute_and_text_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """LV-READ-1: Nothing is lost without a word: each was either understood, carried or dropped."""
    seen: list[Any] = []
    original = reader.Domain.__init__

    def noted(self: Any, source: ConfigSource) -> None:
        original(self, source)
        seen.append(self)

    monkeypatch.setattr(reader.Domain, "__init__", noted)
    read(RICH)
    (domain,) = seen
    lost = [
        f"{element.tag}@{name}"
        for element in domain.root.iter()
        for name, value in (*element.items(), ("#text", element.text or ""))
        if value.strip() and (id(element), name) not in domain.carrier._taken
    ]
    assert lost == []


def test_a_domain_goes_there_and_back(tmp_path: Path) -> None:
    """LV-OUT-7: What was carried is given back; a second round changes nothing at all."""
    for number, name in enumerate(("win10.raw", "b.raw", "third.raw", "d.raw")):
        random_disk(tmp_path / name, 1 << 20, seed=number + 1)
    text = RICH.replace("type='qcow2'", "type='raw'").replace("win10.qcow2", "win10.raw")
    (tmp_path / "x.xml").write_text(text)
    given = {"vdb": tmp_path / "b.raw", "sdb": tmp_path / "third.raw", "vdc": tmp_path / "d.raw"}
    pack([tmp_path / "x.xml"], tmp_path / "one.vmpack", disks=given)
    first = export_bundle(tmp_path / "one.vmpack", tmp_path / "out", "libvirt")
    xml = next(Path(name) for name in first.files if name.endswith(".xml"))
    root = ET.parse(xml).getroot()  # our own file
    driver = root.find("devices/disk/driver")
    assert driver is not None
    assert (driver.get("type"), driver.get("cache"), driver.get("io")) == (
        "qcow2",
        "none",
        "native",
    )
    assert root.find("features/hyperv/spinlocks") is not None
    assert root.findtext("on_crash") == "preserve"
    interface = root.find("devices/interface")
    assert interface is not None
    address = interface.find("address")
    assert address is not None
    # The XML's own PCI topology is back, and with it the name that the guest has for the card.
    assert (interface.get("type"), address.get("bus")) == ("bridge", "0x01")
    assert len(root.findall("devices/controller[@model='pcie-root-port']")) == 3
    assert root.find("devices/memballoon/address") is not None
    pack([xml], tmp_path / "two.vmpack")
    second = export_bundle(tmp_path / "two.vmpack", tmp_path / "out2", "libvirt")
    again = next(Path(name) for name in second.files if name.endswith(".xml"))
    assert sorted(again.read_text().replace("/out2/", "/out/").split("\n")) == sorted(
        xml.read_text().split("\n")
    )
    with Bundle.open(tmp_path / "one.vmpack") as one, Bundle.open(tmp_path / "two.vmpack") as two:
        assert one.machine_id == two.machine_id


def test_disks_may_be_absent_for_info(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(RICH)
    with pytest.raises(UsageError) as caught:
        pack([tmp_path / "x.xml"], tmp_path / "x.vmpack")
    assert caught.value.hint is not None
    assert "--disk sda=PATH --disk vdb=PATH --disk sdb=PATH --disk vdc=PATH" in caught.value.hint


@pytest.mark.parametrize(
    ("machine", "ours"),
    [
        ("q35", "pc-q35-7.2"),
        ("pc", "pc-i440fx-7.2"),
        ("pc-q35-rhel9.2.0", "pc-q35-7.2"),
        ("pc-i440fx-jammy", "pc-i440fx-7.2"),
        ("pc-i440fx-2.11", "pc-i440fx-2.11"),
    ],
)
def test_machine_types_that_one_distribution_has(machine: str, ours: str) -> None:
    """Field note "a machine type disappears (virt-manager#522)": pinned to one that all have."""
    found = read(plain().replace(b"pc-q35-7.2", machine.encode()))
    assert found.config.machine == ours
    assert ("os/type@machine" in items(found, Verdict.APPROXIMATED)) == (machine != ours)


@pytest.mark.parametrize("mode", ["host-passthrough", "host-model", "maximum"])
def test_a_cpu_of_the_host_is_pinned_and_said(mode: str) -> None:
    found = read(plain(more=f"<cpu mode='{mode}' migratable='on'/>"))
    assert found.config.cpu.model is None
    assert mode in items(found, Verdict.APPROXIMATED)["cpu@mode"]


def test_units_topology_and_clock() -> None:
    text = plain(more="<clock offset='absolute' start='1769860800'/>")
    text = text.replace(b"<memory unit='MiB'>64<", b"<memory unit='KB'>100000<")
    found = read(text.replace(b"<vcpu>1<", b"<vcpu>6<"))
    assert found.config.memory == 96 << 20
    assert "memory" in items(found, Verdict.APPROXIMATED)
    assert (found.config.cpu.sockets, found.config.cpu.cores) == (6, 1)
    assert (found.config.rtc.start, found.config.rtc.clock) == ("2026-01-31T12:00:00", "utc")


def test_boot_order_of_devices_and_of_kinds() -> None:
    nic = "<interface type='user'><model type='virtio'/>%s</interface>"
    kinds = b"<boot dev='network'/><boot dev='hd'/><boot dev='cdrom'/></os>"
    found = read(plain(nic % "").replace(b"</os>", kinds))
    assert found.config.nics is not None
    assert found.config.disks is not None
    assert (found.config.nics[0].boot, found.config.disks[0].boot) == (1, 2)
    assert "os/boot(cdrom)" in items(found, Verdict.DROPPED)
    found = read(plain(nic % "<boot order='7'/>").replace(b"</os>", kinds))
    assert found.config.nics is not None
    assert found.config.nics[0].boot == 7


def test_a_disk_without_a_driver_is_raw_as_libvirt_has_it(tmp_path: Path) -> None:
    """LV-READ-2, hostile: 1 - a guest with a qcow2 header in its disk chooses no parser."""
    found = read(plain().replace(b"<driver name='qemu' type='raw'/>", b""))
    assert found.disks["vda"].format == "raw"


def test_a_slice_is_never_read_as_an_empty_overlay(tmp_path: Path) -> None:
    """LV-READ-4, LV-INP-1: An XML of --in-place: the overlay alone would read as zeros."""
    random_disk(tmp_path / "d.raw", 1 << 20, seed=1)
    pack([tmp_path / "d.raw"], tmp_path / "b.vmpack")
    result = export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "libvirt", in_place=True)
    xml = next(name for name in result.files if name.endswith(".xml"))
    with pytest.raises(UsageError, match="a volume, not a file"):
        pack([xml], tmp_path / "no.vmpack")
    overlay = tmp_path / "out" / "root.qcow2"
    with pytest.raises(UnsafeError):
        pack([overlay], tmp_path / "no.vmpack")
    disks = {"root": f"{tmp_path}/b.vmpack#root"}
    named = pack([xml], tmp_path / "again.vmpack", disks=disks)
    with Bundle.open(tmp_path / "b.vmpack") as bundle:
        assert named.disks[0]["content-digest"] == bundle.disks[0].content_digest


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (b"<!DOCTYPE domain [<!ENTITY a 'b'>]>" + plain(), UnsafeError, "DOCTYPE"),
        (b"<domain>" + b"<a>" * 100 + b"</a>" * 100 + b"</domain>", UnsafeError, "nested"),
        (plain()[:-20], DamagedError, "not well-formed"),
        (b"<domainsnapshot/>", UnsupportedError, "no PC"),
        (plain().replace(b">hvm<", b">exe<"), UnsupportedError, "no PC"),
        (plain().replace(b"x86_64", b"aarch64"), UnsupportedError, "no PC"),
        (
            plain().replace(b"<target dev='vda'", b"<encryption format='luks'/><target dev='vda'"),
            UnsupportedError,
            "encrypted",
        ),
    ],
)
def test_what_is_refused(text: bytes, error: type[VmpackError], match: str) -> None:
    """LV-READ-3: hostile: 42, 24."""
    with pytest.raises(error, match=match):
        read(text)


def test_only_domains_are_recognised() -> None:
    def name(data: bytes) -> str | None:
        found = recognise("x.xml", data)
        return None if found is None else found.name

    assert name(RICH.encode()) == "libvirt"
    assert name(plain()) == "libvirt"
    assert name(RICH.encode("utf-16")) == "libvirt"
    assert name(b"<domainsnapshot><domain type='kvm'/></domainsnapshot>") is None
    assert name(b"<network><domain name='x'/></network>") is None


def test_any_mutation_gives_a_machine_or_an_error_of_vmpacks() -> None:
    """hostile: 10, 42."""
    base = ET.fromstring(RICH)  # our own text
    count = 0
    for place, element in enumerate(base.iter()):
        for name in (*element.keys(), "#text"):
            for value in (
                "",
                "-1",
                "99999999999999999999",
                "../../etc/shadow",
                "x" * 9000,
                "\x85é",
            ):
                root = ET.fromstring(RICH)
                target = list(root.iter())[place]
                if name == "#text":
                    target.text = value
                else:
                    target.set(name, value)
                count += 1
                if count % 7:
                    continue
                try:
                    found = read(ET.tostring(root))
                except VmpackError:
                    continue
                assert found.report.items
    assert count > 1000


HOSTILE = [
    ("domain/devices/hostdev", "<hostdev mode='subsystem' type='usb'/>"),
    ("domain/devices/filesystem", "<filesystem><source dir='/'/><target dir='x'/></filesystem>"),
    ("domain/devices/disk(root)/source@file", "/etc/shadow"),
    ("domain/devices/disk(root)/source", "<source file='/etc/shadow'/>"),
    ("domain/devices/disk(root)/driver@metadata_cache", "/etc/shadow"),
    ("domain/devices/disk", "<disk type='file'><source file='x'/><target dev='vdz'/></disk>"),
    ("domain/devices/serial(0)@type", "file"),
    ("domain/devices/console", "<console type='file'><source path='x'/></console>"),
    ("domain/devices/channel", "<channel type='unix'><source path='x'/></channel>"),
    ("domain/devices/graphics", "<graphics type='vnc' socket='x'/>"),
    ("domain/os/loader", "<loader>/etc/shadow</loader>"),
    ("domain/os/kernel", "<kernel>boot/vmlinuz</kernel>"),
    ("domain/devices/emulator", "<emulator>/tmp/evil</emulator>"),
    ("domain/qemu:commandline", "<qemu:commandline/>"),
    (
        "domain/title",
        "<q:arg xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' value='-x'/>",
    ),
    ("domain/seclabel", "<seclabel type='none'/>"),
    ("domain@type", "lxc"),
    ("domain/devices/interface(net0)/script", "<script path='x'/>"),
    ("domain/devices/interface(net0)/backend", "<backend tap='/dev/net/tun'/>"),
    ("domain/devices/rng/backend", "<backend model='random'>/dev/mem</backend>"),
    ("domain/devices/sound", "<hostdev/>"),
    ("domain/features/x", "<!DOCTYPE x><x/>"),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=[key for key, _ in HOSTILE])
def test_what_a_stranger_carries_names_nothing_of_the_host(
    key: str, value: str, tmp_path: Path
) -> None:
    """LV-OUT-7: CFG-FORM-4, hostile: 43 - a bundle's carried fields are no way around the rules."""
    from vmpack.machine import MachineConfig

    random_disk(tmp_path / "d.raw", 1 << 20, seed=1)
    data = {"name": "x", "verbatim": {"libvirt": [{"key": key, "value": value}]}}
    (tmp_path / "c.json").write_text(json.dumps(data))
    config = MachineConfig.from_file(tmp_path / "c.json")
    pack([tmp_path / "d.raw"], tmp_path / "b.vmpack", config=config)
    result = export_bundle(tmp_path / "b.vmpack", tmp_path / "out", "libvirt")
    items = result.report["items"]
    assert isinstance(items, list)
    assert [
        one["verdict"] for one in items if one["field"].startswith(f"verbatim.libvirt {key}")
    ] == ["dropped"]
    clean = tmp_path / "clean.vmpack"
    pack([tmp_path / "d.raw"], clean, name="x")
    wanted = export_bundle(clean, tmp_path / "out", "libvirt", force=True)
    assert next(n for n in wanted.files if n.endswith(".xml"))


def test_one_hypervisor_to_the_same_in_one_step(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", 1 << 20, seed=1)
    (tmp_path / "x.xml").write_bytes(plain())
    result = transfer(tmp_path / "x.xml", tmp_path / "out", "libvirt")
    assert set(result.report) == {"import", "export"}
    assert [Path(path).name for _, path in result.disks] == ["vda.qcow2"]
