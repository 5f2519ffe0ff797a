"""How far a boot got, read from its console: pure functions of bytes and the times they came at.

The console is the guest's: it may be endless, may hold any bytes, and lines of kernel and userspace
may be glued together. Memory and time are bounded by what is fed. Patterns are those of
``specs/config-v1.md`` (*Pattern*): literal text in which ``*`` stands for anything within a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmpack.runner.troubles import Trouble, trouble_after, trouble_of

__all__ = ["Detector", "Lines", "Pattern", "Reached"]

MAX_LINE_BYTES = 8192
"""A longer line is cut into lines of this length."""

MAX_TARGETS = 256
"""Milestones of systemd's targets that are kept; real systems have some thirty."""

CURSOR_MOVED = re.compile(rb"\x1b\[[0-9;]*[HfJ]")
ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours and the like
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC and other strings
    rb"|\x1b[ -/]*[0-Z\\^-~]"  # the short ones
)
UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?$")
LINE_END = re.compile(rb"[\r\n]+")


@dataclass(frozen=True, slots=True)
class Reached:
    """A milestone, and when the console showed it."""

    name: str
    """The pattern, or the name of a generic one: ``kernel``, ``login``, ``target ssh``."""
    seconds: float


class Pattern:
    """Literal text in which ``*`` stands for any characters within one line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._pieces = [piece for piece in text.split("*") if piece]

    def find(self, line: str, start: int = 0) -> int | None:
        """Where the first match at or after ``start`` ends, in time linear in the line."""
        # The leftmost place of each piece leaves the most room for the next: no backtracking.
        for piece in self._pieces:
            found = line.find(piece, start)
            if found < 0:
                return None
            start = found + len(piece)
        return start


class Lines:
    """The console as lines of plain text: escape sequences gone, a moved cursor ends a line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bool]]:
        """``(text, complete)`` for each line that ended, then the one that has not ended yet."""
        *ended, self._rest = LINE_END.split(CURSOR_MOVED.sub(b"\n", self._rest + data))
        for raw in ended:
            yield from self._pieces(raw)
        while len(self._rest) > MAX_LINE_BYTES:
            head, self._rest = self._rest[:MAX_LINE_BYTES], self._rest[MAX_LINE_BYTES:]
            yield plain(head), True
        if self._rest:
            yield plain(self._rest), False

    @staticmethod
    def _pieces(raw: bytes) -> Iterator[tuple[str, bool]]:
        for start in range(0, len(raw), MAX_LINE_BYTES):
            yield plain(raw[start : start + MAX_LINE_BYTES]), True


def plain(raw: bytes) -> str:
    """One line without escape sequences, one that has only begun included."""
    text = UNFINISHED.sub(b"", ESCAPES.sub(b"", raw))
    return text.decode("utf-8", errors="replace")


GENERIC: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("firmware", re.compile(r"^(?:SeaBIOS \(version|BdsDxe: |UEFI firmware )")),
    (
        "boot-loader",
        re.compile(r"GRUB loading|Welcome to GRUB|^\s*Booting `|^(?:SYS|ISO|EXT)LINUX \d"),
    ),
    ("kernel", re.compile(r"Linux version \d|^Copyright \(c\) .*The FreeBSD Project|^OpenBSD \d")),
    ("init", re.compile(r"Run /\S+ as init process")),
    ("systemd", re.compile(r"systemd\[1\]: |^Welcome to (?!GRUB).+!\s*$")),
    ("busybox", re.compile(r"BusyBox v\d")),
    ("login", re.compile(r"(?:^|\s)(?!Last )\S+ login:(?:\s|$)")),
)
"""What nearly every boot shows, in the usual order."""

TARGET = re.compile(r"Reached target (\S+)")


class Detector:
    """Feeds on a console; knows which milestones it showed and whether the boot is stuck.

    ``expected`` are patterns that must be found in this order; those that ask for a login prompt
    may be found at any place: systemd starts it beside the last targets.
    """

    def __init__(self, expected: Sequence[str] = ()) -> None:
        self.reached: list[Reached] = []
        """Of ``expected``, as they were found."""
        self.seen: list[Reached] = []
        """Generic ones, each at its first time."""
        self.trouble: Trouble | None = None
        """Where the boot is stuck, as of the last line."""
        self._ordered = [Pattern(text) for text in expected if "login:" not in text]
        self._anywhere = [Pattern(text) for text in expected if "login:" in text]
        self._consumed = 0
        self._lines = Lines()
        self._names: set[str] = set()

    @property
    def missing(self) -> tuple[str, ...]:
        """Patterns that have not been found."""
        return tuple(pattern.text for pattern in (*self._ordered, *self._anywhere))

    def has(self, name: str) -> bool:
        """Whether the generic milestone of that name was seen."""
        return name in self._names

    def feed(self, data: bytes, seconds: float) -> list[Reached]:
        """What the console's next bytes, come at ``seconds``, reach: expected and generic ones."""
        before = len(self.reached), len(self.seen)
        for line, complete in self._lines.feed(data):
            self._expect(line, seconds)
            self._recognise(line, seconds)
            if complete:
                self._targets(line, seconds)
                self._consumed = 0
        return [*self.reached[before[0] :], *self.seen[before[1] :]]

    def _expect(self, line: str, seconds: float) -> None:
        while self._ordered:
            end = self._ordered[0].find(line, self._consumed)
            if end is None:
                break
            # What one milestone matched is not there for the next.
            self._consumed = end
            self.reached.append(Reached(self._ordered.pop(0).text, seconds))
        for pattern in [each for each in self._anywhere if each.find(line) is not None]:
            self._anywhere.remove(pattern)
            self.reached.append(Reached(pattern.text, seconds))

    def _recognise(self, line: str, seconds: float) -> None:
        for name, pattern in GENERIC:
            if pattern.search(line):
                self._see(name, seconds)
        self.trouble = trouble_of(line, self.trouble)

    def _targets(self, line: str, seconds: float) -> None:
        for found in TARGET.finditer(line):
            if len(self._names) < MAX_TARGETS:
                self._see(f"target {found[1].removesuffix('.target')[:80]}", seconds)

    def _see(self, name: str, seconds: float) -> None:
        self.trouble = trouble_after(name, self.trouble)
        if name not in self._names:
            self._names.add(name)
            self.seen.append(Reached(name, seconds))
