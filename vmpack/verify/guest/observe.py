"""Asks the guest by the first means that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.errors import (
    InfrastructureError,
    OperationError,
    RefusedError,
    VmpackError,
)
from vmpack.verify.guest.patience import StalledError, patiently
from vmpack.verify.guest.report import GuestReport, Means

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.machine.expectation import Login
    from vmpack.runner.session import Session
    from vmpack.verify.guest.by_cloud_init import Seed

__all__ = ["observe_guest"]

OPENING_S = 0.1
"""Between two looks at whether an agent has opened its port."""

LOGIN_IDLE_S = 10.0
"""A login may wait for a while on purpose, without using a CPU."""

SEEDED_S = 180.0
"""cloud-init runs vendor data last, some time after the login prompt."""


async def observe_guest(
    session: Session,
    config: MachineConfig,
    *,
    console_done: Callable[[], None] | None = None,
    expect: Means | None = None,
    seed: Seed | None = None,
) -> GuestReport:
    """What the guest of a running machine reports of itself; call it when its boot is over.

    ``console_done`` is called once, before anything is typed on the console: what the console shows
    from then on is no part of the boot. ``expect`` is the means of an earlier observation: that one
    is waited for longer, and others are not tried. ``seed`` is the one that the machine was started
    with, where ``[verify] probe = "cloud-init"``.

    A guest without any means costs a fraction of a second. Never raises for what the guest does:
    that is the report's ``problem``. Raises :class:`InfrastructureError` when QEMU is gone.
    """
    wanted = _wanted(config, expect)
    report = GuestReport()
    if seed is not None:
        return await _by_seed(session, seed)
    if "agent" in wanted and session.agent is not None:
        report = await _by_agent(session, expect is not None)
    if report.means is None and "login" in wanted and config.verify.login is not None:
        if console_done is not None:
            console_done()
        second = await _by_login(session, config.verify.login)
        problems = [one for one in (report.problem, second.problem) if one]
        report = replace(second, problem="; ".join(problems))
    return report


def _wanted(config: MachineConfig, expect: Means | None) -> frozenset[str]:
    """The ways that are tried: the record's, or the config's."""
    if config.verify.probe is not None:
        return frozenset({config.verify.probe})
    ways = {"agent": "agent", "agent-info": "agent", "serial-login": "login"}
    return frozenset({ways[expect]} if expect in ways else {"agent", "login"})


async def _by_agent(session: Session, expected: bool) -> GuestReport:
    from vmpack.verify.guest.by_agent import ask_agent

    agent = session.agent
    assert agent is not None
    try:
        if not await _is_open(session):
            if not expected:
                return GuestReport()
            await patiently(session, _opened(session))
        return await patiently(session, ask_agent(agent))
    except (StalledError, OperationError, InfrastructureError, RefusedError) as exc:
        return await _failed(session, "guest agent", exc)


async def _is_open(session: Session) -> bool:
    """Whether a program in the guest has the agent's port open; QEMU knows that."""
    ports = await session.qmp("query-chardev")
    return any(one.get("label") == "agent" and one.get("frontend-open") for one in ports)


async def _opened(session: Session) -> None:
    while not await _is_open(session):
        await asyncio.sleep(OPENING_S)


async def _by_login(session: Session, login: Login) -> GuestReport:
    from vmpack.verify.guest.by_login import ask_login

    try:
        return await patiently(session, ask_login(session, login), idle_s=LOGIN_IDLE_S)
    except (StalledError, OperationError) as exc:
        return await _failed(session, "login on the console", exc)


async def _by_seed(session: Session, seed: Seed) -> GuestReport:
    from vmpack.verify.guest.by_cloud_init import ask_seeded

    try:
        return await patiently(
            session, ask_seeded(session, seed), limit_s=SEEDED_S, idle_s=LOGIN_IDLE_S
        )
    except (StalledError, OperationError) as exc:
        return await _failed(session, "cloud-init", exc)


async def _failed(session: Session, way: str, exc: Exception) -> GuestReport:
    """The report of a guest that did not answer; :class:`QemuDiedError` where QEMU is gone."""
    await session.qmp("query-status")
    message = exc.message if isinstance(exc, VmpackError) else str(exc)
    return GuestReport(problem=f"{way}: {message}")
