"""Where the facts of a guest are gathered, within bounds."""

from __future__ import annotations

from vmpack.verify.model import Json

__all__ = ["MAX_FACTS", "MAX_KEY", "MAX_LINE", "Found"]

MAX_LINE = 4096
"""Bytes of a line; the kernel takes no longer command line."""

MAX_KEY = 256
MAX_FACTS = 8192


class Found:
    """Facts by layer; what comes after the bound is dropped, and said to be."""

    def __init__(self) -> None:
        self.facts: dict[str, Json] = {}
        self.tables: dict[str, Json] = {}
        self.uefi = False
        self.full = False

    def fact(self, key: str, value: Json) -> None:
        """A fact of the layer ``guest``; a second one of the same key takes its place."""
        self._put(self.facts, key, value)

    def table(self, key: str, value: Json) -> None:
        """A fact of the layer ``tables``."""
        self._put(self.tables, key, value)

    def add(self, key: str, value: str) -> None:
        """One more value of a fact that is a sorted list of texts."""
        known = self.facts.get(key, [])
        if isinstance(known, list) and len(known) < 64:
            texts: list[Json] = [*{str(one) for one in known} | {value}]
            self.fact(key, sorted(texts, key=str))

    def _put(self, facts: dict[str, Json], key: str, value: Json) -> None:
        if len(facts) >= MAX_FACTS and key not in facts:
            self.full = True
            return
        facts[key[:MAX_KEY]] = value
