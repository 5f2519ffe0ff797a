"""Frames that are not what they should be, and thousands of mutants, every digest correct."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.hostile import WATCH, Hostile, complaints, good_bundle, survey
from vmpack.errors import VmpackError


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests write is thrown away; waiting for the disk is most of their time."""
    monkeypatch.setattr("os.fsync", lambda _fd: None)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return good_bundle(tmp_path_factory.mktemp("good"))


BOMB = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(64 << 20))
FRAMES: list[Any] = []


def frame(name: str, make: Callable[[bytes], bytes], clause: str = "VMP-FRAME-2") -> None:
    FRAMES.append(pytest.param(make, clause, id=name))


def _zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(
        **{"level": 3, "write_checksum": True, "write_content_size": True, **options}
    ).compress(data)


def _window(data: bytes, log: int) -> bytes:
    """A frame that asks for a window of ``1 << log`` bytes, and decodes to ``data``."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=log, write_checksum=True, write_content_size=True
    )
    frame = bytearray(_zstd(data, level=1))
    # One block of one segment becomes one with a window descriptor (RFC 8878, 3.1.1.1).
    assert frame[4] & 0x20
    assert parameters.window_log == log
    size = frame[4] >> 6
    kept = {0: 1, 1: 2, 2: 4}[size]
    field = bytes(frame[5 : 5 + kept])
    if size == 0:
        # A content size of one byte exists in single segments only: no cluster is that small.
        return bytes(frame)
    frame[4] &= ~0x20
    return bytes(frame[:5]) + bytes([(log - 10) << 3]) + field + bytes(frame[5 + kept :])


SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
DICTIONARY = zstandard.ZstdCompressionDict(
    b"line 000000 of a file that compresses\n" * 20, dict_type=zstandard.DICT_TYPE_RAWCONTENT
)
frame("no content size", lambda data: _zstd(data, write_content_size=False))
frame("no checksum", lambda data: _zstd(data, write_checksum=False))
frame("wrong checksum", lambda data: _zstd(data)[:-1] + bytes([_zstd(data)[-1] ^ 1]))
frame("cut short", lambda data: _zstd(data)[:-5])
frame("a byte too many", lambda data: _zstd(data) + b"\0")
frame("two frames, each half", lambda data: _zstd(data[:1000]) + _zstd(data[1000:]))
frame("two frames, each whole", lambda data: _zstd(data) * (2 if b"line" in data else 1))
frame("a skippable frame first", lambda data: SKIPPABLE + _zstd(data))
frame("a skippable frame after", lambda data: _zstd(data) + SKIPPABLE)
frame("nothing but a skippable frame", lambda data: SKIPPABLE)
frame("decodes to less", lambda data: _zstd(data[:-1]))
frame("decodes to more", lambda data: _zstd(data + b"x"))
frame("decodes to nothing", lambda data: _zstd(b""))
frame("decodes to a gigabyte", lambda data: BOMB)
frame("a window of 2 GiB", lambda data: _window(data, 31))
frame("a window of 16 MiB", lambda data: _window(data, 24))
frame("another cluster", lambda data: _zstd(data[::-1]))
frame("plain bytes", lambda data: data)
frame("deflate", lambda data: zlib.compress(data))
frame("zstd's old format", lambda data: b"\x27" + _zstd(data)[1:])
frame(
    "a dictionary",
    lambda data: zstandard.ZstdCompressor(
        dict_data=DICTIONARY, write_checksum=True, write_content_size=True
    ).compress(data),
)


@pytest.mark.parametrize(("make", "clause"), FRAMES)
def test_a_frame_is_nothing_but_one_cluster(
    make: Callable[[bytes], bytes], clause: str, tmp_path: Path
) -> None:
    """VMP-FRAME-1, VMP-FRAME-2, VMP-BLOB-2, VMP-BLOB-3; hostile: 7, 45."""
    bad = good_bundle(tmp_path, compress=make)
    said = complaints(lambda h: None, bad, tmp_path)
    assert clause in said, said
    assert "VMP-BLOB-3" in said, "blobs are frames under the same rules"


ODD = [0, 1, -1, 2, 255, 511, 512, 4095, 4096, 4097, 65536, 1 << 31, (1 << 32) - 1, 1 << 40]
ODD += [1 << 48, (1 << 53) - 1, (1 << 53) - 512, 1 << 62, (1 << 63) + 8192, (1 << 64) - 1]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        found.append((value, key))
        if isinstance(item, dict | list):
            found += _places(item)
    return found


def _mutate_manifest(h: Hostile, rng: random.Random) -> None:
    parent, key = rng.choice(_places(h.manifest))
    numbers = [n for n in ODD if abs(n) < 1 << 53]
    old = parent[key]
    choices: list[Any] = [rng.choice(numbers), "", "x" * 70, None, [], {}, True, "../a", old]
    if isinstance(old, int):
        choices = [old + rng.choice((-4096, -512, -1, 1, 48, 512, 4096)), rng.choice(numbers)]
    if rng.random() < 0.1:
        del parent[key]
    else:
        parent[key] = rng.choice(choices)


def _mutate_tables(h: Hostile, rng: random.Random) -> None:
    disk = rng.randrange(2)
    at = rng.choice((h.l1, h.l2, h.refcount_table))(disk) + 8 * rng.choice((0, 0, 1, 2, 3, 511))
    old = h.word(at)
    new = rng.choice((old ^ 1 << rng.randrange(64), rng.choice(ODD) % (1 << 64), old + 4096))
    h.put(at, new % (1 << 64))


def _mutate_records(h: Hostile, rng: random.Random) -> None:
    record = rng.choice(h.frames + h.segments)
    field = rng.randrange(3)
    limit = 1 << 64 if field == 0 else 1 << 32
    odd = rng.choice((rng.choice(ODD), record[field] + rng.choice((-1, 1, 512, 4096))))
    record[field] = odd % limit


def _mutate_bytes(h: Hostile, rng: random.Random) -> None:
    pool = h.manifest["pool"]
    low, high = rng.choice(((4096, len(h.body)), (pool["offset"], pool["offset"] + pool["size"])))
    for _ in range(rng.randrange(1, 9)):
        h.body[rng.randrange(low, high)] = rng.randrange(256)


def _mutate_header(h: Hostile, rng: random.Random) -> None:
    name = rng.choice([name for name in h.header if name != "manifest_sha256"])
    odd = rng.choice((rng.choice(ODD), h.header[name] + rng.choice((-48, -1, 1, 48, 4096))))
    h.header[name] = odd % (1 << 64)


MUTATIONS = (_mutate_tables, _mutate_records, _mutate_bytes, _mutate_manifest, _mutate_header)
WEIGHTS = (30, 20, 17, 30, 3)


@pytest.mark.parametrize("seed", range(6))
def test_mutants_with_right_digests(seed: int, good: bytes, tmp_path: Path) -> None:
    """VMP-READ-1; hostile: 4, 7, 9, 10. 400 of them a seed; one in twenty is taken out as well."""
    rng = random.Random(seed)
    path = tmp_path / "x.vmpack"
    believed = tried = 0
    for number in range(400):
        hostile = Hostile(good)
        # In their order: the manifest says where the rest lies.
        chosen = rng.choices(range(5), WEIGHTS, k=rng.choice((1, 1, 2, 3)))
        for which in sorted(chosen):
            MUTATIONS[which](hostile, rng)
        try:
            raw = hostile.signed()
        except (VmpackError, TypeError, KeyError, AttributeError):
            continue  # A mutation that has no bytes.
        tried += 1
        path.write_bytes(raw)
        with WATCH.opened() as opened:
            said = survey(path, take_out=number % 20 == 0)
        believed += not said
        assert [name for name in opened if not name.startswith(str(tmp_path))] == []
    assert tried > 350
    assert believed < 80, "mutants that nobody minds"
