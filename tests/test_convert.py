"""``convert``: the content arrives, is proved to have arrived, or nothing is left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.images import VARIANTS, open_qcow2, to_qcow2
from tests.support.qemu import QemuImg
from tests.support.tools import missing, require_tool, run
from vmpack.errors import (
    DamagedError,
    DifferError,
    OutputError,
    UnsafeError,
    UnsupportedError,
    UsageError,
    VmpackError,
)
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert

SIZE = 1_500_000
TARGETS: dict[str, dict[str, Any]] = {
    "raw": {"output_format": "raw"},
    "qcow2": {"output_format": "qcow2"},
    "zlib": {
        "output_format": "qcow2",
        "compressed": True,
        "options": {"compression_type": "zlib"},
    },
    "zstd": {"output_format": "qcow2", "compressed": True},
    "zstd-19": {"output_format": "qcow2", "compressed": True, "level": 19},
    "512": {"output_format": "qcow2", "options": {"cluster_size": "512"}},
    "512-zlib": {
        "output_format": "qcow2",
        "compressed": True,
        "options": {"cluster_size": "512", "compression_type": "zlib"},
    },
    "2M": {"output_format": "qcow2", "options": {"cluster_size": "2M"}},
    "2M-zstd": {"output_format": "qcow2", "compressed": True, "options": {"cluster_size": "2M"}},
    "v2": {"output_format": "qcow2", "options": {"compat": "0.10"}},
    "v2-zlib": {"output_format": "qcow2", "compressed": True, "options": {"compat": "0.10"}},
    "refcount-32": {"output_format": "qcow2", "options": {"refcount_bits": "32"}},
}


@pytest.mark.qemu
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [0, 512, 1000, SIZE])
def test_qemu_reads_every_output(target: str, size: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-WRITE-1, QCOW2-WRITE-5
    raw = tmp_path / "disk.raw"
    random_disk(raw, size, seed=size)
    out = tmp_path / "out"
    result = convert(raw, out, **TARGETS[target])
    fmt = "raw" if target == "raw" else "qcow2"
    assert result.verified
    assert result.size == out.stat().st_size
    done = qemu_img.run("compare", "-f", "raw", "-F", fmt, raw, out, check=False)
    assert done.returncode == 0
    if fmt == "qcow2":
        qemu_img.assert_clean(out, fmt="qcow2")


@pytest.mark.qemu
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_qcow2_becomes_the_same_raw(variant: str, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, SIZE - SIZE % 512, seed=2)
    image = to_qcow2(qemu_img, raw, *VARIANTS[variant])
    out = tmp_path / "out.raw"
    convert(image, out)
    assert out.read_bytes() == data


@pytest.mark.qemu
def test_options_are_what_qemu_img_info_sees(tmp_path: Path, qemu_img: QemuImg) -> None:
    # QCOW2-WRITE-6
    raw = tmp_path / "disk.raw"
    random_disk(raw, SIZE, seed=3)
    cases = [
        ({"cluster_size": "4K"}, ("cluster-size", 4096)),
        ({"compat": "0.10"}, ("compat", "0.10")),
        ({"compat": "1.1"}, ("compat", "1.1")),
        ({"compression_type": "zstd"}, ("compression-type", "zstd")),
        ({"compression_type": "zlib"}, ("compression-type", "zlib")),
        ({"refcount_bits": "32"}, ("refcount-bits", 32)),
        ({"refcount_bits": "16"}, ("refcount-bits", 16)),
        ({"size": "3M"}, ("virtual-size", 3 << 20)),
    ]
    for options, (key, value) in cases:
        out = tmp_path / "out.qcow2"
        convert(raw, out, options=options, compressed=True, force=True)
        seen = qemu_img.json("info", "-f", "qcow2", out)
        assert {**seen, **seen["format-specific"]["data"]}[key] == value
        qemu_img.assert_clean(out, fmt="qcow2")
    assert b"dirty bit" in out.read_bytes()[:65536]


def test_zeros_are_not_stored(tmp_path: Path) -> None:
    # QCOW2-WRITE-2, RAW-WRITE-2, RAW-READ-2
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(8 << 20) + b"x" * 4096 + bytes(8 << 20))
    convert(raw, tmp_path / "sparse.raw")
    assert (tmp_path / "sparse.raw").read_bytes() == raw.read_bytes()
    assert (tmp_path / "sparse.raw").stat().st_blocks * 512 <= 8192
    result = convert(tmp_path / "sparse.raw", tmp_path / "out.qcow2")
    assert result.data_bytes <= 65536
    assert (tmp_path / "out.qcow2").stat().st_size < 1 << 20


def test_a_sparse_terabyte_costs_what_its_data_costs(tmp_path: Path) -> None:
    # hostile: 8
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as out:
        out.truncate(1 << 40)
        out.seek(700 << 30)
        out.write(b"here")
    result = convert(raw, tmp_path / "out.qcow2", compressed=True, digest=True)
    assert (result.virtual_size, result.data_bytes <= 65536) == (1 << 40, True)
    assert (tmp_path / "out.qcow2").stat().st_size < 2 << 20
    back = convert(tmp_path / "out.qcow2", tmp_path / "back.raw", digest=True)
    assert back.content_digest == result.content_digest
    assert back.content_digest is not None
    assert back.content_digest.startswith("vmpack-content-v1:")
    assert (tmp_path / "back.raw").stat().st_blocks * 512 < 1 << 20


def test_growing(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 100_000, seed=4)
    for name in ("out.raw", "out.qcow2"):
        convert(raw, tmp_path / name, options={"size": "1M"})
        assert compare(raw, tmp_path / name).identical
    assert (tmp_path / "out.raw").read_bytes() == data + bytes((1 << 20) - 100_000)
    with pytest.raises(UsageError, match="less than"):
        convert(raw, tmp_path / "smaller.raw", options={"size": "64K"})
    assert not (tmp_path / "smaller.raw").exists()


@pytest.mark.qemu
def test_a_snapshot_and_a_chain(tmp_path: Path, qemu_img: QemuImg) -> None:
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 1 << 20, seed=5)
    image = to_qcow2(qemu_img, raw)
    qemu_img.run("snapshot", "-c", "v1", image)
    write = ["-f", "qcow2", "-c", "write -P 1 0 256k"]
    run([require_tool("qemu-io"), *write, image])
    convert(image, tmp_path / "v1.raw", snapshot="v1")
    assert (tmp_path / "v1.raw").read_bytes() == data
    top = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", top)
    run([require_tool("qemu-io"), "-f", "qcow2", "-c", "write -P 2 64k 64k", top])
    with pytest.raises(UnsafeError):
        convert(top, tmp_path / "flat.raw")
    assert not (tmp_path / "flat.raw").exists()
    convert(top, tmp_path / "flat.raw", allow_backing=True)
    want = b"\1" * 65536 + b"\2" * 65536 + b"\1" * 131072 + data[262144:]
    assert (tmp_path / "flat.raw").read_bytes() == want
    with pytest.raises(UsageError, match="no snapshot 'v2'"):
        convert(image, tmp_path / "v2.raw", snapshot="v2")


def test_refusals_leave_everything_as_it_was(tmp_path: Path) -> None:
    # hostile: 50
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 100_000, seed=6)
    out = tmp_path / "out.qcow2"
    out.write_bytes(b"precious")
    link = tmp_path / "link.raw"
    link.symlink_to(raw)
    cases: list[tuple[type[VmpackError], Path, dict[str, Any]]] = [
        (OutputError, out, {}),
        (UsageError, raw, {"force": True, "output_format": "raw"}),
        (UsageError, link, {"force": True, "output_format": "raw"}),
        (UsageError, tmp_path / "no-suffix", {}),
        (UnsupportedError, tmp_path / "x.bin", {"output_format": "qed"}),
        (UsageError, tmp_path / "x.raw", {"compressed": True}),
        (UsageError, tmp_path / "x.qcow2", {"options": {"cluster_size": "3000"}}),
        (UsageError, tmp_path / "x.qcow2", {"options": {"cluster_size": "4M"}}),
        (OutputError, tmp_path, {"output_format": "raw", "force": True}),
        (OutputError, tmp_path / "absent" / "x.raw", {}),
        # hostile: 8, RAW-SIZE-1
        (UnsafeError, tmp_path / "x.raw", {"max_size": 99_999}),
    ]
    before = sorted(os.listdir(tmp_path))
    for error, target, options in cases:
        with pytest.raises(error):
            convert(raw, target, **options)
        assert sorted(os.listdir(tmp_path)) == before
        assert (raw.read_bytes(), out.read_bytes()) == (data, b"precious")
    convert(raw, out, force=True)
    assert compare(raw, out).identical


def test_damage_that_comes_late_leaves_no_output(tmp_path: Path) -> None:
    # hostile: 50
    raw = tmp_path / "disk.raw"
    random_disk(raw, 3 << 20, seed=7)
    image = tmp_path / "disk.qcow2"
    convert(raw, image, compressed=True)
    reader = open_qcow2(image)
    *_, (_, host, _) = reader.compressed_frames(0, reader.virtual_size)
    reader.close()
    bad = bytearray(image.read_bytes())
    bad[host] ^= 0xFF
    image.write_bytes(bad)
    out = tmp_path / "out.raw"
    out.write_bytes(b"precious")
    with pytest.raises(DamagedError):
        convert(image, out, force=True)
    assert out.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["disk.qcow2", "disk.raw", "out.raw"]


def test_a_difference_on_read_back_leaves_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk loses one bit of what was written to it."""
    raw = tmp_path / "disk.raw"
    random_disk(raw, 300_000, seed=8)
    real = os.pwrite
    flipped: list[int] = []

    def faulty(fd: int, data: Any, offset: int) -> int:
        if not flipped:
            flipped.append(offset)
            data = bytes([bytes(data)[0] ^ 1]) + bytes(data)[1:]
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", faulty)
    with pytest.raises(DifferError, match="reads back as"):
        convert(raw, tmp_path / "out.raw", workers=1)
    assert flipped
    assert not (tmp_path / "out.raw").exists()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    random_disk(raw, 300_000, seed=9)
    result = convert(raw, tmp_path / "out.qcow2", dry_run=True, options={"size": "1G"})
    assert (result.dry_run, result.virtual_size, result.size) == (True, 1 << 30, None)
    assert os.listdir(tmp_path) == ["disk.raw"]


def test_into_a_file_in_place(tmp_path: Path) -> None:
    # RAW-WRITE-3
    raw = tmp_path / "disk.raw"
    data = random_disk(raw, 300_000, seed=10)
    target = tmp_path / "target.raw"
    target.write_bytes(b"\xff" * 400_000)
    inode = target.stat().st_ino
    result = convert(raw, target, target_exists=True, force=True)
    assert result.verified
    assert target.stat().st_ino == inode
    assert target.read_bytes() == data + b"\xff" * 100_000
    target.write_bytes(b"\xff" * 299_999)
    with pytest.raises(OutputError, match="has 299999 bytes"):
        convert(raw, target, target_exists=True, force=True)
    with pytest.raises(OutputError):
        convert(raw, target, target_exists=True)
    with pytest.raises(OutputError):
        convert(raw, tmp_path / "absent.raw", target_exists=True, force=True)
    with pytest.raises(UsageError, match="same file"):
        convert(raw, raw, target_exists=True, force=True)
    with pytest.raises(UsageError, match="cannot be written"):
        convert(raw, target, target_exists=True, force=True, output_format="qcow2")
    assert target.read_bytes() == b"\xff" * 299_999


def test_from_and_into_a_block_device(tmp_path: Path) -> None:
    # RAW-READ-1, RAW-WRITE-3
    losetup = require_tool("losetup")
    backing = tmp_path / "device.img"
    backing.write_bytes(b"\xff" * (1 << 20))
    try:
        device = run([losetup, "--find", "--show", backing]).stdout.decode().strip()
    except AssertionError:
        missing("a loop device", "run as root on a machine with loop devices")
    try:
        raw = tmp_path / "disk.raw"
        data = random_disk(raw, (1 << 20) - 512, seed=11)
        convert(raw, device, output_format="raw", target_exists=True, force=True)
        with pytest.raises(UnsupportedError, match="not recognised"):
            convert(device, tmp_path / "guess.qcow2")
        convert(device, tmp_path / "out.raw", source_format="raw")
        assert (tmp_path / "out.raw").read_bytes() == data + b"\xff" * 512
        with pytest.raises(UsageError, match="same file"):
            convert(device, device, source_format="raw", output_format="raw",
                    target_exists=True, force=True)  # fmt: skip
    finally:
        run([losetup, "--detach", device])


def test_through_pipes(tmp_path: Path) -> None:
    # RAW-WRITE-3
    import sys

    raw = tmp_path / "disk.raw"
    data = disk_bytes(2_500_001, seed=12)
    write_sparse(raw, data)
    image = tmp_path / "disk.qcow2"
    convert(raw, image, compressed=True)
    program = (
        "import sys; from vmpack.ops.convert import convert; convert(sys.argv[1], sys.argv[2],"
        " source_format=sys.argv[3], output_format=sys.argv[4])"
    )
    python = [sys.executable, "-c", program]
    piped = run([*python, image, "-", "qcow2", "raw"]).stdout
    assert piped == data + bytes(-len(data) % 512)
    out = tmp_path / "out.qcow2"
    run([*python, "-", out, "raw", "qcow2"], stdin=data)
    assert compare(raw, out).identical
    run([*python, "-", tmp_path / "again.raw", "qcow2", "raw"], stdin=image.read_bytes())
    assert compare(raw, tmp_path / "again.raw").identical
    with pytest.raises(UsageError, match="cannot be written to a pipe"):
        convert(raw, "-", output_format="qcow2")
    with pytest.raises(UsageError):
        convert("-", tmp_path / "x.raw")
    with pytest.raises(UsageError):
        convert(raw, "-")
