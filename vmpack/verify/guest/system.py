"""The system that runs in the guest: kernel, units, modules, mounts, network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address

from vmpack.verify.guest.found import Found

Lines = Sequence[str]

NOISY_UNITS = (
    "*.device",  # The hardware, which is told better elsewhere.
    "*.scope",
    "session-*",
    "user@*",
    "user-*.slice",
    "user-runtime-dir@*",
    "run-user-*",
    "run-credentials-*",
    "run-docker-*",
    "var-lib-docker-*",
    "systemd-coredump@*",
    # Started by whoever asks over D-Bus, gone when nobody has asked for a while.
    "systemd-hostnamed.service",
    "systemd-localed.service",
    "systemd-timedated.service",
    "packagekit.service",
    "fwupd.service",
    # Started by whoever uses their socket or mount point, gone when nobody has for a while.
    "proc-sys-fs-binfmt_misc.mount",
    "systemd-fsck@*",
    "systemd-fsckd.service",
    "systemd-initctl.service",
    "systemd-journald@*",
    "systemd-rfkill.service",
    # Started by a timer.
    "apt-daily*.service",
    "dpkg-db-backup.service",
    "e2scrub*.service",
    "fstrim.service",
    "fwupd-refresh.service",
    "logrotate.service",
    "man-db.service",
    "motd-news.service",
    "systemd-tmpfiles-clean.service",
    "systemd-update-utmp-runlevel.service",
    "update-notifier-*.service",
)
"""Units that come and go with the time of day, or with the login that asks."""

PSEUDO = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "ramfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)
"""File systems that are windows into the kernel: its version says what there is."""

NOISY_MOUNTS = ("/run/user/*", "/run/credentials/*", "/run/docker/*", "/var/lib/docker/*")
NOISY_OPTIONS = ("size=*", "nr_inodes=*", "nr_blocks=*", "inode64", "fd=*", "pgrp=*", "pipe_ino=*")

OWN_PROCESSES = frozenset(
    ["agetty", "ash", "bash", "busybox", "dash", "getty", "login", "ps", "qemu-ga", "sh"]
)
"""The probe's own, and those that become another one when somebody logs in."""

ESCAPED = re.compile(r"\\([0-7]{3})")
ADDRESS = re.compile(r"\d+: +(\S+?)(?:@\S+)? +inet6? ([0-9a-fA-F.:]+/\d+) (.*)")
ROUTE_UP, ROUTE_GATEWAY = 1, 2


def only(key: str) -> Callable[[Found, Lines], None]:
    """A section of one line that is the fact."""

    def read(found: Found, lines: Lines) -> None:
        for line in lines[:1]:
            found.fact(key, line.strip())

    return read


def tainted(found: Found, lines: Lines) -> None:
    """The kernel's taint bits, as a number in text."""
    for line in lines[:1]:
        found.fact("kernel-taint", line.strip())


def timezone(found: Found, lines: Lines) -> None:
    """Where ``/etc/localtime`` leads to."""
    for line in lines[:1]:
        found.fact("timezone", line.partition("zoneinfo/")[2] or line)


def settings(found: Found, lines: Lines) -> None:
    """The system's name, its language and its keyboard."""
    values: dict[str, str] = {}
    for line in lines:
        name, equals, text = line.strip().removeprefix("export ").partition("=")
        if equals:
            values.setdefault(name, text.strip().strip("\"'"))
    if "ID" in values:
        found.fact("os", f"{values['ID']} {values.get('VERSION_ID', '')}".strip())
    for name, text in values.items():
        if name == "LANG" or re.fullmatch(r"LC_[A-Z]{1,20}", name):
            found.fact(f"locale:{name}", text)
        elif name in ("KEYMAP", "XKBLAYOUT"):
            found.fact(f"keyboard:{name}", text)


def nics(found: Found, lines: Lines) -> None:
    """Network cards by their MAC; interfaces without hardware by their name."""
    for line in lines:
        cells = line.split("\t")
        if len(cells) != 5:
            continue
        name, mac, mtu, state, driver = cells
        if driver != "-":
            card = {"name": name, "driver": driver, "mtu": mtu, "state": state}
            found.fact(f"nic:{mac}", {**card})
        elif name != "lo" and not name.startswith("veth"):
            found.fact(f"interface:{name}", state)


def addresses(found: Found, lines: Lines) -> None:
    """Addresses that others can reach, by interface; no temporary ones."""
    for line in lines:
        match = ADDRESS.match(line)
        if match and not {"host", "link", "temporary", "tentative"} & set(match[3].split()):
            found.add(f"address:{match[1]}", match[2])


def routes(found: Found, lines: Lines) -> None:
    """IPv4 routes, from the kernel's own table."""
    for line in lines:
        cells = line.split()
        if len(cells) < 8 or not all(re.fullmatch("[0-9A-F]{8}", cells[n]) for n in (1, 2, 7)):
            continue
        target, gateway, mask = (
            IPv4Address(int(cells[n], 16).to_bytes(4, "little")) for n in (1, 2, 7)
        )
        flags = int(cells[3], 16) if re.fullmatch("[0-9A-F]{4}", cells[3]) else 0
        if flags & ROUTE_UP:
            way = f"via {gateway} {cells[0]}" if flags & ROUTE_GATEWAY else cells[0]
            found.add(f"route:{target}/{int(mask).bit_count()}", way)


def mounts(found: Found, lines: Lines) -> None:
    """What is mounted where, without what the kernel mounts for itself."""
    for line in lines:
        cells = line.split(" ")
        if len(cells) < 4 or cells[2] in PSEUDO:
            continue
        source, place = _unescaped(cells[0]), _unescaped(cells[1])
        if any(fnmatchcase(place, glob) for glob in NOISY_MOUNTS):
            continue
        options = sorted(one for one in cells[3].split(",") if not _noisy(one))
        source = re.sub(r"^/dev/loop\d+$", "loop", source)
        found.fact(
            f"mount:{place}", {"source": source, "type": cells[2], "options": ",".join(options)}
        )


def _noisy(option: str) -> bool:
    return any(fnmatchcase(option, glob) for glob in NOISY_OPTIONS)


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def swaps(found: Found, lines: Lines) -> None:
    """Swap areas and their size in KiB."""
    for line in lines[1:]:
        cells = line.split()
        if len(cells) == 5:
            found.fact(f"swap:{_unescaped(cells[0])}", cells[2])


def root(found: Found, lines: Lines) -> None:
    """Whether the root file system has room: less than 1% is none."""
    for line in lines[1:2]:
        cells = line.split()
        if len(cells) >= 6 and all(re.fullmatch("[0-9]{1,18}", one) for one in cells[1:4]):
            found.fact("root-full", int(cells[3]) * 100 < int(cells[1]))


def modules(found: Found, lines: Lines) -> None:
    """Loaded modules by name."""
    for line in lines:
        name = line.partition(" ")[0]
        if name:
            found.fact(f"module:{name}", True)


def units(found: Found, lines: Lines) -> None:
    """Systemd's units that are active or failed."""
    for line in lines:
        cells = line.split(None, 4)
        if len(cells) < 4 or any(fnmatchcase(cells[0], glob) for glob in NOISY_UNITS):
            continue
        found.fact(f"unit:{cells[0]}", cells[2])
        if cells[2] == "failed":
            found.fact(f"failed-unit:{cells[0]}", True)


def processes(found: Found, lines: Lines) -> None:
    """Names of running programs, where no systemd says what is meant to run."""
    for line in lines:
        if line and line not in OWN_PROCESSES:
            found.fact(f"process:{line}", True)
