"""The firmware layer: which code image started the machine, and what it started."""

from __future__ import annotations

import functools
import hashlib
import os
import re

from vmpack.runner.milestones import Lines
from vmpack.runner.options import Firmware, Qemu
from vmpack.verify.model import Json

__all__ = ["code_digest", "firmware_facts"]

MAX_SHOWN = 200
"""Characters of a fact."""

MAX_ORDER = 32

VERSION = re.compile(r"^SeaBIOS \(version (.*)\)$")
BOOT_ENTRY = re.compile(r"^(\d+): (/\S+|HALT)$")
BOOTED_BIOS = re.compile(r"^Booting from ((?!0000:)\S.*?)\.*$")
BOOTED_UEFI = re.compile(r"^BdsDxe: starting (Boot[0-9A-F]{4} .*)$")


def firmware_facts(
    kind: str, digest: str, log: bytes = b"", console: bytes = b""
) -> dict[str, Json]:
    """The facts of the layer; ``log`` is what the firmware wrote to its debug console.

    ``booted`` is what a machine with a BIOS booted from, by SeaBIOS's own word for it, or the boot
    option of UEFI; the last one where several were tried.
    """
    facts: dict[str, Json] = {"kind": kind, "code": digest}
    order: list[Json] = []
    for line in _lines(log):
        if found := VERSION.match(line):
            facts["version"] = found[1][:MAX_SHOWN]
        elif found := BOOTED_BIOS.match(line):
            facts["booted"] = found[1][:MAX_SHOWN]
        elif (found := BOOT_ENTRY.match(line)) and len(order) < MAX_ORDER:
            # A machine that was reset tells its order again.
            order = [] if found[1] == "1" else order
            order.append(found[2][:MAX_SHOWN])
    if order:
        facts["boot-order"] = order
    for line in _lines(console):
        if found := BOOTED_UEFI.match(line):
            facts["booted"] = found[1][:MAX_SHOWN]
    return facts


def _lines(data: bytes) -> list[str]:
    return [line.rstrip() for line, _ in Lines().feed(data)]


def code_digest(qemu: Qemu, firmware: Firmware) -> str:
    """``sha256:`` of the code image; of QEMU's own SeaBIOS that cannot be found, its QEMU."""
    from vmpack.runner.firmware import seabios

    if firmware.code is not None:
        return "sha256:" + hashlib.sha256(firmware.code).hexdigest()
    path = firmware.code_path or seabios(qemu)
    if path is None:
        return "qemu:" + ".".join(map(str, qemu.version))
    status = os.stat(path)
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _digest_of(path: str, _mtime_ns: int, _size: int) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
