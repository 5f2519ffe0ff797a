"""``vmpack verify``: whether a bundle does on this host what it is expected to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.console import GREEN, RED
from vmpack.cli.human import table
from vmpack.cli.options import ACCEL, QEMU_ARG, TIMEOUT, Argument, Command, option, whole
from vmpack.cli.run import run_options

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.verify import VerifyResult
    from vmpack.runner.milestones import Reached
    from vmpack.verify.boot import Boot


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Boot it and tell what it did; the exit code is the first bad ending's."""
    from vmpack.ops.verify import verify

    def reached(boot: int, milestone: Reached) -> None:
        # For whoever watches: a boot under emulation takes a while.
        if console.verbose:
            console.stderr.write(
                f"boot {boot}: {milestone.seconds:7.1f} s  {escape(milestone.name)}\n"
            )
            console.stderr.flush()

    with console.reporter() as progress:
        result = verify(
            arguments.bundle,
            options=run_options(arguments),
            boots=arguments.boots,
            report=arguments.report,
            on_reached=reached,
            progress=progress,
        )
    if result.unverified:
        console.warn(f"ran with arguments of QEMU that were added: {' '.join(result.unverified)}")
    console.done(result.as_dict(), _lines(console, result))
    return result.exit_code


def _lines(console: Console, result: VerifyResult) -> Iterator[str]:
    for number, boot in enumerate(result.boots, 1):
        title = f"boot {number}" if len(result.boots) > 1 else "boot"
        yield f"{title}: QEMU {boot.qemu}, {boot.accel} ({escape(boot.accel_reason)})"
        yield from (f"  {line}" for line in _milestones(boot))
        yield from (f"  {line}" for line in _checks(boot))
        ending = boot.ending
        verdict = "as expected" if boot.good else ending.kind
        mark = console.style(verdict, GREEN if boot.good else RED)
        yield f"  {mark}: {ending.message}, {ending.seconds:.1f} s after the start"
        if not boot.good:
            yield from (f"  | {line}" for line in ending.console_tail[-12:])
            yield from (f"  QEMU: {line}" for line in ending.stderr.splitlines()[-5:])
    yield from (f"wrote {escape(path)}" for path in result.report)


def _milestones(boot: Boot) -> Iterator[str]:
    # What was recognised by itself is told where it adds something to what was expected.
    expected = {one.seconds for one in boot.reached}
    others = [one for one in boot.seen if one.seconds not in expected and " " not in one.name]
    timed = [(one.seconds, escape(one.name)) for one in boot.reached]
    timed += [(one.seconds, f"({escape(one.name)})") for one in others]
    rows = [(f"{seconds:.1f} s", name) for seconds, name in sorted(timed)]
    rows += [("never", escape(name)) for name in boot.missing]
    if rows:
        yield from table(("reached", "milestone"), rows, right=("reached",))


def _checks(boot: Boot) -> Iterator[str]:
    rows = [
        (check.verdict, escape(check.name), f"{check.seconds:.1f} s", check.message)
        for check in boot.checks
    ]
    if rows:
        yield from table(("check", "name", "took", "found"), rows, right=("took",))


COMMAND = Command(
    "verify",
    "Boot a bundle here and hold it against what its config expects: milestones on its console,\n"
    "the checks of [[verify.check]], and how it ends. Without expectations it has to come to a\n"
    "login prompt. Nothing that it writes is kept.\n\n"
    "Exit code 0: as expected; 1: it behaves differently; 124: time-out; 125: it cannot run here;\n"
    "126: hung or reset-looped; 255: panicked.",
    (
        Argument("bundle", "the bundle to boot", metavar="BUNDLE"),
        option(
            "--boots",
            name="boots",
            metavar="N",
            convert=whole,
            default=1,
            help="boot it N times (default: 1)",
        ),
        ACCEL,
        TIMEOUT,
        option(
            "--report",
            name="report",
            metavar="DIR",
            help="write each boot's console, picture and what QEMU said into DIR",
        ),
        QEMU_ARG,
    ),
    run,
)
