"""``vmpack verify``: whether a bundle does what it is expected to do, and behaves as recorded."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.bundle import Bundle
from vmpack.errors import UsageError, from_os_error
from vmpack.ops.running import complete, require_bundle
from vmpack.ops.verify_host import HERE, Task, Watcher, verify_here
from vmpack.ops.verify_request import Request
from vmpack.progress import SILENT, Progress
from vmpack.runner.options import RunOptions
from vmpack.verify.result import HostResult, RecordSource, VerifyResult

if TYPE_CHECKING:
    from vmpack.runner.milestones import Reached
    from vmpack.runner.options import Qemu
    from vmpack.verify.replay import Replay

__all__ = ["PathLike", "verify"]

PathLike = str | os.PathLike[str]

RECORDED = "recorded"
"""In place of a host's name: what the bundle's own record says."""

OTHER_MACHINE = (
    "the record is of another machine (its machine-id differs): what differs may be the machine"
)


def verify(
    bundle: PathLike,
    request: Request | None = None,
    *,
    options: RunOptions | None = None,
    boots: int | None = None,
    report: PathLike | None = None,
    qemu: Qemu | None = None,
    on_reached: Watcher | None = None,
    progress: Progress = SILENT,
) -> VerifyResult:
    """Boot ``bundle`` as ``request`` says, and hold each boot against what is expected of it.

    That is its config's ``[expected]`` and ``[[verify.check]]``, and the behaviour record, where
    there is one. Nothing that a boot writes is kept. A boot that is not as expected is a result,
    and the last one; so is a host that cannot run it. With ``request.record`` what the boots had in
    common becomes the bundle's record, unless they disagree in what a host promises to repeat.
    ``boots`` and ``report`` are those of the request, for short; ``qemu`` is another one than this
    host's first. ``options`` may not name a folder for state.

    Raises :class:`UsageError` for a request that contradicts itself, what opening the bundle or the
    other record raises, :class:`OutputError` when a record or report cannot be written.
    """
    options = options or RunOptions()
    request = request or Request()
    if boots is not None:
        request = replace(request, boots=boots)
    if report is not None:
        request = replace(request, report=report)
    request.check(options)
    _make_places(request)
    require_bundle(bundle)
    with Bundle.open(bundle) as opened:
        work = _Work(opened, bundle, request, options, qemu, on_reached, progress)
        result = work.done()
    if request.report is None and request.junit is None:
        return result
    from vmpack.ops.verify_report import write_reports

    return write_reports(request, result)


class _Work:
    """One verification, from the open bundle to its result."""

    def __init__(
        self,
        bundle: Bundle,
        path: PathLike,
        request: Request,
        options: RunOptions,
        qemu: Qemu | None,
        on_reached: Watcher | None,
        progress: Progress,
    ):
        self.bundle = bundle
        self.path = path
        self.request = request
        self.options = options
        self.qemu = qemu
        self.on_reached = on_reached
        self.progress = progress
        self.source: RecordSource | None = None
        self.notes: list[str] = []

    def done(self) -> VerifyResult:
        """Carry it out."""
        request = self.request
        if not request.record and not request.preflight:
            from vmpack.ops.verify_record import expected_of

            self.source = expected_of(self.bundle, request.against)
            if self.source is not None and not self.source.same_machine:
                self.notes.append(OTHER_MACHINE)
        if request.record:
            from vmpack.ops.verify_record import require_place

            require_place(self.bundle, self.path, request)
        hosts = (self._compared(),) if request.no_boot else self._hosts()
        result = VerifyResult(
            filename=os.fspath(self.path),
            id=self.bundle.id,
            machine_id=self.bundle.machine_id,
            name=self.bundle.name,
            hosts=hosts,
            record=self.source,
            unverified=self.options.qemu_args,
            notes=tuple(self.notes),
        )
        return self._recorded(result) if request.record and result.exit_code == 0 else result

    def _compared(self) -> HostResult:
        """Two records; nothing is booted."""
        from vmpack.ops.verify_record import require_own
        from vmpack.verify.compare import compare

        own = require_own(self.bundle, self.path).observation
        assert self.source is not None
        facts = {"qemu": own.host.qemu, "accel": own.host.accel, "accel-reason": None}
        return HostResult(
            RECORDED,
            comparison=compare(self.source.record.observation, own),
            facts={**facts, "firmware": own.host.firmware},
        )

    def _hosts(self) -> tuple[HostResult, ...]:
        request = self.request
        if request.exact:
            from vmpack.verify.exact import require_recordable

            # Said before the boots that would be made for nothing.
            require_recordable(self.bundle.config, self.options)
        task = Task(
            options=self.options,
            boots=request.boot_count,
            expected=None if self.source is None else self.source.record,
            preflight=request.preflight,
            replay=self._replay() if request.exact and not request.record else None,
        )
        if request.as_target is not None:
            from vmpack.verify.imitate import imitate

            config, notes = imitate(self.bundle.config, request.as_target)
            changed = (f"--as {request.as_target}",)
            task = replace(task, config=config, notes=tuple(notes), changed=changed)
        if request.on:
            return self._named_hosts(task)
        return (complete(self._here(task, HERE, self.qemu)),)

    def _replay(self) -> Replay:
        replay = None if self.source is None else self.source.record.replay
        if replay is None:
            raise UsageError(
                "holds no deterministic boot to replay",
                path=os.fspath(self.path),
                field="--exact",
                hint="make one with: vmpack verify --record --exact",
            )
        return replay

    async def _here(self, task: Task, name: str, qemu: Qemu | None) -> HostResult:
        return await verify_here(
            self.bundle,
            task,
            name=name,
            qemu=qemu,
            on_reached=self.on_reached,
            progress=self.progress,
        )

    def _named_hosts(self, task: Task) -> tuple[HostResult, ...]:
        from vmpack.ops.verify_hosts import verify_on
        from vmpack.verify.hosts import find_hosts

        hosts = find_hosts(self.request.on, self.request.hosts)
        if self.request.exact and any(host.ssh is not None for host in hosts):
            hint = "run vmpack there: a log is replayed where the bundle is"
            raise UsageError("does not go with a host behind ssh", field="--exact", hint=hint)

        def reached(host: str, boot: int, milestone: Reached) -> None:
            if self.on_reached is not None:
                self.on_reached(boot, replace(milestone, name=f"{host}: {milestone.name}"))

        work = verify_on(
            hosts,
            self.bundle,
            task,
            as_target=self.request.as_target,
            on_reached=reached,
            progress=self.progress,
        )
        return complete(work)

    def _recorded(self, result: VerifyResult) -> VerifyResult:
        """Store what the boots had in common, or say why it cannot be a record."""
        from vmpack.ops.verify_record import disagreement, record_of, store, write_record

        host = result.hosts[0]
        record = record_of(self.bundle, host.boots)
        unstable = {name: tuple(keys) for name, keys in record.observation.unstable.items()}
        comparison, bad = disagreement(host.boots, unstable)
        if bad:
            host = replace(host, comparison=comparison, unstable=bad)
            return replace(result, hosts=(host,), unstable=unstable)
        if self.request.exact:
            record = replace(record, replay=self._deterministic())
        warnings: tuple[str, ...] = ()
        if self.request.record_to is not None:
            where = write_record(record, self.request.record_to, force=self.request.force)
        else:
            where, warnings = store(self.bundle, self.path, record, progress=self.progress)
        notes = (*result.notes, *warnings)
        return replace(result, recorded=where, unstable=unstable, notes=notes)

    def _deterministic(self) -> Replay:
        """One more boot, which QEMU records so that it can be replayed."""
        from vmpack.verify.exact import record_exact
        from vmpack.verify.hosts import find_hosts

        qemu, options = self.qemu, self.options
        if self.request.on:
            (host,) = find_hosts(self.request.on, self.request.hosts)
            qemu, options = host.find_qemu(), host.options(options)
        self.progress.stage("a deterministic boot", None)
        return complete(record_exact(self.bundle, options, qemu))


def _make_places(request: Request) -> None:
    """Make the reports' folders, before boots that take long are made for nothing."""
    from vmpack.output import Output

    above = None if request.junit is None else os.path.dirname(request.junit) or None
    for folder in (request.report, above):
        try:
            if folder is not None:
                os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise from_os_error(exc, path=os.fspath(folder or ""), writing=True) from exc
    if request.junit is not None:
        with Output(request.junit, force=True):
            pass
