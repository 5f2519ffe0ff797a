"""Follows one boot to its end: the console's milestones, then the quiet after the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack.runner.milestones import Detector, Reached
from vmpack.verify.ends import AgentWatch, End, Pause, Quiet, StillWatch, targets_missing

if TYPE_CHECKING:
    from vmpack.machine.config import MachineConfig
    from vmpack.runner.console import Console
    from vmpack.runner.options import Ending
    from vmpack.runner.session import Session

__all__ = ["DEFAULT_TIMEOUT_S", "LOGIN", "Expectation", "Follower", "Pauses", "reach_end"]

DEFAULT_TIMEOUT_S = 600.0
"""Seconds for a boot whose config says nothing; those in which the host was busy do not count."""

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
    """Nothing was said: a login prompt it is, or what a machine without a console has instead."""
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

    @property
    def end(self) -> End:
        """How the boot's end is recognised, as long as the boot has not told better."""
        if self.generic:
            return "login"
        return "milestones" if self.ending == "running" else "ending"


@dataclass(frozen=True, slots=True)
class Pauses:
    """How quiet it has to be at which end."""

    login: Pause
    settle: Pause


class Follower:
    """Takes the console from its first byte on: milestones with their times, and the log."""

    def __init__(
        self,
        expectation: Expectation,
        end: End | None = None,
        on_reached: Callable[[Reached], None] | None = None,
    ) -> None:
        self.detector = Detector(expectation.milestones)
        self.session: Session | None = None
        self.log = bytearray()
        self.end: End = end or expectation.end
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
        """What is expected and was not reached."""
        if self._expectation.generic:
            wanted = self.end == "login" and not self.detector.has(LOGIN)
            return (LOGIN,) if wanted else ()
        return self.detector.missing

    @property
    def reached(self) -> tuple[Reached, ...]:
        """Of what is expected, as it came."""
        if self._expectation.generic:
            return tuple(one for one in self.detector.seen if one.name == LOGIN)
        return tuple(self.detector.reached)


async def reach_end(
    session: Session,
    follower: Follower,
    expectation: Expectation,
    pauses: Pauses,
    *,
    chosen: End | None = None,
    on_settling: Callable[[], None] = lambda: None,
) -> Ending:
    """Wait for all that is expected, then for the ending or the quiet that is expected after it.

    ``chosen`` is the end that a record was made at; without one, and without expectations, a
    machine that has no console is over when its agent answers or nothing moves any more, and
    ``follower.end`` tells which it was. ``on_settling`` is called when only quiet is missing.
    """
    ending = await _come_so_far(session, follower, expectation, chosen)
    if ending is not None and ending.kind != "expected":
        return _with_missing(ending, follower.missing)
    on_settling()
    if expectation.ending != "running":
        return await session.wait(None, max(expectation.timeout_s - session.seconds, 1.0))
    # A prompt that is waited at may be just what was expected.
    session.accept()
    if follower.end == "quiet" and ending is not None:
        return replace(ending, message="nothing moves any more on screen, console and disks")
    pause = pauses.login if follower.end == "login" else pauses.settle
    return await _settled(session, follower, pause)


async def _come_so_far(
    session: Session, follower: Follower, expectation: Expectation, chosen: End | None
) -> Ending | None:
    """Wait for the milestones, or what stands in for them; ``None``: nothing is waited for."""
    if not expectation.generic:
        if not follower.missing:
            return None
        return await session.wait(lambda _console: not follower.missing, expectation.timeout_s)
    agent = AgentWatch(session, alone=chosen == "agent")
    still = StillWatch(session, printing=chosen == "quiet")
    watched = {"agent": (agent,), "quiet": (still,), None: (agent, still)}.get(chosen, ())

    def over(_console: Console) -> bool:
        if chosen in (None, "login") and follower.detector.has(LOGIN):
            follower.end = "login"
        elif agent.over:
            follower.end = "agent"
        elif still.over:
            follower.end = "quiet"
        else:
            return False
        return True

    for each in watched:
        each.start()
    try:
        return await session.wait(over, expectation.timeout_s)
    finally:
        for each in watched:
            await each.stop()


async def _settled(session: Session, follower: Follower, pause: Pause) -> Ending:
    """Every milestone was reached; whether it runs on, until it is quiet."""
    quiet = Quiet(session, pause)

    def done(_console: Console) -> bool:
        if quiet.overdue:
            return True
        waiting = follower.end == "login" and targets_missing(follower.detector)
        return quiet.enough and not waiting

    ending = await session.wait(done, 2 * pause.limit_s + 60)
    if ending.kind == "expected":
        return replace(ending, message="every milestone was reached")
    what = ending.message.removesuffix(" before it came as far as expected")
    return replace(ending, message=f"{what} after the last milestone")


def _with_missing(ending: Ending, missing: Sequence[str]) -> Ending:
    from vmpack.binary import escape

    if not missing:
        return ending
    shown = ", ".join(repr(escape(name)) for name in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return replace(ending, message=f"{ending.message}; not reached: {shown}{more}")
