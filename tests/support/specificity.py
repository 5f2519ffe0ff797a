"""Specificity: nothing differs that was not changed, whichever QEMU boots it.

Each guest is recorded once, on this machine's QEMU, and then booted again and again on every QEMU
that is here. Whatever counts as a difference is a false alarm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import guests
from tests.support.runner import qemu_of
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.verify import verify
from vmpack.ops.verify_request import Request
from vmpack.runner.options import RunOptions
from vmpack.verify.layers import LAYERS
from vmpack.verify.model import Difference

__all__ = ["DEBIAN", "SMALL_BIOS", "SMALL_UEFI", "Guest", "Seen", "recorded", "seen"]

OPTIONS = RunOptions(accel="tcg", timeout_s=900)
LOGIN = '[verify.login]\nuser = "root"\n'
CARD = '[[nic]]\nid = "lan"\nmac = "52:54:00:12:34:58"\n'
UUID = 'uuid = "4f1f6bd0-6e4c-4a55-8d0e-6f2f7a9d1c03"\n'
ONE_CPU = "cpu.cores = 1\n"
EQUAL = frozenset(row.name for row in LAYERS if "exact" in row.promise)
"""Layers that promise equality."""


@dataclass(frozen=True)
class Guest:
    """One of the built guests, as a machine."""

    name: str
    disk: Callable[[], Path]
    config: str


DEBIAN = Guest("debian", guests.debian, UUID + 'memory = "1G"\n' + CARD)
SMALL_BIOS = Guest(
    "small-bios",
    lambda: guests.small("bios"),
    UUID + ONE_CPU + 'memory = "256M"\n' + CARD + LOGIN,
)
SMALL_UEFI = Guest(
    "small-uefi",
    lambda: guests.small("uefi"),
    UUID + ONE_CPU + 'memory = "512M"\nfirmware.kind = "uefi"\n' + CARD + LOGIN,
)


@dataclass(frozen=True)
class Seen:
    """One boot that was held against the record."""

    guest: str
    host: str
    qemu: str
    good: bool
    """It ended as expected."""
    relation: str
    compared: tuple[str, ...]
    """Layers."""
    alarms: tuple[Difference, ...]
    """Differences that count: there was no reason for any."""
    drift: int
    """Differences where nothing is promised on this pair of hosts."""
    means: tuple[str, ...]
    problems: tuple[str, ...] = ()

    @property
    def false(self) -> tuple[Difference, ...]:
        """Alarms in layers that promise equality."""
        return tuple(one for one in self.alarms if one.layer in EQUAL)

    def as_dict(self) -> dict[str, object]:
        """A line of a log."""
        return {
            "guest": self.guest,
            "host": self.host,
            "qemu": self.qemu,
            "good": self.good,
            "relation": self.relation,
            "compared": list(self.compared),
            "alarms": [one.as_dict() for one in self.alarms],
            "drift": self.drift,
            "means": list(self.means),
            "problems": list(self.problems),
        }


def recorded(guest: Guest, folder: Path, *, boots: int = 1) -> Path:
    """The guest's bundle in ``folder``, with a record of ``boots`` boots on this machine's QEMU."""
    bundle = folder / f"{guest.name}.vmpack"
    pack([guest.disk()], bundle, config=MachineConfig.from_toml(guest.config), level=1, force=True)
    request = Request(record=True, boots=boots)
    result = verify(bundle, request, options=OPTIONS, qemu=qemu_of("machine"))
    assert result.exit_code == 0, json.dumps(result.as_dict(), default=str)[:4000]
    return bundle


def seen(guest: Guest, bundle: Path, hosts: Sequence[str]) -> Iterator[Seen]:
    """One boot on each of ``hosts``, held against the bundle's record."""
    for host in hosts:
        (result,) = verify(bundle, options=OPTIONS, qemu=qemu_of(host)).hosts
        (boot,) = result.boots
        comparison = result.comparison
        assert comparison is not None, boot.ending
        yield Seen(
            guest=guest.name,
            host=host,
            qemu=boot.qemu,
            good=boot.good,
            relation=comparison.relation,
            compared=tuple(
                name for name, each in comparison.verdicts.items() if each != "not-compared"
            ),
            alarms=tuple(one for one in comparison.differences if one.counts),
            drift=sum(not one.counts for one in comparison.differences),
            means=() if boot.observation is None else boot.observation.means,
            problems=boot.problems,
        )
