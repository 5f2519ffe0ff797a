"""The bundle: a VM in one file, whose disks stock QEMU opens where they lie.

Specified in ``specs/vmpack-v1.md``. :class:`Bundle` reads, :class:`BundleWriter` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.bundle.reader import Bundle
    from vmpack.bundle.writer import BundleWriter

__all__ = ["Bundle", "BundleWriter"]


def __getattr__(name: str) -> object:
    if name == "Bundle":
        from vmpack.bundle.reader import Bundle

        return Bundle
    if name == "BundleWriter":
        from vmpack.bundle.writer import BundleWriter

        return BundleWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
