"""The root of the command line: which commands there are, and one run from argv to exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

from vmpack.cli import errors
from vmpack.cli.console import Common, Console
from vmpack.cli.options import COMMON, Argument, Command, option
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from types import FrameType

ABOUT = "A VM in one file: pack it, move it, open it anywhere, get it back the same."

COMMANDS = {
    "pack": "pack a machine's disks into one file that stock QEMU opens",
    "unpack": "unpack a bundle into disk images and files",
    "info": "show what an image or a bundle is",
    "check": "check the integrity of a bundle or an image",
    "compare": "compare the content of two disks, whatever their formats",
    "convert": "convert a disk image into another format",
    "map": "show which ranges of a disk hold data",
    "measure": "show how many bytes a conversion would need",
    "create": "create an empty disk image",
}
"""In the order of ``--help``; each is the module of that name in this package."""

SHELLS = ("bash", "zsh", "fish")
ROOT_OPTIONS: tuple[Argument, ...] = (
    option("--version", name="version", help="show the version and exit"),
    option(
        "--show-completion",
        name="show_completion",
        choices=SHELLS,
        help="print the completion script of a shell",
    ),
    option(
        "--install-completion",
        name="install_completion",
        choices=("bash", "fish"),
        help="install the completion script for this user",
    ),
    *COMMON,
)


def load(name: str) -> Command:
    """The command of that name. Only its own module is imported."""
    command: Command = import_module(f"vmpack.cli.{name}").COMMAND
    return command


def run(argv: Sequence[str]) -> int:
    """Parse ``argv`` (without the program's name), carry it out, report; the exit code."""
    console = Console(_guess(argv))
    name = next((word for word in argv if word in COMMANDS), None)
    try:
        with _Signals():
            code = _dispatch(list(argv), console)
            sys.stdout.flush()
            return code
    except (Exception, KeyboardInterrupt) as exc:
        return errors.report(exc, console, name)


def _dispatch(argv: list[str], console: Console) -> int:
    """Run what ``argv`` says. ``console`` is for what comes before a command's own is known."""
    outer = Common()
    if argv and argv[0] not in COMMANDS:
        from vmpack.cli.parser import parse_root

        root = parse_root(ROOT_OPTIONS, argv)
        outer = Common(root.output, root.progress, root.quiet, root.verbose)
        if root.help or root.version or root.show_completion or root.install_completion:
            return _about_itself(root, console)
        argv = root.rest
    if not argv:
        raise UsageError("no command is given", hint="see 'vmpack --help'")
    name, *words = argv
    if name not in COMMANDS:
        from vmpack.cli.parser import did_you_mean

        hint = did_you_mean(name, COMMANDS) or "see 'vmpack --help'"
        raise UsageError(f"no such command: {name}", hint=hint)
    return _command(load(name), words, outer, console)


def _command(command: Command, words: list[str], outer: Common, console: Console) -> int:
    from vmpack.cli.parser import build, parse

    before = words[: words.index("--")] if "--" in words else words
    if "-h" in before or "--help" in before:
        console.stdout.write(build(command).format_help())
        return 0
    arguments = parse(command, words)
    own = Common(arguments.output, arguments.progress, arguments.quiet, arguments.verbose)
    return command.run(Console(own.under(outer)), arguments) or 0


def _about_itself(root: Namespace, console: Console) -> int:
    """``--version``, ``--help`` and shell completion."""
    if root.version:
        from vmpack import __version__

        console.result({"version": __version__}, [f"vmpack {__version__}"])
    elif root.show_completion:
        from vmpack.cli.completion import script

        console.stdout.write(script(root.show_completion))
    elif root.install_completion:
        from vmpack.cli.completion import install

        path = install(root.install_completion)
        console.done({"path": path}, [f"installed {path}; it takes effect in the next shell"])
    else:
        from vmpack.cli.parser import root_help

        console.stdout.write(root_help(ROOT_OPTIONS, ABOUT, COMMANDS))
    return 0


def _guess(argv: Sequence[str]) -> Common:
    """The common options of a line that may not parse: errors come in the form asked for."""
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    said = [b for a, b in pairwise(["", *words]) if a == "--output" or b.startswith("--output=")]
    form = said[-1].removeprefix("--output=") if said else None
    return Common(output=form, verbose="--verbose" in words or "-v" in words)


class _Signals:
    """While entered, SIGTERM and SIGHUP end the operation as Ctrl-C does, temporary files too."""

    def __enter__(self) -> None:
        # A signal that the parent had ignored (nohup) stays ignored; a thread cannot set any.
        wanted = (signal.SIGTERM, signal.SIGHUP) if _in_main_thread() else ()
        kept = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
        self._previous = {number: signal.signal(number, _interrupt) for number in kept}

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
