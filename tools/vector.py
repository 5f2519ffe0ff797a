"""Writes the annotated test vector of the bundle format: specs/vectors/one-sector.hex.

``python tools/vector.py specs/vectors/one-sector.hex``. A change of that file is a change of the
format: it belongs into the same commit as the page and the structs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vmpack.bundle.reader import Bundle
from vmpack.bundle.structs import FRAME_RECORD, HEADER, SEGMENT_RECORD
from vmpack.bundle.writer import BundleWriter
from vmpack.formats import get
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.structs import HEADER_V2, HEADER_V3_COMPRESSION, HEADER_V3_TAIL
from vmpack.machine import MachineConfig
from vmpack.output import Output
from vmpack.source import ByteSource

SECTOR = b"One sector of a disk that a bundle holds.\n".ljust(512, b".")
NVRAM = b"variables"
Span = tuple[int, int, str]


def write(path: Path) -> None:
    """The bundle of the vector: one disk of 512 bytes in 4 KiB clusters, one blob."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.raw"
        disk.write_bytes(SECTOR)
        reader = get("raw").open(ByteSource.open(disk), OpenOptions())
        config = {"version": 1, "name": "one-sector", "disk": [{"id": "root"}]}
        observable = MachineConfig.from_json_dict(config).observable()
        with Output(path) as out, BundleWriter(out, [("root", 4096)], workers=1) as writer:
            writer.add_disk(reader)
            writer.add_blob("nvram", NVRAM)
            writer.finish(config, observable, {"vmpack": "vector"})
            out.commit()
        reader.close()


def _fields(struct: object, start: int, prefix: str) -> Iterator[Span]:
    for field in struct.subcons:  # type: ignore[attr-defined] - construct has no types
        size = field.sizeof()
        yield start, size, f"{prefix}{field.name}: {field.docs}"
        start += size


def spans(path: Path) -> list[Span]:
    """What lies where: ``(offset, size, note)``, ascending and without gaps."""
    with Bundle.open(path) as bundle:
        manifest, index = bundle.manifest, bundle.index()
        disk = manifest.disks[0]
        start, layout = disk.window_offset, disk.layout
        found = list(_fields(HEADER, 0, ""))
        found += _fields(HEADER_V2, start, "view header, ")
        found += _fields(HEADER_V3_TAIL, start + 72, "view header, ")
        found += _fields(HEADER_V3_COMPRESSION, start + 104, "view header, ")
        found.append((start + 112, 4096 - 112, "view header, end of extensions, then zeros"))
        for frame in index.frames():
            found.append((frame.offset, frame.size, "pool, frame of cluster 0"))
        for blob in manifest.blobs:
            found.append((blob.offset, blob.stored_size, f"pool, blob {blob.name}"))
        tables = start + layout.l1_offset
        found.append((manifest.pool_end, tables - manifest.pool_end, "padding"))
        found.append((tables, 4096, "L1 table: entry 0 leads to the L2 table"))
        found.append((tables + 4096, 4096, "L2 table: entry 0 is a compressed cluster"))
        table = start + layout.refcount_table_offset
        found.append((table, 4096, "refcount table: entry 0 leads to the refcount block"))
        found.append((table + 4096, 4096, "refcount block: 32-bit refcounts from cluster 0"))
        at = manifest.index_offset
        for number in range(index.frame_count):
            found += _fields(FRAME_RECORD, at, f"index, frame {number}, ")
            at += 48
        for number in range(index.segment_count):
            found += _fields(SEGMENT_RECORD, at, f"index, segment {number}, ")
            at += 48
        found.append((at, bundle.header.manifest_size, "manifest"))
    return found


def annotate(raw: bytes, found: list[Span]) -> str:
    """One paragraph a span: a comment, then 32 bytes a line; rows of zeros are left out."""
    lines = [
        "# A bundle byte by byte: a disk of 512 bytes and a blob (tools/vector.py writes this).",
        "# OFFSET: BYTES, both in hex. What no line gives is zero. The last line gives the length.",
    ]
    position = 0
    for offset, size, note in found:
        if offset != position:
            raise ValueError(f"gap at {position}")
        position = offset + size
        lines.append(f"# {note}")
        for at in range(offset, position, 32):
            piece = raw[at : min(at + 32, position)]
            if any(piece):
                lines.append(f"{at:06x}: {piece.hex(' ')}")
    lines.append(f"{len(raw):06x}:")
    return "\n".join(lines) + "\n"


def parse(text: str) -> bytes:
    """The bytes that an annotated vector stands for."""
    rows = [line.split(":") for line in text.splitlines() if not line.startswith("#")]
    raw = bytearray(int(rows[-1][0], 16))
    for at, data in rows:
        piece = bytes.fromhex(data)
        raw[int(at, 16) : int(at, 16) + len(piece)] = piece
    return bytes(raw)


def main() -> None:
    """Write the vector to the path that is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.vmpack"
        write(path)
        text = annotate(path.read_bytes(), spans(path))
    Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
