"""Runs work on several threads and hands back the results in order.

zstd, deflate, SHA-256 and file I/O release the interpreter's lock, so threads use all cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int | None) -> int:
    """``workers``, or the cores that this process may use, at most 16."""
    if workers is not None:
        return max(1, workers)
    return max(1, min(16, len(os.sched_getaffinity(0))))


def ordered(
    pool: ThreadPoolExecutor,
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
