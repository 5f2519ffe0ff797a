"""A verification on another machine: the vmpack there boots, the comparison is made here.

Profile: specs/hosts-v1.md, HOSTS-SSH-*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import RemoteError
from vmpack.progress import SILENT, Progress

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.runner.options import RunOptions
    from vmpack.verify.hosts import Host
    from vmpack.verify.record import Record
    from vmpack.verify.result import HostResult

__all__ = ["Order", "verify_there"]


@dataclass(frozen=True, slots=True)
class Order:
    """What the other machine is asked to do."""

    options: RunOptions
    boots: int = 1
    expected: Record | None = None
    """What each boot is compared with, here, and where it ends, there."""
    preflight: bool = False
    as_target: str | None = None


async def verify_there(
    host: Host, bundle: Bundle, order: Order, progress: Progress = SILENT
) -> HostResult:
    """What the host behind ssh did; its boots held against the record here.

    Raises :class:`RemoteError` and what the vmpack there says that it could not do.
    """
    progress.stage(f"{host.name}: connecting", None)
    raise RemoteError(f"{host.name} of {bundle.path} cannot be asked for {order.boots} boots yet")
