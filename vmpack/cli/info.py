"""``vmpack info``: what an image, a bundle or a machine's config is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    DIGEST,
    FORMAT,
    PARENT,
    PATH,
    Command,
    backing,
)

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console


MOST = 4 << 20
"""Characters of JSON about one file, whatever it claims: each name in it is the file's own."""


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Print the facts."""
    from vmpack.ops.info import info

    options = {"format": arguments.format, **backing(arguments)}
    if arguments.digest:
        with console.reporter() as progress:
            result = info(arguments.path, digest=True, **options, progress=progress)
    else:
        result = info(arguments.path, **options)
    document = result.as_dict()
    if console.json:
        console.result(document, (), most=MOST, path=arguments.path)
        return
    from vmpack.cli.describe import describe

    console.result(document, describe(document, console))


COMMAND = Command(
    "info",
    "Show what an image, a bundle or another hypervisor's machine is. Nothing but the file itself\n"
    "is opened, and no guest data is read, unless asked for.",
    (
        PATH,
        FORMAT,
        DIGEST,
        ALLOW_BACKING,
        BACKING_DIR,
        PARENT,
    ),
    run,
)
