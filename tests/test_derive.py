"""A changed machine becomes a new bundle: what did not change is not touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import prove_bundle
from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg, filename, window
from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError, OutputError
from vmpack.ops.derive import derive
from vmpack.ops.pack import pack
from vmpack.source import ByteSource

MIB = 1 << 20


def _overlay(path: Path, bundle: Path, qemu: QemuImg, *commands: str) -> Path:
    """An overlay of the bundle's first disk, written as a guest would: QEMU copies on write."""
    with Bundle.open(bundle) as opened:
        disk = opened.disks[0]
    qemu.run("create", "-q", "-f", "qcow2", path, str(disk.virtual_size))
    node = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(path)},
        "backing": window(bundle, disk.window_offset, disk.window_size),
    }
    program = qemu.prefix[-1].replace("qemu-img", "qemu-io")
    words = [word for text in commands for word in ("-c", text)]
    subprocess.run([program, *words, filename(node)], check=True, capture_output=True)
    return path


def _merged(base: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    disk = bytearray(base)
    for offset, data in writes:
        disk[offset : offset + len(data)] = data
    return bytes(disk)


@pytest.mark.qemu
@pytest.mark.parametrize("cluster", [4096, 65536, 1 << 20])
def test_changes_come_along_and_the_rest_is_copied(
    cluster: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    base = disk_bytes(6 * MIB, seed=4)
    source = write_sparse(tmp_path / "disk.raw", base)
    old = tmp_path / "old.vmpack"
    pack([source, source], old, cluster_size=cluster)
    overlay = _overlay(
        tmp_path / "o.qcow2",
        old,
        qemu_img,
        "write -P 0x5a 70000 1000",
        f"write -P 0xa5 {3 * MIB} 300000",
        f"write -z {MIB} 131072",
        f"write -P 7 {6 * MIB - 512} 512",
    )
    writes = [(70000, b"\x5a" * 1000), (3 * MIB, b"\xa5" * 300000), (MIB, bytes(131072))]
    merged = _merged(base, [*writes, (6 * MIB - 512, b"\7" * 512)])
    new = tmp_path / "new.vmpack"
    with Bundle.open(old) as bundle:
        result = derive(bundle, new, overlays={"root": ByteSource.open(overlay)}, nvram=b"changed")
        old_frames = {frame.sha256: frame.size for frame in bundle.index().frames()}
    (tmp_path / "merged.raw").write_bytes(merged)
    prove_bundle(new, {"root": tmp_path / "merged.raw", "disk1": source})
    fresh = tmp_path / "fresh.vmpack"
    pack([tmp_path / "merged.raw", source], fresh, cluster_size=cluster)
    with Bundle.open(new) as bundle, Bundle.open(fresh) as again:
        assert list(bundle.check(full=True)) == []
        assert bundle.blob("nvram") == b"changed"
        assert [d.content_digest for d in bundle.disks] == [d.content_digest for d in again.disks]
        assert bundle.manifest.provenance["parent"] != bundle.id == result.id
        for frame in bundle.index().frames():
            assert old_frames.get(frame.sha256, frame.size) == frame.size


@pytest.mark.qemu
def test_nothing_changed_gives_the_same_machine(
    tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    """VMP-ID-2: and the exact size of an odd disk stays."""
    source, _ = random_disk(2 * MIB + 77)
    old, new = tmp_path / "old.vmpack", tmp_path / "new.vmpack"
    pack([source], old)
    with Bundle.open(old) as bundle:
        derive(bundle, new)
        with Bundle.open(new) as again:
            assert again.machine_id == bundle.machine_id
            assert again.disks == bundle.disks
            assert again.id != bundle.id
    prove_bundle(new)


def test_a_damaged_bundle_is_not_carried_on(
    tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    source, _ = random_disk(2 * MIB)
    old, new = tmp_path / "old.vmpack", tmp_path / "new.vmpack"
    pack([source], old)
    with Bundle.open(old) as bundle:
        at = bundle.index().frame(0).offset + 20
    old.chmod(0o644)
    with old.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    with Bundle.open(old) as bundle, pytest.raises(DamagedError, match="disk root is damaged"):
        derive(bundle, new)
    assert not new.exists()


@pytest.mark.qemu
def test_an_overlay_of_another_size_is_refused(
    tmp_path: Path, qemu_img: QemuImg, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    source, _ = random_disk(2 * MIB)
    old, new = tmp_path / "old.vmpack", tmp_path / "new.vmpack"
    pack([source], old)
    overlay = tmp_path / "o.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", overlay, str(3 * MIB))
    with Bundle.open(old) as bundle:
        with pytest.raises(DamagedError, match="an overlay of"):
            derive(bundle, new, overlays={"root": ByteSource.open(overlay)})
        with pytest.raises(OutputError, match="exists already"):
            derive(bundle, old)
    assert not new.exists()
