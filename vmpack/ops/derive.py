"""A new bundle of a changed machine: ``run --save`` and ``pack --state``.

Changed clusters alone are compressed; everything else is copied as it is stored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from vmpack.bundle.derived import DerivedDisk
from vmpack.bundle.manifest import NVRAM, TPM_STATE
from vmpack.bundle.reader import Bundle
from vmpack.bundle.writer import BundleWriter
from vmpack.errors import DamagedError, OperationError
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.writer import DEFAULT_LEVEL
from vmpack.ops.pack import PackResult, describe
from vmpack.output import Output
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource


def derive(
    bundle: Bundle,
    output: str | os.PathLike[str],
    *,
    overlays: Mapping[str, ByteSource] | None = None,
    nvram: bytes | None = None,
    tpm_state: bytes | None = None,
    behaviour: Mapping[str, object] | None = None,
    blobs: Mapping[str, bytes | None] | None = None,
    like: os.stat_result | None = None,
    level: int = DEFAULT_LEVEL,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> PackResult:
    """Write the machine of ``bundle`` with what a run changed as a new bundle to ``output``.

    ``overlays`` are the qcow2 overlays of its disks, by disk id, without a backing file's name in
    them; each is closed in the end. ``nvram`` and ``tpm_state`` replace the bundle's own where
    given, ``behaviour`` its behaviour record; ``blobs`` are others to add, or to leave out where
    ``None``. The config stays; ``machine-id`` follows the content. A regular file gets the
    permissions and owner of ``like``.

    Raises :class:`DamagedError` when the bundle's stored bytes are not sound (they are all checked
    first, as they are copied undecoded), :class:`OutputError` when the output cannot be written,
    :class:`OperationError` when a machine that should have stayed the same did not; on any error
    nothing is written.
    """
    from vmpack.formats.qcow2.reader import Qcow2Reader

    with ExitStack() as stack:
        readers: dict[str, Qcow2Reader] = {}
        for disk_id, source in (overlays or {}).items():
            readers[disk_id] = Qcow2Reader(source, OpenOptions())
            stack.callback(readers[disk_id].close)
        for finding in bundle.check(workers=workers, progress=progress):
            raise DamagedError(
                finding.message,
                path=bundle.path,
                offset=finding.offset,
                clause=finding.clause,
                hint="vmpack check says what is damaged",
            )
        inputs = list((overlays or {}).values())
        if not stat.S_ISREG(os.fstat(bundle.source.fd).st_mode):
            # A file is replaced by its successor in one step; a device would be overwritten.
            inputs.append(bundle.source)
        out = stack.enter_context(Output(output, force=force, inputs=inputs, mode=0o444))
        plan = [(disk.id, disk.cluster_size) for disk in bundle.disks]
        spool_dir = os.path.dirname(out.path) if out.device_size is None else None
        writer = stack.enter_context(
            BundleWriter(out, plan, level=level, workers=workers, spool_dir=spool_dir)
        )
        for disk in bundle.disks:
            reader = DerivedDisk(bundle, disk.id, readers.get(disk.id))
            writer.add_disk(reader, progress=progress, label=f"saving {disk.id}")
        changes = {NVRAM: nvram, TPM_STATE: tpm_state}
        changes = {name: data for name, data in changes.items() if data is not None}
        for name, data in _blobs(bundle, {**changes, **(blobs or {})}).items():
            writer.add_blob(name, data)
        config = bundle.config
        manifest = writer.finish(
            config.to_json_dict(),
            config.observable(),
            {**bundle.manifest.provenance, "parent": bundle.id},
            behaviour=bundle.manifest.behaviour if behaviour is None else behaviour,
        )
        if not overlays and not changes and manifest.machine_id != bundle.machine_id:
            raise OperationError(
                "the new bundle would be another machine",
                path=os.fspath(output),
                hint="vmpack check --full says whether the bundle is sound",
            )
        if like is not None and out.device_size is None:
            _make_like(out, like)
        progress.stage("syncing", None)
        out.commit()
        return describe(os.fspath(output), manifest, out.sync_seconds)


def _blobs(bundle: Bundle, changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """The bundle's blobs in their order, with the machine's state as it is now."""
    names = [blob.name for blob in bundle.manifest.blobs]
    found = {name: None if name in changes else bundle.blob(name) for name in names}
    return {name: data for name, data in {**found, **changes}.items() if data is not None}


def _make_like(out: Output, other: os.stat_result) -> None:
    """Give a file that has no name yet the owner and permissions of another one."""
    own = os.fstat(out.fd)
    if (own.st_uid, own.st_gid) != (other.st_uid, other.st_gid):
        # Only root can give a file away; the permissions count without it, too.
        with suppress(PermissionError):
            os.fchown(out.fd, other.st_uid, other.st_gid)
    # After the owner: a change of that takes set-id bits away.
    os.fchmod(out.fd, stat.S_IMODE(other.st_mode))


def pack_state(
    bundle: str | os.PathLike[str],
    state_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    level: int = DEFAULT_LEVEL,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> PackResult:
    """``pack BUNDLE --state DIR``: the machine as the runs in ``state_dir`` left it, a new bundle.

    Raises what :func:`derive` raises, and :class:`RefusedError` when the folder is another
    bundle's or in use.
    """
    from vmpack.runner.state import State

    with Bundle.open(bundle) as opened, State(state_dir, opened, create=False) as state:
        return derive(
            opened,
            output,
            overlays=state.overlays(),
            nvram=state.nvram_bytes(),
            tpm_state=state.tpm_bytes(),
            level=level,
            workers=workers,
            force=force,
            progress=progress,
        )
