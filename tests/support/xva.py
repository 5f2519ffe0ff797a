"""XVA archives as XenServer writes them, made by hand."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from xml.sax.saxutils import escape

import xxhash

MIB = 1 << 20


def xml_value(value: object) -> str:
    """An XML-RPC value."""
    if isinstance(value, bool):
        return f"<value><boolean>{int(value)}</boolean></value>"
    if isinstance(value, Mapping):
        inner = "".join(
            f"<member><name>{escape(str(key))}</name>{xml_value(one)}</member>"
            for key, one in value.items()
        )
        return f"<value><struct>{inner}</struct></value>"
    if isinstance(value, list):
        return f"<value><array><data>{''.join(map(xml_value, value))}</data></array></value>"
    return f"<value>{escape(str(value))}</value>"


def ova_xml(rows: list[tuple[str, str, Mapping[str, object]]]) -> bytes:
    """The config: ``(class, ref, fields)`` rows."""
    objects = [{"class": kind, "id": ref, "snapshot": dict(one)} for kind, ref, one in rows]
    return xml_value({"version": {"export_vsn": "2"}, "objects": objects}).encode()


def machine(disks: Mapping[str, int], **vm: object) -> list[tuple[str, str, Mapping[str, object]]]:
    """Rows of a machine with those disks (ref -> virtual size)."""
    fields: dict[str, object] = {
        "uuid": "12345678-9abc-4def-8123-456789abcdef",
        "name_label": "shop",
        "name_description": "Sells things.",
        "power_state": "Halted",
        "is_a_template": False,
        "is_a_snapshot": False,
        "memory_static_max": str(512 * MIB),
        "memory_dynamic_max": str(512 * MIB),
        "VCPUs_max": "4",
        "VCPUs_at_startup": "4",
        "platform": {"cores-per-socket": "2", "viridian": "true", "device-model": "qemu-upstream"},
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "dc", "firmware": "bios"},
        "other_config": {"folder": "/web"},
        "tags": ["a"],
        "VBDs": [f"Ref:{100 + number}" for number in range(len(disks) + 1)],
        "VIFs": ["Ref:200"],
        **vm,
    }
    rows: list[tuple[str, str, Mapping[str, object]]] = [("VM", "Ref:0", fields)]
    for number, (ref, size) in enumerate(disks.items()):
        vbd = {"VM": "Ref:0", "VDI": ref, "userdevice": str(number), "type": "Disk", "mode": "RW"}
        rows.append(("VBD", f"Ref:{100 + number}", {**vbd, "empty": False}))
        rows.append(("VDI", ref, {"virtual_size": str(size), "name_label": f"disk {number}"}))
    cd = {"VM": "Ref:0", "VDI": "OpaqueRef:NULL", "userdevice": "3", "type": "CD", "mode": "RO"}
    rows.append(("VBD", f"Ref:{100 + len(disks)}", {**cd, "empty": True}))
    vif = {"VM": "Ref:0", "device": "0", "MAC": "52:54:00:12:34:56", "network": "Ref:201"}
    rows.append(("VIF", "Ref:200", vif))
    rows.append(("network", "Ref:201", {"name_label": "Pool network", "bridge": "xenbr0"}))
    return rows


def pieces(data: bytes, *, keep_alive: int = -1) -> list[tuple[int, bytes]]:
    """``(number, bytes)`` as XenServer sends them: no zeros but the first and the last.

    Before the piece of that index an empty one is sent, which takes a number of its own.
    """
    found, number = [], 0
    count = -(-len(data) // MIB)
    for index in range(count):
        if index == keep_alive:
            found.append((number, b""))
            number += 1
        piece = data[index * MIB : (index + 1) * MIB]
        if any(piece) or index in (0, count - 1):
            found.append((number, piece))
        number += 1
    return found


def members_of(
    ref: str, data: bytes, *, sums: str, keep_alive: int = -1
) -> list[tuple[str, bytes]]:
    """Members of one disk; ``sums`` is ``xxhash``, ``checksum`` or empty."""
    found = []
    for number, piece in pieces(data, keep_alive=keep_alive):
        name = f"{ref}/{number:08d}"
        found.append((name, piece))
        if sums == "xxhash":
            found.append((f"{name}.xxhash", xxhash.xxh64(piece).hexdigest().upper().encode()))
        elif sums:
            found.append((f"{name}.checksum", hashlib.sha1(piece).hexdigest().encode()))
    return found


def tar(members: list[tuple[str, bytes]]) -> bytes:
    """An archive of them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def xva(disks: Mapping[str, bytes], *, sums: str = "xxhash", keep_alive: int = -1) -> bytes:
    """An archive of a machine with those disks."""
    config = ova_xml(machine({ref: len(data) for ref, data in disks.items()}))
    found = [("ova.xml", config)]
    for ref, data in disks.items():
        found += members_of(ref, data, sums=sums, keep_alive=keep_alive)
    return tar(found)
