"""The probe and its parsers: one script, every shell, facts without noise, nothing believed."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import require_tool, run
from vmpack.verify.guest import boards, info, system
from vmpack.verify.guest.found import MAX_FACTS
from vmpack.verify.guest.info import COMMANDS, parse_info
from vmpack.verify.guest.parse import MAX_OUTPUT, SECTIONS, Parsed, parse
from vmpack.verify.guest.probe import script
from vmpack.verify.kinds import KINDS, kind_of

SHELLS = ("dash", "bash --posix", "busybox sh")


def probed(shell: str) -> Parsed:
    """What the probe tells of this machine."""
    require_tool(shell.split()[0])
    return parse(run([*shell.split(), "-c", script()]).stdout)


def facts(section: str, *lines: str) -> Any:
    """The facts of one section; those of ``tables`` under a key of their own."""
    parsed = parse("\n".join([f"== {section}", *lines, "== end"]).encode())
    assert parsed.complete
    return {**parsed.facts, **({"tables": parsed.tables} if parsed.tables else {})}


def test_every_shell_finds_the_same() -> None:
    first, *others = (probed(shell) for shell in SHELLS)
    assert first.complete
    assert first.facts["uname"]
    assert first.facts["cpus"]
    # Where no systemd tells what is meant to run, processes come and go.
    for other in others:
        assert _without_processes(other) == _without_processes(first)


def _without_processes(parsed: Parsed) -> dict[str, object]:
    return {key: value for key, value in parsed.facts.items() if not key.startswith("process:")}


def test_shellcheck_has_nothing_to_say() -> None:
    run([require_tool("shellcheck"), "vmpack/verify/guest/probe.sh"])


def test_what_is_sent_has_neither_comments_nor_long_lines() -> None:
    text = script()
    assert not re.search(r"^\\s*#", text, re.MULTILINE)
    # A terminal takes 4,095 bytes of a line.
    assert max(map(len, text.splitlines())) < 1000
    assert len(text) < 6000


def test_the_probes_sections_are_those_that_are_read() -> None:
    written = set(re.findall(r"^(?:section|first) ([a-z-]+)", script(), re.MULTILINE))
    assert written - {"end"} == set(SECTIONS)


def test_every_kind_of_fact_is_on_the_page() -> None:
    """BHV-FACT-1."""
    everything = [probed("dash"), parse(REAL), parse(b"== efi\nuefi\n" + REAL)]
    guest = {kind_of(key) for parsed in everything for key in parsed.facts}
    guest |= {kind_of(key) for key in parse_info(WINDOWS)}
    assert guest <= set(KINDS["guest"])
    tables = {kind_of(key) for parsed in everything for key in parsed.tables}
    assert tables <= set(KINDS["tables"])
    source = "".join(Path(module.__file__ or "").read_text() for module in (boards, system, info))
    written = set(re.findall(r'found\.(?:fact|add)\(\s*f?"([a-z-]+)', source))
    assert written <= set(KINDS["guest"])


def test_units_are_told_but_not_those_that_come_and_go() -> None:
    lines = (
        "ssh.service loaded active running OpenBSD Secure Shell server",
        "broken.service loaded failed failed A thing",
        "getty@tty1.service loaded active running Getty",
        "session-1.scope loaded active running Session 1",
        "user@0.service loaded active running User Manager",
        "dev-vda1.device loaded active plugged A disk",
        "systemd-hostnamed.service loaded active running Hostname",
        "nonsense",
    )
    assert facts("units", *lines) == {
        "unit:ssh.service": "active",
        "unit:broken.service": "failed",
        "failed-unit:broken.service": True,
        "unit:getty@tty1.service": "active",
    }


def test_mounts_are_told_without_the_kernels_own() -> None:
    lines = (
        "proc /proc proc rw 0 0",
        "/dev/vda1 / ext4 rw,relatime,errors=remount-ro 0 0",
        "tmpfs /run tmpfs rw,nosuid,size=98k,mode=755,inode64 0 0",
        r"/dev/vdb /mnt/a\\040b ext4 ro 0 0".replace("\\\\", "\\"),
        "tmpfs /run/user/0 tmpfs rw 0 0",
        "/dev/loop7 /snap/x squashfs ro 0 0",
    )
    assert facts("mounts", *lines) == {
        "mount:/": {
            "source": "/dev/vda1",
            "type": "ext4",
            "options": "errors=remount-ro,relatime,rw",
        },
        "mount:/run": {"source": "tmpfs", "type": "tmpfs", "options": "mode=755,nosuid,rw"},
        "mount:/mnt/a b": {"source": "/dev/vdb", "type": "ext4", "options": "ro"},
        "mount:/snap/x": {"source": "loop", "type": "squashfs", "options": "ro"},
    }


def test_the_network_is_told_by_mac_address_and_route() -> None:
    cards = ("lo\t00:00:00:00:00:00\t65536\tunknown\t-", "eth0\t52:54:00:00:00:01\t1500\tup\te1000")
    assert facts("nics", *cards, "docker0\tx\t1500\tdown\t-", "veth12\tx\t1500\tup\t-") == {
        "nic:52:54:00:00:00:01": {"name": "eth0", "driver": "e1000", "mtu": "1500", "state": "up"},
        "interface:docker0": "down",
    }
    lines = (
        "1: lo    inet 127.0.0.1/8 scope host lo\\\\       valid_lft forever",
        "2: eth0    inet 10.0.2.15/24 metric 1024 brd 10.0.2.255 scope global dynamic eth0",
        "2: eth0    inet6 fec0::1/64 scope site temporary dynamic",
        "2: eth0    inet6 fec0::2/64 scope site dynamic mngtmpaddr",
        "2: eth0    inet6 fe80::1/64 scope link",
    )
    assert facts("addresses", *lines) == {"address:eth0": ["10.0.2.15/24", "fec0::2/64"]}
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU",
        "eth0\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0",
        "eth0\t0002000A\t00000000\t0001\t0\t0\t1024\t00FFFFFF\t0",
    )
    assert facts("routes", *table) == {
        "route:0.0.0.0/0": ["via 10.0.2.2 eth0"],
        "route:10.0.2.0/24": ["eth0"],
    }


def test_disks_are_told_in_bytes_with_what_they_are_called() -> None:
    assert facts("disks", "vda\t2048\t0\t512\t0x1af4\t\troot\t", "vda1\t1\t2", "sda\tx\ty") == {
        "disk:vda": {
            "size": 1 << 20,
            "read-only": False,
            "sector": 512,
            "model": "0x1af4",
            "serial": "root",
        },
        "partition:vda1": {"start": 512, "size": 1024},
    }
    lines = (
        "/dev/disk/by-label:",
        "total 0",
        "lrwxrwxrwx 1 root root 10 Nov 24 02:30 root -> ../../vda3",
    )
    assert facts("links", *lines) == {"link:by-label/root": "vda3"}


def test_a_full_root_file_system_is_told() -> None:
    head = "Filesystem 1024-blocks Used Available Capacity Mounted on"
    assert facts("root", head, "/dev/vda1 1000 500 450 53% /") == {"root-full": False}
    assert facts("root", head, "/dev/vda1 1000 999 1 100% /") == {"root-full": True}


def test_what_only_the_same_qemu_repeats_is_a_table() -> None:
    digest = "0" * 64
    acpi = f"{digest}  /sys/firmware/acpi/tables"
    assert facts("digests", f"{acpi}/DSDT", f"{acpi}/MCFG", f"{acpi}/../../etc") == {
        "acpi:MCFG": f"sha256:{digest}",
        "tables": {"acpi:DSDT": f"sha256:{digest}"},
    }
    dmi = "/sys/class/dmi/id/"
    assert facts("dmi", f"{dmi}sys_vendor:QEMU", f"{dmi}bios_version:1.16") == {
        "dmi:sys_vendor": "QEMU",
        "tables": {"dmi:bios_version": "1.16"},
    }
    line = "   0x00000001 0x00: eax=0x000106a3 ebx=0x01020800 ecx=0x80b82201 edx=0x178bfbff"
    assert facts("cpuid", "CPU:", line) == {
        "tables": {"cpuid:00000001:00": "000106a3 --020800 80b82201 178bfbff"}
    }


def test_addresses_that_the_firmware_chose_are_not_in_facps_digest() -> None:
    table = bytearray(range(244))

    def digest() -> str:
        text = table.hex(" ")
        rows = [text[place : place + 48] for place in range(0, len(text), 48)]
        return str(facts("facp", *rows)["acpi:FACP"])

    before = digest()
    for place in (9, 36, 43, 132, 147):
        table[place] ^= 255
    assert digest() == before
    table[46] ^= 1
    assert digest() != before


def test_memory_is_the_firmwares_under_uefi() -> None:
    lines = b"== memory\nMemTotal:  983484 kB\n== memory-map\n-\t0x0\t0xfff\tSystem RAM\n"
    lines += b"-\t0xfd00000000\t0xffffffffff\tReserved\n== end\n"
    known = {"memory": 983484, "memory-map:0x0-0xfff": "System RAM"}
    assert parse(lines).facts == known
    under_uefi = parse(b"== efi\nuefi\n 06 00 00 00 01\n" + lines)
    assert under_uefi.tables == known
    assert under_uefi.facts == {"boot-mode": "uefi", "secure-boot": True}


def test_settings_are_told() -> None:
    lines = ("ID=debian", 'VERSION_ID="12"', "", "LANG=de_DE.UTF-8", "XKBLAYOUT=us", "HOME=/x")
    assert facts("settings", *lines) == {
        "os": "debian 12",
        "locale:LANG": "de_DE.UTF-8",
        "keyboard:XKBLAYOUT": "us",
    }
    assert facts("timezone", "/usr/share/zoneinfo/Europe/Rome") == {"timezone": "Europe/Rome"}


def test_output_that_was_cut_is_not_whole() -> None:
    assert not parse(b"== uname\nLinux\n").complete
    assert not parse(b"").complete
    assert not parse(b"== modules\n" + b"a 1\n" * 5000 + b"== end\n").complete
    assert not parse(b"== uname\n" + b"x" * MAX_OUTPUT + b"\n== end\n").complete


def test_more_facts_than_any_guest_has_are_not_kept() -> None:
    """hostile: 48."""
    rows = b"".join(b"m%d 1\n" % number for number in range(4000))
    flags = b"flags : " + b" ".join(b"f%d" % n for n in range(900)) + b"\n"
    many = b"== modules\n" + rows + b"== units\n" + rows.replace(b" 1", b" loaded failed x")
    parsed = parse(many + b"== processes\n" + rows + b"== cpu\n" + flags + b"== end\n")
    assert len(parsed.facts) <= MAX_FACTS
    assert not parsed.complete


NAMES = sorted(SECTIONS)
sections = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.text(max_size=40), max_size=4)), max_size=6
)


@given(sections)
def test_whatever_a_section_holds_it_is_facts(found: list[tuple[str, list[str]]]) -> None:
    """hostile: 48."""
    text = "\n".join("\n".join([f"== {name}", *lines]) for name, lines in found)
    parsed = parse(text.encode("utf-8", "replace"))
    json.dumps([parsed.facts, parsed.tables])


@given(st.data())
def test_a_probes_output_may_be_mutated(data: st.DataObject) -> None:
    """hostile: 48."""
    output = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 20))):
        place = data.draw(st.integers(0, len(output) - 1))
        output[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    parsed = parse(bytes(output))
    json.dumps([parsed.facts, parsed.tables])


REAL = b"""== cpu
processor	: 0
flags		: fpu vme
siblings	: 2
cpu cores	: 2
== pci
0000:00:03.0	0x1af4	0x1000	0x020000	0x1af4	0x0001	virtio-pci
== virtio
virtio0	0x0001	0010010000000001	virtio_net
== swaps
Filename Type Size Used Priority
/dev/vda2 partition 1024 0 -2
== routes
eth0	00000000	0202000A	0003	0	0	1024	00000000	0
== cpuid
   0x00000001 0x00: eax=0x000106a3 ebx=0x01020800 ecx=0x80b82201 edx=0x178bfbff
== end
"""


@pytest.mark.parametrize(
    "output",
    [
        b"== cmdline\n" + b"(" * MAX_OUTPUT,
        b"== mounts\n" + b"a " * (MAX_OUTPUT // 2),
        b"== addresses\n" + b"1: " + b"a@" * (MAX_OUTPUT // 2),
        b"== cpuid\n" + b" " * MAX_OUTPUT,
        b"== settings\n" + b"LC_" + b"A" * MAX_OUTPUT,
        b"== x" * (MAX_OUTPUT // 4),
        b"\n" * MAX_OUTPUT,
    ],
)
def test_no_output_takes_long(output: bytes) -> None:
    """hostile: 48."""
    begun = time.process_time()
    parse(output)
    assert time.process_time() - begun < 10


WINDOWS: dict[str, Any] = {
    "guest-get-osinfo": {"id": "mswindows", "name": "Microsoft Windows", "version-id": "2022"},
    "guest-get-host-name": {"host-name": "WIN-1"},
    "guest-get-users": [{"user": "Administrator", "login-time": 1.5, "domain": "WIN-1"}],
    "guest-network-get-interfaces": [
        {
            "name": "Ethernet",
            "hardware-address": "52:54:00:AA:00:01",
            "ip-addresses": [
                {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "fe80::1%5", "ip-address-type": "ipv6", "prefix": 64},
            ],
        },
        {"name": "Loopback", "ip-addresses": []},
    ],
    "guest-get-fsinfo": [
        {"name": "Volume{1}", "mountpoint": "C:\\\\", "type": "NTFS", "used-bytes": 5, "disk": []}
    ],
    "guest-get-disks": [
        {
            "name": "PhysicalDrive0",
            "partition": False,
            "address": {"bus-type": "sata", "serial": "root", "bus": 0},
        }
    ],
}


def test_an_agent_that_runs_nothing_tells_what_it_knows() -> None:
    assert set(WINDOWS) == set(COMMANDS)
    assert parse_info(WINDOWS) == {
        "address:Ethernet": ["10.0.2.15/24"],
        "disk:PhysicalDrive0": {"partition": False, "bus-type": "sata", "serial": "root"},
        "hostname": "WIN-1",
        "mount:C:\\\\": {"source": "Volume{1}", "type": "NTFS"},
        "nic:52:54:00:aa:00:01": {"name": "Ethernet"},
        "os-info:id": "mswindows",
        "os-info:name": "Microsoft Windows",
        "os-info:version-id": "2022",
        "user:Administrator": True,
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "mountpoint", "ip-addresses", "prefix", "user", "address"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(COMMANDS), values))
def test_whatever_an_agent_says_it_is_facts(replies: dict[str, object]) -> None:
    """hostile: 48."""
    json.dumps(parse_info(replies), allow_nan=False)
