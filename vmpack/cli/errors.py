"""The one place that turns what went wrong into words and an exit code.

Exit codes belong to the error classes; ``check`` and ``compare`` follow qemu-img where it differs.
"""

from __future__ import annotations

import os

from vmpack import errors
from vmpack.binary import escape
from vmpack.cli.console import RED, Console, dumps
from vmpack.errors import VmpackError

CHECK_EXIT = {"usage": 1, "unsupported": 63, "refused": 63, "unsafe": 63, "damaged": 2}
"""``check``, as qemu-img: 1 it could not be checked, 2 damaged, 63 not supported."""


class InternalError(VmpackError):
    """A mistake in vmpack itself; never the fault of the input."""

    kind = "internal"


def report(exc: BaseException, console: Console, command: str | None) -> int:
    """Say what went wrong, in the form that the user asked for; the exit code."""
    if isinstance(exc, BrokenPipeError):
        return _reader_left(console)
    error = translate(exc)
    if console.verbose and isinstance(error, InternalError):
        import traceback

        console.stderr.write(escape_lines("".join(traceback.format_exception(exc))))
    for line in describe(error, console):
        console.stderr.write(line + "\n")
    if console.json:
        try:
            console.stdout.write(dumps({"error": error.as_dict()}) + "\n")
            console.stdout.flush()
        except OSError:
            # stdout itself is what failed (full, closed); stderr has the message.
            _reader_left(console)
    return exit_code(error, command)


def exit_code(error: VmpackError, command: str | None) -> int:
    """The exit code of ``error`` under ``command`` (design: as qemu-img for check and compare)."""
    if command == "check":
        return CHECK_EXIT.get(error.kind, error.exit_code)
    if command == "compare" and error.exit_code == 1:
        return 2
    return error.exit_code


def translate(exc: BaseException) -> VmpackError:
    """Any exception as an error of vmpack's own."""
    if isinstance(exc, VmpackError):
        return exc
    if isinstance(exc, KeyboardInterrupt):
        return errors.InterruptError("interrupted")
    if isinstance(exc, MemoryError):
        return errors.OperationError("not enough memory", hint="free some memory and try again")
    if isinstance(exc, OSError):
        return _from_os(exc)
    return InternalError(
        f"unexpected {type(exc).__name__}: {exc}",
        hint="this is a mistake in vmpack: please report it, with what --verbose shows",
    )


def _from_os(exc: OSError) -> VmpackError:
    path = exc.filename
    if isinstance(path, (str, bytes)):
        return errors.from_os_error(exc, path=os.fsdecode(path))
    reason = exc.strerror or str(exc)
    return errors.OperationError(reason[:1].lower() + reason[1:])


def describe(error: VmpackError, console: Console) -> list[str]:
    """The lines on stderr about ``error``: what and where, its causes if verbose, what next."""
    clause = f" [{error.clause}]" if error.clause else ""
    if error.kind == "interrupted":
        return ["vmpack: interrupted"]
    lines = [f"vmpack: {console.mark('error:', RED)} {escape(str(error))}{escape(clause)}"]
    cause = error.__cause__
    while console.verbose and cause is not None:
        lines.append(f"  cause: {type(cause).__name__}: {escape(str(cause))}")
        cause = cause.__cause__
    if error.hint:
        lines.append(f"  hint: {escape(error.hint)}")
    return lines


def escape_lines(text: str) -> str:
    """``text`` with every line made safe for a terminal."""
    return "".join(escape(line) + "\n" for line in text.splitlines())


def _reader_left(console: Console) -> int:
    """Nobody reads stdout any more: end quietly, the interpreter's last flush included."""
    try:
        descriptor = console.stdout.fileno()
    except (OSError, ValueError):
        return 1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return 1
