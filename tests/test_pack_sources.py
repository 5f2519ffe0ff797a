"""What ``pack`` takes, and what it makes of it: sources, configs, blobs, names, identities."""

from __future__ import annotations

import json
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
from vmpack.bundle.writer import BundleWriter
from vmpack.errors import InputError, OutputError, RefusedError, UnsafeError, UsageError
from vmpack.formats.base import ImageReader
from vmpack.formats.raw import RawReader
from vmpack.machine import MachineConfig
from vmpack.ops.pack import PackResult, pack
from vmpack.output import Output

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


CONFIG = """
version = 1
name = "db"
[[disk]]
id = "system"
bus = "sata"
[[disk]]
id = "data"
bus = "virtio-blk"
[[disk]]
id = "cd"
kind = "cdrom"
bus = "sata"
empty = true
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "vm.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.qemu
def test_images_take_the_configs_disks_in_order(disk: Path, config: Path, tmp_path: Path) -> None:
    """VMP-MAN-7."""
    other = tmp_path / "other.raw"
    other.write_bytes(b"other" * 1024)
    by_order = pack([disk, other], tmp_path / "a.vmpack", config_path=config)
    by_name = pack([disk], tmp_path / "b.vmpack", config_path=config, disks={"data": other})
    turned = pack(
        [], tmp_path / "c.vmpack", config_path=config, disks={"data": other, "system": disk}
    )
    assert [one["id"] for one in by_order.disks] == ["system", "data"]
    assert by_order.machine_id == by_name.machine_id == turned.machine_id
    prove_bundle(tmp_path / "a.vmpack", {"system": disk, "data": _even(other)})
    with Bundle.open(tmp_path / "a.vmpack") as bundle:
        assert not list(bundle.check(full=True))
        assert bundle.name == "db"


def _even(raw: Path) -> Path:
    data = raw.read_bytes()
    whole = raw.with_suffix(".even.raw")
    whole.write_bytes(data + bytes(-len(data) % 512))
    return whole


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({}, "disk 'data' has no image"),
        ({"cd": "other.raw", "data": "other.raw"}, "drive 'cd' is empty"),
        ({"data": "absent.raw"}, "no such file"),
        ({"data": "other.raw", "../x": "other.raw"}, "'../x' is not a disk id"),
        ({"data": "other.raw", "\x1b[2J": "other.raw"}, r"'\\x1b\[2J' is not a disk id"),
    ],
)
def test_disks_that_do_not_fit_the_config(
    named: dict[str, str],
    text: str,
    disk: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said before anything is read: packing may take hours."""
    (tmp_path / "other.raw").write_bytes(b"other" * 1024)
    monkeypatch.setattr(RawReader, "read", _first_sectors(RawReader.read))
    with pytest.raises((UsageError, InputError), match=text):
        pack(
            [disk],
            tmp_path / "x.vmpack",
            config_path=config,
            disks={disk_id: tmp_path / name for disk_id, name in named.items()},
        )
    assert not (tmp_path / "x.vmpack").exists()


def _first_sectors(real: Callable[..., bytes]) -> Callable[..., bytes]:
    def read(self: ImageReader, offset: int, length: int) -> bytes:
        assert length <= 64 << 10, "guest data was read for nothing"
        return real(self, offset, length)

    return read


@pytest.mark.parametrize(
    "text", ["version = 2\n", "[[disk]\n", 'version = 1\nmemory = "x"\n', "\0"]
)
def test_a_config_that_is_none(text: str, disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(text)
    with pytest.raises((UsageError, RefusedError)) as caught:
        pack([disk], tmp_path / "x.vmpack", config_path=path)
    assert caught.value.path == str(path)
    assert not (tmp_path / "x.vmpack").exists()


def test_a_config_and_a_config_file(disk: Path, config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both"):
        pack([disk], tmp_path / "x", config=MachineConfig.from_file(config), config_path=config)


def test_blobs_are_kept(disk: Path, tmp_path: Path) -> None:
    """VMP-BLOB-1, VMP-BLOB-2: empty ones and incompressible ones as well."""
    contents = {"nvram": os.urandom(540_672), "empty": b"", "Seed_1.iso": b"s" * 300_000}
    paths = {}
    for name, data in contents.items():
        paths[name] = tmp_path / f"from-{name}"
        paths[name].write_bytes(data)
    pack([disk], tmp_path / "x.vmpack", blobs=paths)
    prove_bundle(tmp_path / "x.vmpack", {"root": disk})
    with Bundle.open(tmp_path / "x.vmpack") as bundle:
        assert {name: bundle.blob(name) for name in contents} == contents
        assert not list(bundle.check(full=True))
        with pytest.raises(UsageError, match="no blob 'other'"):
            bundle.blob("other")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a b", "-x", ".x", "x" * 65, "a\n", "ä", "a\x1b[31m"]
)
def test_names_that_no_blob_has(
    name: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMP-BLOB-1; hostile: 11, 45."""
    monkeypatch.setattr(RawReader, "read", _first_sectors(RawReader.read))
    with pytest.raises(UsageError, match="is not a blob name") as caught:
        pack([disk], tmp_path / "x.vmpack", blobs={name: disk})
    assert caught.value.message.isprintable()
    assert not (tmp_path / "x.vmpack").exists()


def test_blobs_that_cannot_be_kept(disk: Path, tmp_path: Path) -> None:
    """VMP-BLOB-2, and no more of anything than a reader takes."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(RefusedError, match="at most 268435456"):
        pack([disk], tmp_path / "x.vmpack", blobs={"large": large})
    with pytest.raises(InputError):
        pack([disk], tmp_path / "x.vmpack", blobs={"absent": tmp_path / "absent"})
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with pytest.raises(UsageError, match="more than 1024"):
        pack([disk], tmp_path / "x.vmpack", blobs={f"b{n}": small for n in range(1025)})
    assert not (tmp_path / "x.vmpack").exists()


def test_more_disks_than_a_reader_takes(tmp_path: Path) -> None:
    """VMP-MAN-5."""
    tiny = tmp_path / "tiny.raw"
    tiny.write_bytes(b"x" * 512)
    with pytest.raises(UsageError, match="no free PCI slot"):
        pack([tiny] * 257, tmp_path / "x.vmpack")
    plan = [(f"d{number}", 4096) for number in range(257)]
    with (
        Output(tmp_path / "x.vmpack") as out,
        pytest.raises(UsageError, match="257 disks, at most 256"),
    ):
        BundleWriter(out, plan)
    assert not (tmp_path / "x.vmpack").exists()


def test_identity_keep_new_and_derive(disk: Path, tmp_path: Path) -> None:
    """VMP-ID-2."""
    config = MachineConfig.from_json_dict(
        {"version": 1, "uuid": "11111111-2222-4333-8444-555555555555", "disk": [{"id": "root"}]}
    )

    def uuid(result: PackResult) -> object:
        return result.config["uuid"]

    def packed(identity: str) -> PackResult:
        return pack([disk], tmp_path / "x", config=config, identity=identity, force=True)  # type: ignore[arg-type]

    kept, derived, again = packed("keep"), packed("derive"), packed("derive")
    new, newer = packed("new"), packed("new")
    assert uuid(kept) == "11111111-2222-4333-8444-555555555555"
    assert uuid(derived) == uuid(again) != uuid(kept)
    assert len({uuid(one) for one in (kept, derived, new, newer)}) == 4
    assert len({one.machine_id for one in (kept, derived, new, newer)}) == 4


def test_names_are_escaped(tmp_path: Path) -> None:
    """hostile: 11: a file's name may hold anything; a terminal gets none of it."""
    folder = tmp_path / "out"
    folder.mkdir()
    source = folder / "a\x1b]0;owned\x07\x1b[2J\nb.raw"
    source.write_bytes(b"x" * 512)
    target = folder / "t\x1b[31m.vmpack"
    done = _vmpack("pack", source, "-o", target)
    assert done.returncode == 0
    again = _vmpack("pack", source, "-o", target)
    absent = _vmpack("pack", folder / "\x1b[2J.raw", "-o", folder / "y.vmpack")
    data = _vmpack("pack", source, "-o", target, "--force", "--output", "json")
    shown = done.stdout + done.stderr + again.stderr + absent.stderr + data.stdout + data.stderr
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    assert json.loads(data.stdout)["name"] == "a-0-owned-2J-b"
    assert json.loads(data.stdout)["filename"] == str(target)
    assert again.returncode == 1
    assert absent.returncode == 1


def test_the_same_bytes_for_any_workers_and_any_folder(disk: Path, tmp_path: Path) -> None:
    """VMP-WRITE-3."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"state" * 9000)
    (tmp_path / "elsewhere").mkdir()
    made = set()
    for number, workers in enumerate((1, 2, 7, None, None)):
        target = tmp_path / ("elsewhere" if number % 2 else ".") / f"{number}.vmpack"
        pack([disk, disk], target, blobs={"nvram": blob}, workers=workers)
        made.add(target.read_bytes())
    assert len(made) == 1
    assert os.fsencode(tmp_path) not in made.pop(), "a path of the host is in the bundle"


def test_machine_id_is_what_the_guest_observes(disk: Path, tmp_path: Path) -> None:
    """VMP-ID-2."""
    nvram, other = tmp_path / "nvram", tmp_path / "other.raw"
    nvram.write_bytes(b"variables")
    data = bytearray(disk.read_bytes())
    data[70_000] ^= 1
    other.write_bytes(data)
    notes = tmp_path / "notes"
    notes.write_bytes(b"notes")

    def identity(sources: list[Path], **options: Any) -> str:
        return pack(sources, tmp_path / "x.vmpack", force=True, **options).machine_id

    base = {"blobs": {"nvram": nvram}}
    same = {
        identity([disk], **base),
        identity([disk], **base, name="another name"),
        identity([disk], **base, level=9),
        identity([disk], **base, cluster_size=65536),
        identity([disk], blobs={"nvram": nvram, "notes": notes}),
    }
    assert len(same) == 1
    two = MachineConfig.from_json_dict({"version": 1, "memory": 1 << 30})
    different = [
        identity([disk]),
        identity([other], **base),
        identity([disk, other], **base),
        identity([disk], **base, config=two),
        identity([disk], blobs={"nvram": notes}),
        identity([disk], blobs={"nvram": nvram, "tpm-state": notes}),
    ]
    assert len({*same, *different}) == 7


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
