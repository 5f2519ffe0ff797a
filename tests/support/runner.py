"""Runs of real QEMU through the runner: every QEMU that is here, and bundles of boot sectors."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from fixtures.build import sectors
from fixtures.build.cache import hosts_dir
from tests.support.qemu import loader_prefix
from tests.support.tools import missing, require_tool
from vmpack.bundle import Bundle
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.runner.options import Ending, Qemu, RunOptions
from vmpack.runner.qemu import find_qemu
from vmpack.runner.scratch import Storage
from vmpack.runner.session import Session, Until

HOSTS = ("machine", "trixie", "trixie-backports")
"""QEMU 7.2, 10.0 and 11.1, where `make hosts` has run."""
TCG = RunOptions(accel="tcg", timeout_s=120)
Result = TypeVar("Result")


@functools.cache
def qemu_of(host: str) -> Qemu:
    """This machine's QEMU, or one that `make hosts` built; absent, the test is skipped."""
    if host == "machine":
        return find_qemu((require_tool("qemu-system-x86_64"),))
    root = hosts_dir() / host
    if not (root / "usr/bin/qemu-system-x86_64").exists():
        missing(f"QEMU of {host}", "run `make hosts`")
    return find_qemu(loader_prefix(root.absolute(), "usr/bin/qemu-system-x86_64"))


def sector_bundle(folder: Path, name: str, config: str = "") -> Path:
    """A bundle of one disk that boots the sector ``name``, with what the TOML ``config`` pins."""
    disk = sectors.write_disk(name, folder / f"{name}.raw")
    return packed(folder / f"{name}.vmpack", [disk], config)


def packed(path: Path, disks: list[Path], config: str = "") -> Path:
    """A bundle of raw disks."""
    machine = MachineConfig.from_toml('memory = "64M"\n' + config)
    pack(disks, path, config=machine, force=True)
    return path


def in_session(
    bundle: Path,
    work: Callable[[Session], Awaitable[Result]],
    *,
    options: RunOptions = TCG,
    host: str = "machine",
    on_console: Callable[[bytes], None] | None = None,
    storage: Storage | None = None,
) -> Result:
    """What ``work`` returns, done while the bundle runs."""

    async def run() -> Result:
        with Bundle.open(bundle) as opened:
            async with Session.start(
                opened, options, qemu=qemu_of(host), on_console=on_console, storage=storage
            ) as session:
                return await work(session)

    return asyncio.run(run())


def ending_of(
    bundle: Path,
    *,
    until: Until | None = None,
    options: RunOptions = TCG,
    host: str = "machine",
) -> Ending:
    """How a run of the bundle ends."""
    return in_session(bundle, lambda session: session.wait(until), options=options, host=host)
