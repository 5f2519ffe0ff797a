"""How far a boot got, read from its console: pure functions of bytes and the times they came at.

The console is the guest's: it may be endless, may hold any bytes, and lines of kernel and userspace
may be glued together. Memory and time are bounded by what is fed. Patterns are those of
``specs/config-v1.md`` (*Pattern*): literal text in which ``*`` stands for anything within a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vmpack.runner.detectors import MARKS, SETS
from vmpack.runner.troubles import Trouble, trouble_after, trouble_of

__all__ = ["Detector", "Lines", "Pattern", "Reached"]

MAX_LINE_BYTES = 8192
"""A longer line is cut into lines of this length."""

MAX_TARGETS = 256
"""Milestones without an order (systemd's targets, what failed) that are kept; real systems have
some thirty."""

STAMP = re.compile(r"\[ *\d+\.\d{6}\] ")
"""How a line of Linux's kernel begins; it may begin in the middle of somebody else's."""

CUT_ESCAPE = re.compile("\x1b\\[[0-9;]*(?:\u2026m?)?")
"""systemd shortens what does not fit its console in the middle, escape sequences included."""

UNIT = re.compile(r"\.(?:target|service|mount|socket|device|swap|timer|path|scope|slice)$")

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
    detail: str = ""
    """What the line says beyond that it came: the kernel's version, how a unit failed."""


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
        self._places: dict[str, int] = {}
        self._glue = Glue()

    @property
    def missing(self) -> tuple[str, ...]:
        """Patterns that have not been found."""
        return tuple(pattern.text for pattern in (*self._ordered, *self._anywhere))

    def has(self, name: str) -> bool:
        """Whether the generic milestone of that name was seen."""
        return name in self._places

    def feed(self, data: bytes, seconds: float) -> list[Reached]:
        """What the console's next bytes, come at ``seconds``, reach: expected and generic ones."""
        before = len(self.reached), len(self.seen)
        for line, complete in self._lines.feed(data):
            self._expect(line, seconds)
            self._recognise(line, seconds, complete=complete)
            self.trouble = trouble_of(line, self.trouble)
            if complete:
                self._consumed = 0
                cut, whole = self._glue.add(line)
                self._sets(line, seconds, end=cut)
                if whole is not None:
                    self._rejoined(*whole, seconds)
        return [*self.reached[before[0] :], *self.seen[before[1] :]]

    def _expect(self, line: str, seconds: float, *, beyond: int = 0) -> None:
        """Find what is expected in a line; ``beyond``: matches have to end behind that place."""
        while self._ordered:
            end = self._ordered[0].find(line, self._consumed)
            if end is None or end <= beyond:
                break
            # What one milestone matched is not there for the next.
            self._consumed = end
            self.reached.append(Reached(self._ordered.pop(0).text, seconds))
        for pattern in [each for each in self._anywhere if each.find(line) is not None]:
            self._anywhere.remove(pattern)
            self.reached.append(Reached(pattern.text, seconds))

    def _recognise(self, line: str, seconds: float, *, complete: bool) -> None:
        for mark in MARKS:
            found = mark.pattern.search(line)
            if found:
                # What a line says is known when it has ended.
                detail = found.groupdict().get("is") if complete else None
                self._see(mark.name, seconds, detail or "")

    def _sets(self, line: str, seconds: float, *, end: int | None) -> None:
        """What comes in no order; a name that reaches ``end`` may go on in the next line."""
        for kind in SETS:
            for found in kind.pattern.finditer(line):
                if end is None or found.end("name") < end:
                    self._add(kind.kind, found["name"], found.groupdict().get("is"), seconds)

    def _rejoined(self, line: str, joint: int, seconds: float) -> None:
        """A line that the kernel printed into, put together again at ``joint``."""
        self._consumed = 0
        self._expect(line, seconds, beyond=joint)
        self._consumed = 0
        self._recognise(line, seconds, complete=True)
        for kind in SETS:
            for found in kind.pattern.finditer(line):
                start, end = found.span("name")
                if found.start() < joint <= end:
                    # A line that ended right there is followed by another one's beginning.
                    whole = start >= joint or end == joint or UNIT.search(found["name"])
                    name = found["name"] if whole else line[start:joint]
                    self._add(kind.kind, name, found.groupdict().get("is"), seconds)

    def _add(self, kind: str, name: str, detail: str | None, seconds: float) -> None:
        name = CUT_ESCAPE.sub("\u2026", name)
        if len(self._places) < MAX_TARGETS and name.strip("\u2026"):
            name = name[:80].removesuffix(".target") if kind == "target" else name[:80]
            self._see(f"{kind} {name}", seconds, (detail or "").strip())

    def _see(self, name: str, seconds: float, detail: str = "") -> None:
        self.trouble = trouble_after(name, self.trouble)
        place = self._places.setdefault(name, len(self.seen))
        if place == len(self.seen):
            self.seen.append(Reached(name, seconds, detail))
        elif detail and not self.seen[place].detail:
            self.seen[place] = replace(self.seen[place], detail=detail)


class Glue:
    """Puts lines together again that lines of the kernel were printed into."""

    def __init__(self) -> None:
        self._head = ""

    def add(self, line: str) -> tuple[int | None, tuple[str, int] | None]:
        """Where ``line`` is cut by a kernel's line, if it is; a whole line and where it was cut."""
        if self._head and STAMP.match(line):
            return None, None
        found = None if STAMP.match(line) else STAMP.search(line, 1)
        tail = line if found is None else line[: found.start()]
        head, self._head = self._head, "" if found is None else tail
        cut = None if found is None else found.start()
        return cut, (head + tail, len(head)) if head else None
