"""qcow2 images that break the format or ask for what the caller did not allow."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.images import open_qcow2, patch, to_qcow2, u32, u64, word
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.errors import DamagedError, RefusedError, UnsupportedError, VmpackError
from vmpack.ops.info import info

pytestmark = pytest.mark.qemu
MASK = 0x00FF_FFFF_FFFF_FE00


@pytest.fixture
def image(tmp_path: Path, qemu_img: QemuImg) -> Path:
    """64 KiB clusters, 400 KB of data, uncompressed."""
    raw = tmp_path / "disk.raw"
    random_disk(raw, 400_000, seed=21)
    return to_qcow2(qemu_img, raw)


@pytest.fixture
def l1(image: Path) -> int:
    return word(image, 40)


@pytest.fixture
def l2(image: Path, l1: int) -> int:
    return word(image, l1) & MASK


def first_data(image: Path, l2: int) -> tuple[int, int]:
    """Index and host offset of the first allocated cluster."""
    for index in range(8):
        if word(image, l2 + 8 * index) > 1:
            return index, word(image, l2 + 8 * index) & MASK
    raise AssertionError("the disk has no data")


def refused(
    path: Path, error: type[VmpackError], clause: str, match: str | None = None
) -> VmpackError:
    """Reading the image ends in this error."""
    with pytest.raises(error, match=match) as caught:
        read_all(path)
    assert caught.value.clause == clause
    assert caught.value.path == os.fspath(path)
    return caught.value


def read_all(path: Path, **options: object) -> bytes:
    reader = open_qcow2(path, **options)
    try:
        return reader.read(0, reader.virtual_size)
    finally:
        reader.close()


HEADER_CASES: list[tuple[str, int, bytes, str]] = [
    # hostile: 12
    ("cluster of 256 bytes", 20, u32(8), "QCOW2-HDR-3"),
    ("cluster of 4 MiB", 20, u32(22), "QCOW2-HDR-3"),
    ("shift of 2**32 - 1", 20, u32(0xFFFF_FFFF), "QCOW2-HDR-3"),
    ("header of 96 bytes", 100, u32(96), "QCOW2-HDR-12"),
    ("header of 107 bytes", 100, u32(107), "QCOW2-HDR-12"),
    ("header of 128 KiB", 100, u32(1 << 17), "QCOW2-HDR-12"),
    ("refcounts of 128 bits", 96, u32(7), "QCOW2-HDR-11"),
    ("disk of 2**63 bytes", 24, u64(1 << 63), "QCOW2-HDR-4"),
    # hostile: 13
    ("L1 of 33 MiB", 36, u32(33 << 17), "QCOW2-HDR-6"),
    ("L1 that does not cover the disk", 24, u64(1 << 40), "QCOW2-HDR-6"),
    ("L1 unaligned", 40, u64(65536 + 512), "QCOW2-HDR-7"),
    ("L1 past the end", 40, u64(1 << 40), "QCOW2-HDR-7"),
    ("L1 over the header", 40, u64(0), "QCOW2-HDR-7"),
    # hostile: 14
    ("refcount table of 16 MiB", 56, u32(256), "QCOW2-HDR-8"),
    ("no refcount table", 56, u32(0), "QCOW2-HDR-8"),
    ("refcount table unaligned", 48, u64(65537), "QCOW2-HDR-8"),
    ("refcount table past the end", 48, u64(1 << 50), "QCOW2-HDR-8"),
    ("refcount table over the header", 48, u64(0), "QCOW2-HDR-8"),
    # hostile: 15
    ("65,537 snapshots", 60, u32(65537) + u64(65536), "QCOW2-HDR-9"),
    ("snapshot table unaligned", 60, u32(1) + u64(65537), "QCOW2-HDR-9"),
    ("snapshot table past the end", 60, u32(1) + u64(1 << 40), "QCOW2-HDR-9"),
    ("snapshot table over the header", 60, u32(1) + u64(0), "QCOW2-HDR-9"),
    # hostile: 16
    ("backing name without a size", 8, u64(512) + u32(0), "QCOW2-HDR-2"),
    ("backing name without an offset", 8, u64(0) + u32(5), "QCOW2-HDR-2"),
    ("backing name over the header", 8, u64(50) + u32(5), "QCOW2-HDR-2"),
    ("backing name past the first cluster", 8, u64(65530) + u32(10), "QCOW2-HDR-2"),
    ("backing name at 2**63", 8, u64(1 << 63) + u32(10), "QCOW2-HDR-2"),
    ("backing name of 1,024 bytes", 8, u64(1024) + u32(1024), "QCOW2-HDR-2"),
    # hostile: 19
    ("extension longer than the cluster", 112, u32(0x1234) + u32(0xFFFF_FFF0), "QCOW2-EXT-1"),
]


@pytest.mark.parametrize(
    ("offset", "value", "clause"),
    [case[1:] for case in HEADER_CASES],
    ids=[case[0] for case in HEADER_CASES],
)
def test_header_field_out_of_bounds(offset: int, value: bytes, clause: str, image: Path) -> None:
    found = refused(patch(image, {offset: value}), DamagedError, clause)
    assert found.offset is not None


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFF_FFFF])
def test_other_versions_are_refused_by_number(version: int, image: Path) -> None:
    # hostile: 12
    bad = patch(image, {4: u32(version)})
    refused(bad, UnsupportedError, "QCOW2-HDR-1", match=f"version {version}")


def test_unknown_feature_is_refused_by_the_images_own_name(image: Path) -> None:
    # hostile: 17
    data = image.read_bytes()
    at = data.index(b"dirty bit") - 2
    entry = bytes([0, 9]) + b"time travel\x1b[2J".ljust(46, b"\0")
    bad = patch(image, {72: u64(1 << 9), at: entry})
    error = refused(bad, UnsupportedError, "QCOW2-HDR-10", match="time travel")
    # hostile: 11
    assert "\x1b" not in str(error)
    nameless = patch(image, {72: u64(1 << 40)})
    refused(nameless, UnsupportedError, "QCOW2-HDR-10", match="bit 40")


def test_dirty_image_reads_and_says_so(image: Path, tmp_path: Path) -> None:
    # hostile: 17, QCOW2-HDR-14
    dirty = patch(image, {72: u64(1)})
    assert read_all(dirty)[:400_000] == (tmp_path / "disk.raw").read_bytes()
    assert info(dirty).as_dict()["dirty-flag"] is True


def test_corrupt_image_is_not_read_and_info_says_why(image: Path) -> None:
    # hostile: 17
    corrupt = patch(image, {72: u64(2)})
    found = refused(corrupt, DamagedError, "QCOW2-HDR-15", match="marked corrupt")
    assert found.hint is not None
    document: Any = info(corrupt).as_dict()
    assert document["format-specific"]["data"]["corrupt"] is True


def test_aes_encryption_is_refused_by_name(tmp_path: Path) -> None:
    # hostile: 24
    path = tmp_path / "secret.qcow2"
    options = "encrypt.format=aes,encrypt.key-secret=s"
    words = ["create", "-q", "--object", "secret,id=s,data=pass", "-f", "qcow2", "-o", options]
    run([require_tool("qemu-img"), *words, path, "1M"])
    refused(path, UnsupportedError, "QCOW2-HDR-5", match="AES")
    assert info(path).as_dict()["encrypted"] is True


def test_luks_encryption_is_refused_by_name(image: Path) -> None:
    # hostile: 24
    # The header by hand: qemu-img measures this machine's speed to make one, and may fail.
    at = word(image, 96) & 0xFFFFFFFF
    extension = u32(0x0537BE77) + u32(16) + u64(65536) + u64(4096)
    image = patch(image, {32: u32(2), at: extension + bytes(8)})
    refused(image, UnsupportedError, "QCOW2-HDR-5", match="LUKS")
    assert info(image).as_dict()["encrypted"] is True
    # QCOW2-EXT-5
    refused(patch(image, {at + 8: u64(512)}), DamagedError, "QCOW2-EXT-5")


def test_unknown_compression_is_refused(image: Path) -> None:
    refused(patch(image, {72: u64(8), 104: b"\7"}), UnsupportedError, "QCOW2-HDR-13")
    refused(patch(image, {72: u64(8)}), DamagedError, "QCOW2-HDR-13")
    refused(patch(image, {104: b"\1"}), DamagedError, "QCOW2-HDR-13")


def test_l1_entries_that_may_not_be_followed(image: Path, l1: int) -> None:
    # hostile: 20
    entry = word(image, l1)
    for bad in (
        entry + 512,
        entry | 1,
        entry | 1 << 62,
        1 << 63 | 1 << 50,
        1 << 63 | (word(image, 48)),
        1 << 63 | l1,
    ):
        refused(patch(image, {l1: u64(bad)}), DamagedError, "QCOW2-MAP-2")


def test_two_l1_entries_may_not_share_a_table(tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 7: else a few KiB of tables would stand for petabytes of data
    raw = tmp_path / "disk.raw"
    random_disk(raw, 300_000, seed=1)
    image = to_qcow2(qemu_img, raw, "-o", "cluster_size=4096")
    entry = word(image, word(image, 40))
    bad = patch(image, {word(image, 40): u64(entry) * 2, 24: u64(4 << 20), 36: u32(2)})
    refused(bad, DamagedError, "QCOW2-MAP-2", match="share one L2 table")


def test_l2_entries_that_may_not_be_followed(image: Path, l1: int, l2: int) -> None:
    # hostile: 20
    index, host = first_data(image, l2)
    at = l2 + 8 * index
    cases = {
        1 << 63 | host + 512: "QCOW2-MAP-3",
        1 << 63 | host | 1 << 57: "QCOW2-MAP-3",
        1 << 63 | host | 2: "QCOW2-MAP-3",
        1 << 63: "QCOW2-MAP-3",
        1 << 63 | 1 << 45: "QCOW2-MAP-4",
        1 << 63 | l1: "QCOW2-MAP-5",
        1 << 63 | l2: "QCOW2-MAP-5",
        1 << 63 | word(image, 48): "QCOW2-MAP-5",
        # hostile: 21
        1 << 62 | 1 << 63 | host: "QCOW2-MAP-3",
        1 << 62 | 100: "QCOW2-MAP-3",
        1 << 62 | image.stat().st_size: "QCOW2-MAP-3",
        1 << 62 | l2 + 8: "QCOW2-MAP-5",
    }
    for entry, clause in cases.items():
        refused(patch(image, {at: u64(entry)}), DamagedError, clause)


def test_faulty_entry_is_found_before_its_data_is_read(image: Path, l2: int) -> None:
    # hostile: 20
    index, _ = first_data(image, l2)
    reader = open_qcow2(patch(image, {l2 + 8 * index: u64(1 << 63 | l2)}))
    with pytest.raises(DamagedError):
        list(reader.extents())
    with pytest.raises(DamagedError):
        reader.read(index * 65536, 1)
    reader.close()


def test_zero_flag_before_version_3(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 400_000, seed=21)
    image = to_qcow2(qemu_img, raw, "-o", "compat=0.10")
    l2 = word(image, word(image, 40)) & MASK
    refused(patch(image, {l2: u64(1)}), DamagedError, "QCOW2-MAP-3")


@pytest.mark.parametrize(
    ("entry", "bitmap"),
    [
        (None, 1 << 32 | 1),  # a subcluster both allocated and zero
        (0, 1),  # allocated in a cluster that is not there
        (1 << 62 | 600_000, 5),  # a compressed cluster has no subclusters
    ],
)
def test_subcluster_bitmaps_that_contradict(
    entry: int | None, bitmap: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"x" * 400_000)
    image = to_qcow2(qemu_img, raw, "-o", "extended_l2=on")
    l2 = word(image, word(image, 40)) & MASK
    entry = word(image, l2) if entry is None else entry
    refused(patch(image, {l2: u64(entry) + u64(bitmap)}), DamagedError, "QCOW2-MAP-3")
    from vmpack.ops.check import check

    found = check(tmp_path / "patched-disk.qcow2")
    assert found.exit_code == 2
    assert any(one.clause == "QCOW2-MAP-6" for one in found.findings)


def test_small_cluster_with_extended_entries(image: Path) -> None:
    refused(patch(image, {20: u32(13), 72: u64(16)}), DamagedError, "QCOW2-HDR-3")


def test_truncated_anywhere_is_damage_or_whole(image: Path, tmp_path: Path) -> None:
    # Past each structure: a cut either takes nothing that the guest sees, or is refused.
    data = image.read_bytes()
    want = (tmp_path / "disk.raw").read_bytes()
    cut = tmp_path / "cut.qcow2"
    edges = [0, 3, 4, 71, 72, 103, 111, 512]
    edges += [edge + delta for edge in range(65536, len(data), 65536) for delta in (-1, 0, 1, 513)]
    for length in edges:
        cut.write_bytes(data[:length])
        try:
            got = read_all(cut)
        except DamagedError:
            continue
        assert got[: len(want)] == want, length
    cut.write_bytes(data[:-65536])
    with pytest.raises(DamagedError):
        read_all(cut)


def test_refcount_blocks_out_of_bounds_are_found(image: Path) -> None:
    # hostile: 22
    from vmpack.ops.check import check

    table = word(image, 48)
    for entry in (1 << 50, 513, 1, 1 << 60):
        found = check(patch(image, {table: u64(entry)}))
        assert found.exit_code == 2
        assert any(one.clause == "QCOW2-REFC-1" for one in found.findings), hex(entry)


def test_no_operation_changes_an_image(image: Path, qemu_img: QemuImg) -> None:
    # hostile: 22, QCOW2-WRITE-7
    # hostile: 6
    from vmpack.ops.check import check
    from vmpack.ops.map import map_image

    before = image.read_bytes(), image.stat().st_mtime_ns
    image.chmod(0o444)
    info(image, digest=True)
    check(image, full=True)
    map_image(image)
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before


def test_info_is_bounded_whatever_the_image_claims(image: Path) -> None:
    # hostile: 6
    # hostile: 7
    import json

    entry = struct.pack(">QIHHIIQII", 65536, 1, 1, 60, 0, 0, 0, 0, 0) + b"i" + b"n" * 60
    entry += bytes(-len(entry) % 8)
    count = 3000
    end = -(-image.stat().st_size // 65536) * 65536
    bad = patch(image, {end: entry * count, 60: u32(count) + u64(end)})
    with bad.open("r+b") as out:
        out.seek(end)
        out.write(entry * count)
    document: Any = info(bad).as_dict()
    assert len(json.dumps(document)) < 200_000
    assert document["format-specific"]["data"]["snapshots-total"] == count


def test_memory_is_not_what_the_header_claims(tmp_path: Path, image: Path) -> None:
    # hostile: 7
    # hostile: 8
    huge = tmp_path / "huge.qcow2"
    data = bytearray(image.read_bytes())
    data[24:32] = u64(1 << 50)
    data[36:40] = u32(1 << 22)
    data[40:48] = u64(1 << 22)
    huge.write_bytes(data)
    os.truncate(huge, (1 << 22) + (32 << 20))
    program = (
        "import resource, sys; from tests.support.images import open_qcow2;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print([one.length for one in open_qcow2(sys.argv[1]).extents()]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = run([sys.executable, "-c", program, huge]).stdout.decode().splitlines()
    assert out[0] == f"[{1 << 50}]"
    assert int(out[1]) < 150 << 10


def test_reads_outside_the_disk_are_refused(image: Path) -> None:
    # hostile: 9
    reader = open_qcow2(image)
    for offset, length in ((-1, 1), (0, -1), (reader.virtual_size, 1), (0, 1 << 70)):
        with pytest.raises(VmpackError):
            reader.read(offset, length)
        with pytest.raises(VmpackError):
            list(reader.extents(offset, length))
    reader.close()


def test_refusals_have_documented_exit_codes(image: Path) -> None:
    assert RefusedError.exit_code == 4
    assert DamagedError.exit_code == 5
