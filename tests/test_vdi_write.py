"""The VDI writer: qemu-img reads what it writes, and the bytes are always the same."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.qemu import QemuImg
from tests.support.vdi import MIB, ZERO, open_vdi
from vmpack.errors import UsageError
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.measure import measure

SIZES = (0, 1, 512, MIB - 1, MIB, MIB + 1, 2 * MIB, 7_340_033)
KINDS = ("off", "on")


@pytest.mark.qemu
@pytest.mark.parametrize("static", KINDS)
def test_qemu_reads_what_is_written(static: str, tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VDI-WRITE-1, VDI-WRITE-3
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vdi"
    for size in SIZES:
        random_disk(raw, size, seed=size)
        result = convert(raw, image, options={"static": static}, force=True)
        assert result.verified
        each_qemu_img.run("compare", "-f", "raw", "-F", "vdi", raw, image)
        each_qemu_img.assert_clean(image, fmt="vdi")
        seen = each_qemu_img.json("info", "-f", "vdi", image)
        assert seen["virtual-size"] == -(-size // 512) * 512
        expected = measure(raw, "vdi", {"static": static})
        assert expected["required"] == image.stat().st_size == result.size
        assert expected["fully-allocated"] >= expected["required"]
        assert (
            measure(size, "vdi", {"static": static})["fully-allocated"]
            == (expected["fully-allocated"])
        )


def test_blocks_of_zeros_are_not_stored(tmp_path: Path) -> None:
    # VDI-WRITE-2, VDI-WRITE-5
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vdi"
    data = bytearray(9 * MIB)
    data[MIB + 5] = 1
    data[4 * MIB - 1] = data[4 * MIB] = 2
    data[8 * MIB + 300_000] = 3
    write_sparse(raw, bytes(data))
    convert(raw, image)
    reader = open_vdi(image)
    assert reader.header.offset_data == MIB
    assert [entry for chunk in reader.map.chunks() for entry in chunk if entry < ZERO] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    assert reader.read(0, len(data)) == data
    reader.close()
    assert image.stat().st_size == 5 * MIB
    assert image.stat().st_blocks * 512 < 128 << 10
    static = tmp_path / "static.vdi"
    convert(raw, static, options={"static": "on"})
    assert static.stat().st_size == 10 * MIB
    assert static.stat().st_blocks * 512 < 128 << 10


@pytest.mark.parametrize("static", KINDS)
def test_same_bytes_always(static: str, tmp_path: Path) -> None:
    # VDI-WRITE-4
    raw = write_sparse(tmp_path / "disk.raw", disk_bytes(9_000_000, seed=7))
    outputs = []
    for workers in (1, 2, 5):
        out = tmp_path / f"{workers}.vdi"
        convert(raw, out, options={"static": static}, workers=workers)
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    golden = {
        "off": "c18cb5b95365154a74d652b899cbd2a3cddd84255c91c5a82aea57803feef0c0",
        "on": "054fad9ab46a6a5872d6977ff93821c30b91fc09afcaeca5b75b69a78253e84e",
    }
    assert hashlib.sha256(outputs[0]).hexdigest() == golden[static]


def test_uuids_derive_from_the_content_or_are_given(tmp_path: Path) -> None:
    # VDI-WRITE-4
    raw = tmp_path / "disk.raw"
    found = []
    for seed in (1, 2):
        random_disk(raw, 100_000, seed=seed)
        convert(raw, tmp_path / "a.vdi", force=True)
        found.append(identifiers(tmp_path / "a.vdi"))
    assert len({one for pair in found for one in pair}) == 4
    wanted = "01234567-89ab-cdef-0123-456789abcdef"
    convert(raw, tmp_path / "a.vdi", options={"uuid": wanted}, force=True)
    assert identifiers(tmp_path / "a.vdi") == (uuid.UUID(wanted), found[1][1])
    # Stored as a GUID: the first three groups little-endian.
    stored = (tmp_path / "a.vdi").read_bytes()[0x188:0x198]
    assert stored.hex() == "67452301ab89efcd0123456789abcdef"
    facts: Any = info(tmp_path / "a.vdi").as_dict()
    assert facts["format-specific"]["data"]["uuid"] == wanted
    create(tmp_path / "b.vdi", 1 << 20, "vdi")
    assert uuid.UUID(int=0) not in identifiers(tmp_path / "b.vdi")


def identifiers(image: Path) -> tuple[uuid.UUID, uuid.UUID]:
    reader = open_vdi(image)
    reader.close()
    return reader.header.uuid_image, reader.header.uuid_modification


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"static": "yes"}, "static: 'yes'"),
        ({"uuid": "x"}, "uuid: 'x'"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "no UUID"),
        ({"preallocation": "full"}, "no option 'preallocation'"),
    ],
)
def test_options_that_are_refused(options: dict[str, str], text: str, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(512))
    with pytest.raises(UsageError, match=text):
        convert(raw, tmp_path / "a.vdi", options=options)
    with pytest.raises(UsageError, match="cannot be compressed"):
        convert(raw, tmp_path / "a.vdi", compressed=True)
    assert not (tmp_path / "a.vdi").exists()


def test_no_operation_changes_an_image(tmp_path: Path) -> None:
    # VDI-WRITE-7
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vdi"
    random_disk(raw, 3_000_000, seed=1)
    convert(raw, image)
    before = image.read_bytes()
    convert(image, tmp_path / "back.raw")
    info(image, digest=True)
    assert image.read_bytes() == before
