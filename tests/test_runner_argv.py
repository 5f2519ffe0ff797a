"""QEMU's command line from a plan: a table of configs, and QEMU itself as the judge of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.runner import HOSTS, in_session, packed
from vmpack.errors import PinUnavailableError, UsageError
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.runner.argv import build_argv
from vmpack.runner.options import Firmware, Plan, Qemu, RunOptions
from vmpack.runner.session import Session

DISK = '[[disk]]\nid = "root"\n'


def plan(toml: str = DISK, **changes: Any) -> Plan:
    """A plan of a pinned config whose disks have windows of 1 MiB."""
    config = MachineConfig.from_toml('memory = "64M"\n' + toml)
    ids = [disk.id for disk in config.disks or () if not disk.empty]
    config = pin(config, [DiskFacts(each, 1 << 20) for each in ids], seed=b"test")
    fdsets = {"console": 1, "typing": 2, "firmware-log": 3, "code": 4, "nvram": 5}
    fdsets |= {f"disk:{each}": 7 for each in ids}
    fdsets |= {f"overlay:{each}": 8 + number for number, each in enumerate(ids)}
    uefi = config.firmware.kind == "uefi"
    if not uefi:
        del fdsets["code"], fdsets["nvram"]
    values: dict[str, Any] = {
        "config": config,
        "options": RunOptions(),
        "accel": "tcg",
        "qemu": Qemu(("qemu",), (7, 2, 0)),
        "firmware": Firmware(kind="uefi" if uefi else "bios"),
        "windows": {each: (65536 * (n + 1), 1 << 20) for n, each in enumerate(ids)},
        "fdsets": fdsets,
        "inherited": {number: 20 + number for number in sorted(set(fdsets.values()))},
        "sockets": {"qmp": 10, "agent": 11} | ({"tpm": 12} if config.tpm is not None else {}),
    }
    return Plan(**(values | changes))


def values(argv: list[str], option: str) -> list[str]:
    """The words that follow ``option``."""
    return [argv[number + 1] for number, word in enumerate(argv) if word == option]


def nodes(argv: list[str], option: str) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values(argv, option)]


def device(argv: list[str], name: str) -> dict[str, Any]:
    """The device of that id."""
    return next(node for node in nodes(argv, "-device") if node["id"] == name)


WORDS: tuple[tuple[str, str, str, list[str]], ...] = (
    ("machine", DISK, "-machine", ["pc-q35-7.2,usb=off,dump-guest-core=off"]),
    (
        "uefi",
        DISK + '[firmware]\nkind = "uefi"',
        "-machine",
        [
            "pc-q35-7.2,usb=off,dump-guest-core=off,pflash0=firmware-code,pflash1=nvram",
        ],
    ),
    ("memory", DISK, "-m", ["64M"]),
    (
        "cpu",
        DISK + '[cpu]\nmodel = "Westmere-v1"\nvendor = "GenuineIntel"\nflags = ["+aes", "-vmx"]',
        "-cpu",
        ["Westmere-v1,vendor=GenuineIntel,kvm=off,tcg-cpuid=off,aes=on,vmx=off,enforce"],
    ),
    (
        "topology",
        DISK + "[cpu]\nsockets = 2\ncores = 3\nthreads = 2",
        "-smp",
        ["cpus=12,maxcpus=12,sockets=2,dies=1,cores=3,threads=2"],
    ),
    ("clock", DISK + '[rtc]\nclock = "localtime"', "-rtc", ["base=localtime,clock=host"]),
    (
        "start",
        DISK + '[rtc]\nstart = "2026-01-31T12:00:00"',
        "-rtc",
        ["base=2026-01-31T12:00:00,clock=host"],
    ),
    ("reset-ends", DISK + '[expected]\nending = "reset"', "-action", ["reboot=shutdown"]),
    ("reset-goes-on", DISK + '[expected]\nending = "running"', "-action", ["reboot=reset"]),
    ("agent", DISK, "-chardev", ["socket,id=qmp,fd=10", "socket,id=agent,fd=11"]),
    ("tpm", DISK + "[tpm]", "-tpmdev", ["emulator,id=tpm-backend,chardev=tpm"]),
    ("fds", DISK, "-add-fd", ["fd=21,set=1", "fd=27,set=7", "fd=28,set=8"]),
)


@pytest.mark.parametrize(("toml", "option", "wanted"), [w[1:] for w in WORDS], ids=lambda _: "")
def test_words(toml: str, option: str, wanted: list[str]) -> None:
    found = values(build_argv(plan(toml)), option)
    assert [word for word in found if word in wanted] == wanted, found


def test_it_starts_paused_bare_and_confined() -> None:
    """hostile: 47."""
    argv = build_argv(plan())
    assert argv[0] == "qemu"
    assert {"-nodefaults", "-no-user-config", "-S"} <= set(argv)
    assert values(argv, "-display") == ["none"]
    sandbox = "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny"
    assert values(argv, "-sandbox") == [f"{sandbox},spawn=deny"]
    for display, spawn in (("vnc", "deny"), ("gtk", "allow"), ("vnc=unix:/x", "deny")):
        argv = build_argv(plan(options=RunOptions(display=display)))
        assert values(argv, "-sandbox") == [f"{sandbox},spawn={spawn}"]
    assert values(argv, "-qmp") == ["chardev:qmp"]


def test_every_layer_of_a_window_is_read_only_and_follows_no_name() -> None:
    """VMP-WIN-3: a view opened writable destroys its bundle."""
    view, overlay = nodes(build_argv(plan()), "-blockdev")
    assert view == {
        "driver": "qcow2",
        "node-name": "disk0",
        "read-only": True,
        "backing": None,
        "file": {
            "driver": "raw",
            "offset": 65536,
            "size": 1 << 20,
            "read-only": True,
            "file": {"driver": "file", "filename": "/dev/fdset/7", "read-only": True},
        },
    }
    assert overlay["backing"] == "disk0"
    assert overlay["file"]["filename"] == "/dev/fdset/8"
    assert overlay["cache"]["no-flush"] is True
    kept = nodes(build_argv(plan(durable=True)), "-blockdev")[1]
    assert kept["cache"]["no-flush"] is False


def test_a_bundle_on_a_block_device_is_opened_as_one() -> None:
    view = nodes(build_argv(plan(devices=frozenset({7}))), "-blockdev")[0]
    assert view["file"]["file"]["driver"] == "host_device"


BUSES = (
    ("virtio-blk", {"driver": "virtio-blk-pci", "bus": "pcie.0", "addr": "14.0"}),
    ("nvme", {"driver": "nvme", "bus": "pcie.0", "addr": "14.0"}),
    ("sata", {"driver": "ide-hd", "bus": "ide.0", "unit": 0}),
    ("virtio-scsi", {"driver": "scsi-hd", "bus": "virtio-scsi-0.0", "scsi-id": 0, "lun": 0}),
    ("lsisas1068", {"driver": "scsi-hd", "bus": "lsisas1068-0.0"}),
)


@pytest.mark.parametrize(("bus", "wanted"), BUSES, ids=[bus for bus, _ in BUSES])
def test_disk_devices(bus: str, wanted: dict[str, object]) -> None:
    disk = device(build_argv(plan(f'{DISK}bus = "{bus}"')), "disk-root")
    assert wanted.items() <= disk.items()
    assert disk["drive"] == "overlay0"
    assert disk["bootindex"] == 1
    assert disk["serial"] == "root"


def test_a_second_sata_controller_and_ide() -> None:
    places = DISK + 'bus = "sata"\ncontroller = 1\nport = 3\n'
    assert device(build_argv(plan(places)), "disk-root")["bus"] == "sata-1.3"
    place = device(build_argv(plan(DISK + 'bus = "ide"\nport = 1\nunit = 1\n')), "disk-root")
    assert (place["bus"], place["unit"]) == ("ide.1", 1)


def test_what_is_not_written_has_no_overlay() -> None:
    cdrom = '[[disk]]\nid = "cd"\nkind = "cdrom"\n'
    read_only = '[[disk]]\nid = "ro"\nread-only = true\n'
    empty = '[[disk]]\nid = "none"\nkind = "cdrom"\nempty = true\n'
    argv = build_argv(plan(DISK + cdrom + read_only + empty))
    names = [node["node-name"] for node in nodes(argv, "-blockdev")]
    assert names == ["disk0", "overlay0", "disk1", "disk2"]
    assert device(argv, "disk-cd")["drive"] == "disk1"
    assert device(argv, "disk-ro")["drive"] == "disk2"
    assert "drive" not in device(argv, "disk-none")


def test_commas_and_equals_signs_stay_text() -> None:
    """CFG-TYPE-3; hostile: 46."""
    toml = DISK + '[smbios.system]\nproduct = "a,serial=x"\n[smbios]\noem-strings = ["p,q", "r=s"]'
    found = values(build_argv(plan(toml)), "-smbios")
    assert any("product=a,,serial=x," in f"{word}," for word in found)
    assert "type=11,value=p,,q,value=r=s" in found


NIC = '[[nic]]\nid = "a"\n[[nic]]\nid = "b"\nnetwork = "none"\n'


def test_networks_are_closed_unless_asked_and_ports_open_on_loopback() -> None:
    """hostile: 47."""
    first, second = nodes(build_argv(plan(DISK + NIC)), "-netdev")
    assert first == {"type": "user", "id": "net-a", "restrict": True}
    options = RunOptions(network="user", forwards=((8080, 80), (2222, 22)))
    first, second = nodes(build_argv(plan(DISK + NIC, options=options)), "-netdev")
    rules = [{"str": "tcp:127.0.0.1:8080-:80"}, {"str": "tcp:127.0.0.1:2222-:22"}]
    assert first == {"type": "user", "id": "net-a", "hostfwd": rules}
    assert second == {"type": "user", "id": "net-b", "restrict": True}


def test_a_boot_rom_only_for_a_card_that_boots() -> None:
    argv = build_argv(plan(DISK + 'boot = 1\n[[nic]]\nid = "a"\n[[nic]]\nid = "b"\nboot = 2\n'))
    assert device(argv, "nic-a")["romfile"] == ""
    assert "romfile" not in device(argv, "nic-b")


def test_a_slot_with_several_functions_says_so() -> None:
    nics = '[[nic]]\naddress = "00:05.0"\n[[nic]]\naddress = "00:05.1"\n'
    argv = build_argv(plan(DISK + nics))
    assert device(argv, "nic-net0")["multifunction"] is True
    assert "multifunction" not in device(argv, "nic-net1")


def test_options_of_the_user_win_over_the_config() -> None:
    options = RunOptions(memory=256 << 20, cpus=3, display="gtk", qemu_args=("-name", "x"))
    argv = build_argv(plan(options=options))
    assert values(argv, "-m") == ["256M"]
    assert values(argv, "-smp") == ["cpus=3,maxcpus=3,sockets=1,dies=1,cores=3,threads=1"]
    assert values(argv, "-display") == ["gtk"]
    assert argv[-2:] == ["-name", "x"]


def test_secure_boot_locks_the_flash() -> None:
    firmware = Firmware(kind="uefi", secure_boot=True)
    argv = build_argv(plan(DISK + '[firmware]\nkind = "uefi"', firmware=firmware))
    assert values(argv, "-machine")[0].endswith(",smm=on")
    assert values(argv, "-global") == ["driver=cfi.pflash01,property=secure,value=on"]


def test_kvm_is_asked_for_as_it_is() -> None:
    assert values(build_argv(plan(accel="kvm")), "-accel") == ["kvm"]
    assert values(build_argv(plan()), "-accel")[0].startswith("tcg,thread=multi")


def test_what_qemu_cannot_do_is_refused() -> None:
    with pytest.raises(PinUnavailableError, match="no buslogic controller"):
        build_argv(plan(DISK + 'bus = "buslogic"\n'))
    with pytest.raises(UsageError, match="'root' that the bundle lacks"):
        build_argv(plan(windows={}))
    with pytest.raises(PinUnavailableError, match="pins no machine type"):
        build_argv(plan(config=MachineConfig()))


EVERYTHING = """
name = "a,b=c"
uuid = "12345678-9abc-8def-8123-456789abcdef"
input = "usb-tablet"
[smbios.bios]
vendor = "x,y"
[smbios.baseboard]
product = "board, with commas"
[smbios.chassis]
asset = "chassis"
[smbios]
oem-strings = ["one,two", "three=four"]
[display]
model = "std"
[[serial]]
port = 0
[[serial]]
port = 1
[[nic]]
model = "virtio-net"
mtu = 1400
[[nic]]
model = "e1000"
network = "none"
[[nic]]
model = "e1000e"
[[nic]]
model = "vmxnet3"
[[nic]]
model = "rtl8139"
[[nic]]
model = "pcnet"
[[nic]]
model = "tulip"
[[nic]]
model = "ne2k"
boot = 9
"""
Q35 = EVERYTHING + "".join(
    f'[[disk]]\nid = "{bus}"\nbus = "{bus}"\n'
    for bus in ("virtio-blk", "sata", "virtio-scsi", "nvme", "lsilogic", "lsisas1068", "pvscsi")
)
DETAILS = """
[[disk]]
id = "second-sata"
bus = "sata"
controller = 1
port = 5
wwn = "0x5000c50015ea71aa"
rotation-rate = 1
[[disk]]
id = "read-only"
bus = "virtio-blk"
read-only = true
logical-block-size = 4096
physical-block-size = 4096
[[disk]]
id = "cd"
kind = "cdrom"
[[disk]]
id = "scsi-cd"
kind = "cdrom"
bus = "virtio-scsi"
empty = true
"""
I440FX = EVERYTHING + '[[disk]]\nid = "ide"\nbus = "ide"\n[[disk]]\nid = "sata"\nbus = "sata"\n'


@pytest.mark.qemu
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("toml", "disks"), [(Q35 + DETAILS, 10), (I440FX, 2)], ids=["q35", "pc"])
def test_every_qemu_takes_every_device_at_its_place(
    toml: str, disks: int, host: str, tmp_path: Path
) -> None:
    images = [tmp_path / f"{number}.raw" for number in range(disks)]
    for image in images:
        random_disk(image, 1 << 20, seed=1)
    bundle = packed(tmp_path / "all.vmpack", images, toml)

    async def work(session: Session) -> tuple[MachineConfig, dict[str, str]]:
        places = {}
        for bus in await session.qmp("query-pci"):
            for one in bus["devices"]:
                places[one["qdev_id"]] = f"00:{one['slot']:02x}.{one['function']}"
        return session.plan.config, places

    config, places = in_session(bundle, work, host=host)
    pinned: dict[str, str | None] = {
        f"disk-{disk.id}": disk.address for disk in config.disks or () if disk.address
    }
    pinned |= {f"nic-{nic.id}": nic.address for nic in config.nics or ()}
    pinned |= {"display": config.display.address, "rng": config.rng.address}
    assert {name: places.get(name) for name in pinned} == pinned
