"""Sizes in bytes, read and shown the way people write them."""

from __future__ import annotations

from vmpack.errors import UsageError

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

_SUFFIXES = {"": 1, "B": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB, "P": 1 << 50, "E": 1 << 60}


def parse_size(text: str, *, name: str = "size") -> int:
    """Bytes from ``4096``, ``64K``, ``64KiB``, ``1.5G`` (powers of 1024, as qemu-img has them).

    Raises :class:`UsageError` for anything else, for fractions of a byte and beyond 2**63 - 1.
    """
    from decimal import Decimal, InvalidOperation

    raw = text.strip()
    number = raw.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    suffix = raw[len(number) :].strip().upper()
    suffix = suffix.removesuffix("IB") if len(suffix) == 3 else suffix
    hint = "write bytes, or a number with K, M, G, T, P or E (powers of 1024)"
    if suffix not in _SUFFIXES:
        raise UsageError(f"{name}: {text!r} is not a size", hint=hint)
    try:
        value = Decimal(number.strip()) * _SUFFIXES[suffix]
    except InvalidOperation as exc:
        raise UsageError(f"{name}: {text!r} is not a size", hint=hint) from exc
    if not value.is_finite() or value != int(value) or value < 0:
        raise UsageError(f"{name}: {text!r} is not a whole number of bytes", hint=hint)
    if value >= 1 << 63:
        raise UsageError(f"{name}: {text!r} is larger than 2**63 - 1 bytes", hint=hint)
    return int(value)


def format_size(size_bytes: int) -> str:
    """``512 B``, ``4 KiB``, ``1.5 GiB``: three digits at most, exact values without a fraction."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1000 or unit == "PiB":
            if unit == "B" or value == int(value):
                return f"{int(value)} {unit}"
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple
