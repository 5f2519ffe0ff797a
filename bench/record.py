"""Boots the Debian guest once and keeps which bytes of its disk it read: ``-m bench.record``.

A process of its own: what it imports would count towards the peaks of what the bench measures.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from fixtures.build.cache import cache_dir, is_built, key_of, locked, publish, scratch, stamp_of
from fixtures.build.debian import NAME
from tests.support.boot import boot, disk_arguments
from tests.support.guests import overlay_of

READS = "debian-12.reads.json"
BOOT_S = 300
_EVENT = "blk_co_preadv"
"""QEMU's own trace event for a read that a device asks of its block backend."""
_LINE = re.compile(_EVENT + r" .* offset (\d+) bytes (\d+) ")


def recorded() -> Path:
    """JSON: ``reads``, each ``[offset, bytes]``, in order, up to the login; made once, then cached.

    The first ``loader-reads`` of them are the firmware's and the boot loader's. It is made anew
    when the guest is.
    """
    disk, target = cache_dir() / NAME, cache_dir() / READS
    key = key_of([Path(__file__)], stamp_of(disk).read_text())
    with locked("reads"):
        if not is_built(target, key):
            with scratch(target) as folder:
                made = folder / READS
                made.write_text(json.dumps(_boot(disk, folder)))
                publish(made, target, key)
    return target


def _boot(disk: Path, folder: Path) -> dict[str, object]:
    log = folder / "trace.log"
    overlay = overlay_of(disk, folder)
    arguments = [*disk_arguments(overlay, driver="qcow2"), "-trace", _EVENT, "-D", str(log)]
    with boot(arguments, folder, memory_mib=1024, cpus=2) as guest:
        # The kernel's first line comes long before its first read.
        guest.wait_serial("Linux version", BOOT_S)
        loader = len(_reads(log))
        guest.wait_serial("vmpack-debian login:", BOOT_S)
    reads = _reads(log)
    assert len(reads) > 500, f"only {len(reads)} reads in the trace: does {_EVENT} still exist?"
    return {"loader-reads": loader, "reads": reads}


def _reads(log: Path) -> list[tuple[int, int]]:
    lines = log.read_text().splitlines()
    return [(int(found[1]), int(found[2])) for found in map(_LINE.search, lines) if found]


if __name__ == "__main__":
    sys.stdout.write(f"{recorded()}\n")
