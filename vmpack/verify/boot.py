"""One boot of a bundle, held against what its config expects: milestones, checks, ending.

Profile: specs/config-v1.md, ``[expected]`` and ``[[verify.check]]``. A machine without expectations
of its own is expected to come to a login prompt and to go on running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vmpack.bundle import Bundle
from vmpack.machine.config import MachineConfig
from vmpack.runner.console import Console
from vmpack.runner.milestones import Detector, Reached
from vmpack.runner.options import Ending, Qemu, RunOptions
from vmpack.runner.session import Session
from vmpack.verify.checks import CheckResult, run_checks
from vmpack.verify.model import HostFacts, Observation
from vmpack.verify.observe import host_facts, observe_session

__all__ = ["DEFAULT_TIMEOUT_S", "Boot", "End", "Expectation", "boot_once"]

End = Literal["login", "milestones", "agent", "ending", "quiet"]
"""How the end of a boot is recognised: a login prompt, the targets that belong to it and quiet; the
config's own milestones; the guest agent's answer; the machine's own ending; nothing moves any more
on screen, console and disks."""

DEFAULT_TIMEOUT_S = 600.0
"""Seconds for a boot whose config says nothing; those in which the host was busy do not count."""

SETTLE_S = 2.0
"""Seconds that a machine has to go on running after its last milestone. A login prompt is not the
last thing to happen; the screen is then the same at each boot."""

LOG_KEPT = 4 << 20
"""Bytes of the start of the console that are kept for a report."""

LOGIN = "login"
"""The generic milestone that ends a boot without expectations."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a boot is held against."""

    milestones: tuple[str, ...]
    ending: str
    """``running``, ``power-off``, ``reset``, ``panic`` or ``hang``."""
    generic: bool
    """Nothing was said: a login prompt it is."""
    timeout_s: float

    @classmethod
    def of(cls, config: MachineConfig, timeout_s: float | None = None) -> Expectation:
        """That of a config; ``timeout_s`` takes the place of the config's."""
        expected = config.expected
        ending = expected.ending or "running"
        return cls(
            expected.milestones,
            ending,
            generic=not expected.milestones and ending == "running",
            timeout_s=timeout_s or expected.timeout or DEFAULT_TIMEOUT_S,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The milestones, the generic one included."""
        return (LOGIN,) if self.generic else self.milestones


@dataclass(frozen=True, slots=True)
class Boot:
    """What one boot did."""

    ending: Ending
    expectation: Expectation
    reached: tuple[Reached, ...]
    """Of the expected milestones, as they came."""
    missing: tuple[str, ...]
    seen: tuple[Reached, ...]
    """What else was recognised, in the order of its first time."""
    checks: tuple[CheckResult, ...]
    console: bytes
    """The start of what the guest printed: at most :data:`LOG_KEPT` of ``console_total`` bytes."""
    console_total: int
    qemu: str
    accel: str
    accel_reason: str
    host: HostFacts
    """What it was run with, and what was changed on purpose."""
    end: End = "login"
    """How its end was recognised, or would have been; handed in for later boots, it stays."""
    observation: Observation | None = None
    """What it showed; of a boot that failed, what could still be seen. ``None``: not asked for."""
    problems: tuple[str, ...] = ()
    """Why something could not be observed, safe to print: the guest agent that did not answer."""

    @property
    def good(self) -> bool:
        """Everything was as expected."""
        return self.ending.kind == "expected"

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a report."""
        times = {one.name: one.seconds for one in self.reached}
        return {
            "good": self.good,
            "expected": {
                "milestones": list(self.expectation.names),
                "ending": self.expectation.ending,
                "generic": self.expectation.generic,
                "timeout": self.expectation.timeout_s,
            },
            "milestones": [
                *(_milestone(name, seconds) for name, seconds in times.items()),
                *(_milestone(name, None) for name in self.missing),
            ],
            "seen": [_milestone(one.name, one.seconds) for one in self.seen],
            "checks": [check.as_dict() for check in self.checks],
            "ending": self.ending.as_dict(),
            "console-bytes": self.console_total,
            "qemu": self.qemu,
            "accel": self.accel,
            "accel-reason": self.accel_reason,
        }


def _milestone(name: str, seconds: float | None) -> dict[str, object]:
    return {"name": name, "milliseconds": None if seconds is None else round(seconds * 1000)}


class _Follower:
    """Takes the console from its first byte on: milestones with their times, and the log."""

    def __init__(
        self, expectation: Expectation, on_reached: Callable[[Reached], None] | None
    ) -> None:
        self.detector = Detector(expectation.milestones)
        self.session: Session | None = None
        self.log = bytearray()
        self._expectation = expectation
        self._on_reached = on_reached

    def feed(self, data: bytes) -> None:
        """The console's next bytes."""
        if len(self.log) < LOG_KEPT:
            self.log += data[: LOG_KEPT - len(self.log)]
        seconds = 0.0 if self.session is None else self.session.seconds
        for reached in self.detector.feed(data, seconds):
            if self._on_reached is not None:
                self._on_reached(reached)

    @property
    def missing(self) -> tuple[str, ...]:
        if self._expectation.generic:
            return () if self.detector.has(LOGIN) else (LOGIN,)
        return self.detector.missing

    @property
    def reached(self) -> tuple[Reached, ...]:
        if self._expectation.generic:
            return tuple(one for one in self.detector.seen if one.name == LOGIN)
        return tuple(self.detector.reached)


async def boot_once(
    bundle: Bundle,
    options: RunOptions,
    *,
    qemu: Qemu | None = None,
    config: MachineConfig | None = None,
    host_name: str = "here",
    changed: Sequence[str] = (),
    observe: bool = True,
    end: End | None = None,
    on_reached: Callable[[Reached], None] | None = None,
) -> Boot:
    """Boot ``bundle`` once, under an overlay that is thrown away, and tell what it did.

    Ends the guest as soon as everything that is expected has happened. ``config`` stands in for
    the bundle's own; ``host_name`` and ``changed`` are told in the host's facts. ``observe`` says
    whether :attr:`Boot.observation` is made; ``end`` is that of a record, so that the boot is
    observed at the same place. ``on_reached`` is told each milestone. Raises
    :class:`InfrastructureError` when the machine cannot start at all.
    """
    config = config or bundle.config
    expectation = Expectation.of(config, options.timeout_s)
    follower = _Follower(expectation, on_reached)
    async with Session.start(
        bundle, options, config=config, on_console=follower.feed, qemu=qemu
    ) as session:
        follower.session = session
        host = host_facts(session, host_name, changed)
        ending = await _expect(session, follower, expectation)
        checks: Sequence[CheckResult] = ()
        if ending.kind == "expected" and expectation.ending == "running":
            checks, ending = await run_checks(session, config.verify.checks, ending)
        observation = await observe_session(session, host) if observe else None
        return Boot(
            ending=ending,
            expectation=expectation,
            reached=follower.reached,
            missing=follower.missing,
            seen=tuple(follower.detector.seen),
            checks=tuple(checks),
            console=bytes(follower.log),
            console_total=session.console.total,
            qemu=".".join(map(str, session.host.qemu.version)),
            accel=session.host.accel,
            accel_reason=session.host.accel_reason,
            host=host,
            end=end or ("login" if expectation.generic else "milestones"),
            observation=observation,
        )


async def _expect(session: Session, follower: _Follower, expectation: Expectation) -> Ending:
    """Wait for the milestones, then for the ending that is expected after them."""

    def complete(_console: Console) -> bool:
        return not follower.missing

    if follower.missing:
        ending = await session.wait(complete, expectation.timeout_s)
        if ending.kind != "expected":
            return _with_missing(ending, follower.missing)
    if expectation.ending == "running":
        return await _settled(session)
    return await session.wait(None, max(expectation.timeout_s - session.seconds, 1.0))


async def _settled(session: Session) -> Ending:
    """Every milestone was reached; whether it runs on."""
    ending = await session.wait(None, SETTLE_S)
    if ending.kind == "timeout":
        return replace(ending, kind="expected", message="every milestone was reached")
    message = f"{ending.message} after the last milestone"
    kind = "unexpected" if ending.kind in ("shutdown", "expected") else ending.kind
    return replace(ending, kind=kind, message=message)


def _with_missing(ending: Ending, missing: Sequence[str]) -> Ending:
    from vmpack.binary import escape

    shown = ", ".join(repr(escape(name)) for name in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return replace(ending, message=f"{ending.message}; not reached: {shown}{more}")
