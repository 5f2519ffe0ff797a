"""Asks the guest by the first means that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vmpack.verify.guest.report import GuestReport, Means

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.runner.session import Session

__all__ = ["observe_guest"]


async def observe_guest(
    session: Session,
    config: MachineConfig,
    *,
    console_done: Callable[[], None] | None = None,
    expect: Means | None = None,
) -> GuestReport:
    """What the guest of a running machine reports of itself; call it when its boot is over.

    ``console_done`` is called once, before anything is typed on the console: what the console shows
    from then on is no part of the boot. ``expect`` is the means of an earlier observation: that one
    is waited for longer, and others are not tried.

    A guest without any means costs a fraction of a second. Never raises for what the guest does:
    that is the report's ``problem``. Raises :class:`InfrastructureError` when QEMU is gone.
    """
    return GuestReport()
