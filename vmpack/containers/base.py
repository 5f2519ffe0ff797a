"""What a container says of itself: names, and where each lies in it. Nothing is extracted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import UnsafeError

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader, OpenOptions

MAX_MEMBERS = 65536
MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a container: ``size`` bytes from ``offset`` of it."""

    name: str
    offset: int
    size: int
    disk: Callable[[OpenOptions], ImageReader] | None = None
    """Opens a disk that does not lie in one piece; then :attr:`offset` means nothing."""


def safe_member(name: str, *, path: str, offset: int, clause: str) -> str:
    """``name``, relative, no ``..``, a leading ``./`` taken off; or :class:`UnsafeError`."""
    plain = name.removeprefix("./")
    parts = plain.split("/")
    bad = (
        not plain
        or len(plain) > MAX_NAME
        or plain.startswith("/")
        or "\0" in plain
        or "\\" in plain
        or re.match(r"[A-Za-z]:", plain)
        or any(part in ("", ".", "..") for part in parts)
    )
    if bad:
        raise UnsafeError(
            f"its member {escape(name[:80])!r} has a name that could lead out of a folder",
            path=path,
            offset=offset,
            clause=clause,
            hint="it was made to harm, or by a broken tool: take the disks out by hand and look",
        )
    return plain
