"""Observes one boot: asks QEMU while the machine settles, keeps the rest as it was at the end."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from vmpack.binary import escape
from vmpack.errors import VmpackError
from vmpack.verify.layers import LayerName
from vmpack.verify.model import Facts, HostFacts, Json, Observation

if TYPE_CHECKING:
    from vmpack.runner.milestones import Reached
    from vmpack.runner.options import Ending
    from vmpack.runner.session import Session
    from vmpack.verify.checks import CheckResult
    from vmpack.verify.guest import GuestReport, Means, Seed
    from vmpack.verify.reach import Follower

__all__ = ["Observer", "check_facts", "host_facts"]

SCREEN = "screen"
"""Name of the picture at the boot's end."""

BANNER = re.compile(r"^(?:SeaBIOS|iPXE|Machine UUID|VGABios|Plex86)\b")
"""Lines that firmware shows on the screen of whatever it boots: its version."""

ASKABLE = frozenset({"expected", "timeout", "login-missing"})
"""Endings after which the guest may still answer, as its CPUs run on."""


def host_facts(session: Session, name: str, changed: Sequence[str] = ()) -> HostFacts:
    """What ``session`` runs with; ``changed`` is what was changed on purpose."""
    from vmpack import __version__
    from vmpack.verify.observe.firmware import code_digest

    return HostFacts(
        qemu=".".join(map(str, session.host.qemu.version)),
        accel=session.host.accel,
        firmware=code_digest(session.host.qemu, session.host.firmware),
        name=name,
        vmpack=__version__,
        changed=tuple(changed),
    )


class Observer:
    """One boot, observed: :meth:`begin`, :meth:`end`, then :meth:`ask`, then :meth:`result`."""

    def __init__(self, session: Session, host: HostFacts, seed: Seed | None = None) -> None:
        self.problems: list[str] = []
        """Why something could not be observed, safe to print."""
        self._session = session
        self._host = host
        self._seed = seed
        """The machine was started with, so that its guest tells of itself."""
        self._hardware: asyncio.Task[dict[str, Json]] | None = None
        self._ending: Ending | None = None
        self._layers: dict[LayerName, Facts] = {}
        self._seen: tuple[Reached, ...] = ()
        self._reached: tuple[Reached, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._log = b""
        self._firmware_log = b""
        self._screen: tuple[str, ...] = ()
        self._guest: GuestReport | None = None

    def begin(self) -> None:
        """Ask for the hardware beside the boot: it takes some hundred questions."""
        from vmpack.verify.observe.hardware import observe_hardware

        if self._hardware is None:
            self._hardware = asyncio.create_task(observe_hardware(self._session))

    async def end(self, ending: Ending, follower: Follower) -> None:
        """The boot is over: what it did until now counts, and nothing that comes later."""
        from vmpack.verify.observe.ending import ending_facts
        from vmpack.verify.observe.reads import observe_reads

        with contextlib.suppress(VmpackError):
            self._layers["reads"] = await observe_reads(self._session)
        self._ending = ending
        self._layers["ending"] = ending_facts(ending, self._session.events)
        self._seen = tuple(follower.detector.seen)
        self._reached = tuple(follower.detector.reached)
        self._missing = follower.detector.missing
        log = bytes(follower.log)
        self._log = log if self._seed is None else self._seed.framed.without(log)
        self._firmware_log = self._session.firmware_log.data
        if ending.picture:
            await self._session.screen.look()
            self._screen = self._session.screen.lines
        self.begin()
        if self._hardware is not None:
            try:
                self._layers["hardware"] = await self._hardware
            except VmpackError as exc:
                self.problems.append(f"the hardware could not be observed: {escape(str(exc))}")

    async def ask(self, means: str | None = None) -> None:
        """Ask the guest itself; ``means`` is how it was asked for the record."""
        from vmpack.verify.guest import observe_guest

        if self._ending is None or self._ending.kind not in ASKABLE or self._ending.reason:
            return
        try:
            self._guest = await observe_guest(
                self._session,
                self._session.plan.config,
                expect=cast("Means | None", means),
                seed=self._seed,
            )
        except VmpackError as exc:
            self.problems.append(f"the guest could not be asked: {escape(str(exc))}")
            return
        if self._guest.problem:
            self.problems.append(self._guest.problem)

    async def stop(self) -> None:
        """Leave nothing behind, however the boot ended."""
        if self._hardware is not None:
            self._hardware.cancel()
            await asyncio.gather(self._hardware, return_exceptions=True)

    def result(self, checks: Sequence[CheckResult] | None) -> Observation:
        """Everything that was seen; ``checks`` is ``None`` when none could be carried out.

        Needs no QEMU any more: reading pictures and lines costs the machine nothing.
        """
        from vmpack.verify.console import console_facts
        from vmpack.verify.observe.firmware import firmware_facts
        from vmpack.verify.observe.milestones import milestone_facts
        from vmpack.verify.picture import picture_facts

        layers = self._layers
        layers["milestones"] = milestone_facts(self._seen, self._reached, self._missing)
        layers["firmware"] = firmware_facts(
            self._session.host.firmware.kind, self._host.firmware, self._firmware_log, self._log
        )
        layers["console"] = console_facts(self._log)
        pictures: dict[str, Json] = {}
        if self._ending is not None and self._ending.picture:
            pictures |= picture_facts(SCREEN, self._ending.picture)
            if self._screen:
                pictures[SCREEN] = screen_fact(pictures[SCREEN], self._screen)
        for check in checks or ():
            if check.picture:
                pictures |= picture_facts(f"check:{check.name}", check.picture)
        if pictures:
            layers["picture"] = pictures
        if checks is not None:
            layers["checks"] = check_facts(checks)
        means: tuple[str, ...] = ()
        if self._guest is not None and self._guest.means is not None:
            means = (self._guest.means,)
            if self._guest.facts is not None:
                layers["guest"] = self._guest.facts
            if self._guest.tables is not None:
                layers["tables"] = self._guest.tables
        return Observation(self._host, layers, means)


def screen_fact(picture: Json, lines: Sequence[str]) -> Json:
    """A text screen's picture with its text, without what the firmware says of itself."""
    from vmpack.verify.console import console_facts
    from vmpack.verify.picture import WORDS

    if not isinstance(picture, dict):
        return picture
    kept = "\n".join(line for line in lines if not BANNER.match(line))
    found = console_facts(kept.encode())["lines"]
    words = [line for line in found if isinstance(line, str)] if isinstance(found, list) else []
    return {**picture, WORDS: [*sorted(words)]}


def check_facts(checks: Sequence[CheckResult]) -> dict[str, Json]:
    """``check:NAME``: what kind of check it is, and whether it passed."""
    return {f"check:{one.name}": {"kind": one.kind, "verdict": one.verdict} for one in checks}
