"""VHD images with changed fields: success or vmpack's own error, whatever a byte says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes
from tests.support.vhd import (
    FOOTER_FIELDS,
    HEADER_FIELDS,
    change_footer,
    change_header,
    difference,
    open_image,
    seal,
    write,
)
from vmpack.errors import VmpackError
from vmpack.ops.check import check
from vmpack.ops.info import info


def small_dynamic(folder: Path, data: bytes) -> Path:
    """A dynamic disk in blocks smaller than any writer's, so that a change often hits a table."""
    empty = write(folder / "empty.vhd", bytes(len(data)))
    changes = {n: data[n * 512 : n * 512 + 512] for n in range(len(data) // 512)}
    image = difference(folder / "d.vhd", empty, len(data), changes, block_size=4096)
    return change_footer(image, "disk_type", b"\3").rename(folder / "small.vhd")


def mutated(rng: random.Random, raw: bytes, hot: list[tuple[int, int]]) -> bytearray:
    """A copy with some bytes changed, most of them in the ``hot`` ranges (offset, length)."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, length = rng.choice(hot) if rng.random() < 0.9 else (0, len(out))
        at = start + rng.randrange(length)
        width = rng.choice((1, 2, 4, 8))
        last = (1 << 8 * width) - 1
        value = rng.choice((0, 1, 3, 512, len(raw) // 512, last, rng.getrandbits(64)))
        out[at : at + width] = (value & last).to_bytes(width, "big")
    if rng.random() < 0.1:
        del out[rng.randrange(len(out)) :]
    return out


def use(path: Path, **options: object) -> bool:
    """Do with the image what a user may; whether it was refused."""
    try:
        _use(path, **options)
    except VmpackError as exc:
        if not str(exc).isprintable():
            raise AssertionError(f"{exc!r} is not fit for a terminal") from exc
        return True
    return False


def _use(path: Path, **options: object) -> None:
    info(path, format="vhd")
    check(path, format="vhd")
    reader = open_image(path, **options)
    try:
        for extent in list(reader.extents())[:8]:
            reader.read(extent.offset, min(extent.length, 1 << 20))
    finally:
        reader.close()


@pytest.mark.parametrize("kind", ["footer", "header"])
def test_every_field_with_every_kind_of_value(kind: str, tmp_path: Path) -> None:
    # hostile: 10
    # hostile: 9
    dynamic = small_dynamic(tmp_path, disk_bytes(20_480, seed=3))
    fields = FOOTER_FIELDS if kind == "footer" else HEADER_FIELDS
    change = change_footer if kind == "footer" else change_header
    tried = refused = 0
    for name, (_, length) in fields.items():
        width = min(length, 8)
        for value in (0, 1, 511, 1 << (8 * width - 1), (1 << 8 * width) - 1):
            if value >> 8 * width:
                continue
            changed = change(dynamic, name, value.to_bytes(width, "big") * (length // width))
            refused += use(changed)
            tried += 1
    assert 0 < refused < tried


@pytest.mark.parametrize("kind", ["dynamic", "fixed", "child"])
def test_random_changes_end_in_success_or_vmpacks_own_error(kind: str, tmp_path: Path) -> None:
    # hostile: 10
    # hostile: 7
    data = disk_bytes(20_480, seed=3)
    image = write(tmp_path / "disk.vhd", data, subformat="fixed")
    options: dict[str, object] = {}
    if kind == "child":
        changes = {3: b"x" * 512, 20: b"y" * 512}
        child = tmp_path / "child.vhd"
        image = difference(child, image, 20_480, changes, block_size=4096)
        options = {"allow_backing": True}
    elif kind == "dynamic":
        image = small_dynamic(tmp_path, data)
        assert open_image(image).read(0, 20_480) == data
    raw = image.read_bytes()
    end = len(raw) - 512
    hot = [(end, 90)]
    if kind != "fixed":
        hot += [(0, 90), (512, 96), (1088, 192), (5632, 20)]
    rng = random.Random(kind)
    target = tmp_path / "mutated.vhd"
    refused = 0
    for _ in range(250):
        out = mutated(rng, raw, hot)
        if len(out) == len(raw) and rng.random() < 0.8:
            for at, field, length in ((0, 64, 512), (512, 36, 1024), (end, 64, 512)):
                if kind != "fixed" or at == end:
                    seal(out, at, field, length)
        target.write_bytes(out)
        refused += use(target, **options)
    assert 0 < refused < 250
