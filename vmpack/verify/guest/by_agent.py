"""The QEMU guest agent as a means: it runs the probe, or tells what its own commands tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.errors import OperationError, UnsupportedError
from vmpack.verify.guest.info import COMMANDS, parse_info
from vmpack.verify.guest.parse import MAX_OUTPUT, parse
from vmpack.verify.guest.probe import script
from vmpack.verify.guest.report import GuestReport

if TYPE_CHECKING:
    from vmpack.runner.agent import Agent

__all__ = ["ask_agent"]

MAX_REPLY = 2 * MAX_OUTPUT
"""Bytes of the reply with the probe's output, which is base64 in it."""


async def ask_agent(agent: Agent) -> GuestReport:
    """What the guest reports through its agent.

    Raises :class:`OperationError` for answers that make no sense and :class:`InfrastructureError`
    for none; whoever calls it bounds the time.
    """
    # A new start: what the guest has sent before belongs to nobody's question.
    await agent.ready(timeout_s=3600)
    try:
        result = await agent.run(["/bin/sh", "-c", script()], max_reply=MAX_REPLY)
    except UnsupportedError:
        return await _ask_info(agent)
    except OperationError as exc:
        if "refused guest-exec:" not in exc.message:
            raise
        # No such program: Windows, or a guest that may run nothing.
        return await _ask_info(agent)
    parsed = parse(result.stdout)
    if not parsed.complete:
        raise OperationError("what the guest agent ran gave no whole answer")
    return GuestReport(parsed.facts, parsed.tables, "agent")


async def _ask_info(agent: Agent) -> GuestReport:
    replies: dict[str, object] = {}
    for command in COMMANDS:
        try:
            replies[command] = await agent.execute(command)
        except UnsupportedError:
            continue
        except OperationError as exc:
            # One that it has and cannot carry out, such as disks without privileges.
            if "refused" not in exc.message:
                raise
    facts = parse_info(replies)
    if not facts:
        raise OperationError("the guest agent offers nothing that tells what the guest is")
    return GuestReport(facts, None, "agent-info")
