"""One boot of a bundle, held against what its config expects: milestones, checks, ending.

Profile: specs/config-v1.md, ``[expected]`` and ``[[verify.check]]``. A machine without expectations
of its own is expected to come to a login prompt and to go on running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vmpack.bundle import Bundle
from vmpack.machine.config import MachineConfig
from vmpack.runner.milestones import Reached
from vmpack.runner.options import Ending, Qemu, RunOptions
from vmpack.runner.session import Session
from vmpack.verify.checks import CheckResult, run_checks
from vmpack.verify.ends import End, Pause
from vmpack.verify.guest import seed_for
from vmpack.verify.model import HostFacts, Observation
from vmpack.verify.observe import Observer, host_facts
from vmpack.verify.reach import (
    DEFAULT_TIMEOUT_S,
    LOG_KEPT,
    LOGIN,
    Expectation,
    Follower,
    Pauses,
    reach_end,
)

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "LOGIN",
    "LOG_KEPT",
    "Boot",
    "End",
    "Expectation",
    "boot_once",
]

SETTLE_S = 2.0
"""Effective seconds for which the console has to be still after the last of the config's own
milestones. The last one is not the last thing to happen; the screen is then the same at each boot.
"""

QUIET_S = 3.0
"""The same after a login prompt, which systemd shows before everything has been started."""

PATIENCE = 5
"""A console that is never still is waited for so many times as long."""

LINGER_S = 30.0
"""The same after a login prompt, and for the last target."""


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
            "end": self.end,
            "problems": list(self.problems),
        }


def _milestone(name: str, seconds: float | None) -> dict[str, object]:
    return {"name": name, "milliseconds": None if seconds is None else round(seconds * 1000)}


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
    means: str | None = None,
    on_reached: Callable[[Reached], None] | None = None,
) -> Boot:
    """Boot ``bundle`` once, under an overlay that is thrown away, and tell what it did.

    Ends the guest as soon as everything that is expected has happened. ``config`` stands in for
    the bundle's own; ``host_name`` and ``changed`` are told in the host's facts. ``observe`` says
    whether :attr:`Boot.observation` is made; ``end`` is that of a record, so that the boot is
    observed at the same place, and ``means`` how its guest was asked. ``on_reached`` is told each
    milestone. Raises :class:`InfrastructureError` when the machine cannot start at all.
    """
    config = config or bundle.config
    seed = seed_for(bundle, config) if observe else None
    if seed is not None:
        options = replace(options, seed=seed.image)
        changed = (*changed, seed.changed)
    expectation = Expectation.of(config, options.timeout_s)
    # What ends a boot without expectations is of no use to one that has them.
    end = end if expectation.generic and end in ("login", "agent", "quiet") else None
    follower = Follower(expectation, end, on_reached)
    async with Session.start(
        bundle, options, config=config, on_console=follower.feed, qemu=qemu
    ) as session:
        follower.session = session
        host = host_facts(session, host_name, changed)
        observer = Observer(session, host, seed) if observe else None
        try:
            checks, ending = await _carry_out(
                session, follower, expectation, config, end, observer, means
            )
        finally:
            if observer is not None:
                await observer.stop()
        console_total = session.console.total
        used = session.host
    return Boot(
        ending=ending,
        expectation=expectation,
        reached=follower.reached,
        missing=follower.missing,
        seen=tuple(follower.detector.seen),
        checks=tuple(checks or ()),
        console=bytes(follower.log),
        console_total=console_total,
        qemu=host.qemu,
        accel=used.accel,
        accel_reason=used.accel_reason,
        host=host,
        end=follower.end,
        observation=None if observer is None else observer.result(checks),
        problems=() if observer is None else tuple(observer.problems),
    )


async def _carry_out(
    session: Session,
    follower: Follower,
    expectation: Expectation,
    config: MachineConfig,
    end: End | None,
    observer: Observer | None,
    means: str | None,
) -> tuple[Sequence[CheckResult] | None, Ending]:
    """The boot, the checks, and what is seen meanwhile; no checks where the boot was not good."""
    pauses = Pauses(Pause(QUIET_S, LINGER_S), Pause(SETTLE_S, PATIENCE * SETTLE_S, busy=1.0))
    ending = await reach_end(
        session,
        follower,
        expectation,
        pauses,
        chosen=end,
        on_settling=(lambda: None) if observer is None else observer.begin,
    )
    if observer is not None:
        await observer.end(ending, follower)
    checks: Sequence[CheckResult] | None = None
    if ending.kind == "expected" and expectation.ending == "running":
        checks, ending = await run_checks(session, config.verify.checks, ending)
    if observer is not None:
        await observer.ask(means)
    return checks, ending
