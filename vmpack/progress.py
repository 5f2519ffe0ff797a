"""How long work reports how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of an operation. Called from one thread, the operation's own."""

    def stage(self, name: str, total_bytes: int | None) -> None:
        """A stage begins: ``name`` is a word or two ("packing root"); ``total_bytes`` if known."""

    def advance(self, done_bytes: int) -> None:
        """``done_bytes`` more of the current stage are done."""


class NoProgress:
    """Listens to nothing."""

    def stage(self, name: str, total_bytes: int | None) -> None:
        """Ignored."""

    def advance(self, done_bytes: int) -> None:
        """Ignored."""


SILENT = NoProgress()
