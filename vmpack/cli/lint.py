"""``vmpack lint``: what would stand in a machine's way at a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack import hypervisors
from vmpack.binary import escape
from vmpack.cli.console import GREEN, RED, YELLOW
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    DISK,
    FORMAT,
    PARENT,
    Argument,
    Command,
    backing,
    option,
    pairs,
)
from vmpack.cli.reports import finding_lines

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.lint import LintResult


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Look, and say what was found; 1 where there are errors."""
    from vmpack.ops.lint import lint

    result = lint(
        arguments.path,
        arguments.to,
        disks=pairs(arguments.disks, flag="--disk", what="ID=PATH"),
        format=arguments.format,
        **backing(arguments),
    )
    console.done(result.as_dict(), _lines(console, result))
    return 1 if result.count("error") or (arguments.strict and result.count("warning")) else 0


def _lines(console: Console, result: LintResult) -> Iterator[str]:
    yield from finding_lines(result.findings)
    errors, warnings = result.count("error"), result.count("warning")
    place = f"{escape(result.path)} for {result.target}" if result.target else escape(result.path)
    if errors:
        verdict = console.style(f"{errors} error{'s' * (errors > 1)}", RED)
    elif warnings:
        verdict = console.style(f"{warnings} warning{'s' * (warnings > 1)}", YELLOW)
    else:
        verdict = console.style("nothing stands in its way", GREEN)
    yield f"{place}: {verdict}"


COMMAND = Command(
    "lint",
    "Look for what would stand in a machine's way at a target, before anything is written:\n"
    "limits, devices, firmware, and whether its boot disk could start.\n\n"
    "Exit code 0: no errors (there may be warnings); 1: errors.",
    (
        Argument(
            "path",
            "a bundle, a machine of another hypervisor, or a disk image",
            metavar="PATH",
        ),
        option(
            "--to",
            name="to",
            metavar="TARGET",
            choices=hypervisors.names(),
            help=f"the hypervisor that it is for ({', '.join(hypervisors.names())}); without it"
            " only what holds for all of them is looked at",
        ),
        FORMAT,
        DISK,
        option("--strict", name="strict", help="exit code 1 for warnings, too"),
        ALLOW_BACKING,
        BACKING_DIR,
        PARENT,
    ),
    run,
)
