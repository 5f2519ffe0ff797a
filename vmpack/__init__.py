"""vmpack: a VM in one file that stock QEMU boots, and that opens the same everywhere.

The library's functions are what the commands do. They are imported on first use (PEP 562), so that
``import vmpack`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.bundle.reader import Bundle
    from vmpack.errors import VmpackError
    from vmpack.machine import MachineConfig
    from vmpack.ops.check import check
    from vmpack.ops.compare import compare
    from vmpack.ops.convert import convert
    from vmpack.ops.create import create
    from vmpack.ops.info import info
    from vmpack.ops.map import map_image
    from vmpack.ops.measure import measure
    from vmpack.ops.opening import open_image
    from vmpack.ops.pack import pack
    from vmpack.ops.unpack import unpack

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "MachineConfig",
    "VmpackError",
    "__version__",
    "check",
    "compare",
    "convert",
    "create",
    "info",
    "map_image",
    "measure",
    "open_image",
    "pack",
    "unpack",
]

_MODULES = {
    "pack": "vmpack.ops.pack",
    "unpack": "vmpack.ops.unpack",
    "Bundle": "vmpack.bundle.reader",
    "convert": "vmpack.ops.convert",
    "open_image": "vmpack.ops.opening",
    "info": "vmpack.ops.info",
    "check": "vmpack.ops.check",
    "compare": "vmpack.ops.compare",
    "map_image": "vmpack.ops.map",
    "measure": "vmpack.ops.measure",
    "create": "vmpack.ops.create",
    "MachineConfig": "vmpack.machine",
    "VmpackError": "vmpack.errors",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
