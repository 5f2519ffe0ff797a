"""Files into the guest and out of it, through the guest agent: ``--copy-in``, ``--copy-out``."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import InputError, OperationError, UsageError, VmpackError, from_os_error
from vmpack.progress import Progress

if TYPE_CHECKING:
    from vmpack.runner.agent import Agent

__all__ = ["Copy", "copy_in", "copy_out", "plan_copies"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One file: its path on this host and in the guest."""

    here: str
    guest: str


def plan_copies(
    into: Sequence[tuple[str, str]], out: Sequence[tuple[str, str]]
) -> tuple[list[Copy], list[Copy]]:
    """The files to copy, with the names that a folder at the end of a path leaves out.

    ``into`` are pairs of a path here and one in the guest, ``out`` the other way around. Raises
    :class:`UsageError` for a guest's path that is not absolute, :class:`InputError` for a file
    here that is none.
    """
    copies_in = [Copy(here, _named(guest, here)) for here, guest in into]
    copies_out = []
    for guest, here in out:
        _absolute(guest)
        if guest.endswith("/"):
            raise UsageError(f"{guest!r} is a folder", field="--copy-out", hint="name a file")
        place = os.path.join(here, "") if os.path.isdir(here) else here
        copies_out.append(Copy(_named(place, guest, absolute=False), guest))
    for copy in copies_in:
        _require_file(copy.here)
    return copies_in, copies_out


def _named(path: str, source: str, *, absolute: bool = True) -> str:
    if absolute:
        _absolute(path)
    return path + os.path.basename(source) if path.endswith("/") else path


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise UsageError(
            f"{path!r} is no absolute path in the guest", hint="the guest's path begins with /"
        )


def _require_file(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        raise from_os_error(exc, path=path) from exc
    if not stat.S_ISREG(mode):
        raise InputError("is no regular file", path=path, hint="put folders into a tar file first")


async def copy_in(agent: Agent, copy: Copy, progress: Progress) -> None:
    """Copy a file into the guest, its permissions included."""
    try:
        with open(copy.here, "rb") as file:
            state = os.fstat(file.fileno())
            progress.stage(f"copying in {os.path.basename(copy.here)}", state.st_size)
            await agent.write_file(copy.guest, file, progress=progress.advance)
    except OSError as exc:
        raise from_os_error(exc, path=copy.here) from exc
    except OperationError as exc:
        raise _about(exc, copy.guest) from exc
    if state.st_mode & 0o111:
        done = await agent.run(["chmod", f"{state.st_mode & 0o777:o}", copy.guest])
        if done.exit_code:
            raise OperationError(
                f"chmod ended with exit code {done.exit_code} in the guest", path=copy.guest
            )


async def copy_out(agent: Agent, copy: Copy, force: bool, progress: Progress) -> int:
    """Copy a file out of the guest; it appears under its name when it is complete. Its size."""
    from vmpack.copy import write_all
    from vmpack.formats.base import Job
    from vmpack.output import Output

    folder = os.path.dirname(copy.here) or "."
    try:
        room = os.statvfs(folder)
    except OSError as exc:
        raise from_os_error(exc, path=folder, writing=True) from exc
    progress.stage(f"copying out {os.path.basename(copy.guest)}", None)
    with Output(copy.here, force=force) as out:
        done = 0

        def write(data: bytes) -> None:
            nonlocal done
            write_all(out.fd, Job(done, data), out.name)
            done += len(data)
            progress.advance(len(data))

        try:
            await agent.read_file(copy.guest, write, max_bytes=room.f_bavail * room.f_frsize)
        except OperationError as exc:
            raise exc if exc.path else _about(exc, copy.guest) from exc
        out.commit()
    return done


def _about(exc: VmpackError, path: str) -> OperationError:
    return OperationError(exc.message, path=f"{path} (in the guest)", hint=exc.hint)
