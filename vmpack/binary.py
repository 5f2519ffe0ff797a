"""What every binary structure needs: bounds, powers of two, unknown feature bits, safe text."""

from __future__ import annotations

from collections.abc import Mapping

from vmpack.errors import DamagedError, UnsupportedError


def reject_unknown(
    value: int,
    supported: int,
    names: Mapping[int, str],
    *,
    what: str,
    path: str | None = None,
    offset: int | None = None,
    clause: str | None = None,
) -> None:
    """Refuse feature bits outside ``supported``, by the names (bit -> name) in ``names``."""
    unknown = value & ~supported
    if not unknown:
        return
    bits = [bit for bit in range(unknown.bit_length()) if unknown >> bit & 1]
    text = ", ".join(escape(names[bit]) if bit in names else f"bit {bit}" for bit in bits)
    raise UnsupportedError(
        f"{what} not supported: {text}",
        path=path,
        offset=offset,
        clause=clause,
        hint="a newer version of vmpack, or the tool that wrote the file, may read it",
    )


def require_range(
    start: int,
    length: int,
    limit: int,
    *,
    what: str,
    align: int = 1,
    path: str | None = None,
    clause: str | None = None,
) -> None:
    """``0 <= start <= start + length <= limit`` and ``start`` aligned, or :class:`DamagedError`."""
    if start < 0 or length < 0 or start + length > limit:
        raise DamagedError(
            f"{what} ({length} bytes at {start}) lies outside the file's {limit} bytes",
            path=path,
            offset=max(start, 0),
            clause=clause,
        )
    if start % align:
        raise DamagedError(
            f"{what} at {start} is not aligned to {align} bytes",
            path=path,
            offset=start,
            clause=clause,
        )


def escape(text: str) -> str:
    r"""``text`` with control, separator and unassigned characters as ``\xNN`` / ``\uNNNN``.

    Everything that comes out of a file passes through here on its way to a terminal or a log.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        if ord(char) not in range(0xD800, 0xE000)
        else f"\\u{ord(char):04x}"
        for char in text
    )
