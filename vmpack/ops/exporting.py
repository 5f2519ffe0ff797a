"""Writes a machine for another hypervisor: its disks, its config, and what else it needs.

All files appear together when everything is written and proven, or none does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack import formats
from vmpack.binary import escape
from vmpack.copy import write_all
from vmpack.errors import OutputError, UnsupportedError, UsageError, from_os_error
from vmpack.formats.base import CreateOptions, ImageReader, Job
from vmpack.hypervisors.base import DiskFile, Machine, Plan, TextFile, WrittenDisk
from vmpack.ops.create import require_options, writable
from vmpack.ops.fitting import fit
from vmpack.ops.lint import lint_machine, require_fit
from vmpack.ops.writing import NewImage
from vmpack.output import Output
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Hypervisor
    from vmpack.ops.lint_codes import LintFinding
    from vmpack.ops.verify_boot import BootProof


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written for a hypervisor."""

    target: str
    folder: str
    disks: tuple[tuple[str, str], ...]
    """``(disk id, path)``; in a container the container's path and the member's name."""
    files: tuple[str, ...]
    """Every other file."""
    report: Mapping[str, object]
    instructions: tuple[str, ...]
    """Commands that import it."""
    sync_seconds: float
    findings: tuple[LintFinding, ...] = ()
    """What lint says of the machine there; nothing that the target cannot hold."""
    proof: BootProof | None = None
    """The boot of what was written, where that was asked for."""

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "target": self.target,
            "folder": self.folder,
            "disks": [{"id": disk_id, "filename": path} for disk_id, path in self.disks],
            "files": list(self.files),
            "report": dict(self.report),
            "findings": [one.as_dict() for one in self.findings],
            "instructions": list(self.instructions),
            "sync-milliseconds": round(self.sync_seconds * 1000),
            **({} if self.proof is None else {"verify-boot": self.proof.as_dict()}),
        }


def export(
    target: Hypervisor,
    machine: Machine,
    readers: Mapping[str, ImageReader],
    folder: str,
    *,
    inputs: Sequence[ByteSource] = (),
    force: bool = False,
    verify: bool = True,
    strict: bool = False,
    lint: bool = True,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write ``machine`` for ``target`` into ``folder``, which is made if it is absent.

    ``readers`` gives each disk's content by id. ``verify`` reads disks back (a container's streams
    are not read back). ``strict`` refuses a machine of which something would be dropped. ``lint``
    looks at the machine first, and refuses one that the target cannot hold.

    Raises :class:`UsageError` for a target that cannot be written, :class:`UnsupportedError` for
    what the target cannot hold, :class:`OutputError` when a file exists or cannot be written.
    """
    if target.plan is None:
        raise UsageError(f"{target.name} is read, not written", hint="choose another target")
    findings = lint_machine(target, machine.config, readers, machine.blobs) if lint else ()
    require_fit(findings, folder)
    plan = target.plan(machine)
    if strict:
        plan.report.require_nothing_dropped(folder)
    job = _Job(target, machine, plan, readers, folder, inputs, force, verify, workers, progress)
    made = make_folder(folder)
    done = False
    try:
        with ExitStack() as stack:
            result = _contained(job, stack) if plan.container else _loose(job, stack)
        done = True
    finally:
        if not done:
            remove_folders(made)
    return replace(result, findings=findings)


@dataclass(frozen=True, slots=True)
class _Job:
    target: Hypervisor
    machine: Machine
    plan: Plan
    readers: Mapping[str, ImageReader]
    folder: str
    inputs: Sequence[ByteSource]
    force: bool
    verify: bool
    workers: int | None
    progress: Progress

    def path(self, name: str) -> str:
        """Where the file ``name`` of the export goes."""
        return os.path.join(self.folder, name)


def _loose(job: _Job, stack: ExitStack) -> ExportResult:
    """Disks and files side by side in the folder."""
    written: dict[str, WrittenDisk] = {}
    outputs: list[Output | NewImage] = []
    texts = [one.name for one in job.plan.render(_unwritten(job.plan))]
    names = [*texts, *(one.name for one in job.plan.disks)]
    _require_names(job, names)
    _require_absent(job, names)
    stack.callback(remove_folders, _make_parents(job, names))
    for file in job.plan.disks:
        disk, notes = fit(
            formats.get(file.format), job.readers[file.disk], _create_options(job, file)
        )
        for note in notes:
            job.plan.report.approximated(f"disk {file.disk}", note)
        new = stack.enter_context(_new_image(job, file, disk.virtual_size))
        outputs.append(new)
        copied = new.copy(
            disk,
            workers=job.workers,
            progress=job.progress,
            label=f"writing {file.disk}",
            verify=job.verify,
        )
        if job.verify:
            new.verify(copied, workers=job.workers, progress=job.progress)
        beside = os.path.dirname(file.name)
        parts = tuple(os.path.join(beside, os.path.basename(path)) for path in new.files)
        written[file.disk] = WrittenDisk(new.size, _digests(job, new), parts)
    files = job.plan.render(written)
    for one in files:
        mode = 0o777 if one.executable else 0o666
        out = stack.enter_context(
            Output(job.path(one.name), force=job.force, inputs=job.inputs, mode=mode)
        )
        write_all(out.fd, Job(0, one.data), out.name)
        outputs.append(out)
    job.progress.stage("syncing", None)
    _commit(outputs)
    return _result(job, {one.disk: one.name for one in job.plan.disks}, files, outputs)


def _commit(outputs: Sequence[Output | NewImage]) -> None:
    """Give all files their names; where one cannot have it, those that were not there go again."""
    fresh: list[str] = []
    try:
        for output in outputs:
            paths = output.files if isinstance(output, NewImage) else [output.path]
            fresh += [path for path in paths if not os.path.lexists(path)]
            output.commit()
    except BaseException:
        for path in fresh:
            with suppress(OSError):
                os.unlink(path)
        raise


def _require_names(job: _Job, names: Sequence[str]) -> None:
    """Every file has a name of its own, inside the folder, on file systems of any case."""
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        if name.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise UnsupportedError(
                f"{job.target.name} would have a file called {escape(name)!r}",
                path=job.folder,
                hint="pack the machine with another --name, and its disks with other ids",
            )
        if name.casefold() in seen:
            raise UnsupportedError(
                f"{job.target.name} would have two files called {escape(name)!r}",
                path=job.folder,
                hint="pack the machine with another --name, or the disk with another id",
            )
        seen.add(name.casefold())


def _make_parents(job: _Job, names: Sequence[str]) -> list[str]:
    """The folders of files below the output's; those that were made."""
    made: list[str] = []
    for name in names:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            made += make_folder(job.path("/".join(parts[:depth])))
    return made


def _result(
    job: _Job,
    names: Mapping[str, str],
    files: Sequence[TextFile],
    outputs: Sequence[Output | NewImage],
) -> ExportResult:
    return ExportResult(
        target=job.target.name,
        folder=job.folder,
        disks=tuple((disk_id, job.path(name)) for disk_id, name in names.items()),
        files=tuple(job.path(one.name) for one in files),
        report=job.plan.report.as_dict(),
        instructions=tuple(job.plan.instructions),
        sync_seconds=sum(out.sync_seconds for out in outputs),
    )


def _unwritten(plan: Plan) -> dict[str, WrittenDisk]:
    """Disks as they are before they are written: sizes and digests that only hold room."""
    digests = {"sha256": "0" * 64, "sha1": "0" * 40}
    return {one.disk: WrittenDisk(0, digests, (one.name,)) for one in plan.disks}


def _require_absent(job: _Job, names: Sequence[str]) -> None:
    if job.force:
        return
    for name in names:
        if os.path.lexists(job.path(name)):
            raise OutputError("exists already", path=job.path(name), hint="--force replaces it")


def _create_options(job: _Job, file: DiskFile) -> CreateOptions:
    target = writable(file.format)
    return CreateOptions(
        virtual_size=job.readers[file.disk].virtual_size,
        values=dict(require_options(target, file.options)),
        compressed=file.compressed,
    )


def _new_image(job: _Job, file: DiskFile, size: int) -> NewImage:
    return NewImage(
        formats.get(file.format),
        job.path(file.name),
        replace(_create_options(job, file), virtual_size=size),
        force=job.force,
        inputs=job.inputs,
    )


def _digests(job: _Job, new: NewImage) -> dict[str, str]:
    import hashlib

    found = {name: hashlib.new(name) for name in job.plan.digests}
    if found:
        size, position = os.fstat(new.out.fd).st_size, 0
        while position < size:
            piece = os.pread(new.out.fd, 4 << 20, position)
            for one in found.values():
                one.update(piece)
            position += len(piece)
    return {name: one.hexdigest() for name, one in found.items()}


def _contained(job: _Job, stack: ExitStack) -> ExportResult:
    """One archive that holds everything."""
    from vmpack.ops.archive import write_gzipped, write_tar

    plan = job.plan
    path = job.path(plan.container_name)
    _require_names(job, [plan.container_name])
    _require_names(job, plan.order)
    _require_absent(job, [plan.container_name])
    out = stack.enter_context(Output(path, force=job.force, inputs=job.inputs))
    write: Callable[..., Sequence[TextFile]] = (
        write_tar if plan.container == "tar" else write_gzipped
    )
    write(
        out,
        plan,
        {file.disk: _create_options(job, file) for file in plan.disks},
        job.readers,
        _unwritten(plan),
        workers=job.workers,
        progress=job.progress,
    )
    job.progress.stage("syncing", None)
    _commit([out])
    return ExportResult(
        target=job.target.name,
        folder=job.folder,
        disks=tuple((one.disk, f"{path}:{one.name}") for one in plan.disks),
        files=(path,),
        report=plan.report.as_dict(),
        instructions=tuple(plan.instructions),
        sync_seconds=out.sync_seconds,
    )


def make_folder(folder: str) -> list[str]:
    """Create ``folder`` if it is absent; the folders that were created."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise OutputError("is not a folder", path=folder, hint="name a folder") from None
        return []
    except OSError as exc:
        raise from_os_error(exc, path=folder, writing=True) from exc
    return [folder]


def remove_folders(folders: Sequence[str]) -> None:
    """Remove what :func:`make_folder` made, and folders in it, as far as they are empty."""
    for folder in folders:
        for root, _, _ in os.walk(folder, topdown=False):
            try:
                os.rmdir(root)
            except OSError:
                # Something is in it that this run did not write.
                continue
