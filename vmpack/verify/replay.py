"""A deterministic boot that a record carries, and what its replay gave: plain data.

Profile: specs/behaviour-v1.md, "Exact mode". The bytes are the bundle's blob :data:`BLOB`, zstd of
QEMU's log and, after it, of the console that the boot printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from vmpack.errors import DamagedError

__all__ = ["BLOB", "MAX_CONSOLE", "MAX_LOG", "ExactResult", "Replay"]

BLOB = "behaviour-replay"
"""Name of the bundle's blob that holds log and console."""

MAX_LOG = 1 << 30
"""Bytes of a log that is kept; a whole boot of Debian has 40 MB."""

MAX_CONSOLE = 8 << 20
"""Bytes of the console that is kept with it."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_T = TypeVar("_T", str, int)


@dataclass(frozen=True, slots=True)
class Replay:
    """A boot that can be replayed, as a behaviour record names it."""

    qemu: str
    """Version of the QEMU that recorded it: no other one can replay it."""
    firmware: str
    """``sha256:`` of the firmware that it started with, as :class:`HostFacts` has it."""
    accel: str
    """Always ``tcg``."""
    size: int
    """Bytes of the log, not compressed."""
    sha256: str
    """``sha256:`` of the log."""
    console_size: int
    console_sha256: str
    packed: bytes | None = field(default=None, repr=False, compare=False)
    """The blob: there after a recording; of a bundle, :meth:`Bundle.blob` has it."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object ``replay`` of a record."""
        return {
            "blob": BLOB,
            "qemu": self.qemu,
            "firmware": self.firmware,
            "accel": self.accel,
            "size": self.size,
            "sha256": self.sha256,
            "console-size": self.console_size,
            "console-sha256": self.console_sha256,
        }

    @classmethod
    def from_dict(cls, data: object, *, path: str | None = None) -> Replay:
        """What :meth:`as_dict` gave. Raises :class:`DamagedError` with the field otherwise."""
        if not isinstance(data, Mapping):
            raise _damaged("is no object", "replay", path)
        replay = cls(
            qemu=_take(data, "qemu", str, path),
            firmware=_take(data, "firmware", str, path),
            accel=_take(data, "accel", str, path),
            size=_take(data, "size", int, path),
            sha256=_take(data, "sha256", str, path),
            console_size=_take(data, "console-size", int, path),
            console_sha256=_take(data, "console-sha256", str, path),
        )
        if data.get("blob") != BLOB:
            raise _damaged(f"is not {BLOB!r}", "replay.blob", path)
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}", replay.qemu):
            raise _damaged("is no version", "replay.qemu", path)
        if replay.accel != "tcg":
            raise _damaged("is not tcg", "replay.accel", path)
        for name, value, most in (
            ("size", replay.size, MAX_LOG),
            ("console-size", replay.console_size, MAX_CONSOLE),
        ):
            if not 0 <= value <= most:
                raise _damaged(f"{value} is not from 0 to {most}", f"replay.{name}", path)
        for name, text in (("sha256", replay.sha256), ("console-sha256", replay.console_sha256)):
            if not _DIGEST.fullmatch(text):
                raise _damaged("is no sha256 digest", f"replay.{name}", path)
        if len(replay.firmware) > 200:
            raise _damaged("is too long", "replay.firmware", path)
        return replay


def _take(data: Mapping[object, object], key: str, kind: type[_T], path: str | None) -> _T:
    value = data.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        word = "a string" if kind is str else "an integer"
        raise _damaged(f"is no {word.split()[-1]}", f"replay.{key}", path)
    return value


def _damaged(message: str, field_name: str, path: str | None) -> DamagedError:
    return DamagedError(
        message,
        path=path,
        field=field_name,
        clause="BHV-EXACT-2",
        hint="record it again: vmpack verify --record --exact",
    )


@dataclass(frozen=True, slots=True)
class ExactResult:
    """What the replay of a recorded boot gave. No text in it is escaped but ``message``."""

    verdict: Literal["same", "differs", "stalled", "does-not-apply"]
    """``same``: each byte of the console; ``differs``: not; ``stalled``: the replay did not come to
    the log's end; ``does-not-apply``: this QEMU is not the one that recorded it."""
    message: str
    """Safe to print."""
    offset: int | None = None
    """Of the first byte that differs, in the console."""
    line: int | None = None
    """Number of its line, 1 first."""
    expected: str | None = None
    """That line as it was recorded."""
    observed: str | None = None
    console: bytes = field(default=b"", repr=False)
    """What the replay printed."""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Nothing differs from the recorded boot, or nothing was to be compared."""
        return self.verdict in ("same", "does-not-apply")

    def as_dict(self) -> dict[str, object]:
        """The JSON object of a report."""
        return {
            "verdict": self.verdict,
            "good": self.good,
            "message": self.message,
            "offset": self.offset,
            "line": self.line,
            "expected": self.expected,
            "observed": self.observed,
            "console-bytes": len(self.console),
            "milliseconds": round(self.seconds * 1000),
        }
