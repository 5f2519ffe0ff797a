"""The block graph of a machine as QEMU's JSON: window, view, overlay of every disk; firmware flash.

A view opened writable destroys its bundle, so its three layers are read-only each by themselves,
and no layer may follow a name of another file: specs/vmpack-v1.md, "Windows". Nodes are named by
the disk's number: a node's name has at most 31 characters, a disk's id may have 32.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmpack.errors import UsageError
from vmpack.machine import hardware as hw
from vmpack.runner.options import Plan

__all__ = ["SEED", "Node", "block_nodes", "drive_of", "has_extra_seed", "is_written"]

Node = dict[str, object]

CODE, NVRAM = "firmware-code", "nvram"
SEED = "seed"
"""Id of the disk that a seed takes the place of, or name of the node of one more disk."""


def block_nodes(plan: Plan) -> Iterator[Node]:
    """Every block node, in an order in which QEMU can add them."""
    if "code" in plan.fdsets:
        yield {
            "driver": plan.firmware.code_format,
            "node-name": CODE,
            "read-only": True,
            "file": _file(plan, "code", read_only=True),
        }
    if "nvram" in plan.fdsets:
        file = _file(plan, "nvram", read_only=False)
        yield {"driver": "raw", "node-name": NVRAM, "read-only": False, "file": file}
    for number, disk in enumerate(plan.config.disks or ()):
        if "seed" in plan.fdsets and disk.id == SEED:
            yield _seed(plan, f"disk{number}")
        elif not disk.empty:
            yield from _disk_nodes(plan, number, disk)
    if has_extra_seed(plan):
        yield _seed(plan, SEED)


def has_extra_seed(plan: Plan) -> bool:
    """Whether there is a seed and no disk whose place it takes."""
    return "seed" in plan.fdsets and all(disk.id != SEED for disk in plan.config.disks or ())


def _seed(plan: Plan, name: str) -> Node:
    file = _file(plan, "seed", read_only=True)
    return {"driver": "raw", "node-name": name, "read-only": True, "file": file}


def drive_of(number: int, disk: hw.Disk, *, replayed: bool = False) -> str | None:
    """Name of the node that the device of the ``number``-th disk shows; ``None`` when empty.

    ``replayed``: the run is deterministic, so that a node between them keeps the requests' order.
    """
    if disk.empty:
        return None
    if replayed:
        return f"replayed{number}"
    return f"overlay{number}" if is_written(disk) else f"disk{number}"


def is_written(disk: hw.Disk) -> bool:
    """Whether a disk needs an overlay for what is written to it.

    IDE and SATA hard disks have no write protection, so a read-only one takes writes as well,
    into an overlay; they are gone when the machine is.
    """
    if disk.empty or disk.kind == "cdrom":
        return False
    return not disk.read_only or disk.bus in ("ide", "sata")


def _disk_nodes(plan: Plan, number: int, disk: hw.Disk) -> Iterator[Node]:
    if disk.id not in plan.windows:
        raise UsageError(
            f"the config has a disk {disk.id!r} that the bundle lacks",
            field=f"disk[{number}]",
            hint="pack the machine again, with an image for it",
        )
    offset, size = plan.windows[disk.id]
    yield {
        "driver": "qcow2",
        "node-name": f"disk{number}",
        "read-only": True,
        "backing": None,
        "file": {
            "driver": "raw",
            "offset": offset,
            "size": size,
            "read-only": True,
            "file": _file(plan, f"disk:{disk.id}", read_only=True),
        },
    }
    if is_written(disk):
        yield {
            "driver": "qcow2",
            "node-name": f"overlay{number}",
            "read-only": False,
            "discard": "unmap",
            "backing": f"disk{number}",
            # What is thrown away with the machine need not survive a crash of the host.
            "cache": {"direct": False, "no-flush": not plan.durable},
            "file": _file(plan, f"overlay:{disk.id}", read_only=False),
        }
    if plan.options.deterministic is not None:
        image = drive_of(number, disk)
        yield {"driver": "blkreplay", "node-name": f"replayed{number}", "image": image}


def _file(plan: Plan, role: str, *, read_only: bool) -> Node:
    number = plan.fdsets[role]
    driver = "host_device" if number in plan.devices else "file"
    return {"driver": driver, "filename": f"/dev/fdset/{number}", "read-only": read_only}
