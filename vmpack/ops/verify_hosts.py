"""``vmpack verify --on``: one bundle on several hosts at a time, each host's result in its place.

Guests of this machine run in one event loop of the main thread, because the kernel ends a QEMU
with the thread that started it; together they take no more CPUs than there are. Machines behind
ssh do their own work. A host that fails is a result, and the others go on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError
from vmpack.ops.verify_host import Task, verify_here
from vmpack.progress import SILENT, Progress
from vmpack.verify.result import HostResult, error_of

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.runner.milestones import Reached
    from vmpack.runner.options import RunOptions
    from vmpack.verify.hosts import Host

__all__ = ["HostWatcher", "cores", "verify_on"]

HostWatcher = Callable[[str, int, "Reached"], None]
"""Told the host's name, the number of the boot, 1 first, and each milestone as it is reached."""


async def verify_on(
    hosts: Sequence[Host],
    bundle: Bundle,
    task: Task,
    *,
    as_target: str | None = None,
    on_reached: HostWatcher | None = None,
    progress: Progress = SILENT,
) -> tuple[HostResult, ...]:
    """What each host did, in the order of ``hosts``. Await it in the main thread.

    ``as_target`` is the ``--as`` that ``task.config`` stands for: a machine behind ssh makes that
    config itself, and tells of no milestone before its end. Cancelling ends every guest, here and
    elsewhere. A :class:`VmpackError` is that host's result.
    """
    limit = _Cores(cores())
    machines: dict[object, asyncio.Lock] = {}

    async def one(host: Host) -> HostResult:
        try:
            own = replace(task, options=host.options(task.options))
            if host.ssh is None:
                async with limit.take(_cpus(bundle, own)):
                    return await _local(host, bundle, own, on_reached, progress)
            from vmpack.verify.remote import Order, verify_there

            order = Order(own.options, own.boots, own.expected, own.preflight, as_target)
            # One after the other where two names stand for one machine.
            async with machines.setdefault((host.ssh.target, host.ssh.port), asyncio.Lock()):
                return await verify_there(host, bundle, order, progress)
        except VmpackError as exc:
            return HostResult(host.name, error=error_of(exc))

    tasks = [asyncio.create_task(one(host)) for host in hosts]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _local(
    host: Host,
    bundle: Bundle,
    task: Task,
    on_reached: HostWatcher | None,
    progress: Progress,
) -> HostResult:
    def reached(boot: int, milestone: Reached) -> None:
        if on_reached is not None:
            on_reached(host.name, boot, milestone)

    qemu = host.find_qemu()
    return await verify_here(
        bundle, task, name=host.name, qemu=qemu, on_reached=reached, progress=progress
    )


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpus(bundle: Bundle, task: Task) -> int:
    """CPUs of the guest: as many threads of QEMU run at a time."""
    options: RunOptions = task.options
    cpu = (task.config or bundle.config).cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    return options.cpus or count


class _Cores:
    """Shares CPUs out, first come, first served; a guest with more than there are gets them all."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    def take(self, count: int) -> _Taken:
        """A context that holds ``count`` CPUs."""
        return _Taken(self, min(max(count, 1), self._total))

    async def acquire(self, count: int) -> None:
        """Wait until ``count`` are free. Nobody passes whoever waits, so a large guest starts."""
        async with self._turn:
            while self._free < count:
                self._given_back.clear()
                await self._given_back.wait()
            self._free -= count

    def release(self, count: int) -> None:
        """Give them back."""
        self._free += count
        self._given_back.set()


@dataclass(frozen=True, slots=True)
class _Taken:
    cores: _Cores
    count: int

    async def __aenter__(self) -> None:
        await self.cores.acquire(self.count)

    async def __aexit__(self, *exc: object) -> None:
        self.cores.release(self.count)
