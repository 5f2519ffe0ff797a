"""Writing VHD images: what qemu-img and libvhdi see, the same bytes however they are made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vhd import open_image, write
from vmpack.copy import copy_image
from vmpack.errors import UnsupportedError, UsageError
from vmpack.formats.base import CreateOptions
from vmpack.formats.raw import RawReader
from vmpack.formats.vhd.writer import create as new_writer
from vmpack.formats.vhd.writer import stream
from vmpack.ops.check import check
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.measure import measure
from vmpack.source import ByteSource

BLOCK = 2 << 20
SIZES = (512, 1000, 65_536, BLOCK - 512, BLOCK, BLOCK + 512, 4 * BLOCK + 70_144, 257 * 65_536)
VARIANTS: dict[str, dict[str, str]] = {
    "dynamic": {},
    "fixed": {"subformat": "fixed"},
    "512K": {"block_size": "512K"},
}


def holes(path: Path, size: int, *places: int) -> Path:
    """A raw image with a byte at each place."""
    with path.open("wb") as out:
        out.truncate(size)
        for place in places:
            out.seek(place)
            out.write(b"x")
    return path


@pytest.mark.qemu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_qemu_reads_the_exact_disk(
    variant: str, size: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    # VHD-WRITE-1, VHD-WRITE-2, VHD-SIZE-1
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    data = random_disk(raw, size, seed=size)
    convert(raw, image, options=VARIANTS[variant])
    if size % 512:
        write_sparse(raw, data + bytes(-size % 512))
    qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vpc")
    theirs = qemu_img.json("info", "-f", "vpc", image)
    document = info(image).as_dict()
    for field in ("virtual-size", "actual-size", "format", "cluster-size"):
        assert document.get(field) == theirs.get(field), field
    assert check(image).exit_code == 0


@pytest.mark.qemu
def test_every_qemu_sees_the_exact_size(tmp_path: Path, each_qemu_img: QemuImg) -> None:
    # VHD-WRITE-2
    raw = tmp_path / "disk.raw"
    random_disk(raw, 12_345_856, seed=2)
    for variant, values in VARIANTS.items():
        image = tmp_path / f"{variant}.vhd"
        convert(raw, image, options=values)
        each_qemu_img.assert_identical(raw, image, fmt_a="raw", fmt_b="vpc")


@pytest.mark.parametrize("variant", VARIANTS)
def test_libvhdi_reads_it_too(variant: str, tmp_path: Path) -> None:
    # VHD-WRITE-1, VHD-WRITE-6
    program = require_tool("vhdiinfo")
    ident = "12345678-9abc-def0-1234-56789abcdef0"
    values = {**VARIANTS[variant], "uuid": ident}
    image = write(tmp_path / "disk.vhd", disk_bytes(9_000_448), **values)
    text = run([program, image]).stdout.decode()
    assert "9000448 bytes" in text
    assert f"Identifier\t\t: {ident}" in text
    assert ("Fixed" if variant == "fixed" else "Dynamic") in text


def test_blocks_ascend_aligned_and_zeros_are_not_stored(tmp_path: Path) -> None:
    # VHD-WRITE-4, VHD-WRITE-5
    size = 40 * BLOCK
    raw = holes(tmp_path / "disk.raw", size, 0, 7 * BLOCK - 1, 7 * BLOCK, 39 * BLOCK + 9)
    image = tmp_path / "disk.vhd"
    convert(raw, image)
    reader = open_image(image)
    stored = [where for _, _, where in reader.table.runs(0, 40) if where is not None]  # type: ignore[union-attr]
    reader.close()
    assert len(stored) == 4
    assert stored == sorted(stored)
    assert all((where + 512) % 4096 == 0 for where in stored)
    assert image.read_bytes()[stored[0] : stored[0] + 512] == b"\xff" * 512
    assert image.stat().st_blocks * 512 < 100_000
    assert image.stat().st_size == stored[-1] + 512 + BLOCK + 512


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_and_workers_change_nothing(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # VHD-WRITE-6
    raw = tmp_path / "disk.raw"
    random_disk(raw, 9_000_000, seed=3)
    seen = set()
    for number, (batch, workers) in enumerate([(2 << 20, 1), (65536, 3), (7 << 20, 2)]):
        monkeypatch.setattr("vmpack.batches.Spans.batches.__defaults__", (batch,))
        image = tmp_path / f"{number}.vhd"
        convert(raw, image, options=VARIANTS[variant], workers=workers)
        seen.add(image.read_bytes())
    assert len(seen) == 1


def test_ids_follow_the_content_and_times_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # VHD-WRITE-6
    one = write(tmp_path / "one.vhd", disk_bytes(BLOCK, seed=1))
    two = write(tmp_path / "two.vhd", disk_bytes(BLOCK, seed=2))
    footers = [open_image(path).found.footer for path in (one, two)]
    assert footers[0].unique_id != footers[1].unique_id
    assert footers[0].timestamp == 0
    for epoch, wanted in (("1000000000", 1_000_000_000 - 946_684_800), ("1", 0)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        again = open_image(write(tmp_path / "one.vhd", disk_bytes(BLOCK, seed=1))).found.footer
        assert (again.timestamp, again.unique_id) == (wanted, footers[0].unique_id)


def test_a_pipe_gets_the_files_bytes(tmp_path: Path) -> None:
    # VHD-WRITE-7
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    random_disk(raw, 5_000_192, seed=4)
    convert(raw, image, options={"subformat": "fixed"})
    words = [sys.executable, "-m", "vmpack", "convert", str(raw), "-", "-O", "vhd"]
    done = subprocess.run(words, capture_output=True, check=True, timeout=60)
    assert done.stdout == image.read_bytes()
    with pytest.raises(UsageError, match="dynamic VHD cannot be written to a pipe"):
        stream(CreateOptions(512, {"subformat": "dynamic"}))


def test_measure_is_exact(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    size = 9 * BLOCK + 512
    holes(raw, size, 3 * BLOCK, size - 1)
    for values in VARIANTS.values():
        image = tmp_path / "disk.vhd"
        convert(raw, image, options=values, force=True)
        found = measure(raw, "vhd", values)
        assert found["required"] == image.stat().st_size
        data = tmp_path / "full.raw"
        data.write_bytes(b"x" * size)
        convert(data, image, options=values, force=True)
        assert found["fully-allocated"] == image.stat().st_size


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"subformat": "sparse"}, "not one of dynamic, fixed"),
        ({"azure": "perhaps"}, "not on or off"),
        ({"azure": "on", "subformat": "dynamic"}, "fixed disks only"),
        ({"force_size": "off"}, "never rounded"),
        ({"block_size": "3M"}, "not 512K or 2M"),
        ({"block_size": "many"}, "not a size"),
        ({"block_size": "2M", "subformat": "fixed"}, "no blocks"),
        ({"uuid": "1234"}, "not a UUID"),
    ],
)
def test_values_that_options_do_not_take(values: dict[str, str], text: str, tmp_path: Path) -> None:
    raw = holes(tmp_path / "disk.raw", 512)
    with pytest.raises(UsageError, match=text):
        convert(raw, tmp_path / "out.vhd", options=values)
    assert not (tmp_path / "out.vhd").exists()


def test_compression_is_refused(tmp_path: Path) -> None:
    raw = holes(tmp_path / "disk.raw", 512)
    with pytest.raises(UsageError, match="cannot be compressed"):
        convert(raw, tmp_path / "out.vhd", compressed=True)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_the_largest_disk(subformat: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-WRITE-3
    image, values = tmp_path / "a.vhd", {"subformat": subformat}
    create(image, 2040 << 30, "vhd", options=values)
    assert qemu_img.json("info", "-f", "vpc", image)["virtual-size"] == 2040 << 30
    assert image.stat().st_blocks * 512 < 5 << 20
    assert check(image).exit_code == 0
    for size in ((2040 << 30) + 1, 2 << 40):
        with pytest.raises(UnsupportedError, match="2,040 GiB") as caught:
            create(tmp_path / "b.vhd", size, "vhd", options=values)
        assert caught.value.clause == "VHD-WRITE-3"
        assert "vhdx" in (caught.value.hint or "")


@pytest.mark.qemu
def test_data_at_the_end_of_the_largest_disk(tmp_path: Path, qemu_img: QemuImg) -> None:
    # VHD-WRITE-1, VHD-BAT-1
    size = 2040 << 30
    raw = holes(tmp_path / "disk.raw", size, 5, 1 << 40, size - 1)
    image = tmp_path / "disk.vhd"
    convert(raw, image)
    reader = open_image(image)
    for place in (5, 1 << 40, size - 1):
        assert reader.read(place, 1) == b"x"
        assert reader.read(place - 3, 3) == bytes(3)
    assert len(list(reader.extents())) == 5
    reader.close()
    program = require_tool("qemu-io")
    words = ("-c", f"read -P 0x78 {(1 << 40)} 1", "-c", f"read -P 0x78 {size - 1} 1")
    done = run([program, "-r", "-f", "vpc", *words, image])
    assert len(re.findall(rb"read 1/1 bytes", done.stdout)) == 2
    assert b"failed" not in done.stdout


def test_a_full_file_system_ends_in_vmpacks_own_error(tmp_path: Path) -> None:
    """What the writer writes by itself at the end fails as jobs do."""
    from vmpack.copy import writing
    from vmpack.errors import OutputError

    raw = holes(tmp_path / "disk.raw", BLOCK, 9)
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        writer = writing("out", new_writer, fd, CreateOptions(BLOCK))
        source = RawReader(ByteSource.open(raw))
        with pytest.raises(OutputError):
            copy_image(source, writer, fd)
        source.close()
    finally:
        os.close(fd)
