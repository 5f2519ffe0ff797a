"""VMDK extents cut at each sector and with any value in any field: success, or vmpack's error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes
from tests.support.vmdk import Image, contents, cowd, open_vmdk, sesparse, sparse, stream
from vmpack.errors import VmpackError
from vmpack.ops.check import check
from vmpack.ops.info import info

DISK = disk_bytes(40_960, seed=8)
SPECIMENS = {
    "sparse": sparse(DISK),
    "zeroed": sparse(DISK, version=2, flags=7, zeros={2}),
    "stream": stream(DISK, grain=8),
    "cowd": cowd(DISK),
    "sesparse": sesparse(DISK),
}


def survey(path: Path) -> None:
    """Everything a user may do with the image ends in success or in vmpack's own error."""
    steps: list[Callable[[], object]] = [
        lambda: info(path, format="vmdk"),
        lambda: check(path, format="vmdk", full=True),
        lambda: _read_some(path),
    ]
    for step in steps:
        try:
            step()
        except VmpackError as exc:
            if not str(exc).isprintable():
                raise AssertionError(f"{exc!r} is not fit for a terminal") from exc


def _read_some(path: Path) -> None:
    reader = open_vmdk(path)
    try:
        size = reader.virtual_size
        for offset in (0, max(0, size - 65536)):
            reader.read(offset, min(65536, size - offset))
        for _ in zip(range(50), reader.extents(), strict=False):
            pass
    finally:
        reader.close()


HOT = {
    "sparse": [*range(0, 80, 4), 0x2A00, 0x2C00, 0x2C04, 0x3400, 0x3600, 0x3608],
    "zeroed": [8, 0x3600, 0x3604, 0x3608],
    "stream": [*range(0, 80, 4), 0x10000, 0x10008, 0x1000C],
    "cowd": [*range(0, 32, 4), 2048, 2560, 2564],
    "sesparse": [*range(0, 208, 8), 512, 520, 536, 8192, 12288, 12296],
}
VALUES = (0, 1, 2, 7, 8, 127, 511, 512, 4096, 1 << 16, 1 << 31, (1 << 32) - 1)


@pytest.mark.parametrize(("name", "image"), SPECIMENS.items(), ids=SPECIMENS)
def test_every_field_takes_any_value(name: str, image: Image, tmp_path: Path) -> None:
    # hostile: 9
    # hostile: 10
    path = tmp_path / "patched.vmdk"
    whole = bytes(image.data)
    with path.open("wb") as out:
        for offset in HOT[name]:
            for value in VALUES:
                for width in (4, 8):
                    out.seek(0)
                    out.write(whole)
                    out.seek(offset)
                    out.write(value.to_bytes(4, "little") * (width // 4))
                    out.flush()
                    survey(path)


@pytest.mark.parametrize(("name", "image"), SPECIMENS.items(), ids=SPECIMENS)
def test_truncation_at_each_sector(name: str, image: Image, tmp_path: Path) -> None:
    # hostile: 10
    want = contents(image.save(tmp_path / "whole.vmdk"))
    for length in (*range(0, len(image.data), 512), len(image.data) - 1):
        path = tmp_path / "cut.vmdk"
        path.write_bytes(image.data[:length])
        try:
            got = contents(path)
        except VmpackError:
            continue
        assert got == want
