"""``vmpack unpack``: a bundle becomes a folder of disk images, a config and files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.bundle.manifest import Disk
from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError, OutputError, from_os_error
from vmpack.machine.plain import toml_text
from vmpack.ops.bundle_disk import BundleDisk
from vmpack.ops.create import writable
from vmpack.ops.writing import NewImage
from vmpack.output import Output
from vmpack.progress import SILENT, Progress

if TYPE_CHECKING:
    from vmpack.formats.base import Format

PathLike = str | os.PathLike[str]
CONFIG_NAME = "vm.toml"
BLOB_FOLDER = "blobs"


@dataclass(frozen=True, slots=True)
class UnpackResult:
    """What was written, in the order of the bundle."""

    folder: str
    disks: tuple[tuple[str, str], ...]
    """``(disk id, path)``."""
    files: tuple[str, ...]
    """The config and the blobs."""
    sync_seconds: float

    def as_dict(self) -> dict[str, object]:
        """The JSON document of ``vmpack unpack``."""
        return {
            "folder": self.folder,
            "disks": [{"id": disk_id, "filename": path} for disk_id, path in self.disks],
            "files": list(self.files),
            "sync-milliseconds": round(self.sync_seconds * 1000),
        }


def unpack(
    bundle: PathLike,
    out_dir: PathLike,
    *,
    to: str = "qcow2",
    force: bool = False,
    verify: bool = True,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> UnpackResult:
    """Write the disks of ``bundle`` as ``ID.raw``, ``ID.qcow2``..., ``vm.toml`` and its blobs.

    ``to`` is any format that can be written. Raw disks have the source's exact bytes and size,
    holes as holes; qcow2 disks get the bundle's frames as they are. ``verify`` checks content
    digests (qcow2: stored digests), and reads images of other formats back. Files appear under
    their names when all of them are complete.

    Raises :class:`DamagedError` when the bundle is not sound, :class:`OutputError` when a file
    exists and ``force`` is not set or cannot be written; on any error no file is left.
    """
    target = writable(to)
    folder = os.fspath(out_dir)
    with Bundle.open(bundle) as opened, ExitStack() as stack:
        config = toml_text(opened.manifest.config).encode()
        if not force:
            _require_absent(opened, folder, target.suffixes[0])
        made = _make_folder(folder)
        done = False
        outputs: list[Output | NewImage] = []
        try:

            def output(name: str) -> Output:
                path = os.path.join(folder, name)
                out = stack.enter_context(Output(path, force=force, inputs=[opened.source]))
                outputs.append(out)
                return out

            for disk in opened.disks:
                name = f"{disk.id}{target.suffixes[0]}"
                if target.name in _DIRECT:
                    write = _DIRECT[target.name]
                    write(opened, disk, output(name), verify, workers, progress)
                else:
                    new = _new_image(opened, disk, target, os.path.join(folder, name), force)
                    outputs.append(stack.enter_context(new))
                    _write_image(opened, disk, new, verify, workers, progress)
            files = {CONFIG_NAME: config}
            for blob in opened.manifest.blobs:
                files[os.path.join(BLOB_FOLDER, blob.name)] = opened.blob(blob.name)
            if opened.manifest.blobs:
                made = [*_make_folder(os.path.join(folder, BLOB_FOLDER)), *made]
            for name, data in files.items():
                _write_file(output(name), data)
            progress.stage("syncing", None)
            for out in outputs:
                out.commit()
            done = True
        finally:
            if not done:
                _remove_folders(made)
        return UnpackResult(
            folder=folder,
            disks=tuple(
                (disk.id, os.path.join(folder, f"{disk.id}{target.suffixes[0]}"))
                for disk in opened.disks
            ),
            files=tuple(os.path.join(folder, name) for name in files),
            sync_seconds=sum(out.sync_seconds for out in outputs),
        )


def _require_absent(bundle: Bundle, folder: str, suffix: str) -> None:
    """No file of the result exists: said before the first disk is written, not after the last."""
    names = [f"{disk.id}{suffix}" for disk in bundle.disks]
    names += [os.path.join(BLOB_FOLDER, blob.name) for blob in bundle.manifest.blobs]
    for name in (*names, CONFIG_NAME):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            raise OutputError("exists already", path=path, hint="--force replaces it")


def _make_folder(folder: str) -> list[str]:
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


def _remove_folders(folders: list[str]) -> None:
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            # Something is in it that this run did not write, or a file that was complete already.
            return


def _write_raw(
    bundle: Bundle, disk: Disk, out: Output, verify: bool, workers: int | None, progress: Progress
) -> None:
    from vmpack.copy import copy_image, writing
    from vmpack.formats.raw import RawWriter

    result = copy_image(
        bundle.disk(disk.id),
        writing(out.name, RawWriter, out.fd, disk.exact_size),
        out.fd,
        path=out.name,
        workers=workers,
        progress=progress,
        label=f"unpacking {disk.id}",
        digest=verify,
    )
    if verify:
        _require_content(bundle, disk, result.content_digest)


def _require_content(bundle: Bundle, disk: Disk, found: str | None) -> None:
    if found != disk.content_digest:
        raise DamagedError(
            f"disk {disk.id} has content digest {found}, the manifest says {disk.content_digest}",
            path=bundle.path,
            clause="VMP-ID-3",
            hint="vmpack check --full says what is damaged",
        )


def _write_qcow2(
    bundle: Bundle, disk: Disk, out: Output, verify: bool, workers: int | None, progress: Progress
) -> None:
    from vmpack.bundle.passthrough import copy_disk

    copy_disk(
        bundle, disk.id, out.fd, path=out.name, verify=verify, workers=workers, progress=progress
    )


def _new_image(bundle: Bundle, disk: Disk, target: Format, path: str, force: bool) -> NewImage:
    from vmpack.formats.base import CreateOptions

    options = CreateOptions(virtual_size=disk.exact_size)
    return NewImage(target, path, options, force=force, inputs=[bundle.source])


def _write_image(
    bundle: Bundle, disk: Disk, new: NewImage, verify: bool, workers: int | None, progress: Progress
) -> None:
    copied = new.copy(
        BundleDisk(bundle.disk(disk.id), None, disk.exact_size),
        workers=workers,
        progress=progress,
        label=f"unpacking {disk.id}",
        verify=verify,
        digest=verify,
    )
    if verify:
        _require_content(bundle, disk, copied.content_digest)
        new.verify(copied, workers=workers, progress=progress)


_DIRECT = {"raw": _write_raw, "qcow2": _write_qcow2}
"""Formats with a way of their own out of a bundle."""


def _write_file(out: Output, data: bytes) -> None:
    from vmpack.copy import write_all
    from vmpack.formats.base import Job

    write_all(out.fd, Job(0, data), out.name)
