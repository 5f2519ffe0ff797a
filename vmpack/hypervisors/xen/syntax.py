"""The syntax of ``xl`` configs: Python's in looks, parsed here and never evaluated.

Source: xl.cfg(5), "SYNTAX": ``KEY=VALUE`` by line or ``;``, strings in single or double quotes,
numbers, lists of these in brackets over several lines, comments after ``#``, ``KEY+=VALUE``.
"""

from __future__ import annotations

import re

from vmpack.errors import DamagedError, UnsafeError

Value = str | int | list["Value"]
MAX_TOKENS = 50_000
MAX_DEPTH = 8
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<end>[\n;])
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>0[xX][0-9a-fA-F]{1,16}|-?[0-9]{1,19})(?![\w.])
    |(?P<word>[A-Za-z_][\w.-]*)
    |(?P<mark>\+=|[=\[\],])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
Token = tuple[str, str, int]


def parse(data: bytes, *, path: str) -> dict[str, Value]:
    """The settings in their order. Raises :class:`DamagedError` where the syntax is broken."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    tokens = _tokens(text, path)
    found: dict[str, Value] = {}
    at = 0
    while at < len(tokens):
        kind, word, offset = tokens[at]
        if kind == "end":
            at += 1
            continue
        if kind != "word" or at + 2 >= len(tokens) or tokens[at + 1][1] not in ("=", "+="):
            raise _broken(path, text, offset, "a setting KEY = VALUE is expected")
        value, following = _value(tokens, at + 2, path, text, 0)
        if following < len(tokens) and tokens[following][0] != "end":
            raise _broken(path, text, tokens[following][2], "the setting should end here")
        before = found.get(word)
        if tokens[at + 1][1] == "+=" and before is not None:
            if isinstance(before, list) and isinstance(value, list):
                value = [*before, *value]
            elif isinstance(before, str) and isinstance(value, str):
                value = before + value
        found[word] = value
        at = following
    return found


def _tokens(text: str, path: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _broken(path, text, at, "this is no value that xl knows")
        kind = str(match.lastgroup)
        if kind != "space":
            found.append((kind, match[0], at))
        if len(found) > MAX_TOKENS:
            raise UnsafeError(f"has more than {MAX_TOKENS} words", path=path)
        at = match.end()
    return found


def _value(tokens: list[Token], at: int, path: str, text: str, depth: int) -> tuple[Value, int]:
    if at >= len(tokens) or depth > MAX_DEPTH:
        raise _broken(path, text, len(text), "the value is not whole")
    kind, word, offset = tokens[at]
    if kind == "string":
        plain = re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[0]), word[1:-1])
        return plain, at + 1
    if kind == "number":
        return int(word, 16 if word[:2].lower() == "0x" else 10), at + 1
    if kind == "word":
        # Boolean words and the like: xl takes them as strings.
        return word, at + 1
    if word != "[":
        raise _broken(path, text, offset, "a value is expected")
    found: list[Value] = []
    at += 1
    while True:
        at = _past_ends(tokens, at)
        if at < len(tokens) and tokens[at][1] == "]":
            return found, at + 1
        value, at = _value(tokens, at, path, text, depth + 1)
        found.append(value)
        at = _past_ends(tokens, at)
        if at < len(tokens) and tokens[at][1] == ",":
            at += 1
        elif at >= len(tokens) or tokens[at][1] != "]":
            raise _broken(path, text, tokens[at - 1][2], "the list does not end")


def _past_ends(tokens: list[Token], at: int) -> int:
    while at < len(tokens) and tokens[at][1] == "\n":
        at += 1
    return at


def _broken(path: str, text: str, at: int, what: str) -> DamagedError:
    line = text.count("\n", 0, at) + 1
    return DamagedError(
        f"line {line}: {what}",
        path=path,
        clause="XEN-XL-1",
        hint="xl -N create FILE says what is wrong with it",
    )


def encode(value: Value) -> str:
    """The value as xl reads it; what is not printable is left out of strings."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        if len(value) < 2:
            return "[" + ", ".join(encode(one) for one in value) + "]"
        return "[\n" + "".join(f"    {encode(one)},\n" for one in value) + "]"
    clean = re.sub(r"[\x00-\x1f\x7f]", " ", value)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
