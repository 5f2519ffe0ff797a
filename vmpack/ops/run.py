"""``vmpack run``: a bundle's machine runs here, straight from its file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack.bundle import Bundle
from vmpack.errors import InfrastructureError
from vmpack.ops.running import beat, complete, require_bundle
from vmpack.progress import SILENT, Progress
from vmpack.runner.options import Ending, Qemu, RunOptions

if TYPE_CHECKING:
    from vmpack.ops.guest_files import Copy
    from vmpack.ops.pack import PackResult
    from vmpack.runner.agent import ExecResult
    from vmpack.runner.scratch import Storage
    from vmpack.runner.session import Session
    from vmpack.runner.state import Kept, State

PathLike = str | os.PathLike[str]
Companion = Callable[["Session"], Awaitable[None]]
"""Runs beside the machine, until it ends: a keyboard, a person's signals."""

AGENT_S = 600.0
"""Seconds from the first instruction until the guest agent answers."""

SHUTDOWN_S = 120.0
"""Seconds for a guest to shut down once its work is done, where its state is kept."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the run went."""

    filename: str
    id: str
    machine_id: str
    name: str | None
    ending: Ending
    exec: ExecResult | None
    """The command that was run in the guest."""
    copied: tuple[tuple[str, int], ...]
    """Files that came out of the guest, with their sizes."""
    saved: PackResult | None
    qemu: str
    accel: str
    accel_reason: str
    unverified: tuple[str, ...]
    """Arguments of QEMU that the user added."""

    @property
    def exit_code(self) -> int:
        """The command's own, where one was run to its end; otherwise the ending's."""
        return self.ending.exit_code if self.exec is None else self.exec.exit_code

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "filename": self.filename,
            "id": self.id,
            "machine-id": self.machine_id,
            "name": self.name,
            "kind": self.ending.kind,
            "exit-code": self.exit_code,
            "ending": self.ending.as_dict(),
            "exec": None if self.exec is None else _exec_dict(self.exec),
            "copied": [{"filename": path, "size": size} for path, size in self.copied],
            "saved": None if self.saved is None else self.saved.as_dict(),
            "qemu": self.qemu,
            "accel": self.accel,
            "accel-reason": self.accel_reason,
            "unverified": list(self.unverified),
        }


def _exec_dict(result: ExecResult) -> dict[str, object]:
    return {
        "exit-code": result.exit_code,
        "stdout": result.stdout.decode(errors="replace"),
        "stderr": result.stderr.decode(errors="replace"),
        "truncated": result.truncated,
    }


def run(
    bundle: PathLike,
    *,
    options: RunOptions | None = None,
    command: str | None = None,
    copy_in: Sequence[tuple[str, str]] = (),
    copy_out: Sequence[tuple[str, str]] = (),
    save: PathLike | None = None,
    force: bool = False,
    qemu: Qemu | None = None,
    on_console: Callable[[bytes], None] | None = None,
    companion: Companion | None = None,
    progress: Progress = SILENT,
) -> RunResult:
    """Run ``bundle`` until the guest or ``companion`` ends it, or ``options.timeout_s`` is over.

    With ``command`` (a shell command line), ``copy_in`` (pairs of a file here and its path in the
    guest) or ``copy_out`` (pairs of a path in the guest and one here) the guest agent does those,
    in that order: in, command, out; then the machine is ended. What the guest writes is thrown
    away, kept in ``options.state_dir``, or written as a new bundle to ``save``.

    An ending that is not as expected is a result. Raises what opening a bundle raises,
    :class:`InfrastructureError` when this host cannot run it or the agent does not answer,
    :class:`OperationError` when the guest refuses a file or command, :class:`OutputError` when
    ``save`` or a file cannot be written.
    """
    from vmpack.ops.guest_files import plan_copies

    options = options or RunOptions()
    copies_in, copies_out = plan_copies(copy_in, copy_out)
    require_bundle(bundle)
    with Bundle.open(bundle) as opened, ExitStack() as stack:
        if save is not None:
            stack.enter_context(_reserved(save, force))
        storage = stack.enter_context(_storage(opened, options, keep=save is not None))
        work = _Work(command, copies_in, copies_out, force)
        done = complete(_run(opened, options, storage, work, qemu, on_console, companion, progress))
        saved = None
        if save is not None and _may_save(done.ending):
            saved = _save(opened, storage, save, force, progress)
        return RunResult(
            filename=os.fspath(bundle),
            id=opened.id,
            machine_id=opened.machine_id,
            name=opened.name,
            ending=done.ending,
            exec=work.result,
            copied=tuple(work.copied),
            saved=saved,
            qemu=".".join(map(str, done.qemu.version)),
            accel=done.accel,
            accel_reason=done.accel_reason,
            unverified=options.qemu_args,
        )


@dataclass
class _Work:
    """What the guest agent is to do, and what came of it."""

    command: str | None
    copies_in: Sequence[Copy]
    copies_out: Sequence[Copy]
    force: bool

    def __post_init__(self) -> None:
        self.result: ExecResult | None = None
        self.copied: list[tuple[str, int]] = []

    @property
    def any(self) -> bool:
        return self.command is not None or bool(self.copies_in) or bool(self.copies_out)


@dataclass(frozen=True)
class _Done:
    ending: Ending
    qemu: Qemu
    accel: str
    accel_reason: str


async def _run(
    bundle: Bundle,
    options: RunOptions,
    storage: Storage | None,
    work: _Work,
    qemu: Qemu | None,
    on_console: Callable[[bytes], None] | None,
    companion: Companion | None,
    progress: Progress,
) -> _Done:
    from vmpack.runner.session import Session

    async with Session.start(
        bundle, options, on_console=on_console, storage=storage, qemu=qemu
    ) as session:
        beside = asyncio.create_task(_beside(companion, session))
        waiting = asyncio.create_task(_follow(session, work, progress))
        try:
            await asyncio.wait({beside, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if beside.done():
                # A companion that fails (the reader of the output has left) ends the run.
                beside.result()
            ending = await waiting
        finally:
            for task in (beside, waiting):
                task.cancel()
            await asyncio.gather(beside, waiting, return_exceptions=True)
        host = session.host
        return _Done(ending, host.qemu, host.accel, host.accel_reason)


async def _beside(companion: Companion | None, session: Session) -> None:
    if companion is not None:
        await companion(session)
    else:
        await asyncio.Event().wait()


async def _follow(session: Session, work: _Work, progress: Progress) -> Ending:
    """Let the machine run to its end, or do the work and end it then."""
    if not work.any:
        return await session.wait()
    doing = asyncio.create_task(_do(session, work, progress))
    waiting = asyncio.create_task(session.wait())
    beating = asyncio.create_task(beat(progress))
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            # The guest ended under the command: whatever it has done, nobody can tell.
            work.result = None
            return waiting.result()
        doing.result()
    finally:
        for task in (doing, waiting, beating):
            task.cancel()
        await asyncio.gather(doing, waiting, beating, return_exceptions=True)
    return await _finish(session)


async def _do(session: Session, work: _Work, progress: Progress) -> None:
    from vmpack.ops.guest_files import copy_in, copy_out

    agent = session.agent
    if agent is None:
        raise InfrastructureError(
            "the machine has no channel for a guest agent",
            hint="set guest-agent = true in its config, and pack it again",
        )
    progress.stage("waiting for the guest agent", None)
    limit = session.plan.options.timeout_s
    # A time-out is the session's to tell: it knows how much of it the host was busy.
    await agent.ready(AGENT_S if limit is None else limit * 5)
    for copy in work.copies_in:
        await copy_in(agent, copy, progress)
    if work.command is not None:
        progress.stage("running the command", None)
        work.result = await agent.shell(work.command)
    for copy in work.copies_out:
        work.copied.append((copy.here, await copy_out(agent, copy, work.force, progress)))


async def _finish(session: Session) -> Ending:
    """The work is done: shut down properly where the disks are kept, otherwise just stop."""
    if session.plan.durable:
        await session.powerdown()
        ending = await session.wait(None, SHUTDOWN_S)
        if ending.reason == "guest-shutdown":
            # Whatever its config expects of it: this one was asked for.
            message = "the guest shut down, its work done"
            return replace(ending, kind="expected", message=message)
        return ending
    return await session.wait(lambda _console: True)


def _may_save(ending: Ending) -> bool:
    """Only a guest that shut down has written everything, whoever asked it to."""
    return ending.reason == "guest-shutdown"


@contextmanager
def _reserved(save: PathLike, force: bool) -> Iterator[None]:
    """Find out before the run, not after it, that the new bundle cannot be written there."""
    from vmpack.output import Output

    with Output(save, force=force, mode=0o444):
        pass
    yield


@contextmanager
def _storage(bundle: Bundle, options: RunOptions, *, keep: bool) -> Iterator[State | Kept | None]:
    from vmpack.runner.state import Kept, State

    if options.state_dir is not None:
        with State(options.state_dir, bundle) as state:
            yield state
    elif keep:
        with Kept() as kept:
            yield kept
    else:
        yield None


def _save(
    bundle: Bundle, storage: State | Kept | None, save: PathLike, force: bool, progress: Progress
) -> PackResult:
    from vmpack.ops.derive import derive

    assert storage is not None
    return derive(
        bundle,
        save,
        overlays=storage.overlays(),
        nvram=storage.nvram_bytes(),
        tpm_state=storage.tpm_bytes(),
        force=force,
        progress=progress,
    )
