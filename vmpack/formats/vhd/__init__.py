"""VHD, of Virtual PC and Hyper-V: fixed, dynamic and differencing disks. Profile: specs/vhd.md.

``footer`` finds and validates the footer and has the one rule for a disk's size, ``table`` the
block allocation table, ``reader`` joins them; ``plan`` lays out what ``writer`` writes.

:data:`FORMAT` is loaded on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.formats.vhd.format import FORMAT

__all__ = ["FORMAT"]


def __getattr__(name: str) -> object:
    if name != "FORMAT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vmpack.formats.vhd.format import FORMAT

    return FORMAT
