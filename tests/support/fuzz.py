"""Mutated images: whatever a byte says, a reader ends in success or in vmpack's own error."""

from __future__ import annotations

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vmpack.errors import VmpackError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.check import check
from vmpack.ops.info import info
from vmpack.ops.opening import open_image

READ_LIMIT = 4 << 20
SLOWEST_S = 10.0
INTERESTING = (0, 1, 2, 3, 8, 9, 16, 21, 22, 64, 72, 104, 255, 256, 511, 512, 513, 4096, 65535)
WIDE = (0, 1, 1 << 31, (1 << 32) - 1, 1 << 33, (1 << 62) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)


@dataclass
class Report:
    """What a run of the fuzzer saw."""

    tried: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


def mutate(rng: random.Random, data: bytes, hot: list[tuple[int, int]]) -> bytes:
    """A copy with one to six changes, most of them in the ``hot`` ranges (offset, length)."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        start, length = rng.choice(hot) if rng.random() < 0.85 else (0, len(out))
        if start + 8 > len(out):
            continue
        at = start + rng.randrange(max(1, min(length, len(out) - start)))
        _CHANGES[rng.randrange(len(_CHANGES))](rng, out, at)
    return bytes(out)


def _flip(rng: random.Random, out: bytearray, at: int) -> None:
    out[at] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, out: bytearray, at: int) -> None:
    out[at] = rng.randrange(256)


def _word(rng: random.Random, out: bytearray, at: int) -> None:
    width = rng.choice((2, 4, 8))
    at = at // width * width
    value = rng.choice(INTERESTING if rng.random() < 0.5 else WIDE)
    if rng.random() < 0.4:
        value = rng.randrange(len(out) // 512 + 2) * 512
    out[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "big")


def _copy(rng: random.Random, out: bytearray, at: int) -> None:
    length = rng.choice((8, 16, 48, 512))
    source = rng.randrange(len(out))
    out[at : at + length] = out[source : source + length][:length]


def _cut(rng: random.Random, out: bytearray, at: int) -> None:
    if rng.random() < 0.2:
        del out[at:]
        out.extend(bytes(8))


_CHANGES: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    _flip, _byte, _word, _word, _copy, _cut,
)  # fmt: skip


def exercise(path: Path, format_name: str) -> bool:
    """Do with the image all that a user may; whether any of it was refused."""
    refused = 0
    steps: tuple[Callable[[], object], ...] = (
        lambda: info(path, format=format_name),
        lambda: check(path, format=format_name),
        lambda: _read(path, format_name, OpenOptions()),
        lambda: _read(path, format_name, OpenOptions(snapshot="1")),
        lambda: _read(path, format_name, OpenOptions(allow_backing=True)),
    )
    for step in steps:
        try:
            step()
        except VmpackError as exc:
            if not str(exc).isprintable():
                raise AssertionError(f"{exc!r} is not fit for a terminal") from exc
            refused += 1
    return refused > 0


def _read(path: Path, format_name: str, options: OpenOptions) -> None:
    reader = open_image(path, format=format_name, options=options)
    try:
        left = READ_LIMIT
        for offset, length in _wanted(reader):
            take = min(length, left)
            assert len(reader.read(offset, take)) == take
            left -= take
            if not left:
                break
    finally:
        reader.close()


def _wanted(reader: ImageReader) -> Iterator[tuple[int, int]]:
    """The first 64 extents, then the disk's end."""
    for number, extent in enumerate(reader.extents()):
        if number == 64:
            break
        yield extent.offset, extent.length
    tail = min(reader.virtual_size, 65536)
    yield reader.virtual_size - tail, tail


def fuzz(
    corpus: dict[str, tuple[bytes, list[tuple[int, int]]]],
    folder: Path,
    *,
    format_name: str,
    seed: int,
    count: int | None = None,
    seconds: float | None = None,
) -> Report:
    """Mutate the corpus (name -> bytes and hot ranges) until ``count`` or ``seconds`` are reached.

    A failing image is kept in ``folder`` under a name that the report gives.
    """
    rng = random.Random(seed)
    report = Report()
    names = sorted(corpus)
    path = folder / "mutated.img"
    begin = time.monotonic()
    while (count is None or report.tried < count) and (
        seconds is None or time.monotonic() - begin < seconds
    ):
        name = names[report.tried % len(names)]
        path.write_bytes(mutate(rng, *corpus[name]))
        started = time.monotonic()
        try:
            report.refused += exercise(path, format_name)
        except Exception:
            kept = folder / f"failure-{seed}-{report.tried}-{name}.img"
            os.replace(path, kept)
            report.failures.append(f"{kept}\n{traceback.format_exc()}")
        took = time.monotonic() - started
        if took > SLOWEST_S:
            report.failures.append(f"{name}, number {report.tried} of seed {seed}: {took:.1f} s")
        report.slowest_s = max(report.slowest_s, took)
        report.tried += 1
    return report


def qcow2_corpus(folder: Path) -> dict[str, tuple[bytes, list[tuple[int, int]]]]:
    """Small qcow2 images of every kind that qemu-img makes, and where their tables lie."""
    from tests.support.disks import random_disk
    from tests.support.images import open_qcow2
    from tests.support.tools import require_tool, run

    qemu_img = require_tool("qemu-img")
    raw = folder / "seed.raw"
    random_disk(raw, 120_000, seed=99, block=512)
    variants = {
        "plain": "cluster_size=4096",
        "zlib": "cluster_size=4096",
        "zstd": "cluster_size=4096,compression_type=zstd",
        "v2": "cluster_size=4096,compat=0.10",
        "512": "cluster_size=512",
        "narrow": "cluster_size=512,refcount_bits=2",
        "extended": "cluster_size=16384,extended_l2=on",
    }
    corpus = {}
    for name, options in variants.items():
        image = folder / f"{name}.qcow2"
        words = ["convert", *(["-c"] if name in ("zlib", "zstd", "512") else [])]
        run([qemu_img, *words, "-f", "raw", "-O", "qcow2", "-o", options, raw, image])
        run([qemu_img, "snapshot", "-c", "first", image])
        if name != "v2":
            run([qemu_img, "bitmap", "--add", image, "changes"])
        reader = open_qcow2(image)
        fields = reader.header.fields
        hot = [(0, 112), (0, 112), (112, 512), (fields.l1_table_offset, fields.l1_size * 8)]
        hot += [(fields.refcount_table_offset, 64), (fields.snapshots_offset, 96)]
        if reader.header.bitmaps is not None:
            hot.append((reader.header.bitmaps.offset, 48))
        table = reader.source.pread(fields.l1_table_offset, fields.l1_size * 8)
        for at in range(0, len(table), 8):
            offset = int.from_bytes(table[at : at + 8], "big") & 0x00FF_FFFF_FFFF_FE00
            hot += [(offset, min(512, fields.cluster_size))] * (offset > 0)
        reader.close()
        corpus[name] = (image.read_bytes(), hot)
    return corpus
