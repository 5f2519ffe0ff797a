"""Asks the guest by the first means that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError
from vmpack.verify.guest.patience import StalledError, patiently
from vmpack.verify.guest.report import GuestReport, Means

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.runner.session import Session

__all__ = ["observe_guest"]

OPENING_S = 0.1
"""Between two looks at whether an agent has opened its port."""


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
    report = GuestReport()
    if expect in (None, "agent", "agent-info") and await _agent_listens(session, expect):
        report = await _by_agent(session)
    return report


async def _agent_listens(session: Session, expect: Means | None) -> bool:
    """Whether a program in the guest has opened the agent's port; QEMU knows that."""
    if session.agent is None:
        return False
    while True:
        ports = await session.qmp("query-chardev")
        if any(one.get("label") == "agent" and one.get("frontend-open") for one in ports):
            return True
        if expect is None:
            return False
        await asyncio.sleep(OPENING_S)


async def _by_agent(session: Session) -> GuestReport:
    from vmpack.verify.guest.by_agent import ask_agent

    agent = session.agent
    assert agent is not None
    try:
        return await patiently(session, ask_agent(agent))
    except StalledError as exc:
        return GuestReport(problem=f"guest agent: {exc}")
    except VmpackError as exc:
        return GuestReport(problem=f"guest agent: {exc.message}")
