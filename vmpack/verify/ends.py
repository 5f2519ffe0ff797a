"""When a boot is over: told by what it shows, and by how long nothing has happened since.

Profile: specs/behaviour-v1.md, BHV-END. Seconds are effective ones: those in which the host had no
CPU for the machine do not count, and a machine that computes is given longer than an idle one. So
a boot is observed at the same place on a fast host and on a slow one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vmpack.errors import VmpackError
from vmpack.verify.model import Json

if TYPE_CHECKING:
    from vmpack.runner.milestones import Detector
    from vmpack.runner.session import Session

__all__ = ["AgentWatch", "End", "Pause", "Quiet", "StillWatch", "targets_missing"]

End = Literal["login", "milestones", "agent", "ending", "quiet"]
"""How the end of a boot is recognised: a login prompt, the target that belongs to it and quiet; the
config's own milestones; the guest agent's answer; the machine's own ending; nothing moves any more
on screen, console and disks."""

SAMPLE_S = 1.0
IDLE_SHARE = 0.3
"""A machine that takes less of a CPU than this has nothing to do; under TCG an idle Linux with its
timers takes 3%."""
BUSY = 3.0
"""A machine that takes more has to be quiet for so many times as long."""
STILL_S = 8.0
"""Seconds without a change of screen, console and disks that end a boot which shows nothing else;
firmware, boot loaders and graphical start screens wait for 3 to 5 seconds."""
STILL_OPERATIONS = 16
"""Block operations in that time that do not count: systems write their logs now and then."""

PRINTING = 4
"""A console that has printed is waited for so many times as long, once the agent answers."""

TARGETS = ("graphical", "multi-user", "default", "emergency", "rescue")


@dataclass(frozen=True, slots=True)
class Pause:
    """How quiet a console has to be at the end, and how long that is waited for, in seconds."""

    quiet_s: float
    limit_s: float
    busy: float = BUSY


class Quiet:
    """Follows the console: how long it has been still, and whether the machine was idle then."""

    def __init__(self, session: Session, pause: Pause) -> None:
        self._session = session
        self._pause = pause
        self._total = -1
        self._since = 0.0
        self._cpu_s = 0.0
        self._begun = session.effective_seconds

    @property
    def enough(self) -> bool:
        """Whether it has been still for long enough; looked at some ten times a second."""
        seconds = self._session.effective_seconds
        if self._session.console.total != self._total:
            self._total = self._session.console.total
            self._since, self._cpu_s = seconds, self._session.process.cpu_seconds()
        still = seconds - self._since
        if still < self._pause.quiet_s:
            return False
        busy = self._session.process.cpu_seconds() - self._cpu_s > IDLE_SHARE * still
        return not busy or still >= self._pause.busy * self._pause.quiet_s

    @property
    def overdue(self) -> bool:
        """A machine that never is quiet: it has been waited for long enough."""
        return self._session.effective_seconds - self._begun >= self._pause.limit_s


def targets_missing(detector: Detector) -> bool:
    """Whether systemd starts a system whose last target has not been reached yet."""
    if not detector.has("systemd") and not detector.has("default-target"):
        return False
    wanted = next((one.detail for one in detector.seen if one.name == "default-target"), "")
    name = wanted.split(" ")[0]
    if name.endswith(".target"):
        return not detector.has(f"target {name.removesuffix('.target')}")
    # It was told by its title, or not at all.
    return not any(detector.has(f"target {each}") for each in TARGETS)


class _Background(ABC):
    """Something that is looked at beside the boot; :attr:`over` says what came of it."""

    def __init__(self, session: Session) -> None:
        self.over = False
        self._session = session
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _run(self) -> None:
        """Look until it is over, or for ever."""


class AgentWatch(_Background):
    """Whether the guest agent answers. Of a machine that prints, its console is waited for."""

    def __init__(self, session: Session, *, alone: bool) -> None:
        super().__init__(session)
        self._alone = alone
        """Nothing else is waited for."""

    async def _run(self) -> None:
        agent = self._session.agent
        if agent is None:
            return
        try:
            await agent.ready(1e9)
        except VmpackError:
            return
        # Its login may yet come: services are started side by side.
        still = Quiet(self._session, Pause(PRINTING * STILL_S, 1e9))
        while not self._alone and self._session.console.total and not still.enough:
            await asyncio.sleep(SAMPLE_S / 2)
        self.over = True


class StillWatch(_Background):
    """Whether nothing moves any more on a machine that prints nothing: screen, console, disks.

    A machine that prints is another's concern, unless ``printing`` says that it is this one's.
    """

    def __init__(self, session: Session, *, printing: bool) -> None:
        super().__init__(session)
        self._printing = printing
        self._mark: tuple[object, ...] = ()
        self._picture: Json = None
        self._operations = 0

    async def _run(self) -> None:
        quiet = Quiet(self._session, Pause(STILL_S, 1e9))
        while self._printing or not self._session.console.total:
            try:
                if await self._moved():
                    quiet = Quiet(self._session, Pause(STILL_S, 1e9))
            except VmpackError:
                return
            if quiet.enough and self._operations:
                self.over = True
                return
            await asyncio.sleep(min(SAMPLE_S, STILL_S / 4))

    async def _moved(self) -> bool:
        """Whether anything has happened since the machine was last seen to move."""
        session = self._session
        stats = await session.qmp("query-blockstats")
        names = ("rd_operations", "wr_operations", "unmap_operations")
        operations = sum(one["stats"].get(name, 0) for one in stats for name in names)
        await session.screen.look()
        mark = (session.screen.changes, session.firmware_log.total)
        if mark != self._mark or operations - self._operations > STILL_OPERATIONS:
            self._mark, self._operations = mark, operations
            self._picture = None
            return True
        return not session.screen.lines and await self._redrawn()

    async def _redrawn(self) -> bool:
        """Whether a graphical screen shows something else; a cursor or a clock is nothing."""
        from vmpack.verify.picture import compare_pictures, picture_facts

        png = await self._session.screendump()
        if not png:
            return False
        facts = picture_facts("screen", png)["screen"]
        same = self._picture is not None and compare_pictures(self._picture, facts).verdict in (
            "same",
            "similar",
        )
        if not same:
            self._picture = facts
        return not same
