"""Progress on stderr: a bar for people, JSON lines for programs, or nothing.

A reporter is a context manager around one operation; leaving it without an exception means that
the operation is complete.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from vmpack.progress import NoProgress, Progress
from vmpack.units import MiB

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BAR_AFTER_S = 0.3
"""Operations shorter than this show no bar: it would only flicker."""

REDRAW_S = 0.1
STEPS = 100
"""JSON lines at most, for one stage with a known total (the first, at 0, apart)."""

UNKNOWN_STEP = 64 * MiB
"""Bytes between two JSON lines of a stage whose total is not known."""


class Reporter(Progress, Protocol):
    """A :class:`vmpack.progress.Progress` that is entered for one operation."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def make_reporter(mode: str, stream: TextIO) -> Reporter:
    """The reporter of ``--progress MODE`` (``auto``, ``bar``, ``none`` or ``json``) on ``stream``.

    ``auto`` is a bar where ``stream`` is a terminal that can draw one; ``bar`` is for ``-p``: a
    bar, or lines of text where there is no terminal.
    """
    if mode == "json":
        return JsonReporter(stream)
    if mode in {"auto", "bar"} and _draws(stream):
        return BarReporter(stream)
    if mode == "bar":
        return LineReporter(stream)
    return SilentReporter()


def _draws(stream: TextIO) -> bool:
    import os

    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


class SilentReporter(NoProgress):
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class StageReporter(ABC):
    """Counts the bytes of a stage, and calls :meth:`show` at most :data:`STEPS` times for it.

    What is shown depends on bytes alone, never on time, so that the lines of two equal runs are
    equal. A stage's last line has ``done == total``, and comes only if the stage was completed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._name: str | None = None
        self._total: int | None = None
        self._done = 0
        self._shown = 0

    @abstractmethod
    def show(self, name: str, done: int, total: int | None) -> None:
        """Write one line. ``done`` and ``total`` are bytes."""

    def stage(self, name: str, total_bytes: int | None) -> None:
        self._complete()
        self._name, self._total, self._done = name, total_bytes, 0
        self._put()

    def advance(self, done_bytes: int) -> None:
        self._done += done_bytes
        if self._total is not None:
            self._done = min(self._done, self._total)
            step = -(-self._total // STEPS)
        else:
            step = UNKNOWN_STEP
        # The end itself is left to _complete: it is certain only when the next thing begins.
        if self._done - self._shown >= step and self._done != self._total:
            self._put()

    def _put(self) -> None:
        assert self._name is not None
        self._shown = self._done
        self.show(self._name, self._done, self._total)
        self.stream.flush()

    def _complete(self) -> None:
        if self._name is None:
            return
        if self._total is None:
            self._total = self._done
        self._done = self._total
        self._put()
        self._name = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()


class JsonReporter(StageReporter):
    """One JSON object a line; the shape is part of ``specs/cli-v1.md``."""

    def show(self, name: str, done: int, total: int | None) -> None:
        import json

        event = {"event": "progress", "stage": name, "done": done, "total": total}
        self.stream.write(json.dumps(event).replace("\x7f", "\\u007f") + "\n")


class LineReporter(StageReporter):
    """``-p`` without a terminal: a line of text for each tenth of a stage."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._last: tuple[str, int | None] | None = None

    def show(self, name: str, done: int, total: int | None) -> None:
        from vmpack.binary import escape
        from vmpack.units import format_size

        tenth = done * 10 // total if total else None
        if tenth is not None and (name, tenth) == self._last:
            return
        self._last = (name, tenth)
        state = format_size(done) if total is None else f"{done * 100 // total if total else 100}%"
        self.stream.write(f"{escape(name)}: {state}\n")


class BarReporter:
    """A bar on a terminal, drawn with rich, which is loaded only if the operation takes a while."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = time.monotonic()
        self._drawn = self._begun
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, total_bytes: int | None) -> None:
        self._name, self._total, self._done = name, total_bytes, 0
        if self._bar is not None:
            self._new_task()
            self._bar.refresh()

    def advance(self, done_bytes: int) -> None:
        done = self._done + done_bytes
        self._done = done if self._total is None else min(done, self._total)
        now = time.monotonic()
        if now - self._drawn < (BAR_AFTER_S if self._bar is None else REDRAW_S):
            return
        self._drawn = now
        if self._bar is None:
            self._bar = _rich_bar(self._stream)
            self._bar.start()
            self._new_task()
        assert self._task is not None
        self._bar.update(self._task, completed=self._done)
        self._bar.refresh()

    def _new_task(self) -> None:
        from vmpack.binary import escape

        assert self._bar is not None
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escape(self._name), total=self._total, completed=self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _rich_bar(stream: TextIO) -> RichProgress:
    from rich import progress
    from rich.console import Console
    from rich.table import Column
    from rich.text import Text

    from vmpack.units import format_size

    class Moved(progress.ProgressColumn):
        """Bytes done, of how many, and how fast."""

        def render(self, task: progress.Task) -> Text:
            text = format_size(int(task.completed))
            if task.total is not None:
                whole = format_size(int(task.total))
                # "142 of 668 MiB": the line has to fit into 80 columns.
                done, unit = text.split()
                text = f"{done if whole.split()[1] == unit else text} of {whole}"
            if task.speed:
                text += f", {format_size(int(task.speed))}/s"
            return Text(text, style="progress.download")

    one_line = Column(no_wrap=True)
    # No refresh thread: signals and errors find one thread to deal with, and the bar goes away
    # before a message is printed. stdout stays what it is: it carries the result.
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=one_line),
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        Moved(table_column=one_line),
        progress.TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
