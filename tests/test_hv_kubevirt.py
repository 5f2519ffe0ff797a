"""KubeVirt: VirtualMachines read and written. Clauses: specs/hypervisors/kubevirt.md."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.disks import random_disk
from tests.support.hv import RICH, bundle_of, read_back, written_for
from vmpack import hypervisors
from vmpack.errors import DamagedError, UnsafeError, UsageError, VmpackError
from vmpack.hypervisors import yamlsafe
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.kubevirt import HYPERVISOR, names
from vmpack.hypervisors.report import Verdict
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer

MIB = 1 << 20
MANIFEST = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: shop
  namespace: web
  uid: 0b2b0e6e-0d6f-4f4b-8b52-0a3a3b0c9d1e
  labels: {app.kubernetes.io/name: shop}
spec:
  runStrategy: Always
  dataVolumeTemplates:
  - metadata: {name: shop-root}
    spec:
      storage: {resources: {requests: {storage: 10Gi}}}
      source: {http: {url: "https://example.com/disk.qcow2"}}
  template:
    metadata:
      annotations: {vm.kubevirt.io/os: debian12}
    spec:
      evictionStrategy: LiveMigrate
      domain:
        cpu:
          cores: 2
          model: Nehalem
          features: [{name: aes, policy: require}, {name: x2apic, policy: disable}]
        memory: {guest: 1Gi}
        machine: {type: pc-q35-rhel9.2.0}
        features: {acpi: {}, smm: {enabled: true}}
        clock: {utc: {}, timer: {hpet: {present: false}}}
        firmware:
          uuid: 12345678-9ABC-4def-8123-456789abcdef
          serial: serial-1
          bootloader: {efi: {secureBoot: true}}
        chassis: {manufacturer: Example, sku: s}
        devices:
          disks:
          - {name: rootdisk, bootOrder: 1, disk: {bus: virtio}, serial: abc, cache: none}
          - {name: data, disk: {bus: scsi, readonly: true},
             blockSize: {custom: {logical: 4096, physical: 4096}}}
          - {name: iso, cdrom: {bus: sata}}
          - {name: scratch, disk: {bus: sata}}
          - {name: cloudinit, disk: {bus: virtio}}
          - {name: node, disk: {bus: usb}}
          interfaces:
          - {name: default, masquerade: {}, model: virtio, macAddress: "02:00:00:00:00:01",
             ports: [{port: 80}]}
          - {name: lan, bridge: {}, model: e1000e}
          inputs: [{type: tablet, bus: usb, name: tablet1}]
          rng: {}
          tpm: {persistent: true}
          watchdog: {name: dog, i6300esb: {action: poweroff}}
      networks:
      - {name: default, pod: {}}
      - {name: lan, multus: {networkName: infra/vlan-10}}
      volumes:
      - {name: rootdisk, dataVolume: {name: shop-root}}
      - {name: data, persistentVolumeClaim: {claimName: shop-data}}
      - {name: iso, containerDisk: {image: "quay.io/example/iso:1"}}
      - {name: scratch, emptyDisk: {capacity: 2Mi}}
      - {name: node, hostDisk: {path: /var/lib/disks/x.img, type: Disk}}
      - name: cloudinit
        cloudInitNoCloud:
          userData: |
            #cloud-config
            write_files: [{path: /etc/motd, content: hello}]
status: {printableStatus: Stopped}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
"""


def read(text: str) -> Imported:
    known = hypervisors.recognise("vm.yaml", text.encode())
    assert known is not None
    assert known.name == "kubevirt"
    assert known.read is not None
    return known.read(ConfigSource("vm.yaml", text.encode()))


def test_a_whole_machine_is_read() -> None:
    """KUBEVIRT-READ-1: every field that vmpack models."""
    found = read(MANIFEST)
    config = found.config
    assert config.name == "shop"
    assert config.uuid == "12345678-9abc-4def-8123-456789abcdef"
    assert (config.cpu.cores, config.cpu.model) == (2, "Nehalem-v1")
    assert config.cpu.flags == ("+aes", "-x2apic")
    assert config.memory == 1024 * MIB
    assert (config.firmware.kind, config.firmware.secure_boot) == ("uefi", True)
    assert config.guest_os.id == "debian12"
    assert config.smbios.system.serial == "serial-1"
    assert config.smbios.chassis.sku == "s"
    assert config.tpm is not None
    assert config.input == "usb-tablet"
    assert config.rng.model == "virtio-rng"
    disks = {disk.id: disk for disk in config.disks or ()}
    assert list(disks) == ["rootdisk", "data", "iso", "scratch", "node"]
    assert disks["rootdisk"].bus == "virtio-blk"
    assert (disks["rootdisk"].boot, disks["rootdisk"].serial) == (1, "abc")
    assert (disks["data"].bus, disks["data"].read_only) == ("virtio-scsi", True)
    assert disks["data"].logical_block_size == 4096
    assert disks["iso"].kind == "cdrom"
    nics = config.nics or ()
    assert [(one.id, one.model, one.network) for one in nics] == [
        ("default", "virtio-net", "user"),
        ("lan", "e1000e", "infra-vlan-10"),
    ]
    assert nics[0].mac == "02:00:00:00:00:01"


def test_volumes_are_named_by_the_user() -> None:
    """Proxmox, xl, KubeVirt and libvirt pools name volumes, not paths."""
    found = read(MANIFEST)
    assert {name: file.is_volume for name, file in found.disks.items()} == {
        "rootdisk": True,
        "data": True,
        "iso": True,
        "scratch": False,
        "node": True,
    }
    assert found.disks["scratch"].blank == 2 * MIB
    assert not found.running


def test_nothing_is_lost_without_a_word() -> None:
    found = read(MANIFEST)
    said = {one.field: one.verdict for one in found.report.items}
    carried = {one.key: one.value for one in found.config.verbatim["kubevirt"]}
    assert said["Secret"] is Verdict.DROPPED
    assert said["metadata.uid"] is Verdict.DROPPED
    assert carried["metadata/namespace"] == '"web"'
    assert carried["metadata/labels"] == '{"app.kubernetes.io/name":"shop"}'
    assert carried["template/evictionStrategy"] == '"LiveMigrate"'
    assert carried["template/domain/clock/timer"] == '{"hpet":{"present":false}}'
    assert carried["disk(rootdisk)/cache"] == '"none"'
    assert carried["interface(default)/ports"] == '[{"port":80}]'
    assert "write_files" in carried["template/volumes/+"]
    assert "cloudinit" in carried["template/domain/devices/disks/+"]
    assert "template/domain/devices/watchdog" in carried
    assert "/var/lib" not in json.dumps(carried)  # CFG-FORM-4


def test_a_running_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vm.yaml"
    path.write_text(MANIFEST.replace("printableStatus: Stopped", "printableStatus: Running"))
    with pytest.raises(UnsafeError, match="running") as caught:
        pack([path], tmp_path / "a.vmpack")
    assert caught.value.hint is not None
    assert "virtctl stop" in caught.value.hint


def packed(tmp_path: Path) -> Path:
    path = tmp_path / "vm.yaml"
    path.write_text(MANIFEST)
    disks = {}
    for number, name in enumerate(("rootdisk", "data", "iso", "node")):
        disks[name] = tmp_path / f"{name}.raw"
        random_disk(disks[name], MIB, seed=number)
    with pytest.raises(UsageError, match="a volume, not a file") as caught:
        pack([path], tmp_path / "a.vmpack", disks={"data": disks["data"]})
    assert "--disk rootdisk=PATH" in str(caught.value.hint)
    pack([path], tmp_path / "a.vmpack", disks=disks)
    return tmp_path / "a.vmpack"


def test_there_and_back(tmp_path: Path) -> None:
    """KUBEVIRT-WRITE-1: what vmpack does not model is given back where it stood."""
    result, source = written_for("kubevirt", packed(tmp_path), tmp_path / "out")
    document = yaml.safe_load((tmp_path / "out" / "shop.yaml").read_text())
    wanted = next(yaml.safe_load_all(MANIFEST))
    assert document["metadata"] == {
        key: wanted["metadata"][key] for key in ("name", "namespace", "labels")
    }
    spec, old = document["spec"]["template"]["spec"], wanted["spec"]["template"]["spec"]
    assert document["spec"]["runStrategy"] == "Halted"
    assert spec["networks"] == old["networks"]
    assert spec["domain"]["cpu"] == {**old["domain"]["cpu"], "sockets": 1, "threads": 1}
    for name in ("features", "clock", "memory", "chassis"):
        assert spec["domain"][name] == old["domain"][name], name
    devices, before = spec["domain"]["devices"], old["domain"]["devices"]
    by_name = {one["name"]: one for one in devices["disks"]}
    for one in before["disks"]:
        if one["name"] == "node":
            one["disk"]["bus"] = "sata"
        assert by_name[one["name"]] == {**by_name[one["name"]], **one}
    assert devices["interfaces"][0] == before["interfaces"][0]
    assert devices["watchdog"] == before["watchdog"]
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["cloudinit"] == old["volumes"][-1]
    assert volumes["rootdisk"]["containerDisk"]["image"].endswith("/shop-rootdisk:latest")
    again, _ = read_back(source)
    first = read(MANIFEST).config
    assert again.config.nics is not None
    assert again.config.cpu.flags == first.cpu.flags
    assert again.config.uuid == first.uuid
    assert "podman build" in result.instructions[0]


def test_the_folder_of_a_container_disk(tmp_path: Path) -> None:
    """KUBEVIRT-WRITE-2: disk/ holds one image, owned by qemu's user."""
    result, source = written_for("kubevirt", bundle_of(tmp_path, RICH), tmp_path / "out")
    assert (tmp_path / "out" / "root" / "Dockerfile").read_text() == (
        "FROM scratch\nADD --chown=107:107 disk/ /disk/\n"
    )
    assert [one.name for one in (tmp_path / "out" / "root" / "disk").iterdir()] == ["root.qcow2"]
    document = yaml.safe_load((tmp_path / "out" / "shop.yaml").read_text())
    spec = document["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["networks"]] == ["net0", "net1"]
    assert spec["networks"][1] == {"name": "net1", "multus": {"networkName": "net1"}}
    imported, digests = read_back(source)
    assert set(digests) == {"root", "data"}
    assert imported.config.memory == 512 * MIB
    first = (tmp_path / "out" / "shop.yaml").read_bytes()
    export_bundle(tmp_path / "app.vmpack", tmp_path / "again", "kubevirt", verify=False)
    assert (tmp_path / "again" / "shop.yaml").read_bytes() == first
    assert "verify" not in " ".join(result.instructions)


def test_metacharacters_in_every_field(tmp_path: Path) -> None:
    # hostile: 43
    text = 'a: "b" - {x: *y} &z !!python object:os.system #'
    toml = (
        f"name = {json.dumps(text)}\ndescription = {json.dumps(text)}\n"
        + RICH.split('description = "Sells things."')[1]
        + f"[smbios.chassis]\nsku = {json.dumps(text)}\n"
    )
    bundle = bundle_of(tmp_path, toml)
    _, source = written_for("kubevirt", bundle, tmp_path / "out")
    imported, _ = read_back(source)
    assert imported.config.smbios.chassis.sku == text


def test_carried_fields_are_only_text(tmp_path: Path) -> None:
    """A bundle of a stranger's cannot name a node's files, or break the manifest."""
    toml = RICH + "".join(
        f"[[verbatim.kubevirt]]\nkey = {json.dumps(key)}\nvalue = {json.dumps(value)}\n"
        for key, value in (
            ("template/volumes/+", '{"name":"x","hostDisk":{"path":"/etc/shadow"}}'),
            ("template/nodeSelector", '{"a":"b"}'),
            ("template/domain/cpu/cores", "99"),
            ("disk(nothere)/cache", '"none"'),
            ("metadata/annotations", "[" * 4000),
            ("spec", "1"),
            ("template/domain/cpu/cores/x/y", "1"),
        )
    )
    result, _ = written_for("kubevirt", bundle_of(tmp_path, toml), tmp_path / "out")
    text = (tmp_path / "out" / "shop.yaml").read_text()
    assert "shadow" not in text
    spec = yaml.safe_load(text)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"a": "b"}
    assert spec["domain"]["cpu"]["cores"] == 2
    items: Any = result.report["items"]
    said = {one["field"]: one["verdict"] for one in items}
    assert said["disk(nothere)/cache"] == "dropped"
    assert said["metadata/annotations"] == "dropped"


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (BOMB, UnsafeError),
        ("[" * 100, UnsafeError),
        ("a: [" + "1, " * 25_000 + "]", UnsafeError),
        ("---\n" * 100, UnsafeError),
        ("a: !!python/object/apply:os.system [id]", DamagedError),
        ("a: b: c", DamagedError),
        ("\x00\x01", DamagedError),
        ("? [1, 2]\n: 3", DamagedError),
    ],
)
def test_hostile_yaml(text: str, error: type[VmpackError]) -> None:
    """KUBEVIRT-READ-2: aliases are refused, and what is deep or much."""
    with pytest.raises(error):
        yamlsafe.parse(text.encode(), path="a.yaml")


def test_every_value_may_be_of_any_type() -> None:
    assert HYPERVISOR.read is not None
    lines = MANIFEST.split("\n")
    for line in range(1, len(lines)):
        for value in ("null", "[]", "7", "[{}]"):
            head, colon, _ = lines[line].partition(":")
            changed = [*lines[:line], f"{head}: {value}" if colon else head, *lines[line + 1 :]]
            with suppress(VmpackError):
                HYPERVISOR.read(ConfigSource("vm.yaml", "\n".join(changed).encode()))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("512M", 512_000_000),
        ("1k", 1000),
        ("7", 7),
        ("1 Gi", None),
        ("9" * 20, None),
        ("-1", None),
        ("1i", None),
    ],
)
def test_quantities(text: str, size: int | None) -> None:
    assert names.quantity(text) == size


def test_straight_to_another(tmp_path: Path) -> None:
    path = tmp_path / "vm.yaml"
    path.write_text(MANIFEST)
    disks = dict.fromkeys(("rootdisk", "data", "iso", "node"), tmp_path / "d.raw")
    random_disk(tmp_path / "d.raw", MIB)
    result = transfer(path, tmp_path / "out", "kubevirt", disks=disks, verify=False)
    assert set(result.report) == {"import", "export"}
