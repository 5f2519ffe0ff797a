"""A picture of the screen as facts, and how far two of them are apart.

Profile: specs/behaviour-v1.md, BHV-PIC. The size of a picture is the guest's choice: what is
decoded is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from vmpack.verify.model import Json

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VARIES", "Mask", "PictureResult", "compare_pictures", "picture_facts"]

Mask = tuple[int, int, int, int]
"""Left, top, width and height in pixels of what is not compared."""

VARIES = "varies"
"""The member of a recorded picture that was another one in each boot: a log with times, a clock."""

MAX_PIXELS = 8192 * 8192
MAX_PNG = 64 << 20
KEPT_PNG = 256 << 10
"""Bytes up to which the picture itself is kept in the record."""
TEXT_COLOURS = 16
SIDE = 32
"""The perceptual hash: brightness of so many rows of so many fields."""
CURSOR = (9, 32)
"""Pixels of width and height within which two text screens may differ: their cursor blinks."""
LEVELS = 32
"""A pixel or a field that is brighter or darker by less than this, of 255, is the same."""
PIXELS = 0.01
"""Share of a graphical screen that may differ."""
FIELDS = 0.02
"""Share of the hash's fields that may differ, where there is no picture to compare."""


@dataclass(frozen=True, slots=True)
class PictureResult:
    """How two pictures compare."""

    verdict: Literal["same", "similar", "differs", "not-compared"]
    note: str


def picture_facts(name: str, png: bytes, masks: Sequence[Mask] = ()) -> dict[str, Json]:
    """The facts of one picture, under ``name``; ``masks`` are left out of digest and hash.

    A PNG that cannot be decoded, or is too large, has only the digest of its bytes.
    """
    fact: dict[str, Json] = {
        "sha256": sha256(png).hexdigest(),
        "width": 0,
        "height": 0,
        "text": False,
        "hash": None,
        "png": None,
        "masks": [list(mask) for mask in masks],
    }
    image = _decode(png)
    if image is None:
        return {name: fact}
    _paint(image, masks)
    colours = image.getcolors(TEXT_COLOURS)
    fact |= {
        "sha256": _digest(image),
        "width": image.width,
        "height": image.height,
        "text": colours is not None,
        "hash": _hash(image),
    }
    if len(png) <= KEPT_PNG:
        import base64

        fact["png"] = base64.b64encode(png).decode()
    return {name: fact}


def _decode(png: bytes) -> Image | None:
    """The picture, all of it read, as RGB; ``None`` when it is damaged or too large."""
    if len(png) > MAX_PNG:
        return None
    import io
    import struct
    import warnings
    import zlib

    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Its size is checked here, before any pixel is decoded.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
                if not 0 < opened.width * opened.height <= MAX_PIXELS:
                    return None
                return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error):
        return None


def _paint(image: Image, masks: Sequence[Mask]) -> None:
    for left, top, width, height in masks:
        image.paste((0, 0, 0), (left, top, left + width, top + height))


def _digest(image: Image) -> str:
    """Of size and pixels: two versions of libpng write the same picture differently."""
    return sha256(b"%d %d\n" % image.size + image.tobytes()).hexdigest()


def _hash(image: Image) -> str:
    from PIL.Image import Resampling

    return image.convert("L").resize((SIDE, SIDE), Resampling.BOX).tobytes().hex()


def compare_pictures(expected: Json, observed: Json) -> PictureResult:
    """Hold one picture's fact against another's.

    Equal pixels are the same; a text screen may differ in its cursor alone, a graphical one in a
    small share of its pixels, or of its hash where a picture was too large to be kept.
    """
    if not isinstance(expected, dict) or not isinstance(observed, dict):
        return PictureResult("not-compared", "no picture")
    if expected.get("sha256") == observed.get("sha256") is not None:
        return PictureResult("same", "equal")
    sizes = [(each.get("width"), each.get("height")) for each in (expected, observed)]
    if (0, 0) in sizes:
        return PictureResult("not-compared", "a picture that cannot be decoded")
    if sizes[0] != sizes[1]:
        return PictureResult("differs", "{}x{} became {}x{} pixels".format(*sizes[0], *sizes[1]))
    if expected.get(VARIES) is True or observed.get(VARIES) is True:
        return PictureResult("not-compared", "it is another one in each boot")
    masks = [*_masks(expected), *_masks(observed)]
    pair = _kept(expected, masks), _kept(observed, masks)
    if pair[0] is None or pair[1] is None:
        return _by_hash(expected.get("hash"), observed.get("hash"))
    text = expected.get("text") is True and observed.get("text") is True
    return _by_pixels(pair[0], pair[1], text=text)


def _masks(fact: dict[str, Json]) -> list[Mask]:
    masks = fact.get("masks")
    found: list[Mask] = []
    for item in masks if isinstance(masks, list) else ():
        numbers = [each for each in item if type(each) is int] if isinstance(item, list) else []
        if len(numbers) == 4:
            found.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return found


def _kept(fact: dict[str, Json], masks: Sequence[Mask]) -> Image | None:
    import base64
    import binascii

    png = fact.get("png")
    if not isinstance(png, str):
        return None
    try:
        image = _decode(base64.b64decode(png, validate=True))
    except (binascii.Error, ValueError):
        return None
    if image is None or [image.width, image.height] != [fact.get("width"), fact.get("height")]:
        return None
    _paint(image, masks)
    return image


def _by_pixels(one: Image, other: Image, *, text: bool) -> PictureResult:
    from PIL import ImageChops

    changed = ImageChops.difference(one, other).convert("L")
    box = changed.getbbox()
    if box is None:
        return PictureResult("same", "equal")
    if text:
        width, height = box[2] - box[0], box[3] - box[1]
        if width <= CURSOR[0] and height <= CURSOR[1]:
            return PictureResult("similar", "equal but for the cursor")
        return PictureResult("differs", f"text differs within {width}x{height} pixels")
    share = sum(changed.histogram()[LEVELS:]) / (one.width * one.height)
    note = f"{share * 100:.1f}% of the pixels differ"
    return PictureResult("similar" if share <= PIXELS else "differs", note)


def _by_hash(one: Json | None, other: Json | None) -> PictureResult:
    size = SIDE * SIDE
    try:
        if not isinstance(one, str) or not isinstance(other, str):
            raise ValueError
        pair = bytes.fromhex(one), bytes.fromhex(other)
        if any(len(each) != size for each in pair):
            raise ValueError
    except ValueError:
        return PictureResult("not-compared", "a picture without a hash")
    far = sum(abs(a - b) >= LEVELS for a, b in zip(*pair, strict=True)) / size
    note = f"{far * 100:.1f}% of the fields differ"
    return PictureResult("similar" if far <= FIELDS else "differs", note)
