"""A bundle's disks as images: opened, described, converted and compared by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from vmpack.errors import DamagedError, UnsafeError, UsageError
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert
from vmpack.ops.info import info
from vmpack.ops.map import map_image
from vmpack.ops.opening import is_bundle, open_image
from vmpack.ops.pack import pack


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One disk of 200,001 bytes: its view is 200,192 bytes long."""
    random_disk(tmp_path / "root.raw", 200_001, seed=3)
    pack([tmp_path / "root.raw"], tmp_path / "app.vmpack")
    return tmp_path / "app.vmpack"


def disk_id(bundle: Path) -> str:
    document: Any = info(bundle).as_dict()
    found: str = document["disks"][0]["id"]
    return found


def test_a_disk_has_its_exact_size_and_content(bundle: Path, tmp_path: Path) -> None:
    data = (tmp_path / "root.raw").read_bytes()
    for target in (bundle, f"{bundle}#{disk_id(bundle)}"):
        reader = open_image(target)
        assert reader.virtual_size == len(data)
        assert reader.read(0, len(data)) == data
        assert sum(extent.length for extent in reader.extents()) == len(data)
        with pytest.raises(UsageError):
            reader.read(len(data), 1)
        reader.close()
    assert compare(bundle, tmp_path / "root.raw", strict=True).identical
    convert(bundle, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == data


def test_info_of_a_bundle_and_of_its_disk(bundle: Path, tmp_path: Path) -> None:
    whole = info(bundle).as_dict()
    assert whole["format"] == "vmpack"
    target = f"{bundle}#{disk_id(bundle)}"
    disk = info(target, digest=True).as_dict()
    assert disk["virtual-size"] == 200_001
    raw = info(tmp_path / "root.raw", digest=True).as_dict()
    assert disk["content-digest"] == raw["content-digest"]


def test_map_of_a_disk_is_compressed_data(bundle: Path) -> None:
    rows: Any = map_image(bundle)
    assert sum(row["length"] for row in rows) == 200_001
    assert all(row["compressed"] for row in rows if row["data"])


def test_several_disks_have_to_be_named(tmp_path: Path) -> None:
    for name in ("a.raw", "b.raw"):
        random_disk(tmp_path / name, 10_000, seed=4)
    pack([tmp_path / "a.raw", tmp_path / "b.raw"], tmp_path / "app.vmpack")
    with pytest.raises(UsageError, match="2 disks"):
        open_image(tmp_path / "app.vmpack")
    with pytest.raises(UsageError, match="no disk 'c'"):
        open_image(f"{tmp_path / 'app.vmpack'}#c")


def test_check_of_a_bundle_has_qemu_imgs_exit_codes(bundle: Path) -> None:
    assert check(bundle, full=True).exit_code == 0
    bundle.chmod(0o644)
    data = bundle.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    bundle.write_bytes(flipped)
    assert check(bundle).exit_code == 2
    bundle.write_bytes(data[:-1])
    assert check(bundle).exit_code == 2
    with pytest.raises(DamagedError):
        open_image(bundle)


def test_a_raw_name_is_never_a_bundle(bundle: Path) -> None:
    # hostile: 1: a guest that writes a bundle to its disk does not choose the parser
    disguised = bundle.rename(bundle.with_suffix(".raw"))
    assert not is_bundle(disguised)
    for operation in (open_image, info, check):
        with pytest.raises(UnsafeError, match="magic of vmpack"):
            operation(disguised)
    reader = open_image(disguised, format="vmpack")
    assert reader.virtual_size == 200_001
    reader.close()
    reader = open_image(disguised, format="raw")
    assert reader.read(1, 6) == b"VMPACK"
    reader.close()
