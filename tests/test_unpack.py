"""``unpack`` gives back what was packed, or says what is wrong and leaves nothing."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import prove_bundle
from tests.support.disks import disk_bytes, write_sparse
from tests.support.qemu import QemuImg
from tests.support.tools import missing, run
from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError, OutputError, RefusedError, UsageError
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.reader import Qcow2Reader
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.unpack import unpack
from vmpack.source import ByteSource

SIZES = {"root": 5 * (1 << 20) + 512, "disk1": 70_001, "disk2": 0, "disk3": 1}
BLOBS = {"nvram": b"variables" * 700, "seed.iso": b"", "Notes_1": os.urandom(5000)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``x.vmpack`` of disks of awkward sizes, which share clusters, and the files it is made of."""
    folder = tmp_path_factory.mktemp("packed")
    for number, (disk_id, size) in enumerate(SIZES.items()):
        data = disk_bytes(size, seed=4) if size > 1 else b"q" * size
        write_sparse(folder / f"{disk_id}.raw", data)
        assert number < 4
    for name, data in BLOBS.items():
        (folder / name).write_bytes(data)
    pack(
        [folder / f"{disk_id}.raw" for disk_id in SIZES],
        folder / "x.vmpack",
        blobs={name: folder / name for name in BLOBS},
        name="machine",
    )
    return folder


@pytest.fixture
def bundle(folder: Path) -> Path:
    return folder / "x.vmpack"


def _even(raw: Path, target: Path) -> Path:
    """What QEMU compares: it cuts a raw file's last part of a sector, a view has it."""
    data = raw.read_bytes()
    target.write_bytes(data + bytes(-len(data) % 512))
    return target


@pytest.mark.qemu
def test_the_bundle_of_these_tests_is_sound(bundle: Path, folder: Path, tmp_path: Path) -> None:
    prove_bundle(
        bundle,
        {name: _even(folder / f"{name}.raw", tmp_path / f"{name}.raw") for name in SIZES},
    )


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_raw_disks_are_the_same_bytes(
    verify: bool, workers: int, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    """VMP-VIEW-4: odd sizes are exact; and holes are holes."""
    result = unpack(bundle, tmp_path / "out", to="raw", verify=verify, workers=workers)
    assert [disk_id for disk_id, _ in result.disks] == list(SIZES)
    for disk_id, path in result.disks:
        assert Path(path).read_bytes() == (folder / f"{disk_id}.raw").read_bytes()
        stored, was = os.stat(path).st_blocks, (folder / f"{disk_id}.raw").stat().st_blocks
        assert stored <= was + 8, "a hole was filled"
    for name, data in BLOBS.items():
        assert (tmp_path / "out" / "blobs" / name).read_bytes() == data


@pytest.mark.qemu
def test_qcow2_disks_have_the_same_content(
    bundle: Path, folder: Path, tmp_path: Path, each_qemu_img: QemuImg
) -> None:
    result = unpack(bundle, tmp_path / "out")
    for disk_id, path in result.disks:
        raw = _even(folder / f"{disk_id}.raw", tmp_path / f"{disk_id}.raw")
        each_qemu_img.assert_clean(path, fmt="qcow2")
        each_qemu_img.assert_identical(raw, path, fmt_a="raw", fmt_b="qcow2")


def test_frames_pass_through_as_they_are(bundle: Path, tmp_path: Path) -> None:
    """Every frame of a disk is in its image, byte for byte, and those it shares are there once."""
    result = unpack(bundle, tmp_path / "out")
    with Bundle.open(bundle) as opened:
        index = opened.index()
        for disk, (disk_id, path) in zip(opened.disks, result.disks, strict=True):
            assert disk.id == disk_id
            image = Qcow2Reader(ByteSource.open(path), OpenOptions())
            pairs: dict[int, int] = {}
            mine = opened.disk(disk_id).compressed_frames(0, disk.virtual_size)
            theirs = image.compressed_frames(0, image.virtual_size)
            for (guest, host, _), (other_guest, other_host, _) in zip(mine, theirs, strict=True):
                assert guest == other_guest
                number = index.at(host + disk.window_offset)
                assert number is not None
                assert pairs.setdefault(number, other_host) == other_host
            for number, host in pairs.items():
                frame = index.frame(number)
                assert image.source.pread(host, frame.size) == opened.source.pread(
                    frame.offset, frame.size
                )
            assert sum(index.frame(number).size for number in pairs) == disk.stored_size
            image.close()


def test_the_config_packs_to_the_same_machine(bundle: Path, tmp_path: Path) -> None:
    """VMP-ID-2: out, and in again."""
    out = tmp_path / "out"
    for to in ("raw", "qcow2"):
        result = unpack(bundle, out, to=to, force=True)
        names = [path for _, path in result.disks]
        nvram = {"nvram": out / "blobs" / "nvram"}
        again = pack(names, tmp_path / f"{to}.vmpack", config_path=out / "vm.toml", blobs=nvram)
        with Bundle.open(bundle) as opened:
            assert again.config == opened.manifest.config
            if to == "raw":
                assert again.machine_id == opened.machine_id
    assert MachineConfig.from_file(out / "vm.toml").name == "machine"


def test_existing_files_are_kept(bundle: Path, tmp_path: Path) -> None:
    """Said before the first disk is written; whichever of the files it is."""
    for name in ("root.raw", "disk3.raw", "vm.toml", "blobs/Notes_1"):
        out = tmp_path / name.replace("/", "-")
        (out / "blobs").mkdir(parents=True)
        (out / name).write_bytes(b"precious")
        with pytest.raises(OutputError, match="exists already") as caught:
            unpack(bundle, out, to="raw")
        assert caught.value.path == str(out / name)
        assert (out / name).read_bytes() == b"precious"
        assert sorted(p.name for p in out.rglob("*") if p.is_file()) == [Path(name).name]
        unpack(bundle, out, to="raw", force=True)
        assert (out / name).read_bytes() != b"precious"


def test_a_bundle_is_never_its_own_output(bundle: Path, tmp_path: Path) -> None:
    """hostile: 50: a hard link of the bundle where a disk would go."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "root.raw").hardlink_to(bundle)
    before = bundle.read_bytes()
    with pytest.raises(UsageError, match="same file"):
        unpack(bundle, out, to="raw", force=True)
    assert bundle.read_bytes() == before


def test_a_folder_is_made_and_one_level_only(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"(?i)no such file"):
        unpack(bundle, tmp_path / "no" / "such")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="is not a folder"):
        unpack(bundle, tmp_path / "file")
    with pytest.raises(UsageError, match="unknown format"):
        unpack(bundle, tmp_path / "out", to="floppy")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def _damaged(bundle: Path, at: int, target: Path) -> Path:
    raw = bytearray(bundle.read_bytes())
    raw[at] ^= 0x10
    target.write_bytes(raw)
    return target


@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_damage_anywhere_leaves_no_file(to: str, bundle: Path, tmp_path: Path) -> None:
    """VMP-SEG-1, VMP-BLOB-3: a byte of frames, tables, blobs, headers, index, manifest."""
    with Bundle.open(bundle) as opened:
        index, manifest = opened.index(), opened.manifest
        root = manifest.disks[0]
        start = root.window_offset
        places = {
            "header": 50,
            "view header": start + 30,
            "first frame": index.frame(0).offset + 30,
            "last frame": index.frame(index.frame_count - 1).end - 1,
            "L1": start + root.layout.l1_offset + 7,
            "L2": start + root.layout.bounds()[0] + 6,
            "index": manifest.index_offset + 20,
            "manifest": opened.header.manifest_offset + 100,
        }
        for blob in manifest.blobs:
            places[blob.name] = blob.offset + blob.stored_size - 1
        rng = random.Random(3)
        for number in range(10):
            frame = index.frame(rng.randrange(index.frame_count))
            places[f"frame {number}"] = rng.randrange(frame.offset, frame.end)
    if to == "raw":
        del places["index"]  # Not used: the disks are proven by their content digests.
    for place, at in places.items():
        bad = _damaged(bundle, at, tmp_path / "bad.vmpack")
        with pytest.raises(DamagedError) as caught:
            unpack(bad, tmp_path / "out", to=to)
        assert caught.value.path == str(bad), place
        assert not (tmp_path / "out").exists(), place


def test_what_is_no_bundle(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not a vmpack bundle"):
        unpack(folder / "root.raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_around_the_result_stay(bundle: Path, tmp_path: Path) -> None:
    """A failed run removes the folders that it made, and nothing that it did not."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_bytes(b"mine")
    bad = _damaged(bundle, bundle.stat().st_size // 3, tmp_path / "bad.vmpack")
    with pytest.raises(DamagedError):
        unpack(bad, out, to="raw")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("to", ["raw", "qcow2"])
@pytest.mark.parametrize("step", [1, 2, 5, 9])
def test_a_disk_that_fills_up(
    to: str, step: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hostile: 50: at the first write, and at later ones."""
    real, count = os.pwrite, [0]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        count[0] += 1
        if count[0] >= step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OutputError, match=r"(?i)no space") as caught:
        unpack(bundle, tmp_path / "out", to=to)
    assert caught.value.hint == "free some space, or write to another file system"
    assert not (tmp_path / "out").exists()


SCRIPT = """
import os, sys
from vmpack.errors import OutputError
from vmpack.ops.unpack import unpack
import vmpack.copy, vmpack.bundle.passthrough, vmpack.formats.raw, vmpack.machine
vmpack.machine.MachineConfig
if len(sys.argv) > 3:
    os.setgid(65534); os.setuid(65534)
for to in ("raw", "qcow2"):
    try:
        unpack(sys.argv[1], sys.argv[2], to=to)
    except OutputError as exc:
        print(exc.message.lower(), exc.hint, sorted(os.listdir(os.path.dirname(sys.argv[2]))))
"""


def test_a_full_file_system(
    bundle: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """hostile: 50."""
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f'mount -t tmpfs -o size=64k none "{small}" && exec "$0" -c "$1" "{bundle}" "{small}/out"'
    )
    done = run([require_tool("unshare"), "-rm", "sh", "-c", script, sys.executable, SCRIPT])
    hint = "free some space, or write to another file system"
    assert done.stdout.decode().splitlines() == [f"no space left on device {hint} []"] * 2


def test_a_folder_that_may_not_be_written(bundle: Path) -> None:
    if os.geteuid():
        missing("the right to become another user", "run the tests as root")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder) / "x.vmpack"
        copy.write_bytes(bundle.read_bytes())
        copy.chmod(0o444)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, copy, f"{folder}/out", "nobody"],
            capture_output=True,
            check=True,
        )
    wanted = "permission denied check the permissions ['x.vmpack']"
    assert done.stdout.decode().splitlines() == [wanted] * 2


def test_ctrl_c_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hostile: 50."""

    def interrupted(*_arguments: object) -> int:
        raise KeyboardInterrupt

    for to in ("raw", "qcow2"):
        for workers in (1, 2):
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    unpack(bundle, tmp_path / "out", to=to, workers=workers)
    assert os.listdir(tmp_path) == []
