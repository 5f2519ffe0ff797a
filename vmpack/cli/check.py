"""``vmpack check``: whether a file is whole, with ``qemu-img check``'s exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.console import GREEN, RED, YELLOW
from vmpack.cli.options import FORMAT, PATH, Command, option

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.formats.base import Finding
    from vmpack.ops.check import CheckResult


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Check; the exit code as qemu-img's."""
    from vmpack.ops.check import check
    from vmpack.tuning import tune_process

    tune_process()
    with console.reporter() as progress:
        result = check(
            arguments.path, format=arguments.format, full=arguments.full, progress=progress
        )
    console.done(result.as_dict(), _lines(console, arguments.path, result))
    return result.exit_code


def _lines(console: Console, path: str, result: CheckResult) -> Iterator[str]:
    for finding in result.findings:
        yield f"{escape(finding.kind)}: {_where(finding)}{escape(finding.message)}"
    more = result.corruptions + result.leaks - len(result.findings)
    if more > 0:
        yield f"and {more} more"
    verdicts = {
        0: console.style("clean", GREEN),
        2: console.style("damaged", RED),
        3: console.style("leaked clusters, no damage", YELLOW),
        63: f"cannot be checked: {escape((result.unsupported or '').removeprefix(f'{path}: '))}",
    }
    yield f"{escape(path)}: {verdicts[result.exit_code]}"


def _where(finding: Finding) -> str:
    places = []
    if finding.offset is not None:
        places.append(f"offset {finding.offset}")
    if finding.guest_offset is not None:
        places.append(f"guest offset {finding.guest_offset}")
    return ", ".join(places) + ": " if places else ""


COMMAND = Command(
    "check",
    "Check the integrity of a bundle or an image.\n\n"
    "Exit code 0: clean; 1: it could not be checked; 2: damaged; 3: leaked clusters only;\n"
    "63: not supported.",
    (
        PATH,
        FORMAT,
        option("--full", name="full", help="decode everything and prove the content digests"),
    ),
    run,
)
