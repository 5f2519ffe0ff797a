"""``vmpack unpack``: a bundle's disks, config and blobs into a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack import formats
from vmpack.binary import escape
from vmpack.cli.human import fields, seconds
from vmpack.cli.options import FORCE, NO_VERIFY, Argument, Command, option
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.unpack import UnpackResult


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Unpack, and say which files there are now."""
    if arguments.folder is None:
        raise UsageError("no folder to write is named", field="-o", hint="add -o DIR")
    from vmpack.ops.unpack import unpack
    from vmpack.tuning import tune_process

    tune_process()
    begun = time.monotonic()
    with console.reporter() as progress:
        result = unpack(
            arguments.bundle,
            arguments.folder,
            to=arguments.to,
            force=arguments.force,
            verify=not arguments.no_verify,
            progress=progress,
        )
    console.done(result.as_dict(), _lines(result, seconds(time.monotonic() - begun)))


def _lines(result: UnpackResult, took: str) -> Iterator[str]:
    yield f"unpacked into {escape(result.folder)} in {took}"
    config, *blobs = result.files
    rows = [("config", escape(config))]
    rows += [(f"disk {escape(disk_id)}", escape(path)) for disk_id, path in result.disks]
    yield from fields([*rows, *(("file", escape(path)) for path in blobs)], indent=2)


COMMAND = Command(
    "unpack",
    "Unpack a bundle into disk images and files; the content is proved by its digests.",
    (
        Argument("bundle", "the bundle to unpack", metavar="BUNDLE"),
        option("-o", name="folder", metavar="DIR", help="the folder to write (required)"),
        option(
            "--to",
            name="to",
            choices=formats.names(),
            default="qcow2",
            help="the format of the disks (default: qcow2)",
        ),
        NO_VERIFY,
        FORCE,
    ),
    run,
)
