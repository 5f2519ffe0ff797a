"""What ``pack`` takes as a disk, and what it refuses before it reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import prove_bundle
from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from vmpack.bundle.reader import Bundle
from vmpack.errors import InputError, OutputError, UnsafeError, UsageError
from vmpack.formats.raw import RawReader
from vmpack.ops.pack import pack

SIZE = 700_416  # Not a multiple of 64 KiB, one of 512.


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", disk_bytes(SIZE, seed=11))


def _vmpack(*words: object, stdin: Any = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vmpack", *(str(word) for word in words)],
        stdin=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-c",),
        ("-c", "-o", "compression_type=zstd"),
        ("-o", "cluster_size=512"),
        ("-o", "extended_l2=on"),
        ("-o", "preallocation=metadata"),
    ],
    ids=" ".join,
)
def test_a_qcow2_source(
    options: tuple[str, ...], disk: Path, tmp_path: Path, qemu_img: QemuImg
) -> None:
    image = tmp_path / "disk.qcow2"
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", *options, disk, image)
    result = pack([image], tmp_path / "x.vmpack")
    prove_bundle(tmp_path / "x.vmpack", {"root": disk})
    again = pack([disk], tmp_path / "raw.vmpack")
    assert result.machine_id == again.machine_id, "the format of the source is not observable"


@pytest.mark.qemu
def test_a_backing_file_is_followed_only_on_request(
    disk: Path, tmp_path: Path, qemu_img: QemuImg
) -> None:
    """hostile: 4."""
    overlay = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", disk.name, "-F", "raw", overlay)
    target = tmp_path / "x.vmpack"
    with pytest.raises(UnsafeError, match="backing"):
        pack([overlay], target)
    assert not target.exists()
    pack([overlay], target, allow_backing=True)
    prove_bundle(target, {"root": disk})


@pytest.mark.qemu
def test_a_backing_file_is_a_source_too(disk: Path, tmp_path: Path, qemu_img: QemuImg) -> None:
    """hostile: 50: --force does not replace what is being read, whoever names it."""
    overlay = tmp_path / "top.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", disk.name, "-F", "raw", overlay)
    before = disk.read_bytes()
    with pytest.raises(UsageError, match="same file"):
        pack([overlay], disk, allow_backing=True, force=True)
    assert disk.read_bytes() == before


def test_the_output_is_no_source_of_any_kind(disk: Path, tmp_path: Path) -> None:
    """hostile: 50."""
    nvram, config = tmp_path / "nvram.bin", tmp_path / "vm.toml"
    nvram.write_bytes(b"n" * 100)
    config.write_text('version = 1\nname = "x"\n')
    link = tmp_path / "link.raw"
    link.symlink_to(disk)
    for target in (disk, link, nvram, config):
        with pytest.raises(UsageError, match="same file"):
            pack([disk], target, blobs={"nvram": nvram}, config_path=config, force=True)
    bundle = tmp_path / "x.vmpack"
    pack([disk], bundle)
    with pytest.raises(UsageError, match="same file"):
        pack([bundle], bundle, force=True)


@pytest.mark.qemu
def test_a_bundles_disk_is_a_source(disk: Path, tmp_path: Path) -> None:
    """The same bytes again: exact size, content digest, identity."""
    data = disk_bytes(5000, seed=3)
    odd = tmp_path / "odd.raw"
    odd.write_bytes(data)
    first = pack([disk, odd], tmp_path / "a.vmpack", name="m")
    sources = [f"{tmp_path}/a.vmpack#{disk_id}" for disk_id in ("root", "disk1")]
    second = pack(sources, tmp_path / "b.vmpack", name="m")
    assert [one["content-digest"] for one in first.disks] == [
        one["content-digest"] for one in second.disks
    ]
    assert first.machine_id == second.machine_id
    with Bundle.open(tmp_path / "b.vmpack") as bundle:
        assert not list(bundle.check(full=True))
    with pytest.raises(UsageError, match="2 disks"):
        pack([tmp_path / "a.vmpack"], tmp_path / "c.vmpack")
    assert not (tmp_path / "c.vmpack").exists()


@pytest.mark.qemu
def test_standard_input(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.vmpack"
    with subprocess.Popen(["cat", str(disk)], stdout=subprocess.PIPE) as cat:
        done = _vmpack("pack", "-", "-f", "raw", "-o", target, stdin=cat.stdout)
    assert done.returncode == 0, done.stderr
    prove_bundle(target, {"root": disk})
    done = _vmpack("pack", "-", "-o", tmp_path / "y.vmpack", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert b"-f" in done.stderr
    assert not (tmp_path / "y.vmpack").exists()


@pytest.mark.qemu
def test_a_block_device(disk: Path, tmp_path: Path, loop_device: Callable[[Path], str]) -> None:
    device = loop_device(disk)
    pack([device], tmp_path / "x.vmpack", format="raw")
    prove_bundle(tmp_path / "x.vmpack", {"root": disk})
    image = tmp_path / "target.img"
    with image.open("wb") as file:
        file.truncate(2 << 20)
    target = loop_device(image)
    pack([disk], target, force=True)
    prove_bundle(Path(target), {"root": disk})
    with Bundle.open(target) as bundle:
        assert not list(bundle.check(full=True))


def test_what_is_no_source(tmp_path: Path) -> None:
    """A pipe by name is refused at once, also without a writer; so is a folder."""
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "folder.raw").mkdir()
    for name in ("pipe.raw", "folder.raw", "absent.raw"):
        with pytest.raises(InputError) as caught:
            pack([tmp_path / name], tmp_path / "x.vmpack")
        assert caught.value.path == str(tmp_path / name)
    with pytest.raises(UsageError, match="no disk image"):
        pack([], tmp_path / "x.vmpack")
    assert not (tmp_path / "x.vmpack").exists()


@pytest.mark.parametrize("how", ["written", "longer"])
def test_a_source_that_changes_meanwhile(
    how: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running guest's disk would be packed torn: refused, and nothing is written."""
    real = RawReader.read

    def read(self: RawReader, offset: int, length: int) -> bytes:
        data = real(self, offset, length)
        if how == "written":
            os.utime(disk, ns=(0, 0))
        else:
            os.truncate(disk, SIZE + 512)
        return data

    monkeypatch.setattr(RawReader, "read", read)
    with pytest.raises(InputError, match="changed while it was packed"):
        pack([disk], tmp_path / "x.vmpack")
    assert os.listdir(tmp_path) == ["disk.raw"]


def test_max_size_counts_the_guests_bytes(tmp_path: Path) -> None:
    """hostile: 8."""
    huge = tmp_path / "huge.raw"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnsafeError, match="larger than"):
        pack([huge], tmp_path / "x.vmpack", max_size=(1 << 40) - 1)
    assert os.listdir(tmp_path) == ["huge.raw"]
    pack([huge], tmp_path / "x.vmpack", max_size=1 << 40)


@pytest.mark.qemu
@pytest.mark.parametrize("size", [4096, 8192, 65536, 2 << 20])
def test_cluster_sizes(size: int, disk: Path, tmp_path: Path) -> None:
    """VMP-VIEW-2."""
    result = pack([disk], tmp_path / "x.vmpack", cluster_size=size)
    assert result.disks[0]["cluster-size"] == size
    prove_bundle(tmp_path / "x.vmpack", {"root": disk})


@pytest.mark.parametrize("size", [0, 512, 2048, 12288, 4 << 20, -4096])
def test_cluster_sizes_that_do_not_exist(size: int, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cluster size"):
        pack([disk], tmp_path / "x.vmpack", cluster_size=size)
    assert os.listdir(tmp_path) == ["disk.raw"]


@pytest.mark.parametrize("level", [0, 23, -1])
def test_levels_that_do_not_exist(level: int, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="level"):
        pack([disk], tmp_path / "x.vmpack", level=level)


def test_a_bundle_is_no_stream(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VMP-WRITE-2: other commands write to standard output under this name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no stream"):
        pack([disk], "-")
    pack([disk], "./-")
    assert sorted(os.listdir(tmp_path)) == ["-", "disk.raw"]


def test_ctrl_c_leaves_nothing(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VMP-WRITE-1; hostile: 50."""
    target = tmp_path / "x.vmpack"
    target.write_bytes(b"old")

    def interrupted(*_args: object) -> bytes:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(RawReader, "read", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pack([disk], target, force=True, workers=workers)
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "x.vmpack"]


def test_a_folder_without_permission_is_an_output_error(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        pack([disk], "/proc/x.vmpack")
    assert caught.value.path == "/proc/x.vmpack"
