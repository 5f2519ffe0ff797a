"""How the format of a file is decided: once, by magic and name, and never guessed raw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disks import random_disk
from tests.support.images import to_qcow2
from tests.support.qemu import QemuImg
from vmpack import formats
from vmpack.errors import (
    DamagedError,
    InputError,
    RefusedError,
    UnsafeError,
    UnsupportedError,
    UsageError,
)
from vmpack.formats.probe import FOOTERS, MAGICS, Magic
from vmpack.ops.opening import open_image, parse_target


def with_magic(path: Path, *magics: Magic) -> Path:
    data = bytearray(4096)
    for magic in magics:
        at = magic.offset if magic.offset >= 0 else len(data) + magic.offset
        data[at : at + len(magic.value)] = magic.value
    path.write_bytes(data)
    return path


def ids(magic: Magic) -> str:
    return f"{magic.format} at {magic.offset}"


@pytest.mark.parametrize("magic", MAGICS + FOOTERS, ids=ids)
@pytest.mark.parametrize("name", ["disk.raw", "disk.img", "disk.ISO"])
def test_raw_name_with_another_magic_is_refused_until_told(
    magic: Magic, name: str, tmp_path: Path
) -> None:
    # hostile: 1, RAW-PROBE-2
    # hostile: 36
    path = with_magic(tmp_path / name, magic)
    with pytest.raises(UnsafeError, match=f"magic of {magic.format}") as caught:
        open_image(path)
    assert caught.value.clause == "RAW-PROBE-2"
    assert caught.value.hint is not None
    assert "-f raw" in caught.value.hint
    reader = open_image(path, format="raw")
    assert (reader.format.name, reader.virtual_size) == ("raw", 4096)
    reader.close()


@pytest.mark.parametrize("magic", MAGICS, ids=ids)
def test_unnamed_files_are_what_their_magic_says_or_refused_by_name(
    magic: Magic, tmp_path: Path
) -> None:
    # RAW-PROBE-4
    path = with_magic(tmp_path / "disk", magic)
    if magic.format == "vmpack" or magic.format in formats.names():
        # The magic alone is no image.
        with pytest.raises((DamagedError, RefusedError)) as refused:
            open_image(path)
        assert refused.value.clause != "RAW-PROBE-4"
        return
    with pytest.raises(UnsupportedError, match=magic.format) as caught:
        open_image(path)
    assert caught.value.clause == "RAW-PROBE-4"


def test_two_magics_are_refused(tmp_path: Path) -> None:
    # hostile: 3, RAW-PROBE-3
    by_name = {magic.format: magic for magic in MAGICS}
    path = with_magic(tmp_path / "disk", by_name["qcow2"], by_name["tar"])
    with pytest.raises(UnsafeError, match="qcow2, tar") as caught:
        open_image(path)
    assert caught.value.clause == "RAW-PROBE-3"
    with pytest.raises(UnsafeError):
        open_image(with_magic(tmp_path / "disk.img", by_name["vdi"], by_name["tar"]))


def test_raw_is_never_guessed(tmp_path: Path) -> None:
    # RAW-PROBE-1
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(64)) * 64)
    with pytest.raises(UnsupportedError, match="00 01 02 03") as caught:
        open_image(path)
    assert caught.value.clause == "RAW-PROBE-1"
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with pytest.raises(UnsupportedError, match="empty"):
        open_image(empty)


def test_a_footer_does_not_choose_the_parser(tmp_path: Path) -> None:
    # hostile: 36: a guest can write its disk's last sector
    footer = FOOTERS[0]
    with pytest.raises(UnsupportedError, match="not recognised"):
        open_image(with_magic(tmp_path / "disk", footer))
    with pytest.raises(DamagedError) as caught:
        open_image(with_magic(tmp_path / "disk.vhd", footer))
    assert str(caught.value.clause).startswith("VHD-")


def test_names_that_promise_another_format(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(bytes(4096))
    with pytest.raises(DamagedError, match="no qcow2 magic"):
        open_image(path)
    path = tmp_path / "disk.qed"
    path.write_bytes(bytes(4096))
    with pytest.raises(UnsupportedError, match="format qed"):
        open_image(path)


@pytest.mark.qemu
def test_the_magic_wins_over_a_name_that_says_nothing(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 100_352)
    image = to_qcow2(qemu_img, raw).rename(tmp_path / "disk.dat")
    reader = open_image(image)
    assert reader.format.name == "qcow2"
    assert reader.read(0, len(data)) == data
    reader.close()
    with pytest.raises(DamagedError):
        open_image(raw, format="qcow2")


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["qed", "parallels", "qcow"])
def test_formats_that_are_not_read_are_named(kind: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    path = tmp_path / "disk"
    qemu_img.run("create", "-q", "-f", kind, path, "4M")
    with pytest.raises(UnsupportedError, match="version 1" if kind == "qcow" else kind):
        open_image(path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_luks_disk_is_named(version: int, tmp_path: Path) -> None:
    """Its header by hand: qemu-img measures this machine's speed to make one, and may fail."""
    path = tmp_path / "disk"
    path.write_bytes(b"LUKS\xba\xbe" + version.to_bytes(2, "big") + b"aes".ljust(4088, b"\0"))
    with pytest.raises(UnsupportedError, match="luks"):
        open_image(path)


def test_registry_knows_names_aliases_and_suffixes() -> None:
    assert set(formats.names()) == {"raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"}
    assert formats.get("QCOW2") is formats.get("qcow2")
    found = formats.by_suffix("a/b.IMG")
    assert found is not None
    assert found.name == "raw"
    assert formats.by_suffix("disk") is None
    with pytest.raises(UnsupportedError, match="qed"):
        formats.get("qed")
    with pytest.raises(UsageError, match="'vmkd'"):
        formats.get("vmkd")


def test_targets_name_disks_of_bundles(tmp_path: Path) -> None:
    assert parse_target("app.vmpack#root") == ("app.vmpack", "root")
    assert parse_target("app.vmpack") == ("app.vmpack", None)
    odd = tmp_path / "disk#1.raw"
    odd.write_bytes(bytes(512))
    assert parse_target(odd) == (str(odd), None)
    reader = open_image(odd)
    assert reader.virtual_size == 512
    reader.close()
    plain = tmp_path / "disk.raw"
    plain.write_bytes(bytes(512))
    with pytest.raises(UsageError, match="not a bundle"):
        open_image(f"{plain}#root")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.raw")
    for name in ("absent.raw", "pipe.raw", ""):
        with pytest.raises(InputError):
            open_image(tmp_path / name, format="raw")
