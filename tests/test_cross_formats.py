"""Every format into every other, through every operation; sizes from nothing to 8 TiB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.fuzz import cpu_limit
from tests.support.hostile import WATCH
from tests.support.qemu import QemuImg
from tests.support.variants import OF_QEMU, OWN, Variant, writable
from vmpack import formats
from vmpack.digest import content_digest
from vmpack.errors import VmpackError
from vmpack.extent import Kind
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.info import info
from vmpack.ops.map import map_image
from vmpack.ops.measure import measure
from vmpack.ops.opening import open_image
from vmpack.ops.pack import pack
from vmpack.ops.unpack import unpack

SIZE = 700_416
GIANT = 8 << 40
STORED = 48 << 20
"""Bytes that source and image may take of the file system, tables included."""
THIN = ("plain", "zstd", "dynamic", "sparse", "stream", "flat")
"""Variants whose files hold no more than the data."""
VHD_LIMIT = 2040 << 30
EACH_VARIANT = pytest.mark.parametrize("variant", OWN, ids=[one.id for one in OWN])
EACH_FORMAT = pytest.mark.parametrize("name", writable())
ODD_SIZES = (0, 1, 512, 70_001)
CPU_S = 20


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of all kinds of data, with holes; its format is said by its name."""
    folder = tmp_path_factory.mktemp("source")
    return write_sparse(folder / "disk.raw", disk_bytes(SIZE, seed=21))


def digest(path: Path, format_name: str | None = None) -> str:
    reader = open_image(path, format=format_name)
    try:
        return content_digest(reader)
    finally:
        reader.close()


class Images:
    """The disk in every format, by vmpack; each is written when it is first asked for."""

    def __init__(self, raw: Path, folder: Path):
        self._raw = raw
        self._folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self._folder / f"disk.{name}"
        if not path.exists():
            convert(self._raw, path, output_format=name)
        return path


@pytest.fixture(scope="module")
def images(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(raw, tmp_path_factory.mktemp("images"))


@pytest.mark.qemu
@pytest.mark.parametrize("target", writable())
@EACH_FORMAT
def test_every_format_into_every_other(
    name: str, target: str, raw: Path, images: Images, tmp_path: Path, qemu_img: QemuImg
) -> None:
    out = tmp_path / f"out.{target}"
    done = convert(images[name], out, source_format=name, output_format=target, digest=True)
    assert done.verified
    assert done.content_digest == digest(raw)
    qemu_img.assert_identical(raw, out, fmt_a="raw", fmt_b=formats.get(target).qemu_name)
    assert compare(images[name], out, format_a=name, format_b=target, strict=True).identical


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("name", "words"),
    [pytest.param(one, words, id=f"{one}-{what}") for one, what, words in OF_QEMU],
)
def test_what_qemu_img_writes_is_read(
    name: str, words: tuple[str, ...], raw: Path, tmp_path: Path, qemu_img: QemuImg
) -> None:
    image, out = tmp_path / f"disk.{name}", tmp_path / "out.raw"
    target = formats.get(name).qemu_name
    qemu_img.run("convert", *words, "-f", "raw", "-O", target, raw, image)
    convert(image, out)
    assert out.read_bytes() == raw.read_bytes()
    facts = qemu_img.json("info", "-f", target, image)
    found = info(image).as_dict()
    # info reads a descriptor alone: what its extents' headers say it does not know.
    keys = ["format", "virtual-size", "dirty-flag"]
    keys += ["cluster-size"] * (len(list(tmp_path.iterdir())) == 2)
    assert {key: found.get(key) for key in keys} == {key: facts.get(key) for key in keys}
    assert check(image).exit_code == 0


@pytest.mark.qemu
@EACH_VARIANT
def test_everything_that_is_written_is_sound(
    variant: Variant, raw: Path, images: Images, tmp_path: Path, qemu_img: QemuImg
) -> None:
    out, back = tmp_path / f"out.{variant.format}", tmp_path / "back.raw"
    done = variant.write(images["qcow2"], out, digest=True)
    if variant.grows:
        assert done.virtual_size > SIZE
        assert compare(raw, out, format_b=variant.format).identical
    else:
        assert done.content_digest == digest(raw)
        qemu_img.assert_identical(raw, out, fmt_a="raw", fmt_b=variant.qemu_name)
    found = qemu_img.json("info", "-f", variant.qemu_name, out)
    assert found["virtual-size"] == done.virtual_size
    if variant.format != "raw":
        assert check(out, format=variant.format).exit_code == 0
        checked = qemu_img.run("check", "-f", variant.qemu_name, out, check=False)
        assert checked.returncode in (0, 63), checked.stderr
    convert(out, back, source_format=variant.format)
    assert back.read_bytes()[:SIZE] == raw.read_bytes()


@EACH_VARIANT
def test_measure_is_exact_or_enough(variant: Variant, raw: Path, tmp_path: Path) -> None:
    compressed = variant.codec is not None
    found = measure(raw, variant.format, dict(variant.options), compressed=compressed)
    done = variant.write(raw, tmp_path / f"out.{variant.format}", verify=False)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert done.size == size
    if compressed:
        assert size <= found["required"] <= found["fully-allocated"]
    elif variant.one_file:
        assert found["required"] == size
    else:
        # A descriptor names the other files, and nobody has said what they will be called.
        assert abs(found["required"] - size) < 64
    empty = measure(SIZE, variant.format, dict(variant.options), compressed=compressed)
    assert empty["required"] <= found["required"]


@EACH_VARIANT
def test_created_disks_are_empty(variant: Variant, tmp_path: Path) -> None:
    image = tmp_path / f"new.{variant.format}"
    create(image, 5 << 20, variant.format, options=dict(variant.options))
    reader = open_image(image, format=variant.format)
    assert reader.virtual_size == (20 << 20 if variant.grows else 5 << 20)
    assert not any(reader.read(0, reader.virtual_size))
    reader.close()
    with pytest.raises(VmpackError, match="exists"):
        create(image, 1 << 20, variant.format, options=dict(variant.options))


@EACH_FORMAT
def test_map_covers_the_disk(name: str, images: Images, raw: Path) -> None:
    rows: Any = map_image(images[name], format=name)
    data = raw.read_bytes()
    position = 0
    for row in rows:
        assert row["start"] == position
        position += row["length"]
        if not row["data"]:
            assert not any(data[row["start"] : position])
        if "offset" in row and row["data"]:
            file = images[name].read_bytes()
            stored = file[row["offset"] : row["offset"] + row["length"]]
            assert stored[: SIZE - row["start"]] == data[row["start"] : position]
    assert position == SIZE


@EACH_FORMAT
def test_a_change_is_seen(name: str, images: Images, tmp_path: Path) -> None:
    changed = bytearray(disk_bytes(SIZE, seed=21))
    changed[SIZE - 3] ^= 1
    other = write_sparse(tmp_path / "other.raw", bytes(changed))
    found = compare(images[name], other, format_a=name)
    assert (found.identical, found.offset) == (False, SIZE - 3)


@EACH_FORMAT
def test_a_bundle_between(name: str, images: Images, raw: Path, tmp_path: Path) -> None:
    """Packed from this format and unpacked into it."""
    source = tmp_path / f"root{formats.get(name).suffixes[0]}"
    source.symlink_to(images[name])
    pack([source], tmp_path / "app.vmpack")
    unpack(tmp_path / "app.vmpack", tmp_path / "out", to=name)
    made = tmp_path / "out" / f"root{formats.get(name).suffixes[0]}"
    assert digest(made) == digest(raw)
    assert compare(f"{tmp_path / 'app.vmpack'}#root", made, strict=True).identical


@EACH_VARIANT
def test_only_the_image_itself_is_opened(variant: Variant, raw: Path, tmp_path: Path) -> None:
    """hostile: 4, 6. Its bytes stay as they are, and so does its time of change."""
    image = tmp_path / f"disk.{variant.format}"
    variant.write(raw, image, verify=False)
    files = sorted(tmp_path.iterdir())
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    work: dict[str, Any] = {
        "info": lambda: info(image, format=variant.format),
        "check": lambda: check(image, format=variant.format),
        "map": lambda: map_image(image, format=variant.format),
        "read": lambda: digest(image, variant.format),
    }
    for what, step in work.items():
        step()  # what is imported on the way is not what is looked for
        with WATCH.opened() as opened:
            step()
        allowed = {str(image)} if what == "info" or variant.one_file else set(map(str, files))
        assert {name for name in opened if not name.startswith("/proc/")} <= allowed, what
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]


@pytest.mark.parametrize("size", ODD_SIZES)
@EACH_FORMAT
def test_odd_sizes_come_back(name: str, size: int, tmp_path: Path) -> None:
    data = disk_bytes(size, seed=size)
    source = write_sparse(tmp_path / "source.raw", data)
    out, back = tmp_path / f"odd.{name}", tmp_path / "back.raw"
    done = convert(source, out, output_format=name)
    assert done.verified
    convert(out, back, source_format=name)
    grown = back.read_bytes()
    assert len(grown) in (size, -(-size // 512) * 512)
    assert grown == data + bytes(len(grown) - size)
    assert digest(back) == digest(source)


def islands(path: Path, size: int) -> Path:
    """A disk of ``size`` bytes with a little data at its begin, at odd places, and at its end."""
    places = [0, 1 << 30, size // 2 - 4096, size // 3 // 512 * 512, size - 65536]
    with path.open("wb") as out:
        out.truncate(size)
        for number, place in enumerate(places):
            out.seek(place)
            out.write(disk_bytes(65536, seed=number + 50, block=512))
    return path


GIANTS = [one for one in OWN if one.name in THIN and one.format != "vhd"]


@pytest.mark.parametrize("variant", GIANTS, ids=[one.id for one in GIANTS])
def test_sparse_giants_cost_what_their_data_costs(variant: Variant, tmp_path: Path) -> None:
    """hostile: 8. 8 TiB with six islands of data, there and back."""
    source = islands(tmp_path / "giant.raw", GIANT)
    out = tmp_path / f"giant-out.{variant.format}"
    with cpu_limit(CPU_S):
        done = variant.write(source, out)
        assert done.verified
        assert done.virtual_size == GIANT
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) < STORED
        reader = open_image(out, format=variant.format)
        data = sum(one.length for one in reader.extents() if one.kind is Kind.DATA)
        assert data <= 6 * max(65536, reader.cluster_size) * 2
        reader.close()
        assert info(out, format=variant.format).as_dict()["virtual-size"] == GIANT
        assert len(map_image(out, format=variant.format)) < 2000
        if variant.format != "raw":
            assert check(out, format=variant.format).exit_code == 0
        assert compare(source, out, format_b=variant.format, strict=True).identical


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_vhd_ends_at_its_limit(kind: str, tmp_path: Path) -> None:
    source, out = islands(tmp_path / "a.raw", VHD_LIMIT), tmp_path / "b.vhd"
    with cpu_limit(CPU_S):
        convert(source, out, options={"subformat": kind})
        assert compare(source, out, strict=True).identical
        assert check(out).exit_code == 0
    out.unlink()
    for size in (VHD_LIMIT + 512, GIANT):
        islands(source, size)
        with pytest.raises(VmpackError) as caught:
            convert(source, out, options={"subformat": kind})
        assert "vhdx" in str(caught.value.hint).lower()
        assert not out.exists()
