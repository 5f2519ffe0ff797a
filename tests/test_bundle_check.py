"""``check`` finds any changed byte and says where it is; a cut file is refused."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.bundles import write_bundle
from tests.support.disks import disk_bytes, write_sparse
from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError, RefusedError, VmpackError
from vmpack.formats.base import Finding
from vmpack.source import ByteSource


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bundle of 4 KiB clusters under 64 KiB: two disks that share, and a blob."""
    return _make(tmp_path_factory.mktemp("small"), 2)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same with one disk: about 30,000 bytes."""
    return _make(tmp_path_factory.mktemp("smallest"), 1)


def _make(folder: Path, disks: int) -> bytes:
    text = b"".join(b"line %06d of a file that compresses\n" % n for n in range(400))
    (folder / "a.raw").write_bytes(text[:9000] + bytes(9000))
    (folder / "b.raw").write_bytes(text[:4096] + b"other" * 100)
    plan = [("a", folder / "a.raw", 4096), ("b", folder / "b.raw", 4096)][:disks]
    raw = write_bundle(folder / "s.vmpack", plan, blobs={"nvram": text[:3000]}).read_bytes()
    assert len(raw) <= 64 << 10
    return raw


def _check(path: Path, full: bool = False) -> list[Finding]:
    with Bundle.open(path) as bundle:
        return list(bundle.check(full=full, workers=1))


def test_a_sound_bundle_has_no_findings(small: bytes, tmp_path: Path) -> None:
    """VMP-SEG-1, VMP-SEG-2, VMP-POOL-2, VMP-VIEW-5, VMP-MAN-6, VMP-ID-2, VMP-FRAME-2."""
    path = tmp_path / "s.vmpack"
    path.write_bytes(small)
    assert _check(path, full=True) == []


def _flip(raw: bytes, path: Path, positions: Iterable[int]) -> dict[int, str]:
    """What is said of the file with one bit changed, for each of the positions."""
    path.write_bytes(raw)
    places = {}
    with path.open("r+b", buffering=0) as file:
        for at in positions:
            file.seek(at)
            file.write(bytes([raw[at] ^ (1 << at % 8)]))
            places[at] = _where(path)
            file.seek(at)
            file.write(raw[at : at + 1])
    return places


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_flipped_byte_is_found(smallest: bytes, tmp_path: Path, part: int) -> None:
    """VMP-HDR-3, VMP-MAN-1, VMP-IDX-1, VMP-SEG-1: every byte of the file (in four parts)."""
    places = _flip(smallest, tmp_path / "s.vmpack", range(part, len(smallest), 4))
    assert [at for at, place in places.items() if not place] == []


def test_a_flipped_byte_is_located(small: bytes, tmp_path: Path) -> None:
    """VMP-SEG-1: the structure, or the disk and the guest offset."""
    path = tmp_path / "s.vmpack"
    path.write_bytes(small)
    with Bundle.open(path) as bundle:
        manifest, frames = bundle.manifest, list(bundle.index().frames())
    expected = {
        manifest.blobs[0].offset + 40: "blob nvram",
        manifest.index_offset: "digest index",
        manifest.index_offset + manifest.index_size: "manifest",
        4095: "header",
        manifest.pool_end: "padding",
    }
    for frame in frames:
        expected |= dict.fromkeys((frame.offset, frame.offset + 20, frame.end - 1), "guest")
    for disk in manifest.disks:
        start, layout = disk.window_offset, disk.layout
        expected |= {
            start + 200: f"view header of disk {disk.id}",
            start + layout.l1_offset: f"L1 table of disk {disk.id}",
            start + layout.l1_offset + 4096: f"L2 tables of disk {disk.id}",
            start + layout.refcount_table_offset: f"refcount table of disk {disk.id}",
            start + layout.end - 1: f"refcount blocks of disk {disk.id}",
        }
    places = _flip(small, path, expected)
    assert {at: text for at, text in places.items() if expected[at] not in text} == {}
    assert "disk a" in places[frames[0].offset]
    assert "disk b" in places[frames[0].offset], "a shared cluster is damaged in both"


def _where(path: Path) -> str:
    """What opening or checking says of the damage, in one line; empty when nothing is said."""
    try:
        with Bundle.open(path) as bundle:
            found = list(bundle.check(workers=1))
    except VmpackError as exc:
        return f"{exc.message} at {exc.offset}"
    texts = [
        f"{one.message} at {one.offset}"
        + (f" guest {one.guest_offset}" if one.guest_offset is not None else "")
        for one in found
    ]
    return "; ".join(texts)


def test_a_file_cut_anywhere_is_refused(small: bytes, tmp_path: Path) -> None:
    """VMP-HDR-1, VMP-HDR-6."""
    path = tmp_path / "cut.vmpack"
    for length in [*range(0, len(small), 61), len(small) - 1]:
        path.write_bytes(small[:length])
        with pytest.raises((DamagedError, RefusedError)):
            Bundle.open(path)
    path.write_bytes(small + b"\0")
    with pytest.raises(DamagedError, match="1 bytes follow"):
        Bundle.open(path)


def test_damage_of_a_large_bundle_names_disk_and_guest_offset(tmp_path: Path) -> None:
    """VMP-SEG-1: a sample of a bundle with many segments and shared clusters."""
    source = tmp_path / "disk.raw"
    write_sparse(source, disk_bytes(24 << 20, seed=3))
    disks = [("a", source, 65536), ("b", source, 65536)]
    path = write_bundle(tmp_path / "x.vmpack", disks)
    path.chmod(0o644)
    with Bundle.open(path) as bundle:
        index = bundle.index()
        offsets: dict[int, set[tuple[str, int]]] = {}
        for disk in bundle.disks:
            for guest, host, _ in bundle.disk(disk.id).compressed_frames(0, disk.virtual_size):
                offsets.setdefault(host + disk.window_offset, set()).add((disk.id, guest))
        assert index.segment_count > 5
        rng = random.Random(7)
        chosen = [index.frame(rng.randrange(index.frame_count)) for _ in range(12)]
    with path.open("r+b", buffering=0) as file:
        for frame in chosen:
            at = rng.randrange(frame.offset + 14, frame.end)
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 0x10]))
            found = _check(path)
            named = {(one.message.split()[4], one.guest_offset) for one in found}
            assert named == offsets[frame.offset], found
            file.seek(at)
            file.write(old)
    assert _check(path, full=True) == []


def test_check_reads_a_bundle_on_a_stream_of_its_own(small: bytes, tmp_path: Path) -> None:
    """The file that was opened is the file that is checked, whatever its name now names."""
    path = tmp_path / "s.vmpack"
    path.write_bytes(small)
    with Bundle.open(ByteSource.open(path)) as bundle:
        path.unlink()
        path.write_bytes(b"something else")
        assert list(bundle.check(full=True)) == []


def test_the_manifest_is_checked_before_it_is_believed(small: bytes, tmp_path: Path) -> None:
    """VMP-MAN-1, VMP-MAN-2, VMP-MAN-3, VMP-MAN-5: see also test_bundle_hostile."""
    path = tmp_path / "s.vmpack"
    raw = bytearray(small)
    at = bytes(raw).index(b'"format":"vmpack"')
    raw[at + 10] = ord("V")
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match="manifest is damaged") as caught:
        Bundle.open(path)
    assert caught.value.clause == "VMP-MAN-1"
    assert caught.value.hint
