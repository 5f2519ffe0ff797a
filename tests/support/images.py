"""Images to read: written by qemu-img, then changed byte by byte."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.qemu import QemuImg
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.reader import Qcow2Reader
from vmpack.source import ByteSource

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "zlib": ("-c",),
    "zstd": ("-c", "-o", "compression_type=zstd"),
    "512": ("-o", "cluster_size=512"),
    "512-zlib": ("-c", "-o", "cluster_size=512"),
    "2M": ("-o", "cluster_size=2M"),
    "2M-zstd": ("-c", "-o", "cluster_size=2M,compression_type=zstd"),
    "4K-zstd": ("-c", "-o", "cluster_size=4096,compression_type=zstd"),
    "extended": ("-o", "extended_l2=on"),
    "extended-zlib": ("-c", "-o", "extended_l2=on"),
    "v2": ("-o", "compat=0.10"),
    "v2-zlib": ("-c", "-o", "compat=0.10"),
    "refcount-1": ("-o", "refcount_bits=1"),
    "refcount-4": ("-o", "refcount_bits=4"),
    "refcount-64": ("-o", "refcount_bits=64"),
    "metadata": ("-o", "preallocation=metadata"),
    "full": ("-o", "preallocation=full"),
    "no-zero-detection": ("-S", "0"),
}
"""qemu-img convert's options for each way in which qcow2 stores a disk."""


def to_qcow2(qemu_img: QemuImg, raw: Path, *options: str) -> Path:
    """``raw`` as a qcow2 image beside it."""
    image = raw.with_suffix(".qcow2")
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
    return image


def open_qcow2(path: str | os.PathLike[str], **options: object) -> Qcow2Reader:
    """A reader of the image, ``options`` those of :class:`OpenOptions`."""
    return Qcow2Reader(ByteSource.open(path), OpenOptions(**options))  # type: ignore[arg-type]


def patch(path: Path, changes: Mapping[int, bytes]) -> Path:
    """A copy of the image with other bytes at some offsets; a longer one where they lie behind."""
    target = path.with_name(f"patched-{path.name}")
    data = bytearray(path.read_bytes())
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    target.write_bytes(data)
    return target


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def word(path: Path, offset: int) -> int:
    """The big-endian 64-bit word at ``offset``."""
    return int.from_bytes(path.read_bytes()[offset : offset + 8], "big")
