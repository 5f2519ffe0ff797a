"""The test vectors of specs/vmpack-v1.md: content digests, and a bundle byte by byte."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import zstandard

from tests.support.bundles import prove_bundle, raw_reader, write_bundle
from tests.support.qemu import QemuImg
from tests.support.spec_tables import SPECS
from tools.vector import NVRAM, SECTOR, annotate, parse, spans, write
from vmpack.bundle.reader import Bundle
from vmpack.digest import content_digest
from vmpack.ops.opening import open_image

VECTOR = SPECS / "vectors" / "one-sector.hex"
DISKS = {
    "0 bytes": b"",
    "512 bytes of `a`": b"a" * 512,
    "1 MiB of zeros": bytes(1 << 20),
    "one leaf: 65,536 bytes of `b`": b"b" * 65536,
    "partial last leaf: 65,536 bytes of `c`, then 1,024 of `d`": b"c" * 65536 + b"d" * 1024,
    "odd raw: 1,000 bytes of `e` (as its qcow2 of 1,024 bytes)": b"e" * 1000,
}


@pytest.mark.parametrize("name", DISKS)
def test_content_digests(name: str, tmp_path: Path) -> None:
    """VMP-ID-3: the page's vectors, from raw and from a bundle."""
    page = (SPECS / "vmpack-v1.md").read_text()
    row = re.search(rf"^\| {re.escape(name)} \| `([0-9a-f]{{64}})` \|$", page, re.MULTILINE)
    assert row is not None
    wanted = "vmpack-content-v1:" + row[1]
    source = tmp_path / "disk.raw"
    source.write_bytes(DISKS[name])
    assert content_digest(raw_reader(source)) == wanted
    bundle = write_bundle(tmp_path / "x.vmpack", [("root", source, 4096)])
    with Bundle.open(bundle) as opened:
        assert opened.disks[0].content_digest == wanted
        assert content_digest(opened.disk("root")) == wanted


@pytest.mark.qemu
def test_the_odd_raw_and_its_qcow2_have_one_digest(tmp_path: Path, qemu_img: QemuImg) -> None:
    """VMP-ID-3, VMP-VIEW-4."""
    padded = tmp_path / "odd.raw"
    padded.write_bytes(b"e" * 1000 + bytes(24))
    image = tmp_path / "odd.qcow2"
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", padded, image)
    odd = tmp_path / "e.raw"
    odd.write_bytes(b"e" * 1000)
    assert content_digest(open_image(image)) == content_digest(raw_reader(odd))


@pytest.mark.qemu
def test_the_vector_is_a_sound_bundle(tmp_path: Path) -> None:
    """VMP-ID-1, VMP-BLOB-1, VMP-BLOB-2, VMP-BLOB-3, VMP-IDX-2, VMP-IDX-3."""
    path = tmp_path / "vector.vmpack"
    path.write_bytes(parse(VECTOR.read_text()))
    disk = tmp_path / "disk.raw"
    disk.write_bytes(SECTOR)
    prove_bundle(path, {"root": disk})
    with Bundle.open(path) as bundle:
        assert list(bundle.check(full=True)) == []
        assert bundle.disk("root").read(0, 512) == SECTOR
        assert bundle.blob("nvram") == NVRAM
        assert bundle.id.startswith("sha256:")


def test_the_writer_makes_the_vector(tmp_path: Path) -> None:
    """VMP-WRITE-3: the same bytes, or with another libzstd the same content."""
    path = tmp_path / "vector.vmpack"
    write(path)
    old = VECTOR.read_text()
    with Bundle.open(path) as bundle:
        made_with = str(bundle.manifest.provenance["libzstd"])
        digest = bundle.disks[0].content_digest
    assert digest in parse(old).decode("latin-1")
    found = re.search(rb'"provenance":(\{.*?\})', parse(old))
    assert found is not None
    recorded = json.loads(found[1])["libzstd"]
    if made_with == recorded:
        assert annotate(path.read_bytes(), spans(path)) == old
    assert made_with == ".".join(map(str, zstandard.ZSTD_VERSION))
