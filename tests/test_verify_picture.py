"""Pictures of the screen: equal ones, cursors, graphics, masks, and PNGs of a hostile guest."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from vmpack.verify.bounds import clean_facts
from vmpack.verify.compare import compare
from vmpack.verify.model import HostFacts, Json, Observation
from vmpack.verify.picture import KEPT_PNG, compare_pictures, picture_facts
from vmpack.verify.record import merge

CELL = (9, 16)
FONT = ImageFont.load_default_imagefont()
HOST = HostFacts("7.2.22", "tcg", "")


def text_screen(words: str = "login:", cursor: int | None = None) -> Image.Image:
    """A VGA text screen of 80 by 25 places."""
    image = Image.new("RGB", (720, 400))
    draw = ImageDraw.Draw(image)
    for row in range(24):
        draw.text((0, row * CELL[1]), f"line {row} of the screen", fill=(170, 170, 170), font=None)
    draw.text((0, 24 * CELL[1]), words, fill=(170, 170, 170))
    image = image.convert("1").convert("RGB")
    if cursor is not None:
        x, y = cursor * CELL[0], 24 * CELL[1] + 13
        ImageDraw.Draw(image).rectangle((x, y, x + CELL[0] - 1, y + 1), fill=(170, 170, 170))
    return image


def desktop(seed: int = 1, window: int = 0) -> Image.Image:
    """A graphical screen of many colours, with a window of that many pixels on top."""
    noise = Image.frombytes("RGB", (32, 24), random.Random(seed).randbytes(32 * 24 * 3))
    image = noise.resize((640, 480), Image.Resampling.NEAREST)
    if window:
        ImageDraw.Draw(image).rectangle(
            (200, 100, 200 + window, 100 + window), fill=(255, 255, 255)
        )
    return image


def png(image: Image.Image, **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **more)
    return out.getvalue()


def fact(image: Image.Image, *masks: tuple[int, int, int, int]) -> dict[str, Json]:
    found = picture_facts("screen", png(image), masks)["screen"]
    assert isinstance(found, dict)
    return found


def verdict(one: Json, other: Json) -> str:
    result = compare_pictures(one, other)
    assert result == compare_pictures(one, other)
    assert compare_pictures(other, one).verdict == result.verdict
    return result.verdict


def test_a_picture_is_its_pixels_not_its_file() -> None:
    """BHV-PIC-1: libpng's versions pack the same picture differently."""
    image = text_screen()
    one, other = (picture_facts("s", png(image, compress_level=level))["s"] for level in (1, 9))
    assert verdict(one, other) == "same"
    assert isinstance(one, dict)
    assert (one["width"], one["height"], one["text"]) == (720, 400, True)
    assert fact(desktop())["text"] is False


def test_text_is_exact_but_for_its_cursor() -> None:
    """BHV-PIC-2: one letter is a difference, a cursor of 18 pixels is none."""
    plain = fact(text_screen())
    assert verdict(plain, fact(text_screen(cursor=7))) == "similar"
    assert verdict(plain, fact(text_screen("logim:"))) == "differs"
    assert verdict(plain, fact(text_screen("panic!"))) == "differs"


def test_graphics_are_compared_by_the_share_of_their_pixels() -> None:
    """BHV-PIC-3: a clock is less than 1% of the screen, a dialog more."""
    plain = fact(desktop())
    assert verdict(plain, fact(desktop(window=30))) == "similar"
    assert verdict(plain, fact(desktop(window=100))) == "differs"
    assert verdict(plain, fact(desktop(2))) == "differs"


def test_a_picture_that_is_not_kept_is_compared_by_its_hash() -> None:
    """BHV-PIC-4."""
    noisy = Image.effect_noise((1024, 768), 60).convert("RGB")
    large = fact(noisy)
    assert len(png(noisy)) > KEPT_PNG
    assert large["png"] is None
    assert verdict(large, fact(desktop())) == "differs"
    changed = noisy.copy()
    ImageDraw.Draw(changed).rectangle((0, 0, 40, 40), fill=(0, 0, 0))
    assert verdict(large, fact(changed)) == "similar"
    ImageDraw.Draw(changed).rectangle((0, 0, 400, 400), fill=(0, 0, 0))
    assert verdict(large, fact(changed)) == "differs"


def test_other_sizes_are_other_pictures() -> None:
    """BHV-PIC-5: a text mode became a graphics mode."""
    result = compare_pictures(fact(text_screen()), fact(desktop()))
    assert (result.verdict, result.note) == ("differs", "720x400 became 640x480 pixels")


def test_what_is_masked_is_not_compared() -> None:
    """BHV-PIC-6: neither by digest nor by pixels, whichever of the two has the mask."""
    mask = (200, 100, 310, 310)
    assert verdict(fact(desktop(), mask), fact(desktop(window=300), mask)) == "same"
    assert verdict(fact(desktop(), mask), fact(desktop(window=300))) == "same"
    assert verdict(fact(desktop(), mask), fact(desktop(2), mask)) == "differs"
    small = [fact(desktop(), mask) | {"png": None}, fact(desktop(window=300))]
    assert verdict(*small) == "similar"


def test_a_screen_that_is_another_in_each_boot_is_not_compared() -> None:
    """BHV-PIC-7, BHV-MRG-5: a kernel's log has times in it."""
    boots = [
        Observation(HOST, {"picture": {"screen": fact(text_screen(words))}})
        for words in ("[ 1.1] a", "[ 1.2] a", "[ 1.1] b")
    ]
    recorded = merge(boots)
    result = compare(recorded, boots[1])
    assert result.verdicts["picture"] == "not-compared"
    assert "each boot" in result.notes["picture"]
    other = Observation(HOST, {"picture": {"screen": fact(desktop())}})
    assert compare(recorded, other).verdicts["picture"] == "differs"
    same = merge([boots[0], boots[0]])
    assert compare(same, boots[1]).verdicts["picture"] == "differs"
    assert compare(same, boots[0]).verdicts["picture"] == "same"


def test_a_log_on_the_screen_is_known_by_its_times() -> None:
    """BHV-PIC-7: it varies, even where a record has one boot only. Glyphs stand in for a font."""
    image = Image.new("RGB", (720, 400))
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(["[    4.278112] ata2: up"] * 3 + ["24", "login:"]):
        for place, char in enumerate(text):
            draw.text((place * CELL[0] + 1, row * CELL[1]), char, fill=(170, 170, 170), font=FONT)
    assert fact(image)["varies"] is True
    ImageDraw.Draw(image).rectangle((0, 0, 9, 40), fill=(0, 0, 0))
    assert "varies" not in fact(image)
    assert "varies" not in fact(text_screen())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hostile_png(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GOOD = png(text_screen())
HOSTILE = {
    "empty": b"",
    "no png": b"GIF89a" + bytes(100),
    "huge": hostile_png(2**31 - 1, 2**31 - 1),
    "wide": hostile_png(2**31 - 1, 1),
    "zero": hostile_png(0, 0),
    "bomb": hostile_png(4000, 4000, bytes(1 << 20)),
    "cut": GOOD[: len(GOOD) // 2],
    "text bomb": GOOD[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20))) + GOOD[33:],
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pictures_are_facts_as_well(data: bytes) -> None:
    """BHV-PIC-8."""
    began = time.process_time()
    facts = picture_facts("screen", data)
    assert time.process_time() - began < 5
    assert clean_facts("picture", facts) == facts
    assert verdict(facts["screen"], facts["screen"]) == "same"
    assert verdict(facts["screen"], fact(text_screen())) in ("not-compared", "differs")


def test_mutated_pictures_are_survived() -> None:
    """BHV-PIC-8."""
    rng = random.Random(8)
    other = fact(desktop())
    for _ in range(40):
        data = bytearray(GOOD)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        facts = picture_facts("screen", bytes(data))
        compare_pictures(facts["screen"], other)


@pytest.mark.parametrize(
    "change",
    [
        {"png": "!!"},
        {"png": "QUJD"},
        {"png": 7, "hash": "zz"},
        {"png": None, "hash": "00"},
        {"png": None, "hash": None},
        {"width": "720"},
        {"masks": "x"},
        {"masks": [[1], ["a", 1, 1, 1], [-9, -9, 1 << 50, 1 << 50]]},
        {"width": 0, "height": 0},
    ],
)
def test_records_of_strangers_are_survived(change: dict[str, Json]) -> None:
    """BHV-PIC-8: what a record says of a picture may be anything."""
    good = fact(text_screen("a"))
    verdict(fact(text_screen("b")) | change, good)
    verdict(None, good)
