"""Specificity, the short form of ``make verify-specificity``: nobody changed anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runner import HOSTS
from tests.support.specificity import DEBIAN, SMALL_BIOS, SMALL_UEFI, Guest, recorded, seen

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

FACTS = {"ending", "milestones", "checks", "hardware", "firmware", "guest", "tables"}
BOOTS = {
    "Debian": (DEBIAN, HOSTS[-1:]),
    "small, BIOS": (SMALL_BIOS, (*HOSTS, *HOSTS[:2])),
    "small, UEFI": (SMALL_UEFI, HOSTS),
}
"""With the one boot of each record: 2 of Debian on two versions of QEMU, 10 of the small guests."""


def test_so_many_boots() -> None:
    counted = {name: 1 + len(hosts) for name, (_, hosts) in BOOTS.items()}
    assert (counted.pop("Debian"), sum(counted.values())) == (2, 10)


@pytest.mark.parametrize("name", BOOTS)
def test_what_nobody_changed_does_not_differ(name: str, tmp_path: Path) -> None:
    guest: Guest = BOOTS[name][0]
    bundle = recorded(guest, tmp_path)
    for boot in seen(guest, bundle, BOOTS[name][1]):
        assert boot.good, boot
        assert boot.alarms == (), boot
        assert boot.problems == (), boot
        assert set(boot.compared) >= FACTS, boot
