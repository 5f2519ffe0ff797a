"""VHDX, Hyper-V's own format. Profile: specs/vhdx.md.

``image`` opens (``header``, ``log`` and ``replay``, ``regions``, ``metadata``), ``bat`` says where
guest blocks lie, ``reader`` joins them; ``check`` walks everything; ``layout`` and ``writer``
write.

:data:`FORMAT` is loaded on first use (PEP 562), so that a module of this package can be imported
without the registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.formats.vhdx.format import FORMAT

__all__ = ["FORMAT"]


def __getattr__(name: str) -> object:
    if name != "FORMAT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vmpack.formats.vhdx.format import FORMAT

    return FORMAT
