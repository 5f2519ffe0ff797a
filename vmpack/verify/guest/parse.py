"""From the probe's output to facts: pure, bounded, and indifferent to what a guest makes up.

The output is ``== NAME`` and its lines, section after section (:mod:`vmpack.verify.guest.probe`).
What differs between two good boots of one machine is left out here; what is the same only under the
same QEMU, firmware and accelerator goes into the layer ``tables``. Which is which was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vmpack.verify.guest import boards, system
from vmpack.verify.guest.found import MAX_LINE, Found
from vmpack.verify.model import Facts

__all__ = ["MAX_OUTPUT", "SECTIONS", "Parsed", "parse"]

MAX_OUTPUT = 512 << 10
"""Bytes of a probe's output that are looked at; a large machine has a tenth of it."""

MAX_SECTION = 4096
"""Lines of a section."""

HEADER = re.compile(r"== ([a-z-]{1,32})")

Lines = Sequence[str]

SECTIONS: Mapping[str, Callable[[Found, Lines], None]] = {
    "uname": system.only("uname"),
    "cmdline": system.only("cmdline"),
    "init": system.only("init"),
    "hostname": system.only("hostname"),
    "machine-id": system.only("machine-id"),
    "tainted": system.tainted,
    "consoles": system.only("consoles"),
    "rtc": boards.rtc,
    "tpm": boards.tpm,
    "timezone-name": system.only("timezone"),
    "timezone": system.timezone,
    "settings": system.settings,
    "efi": boards.efi,
    "memory": boards.memory,
    "cpu": boards.cpu,
    "cpus": boards.cpus,
    "vulnerabilities": boards.vulnerabilities,
    "dmi": boards.dmi,
    "digests": boards.digests,
    "facp": boards.facp,
    "memory-map": boards.memory_map,
    "pci": boards.pci,
    "virtio": boards.virtio,
    "usb": boards.usb,
    "framebuffers": boards.framebuffers,
    "cpuid": boards.cpuid,
    "disks": boards.disks,
    "links": boards.links,
    "nics": system.nics,
    "addresses": system.addresses,
    "routes": system.routes,
    "mounts": system.mounts,
    "swaps": system.swaps,
    "root": system.root,
    "modules": system.modules,
    "units": system.units,
    "processes": system.processes,
}
"""Section -> what makes facts of it, in this order whatever the guest's is."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a probe told."""

    facts: Facts = field(default_factory=dict)
    tables: Facts = field(default_factory=dict)
    complete: bool = False
    """The probe came to its end, and nothing was cut off."""


def parse(output: bytes) -> Parsed:
    """The facts in a probe's output. Never raises."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    cut = len(output) > MAX_OUTPUT
    for line in _lines(output[:MAX_OUTPUT]):
        header = HEADER.fullmatch(line)
        if header:
            current = sections.setdefault(header[1], [])
        elif len(current) < MAX_SECTION:
            current.append(line)
        else:
            cut = True
    found = Found()
    for name, reader in SECTIONS.items():
        if name in sections:
            reader(found, sections[name])
    return Parsed(
        dict(sorted(found.facts.items())),
        dict(sorted(found.tables.items())),
        complete="end" in sections and not cut and not found.full,
    )


def _lines(output: bytes) -> Iterator[str]:
    for raw in output.split(b"\n"):
        yield raw[:MAX_LINE].rstrip(b"\r").decode("utf-8", "replace")
