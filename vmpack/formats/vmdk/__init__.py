"""VMDK, VMware's disk format: sparse, stream-optimized, flat, split. Profile: specs/vmdk.md.

``structs`` and ``descriptor`` decode and encode; ``sparse``, ``cowd`` and ``sesparse`` say where an
extent's grains lie, on what ``tables`` gives them; ``grains`` decodes compressed ones; ``reader``
joins the extents; ``check`` walks their tables.

:data:`FORMAT` is loaded on first use (PEP 562): whoever wants a structure pays for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.formats.vmdk.format import FORMAT

__all__ = ["FORMAT"]


def __getattr__(name: str) -> object:
    if name != "FORMAT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vmpack.formats.vmdk.format import FORMAT

    return FORMAT
