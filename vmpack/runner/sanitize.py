"""A guest's console made harmless for the terminal of whoever watches it.

A terminal obeys what it is sent: sequences set its title and clipboard, make it type answers into
the shell, move windows, swap its character set. What passes here is text, movements of the cursor,
erasing and colours, which full-screen programs need; into a file goes plain text only.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

__all__ = ["RESET", "Sanitizer"]

SEQUENCE = re.compile(r"\x1b(?:\[(?P<csi>[0-?]{0,64}[ -/]{0,4}[@-~])|[ -/]{0,4}[0-Z\\^-~])")
UNFINISHED = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[ -/]{0,4})")
STRING_START = re.compile(r"\x1b[\]PX^_]")
"""Titles, clipboard, links, pictures, keys: from here to :data:`STRING_END`."""

STRING_END = re.compile(r"[\x07\x18\x1a\x1b\n\x9c]")

UNSAFE = re.compile(
    r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f"
    # Marks that turn the direction of text around, and lone halves of characters.
    r"\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

HARMLESS = re.compile(r"[0-9;]{0,32}[A-HJ-MPX@dfmr]|\?(?:7|25)[hl]")
"""Sequences after ``ESC [`` that only draw: cursor, erase, insert, delete, colours, scroll region,
and the two modes wrap and visible cursor. Reports, modes that change keys, windows: none."""

RESET = "\x1b7\x1b[r\x1b8\x1b[0m\x1b[?7h\x1b[?25h"
"""Undoes what :data:`HARMLESS` lets through, for the end of a session. The cursor is put back: a
new scroll region moves it."""

BREAKS = re.compile(r"\r+\n|\r+")


class Sanitizer:
    """Bytes of a console in, text that is safe out; however they are cut, the text is the same.

    ``drawing`` lets cursor movement and colours through, for a terminal; without it only text and
    line ends remain. Holds at most one short sequence back.
    """

    def __init__(self, *, drawing: bool) -> None:
        self._drawing = drawing
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""
        self._in_string = False
        self._returns = ""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The safe text of ``data``; ``last``: there will be no more."""
        text = "".join(self._pieces(self._rest + self._decode(data, last)))
        return text if self._drawing else self._flat(text, last)

    def _pieces(self, text: str) -> Iterator[str]:
        self._rest = ""
        place = 0
        while place < len(text):
            if self._in_string:
                end = STRING_END.search(text, place)
                if end is None:
                    return
                # An escape ends the string and begins what comes next.
                place = end.start() if end[0] == "\x1b" else end.end()
                self._in_string = False
                continue
            escape = text.find("\x1b", place)
            yield UNSAFE.sub("", text[place : escape if escape >= 0 else None])
            if escape < 0:
                return
            if STRING_START.match(text, escape):
                self._in_string = True
                place = escape + 2
            elif sequence := SEQUENCE.match(text, escape):
                csi = sequence["csi"]
                if self._drawing and csi is not None and HARMLESS.fullmatch(csi):
                    yield sequence[0]
                place = sequence.end()
            elif UNFINISHED.fullmatch(text, escape):
                self._rest = text[escape:]
                return
            else:
                # No sequence at all: without its escape the rest is text.
                place = escape + 1

    def _flat(self, text: str, last: bool) -> str:
        text = self._returns + text.replace("\b", "")
        # Whether a carriage return begins a line end shows with the next character.
        end = len(text) if last else len(text.rstrip("\r"))
        self._returns = text[end:]
        return BREAKS.sub("\n", text[:end])
