"""The descriptor of an image that vmpack writes.

Source: VMware Virtual Disk Format 5.0, "The Descriptor File".
"""

from __future__ import annotations

from collections.abc import Sequence

from vmpack.formats.vmdk.descriptor import Descriptor, ExtentLine
from vmpack.formats.vmdk.geometry import geometry
from vmpack.formats.vmdk.request import STREAM_OPTIMIZED, Identity, Request


def describe(request: Request, identity: Identity, extents: Sequence[tuple[int, str]]) -> bytes:
    """The text for an image with these extents (sectors and file names)."""
    kind = "FLAT" if request.flat else "SPARSE"
    # Nothing in a stream can be written again.
    access = "RDONLY" if request.subformat == STREAM_OPTIMIZED else "RW"
    lines = [
        ExtentLine(sectors, kind, name, 0 if request.flat else None, access)
        for sectors, name in extents
    ]
    return Descriptor(
        cid=identity.cid,
        create_type=request.subformat,
        extents=lines,
        ddb=_database(request, identity),
        encoding="UTF-8",
    ).encode()


def _database(request: Request, identity: Identity) -> dict[str, str]:
    shape = geometry(request.adapter_type, request.capacity)
    digits = identity.uuid.hex(" ")
    return {
        "adapterType": request.adapter_type,
        "geometry.cylinders": str(shape.cylinders),
        "geometry.heads": str(shape.heads),
        "geometry.sectors": str(shape.sectors),
        "longContentID": identity.long_content_id,
        "toolsVersion": request.tools_version,
        # VMware parts the 16 bytes in the middle.
        "uuid": f"{digits[:23]}-{digits[24:]}",
        "virtualHWVersion": request.hardware_version,
    }
