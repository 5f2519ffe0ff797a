"""What ``pack`` makes of its sources: configs, blobs, names, identities, the same bytes."""

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
from vmpack.bundle.reader import Bundle
from vmpack.bundle.writer import BundleWriter
from vmpack.errors import InputError, RefusedError, UsageError
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
        pack([tiny] * 100, tmp_path / "x.vmpack")
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
