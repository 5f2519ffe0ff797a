"""``vmpack verify``: whether a bundle does on this host what it is expected to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmpack.bundle import Bundle
from vmpack.errors import UsageError, from_os_error
from vmpack.ops.running import beat, complete, require_bundle
from vmpack.progress import SILENT, Progress
from vmpack.runner.options import RunOptions

if TYPE_CHECKING:
    from vmpack.runner.milestones import Reached
    from vmpack.runner.options import Qemu
    from vmpack.verify.boot import Boot

PathLike = str | os.PathLike[str]
Watcher = Callable[[int, "Reached"], None]
"""Told the number of the boot, 1 first, and each milestone as it is reached."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the boots did."""

    filename: str
    id: str
    machine_id: str
    name: str | None
    boots: tuple[Boot, ...]
    unverified: tuple[str, ...]
    """Arguments of QEMU that the user added: what was seen is not the bundle alone."""
    report: tuple[str, ...] = ()
    """Files that were written."""

    @property
    def exit_code(self) -> int:
        """0 when every boot was as expected, otherwise that of the first one that was not."""
        return next((boot.ending.exit_code for boot in self.boots if not boot.good), 0)

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        bad = [boot.ending for boot in self.boots if not boot.good]
        return {
            "filename": self.filename,
            "id": self.id,
            "machine-id": self.machine_id,
            "name": self.name,
            "kind": bad[0].kind if bad else "expected",
            "exit-code": self.exit_code,
            "unverified": list(self.unverified),
            "boots": [boot.as_dict() for boot in self.boots],
            "report": list(self.report),
        }


def verify(
    bundle: PathLike,
    *,
    options: RunOptions | None = None,
    boots: int = 1,
    report: PathLike | None = None,
    qemu: Qemu | None = None,
    on_reached: Watcher | None = None,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Boot ``bundle`` ``boots`` times and hold each boot against its config's expectations.

    Nothing that a boot writes is kept. A boot that is not as expected is a result, and the last
    one. ``report`` is a folder for each boot's console, picture and what QEMU said. ``options``
    may not name a folder for state.

    Raises what opening a bundle raises, :class:`InfrastructureError` when this host cannot run it,
    :class:`OutputError` when the report cannot be written.
    """
    options = options or RunOptions()
    if options.state_dir is not None or options.interactive:
        raise UsageError("a verification keeps no state and takes no input")
    if report is not None:
        _make_folder(report)
    require_bundle(bundle)
    with Bundle.open(bundle) as opened:
        done = complete(_boots(opened, options, boots, qemu, on_reached, progress))
        result = VerifyResult(
            filename=os.fspath(bundle),
            id=opened.id,
            machine_id=opened.machine_id,
            name=opened.name,
            boots=done,
            unverified=options.qemu_args,
        )
    if report is None:
        return result
    return replace(result, report=_write_report(Path(report), result))


async def _boots(
    bundle: Bundle,
    options: RunOptions,
    count: int,
    qemu: Qemu | None,
    on_reached: Watcher | None,
    progress: Progress,
) -> tuple[Boot, ...]:
    from vmpack.verify.boot import boot_once

    done: list[Boot] = []
    beating = asyncio.create_task(beat(progress))
    try:
        for number in range(1, count + 1):
            progress.stage(f"boot {number}", None)

            def reached(milestone: Reached, number: int = number) -> None:
                progress.stage(f"boot {number}: {milestone.name}", None)
                if on_reached is not None:
                    on_reached(number, milestone)

            done.append(await boot_once(bundle, options, qemu=qemu, on_reached=reached))
            if not done[-1].good:
                break
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    return tuple(done)


def _make_folder(folder: PathLike) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as exc:
        raise from_os_error(exc, path=os.fspath(folder), writing=True) from exc


def _write_report(folder: Path, result: VerifyResult) -> tuple[str, ...]:
    import json

    from vmpack.copy import write_all
    from vmpack.formats.base import Job
    from vmpack.output import Output
    from vmpack.runner.sanitize import Sanitizer

    files: dict[str, bytes] = {}
    for number, boot in enumerate(result.boots, 1):
        stem = f"boot-{number}"
        text = Sanitizer(drawing=False).feed(boot.console, last=True)
        files[f"{stem}.console.txt"] = text.encode()
        if boot.ending.stderr:
            files[f"{stem}.qemu.txt"] = boot.ending.stderr.encode() + b"\n"
        if boot.ending.picture:
            files[f"{stem}.png"] = boot.ending.picture
        for check in boot.checks:
            if check.picture:
                files[f"{stem}.{check.name}.png"] = check.picture
    paths = tuple(os.fspath(folder / name) for name in [*files, "report.json"])
    document = {**result.as_dict(), "report": list(paths)}
    files["report.json"] = json.dumps(document, indent=2).encode() + b"\n"
    for path, data in zip(paths, files.values(), strict=True):
        with Output(path, force=True) as out:
            write_all(out.fd, Job(0, data), out.name)
            out.commit()
    return paths
