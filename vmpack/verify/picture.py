"""A picture of the screen as facts, and how far two of them are apart.

Profile: specs/behaviour-v1.md, BHV-PIC. The size of a picture is the guest's choice: what is
decoded is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from vmpack.verify.model import Json

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VARIES", "WORDS", "Mask", "PictureResult", "compare_pictures", "picture_facts"]

Mask = tuple[int, int, int, int]
"""Left, top, width and height in pixels of what is not compared. Those of a record count up to
:data:`MAX_MASKS`."""

VARIES = "varies"
"""The member of a recorded picture that was another one in each boot: a log with times, a clock."""

MAX_MASKS = 64
WORDS = "words"
"""The member of a text screen's picture that has its text, normalised as the console's is, sorted:
times, numbers and the firmware's version are no part of it."""

MAX_PIXELS = 4096 * 4096
MAX_PNG = 64 << 20
KEPT_PNG = 256 << 10
"""Bytes up to which the picture itself is kept in the record."""
TEXT_COLOURS = 16
SIDE = 32
"""The perceptual hash: brightness of so many rows of so many fields."""
CELL_WIDTHS = (9, 8)
CELL_HEIGHT = 16
"""Pixels of a character on a text screen, of VGA's and of frame buffers."""
LOG_LINES = 3
"""So many lines that begin with a kernel's time make the screen a log."""
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
    if colours is not None and _shows_log(image):
        fact[VARIES] = True
    return {name: fact}


def _shows_log(image: Image) -> bool:
    """Whether lines begin as the kernel's do, ``[    4.278112] ``, in whatever font.

    Then three glyphs that are not the same stand in the places 0, 6 and 13 of each, with digits in
    7 to 12 and nothing in 1 and 14.
    """
    width = next((each for each in CELL_WIDTHS if image.width % each == 0), CELL_WIDTHS[-1])
    rows = min(image.height // CELL_HEIGHT, 100)
    if image.width < 15 * width:
        return False
    grey = image.crop((0, 0, 15 * width, rows * CELL_HEIGHT)).convert("L")
    found: Counter[tuple[bytes, ...]] = Counter()
    for row in range(rows):
        top = row * CELL_HEIGHT
        cells = [
            grey.crop((place * width, top, (place + 1) * width, top + CELL_HEIGHT)).tobytes()
            for place in range(15)
        ]
        drawn = [len(set(cell)) > 1 for cell in cells]
        times = drawn[0] and all(drawn[6:14]) and not drawn[1] and not drawn[14]
        marks = (cells[0], cells[6], cells[13])
        if times and len(set(marks)) == 3:
            found[marks] += 1
    return max(found.values(), default=0) >= LOG_LINES


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
    except (
        *(Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError, IndexError),
        *(struct.error, zlib.error),
    ):
        return None


def _paint(image: Image, masks: Sequence[Mask]) -> None:
    for mask in masks:
        image.paste((0, 0, 0), _box(mask, image.width, image.height))


def _box(mask: Mask, width: int, height: int) -> Mask:
    """The part of a mask that lies on the picture: left, top, right and bottom."""
    left, top = min(max(mask[0], 0), width), min(max(mask[1], 0), height)
    right = min(max(mask[0] + mask[2], left), width)
    return left, top, right, min(max(mask[1] + mask[3], top), height)


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
    words = expected.get(WORDS), observed.get(WORDS)
    if words[0] and isinstance(words[0], list) and words[0] == words[1]:
        return PictureResult("similar", "the same text")
    if expected.get(VARIES) is True or observed.get(VARIES) is True:
        return PictureResult("not-compared", "it is another one in each boot")
    masks = [*_masks(expected), *_masks(observed)]
    pair = _kept(expected, masks), _kept(observed, masks)
    if pair[0] is None or pair[1] is None:
        return _by_hash(expected, observed, masks)
    text = expected.get("text") is True and observed.get("text") is True
    return _by_pixels(pair[0], pair[1], text=text)


def _masks(fact: dict[str, Json]) -> list[Mask]:
    masks = fact.get("masks")
    found: list[Mask] = []
    for item in masks[:MAX_MASKS] if isinstance(masks, list) else ():
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
        solid = width * height == one.width * one.height - changed.histogram()[0]
        if solid and width in CELL_WIDTHS and box[0] % width == 0 and height <= CELL_HEIGHT:
            return PictureResult("similar", "equal but for the cursor")
        return PictureResult("differs", f"text differs within {width}x{height} pixels")
    share = sum(changed.histogram()[LEVELS:]) / (one.width * one.height)
    note = f"{share * 100:.1f}% of the pixels differ"
    return PictureResult("similar" if share <= PIXELS else "differs", note)


def _by_hash(one: dict[str, Json], other: dict[str, Json], masks: Sequence[Mask]) -> PictureResult:
    fields = SIDE * SIDE
    try:
        pair = bytes.fromhex(str(one.get("hash"))), bytes.fromhex(str(other.get("hash")))
    except ValueError:
        pair = b"", b""
    width, height = one.get("width"), one.get("height")
    if (
        any(len(each) != fields for each in pair)
        or type(width) is not int
        or type(height) is not int
    ):
        return PictureResult("not-compared", "a picture without a hash")
    covered = {field for mask in masks for field in _covered(mask, width, height)}
    far = sum(
        abs(a - b) >= LEVELS
        for field, (a, b) in enumerate(zip(*pair, strict=True))
        if field not in covered
    )
    note = f"{far / fields * 100:.1f}% of the fields differ"
    return PictureResult("similar" if far <= FIELDS * fields else "differs", note)


def _covered(mask: Mask, width: int, height: int) -> Iterator[int]:
    """The hash's fields that a mask touches."""
    left, top, right, bottom = _box(mask, width, height)
    if left < right and top < bottom:
        for row in range(top * SIDE // height, (bottom - 1) * SIDE // height + 1):
            for column in range(left * SIDE // width, (right - 1) * SIDE // width + 1):
                yield row * SIDE + column
