"""One host's part of a verification: its pins, its boots, and what they are held against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmpack.bundle import Bundle
from vmpack.errors import FirmwareMissingError, InfrastructureError, PinUnavailableError
from vmpack.ops.running import beat
from vmpack.progress import SILENT, Progress
from vmpack.runner.options import RunOptions
from vmpack.verify.result import HostResult, error_of

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.runner.left_open import LeftOpen
    from vmpack.runner.milestones import Reached
    from vmpack.runner.options import Qemu
    from vmpack.runner.preflight import Pin
    from vmpack.verify.boot import Boot, End
    from vmpack.verify.model import Comparison
    from vmpack.verify.record import Record
    from vmpack.verify.replay import ExactResult, Replay

__all__ = ["HERE", "Task", "Watcher", "held_against", "pins_of", "require_pins", "verify_here"]

HERE = "here"
"""The host that vmpack itself runs on, as reports name it."""

Watcher = Callable[[int, "Reached"], None]
"""Told the number of the boot, 1 first, and each milestone as it is reached."""


@dataclass(frozen=True, slots=True)
class Task:
    """What each host is asked to do."""

    options: RunOptions = field(default_factory=RunOptions)
    boots: int = 1
    expected: Record | None = None
    """What each boot is compared with, and how its end is recognised."""
    config: MachineConfig | None = None
    """In place of the bundle's own: the machine as another hypervisor would present it."""
    changed: tuple[str, ...] = ()
    """What was changed on purpose, for the record: ``--as vmware``."""
    notes: tuple[str, ...] = ()
    """Sentences about that, for people."""
    preflight: bool = False
    """Look at the pins and boot nothing."""
    replay: Replay | None = None
    """The bundle's deterministic boot, which is replayed after the boots."""

    @property
    def all_changed(self) -> tuple[str, ...]:
        """``changed``, and QEMU's additional arguments."""
        return (*self.changed, *(f"--qemu-arg {word}" for word in self.options.qemu_args))


async def verify_here(
    bundle: Bundle,
    task: Task,
    *,
    name: str = HERE,
    qemu: Qemu | None = None,
    on_reached: Watcher | None = None,
    progress: Progress = SILENT,
) -> HostResult:
    """Do ``task`` with a QEMU of this machine: ``qemu``, or the first that is found.

    The pins first; without an unavailable one the boots, each of which has to be as expected and,
    where there is a record, as that says. The first that is not is the last. What this host lacks
    is told in the result. Call it from the main thread: QEMU dies with the thread that started it.
    """
    pins: tuple[Pin, ...] = ()
    boots: list[Boot] = []
    compared: list[Comparison] = []
    error: Mapping[str, object] | None = None
    exact: ExactResult | None = None
    open_here: tuple[LeftOpen, ...] = ()
    try:
        pins, open_here = pins_of(bundle, task, qemu)
        require_pins(pins)
        if not task.preflight:
            await _boots(bundle, task, boots, compared, name, qemu, on_reached, progress)
        if task.replay is not None and all(boot.good for boot in boots):
            exact = await _replayed(bundle, task.replay, task.options, qemu, progress)
    except InfrastructureError as exc:
        error = error_of(exc)
    return HostResult(
        name,
        tuple(boots),
        _shown(compared),
        error,
        pins,
        open_here if task.preflight else (),
        exact=exact,
        notes=task.notes,
    )


def held_against(result: HostResult, expected: Record | None) -> HostResult:
    """``result``, whose boots were made elsewhere, with what they differ in from a record."""
    seen = [boot.observation for boot in result.boots if boot.observation is not None]
    if expected is None or not seen:
        return result
    from vmpack.verify.compare import compare

    return replace(result, comparison=_shown([compare(expected.observation, one) for one in seen]))


def _shown(compared: Sequence[Comparison]) -> Comparison | None:
    """That of the first boot that differs, otherwise that of the first one."""
    return next((one for one in compared if not one.good), compared[0] if compared else None)


async def _replayed(
    bundle: Bundle, replay: Replay, options: RunOptions, qemu: Qemu | None, progress: Progress
) -> ExactResult:
    from vmpack.verify.exact import replay_exact

    progress.stage("replay", None)
    beating = asyncio.create_task(beat(progress))
    try:
        return await replay_exact(bundle, replay, options, qemu)
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


def pins_of(
    bundle: Bundle, task: Task, qemu: Qemu | None = None
) -> tuple[tuple[Pin, ...], tuple[LeftOpen, ...]]:
    """Everything that the machine pins, and whether this host has it; and what no pin fixes.

    Raises :class:`InfrastructureError` when it has no QEMU, or no accelerator, at all.
    """
    from vmpack.bundle.manifest import NVRAM
    from vmpack.runner.accel import choose
    from vmpack.runner.launch import find_blob
    from vmpack.runner.left_open import left_open
    from vmpack.runner.preflight import preflight
    from vmpack.runner.qemu import find_qemu, require_zstd

    qemu = qemu or find_qemu()
    require_zstd(qemu)
    accel, _ = choose(task.options.accel, qemu)
    config = task.config or bundle.config
    code = bundle.blob(config.firmware.blob) if config.firmware.blob else None
    pins = tuple(preflight(config, qemu, accel, nvram=find_blob(bundle, NVRAM), code=code))
    return pins, tuple(left_open(config, qemu, accel))


def require_pins(pins: Sequence[Pin]) -> None:
    """Raise about those that this host cannot provide.

    That is a :class:`FirmwareMissingError` where the firmware is the first one, otherwise a
    :class:`PinUnavailableError`.
    """
    lacking = [pin for pin in pins if pin.status == "unavailable"]
    if not lacking:
        return
    first = lacking[0]
    more = f"; and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    missing = FirmwareMissingError if first.pin.startswith("firmware") else PinUnavailableError
    raise missing(
        f"this host cannot provide {first.pin} {first.value}: {first.message}{more}",
        field=first.pin,
        hint=first.hint,
    )


def _end(task: Task, done: list[Boot]) -> End | None:
    """Where a boot ends: as the record's did, or as the first one of those that make a record."""
    if task.expected is not None:
        return task.expected.end
    return done[0].end if done else None


def _means(task: Task, done: list[Boot]) -> str | None:
    """How the guest is asked: as it was before, so that its agent is waited for."""
    before = done[0].observation if done else None
    if task.expected is not None:
        before = task.expected.observation
    return next(iter(before.means), None) if before is not None else None


async def _boots(
    bundle: Bundle,
    task: Task,
    done: list[Boot],
    compared: list[Comparison],
    name: str,
    qemu: Qemu | None,
    on_reached: Watcher | None,
    progress: Progress,
) -> None:
    """Boot until one is bad; ``done`` gets each boot, ``compared`` what it differs in."""
    from vmpack.verify.boot import boot_once
    from vmpack.verify.compare import compare

    where = "" if name == HERE else f"{name}: "
    beating = asyncio.create_task(beat(progress))
    try:
        for number in range(1, task.boots + 1):
            progress.stage(f"{where}boot {number}", None)

            def reached(milestone: Reached, number: int = number) -> None:
                progress.stage(f"{where}boot {number}: {milestone.name}", None)
                if on_reached is not None:
                    on_reached(number, milestone)

            boot = await boot_once(
                bundle,
                task.options,
                qemu=qemu,
                config=task.config,
                host_name=name,
                changed=task.all_changed,
                end=_end(task, done),
                means=_means(task, done),
                on_reached=reached,
            )
            done.append(boot)
            if task.expected is not None and boot.observation is not None:
                compared.append(compare(task.expected.observation, boot.observation))
            if not boot.good or (compared and not compared[-1].good):
                break
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
