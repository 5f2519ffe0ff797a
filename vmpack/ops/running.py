"""What ``run`` and ``verify`` have in common: one event loop, and QEMU's ways to be missing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import TypeVar

from vmpack.errors import OperationError, UsageError
from vmpack.progress import Progress

__all__ = ["BEAT_S", "beat", "complete", "require_bundle"]

BEAT_S = 0.2

T = TypeVar("T")


def require_bundle(path: str | os.PathLike[str]) -> None:
    """Refuse what is certainly no bundle, with what to do about it: a folder, one disk of one.

    Raises :class:`UsageError`; whatever else is wrong, opening the file tells.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        raise UsageError("is a folder", path=name, hint="name a bundle: a .vmpack file")
    bundle, _, disk = name.rpartition("#")
    if disk and os.path.isfile(bundle) and not os.path.lexists(name):
        raise UsageError(
            "is one disk of a bundle, and a whole machine is wanted",
            path=name,
            hint=f"name the bundle: {bundle}",
        )


def complete(work: Coroutine[object, object, T]) -> T:
    """Run ``work`` in an event loop of its own, from the main thread; what it returns.

    Raises :class:`OperationError` inside a running loop: the library's callers there use
    :class:`vmpack.runner.session.Session` itself.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    work.close()
    raise OperationError(
        "cannot start a second event loop in this thread",
        hint="use vmpack.runner.session.Session in asynchronous code",
    )


async def beat(progress: Progress) -> None:
    """Let a bar move while nothing can be counted; until cancelled."""
    while True:
        await asyncio.sleep(BEAT_S)
        progress.advance(0)
