"""The reads layer: how much a boot read from each of its disks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vmpack.verify.model import Json

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["observe_reads", "read_facts"]


async def observe_reads(session: Session) -> dict[str, Json]:
    """The facts of the layer, as of now. Raises :class:`InfrastructureError` without a QEMU."""
    names = {
        f"disk-{disk.id}": disk.id or "" for disk in session.plan.config.disks or () if disk.id
    }
    return read_facts(await session.qmp("query-blockstats"), names)


def read_facts(stats: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Json]:
    """``disk:ID``: bytes and operations that the guest asked for, of ``query-blockstats``.

    ``names`` maps ids of devices to ids of disks; other devices (flash with the firmware) are left
    out.
    """
    facts: dict[str, Json] = {}
    for one in stats:
        parts = str(one.get("qdev", "")).split("/")
        disk = next((names[part] for part in parts if part in names), None)
        if disk is not None:
            counted = one["stats"]
            facts[f"disk:{disk}"] = {
                "bytes": counted["rd_bytes"],
                "operations": counted["rd_operations"],
            }
    return facts
