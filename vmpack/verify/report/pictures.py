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
    before = dict(_pictures(expected))
    now = dict(_pictures(boot.observation))
    for name, png in _left_behind(boot):
        # A screen that the record has no name for, or that was not observed.
        if png not in now.values():
            now[name] = now.get(name) or png
    for name in dict.fromkeys([*before, *now]):
        title = clip(name, 80)
        yield Pair(
            title,
            _picture(before, name, f"The screen “{title}” of the record", budget),
            _picture(now, name, f"The screen “{title}” of this boot", budget),
            name in differing,
        )


def _picture(
    found: Mapping[str, bytes | None], name: str, alt: str, budget: Budget
) -> Picture | None:
    if name not in found:
        return None
    png = found[name]
    return (
        Picture(alt, why="it was too large to be kept") if png is None else budget.picture(png, alt)
    )


def _left_behind(boot: Boot) -> Iterator[tuple[str, bytes]]:
    for check in boot.checks:
        if check.picture:
            yield check.name, check.picture
    if boot.ending.picture:
        yield "end", boot.ending.picture


def _pictures(observation: Observation | None) -> Iterator[tuple[str, bytes | None]]:
    facts = {} if observation is None else observation.layers.get("picture", {})
    for name, fact in facts.items():
        if not isinstance(fact, Mapping):
            continue
        text = fact.get("png")
        if not isinstance(text, str) or len(text) > 2 * LARGEST:
            yield name, None
            continue
        try:
            yield name, base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            yield name, None
