"""Where a command's words go: results to stdout, everything else to stderr.

Every string that may come out of a file passes through :func:`vmpack.binary.escape` here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TextIO

from vmpack.binary import escape

if TYPE_CHECKING:
    from vmpack.cli.progress import Reporter

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class Common(NamedTuple):
    """The options of every command; ``None`` where the user said nothing."""

    output: str | None = None
    progress: str | None = None
    quiet: bool = False
    verbose: bool = False


def dumps(document: object, *, most: int | None = None, path: str | None = None) -> str:
    """``document`` as one indented JSON text in ASCII: control characters are always escaped.

    Raises :class:`UnsafeError` about ``path`` when the text has more than ``most`` characters,
    before it is made.
    """
    import json

    parts, length = [], 0
    for part in json.JSONEncoder(indent=2).iterencode(document):
        length += len(part)
        if most is not None and length > most:
            from vmpack.errors import UnsafeError

            raise UnsafeError(
                f"what it says of itself takes more than {most} characters",
                path=path,
                hint="see it without --output json: that is cut",
            )
        parts.append(part)
    # DEL is the one control character that json leaves as it is; it occurs inside strings only.
    text = "".join(parts).replace("\x7f", "\\u007f")
    # In a string too: a runner of GitHub Actions obeys ##[commands] wherever they stand in a line.
    return text.replace("##[", "#\\u0023[")


class Console:
    """What a command may say, as ``--output``, ``--progress``, ``-q`` and ``-v`` have it."""

    def __init__(
        self, common: Common, *, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.json = common.output == "json"
        self.quiet = common.quiet
        self.verbose = common.verbose
        self.progress_mode = common.progress or "auto"
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    def result(
        self,
        document: object,
        lines: Iterable[str],
        *,
        most: int | None = None,
        path: str | None = None,
    ) -> None:
        """Print the command's result: ``document`` as JSON, or ``lines`` for people.

        JSON of more than ``most`` characters, about the file ``path``, is refused.
        """
        if self.json:
            self.stdout.write(dumps(document, most=most, path=path) + "\n")
        else:
            for line in lines:
                self.stdout.write(line + "\n")

    def done(self, document: object, lines: Iterable[str]) -> None:
        """As :meth:`result`, for what ``--quiet`` silences: that a thing was done, or is well."""
        if self.json or not self.quiet:
            self.result(document, lines)

    def warn(self, message: str) -> None:
        """One line on stderr about something that the user should know; not with ``--quiet``."""
        if not self.quiet:
            self.stderr.write(f"vmpack: {self.mark('warning:', YELLOW)} {escape(message)}\n")

    def reporter(self) -> Reporter:
        """The progress of one operation, as a context manager around it."""
        from vmpack.cli.progress import make_reporter

        mode = "none" if self.quiet and self.progress_mode == "auto" else self.progress_mode
        return make_reporter(mode, self.stderr)

    def mark(self, text: str, style: str) -> str:
        """``text`` in an ANSI style if stderr is a terminal that has colours."""
        return paint(text, style, self.stderr)

    def style(self, text: str, style: str) -> str:
        """``text`` in an ANSI style if stdout is a terminal that has colours."""
        return paint(text, style, self.stdout)


def paint(text: str, style: str, stream: TextIO) -> str:
    """``text`` in an ANSI style, when ``stream`` is a terminal and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{style}m{text}\x1b[0m"
