"""Images that VMware's products wrote read as their README says."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest

from tests.support.qemu import QemuImg
from tests.support.vmdk import open_vmdk
from vmpack.digest import content_digest
from vmpack.extent import Kind
from vmpack.formats.probe import detect
from vmpack.ops.check import check
from vmpack.ops.convert import convert
from vmpack.source import ByteSource


def expanded(samples: Path, name: str, folder: Path) -> Path:
    path = folder / name
    with path.open("wb") as out:
        for at, piece in enumerate(_pieces(lzma.decompress((samples / f"{name}.xz").read_bytes()))):
            if piece.count(0) < len(piece):
                out.seek(at << 16)
                out.write(piece)
            out.truncate((at << 16) + len(piece))
    return path


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + 65536] for at in range(0, len(data), 65536)]


def test_extent_of_esxi(samples: Path, tmp_path: Path) -> None:
    image = expanded(samples, "esxi-sesparse-extent.vmdk", tmp_path)
    with ByteSource.open(image) as source:
        assert detect(source, image).name == "vmdk"
    reader = open_vmdk(image)
    assert reader.virtual_size == 536_870_912
    found = hashlib.sha256()
    for extent in reader.extents():
        assert extent.kind in (Kind.DATA, Kind.HOLE)
        for at in range(extent.offset, extent.end, 1 << 22):
            found.update(reader.read(at, min(1 << 22, extent.end - at)))
    reader.close()
    assert found.hexdigest() == "3afa48010241335528fe402f083fc9f3a1013a49485221443a78d9a8604e2f90"
    assert check(image, full=True).exit_code == 0


@pytest.mark.qemu
def test_stream_of_vmware(samples: Path, tmp_path: Path, qemu_img: QemuImg) -> None:
    image = expanded(samples, "vmdk-version3-streamoptimized.vmdk", tmp_path)
    reader = open_vmdk(image)
    assert reader.virtual_size == 16 << 30
    assert reader.descriptor is not None
    assert reader.descriptor.create_type == "streamOptimized"
    ours = content_digest(reader)
    reader.close()
    assert check(image, full=True).exit_code == 0
    qemu_img.run("convert", "-f", "vmdk", "-O", "qcow2", image, tmp_path / "disk.qcow2")
    again = convert(tmp_path / "disk.qcow2", tmp_path / "again.vmdk", output_format="vmdk")
    assert again is not None
    reader = open_vmdk(tmp_path / "again.vmdk")
    assert content_digest(reader) == ours
    reader.close()
