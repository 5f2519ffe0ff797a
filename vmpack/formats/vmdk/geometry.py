"""The disk geometry that VMware writes into a descriptor, by adapter type."""

from __future__ import annotations

from typing import NamedTuple

_SECTORS_PER_MIB = 2048
_IDE_MAX_CYLINDERS = 16383
"""What an ATA disk reports when it is larger than its geometry can say."""
_SCSI_MAX_CYLINDERS = 65535


class Geometry(NamedTuple):
    """Cylinders, heads, and sectors of a track."""

    cylinders: int
    heads: int
    sectors: int


def geometry(adapter_type: str, capacity: int) -> Geometry:
    """The geometry of a disk of ``capacity`` sectors behind an adapter of that type.

    IDE disks have 16 heads and 63 sectors. SCSI disks follow the BusLogic adapter's rules, which
    give 255 heads and 63 sectors from 2 GiB on. Cylinders are rounded down, and at least 1.
    Source: VMware GSX Server Virtual Machine Guide, "BusLogic uses the following rules".
    """
    if adapter_type == "ide":
        heads, sectors, most = 16, 63, _IDE_MAX_CYLINDERS
    else:
        heads, sectors = _scsi(capacity)
        most = _SCSI_MAX_CYLINDERS
    return Geometry(min(max(1, capacity // (heads * sectors)), most), heads, sectors)


def _scsi(capacity: int) -> tuple[int, int]:
    if capacity < 1024 * _SECTORS_PER_MIB:
        return 64, 32
    if capacity < 2048 * _SECTORS_PER_MIB:
        return 128, 32
    return 255, 63
