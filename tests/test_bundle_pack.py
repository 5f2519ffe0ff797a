"""Bundles as stock QEMU sees them: each disk clean and identical through its window."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import prove_bundle, raw_reader, write_bundle
from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg, qemu_io, window
from vmpack.bundle.reader import Bundle
from vmpack.digest import content_digest

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
RandomDisk = Callable[..., tuple[Path, bytes]]


@pytest.mark.qemu
@pytest.mark.parametrize("cluster", [4 * KIB, 64 * KIB, 2 * MIB])
def test_disks_of_every_awkward_size(cluster: int, tmp_path: Path, qemu_img: QemuImg) -> None:
    """VMP-VIEW-3, VMP-VIEW-4, VMP-FRAME-1: nothing, parts of sectors, a cluster more or less."""
    sizes = (0, 1, 511, 512, 513, cluster - 1, cluster, cluster + 1, 3 * cluster + 1000)
    disks = []
    for size in sizes:
        source = tmp_path / f"{size}.raw"
        source.write_bytes(disk_bytes(size, seed=size) if size > 600 else b"x" * size)
        disks.append((f"d{size}", source, cluster))
    bundle = write_bundle(tmp_path / "odd.vmpack", disks)
    padded = {}
    for disk_id, source, _ in disks:
        # QEMU rounds a raw image's size down; the view has the last bytes, and zeros after them.
        whole = source.with_suffix(".padded.raw")
        data = source.read_bytes()
        whole.write_bytes(data + bytes(-len(data) % 512))
        padded[disk_id] = whole
    prove_bundle(bundle, padded)
    with Bundle.open(bundle) as opened:
        assert [disk.exact_size for disk in opened.disks] == list(sizes)
        assert not list(opened.check(full=True, workers=2))


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["zeros", "noise", "one byte at the end"])
def test_all_zero_and_all_random_disks(kind: str, tmp_path: Path) -> None:
    """VMP-VIEW-3, VMP-FRAME-1: incompressible clusters are frames too, a little larger."""
    size = 3 * MIB + 512
    data = {"zeros": bytes(size), "noise": os.urandom(size), "one byte at the end": bytes(size)}
    content = bytearray(data[kind])
    if kind == "one byte at the end":
        content[-1] = 1
    source = tmp_path / "disk.raw"
    source.write_bytes(content)
    for cluster in (4 * KIB, 64 * KIB, 512 * KIB):
        bundle = write_bundle(tmp_path / f"{cluster}.vmpack", [("root", source, cluster)])
        prove_bundle(bundle, {"root": source})
        with Bundle.open(bundle) as opened:
            frames = opened.index().frame_count
            expected = {"zeros": 0, "noise": -(-size // cluster), "one byte at the end": 1}[kind]
            assert frames == expected


@pytest.mark.qemu
def test_disks_of_different_cluster_sizes_share_a_bundle(
    tmp_path: Path, random_disk: RandomDisk
) -> None:
    """VMP-WIN-1, VMP-WIN-2, VMP-VIEW-2, VMP-VIEW-7, VMP-MAN-4."""
    sources = {}
    disks = []
    for number, cluster in enumerate((64 * KIB, 4 * KIB, 2 * MIB, 4 * KIB)):
        path, _ = random_disk(5 * MIB + 512 * number, seed=number, name=f"{number}.raw")
        sources[f"disk{number}"] = path
        disks.append((f"disk{number}", path, cluster))
    bundle = write_bundle(tmp_path / "mixed.vmpack", disks, blobs={"nvram": b"n" * 70_000})
    prove_bundle(bundle, sources)
    with Bundle.open(bundle) as opened:
        end = opened.header.index_offset
        for disk in opened.disks:
            assert disk.window_offset % disk.cluster_size == 0
            assert disk.window_size % disk.cluster_size == 0
            assert disk.window_offset + disk.window_size == end
        assert opened.blob("nvram") == b"n" * 70_000
        assert not list(opened.check(full=True))


@pytest.mark.qemu
def test_the_same_disk_twice_costs_its_tables(tmp_path: Path) -> None:
    """VMP-POOL-1: at most 1% plus tables."""
    source = tmp_path / "disk.raw"
    write_sparse(source, disk_bytes(24 * MIB, seed=5))
    once = write_bundle(tmp_path / "once.vmpack", [("a", source, 64 * KIB)])
    twice = write_bundle(tmp_path / "twice.vmpack", [("a", source, 64 * KIB), ("b", source, 65536)])
    prove_bundle(twice, {"a": source, "b": source})
    with Bundle.open(twice) as opened, Bundle.open(once) as single:
        a, b = opened.disks
        assert opened.manifest.pool_size == single.manifest.pool_size
        tables = b.layout.end - b.layout.l1_offset + b.cluster_size
        assert twice.stat().st_size <= once.stat().st_size * 1.01 + tables
        assert a.stored_size == b.stored_size == opened.manifest.pool_size
        assert a.content_digest == b.content_digest


@pytest.mark.qemu
def test_one_cluster_of_difference_costs_one_cluster(tmp_path: Path) -> None:
    """VMP-POOL-1: the second disk of two that differ in one cluster."""
    data = bytearray(os.urandom(2 * MIB))
    (tmp_path / "a.raw").write_bytes(data)
    data[MIB : MIB + 100] = bytes(100)
    (tmp_path / "b.raw").write_bytes(data)
    sources = {"a": tmp_path / "a.raw", "b": tmp_path / "b.raw"}
    bundle = write_bundle(tmp_path / "x.vmpack", [(i, p, 64 * KIB) for i, p in sources.items()])
    prove_bundle(bundle, sources)
    with Bundle.open(bundle) as opened:
        assert opened.index().frame_count == 2 * MIB // (64 * KIB) + 1


@pytest.mark.qemu
def test_clusters_within_a_disk_are_stored_once(tmp_path: Path) -> None:
    """VMP-POOL-1, VMP-VIEW-6: a frame with many references, and refcounts that say so."""
    source = tmp_path / "same.raw"
    source.write_bytes((b"a" * 4096 + b"b" * 4096) * 700)
    bundle = write_bundle(tmp_path / "same.vmpack", [("root", source, 4096)])
    prove_bundle(bundle, {"root": source})
    with Bundle.open(bundle) as opened:
        assert opened.index().frame_count == 2


@pytest.mark.qemu
def test_64_tib_sparse(tmp_path: Path, qemu_img: QemuImg) -> None:
    """Design rule 8: the tables of a huge disk are those of its data, and an L1 of 1 MiB."""
    from vmpack.ops.pack import pack

    image = tmp_path / "huge.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", image, str(64 * TIB))
    program = qemu_img.prefix[-1].replace("qemu-img", "qemu-io")
    last = 64 * TIB - 65536
    writes = [f"write -P 7 {last} 65536", "write -P 9 1000000 1000", f"write -P 5 {9 * TIB} 512"]
    words = [word for text in writes for word in ("-c", text)]
    subprocess.run([program, "-f", "qcow2", *words, image], check=True, capture_output=True)
    bundle = tmp_path / "huge.vmpack"
    pack([image], bundle)
    prove_bundle(bundle, {"root": image}, fmt="qcow2")
    assert bundle.stat().st_size < 3 * MIB


@pytest.mark.qemu
def test_reads_of_any_alignment_through_the_window(tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"\x11" * 70_000 + b"\x22" * 130_000 + bytes(60_000) + b"\x33" * 5_232)
    bundle = write_bundle(tmp_path / "x.vmpack", [("root", source, 64 * KIB)])
    with Bundle.open(bundle) as opened:
        disk = opened.disks[0]
    text = qemu_io(
        window(bundle, disk.window_offset, disk.window_size),
        "read -P 0x11 69632 368",
        "read -P 0x22 70000 130000",
        "read -P 0 200000 60000",
        "read -P 0x33 260000 5232",
    )
    assert "failed" not in text, text


@pytest.mark.qemu
def test_a_damaged_frame_is_an_io_error_never_wrong_data(tmp_path: Path) -> None:
    """VMP-FRAME-1: the checksum in each frame makes stock QEMU notice."""
    source = tmp_path / "disk.raw"
    source.write_bytes(disk_bytes(64 * KIB, seed=9).replace(b"\0", b"q"))
    bundle = write_bundle(tmp_path / "x.vmpack", [("root", source, 64 * KIB)])
    with Bundle.open(bundle) as opened:
        frame = opened.index().frame(0)
        disk = opened.disks[0]
    raw = bytearray(bundle.read_bytes())
    for part in range(1, 9):
        damaged = bytearray(raw)
        damaged[frame.offset + 16 + part * (frame.size - 20) // 9] ^= 1
        target = tmp_path / "bad.vmpack"
        target.write_bytes(damaged)
        with pytest.raises(AssertionError, match="Input/output error"):
            qemu_io(window(target, disk.window_offset, disk.window_size), "read 0 65536")


def test_views_hold_nothing_but_what_the_profile_allows(
    tmp_path: Path, random_disk: RandomDisk
) -> None:
    """VMP-VIEW-1, VMP-VIEW-3: compressed clusters only, no other file, no extension."""
    source, _ = random_disk(8 * MIB)
    bundle = write_bundle(tmp_path / "x.vmpack", [("root", source, 64 * KIB)])
    with Bundle.open(bundle) as opened:
        reader = opened.disk("root")
        header = reader.header.fields
        assert header.backing_file_offset == header.backing_file_size == 0
        assert header.incompatible_features == 1 << 3
        assert header.nb_snapshots == header.snapshots_offset == 0
        assert header.refcount_order == 5
        entries = list(reader.compressed_frames(0, reader.virtual_size))
        data = sum(1 for run in reader.runs(0, reader.virtual_size) if run.host)
        assert len(entries) == data
    assert bundle.stat().st_mode & 0o777 == 0o444


def test_the_bytes_depend_on_nothing_but_the_input(tmp_path: Path, random_disk: RandomDisk) -> None:
    """VMP-WRITE-3: any number of workers, any folder."""
    source, _ = random_disk(40 * MIB + 512)
    disks = [("root", source, 64 * KIB), ("small", source, 4 * KIB)]
    first = write_bundle(tmp_path / "one.vmpack", disks, workers=1).read_bytes()
    (tmp_path / "other").mkdir()
    for workers in (2, 5):
        again = write_bundle(tmp_path / "other" / f"{workers}.vmpack", disks, workers=workers)
        assert again.read_bytes() == first


def test_content_digests_do_not_depend_on_how_it_is_stored(
    tmp_path: Path, random_disk: RandomDisk
) -> None:
    """VMP-ID-3."""
    source, _ = random_disk(3 * MIB + 1000)
    reader = raw_reader(source)
    digests = {content_digest(reader)}
    for cluster, level in ((4096, 1), (64 * KIB, 3), (2 * MIB, 9)):
        bundle = write_bundle(tmp_path / "x.vmpack", [("a", source, cluster)], level=level)
        with Bundle.open(bundle) as opened:
            digests |= {opened.disks[0].content_digest, content_digest(opened.disk("a"))}
    assert len(digests) == 1


_SPARSE = """
import re, sys
from vmpack.ops.pack import pack
pack([sys.argv[1]], sys.argv[2])
# Not ru_maxrss: that begins at what the parent had when it forked.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.qemu
def test_a_sparse_tebibyte_costs_its_data(tmp_path: Path, qemu_img: QemuImg) -> None:
    """Design rule 15, VMP-WRITE-4: 1 TiB with 1 GiB of data, under 200 MiB of memory."""
    source = tmp_path / "tib.raw"
    piece = bytearray(MIB)
    with source.open("wb") as out:
        out.truncate(TIB)
        for extent in range(8):
            out.seek(extent * 130 * GIB + 4096)
            for number in range(128):
                for cluster in range(0, MIB, 64 * KIB):
                    unique = extent << 32 | number << 16 | cluster // 65536 + 1
                    piece[cluster : cluster + 8] = unique.to_bytes(8, "big")
                out.write(piece)
    bundle = tmp_path / "tib.vmpack"
    run = subprocess.run(
        [sys.executable, "-c", _SPARSE, source, bundle],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert int(run.stdout) < 200 * KIB, "KiB of peak memory"
    with Bundle.open(bundle) as opened:
        node = window(bundle, opened.disks[0].window_offset, opened.disks[0].window_size)
        assert opened.index().frame_count >= 8 * 128 * 16
    qemu_img.assert_clean(node)
    qemu_img.assert_identical(source, node, fmt_a="raw")


def test_packing_needs_no_qemu(tmp_path: Path, random_disk: RandomDisk) -> None:
    """VMP-WRITE-5: the same bytes on a host without QEMU; pins are vmpack's own."""
    source, _ = random_disk(2 * MIB)
    program = "import sys; from vmpack.ops.pack import pack; pack([sys.argv[1]], sys.argv[2])"
    bundles = []
    for number, environment in enumerate(({"PATH": "/nonexistent"}, dict(os.environ))):
        bundle = tmp_path / f"{number}.vmpack"
        words: list[str | Path] = [sys.executable, "-c", program, source, bundle]
        subprocess.run(words, check=True, env=environment, timeout=60)
        bundles.append(bundle.read_bytes())
    assert bundles[0] == bundles[1]
    prove_bundle(tmp_path / "0.vmpack", {"root": source})
