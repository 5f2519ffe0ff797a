"""What a boot shows from outside: equal twice on one QEMU, and across as far as layers promise."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from fixtures.build import sectors
from tests.support.runner import HOSTS, TCG, packed, qemu_of, sector_bundle
from vmpack.bundle import Bundle
from vmpack.runner.detectors import MARKS, SETS
from vmpack.runner.milestones import Detector, Reached
from vmpack.runner.options import Ending
from vmpack.verify import boot as booting
from vmpack.verify.boot import Boot, boot_once
from vmpack.verify.compare import compare
from vmpack.verify.layers import LAYERS
from vmpack.verify.model import Json, Observation
from vmpack.verify.observe.ending import MAX_EVENTS, ending_facts
from vmpack.verify.observe.firmware import firmware_facts
from vmpack.verify.observe.hardware import pci_facts
from vmpack.verify.observe.milestones import milestone_facts
from vmpack.verify.observe.qtree import parse_qtree

EXPECTED = 'expected = { milestones = ["boot sector: *echo"] }\n'
MACHINE = """
cpu.cores = 2
[[nic]]
id = "lan"
mac = "52:54:00:12:34:56"
[[nic]]
id = "back"
model = "e1000"
[[disk]]
id = "root"
"""


def booted(bundle: Path, host: str = "machine", **more: object) -> Boot:
    with Bundle.open(bundle) as opened:
        return asyncio.run(boot_once(opened, TCG, qemu=qemu_of(host), **more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Boot]:
    """The same machine on each QEMU, and once more on the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(booting, "SETTLE_S", 0.2)
        bundle = sector_bundle(tmp_path_factory.mktemp("observe"), "echo", EXPECTED + MACHINE)
        return {name: booted(bundle, name.split()[0]) for name in (*HOSTS, "machine again")}


def observation(boot: Boot) -> Observation:
    assert boot.good, boot.ending
    assert boot.problems == ()
    assert boot.observation is not None
    return boot.observation


@pytest.mark.qemu
def test_every_layer_of_a_machine_without_an_agent_is_seen(boots: Mapping[str, Boot]) -> None:
    seen = observation(boots["machine"])
    assert set(seen.layers) >= {row.name for row in LAYERS} - {"guest", "tables"}
    assert seen.layers["ending"] == {"kind": "expected", "reason": None, "resets": 0, "order": []}
    assert seen.layers["milestones"] == {"order": [], "pattern:boot sector: *echo": True}
    assert seen.layers["reads"] == {"disk:root": {"bytes": 512, "operations": 1}}
    assert seen.layers["checks"] == {}
    firmware = seen.layers["firmware"]
    assert firmware["kind"] == "bios"
    assert firmware["code"] == seen.host.firmware
    assert firmware["booted"] == "Hard Disk"
    assert json.loads(json.dumps(dict(seen.layers))) == seen.layers


@pytest.mark.qemu
def test_hardware_is_named_as_the_config_names_it(boots: Mapping[str, Boot]) -> None:
    facts = observation(boots["machine"]).layers["hardware"]
    assert facts["machine"] == "pc-q35-7.2"
    assert facts["memory"] == {"base": 64 << 20, "plugged": 0}
    cpus = facts["cpus"]
    assert isinstance(cpus, dict)
    assert {key: cpus[key] for key in ("model", "vendor", "count", "cores", "threads")} == {
        "model": "Nehalem-v1",
        "vendor": "GenuineIntel",
        "count": 2,
        "cores": 2,
        "threads": 1,
    }
    disk, lan, back = facts["disk:root"], facts["nic:lan"], facts["nic:back"]
    assert isinstance(disk, dict)
    assert isinstance(lan, dict)
    assert isinstance(back, dict)
    assert (disk["device"], disk["size"], disk["boot"]) == ("virtio-blk-pci", 1 << 20, 1)
    assert (lan["device"], lan["mac"]) == ("virtio-net-pci", "52:54:00:12:34:56")
    assert back["device"] == "e1000"
    model = facts["cpu-model"]
    assert isinstance(model, dict)
    assert model["sse4.2"] is True
    assert model["aes"] is False
    slot = facts["pci:00:03.0"]
    assert isinstance(slot, dict)
    assert slot["id"] == "1af4:1000"


@pytest.mark.qemu
def test_a_text_screen_has_its_words(boots: Mapping[str, Boot]) -> None:
    """BHV-PIC-9: what the firmware says of itself is another picture, and the same text."""
    pictures = [observation(boots[host]).layers["picture"]["screen"] for host in HOSTS]
    words = []
    for picture in pictures:
        assert isinstance(picture, dict)
        words.append(picture["words"])
    assert words[0] == ["Booting from Hard Disk..."]
    assert words == [words[0]] * 3
    assert len({str(picture) for picture in pictures}) > 1


@pytest.mark.qemu
def test_two_boots_on_one_qemu_are_equal(boots: Mapping[str, Boot]) -> None:
    first, again = observation(boots["machine"]), observation(boots["machine again"])
    exact = [row.name for row in LAYERS if row.promise[0] == "exact" and row.name in first.layers]
    for name in exact:
        assert first.layers[name] == again.layers[name], name
    assert compare(first, again).differences == ()


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS[1:])
def test_what_is_promised_across_versions_is_equal(boots: Mapping[str, Boot], host: str) -> None:
    comparison = compare(observation(boots["machine"]), observation(boots[host]))
    assert comparison.relation == "across"
    assert [one.item for one in comparison.differences if one.counts] == []
    drifted = {one.item for one in comparison.differences if one.layer == "hardware"}
    assert drifted == {"cpu-host.ht", "device:pvpanic.events"}


BUSES = ("sata", "virtio-scsi", "nvme")
DISKS = """
[[disk]]
id = "{bus}"
bus = "{bus}"
serial = "{bus}-1"
"""
DRIVE = """
[[disk]]
id = "drive"
kind = "cdrom"
empty = true
bus = "sata"
"""


@pytest.mark.qemu
def test_buses_and_kinds_of_disks_are_told_apart(tmp_path: Path) -> None:
    """Each disk has its own size and serial, and where it is plugged in."""
    images = [sectors.write_disk("echo", tmp_path / f"{bus}.raw") for bus in BUSES]
    for number, image in enumerate(images):
        os.truncate(image, (number + 1) << 20)
    config = EXPECTED + "".join(DISKS.format(bus=bus) for bus in BUSES) + DRIVE
    facts = observation(booted(packed(tmp_path / "m.vmpack", images, config))).layers["hardware"]
    places = []
    for number, (bus, device) in enumerate(zip(BUSES, ("ide-hd", "scsi-hd", "nvme"), strict=True)):
        disk = facts[f"disk:{bus}"]
        assert isinstance(disk, dict)
        seen = (disk["device"], disk["serial"], disk["size"], disk["read-only"])
        assert seen == (device, f"{bus}-1", (number + 1) << 20, False)
        places.append(disk["place"])
    assert places == [
        "ide.0, unit 0",
        "virtio-scsi-0.0, channel 0, scsi-id 0, lun 0",
        "pcie.0 14.0",
    ]
    drive = facts["disk:drive"]
    assert isinstance(drive, dict)
    assert (drive["device"], drive["removable"], drive["size"]) == ("ide-cd", True, None)


@pytest.mark.qemu
def test_a_boot_that_fails_tells_what_could_still_be_seen(tmp_path: Path) -> None:
    config = '[expected]\nmilestones = ["boot sector", "never"]'
    boot = booted(sector_bundle(tmp_path, "poweroff", config))
    assert boot.ending.kind == "unexpected"
    assert boot.observation is not None
    layers = boot.observation.layers
    assert layers["ending"]["order"] == ["SHUTDOWN guest-shutdown"]
    assert layers["milestones"]["pattern:never"] is False
    assert layers["hardware"]["machine"] == "pc-q35-7.2"
    assert "checks" not in layers
    assert "picture" in layers


QTREE = """\
bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    MCFG = 2952790016 (0xb0000000)
    bus: pcie.0
      type PCIE
      dev: virtio-net-pci, id "nic-lan"
        addr = 03.0
        rombar = -1 (0xffffffffffffffff)
        romfile = ""
        class Ethernet controller, addr 00:03.0, pci id 1af4:1000 (sub 1af4:0001)
        bar 0: i/o at 0xc100 [0xc11f]
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            mac = "52:54:00:12:34:56"
            csum = true
      dev: ICH9-LPC, id ""
        addr = 1f.0
        bus: isa.0
          type ISA
          dev: isa-i8259, id ""
            iobase = 160 (0xa0)
          dev: isa-i8259, id ""
            iobase = 32 (0x20)
            pit = "/machine/unattached/device[7]"
"""


def test_a_tree_of_devices_is_read() -> None:
    devices = {one.name: one for one in parse_qtree(QTREE.replace("\n", "\r\n"))}
    assert list(devices) == [
        "q35-pcihost",
        "nic-lan",
        "nic-lan/virtio-net-device",
        "ICH9-LPC",
        "isa-i8259",
        "isa-i8259@32",
    ]
    card = devices["nic-lan"]
    assert (card.bus, card.properties) == ("pcie.0", {"addr": "03.0", "romfile": ""})
    inner = devices["nic-lan/virtio-net-device"]
    assert inner.parent is card
    assert inner.properties == {"mac": "52:54:00:12:34:56", "csum": True}
    assert devices["isa-i8259@32"].properties == {"iobase": 32}
    assert devices["isa-i8259"].bus == "isa.0"


def test_devices_behind_a_bridge_have_their_own_bus() -> None:
    inner = {"bus": 1, "slot": 0, "function": 0, "class_info": {"class": 512}, "regions": []}
    inner |= {"id": {"vendor": 0x8086, "device": 0x10D3}}
    bridge = {**inner, "bus": 0, "slot": 2, "pci_bridge": {"devices": [inner]}}
    assert list(pci_facts([{"bus": 0, "devices": [bridge]}])) == ["pci:00:02.0", "pci:01:00.0"]


def test_events_that_repeat_count_once() -> None:
    reset: dict[str, object] = {"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}
    events: list[dict[str, object]] = [
        reset,
        {"event": "RTC_CHANGE", "data": {"offset": 1}},
        reset,
        {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}},
    ]
    facts = ending_facts(Ending("unexpected", "", "guest-shutdown", resets=1), events)
    assert facts["order"] == ["RESET guest-reset", "SHUTDOWN guest-shutdown"]
    endless = [{"event": name} for name in ("SUSPEND", "WAKEUP")] * MAX_EVENTS
    order = ending_facts(Ending("timeout", ""), endless)["order"]
    assert isinstance(order, list)
    assert len(order) == MAX_EVENTS


def test_the_firmware_says_what_it_is_and_what_it_booted() -> None:
    log = b"SeaBIOS (version 1.16.2-debian)\nboot order:\n1: /pci@i0cf8/scsi@14/disk@0,0\n2: HALT\n"
    log += b"Booting from Hard Disk...\nBooting from 0000:7c00\n"
    assert firmware_facts("bios", "sha256:00", 2 * log) == {
        "kind": "bios",
        "code": "sha256:00",
        "version": "1.16.2-debian",
        "booted": "Hard Disk",
        "boot-order": ["/pci@i0cf8/scsi@14/disk@0,0", "HALT"],
    }
    console = b'BdsDxe: loading Boot0002 "UEFI Disk" from PciRoot(0x0)\r\n'
    console += b'\x1b[0mBdsDxe: starting Boot0002 "UEFI Disk" from PciRoot(0x0)\r\n'
    facts = firmware_facts("uefi", "sha256:00", b"", console)
    assert facts["booted"] == 'Boot0002 "UEFI Disk" from PciRoot(0x0)'


def test_milestones_with_and_without_an_order() -> None:
    seen = [
        Reached("kernel", 1.0, "6.1.0"),
        Reached("target multi-user", 2.0),
        Reached("login", 2.5),
        Reached("failed ssh.service", 2.6, "FAILED"),
        Reached("hostname", 2.7, "vm"),
    ]
    assert milestone_facts(seen, [Reached("ready", 3.0)], ["never"]) == {
        "order": ["kernel", "hostname"],
        "milestone:kernel": "6.1.0",
        "target:multi-user": True,
        "milestone:login": True,
        "failed:ssh.service": "FAILED",
        "milestone:hostname": "vm",
        "pattern:ready": True,
        "pattern:never": False,
    }


SHOWN: Mapping[str, tuple[str, Json]] = {
    "iPXE 1.21.1 -- Open Source Network Boot Firmware -- https://ipxe.org": ("firmware", ""),
    "SYSLINUX 6.04 EDD 20191223 Copyright (C) 1994": ("boot-loader", "SYSLINUX 6.04"),
    "  Booting `Debian GNU/Linux'": ("boot-loader", "Debian GNU/Linux"),
    "[    0.000000] Command line: root=/dev/vda1 ro": ("command-line", "root=/dev/vda1 ro"),
    "[    1.0] Linux version 6.1.0-1 (me)": ("kernel", "6.1.0-1 (me)"),
    "OpenBSD 7.4 (GENERIC.MP) #1397: Tue": ("kernel", "OpenBSD 7.4 (GENERIC.MP)"),
    "[    2.160000] Run /init as init process": ("init", "/init"),
    "systemd[1]: Detected virtualization qemu.": ("virtualization", "qemu"),
    "systemd[1]: Hostname set to <vm>.": ("hostname", "vm"),
    "systemd[1]: Queued start job for default target graphical.target.": (
        "default-target",
        "graphical.target",
    ),
    "systemd[1]: Queued start job for default target Graphical Interface.": (
        "default-target",
        "Graphical Interface",
    ),
    "INIT: version 3.06 booting": ("sysvinit", "3.06"),
    "INIT: Entering runlevel: 2": ("runlevel", "2"),
    "init started: BusyBox v1.35.0 (Debian)": ("busybox", "1.35.0"),
    "   OpenRC 0.45.2 is starting up Linux 6.1": ("openrc", "0.45.2"),
    "- runit: enter stage: /etc/runit/1": ("runit", "/etc/runit/1"),
    "[  OK  ] Reached target network.target - Network.": ("target network", ""),
    "[FAILED] Failed to start nope.service - A service.": ("failed nope.service", "FAILED"),
    "[FAILED] Failed to start A service.": ("failed A service", "FAILED"),
    "[DEPEND] Dependency failed for data.mount - /data.": ("failed data.mount", "DEPEND"),
    "[ TIME ] Timed out waiting for device dev-x.device.": ("failed dev-x.device", "TIME"),
    "[FAIL] startpar: service(s) returned failure: ssh": (
        "failed startpar: service(s) returned failure: ssh",
        "FAIL",
    ),
    "[ TIME ] Timed out waiting for device \x1b[0;1;\u2026dev-ttyS0.device": (
        "failed \u2026dev-ttyS0.device",
        "TIME",
    ),
    " * ERROR: sshd failed to start": ("failed sshd", "ERROR"),
}


@pytest.mark.parametrize("line", SHOWN)
def test_a_detector_recognises_its_line(line: str) -> None:
    detector = Detector()
    detector.feed(line.encode() + b"\r\n", 1.0)
    name, detail = SHOWN[line]
    assert {one.name: one.detail for one in detector.seen}[name] == detail


GLUED = {
    # Cut within a name, after it, before it, by several lines, and with nothing left to follow.
    b"[  OK  ] Reached target multi-us[   12.5] IPv6: up\r\ner.target - X.\r\n": "multi-user",
    b"[  OK  ] Reached target ssh.target[   12.5] up\r\n - X.\r\n": "ssh",
    b"[  OK  ] Reached target net.target[   12.5] up\r\n\r\nNext line\r\n": "net",
    b"[  OK  ] Reached target Basic[   12.5] up\r\n\r\nNext line\r\n": "Basic",
    b"[  OK  ] Reached tar[   12.5] a\r\n[   12.6] b\r\nget a.target - X.\r\n": "a",
    b"[  OK  ] Reached target swap.target - X.[   12.5] up\r\n\r\nNext\r\n": "swap",
}


@pytest.mark.parametrize("console", GLUED)
def test_a_line_that_the_kernel_printed_into_is_put_together(console: bytes) -> None:
    console = console.replace(b"12.", b"12.00000")
    for step in (1, 11, len(console)):
        detector = Detector()
        for start in range(0, len(console), step):
            detector.feed(console[start : start + step], 1.0)
        assert [one.name for one in detector.seen] == [f"target {GLUED[_key(console)]}"]


def _key(console: bytes) -> bytes:
    return console.replace(b"12.00000", b"12.")


def test_what_is_expected_may_be_cut_by_the_kernel_as_well() -> None:
    detector = Detector(["Started app", "ready"])
    detector.feed(b"Started a[    1.000000] x: y\r\npp. ready\r\n", 1.0)
    assert detector.missing == ()
    twice = Detector(["ready", "ready"])
    twice.feed(b"ready once [    1.000000] x: y\r\nand on\r\n", 1.0)
    assert twice.missing == ("ready",)


def test_detectors_have_one_name_for_one_thing() -> None:
    assert all(mark.of and mark.pattern.pattern for mark in MARKS)
    names = {mark.name: mark.ordered for mark in MARKS}
    assert all(names[mark.name] == mark.ordered for mark in MARKS)
    assert not {one.kind for one in SETS} & names.keys()
