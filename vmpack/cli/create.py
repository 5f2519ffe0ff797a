"""``vmpack create``: an empty image, as ``qemu-img create``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.human import exact_size
from vmpack.cli.options import (
    FORCE,
    FORMAT_OPTION,
    OUTPUT_FORMAT,
    Argument,
    Command,
    format_options,
    size,
)
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Create the image."""
    if arguments.output_format is None:
        raise UsageError("no format is named", field="-O", hint="add -O qcow2 or -O raw")
    options = format_options(arguments.options)
    from vmpack.ops.create import create

    result = create(
        arguments.path,
        arguments.size,
        arguments.output_format,
        options=options,
        force=arguments.force,
    )
    line = f"created {escape(result.filename)}, {result.format}"
    console.done(result.as_dict(), [f"{line}, {exact_size(result.virtual_size)}"])


COMMAND = Command(
    "create",
    "Create an empty disk image.",
    (
        Argument("path", "the image to write", metavar="PATH"),
        Argument("size", "virtual size: 10G, 512M, 4096", metavar="SIZE", convert=size),
        OUTPUT_FORMAT,
        FORMAT_OPTION,
        FORCE,
    ),
    run,
)
