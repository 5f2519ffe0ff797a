"""``vmpack measure``: how large an output would be, as ``qemu-img measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.cli.human import exact_size, fields
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    FORMAT,
    FORMAT_OPTION,
    OUTPUT_FORMAT,
    PARENT,
    Argument,
    Command,
    backing,
    format_options,
    option,
    size,
)
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Print the sizes."""
    if (arguments.path is None) == (arguments.size is None):
        raise UsageError(
            "measure takes a PATH or --size, one of the two",
            field="PATH",
            hint="see 'vmpack measure --help'",
        )
    if arguments.output_format is None:
        raise UsageError("no format is named", field="-O", hint="add -O qcow2 or -O raw")
    options = format_options(arguments.options)
    from vmpack.ops.measure import measure

    target = arguments.size if arguments.path is None else arguments.path
    with console.reporter() as progress:
        document = measure(
            target,
            arguments.output_format,
            options,
            format=arguments.format,
            **backing(arguments),
            progress=progress,
        )
    rows = [(name.replace("-", " "), exact_size(value)) for name, value in document.items()]
    console.result(document, fields(rows))


COMMAND = Command(
    "measure",
    "Show how many bytes a conversion of PATH, or of an empty disk of a SIZE, would need.",
    (
        Argument("path", "an image, a bundle, or a disk of one", metavar="PATH", optional=True),
        FORMAT,
        OUTPUT_FORMAT,
        FORMAT_OPTION,
        option(
            "--size",
            name="size",
            metavar="SIZE",
            convert=size,
            help="measure an empty disk of SIZE in place of a PATH",
        ),
        ALLOW_BACKING,
        BACKING_DIR,
        PARENT,
    ),
    run,
)
