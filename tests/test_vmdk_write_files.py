"""The files of a VMDK: together or not at all, through pipes, into and out of bundles."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import pytest

from tests.support.disks import random_disk
from tests.support.tools import run
from tests.test_vmdk_write import SUBFORMATS, described, opened, write
from vmpack.content_seed import ContentSeed
from vmpack.errors import OutputError, UsageError
from vmpack.formats.base import CreateOptions
from vmpack.formats.vmdk import stream as stream_writer
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.pack import pack
from vmpack.ops.streams import content_seed, stream
from vmpack.ops.unpack import unpack

SPLIT = ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")
STREAM = {"subformat": "streamOptimized"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    random_disk(folder / "disk.raw", 3_000_320, seed=21)
    return folder / "disk.raw"


def streamed(raw: Path, **values: str) -> bytes:
    """What goes to a pipe, as ``convert`` sends it there."""
    from vmpack.ops.opening import open_image

    reader = open_image(raw)
    options = CreateOptions(reader.virtual_size, {**STREAM, **values})
    writer = stream_writer.create(options)
    if writer.needs_seed:
        options = CreateOptions(
            reader.virtual_size, {**STREAM, **values}, seed=content_seed(reader)
        )
        writer = stream_writer.create(options)
    parts: list[bytes] = []
    stream(reader, writer, lambda data: parts.append(bytes(data)), workers=3)
    reader.close()
    return b"".join(parts)


@pytest.mark.parametrize("values", [{}, {"cid": "12345678"}, {"adapter_type": "ide"}])
def test_a_pipe_gets_the_files_bytes(values: dict[str, str], raw: Path, tmp_path: Path) -> None:
    """Those of a file called disk.vmdk: a pipe has no name."""
    # VMDK-WRITE-13
    image = write(raw, tmp_path / "disk.vmdk", "streamOptimized", **values)
    assert streamed(raw, **values) == image.read_bytes()


def test_a_given_cid_saves_reading_twice(raw: Path) -> None:
    # VMDK-WRITE-13
    options = CreateOptions(512, {**STREAM, "cid": "1"})
    assert not stream_writer.create(options).needs_seed
    assert stream_writer.create(CreateOptions(512, STREAM)).needs_seed
    assert len(streamed(raw, cid="1")) > 1 << 16


def test_the_command_writes_to_a_pipe(raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-13
    words = [sys.executable, "-m", "vmpack", "convert", raw, "-", "-O", "vmdk"]
    done = run([*words, "-o", "subformat=streamOptimized", "-q"])
    assert done.stdout == streamed(raw)
    piped = tmp_path / "piped.vmdk"
    piped.write_bytes(done.stdout)
    assert compare(raw, piped).identical


@pytest.mark.parametrize("subformat", [None, *(one for one in SUBFORMATS if one[0] != "s")])
def test_what_no_pipe_can_carry_is_refused(subformat: str | None) -> None:
    values = {} if subformat is None else {"subformat": subformat}
    with pytest.raises(UsageError, match="pipe") as caught:
        stream_writer.create(CreateOptions(512, values, seed=ContentSeed(512)))
    assert caught.value.hint is not None
    assert "streamOptimized" in caught.value.hint


@pytest.mark.parametrize("subformat", SPLIT)
def test_a_sibling_that_exists_is_refused_before_anything_is_written(
    subformat: str, raw: Path, tmp_path: Path
) -> None:
    # VMDK-WRITE-14, hostile: 50
    kept = {"disk-flat.vmdk": b"flat", "disk-s001.vmdk": b"s001", "disk-f001.vmdk": b"f001"}
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    values = {"subformat": subformat}
    with pytest.raises(OutputError, match="exists already"):
        convert(raw, tmp_path / "disk.vmdk", options=values)
    assert sorted(os.listdir(tmp_path)) == before
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    convert(raw, tmp_path / "disk.vmdk", options=values, force=True)
    assert compare(raw, tmp_path / "disk.vmdk").identical
    names = {line.name for line in described(tmp_path / "disk.vmdk").extents}
    changed = {name for name, data in kept.items() if (tmp_path / name).read_bytes() != data}
    assert changed == names


@pytest.mark.parametrize("subformat", SPLIT)
def test_an_input_is_never_replaced_as_a_sibling(subformat: str, tmp_path: Path) -> None:
    # VMDK-WRITE-14, hostile: 50
    for name in ("disk-flat.vmdk", "disk-s001.vmdk", "disk-f001.vmdk"):
        random_disk(tmp_path / name, 100_352, seed=2)
    source = {"m": "disk-flat.vmdk", "S": "disk-s001.vmdk", "F": "disk-f001.vmdk"}
    key = "m" if subformat.startswith("m") else subformat[14]
    raw = tmp_path / source[key]
    before = raw.read_bytes()
    with pytest.raises(UsageError, match="same file"):
        convert(
            raw,
            tmp_path / "disk.vmdk",
            source_format="raw",
            options={"subformat": subformat},
            force=True,
        )
    assert raw.read_bytes() == before
    assert not (tmp_path / "disk.vmdk").exists()


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_no_room_leaves_nothing(
    subformat: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # hostile: 50
    real, left = os.pwrite, [200_000]

    def full(fd: int, data: bytes, offset: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="no space") as caught:
        convert(raw, out / "disk.vmdk", options={"subformat": subformat}, workers=1)
    assert caught.value.path == os.fspath(out / "disk.vmdk")
    assert not os.listdir(out)


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_a_size_limit_leaves_nothing(subformat: str, raw: Path, tmp_path: Path) -> None:
    # hostile: 50
    out = tmp_path / "out"
    out.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="too large"):
            convert(raw, out / "disk.vmdk", options={"subformat": subformat})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(out)


KILLED = """
import os, signal, sys
from vmpack.ops.convert import convert
real, left = getattr(os, sys.argv[4]), [int(sys.argv[5])]
def mortal(*args, **options):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(os, sys.argv[4], mortal)
convert(sys.argv[1], sys.argv[2], options={"subformat": sys.argv[3]}, workers=1)
"""


@pytest.mark.parametrize(
    ("subformat", "call", "count"),
    [
        ("twoGbMaxExtentSparse", "pwrite", 5),
        ("monolithicFlat", "link", 0),
        ("twoGbMaxExtentFlat", "link", 1),
    ],
)
def test_killed_at_any_moment_the_descriptor_comes_last(
    subformat: str, call: str, count: int, raw: Path, tmp_path: Path
) -> None:
    # VMDK-WRITE-14, hostile: 50
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, "-c", KILLED, raw, out / "disk.vmdk", subformat, call, count]
    assert run(words, check=False).returncode == -9
    assert not (out / "disk.vmdk").exists()
    assert len(os.listdir(out)) == (count if call == "link" else 0)
    convert(raw, out / "disk.vmdk", options={"subformat": subformat}, force=True)
    assert compare(raw, out / "disk.vmdk").identical
    assert len(os.listdir(out)) == 2


AWKWARD = ["two words.vmdk", "größe.vmdk", "a.b.VMDK", "noend", "#1.vmdk", "-f.vmdk", ".vmdk"]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("subformat", ["monolithicSparse", *SPLIT])
def test_any_name(name: str, subformat: str, raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-14
    out = tmp_path / "out"
    out.mkdir()
    values = {"subformat": subformat}
    assert convert(raw, out / name, output_format="vmdk", options=values).verified
    reader = opened(out / name)
    assert reader.virtual_size == 3_000_320
    reader.close()


@pytest.mark.parametrize("name", ['quo"te.vmdk', "new\nline.vmdk"])
def test_names_that_no_descriptor_holds(name: str, raw: Path, tmp_path: Path) -> None:
    # VMDK-WRITE-14, hostile: 11
    with pytest.raises(UsageError, match="cannot name the file"):
        convert(raw, tmp_path / name, options={"subformat": "monolithicFlat"})
    assert os.listdir(tmp_path) == ["source"]
    convert(raw, tmp_path / name)
    assert described(tmp_path / name).extents[0].name == "disk.vmdk"


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_created_images_are_empty(subformat: str, tmp_path: Path) -> None:
    # VMDK-WRITE-1
    image = tmp_path / "disk.vmdk"
    create(image, 70_000_128, "vmdk", options={"subformat": subformat})
    reader = opened(image)
    assert reader.virtual_size == 70_000_128
    assert reader.read(35_000_000, 4096) == bytes(4096)
    assert list(reader.check()) == []
    reader.close()
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 < 1 << 18


def test_into_a_bundle_and_out_of_it(raw: Path, tmp_path: Path) -> None:
    image = write(raw, tmp_path / "disk.vmdk", "twoGbMaxExtentSparse")
    pack([image], tmp_path / "app.vmpack")
    assert compare(raw, tmp_path / "app.vmpack").identical
    unpack(tmp_path / "app.vmpack", tmp_path / "out", to="vmdk")
    (found,) = (tmp_path / "out").glob("*.vmdk")
    assert compare(raw, found).identical
