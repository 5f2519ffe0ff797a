"""What was found out about this host, kept in the user's own cache folder.

Anything unreadable, foreign or malformed in it counts as absent; what cannot be stored is not.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_folder", "load", "store"]

_MAX_BYTES = 4 << 20


def cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/vmpack``, or ``~/.cache/vmpack``; ``None`` where neither is known."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named.startswith("/"):
        return Path(named) / "vmpack"
    home = os.environ.get("HOME", "")
    return Path(home) / ".cache" / "vmpack" if home.startswith("/") else None


def load(name: str) -> dict[str, object]:
    """The document of that name; empty when there is none, or it is not this user's own."""
    folder = cache_folder()
    if folder is None:
        return {}
    try:
        with open(folder / name, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                return {}
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def store(name: str, document: dict[str, object]) -> None:
    """Replace the document of that name, whole or not at all."""
    folder = cache_folder()
    if folder is None:
        return
    temporary = folder / f".{name}.{os.getpid()}"
    # A cache that cannot be written costs the next start a fraction of a second, no more.
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w") as file:
                json.dump(document, file)
            os.replace(temporary, folder / name)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
