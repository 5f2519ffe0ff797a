"""Specimens that neither qemu-img nor vmpack writes: other makers' extents, logs, chains."""

from __future__ import annotations

import bz2
import gzip
import lzma
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support import vdi, vhd, vhdx, vmdk
from tests.support.disks import disk_bytes, write_sparse
from tests.support.tools import require_tool, run
from vmpack.formats import STREAM_SUFFIXES

Found = tuple[str, Path, tuple[Path, ...]]
"""Name, image, the files that it stands on, nearest first."""
DISK = disk_bytes(61_440, seed=98, block=512)
MIB = 1 << 20


def qcow2_images(folder: Path) -> Iterable[Found]:
    """An overlay of a raw disk, and one of a qcow2 image."""
    qemu_img = require_tool("qemu-img")
    for kind in ("raw", "qcow2"):
        place = _place(folder, f"overlay-{kind}")
        write_sparse(folder / "base.raw", DISK)
        base, image = place / f"base.{kind}", place / "image.qcow2"
        run([qemu_img, "convert", "-f", "raw", "-O", kind, folder / "base.raw", base])
        run([qemu_img, "create", "-f", "qcow2", "-b", base.name, "-F", kind, image])
        yield f"overlay-{kind}", image, (base,)


def vmdk_images(folder: Path) -> Iterable[Found]:
    """Extents of ESX and ESXi, bare and behind a descriptor; a hosted disk by hand; a delta."""
    sectors = len(DISK) // 512
    for name, kind, extent in (
        ("cowd", "VMFSSPARSE", vmdk.cowd(DISK)),
        ("sesparse", "SESPARSE", vmdk.sesparse(DISK, {1: 1, 2: 2})),
    ):
        yield f"{name}-bare", extent.save(_place(folder, f"{name}-bare") / "image.vmdk"), ()
        yield name, vmdk.described(_place(folder, name), kind, extent, sectors), ()
    hosted = vmdk.sparse(DISK, version=2, flags=7, zeros=(1, 3), entries=4)
    yield "hosted", hosted.save(_place(folder, "hosted") / "image.vmdk"), ()
    stream = vmdk.stream(DISK, grain=8)
    yield "markers", stream.save(_place(folder, "markers") / "image.vmdk"), ()
    delta = _place(folder, "delta")
    base = vmdk.sparse(DISK).save(delta / "base.vmdk")
    line = f'RW {sectors} SPARSE "image.vmdk"'
    link = vmdk.text("monolithicSparse", [line], parent="12345678", hint="base.vmdk")
    child = vmdk.sparse(DISK, descriptor=link, holes=range(8)).save(delta / "image.vmdk")
    yield "delta", child, (base,)


def vhd_images(folder: Path) -> Iterable[Found]:
    """A differencing disk on a dynamic one."""
    place = _place(folder, "difference")
    size, block = MIB, 512 << 10
    base = vhd.write(place / "base.vhd", DISK + bytes(size - len(DISK)), subformat="dynamic")
    changes = {number: bytes([number % 255 + 1]) * 512 for number in (0, 1, 7, 8, 1100)}
    image = vhd.difference(place / "image.vhd", base, size, changes, block_size=block)
    for left in place.glob("*.raw"):
        left.unlink()
    yield "difference", image, (base,)


def vhdx_images(folder: Path) -> Iterable[Found]:
    """Dirty logs, one of them around its end; large sectors; a differencing disk."""
    head = DISK.ljust(MIB, b"\0")
    for name, start in (("log", 0), ("log-around", MIB - 4096)):
        image = _place(folder, name) / "image.vhdx"
        disk = vhdx.Made(3 * MIB, blocks={0: (6, head)}, log_guid=vhdx.LOG_GUID)
        disk.write(image)
        at = disk.data_at
        entries = [
            vhdx.log_entry([(at, b"\x11" * 4096), (at + 8192, 8192)], sequence=7, tail=start),
            vhdx.log_entry([(at + 4096, b"\x22" * 4096)], sequence=8, tail=start),
        ]
        vhdx.put_log(image, start, *entries)
        yield name, image, ()
    image = _place(folder, "4096") / "image.vhdx"
    yield "4096", vhdx.Made(5 * MIB, sector=4096, blocks={1: (6, head)}).write(image), ()
    place = _place(folder, "difference")
    base = vhdx.Made(3 * MIB, blocks={0: (6, head)}).write(place / "base.vhdx")
    pairs = [
        ("parent_linkage", f"{{{vhdx.DATA_WRITE}}}"),
        ("relative_path", ".\\base.vhdx"),
    ]
    child = vhdx.Made(
        3 * MIB,
        blocks={0: (7, bytes(MIB)), 2: (6, head)},
        bitmaps={0: b"\xf0\x0f" * 4},
        parent=pairs,
        data_write=uuid.UUID(int=0x3333),
    )
    yield "difference", child.write(place / "image.vhdx"), (base,)


def vdi_images(folder: Path) -> Iterable[Found]:
    """Every kind of entry of a block map; a differencing disk."""
    place = _place(folder, "difference")
    head = DISK.ljust(MIB, b"\0")
    base, image = place / "base.vdi", place / "image.vdi"
    parent = vdi.write_vdi(base, [1, vdi.FREE, 0], {0: head, 1: head})
    vdi.write_vdi(image, [vdi.FREE, vdi.ZERO, 0], {0: head}, parent=parent, number=2)
    yield "difference", image, (base,)


def streams(suffix: str, codec: str) -> Callable[[Path], Iterable[Found]]:
    """Builder of a raw disk compressed as a stream: of one frame, and of two."""

    def build(folder: Path) -> Iterable[Found]:
        for name, pieces in (("one", [DISK]), ("two", [DISK[:20000], DISK[20000:]])):
            image = _place(folder, name) / f"image.raw{suffix}"
            image.write_bytes(b"".join(_COMPRESS[codec](piece) for piece in pieces))
            yield name, image, ()

    return build


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": _zstd,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


EXTRA: dict[str, Callable[[Path], Iterable[Found]]] = {
    "qcow2": qcow2_images,
    "vmdk": vmdk_images,
    "vhd": vhd_images,
    "vhdx": vhdx_images,
    "vdi": vdi_images,
    **{f"raw{suffix}": streams(suffix, codec) for suffix, codec in STREAM_SUFFIXES.items()},
}
"""Builders, by format."""
