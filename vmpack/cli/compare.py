"""``vmpack compare``: whether two disks hold the same bytes, as ``qemu-img compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmpack.cli.console import GREEN, RED
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    FORMAT,
    PARENT,
    Argument,
    Command,
    backing,
    option,
)

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.compare import CompareResult


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Compare; 0 the same, 1 different."""
    from vmpack.ops.compare import compare
    from vmpack.tuning import tune_process

    tune_process()
    with console.reporter() as progress:
        result = compare(
            arguments.a,
            arguments.b,
            format_a=arguments.format,
            format_b=arguments.format_b,
            strict=arguments.strict,
            **backing(arguments),
            progress=progress,
        )
    if result.size_a != result.size_b:
        console.warn(f"the sizes differ: {result.size_a} and {result.size_b} bytes")
    console.done(result.as_dict(), [_line(console, result)])
    return 0 if result.identical else 1


def _line(console: Console, result: CompareResult) -> str:
    if result.identical:
        return console.style("identical", GREEN)
    where = "" if result.offset is None else f" from offset {result.offset} on"
    return console.style("different", RED) + where


COMMAND = Command(
    "compare",
    "Compare the content of two disks, whatever their formats. Disks of different sizes are the\n"
    "same if the longer one goes on with zeros, unless --strict is given.\n\n"
    "Exit code 0: the same; 1: they differ; 2 and up: they could not be compared.",
    (
        Argument("a", "an image, a bundle, or a disk of one", metavar="A"),
        Argument("b", "what to compare it with", metavar="B"),
        FORMAT,
        option("-F", name="format_b", metavar="FORMAT", help="the format of B; -f is that of A"),
        option("-s", "--strict", name="strict", help="disks of different sizes differ"),
        ALLOW_BACKING,
        BACKING_DIR,
        PARENT,
    ),
    run,
)
