"""The full Debian guest boots to its login, and its services run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.boot import boot, disk_arguments
from tests.support.guests import overlay_of

BOOT_S = 240
pytestmark = [pytest.mark.qemu, pytest.mark.slow]
AGENT = [
    *("-device", "virtio-serial"),
    *("-chardev", "null,id=agent"),
    *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
]


def test_debian_boots_to_login_with_nothing_failed(guest_debian: Path, tmp_path: Path) -> None:
    before = guest_debian.stat()
    overlay = overlay_of(guest_debian, tmp_path)
    arguments = [*disk_arguments(overlay, driver="qcow2"), *AGENT, "-nic", "user,restrict=on"]
    with boot(arguments, tmp_path, memory_mib=1024, cpus=2, typing=True) as guest:
        guest.wait_serial("vmpack-debian login:", BOOT_S)
        guest.type_into_serial("root\n")
        guest.wait_serial("Password:", BOOT_S)
        guest.type_into_serial("vmpack\n")
        guest.wait_serial("root@vmpack-debian:~#", BOOT_S)
        guest.type_into_serial(
            "systemctl is-system-running --wait; systemctl is-active qemu-guest-agent ssh; "
            "systemctl --failed --no-legend; echo fini''shed\n"
        )
        guest.wait_serial("finished", BOOT_S)
        # The next prompt may not be there yet: all that was said counts.
        said = guest.serial().splitlines()
        assert "running" in said
        assert said.count("active") == 2
        guest.type_into_serial("poweroff\n")
        assert guest.wait_end(BOOT_S) == "guest-shutdown"
        assert "FAILED" not in guest.serial()
    assert guest_debian.stat().st_mtime_ns == before.st_mtime_ns


def test_debian_disk_is_of_the_promised_size(guest_debian: Path) -> None:
    assert guest_debian.stat().st_size == 4 << 30
    assert 400 << 20 < guest_debian.stat().st_blocks * 512 < 600 << 20
