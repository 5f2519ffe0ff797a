"""The user's own checks: commands in the guest, text on its console, keys that are typed.

Profile: specs/config-v1.md, ``[[verify.check]]``. Commands run in the guest, never on the host.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vmpack.binary import escape
from vmpack.errors import VmpackError
from vmpack.machine.expectation import Check
from vmpack.runner.milestones import Lines, Pattern
from vmpack.runner.options import Ending
from vmpack.runner.session import Session

__all__ = ["CheckResult", "run_checks"]

CHECK_S = 120.0
"""Seconds for a check that names none; a guest agent may start after the login prompt is there."""

SHOWN = 200
"""Characters of a command's output in a message."""

Verdict = Literal["passed", "failed", "not-compared"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check, done. ``message`` is safe to print."""

    name: str
    kind: str
    verdict: Verdict
    message: str
    seconds: float
    picture: bytes | None = None

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a report."""
        return {
            "name": self.name,
            "kind": self.kind,
            "verdict": self.verdict,
            "message": self.message,
            "milliseconds": round(self.seconds * 1000),
        }


class _FailedError(Exception):
    """A check found something else than what it expects; the message says what."""


async def run_checks(
    session: Session, checks: Sequence[Check], ending: Ending
) -> tuple[list[CheckResult], Ending]:
    """Carry the checks out, in order, until one fails; the results, and how the boot ended then.

    ``ending`` is the one so far. A guest that ends meanwhile ends the checks. What is waited for
    may stand anywhere in the console's output since the last text that was typed.
    """
    results: list[CheckResult] = []
    place = 0
    for number, check in enumerate(checks, 1):
        name = check.name or f"check {number}"
        started = session.console.total
        job = asyncio.create_task(_carry_out(session, check, name, place))
        waiting = asyncio.create_task(session.wait())
        try:
            await asyncio.wait({job, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                return results, replace(waiting.result(), message=_during(waiting.result(), name))
            results.append(job.result())
        finally:
            job.cancel()
            waiting.cancel()
            await asyncio.gather(job, waiting, return_exceptions=True)
        place = started if check.send is not None else place
        if results[-1].verdict == "failed":
            message = f"check {escape(name)} failed: {results[-1].message}"
            return results, replace(ending, kind="unexpected", message=message)
    return results, ending


def _during(ending: Ending, name: str) -> str:
    return f"{ending.message}, during check {escape(name)}"


async def _carry_out(session: Session, check: Check, name: str, place: int) -> CheckResult:
    kind, step = _step_of(session, check, place)
    begun = time.monotonic()
    verdict: Verdict = "passed"
    picture = None
    try:
        async with asyncio.timeout(check.timeout or CHECK_S):
            message, picture = await step()
        if picture is not None:
            verdict = "not-compared"
    except TimeoutError:
        verdict, message = "failed", f"not done within {check.timeout or CHECK_S:g} s"
    except (_FailedError, VmpackError) as exc:
        verdict, message = "failed", str(exc)
    return CheckResult(name, kind, verdict, message, time.monotonic() - begun, picture)


Step = Callable[[], Awaitable[tuple[str, bytes | None]]]


def _step_of(session: Session, check: Check, place: int) -> tuple[str, Step]:
    if check.command is not None:
        return "command", lambda: _command(session, check)
    if check.wait_for is not None:
        return "wait-for", lambda: _wait_for(session, check.wait_for or "", place)
    if check.send is not None:
        return "send", lambda: _send(session, check.send or "")
    return "screenshot", lambda: _screenshot(session)


async def _command(session: Session, check: Check) -> tuple[str, None]:
    agent = session.agent
    if agent is None:
        raise _FailedError("the machine has no channel for a guest agent: set guest-agent = true")
    result = await agent.shell(check.command or "")
    if result.exit_code != (check.exit_code or 0):
        said = _shown(result.stderr or result.stdout)
        raise _FailedError(f"exit code {result.exit_code}, expected {check.exit_code or 0}{said}")
    if check.stdout is not None and _text(result.stdout) != check.stdout.rstrip("\r\n"):
        raise _FailedError(f"printed something else{_shown(result.stdout)}")
    return f"exit code {result.exit_code}", None


def _text(output: bytes) -> str:
    return output.decode(errors="replace").rstrip("\r\n")


def _shown(output: bytes) -> str:
    text = escape(_text(output)[:SHOWN])
    return f": {text}" if text else ""


async def _wait_for(session: Session, text: str, place: int) -> tuple[str, None]:
    pattern = Pattern(text)

    def found(output: bytes) -> bool:
        return any(pattern.find(line) is not None for line, _ in Lines().feed(output))

    # The caller's deadline ends the wait; the console's own only has to be later.
    if not await session.console.wait_for(found, 1e9, after=place):
        raise _FailedError("the guest ended before it printed that")
    return "printed", None


async def _send(session: Session, text: str) -> tuple[str, None]:
    await session.send(text.replace("\n", "\r").encode())
    return f"typed {len(text)} characters", None


async def _screenshot(session: Session) -> tuple[str, bytes | None]:
    picture = await session.screendump()
    if not picture:
        raise _FailedError("the machine has no screen")
    return "taken; there is no record to compare it with", picture
