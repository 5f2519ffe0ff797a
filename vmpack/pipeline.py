"""Runs work on several threads and hands back the results in order.

zstd, deflate, SHA-256 and file I/O release the interpreter's lock, so threads use all cores.
The pool is a small one of our own: ``concurrent.futures`` loads ``logging`` and takes a tenth of
the time that a conversion needs to start (specs/decisions/0008-moving-data.md).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int | None) -> int:
    """``workers``, or the cores that this process may use, at most 16."""
    if workers is not None:
        return max(1, workers)
    return max(1, min(16, len(os.sched_getaffinity(0))))


class Future(Generic[Result]):
    """A call that some thread makes, or has made."""

    def __init__(self, call: Callable[[], Result]):
        self._call: Callable[[], Result] | None = call
        self._claim = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self._cancelled = False
        self._error: BaseException | None = None
        self._value: list[Result] = []

    def run(self) -> None:
        """Make the call, unless it was made or cancelled; its result or error waits here."""
        if not self._claim.acquire(blocking=False):
            return
        call, self._call = self._call, None
        assert call is not None
        try:
            self._value.append(call())
        except BaseException as exc:
            self._error = exc
        finally:
            self._done.release()

    def cancel(self) -> bool:
        """Keep the call from being made; false where it has begun."""
        if self._claim.acquire(blocking=False):
            self._cancelled, self._call = True, None
            self._done.release()
        return self._cancelled

    def cancelled(self) -> bool:
        """Whether the call was cancelled before it began."""
        return self._cancelled

    def exception(self) -> BaseException | None:
        """Wait for the call; what it raised, if it did."""
        with self._done:
            return self._error

    def result(self) -> Result:
        """Wait for the call; what it gave, or raise what it raised."""
        error = self.exception()
        if error is not None:
            # The traceback would refer to the future, and the future to the traceback.
            try:
                raise error
            finally:
                del error
        assert not self._cancelled, "nobody waits for a call that was cancelled"
        return self._value[0]


class Executor(Protocol):
    """Makes calls, perhaps on other threads. As a context manager it waits for all of them."""

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Have ``fn`` called."""

    def close(self) -> None:
        """Cancel what has not begun, wait for the rest. Closing twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Inline:
    """An executor that makes each call at once, in the caller's thread."""

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Call ``fn`` now; its result or error waits in the future."""
        future = Future(lambda: fn(*args, **kwargs))
        future.run()
        # Ctrl-C and the like concern this thread: they are not for later.
        error = future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return future

    def close(self) -> None:
        """Nothing is ever left to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Threads:
    """An executor with ``count`` threads, which take calls in the order in which they came."""

    def __init__(self, count: int):
        self._calls: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self._count = count
        self._threads: list[threading.Thread] = []

    def _work(self) -> None:
        while (future := self._calls.get()) is not None:
            future.run()
            # Waiting for the next call must not keep this one's result.
            del future

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Queue a call of ``fn``."""
        if len(self._threads) < self._count:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        future = Future(lambda: fn(*args, **kwargs))
        self._calls.put(future)
        return future

    def close(self) -> None:
        """Cancel what has not begun, wait for the rest. Closing twice is harmless."""
        with suppress(Empty):
            while (future := self._calls.get_nowait()) is not None:
                future.cancel()
        self._end()

    def _end(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            # A signal may have come between a thread's making and its start: nothing to wait for.
            with suppress(RuntimeError):
                thread.join()
        self._threads.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()


def executor(count: int) -> Executor:
    """Threads for ``count`` workers. Use as a context manager."""
    return Threads(count) if count > 1 else Inline()


def ordered(
    pool: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int,
) -> Iterator[Result]:
    """``work(item)`` for each item, at most ``depth`` under way at once, results in input order.

    When ``work`` raises, the error comes out at that item's place; what has not begun is cancelled.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
