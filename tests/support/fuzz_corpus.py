"""Small sound images of every format and subformat, by qemu-img and by vmpack, to be mutated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.disks import disk_bytes, write_sparse
from tests.support.fuzz_extra import EXTRA
from tests.support.fuzz_patient import SECTOR, Part, Specimen, nonzero_sectors
from tests.support.tools import require_tool, run
from vmpack import formats
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.formats.mapped import COMPRESSED, MappedReader
from vmpack.source import ByteSource

Words = tuple[str, ...]
READABLE = (*formats.names(), *formats.STREAMS)
"""Every format that has a reader."""
SMALL = 61_440
MANY = 200
"""Sectors with structures that an image of this size has; more are frames or noise."""
QEMU_VARIANTS: dict[str, dict[str, Words]] = {
    "raw": {"plain": ()},
    "qcow2": {
        "plain": ("-o", "cluster_size=4096"),
        "zlib": ("-c", "-o", "cluster_size=4096"),
        "zstd": ("-c", "-o", "cluster_size=4096,compression_type=zstd"),
        "v2": ("-o", "cluster_size=4096,compat=0.10"),
        "512": ("-c", "-o", "cluster_size=512"),
        "narrow": ("-o", "cluster_size=512,refcount_bits=2"),
        "extended": ("-o", "cluster_size=16384,extended_l2=on"),
    },
    "vmdk": {
        "sparse": ("-o", "subformat=monolithicSparse"),
        "zeroed": ("-S", "0", "-o", "subformat=monolithicSparse,zeroed_grain=on"),
        "stream": ("-o", "subformat=streamOptimized"),
        "flat": ("-o", "subformat=monolithicFlat"),
        "split": ("-o", "subformat=twoGbMaxExtentSparse"),
        "split-flat": ("-o", "subformat=twoGbMaxExtentFlat"),
    },
    "vhd": {
        "dynamic": ("-o", "subformat=dynamic,force_size=on"),
        "chs": ("-o", "subformat=dynamic"),
        "fixed": ("-o", "subformat=fixed,force_size=on"),
    },
    "vhdx": {
        "dynamic": ("-o", "subformat=dynamic,block_size=1M"),
        "fixed": ("-o", "subformat=fixed,block_size=1M"),
    },
    "vdi": {"dynamic": (), "static": ("-o", "static=on")},
}
"""qemu-img convert's words for each way in which it writes a format."""
OWN_VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "qcow2": {"own-zstd": {"cluster_size": "4096", "-c": ""}},
    "vmdk": {
        "own-sparse": {},
        "own-stream": {"subformat": "streamOptimized"},
        "own-split": {"subformat": "twoGbMaxExtentSparse"},
    },
    "vhd": {"own-dynamic": {"subformat": "dynamic"}, "own-fixed": {"subformat": "fixed"}},
    "vhdx": {"own-dynamic": {"block_size": "1M"}},
    "vdi": {"own-dynamic": {}},
}
"""Options of vmpack's writers (``-c`` compresses); a format without an entry is written once."""


def specimens(format_name: str, folder: Path) -> list[Specimen]:
    """The corpus of one format, built in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [*_by_qemu(format_name, folder), *_by_vmpack(format_name, folder)]
    if format_name in EXTRA:
        for name, image, parents in EXTRA[format_name](folder):
            found.append(specimen(name, format_name, image, parents=parents))
    return found


def _source(folder: Path, format_name: str) -> Path:
    """The disk that the images hold: data at its start; blocks of MiBs apart, data further on."""
    data = disk_bytes(SMALL, seed=99, block=512)
    if format_name in ("vhd", "vhdx", "vdi"):
        data = data[:20480] + bytes((2 << 20) + 4096) + data[20480:28672]
    return write_sparse(folder / "seed.raw", data, block=512)


def _by_qemu(format_name: str, folder: Path) -> Iterable[Specimen]:
    qemu_img = require_tool("qemu-img")
    raw = _source(folder, format_name)
    target = formats.get(format_name).qemu_name
    for name, words in QEMU_VARIANTS.get(format_name, {}).items():
        image = _place(folder, name, format_name)
        run([qemu_img, "convert", *words, "-f", "raw", "-O", target, raw, image])
        if format_name == "qcow2":
            run([qemu_img, "snapshot", "-c", "first", image])
            if name != "v2":
                run([qemu_img, "bitmap", "--add", image, "changes"])
        yield specimen(name, format_name, image)


def _by_vmpack(format_name: str, folder: Path) -> Iterable[Specimen]:
    from vmpack.ops.convert import convert

    raw = _source(folder, format_name)
    if formats.get(format_name).create is None or format_name == "raw":
        return
    for name, values in OWN_VARIANTS.get(format_name, {"own": {}}).items():
        image = _place(folder, name, format_name)
        options = {key: value for key, value in values.items() if key != "-c"}
        convert(raw, image, output_format=format_name, options=options, compressed="-c" in values)
        yield specimen(name, format_name, image)


def _place(folder: Path, name: str, format_name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place / f"image.{format_name}"


def specimen(name: str, format_name: str, image: Path, *, parents: Sequence[Path] = ()) -> Specimen:
    """The image with all files beside it; ``parents`` are those of them that it stands on."""
    others = sorted(path for path in image.parent.iterdir() if path != image)
    parts = [Part(image.name, image.read_bytes(), _hot(image, format_name, parents))]
    for path in others:
        data = path.read_bytes()
        hot = tuple((at, SECTOR) for at in nonzero_sectors(data[:65536]))
        parts.append(Part(path.name, data, hot))
    return Specimen(name, format_name, tuple(parts), tuple(path.name for path in parents))


def _hot(image: Path, format_name: str, parents: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """The sectors that hold structures: not empty, and not the guest's bytes."""
    data = image.read_bytes()
    if format_name in formats.STREAMS:
        return ((0, 8), (0, 64), (len(data) // 3, len(data) // 3), (len(data) - 32, 32))
    options = OpenOptions(parents=tuple(str(path) for path in parents))
    reader = formats.get(format_name).open(ByteSource.open(image), options)
    try:
        guest = _guest_sectors(reader)
    finally:
        reader.close()
    found = [at for at in nonzero_sectors(data) if at not in guest]
    if not found:
        return ()
    if len(found) > MANY:
        found = [*found[: MANY // 2], *found[-MANY // 4 :]]
    # Headers are first or last; else tables and frames, which are many, would hide them.
    headers = [*found[:3], *found[-2:]] * (1 + len(found) // 10)
    return tuple((at, min(SECTOR, len(data) - at)) for at in [*found, *headers])


def _guest_sectors(reader: ImageReader) -> set[int]:
    """Offsets of the sectors of the image's first file that hold the guest's bytes, or frames."""
    found: set[int] = set()
    if isinstance(reader, MappedReader):
        runs = [run for run in reader.runs(0, reader.virtual_size) if run.state == COMPRESSED]
        for run in runs:
            # A frame's first sector may hold a marker.
            first = -(-run.host // SECTOR) * SECTOR + SECTOR
            found.update(range(first, run.host + run.host_length - SECTOR, SECTOR))
    for one in reader.map_runs(0, reader.virtual_size):
        if one.host is not None and one.data and not one.depth:
            first = -(-one.host // SECTOR) * SECTOR
            found.update(range(first, one.host + one.length, SECTOR))
    return found


def save(corpus: Sequence[Specimen], folder: Path) -> None:
    """Keep a corpus: one folder an image, its files and ``specimen.json``."""
    for one in corpus:
        place = folder / one.format / one.name
        place.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(one.parts):
            write_sparse(place / f"part-{number}", part.data)
        parts = [{"name": part.name, "hot": part.hot} for part in one.parts]
        document = {"parts": parts, "parents": one.parents}
        (place / "specimen.json").write_text(json.dumps(document))


def load(folder: Path, format_name: str) -> list[Specimen]:
    """What :func:`save` kept of one format."""
    found = []
    for place in sorted((folder / format_name).iterdir()):
        document = json.loads((place / "specimen.json").read_text())
        parts = tuple(
            Part(
                one["name"],
                (place / f"part-{number}").read_bytes(),
                tuple((at, length) for at, length in one["hot"]),
            )
            for number, one in enumerate(document["parts"])
        )
        found.append(Specimen(place.name, format_name, parts, tuple(document["parents"])))
    return found


def corpus_of(format_name: str, kept: Path | None, scratch: Path) -> list[Specimen]:
    """The corpus that ``kept`` holds, or a new one built in ``scratch``."""
    if kept is not None and os.path.isdir(kept / format_name):
        return load(kept, format_name)
    return specimens(format_name, scratch / format_name)
