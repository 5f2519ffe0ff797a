"""Pictures of a report: the record's beside the boot's, inside the page as ``data:``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.verify.report.text import clip

if TYPE_CHECKING:
    from vmpack.verify.boot import Boot
    from vmpack.verify.model import Observation

__all__ = ["Budget", "Pair", "Picture", "pairs"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST = 1 << 20
"""Bytes of a picture that goes into the page; larger ones lie in the folder only."""

TOTAL = 8 << 20
"""Bytes of all pictures of a page."""

SIDE = 16384
"""Pixels of a picture's longer side: a browser is not made to take gigabytes for one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, or why it is not here."""

    alt: str
    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A screen as recorded and as it was now."""

    name: str
    record: Picture | None
    boot: Picture | None
    differs: bool


class Budget:
    """What pictures may still take."""

    def __init__(self, left: int = TOTAL) -> None:
        self.left = left

    def picture(self, png: bytes, alt: str) -> Picture:
        """``png`` for the page, when it is one and there is room for it."""
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        if not png.startswith(SIGNATURE) or not (0 < width <= SIDE and 0 < height <= SIDE):
            return Picture(alt, why="it is no picture that a page can show")
        if len(png) > min(LARGEST, self.left):
            return Picture(alt, why="it is too large for this page: see the file")
        self.left -= len(png)
        uri = "data:image/png;base64," + base64.b64encode(png).decode()
        return Picture(f"{alt}, {width} by {height} pixels", uri, width, height)


def pairs(
    boot: Boot,
    expected: Observation | None,
    differing: set[str],
    budget: Budget,
) -> Iterator[Pair]:
    """The screens of a boot, each with the record's of the same name; ``differing`` are keys."""
    now = dict(_pictures(boot.observation))
    before = dict(_pictures(expected))
    screen = boot.ending.picture
    taken = {name: png for name, png in _checks(boot) if name not in now}
    if screen and screen not in now.values():
        taken.setdefault("at the end" if "end" in now else "end", screen)
    for name in dict.fromkeys([*before, *now, *taken]):
        record = before.get(name)
        png = now.get(name) or taken.get(name)
        title = clip(name, 80)
        yield Pair(
            title,
            budget.picture(record, f"The screen “{title}” of the record") if record else None,
            budget.picture(png, f"The screen “{title}” of this boot") if png else None,
            any(name == key or key.endswith(f":{name}") for key in differing),
        )


def _checks(boot: Boot) -> Iterator[tuple[str, bytes]]:
    for check in boot.checks:
        if check.picture:
            yield check.name, check.picture


def _pictures(observation: Observation | None) -> Iterator[tuple[str, bytes]]:
    facts = {} if observation is None else observation.layers.get("picture", {})
    for name, fact in facts.items():
        text = fact.get("png") if isinstance(fact, Mapping) else None
        if not isinstance(text, str) or len(text) > 2 * LARGEST:
            continue
        try:
            yield name, base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
