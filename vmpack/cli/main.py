"""The root of the command line: which commands there are, and one run from argv to exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

from vmpack.cli import errors
from vmpack.cli.console import Common, Console
from vmpack.cli.options import COMMON, Argument, Command, option
from vmpack.cli.parser import did_you_mean, parse, parse_root
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType, SimpleNamespace

ABOUT = "A VM in one file: pack it, move it, open it anywhere, get it back the same."

COMMANDS = {
    "pack": "pack a machine's disks into one file that stock QEMU opens",
    "unpack": "unpack a bundle into disk images and files",
    "run": "run a bundle's machine straight from the file",
    "verify": "boot a bundle and see whether it does what it should",
    "info": "show what an image or a bundle is",
    "check": "check the integrity of a bundle or an image",
    "compare": "compare the content of two disks, whatever their formats",
    "lint": "find what stands in a machine's way at a target",
    "convert": "convert a disk image into another format",
    "map": "show which ranges of a disk hold data",
    "measure": "show how many bytes a conversion would need",
    "create": "create an empty disk image",
    "doctor": "show what this host can run bundles with, and whether one runs here",
}
"""In the order of ``--help``; each is the module of that name in this package."""

VERSION = option("--version", name="version", help="show the version and exit")
ROOT_OPTIONS: tuple[Argument, ...] = (
    VERSION,
    option(
        "--show-completion",
        name="show_completion",
        help="print the completion script of this shell, or of the SHELL that is named",
    ),
    option(
        "--install-completion",
        name="install_completion",
        help="install completion for this user in this shell, or in the SHELL that is named",
    ),
    *COMMON,
)
COMPLETING = "_VMPACK_COMPLETE"
"""Set in the environment when a shell asks what could come next."""


def load(name: str) -> Command:
    """The command of that name. Only its own module is imported."""
    command: Command = import_module(f"vmpack.cli.{name}").COMMAND
    return command


def run(argv: Sequence[str]) -> int:
    """Parse ``argv`` (without the program's name), carry it out, report; the exit code."""
    name = next((word for word in argv if word in COMMANDS), None)
    return guarded(lambda: _dispatch(argv), Console(guess(argv)), name)


def guarded(work: Callable[[], int], console: Console, command: str | None) -> int:
    """Do ``work``; whatever goes wrong in it is reported on ``console``. The exit code."""
    try:
        with _Signals():
            code = work()
            sys.stdout.flush()
            return code
    except (Exception, KeyboardInterrupt) as exc:
        return errors.report(exc, console, command)


def understand(argv: Sequence[str]) -> tuple[Command | None, SimpleNamespace, list[str]]:
    """The command, its values, and the words that follow; raises :class:`UsageError`.

    No command is ``None``: the values are then those of :data:`ROOT_OPTIONS`. The common options
    of the command have what was said before its name, where it is silent.
    """
    root, rest = parse_root(ROOT_OPTIONS, argv)
    about = root.help or root.version or root.show_completion or root.install_completion
    if about:
        return None, root, rest
    if not rest:
        raise UsageError("no command is given", hint="see 'vmpack --help'")
    name, *words = rest
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "see 'vmpack --help'"
        raise UsageError(f"no such command: {name}", hint=hint)
    command = load(name)
    values = parse(command, words)
    if not values.help:
        inherit(values, root)
    return command, values, words


def inherit(values: SimpleNamespace, outer: SimpleNamespace) -> None:
    """Give a command's common options what was said before its name, where they are silent."""
    for each in COMMON:
        setattr(values, each.name, getattr(values, each.name) or getattr(outer, each.name))


def execute(command: Command, values: SimpleNamespace) -> int:
    """Run a command with its values; the exit code. Errors are raised."""
    return command.run(Console(common_of(values)), values) or 0


def common_of(values: SimpleNamespace) -> Common:
    """The common options among ``values``."""
    return Common(values.output, values.progress, values.quiet, values.verbose)


def show_version(values: SimpleNamespace) -> int:
    """``--version``."""
    from vmpack import __version__

    Console(common_of(values)).result({"version": __version__}, [f"vmpack {__version__}"])
    return 0


def _dispatch(argv: Sequence[str]) -> int:
    """What a script asks for is done here; what a person looks at is shown by typer."""
    if COMPLETING in os.environ:
        return _typer(argv)
    command, values, rest = understand(argv)
    if command is None:
        if values.version:
            return show_version(values)
        if values.show_completion or values.install_completion:
            way = "--show-completion" if values.show_completion else "--install-completion"
            return _typer([way], shell=rest[0] if rest else None)
        return _typer(["--help"])
    if values.help:
        return _typer([command.name, "--help"])
    return execute(command, values)


def _typer(words: Sequence[str], shell: str | None = None) -> int:
    from vmpack.cli.typer_app import respond

    return respond(words, shell)


def guess(argv: Sequence[str]) -> Common:
    """The common options of a line that may not parse: errors come in the form asked for."""
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    said = [b for a, b in pairwise(["", *words]) if a == "--output" or b.startswith("--output=")]
    form = said[-1].removeprefix("--output=") if said else None
    return Common(output=form, verbose="--verbose" in words or "-v" in words)


class _Signals:
    """While entered, SIGTERM and SIGHUP end the operation as Ctrl-C does, temporary files too."""

    def __enter__(self) -> None:
        # A signal that the parent had ignored (nohup) stays ignored; a thread cannot set any.
        wanted = (signal.SIGTERM, signal.SIGHUP)
        kept = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
        self._previous = {}
        with suppress(ValueError):
            self._previous = {number: signal.signal(number, _interrupt) for number in kept}

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
