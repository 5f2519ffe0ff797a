"""cloud-init as a means: a seed disk whose vendor data is the probe, which prints on the console.

The machine is not quite its own then: it has one more disk, or one more file on the seed that it
was packed with. ``HostFacts.changed`` says so.

Source: cloud-init, "NoCloud" (``vendor-data`` beside ``user-data``) and "Vendor-data": a shell
script in it runs once for each instance, at the end of the first boot.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmpack.errors import OperationError
from vmpack.machine.seed_image import DISK_ID, MAX_SEED, read_seed, seed_iso
from vmpack.verify.guest.framed import Framed, FrameError
from vmpack.verify.guest.parse import parse
from vmpack.verify.guest.report import GuestReport

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.machine.config import MachineConfig
    from vmpack.runner.session import Session

__all__ = ["Seed", "ask_seeded", "seed_for"]

CHANGED = "probe cloud-init"
"""What the host's facts call it."""

INSTANCE = uuid.UUID("0b6e9a2e-8f43-5d3a-a7b5-3d1f6f0c9a51")
"""Of a machine that was packed without a seed: another one than it ever had."""

VENDOR = """\
#!/bin/sh
{script}t=/dev/console
[ -w {port} ] && t={port}
show >$t
"""


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed for one boot, and what it will print."""

    image: bytes = field(repr=False)
    framed: Framed = field(repr=False)
    changed: str = CHANGED


def seed_for(bundle: Bundle, config: MachineConfig) -> Seed | None:
    """The seed with which ``config`` wants its guest to be asked; ``None`` where it does not.

    The user data that the machine was packed with is in it. Raises :class:`OperationError` for a
    disk ``seed`` that is no seed.
    """
    if config.verify.probe != "cloud-init":
        return None
    files = {
        "meta-data": f"instance-id: {INSTANCE}\n".encode(),
        "user-data": b"#cloud-config\n{}\n",
    }
    if any(disk.id == DISK_ID and not disk.empty for disk in config.disks or ()):
        files = _own_files(bundle)
    framed = Framed()
    port = (config.serials or ())[0].port if config.serials else 0
    script = VENDOR.format(script=framed.script, port=f"/dev/ttyS{port}")
    return Seed(seed_iso({**files, "vendor-data": script.encode()}), framed)


def _own_files(bundle: Bundle) -> dict[str, bytes]:
    reader = bundle.disk(DISK_ID)
    try:
        size = reader.virtual_size
        files = read_seed(reader.read(0, size)) if size <= MAX_SEED else None
    finally:
        reader.close()
    if files is None:
        raise OperationError(
            "the disk 'seed' holds no cloud-init seed that could carry the probe",
            path=bundle.path,
            field="verify.probe",
        )
    # cloud-init reads one vendor-data; the machine's own would be lost, and so is not replaced.
    if "vendor-data" in files:
        raise OperationError("the machine's seed has vendor data of its own", field="verify.probe")
    return files


async def ask_seeded(session: Session, seed: Seed) -> GuestReport:
    """What the probe printed; it may be yet to come.

    Raises :class:`OperationError` for broken output; whoever calls it bounds the time.
    """
    if not await session.console.wait_for(seed.framed.shown, 1e9):
        raise OperationError("the console ended without the probe's output")
    try:
        parsed = parse(seed.framed.read(session.console.data))
    except FrameError as exc:
        raise OperationError(f"the probe's output is broken: {exc}") from exc
    if not parsed.complete:
        raise OperationError("what was run gave no whole answer")
    return GuestReport(parsed.facts, parsed.tables, "cloud-init")
