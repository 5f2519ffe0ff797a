"""qcow2, QEMU's own format, versions 2 and 3. Profile: specs/qcow2.md.

``header`` decodes and validates, ``mapping`` says where guest clusters lie, ``inflate`` decodes
compressed ones, ``reader`` joins them; ``check`` recounts references; ``tables`` and ``writer``
write.

:data:`FORMAT` is loaded on first use (PEP 562): a bundle's header needs this package's structures,
and nothing of the registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.formats.qcow2.format import FORMAT

__all__ = ["FORMAT"]


def __getattr__(name: str) -> object:
    if name != "FORMAT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vmpack.formats.qcow2.format import FORMAT

    return FORMAT
