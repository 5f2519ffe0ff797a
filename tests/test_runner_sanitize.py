"""A guest's console cannot harm the terminal that shows it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmpack.runner.sanitize import Sanitizer


def clean(data: bytes, *, drawing: bool = True, step: int | None = None) -> str:
    sanitizer = Sanitizer(drawing=drawing)
    step = step or len(data) or 1
    text = "".join(sanitizer.feed(data[at : at + step]) for at in range(0, len(data), step))
    return text + sanitizer.feed(b"", last=True)


@pytest.mark.parametrize(
    "data",
    [
        b"plain text\r\n",
        b"\x1b[1;32mgreen\x1b[0m",
        b"\x1b[2J\x1b[1;1H\x1b[K\x1b[10;20r\x1b[3A\x1b[?25l\x1b[?25h",
        b"back\b\tspace\r",
        "Grüße, 日本".encode(),
    ],
)
def test_what_only_draws_is_shown_as_it_is(data: bytes) -> None:
    for step in (1, None):
        assert clean(data, step=step) == data.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b]0;title\x07",
        b"\x1b]52;c;Zm9v\x1b\\",  # the clipboard
        b"\x1b]8;;http://example.org\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1b_Gpicture\x1b\\",
        b"\x1b^private\x1b\\",
        b"\x1b[6n\x1b[c\x1b[>c\x1b[5n\x1b[21t",  # answers that would be typed
        b"\x1b[8;1;1t\x1b[3;0;0t",  # the window
        b"\x1b[?1049h\x1b[?1000h\x1b[?2004h\x1b[?47h",  # modes of screen, mouse and keys
        b"\x1b[4h\x1b[20h\x1b[12l",
        b"\x1bc\x1b(0\x1b)0\x1b=\x1b>\x1b#8\x1b%G",  # reset, character sets
        b"\x07\x00\x0e\x0f\x05\x7f\x11\x13",
        "\x90data\x9c".encode()[:2],
        "\u202e\u2066\u2028".encode(),
    ],
)
def test_what_a_terminal_would_obey_is_not_shown(data: bytes) -> None:
    for step in (1, None):
        assert clean(b"a" + data + b"b", step=step) == "ab"


def test_a_string_that_never_ends_hides_one_line_at_most() -> None:
    assert clean(b"\x1b]0;never closed\nshown\n") == "shown\n"


def test_a_sequence_without_an_end_holds_nothing_back() -> None:
    text = clean(b"\x1b[" + b"1;" * 10_000 + b"x", step=100)
    assert "\x1b" not in text
    assert text.endswith("x")


def test_bytes_that_are_no_text_are_marked() -> None:
    assert clean(b"a\xff\xfeb\x9b31m") == "a\ufffd\ufffdb\ufffd31m"


def test_a_file_gets_text_and_line_ends_only() -> None:
    data = b"\x1b[1mone\x1b[0m\r\r\ntwo\rthree\r\nfour\x08\n\r"
    for step in (1, 3, None):
        assert clean(data, drawing=False, step=step) == "one\ntwo\nthree\nfour\n\n"


SAFE = re.compile(r"\x1b\[(?:[0-9;]{0,32}[A-HJ-MPX@dfmr]|\?(?:7|25)[hl])")
pieces = st.lists(
    st.sampled_from(
        [
            *(b"\x1b", b"[", b"]", b"P", b"\\", b"\x07", b"0;1", b"m", b"?25h", b"\r", b"\n"),
            *(b"\xc2", b"\x9b", b"(", b"text", "é".encode(), b"\x18", b"t"),
        ]
    )
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


@given(pieces, st.integers(1, 20), st.booleans())
def test_any_bytes_are_safe_however_they_are_cut(data: bytes, step: int, drawing: bool) -> None:
    """hostile: 48."""
    text = clean(data, drawing=drawing, step=step)
    assert text == clean(data, drawing=drawing)
    rest = SAFE.sub("", text) if drawing else text
    allowed = "\t\n\r\b" if drawing else "\t\n"
    assert all(char.isprintable() or char in allowed or ord(char) > 0xFF for char in rest)
