"""Runs work on several threads and hands back the results in order.

zstd, deflate, SHA-256 and file I/O release the interpreter's lock, so threads use all cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int | None) -> int:
    """``workers``, or the cores that this process may use, at most 16."""
    if workers is not None:
        return max(1, workers)
    return max(1, min(16, len(os.sched_getaffinity(0))))


class Inline(Executor):
    """An executor that runs each call at once, in the caller's thread."""

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Call ``fn`` now; its result or error waits in the future."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as exc:
            future.set_exception(exc)
        return future


def executor(count: int) -> Executor:
    """Threads for ``count`` workers. Use as a context manager."""
    return ThreadPoolExecutor(count) if count > 1 else Inline()


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
