"""Files that a qcow2 image names: never opened unless the caller allows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import random_disk
from tests.support.images import open_qcow2, patch, u32, word
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from vmpack.errors import DamagedError, UnsafeError, VmpackError
from vmpack.ops.info import info
from vmpack.ops.opening import open_image

pytestmark = pytest.mark.qemu


def overlay(qemu_img: QemuImg, path: Path, backing: str, fmt: str | None = "raw") -> Path:
    """An overlay that names ``backing``, which need not exist."""
    options = ["-b", backing, *(["-F", fmt] if fmt else [])]
    qemu_img.run("create", "-q", "-u", "-f", "qcow2", *options, path, "400000", check=False)
    assert path.exists(), "qemu-img did not write the overlay"
    return path


def named(path: Path, backing: bytes) -> Path:
    """The overlay, naming something else of the same length or shorter."""
    data = path.read_bytes()
    at = word(path, 8)
    size = int.from_bytes(data[16:20], "big")
    assert len(backing) <= size
    return patch(path, {at: backing.ljust(size, b"\0"), 16: u32(len(backing))})


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Paths of the files that this process opens, as the interpreter reports them."""
    paths: list[str] = []
    _LISTENERS.append(paths)
    yield paths
    _LISTENERS.remove(paths)


_LISTENERS: list[list[str]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENERS and isinstance(args[0], str):
        for listener in _LISTENERS:
            listener.append(args[0])


sys.addaudithook(_audit)


def images_opened(opened: list[str], folder: Path) -> set[str]:
    return {Path(one).name for one in opened if one.startswith(str(folder))}


def test_nothing_but_the_image_is_opened(
    tmp_path: Path, qemu_img: QemuImg, opened: list[str]
) -> None:
    # hostile: 4
    # hostile: 6
    random_disk(tmp_path / "base.raw", 400_000)
    top = overlay(qemu_img, tmp_path / "top.qcow2", "base.raw")
    opened.clear()
    info(top)
    with pytest.raises(UnsafeError, match="needs its backing file") as caught:
        open_image(top)
    assert caught.value.clause == "QCOW2-REF-1"
    assert caught.value.hint is not None
    assert "--allow-backing" in caught.value.hint
    assert images_opened(opened, tmp_path) == {"top.qcow2"}
    reader = open_qcow2(top, allow_backing=True)
    assert reader.read(0, 400_000) == (tmp_path / "base.raw").read_bytes()
    reader.close()
    assert images_opened(opened, tmp_path) == {"top.qcow2", "base.raw"}


@pytest.mark.parametrize(
    "name",
    [
        b'json:{"driver":"file","filename":"/etc/passwd"}',
        b"nbd://localhost:10809/disk",
        b"nbd:unix:/tmp/sock",
        b"http://example.com/disk.raw",
        b"file:base.raw",
        b"fat:rw:/tmp",
        b"\0",
    ],
)
def test_protocols_are_no_names_of_files(
    name: bytes, tmp_path: Path, qemu_img: QemuImg, opened: list[str]
) -> None:
    # hostile: 5
    top = named(overlay(qemu_img, tmp_path / "top.qcow2", "x" * 60), name)
    opened.clear()
    with pytest.raises(UnsafeError) as caught:
        open_qcow2(top, allow_backing=True, backing_dirs=("/",))
    assert caught.value.clause == "QCOW2-REF-2"
    assert len(images_opened(opened, tmp_path)) == 1
    assert info(top).as_dict()["filename"] == os.fspath(top)


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.raw", "link.raw", "sub/../../x.raw"])
def test_backing_files_stay_in_the_folder(
    name: str, tmp_path: Path, qemu_img: QemuImg, opened: list[str]
) -> None:
    # hostile: 4
    # hostile: 5
    folder = tmp_path / "images"
    folder.mkdir()
    random_disk(tmp_path / "secret.raw", 400_000)
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    top = overlay(qemu_img, folder / "top.qcow2", name)
    opened.clear()
    with pytest.raises(UnsafeError, match="outside the image's folder") as caught:
        open_qcow2(top, allow_backing=True)
    assert caught.value.clause == "QCOW2-REF-3"
    assert images_opened(opened, tmp_path) == {"top.qcow2"}
    if name in ("../secret.raw", "link.raw"):
        open_qcow2(top, allow_backing=True, backing_dirs=(str(tmp_path),)).close()


def test_folders_and_devices_are_no_backing_files(tmp_path: Path, qemu_img: QemuImg) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(VmpackError, match="folder"):
        open_qcow2(overlay(qemu_img, tmp_path / "a.qcow2", "sub"), allow_backing=True)
    null = overlay(qemu_img, tmp_path / "b.qcow2", "/dev/null")
    with pytest.raises(VmpackError):
        open_qcow2(null, allow_backing=True, backing_dirs=("/dev",))


def test_backing_format_has_to_be_stated(tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 2
    random_disk(tmp_path / "base.raw", 400_000)
    top = overlay(qemu_img, tmp_path / "top.qcow2", "base.raw")
    at = top.read_bytes().index(u32(0xE2792ACA))
    bad = patch(top, {at: u32(0x11111111)})
    with pytest.raises(UnsafeError) as caught:
        open_qcow2(bad, allow_backing=True)
    assert caught.value.clause == "QCOW2-REF-4"
    as_raw = overlay(qemu_img, tmp_path / "pinned.qcow2", "top.qcow2", "raw")
    reader = open_qcow2(as_raw, allow_backing=True)
    # Declared raw: it is read as raw, whatever its first bytes say.
    assert reader.read(0, 4) == b"QFI\xfb"
    reader.close()


def test_cycles_and_depths_end(tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 4
    # hostile: 10
    overlay(qemu_img, tmp_path / "a.qcow2", "b.qcow2", "qcow2")
    overlay(qemu_img, tmp_path / "b.qcow2", "a.qcow2", "qcow2")
    with pytest.raises(DamagedError, match="comes back") as caught:
        open_qcow2(tmp_path / "a.qcow2", allow_backing=True)
    assert caught.value.clause == "QCOW2-REF-5"
    plain = overlay(qemu_img, tmp_path / "chain-000.qcow2", "chain-001.qcow2", "qcow2")
    data = plain.read_bytes()
    for number in range(1, 70):
        text = data.replace(b"chain-001", b"chain-%03d" % (number + 1))
        (tmp_path / f"chain-{number:03d}.qcow2").write_bytes(text)
    with pytest.raises(UnsafeError, match="deeper than 64"):
        open_qcow2(tmp_path / "chain-000.qcow2", allow_backing=True)


def test_external_data_file_is_refused(tmp_path: Path, opened: list[str]) -> None:
    # hostile: 18
    qemu_img = require_tool("qemu-img")
    words = ["create", "-f", "qcow2", "-o", "data_file=disk.data", "top.qcow2", "1M"]
    run([qemu_img, *words], cwd=tmp_path)
    top = tmp_path / "top.qcow2"
    opened.clear()
    with pytest.raises(UnsafeError, match="external data file") as caught:
        open_image(top)
    assert caught.value.clause == "QCOW2-REF-1"
    document: Any = info(top).as_dict()
    assert document["format-specific"]["data"]["data-file"] == "disk.data"
    assert images_opened(opened, tmp_path) == {"top.qcow2"}
    at = top.read_bytes().index(b"DATA")
    nameless = patch(top, {at: u32(0x22222222)})
    with pytest.raises(DamagedError) as damaged:
        open_image(nameless)
    assert damaged.value.clause == "QCOW2-EXT-3"
