"""Snapshots of a machine that runs: memory and disks as they were, within a fraction of a boot.

QEMU keeps them inside the overlays, which are thrown away with the machine.
Source: QEMU, qapi/migration.json, ``snapshot-save`` and ``snapshot-load`` (since 6.0), and
qapi/job.json.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vmpack.errors import OperationError

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["load", "save"]

TAG = "vmpack-boot"
POLL_S = 0.05


async def save(session: Session) -> None:
    """Keep the machine as it is now; it is paused meanwhile.

    Raises :class:`OperationError` where QEMU cannot: a machine without a disk that it writes to,
    or with a device whose state nobody can keep.
    """
    await _job(session, "snapshot-save")
    await session.qmp("cont")


async def load(session: Session) -> None:
    """The machine as :func:`save` kept it, running. Raises :class:`OperationError`."""
    await session.qmp("stop")
    await _job(session, "snapshot-load")
    await session.qmp("cont")


async def _job(session: Session, command: str) -> None:
    nodes = await session.qmp("query-named-block-nodes", flat=True)
    names = sorted(node["node-name"] for node in nodes)
    written = [name for name in names if name.startswith("overlay")]
    if not written:
        raise OperationError("a snapshot needs a disk that the machine writes to")
    job = f"{command}-vmpack"
    words = {"job-id": job, "tag": TAG, "vmstate": written[0], "devices": written}
    await session.qmp(command, **words)
    # The job's events would do as well, but they may come before anybody waits for them.
    while True:
        found = {one["id"]: one for one in await session.qmp("query-jobs")}
        state = found.get(job)
        if state is None or state["status"] == "concluded":
            break
        await asyncio.sleep(POLL_S)
    if state is not None:
        await session.qmp("job-dismiss", id=job)
        if state.get("error"):
            raise OperationError(str(state["error"]))
