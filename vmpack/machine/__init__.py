"""The machine of a bundle: its config, its pins, its identity.

Names are loaded on first use (PEP 562): opening a bundle needs :mod:`vmpack.machine.canonical`
and must not pay for pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmpack.machine.boot_layout import BootLayout, read_boot_layout
    from vmpack.machine.config import MachineConfig
    from vmpack.machine.identity import machine_id
    from vmpack.machine.pins import DiskFacts, pin

__all__ = ["BootLayout", "DiskFacts", "MachineConfig", "machine_id", "pin", "read_boot_layout"]

_MODULES = {
    "BootLayout": "boot_layout",
    "DiskFacts": "pins",
    "MachineConfig": "config",
    "machine_id": "identity",
    "pin": "pins",
    "read_boot_layout": "boot_layout",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
