"""Small disks that start by BIOS or UEFI, or would if something were not missing."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.tools import require_tool, run
from vmpack.units import MiB

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
ESP_AT, ESP_SIZE = MiB, 4 * MiB
SIZE = 8 * MiB


def disk(path: Path, script: str, size: int = SIZE) -> Path:
    """A disk with the partitions that sfdisk's ``script`` has."""
    with path.open("wb") as file:
        file.truncate(size)
    run([require_tool("sfdisk"), "--quiet", path], stdin=script.encode())
    return path


def patch(path: Path, at: int, data: bytes) -> Path:
    """Write ``data`` at ``at`` (from the end, where it is negative)."""
    with path.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        file.write(data)
    return path


def put_fat(path: Path, files: Mapping[str, bytes], at: int = ESP_AT, size: int = ESP_SIZE) -> Path:
    """A FAT file system with ``files`` at an offset of the disk."""
    part = path.with_name(path.name + ".fat")
    with part.open("wb") as file:
        file.truncate(size)
    run([require_tool("mkfs.vfat"), "-i", "12345678", part])
    with TemporaryDirectory(dir=path.parent) as folder:
        for name, data in files.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        top = sorted(Path(folder).iterdir())
        if top:
            env = {"MTOOLS_SKIP_CHECK": "1"}
            run([require_tool("mcopy"), "-s", "-i", part, *top, "::"], env=env)
    patch(path, at, part.read_bytes())
    return path


def uefi_disk(path: Path, files: Mapping[str, bytes], extra: str = "") -> Path:
    """A GPT disk with an EFI system partition that holds ``files``, and a Linux partition."""
    sectors = ESP_SIZE // 512
    script = f"label: gpt\nstart=2048, size={sectors}, type={ESP}\ntype={LINUX}\n{extra}"
    return put_fat(disk(path, script), files)


def pe_file(
    *, machine: int = 0x8664, signed: bool = False, sections: Mapping[str, bytes] | None = None
) -> bytes:
    """A PE32+ file that runs nothing."""
    parts = dict(sections or {})
    optional = struct.pack("<H", 0x20B) + bytes(110) + bytes(16 * 8)
    if signed:
        optional = optional[: 112 + 32] + struct.pack("<II", 4096, 8) + optional[112 + 40 :]
    head = b"MZ" + bytes(58) + struct.pack("<I", 64)
    head += b"PE\0\0" + struct.pack("<HHIIIHH", machine, len(parts), 0, 0, 0, len(optional), 2)
    head += optional
    at = len(head) + 40 * len(parts)
    table, body = b"", b""
    for name, data in parts.items():
        place = (len(data), 0, len(data), at + len(body))
        table += name.encode().ljust(8, b"\0") + struct.pack("<IIII", *place) + bytes(16)
        body += data
    return head + table + body


def cpio(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive ("newc")."""
    out = b""
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        raw = name.encode() + b"\0"
        numbers = (1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + "".join(f"{one:08X}" for one in numbers).encode() + raw
        out += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return out


def initramfs(modules: Sequence[str], builtin: Sequence[str] | None = ()) -> bytes:
    """A gzip'd initramfs with these modules; ``builtin`` is what the kernel has in itself."""
    files = {f"lib/modules/6.1.0/kernel/drivers/{name}.ko": b"\x7fELF" * 9 for name in modules}
    if builtin is not None:
        text = "".join(f"kernel/drivers/{name}.ko\n" for name in builtin)
        files["lib/modules/6.1.0/modules.builtin"] = text.encode()
    return gzip.compress(cpio({"init": b"#!/bin/sh\n", **files}), mtime=0)
