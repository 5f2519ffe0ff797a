"""Sensitivity: changes planted inside a guest, from its boot loader to its processes.

The small guest is recorded through a login on its console and booted again with one thing changed;
what counts as found is in tests/test_verify_sensitivity.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.planted import (
    SMALL,
    Change,
    assert_found,
    assert_nothing_found,
    boot_file,
    guest,
    patched,
    put_boot_file,
    recorded,
    remove_boot_file,
    write_at,
)
from vmpack.runner import endings
from vmpack.runner.endings import DEADLINES, Deadlines
from vmpack.verify.boot import Boot

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

PATIENCE = Deadlines(prompt_s=3.0, idle_s=6.0, busy_s=DEADLINES["tcg"].busy_s)
"""The small guest is never idle for so long on its way to the login."""

MBR_SECOND = 446 + 16
GRUB_MENU = "grub.cfg"
UP = '    ip link set "${card##*/}" up\n'
HTTPD = "httpd -p 80 -h /data/files"
NO_ROOT = "rdinit=/none root=/dev/vdz"
INIT = "ending=$(sed"


def corrupt_initrd(disk: Path) -> None:
    """A part of the archive is something else."""
    archive = bytearray(boot_file(disk, "initrd"))
    archive[4096 : 4096 + 512] = bytes(512)
    put_boot_file(disk, "initrd", bytes(archive))


SERVICES = guest(
    edits=[
        ("init", HTTPD, f"{HTTPD}/none"),
        ("init", "sd_mod sr_mod ", "sd_mod "),
        ("init", INIT, f"echo LANG=de_DE.UTF-8 >/etc/locale.conf; {INIT}"),
    ]
)
SYSTEM = guest(
    edits=[
        ("inittab", "::respawn:/sbin/acpid -f -l /dev/null\n", ""),
        ("init", UP, f'    ip link set "${{card##*/}}" address 52:54:00:00:00:01\n{UP}'),
    ]
)
NAMES = guest(
    edits=[
        ("init", "mount -t ext4", "mount -o ro -t ext4"),
        ("udhcpc", '"$ip/$mask"', '"10.0.2.77/$mask"'),
    ],
    etc__hostname=b"other\n",
)
"""Several changes that have nothing to do with each other, found one by one: a boot takes long."""

CONSOLE = guest(options="console=ttyS0,115200 console=tty0")
PRODUCT = (('"small"', '"large"'),)
DAMAGED = patched(lambda disk: write_at(disk, MBR_SECOND, bytes(16)))

ROWS: Mapping[str, Change] = {
    "kernel option": Change(
        "milestones", "changed", "milestone:command-line", disks=guest(options="mitigations=off")
    ),
    "wrong root": Change("ending", "changed", "kind", disks=guest(options=NO_ROOT)),
    "corrupt initrd": Change("ending", "changed", "kind", disks=patched(corrupt_initrd)),
    "no menu": Change(
        "ending", "changed", "kind", disks=patched(lambda disk: remove_boot_file(disk, GRUB_MENU))
    ),
    "damaged partition table": Change("guest", "missing", "partition:vda2", disks=DAMAGED),
    "data not mounted": Change("guest", "missing", "mount:/data", disks=DAMAGED),
    "kernel panic": Change("ending", "changed", "kind", disks=guest(options="vmpack.end=panic")),
    "hang before user space": Change(
        "ending",
        "changed",
        "kind",
        disks=guest(options=f"{NO_ROOT} rootdelay=9999"),
    ),
    "hang in user space": Change(
        "milestones", "missing", "milestone:login", disks=guest(options="vmpack.end=hang")
    ),
    "service that fails": Change("guest", "missing", "process:httpd", disks=SERVICES),
    "module missing": Change("guest", "missing", "module:sr_mod", disks=SERVICES),
    "locale": Change("guest", "added", "locale:LANG", disks=SERVICES),
    "unit removed": Change("guest", "missing", "process:acpid", disks=SYSTEM),
    "MAC in the guest": Change("guest", "missing", "nic:52:54:00:12:34:57", disks=SYSTEM),
    "data read-only": Change("guest", "changed", "mount:/data.options", disks=NAMES),
    "another address": Change("guest", "changed", "address:eth0", disks=NAMES),
    "host name": Change("guest", "changed", "hostname", disks=NAMES),
    "console": Change("guest", "changed", "consoles", PRODUCT, disks=CONSOLE),
    "DMI, as the guest sees it": Change(
        "guest", "changed", "dmi:product_name", PRODUCT, disks=CONSOLE
    ),
}
"""Changes within a guest, or that it is to see."""


@pytest.fixture(scope="module")
def boots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Boot]]:
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    asked = {name: row for name, row in ROWS.items() if name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endings, "DEADLINES", {**DEADLINES, "tcg": PATIENCE})
        yield recorded(asked, tmp_path_factory.mktemp("small"), SMALL)


SHORT = {"service that fails", "module missing", "locale", "unit removed", "MAC in the guest"}
"""Rows of every run of the suite, in two boots; `make verify-sensitivity` takes all of them."""


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in ROWS]
)
def test_a_change_in_the_guest_is_found(name: str, boots: Mapping[str, Boot]) -> None:
    assert_found(boots, name, ROWS[name])


def test_the_guest_as_it_was_shows_no_difference(boots: Mapping[str, Boot]) -> None:
    assert_nothing_found(boots)
