"""Packs again and again, killed by SIGKILL at each of its steps; says what each death left.

Run as a program, so that its forks have one thread:
``python -m tests.support.crashing VARIANT OLD.raw NEW.raw TARGET`` prints a JSON array.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmpack.bundle.reader import Bundle
from vmpack.errors import VmpackError
from vmpack.ops.pack import pack

STEPS: tuple[str, ...] = ("pwrite", "fsync", "ftruncate", "link", "rename", "unlink")
"""The calls that change what is on the disk."""
VARIANTS = ("fresh", "replace", "part", "part-fresh", "no-links", "device")


def die_at(step: int, *, torn: bool) -> None:
    """This process dies before its ``step``-th change; a write is half done first if ``torn``."""
    count = itertools.count(1)
    for name in STEPS:
        setattr(os, name, _mortal(getattr(os, name), name, count, step, torn))


def _mortal(
    real: Callable[..., Any], name: str, count: itertools.count[int], step: int, torn: bool
) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if next(count) == step:
            if torn and name == "pwrite":
                fd, data, offset = args
                real(fd, memoryview(data)[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    return call


def lacking(variant: str) -> None:
    """Take away what the variant's file system does not have."""
    real_open = os.open

    def no_tmpfile(path: str, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, *args, **options)

    def no_link(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if variant.startswith(("part", "no-links")):
        setattr(os, "open", no_tmpfile)  # noqa: B010 - mypy minds the plain assignment
    if variant == "no-links":
        setattr(os, "link", no_link)  # noqa: B010 - mypy minds the plain assignment


def in_child(work: Callable[[], object]) -> bool:
    """Whether ``work`` ends; run in a fork."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as exc:
            sys.stderr.write(f"{exc!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the packing child failed by itself")
    return os.WIFEXITED(status)


def state(target: Path) -> str:
    """``absent``, ``refused``, ``unsound``, or the bundle's id."""
    if not target.exists():
        return "absent"
    try:
        with Bundle.open(target) as bundle:
            if list(bundle.check(full=True, workers=1)):
                return "unsound"
            with open(target, "rb") as file:
                raw = file.read(bundle.header.total_size)
        return hashlib.sha256(raw).hexdigest()
    except VmpackError:
        return "refused"


def main(variant: str, old: str, new: str, name: str) -> None:
    target = Path(name)
    folder = target.parent
    force = variant not in ("fresh", "part-fresh", "no-links")
    lacking(variant)
    report = []
    for torn in (False, True):
        for step in itertools.count(1):
            if force:
                in_child(lambda: pack([old], target, force=True, workers=1))
            elif target.exists():
                target.unlink()
            before = state(target)

            def mortal(step: int = step, torn: bool = torn) -> None:
                die_at(step, torn=torn)
                pack([new], target, force=force, workers=1)

            ended = in_child(mortal)
            after = state(target)
            in_child(lambda: pack([new], target, force=True, workers=1))
            block = stat.S_ISBLK(target.stat().st_mode)
            report.append(
                {
                    "step": step,
                    "torn": torn,
                    "ended": ended,
                    "before": before,
                    "after": after,
                    "next": state(target),
                    "left": [] if block else sorted(os.listdir(folder)),
                }
            )
            if ended:
                break
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
