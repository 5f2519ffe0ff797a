"""vmpack.codecs: exact, bounded, one exception for whatever is wrong, the same on every thread."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes
from vmpack.codecs import (
    CodecError,
    Compressor,
    deflate_compressor,
    inflate,
    versions,
    zlib_compressor,
)
from vmpack.errors import UsageError
from vmpack.ops.convert import convert

CLUSTER = 65536
DATA = disk_bytes(CLUSTER, seed=3)
TEXT = b"".join(b"%d of many lines\n" % number for number in range(6000))[:CLUSTER]
SAMPLES = (b"", b"x", bytes(CLUSTER), TEXT, DATA, random.Random(4).randbytes(CLUSTER))


def raw(data: bytes, bits: int = 15, level: int = 6) -> bytes:
    codec = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return codec.compress(data) + codec.flush()


@pytest.mark.parametrize("level", [None, *range(1, 13)])
def test_zlib_streams_are_read_by_zlib(level: int | None) -> None:
    compress = zlib_compressor(level)
    for data in SAMPLES:
        small = compress(memoryview(data))
        assert type(small) is bytes
        assert zlib.decompress(small) == data
        assert inflate(small, len(data), wrapped=True) == data
        assert inflate(small + bytes(300), len(data), wrapped=True, trailing=True) == data


@pytest.mark.parametrize("level", [None, *range(1, 10)])
@pytest.mark.parametrize("bits", [9, 12])
def test_deflate_keeps_to_its_window(level: int | None, bits: int) -> None:
    compress = deflate_compressor(level, bits)
    far = random.Random(level).randbytes(1 << bits)
    for data in (*SAMPLES, far + far + far):
        small = compress(data)
        # zlib refuses a match that reaches back further than the window it is told.
        assert zlib.decompressobj(-bits).decompress(small) == data
        assert inflate(small, len(data), wrapped=False, window_bits=bits) == data


@pytest.mark.parametrize("level", [-1, 0, 13, 22])
def test_levels_that_there_are_not(level: int) -> None:
    with pytest.raises(UsageError, match=f"no level {level}"):
        zlib_compressor(level)
    with pytest.raises(UsageError, match=f"no level {level}"):
        deflate_compressor(level)
    with pytest.raises(UsageError, match="no level 10"):
        deflate_compressor(10)


@pytest.mark.parametrize("level", [0, 23, 99])
def test_levels_that_zstd_has_not(level: int, tmp_path: Path) -> None:
    # libzstd takes the nearest level that it has, without a word.
    (tmp_path / "a.raw").write_bytes(bytes(65536))
    with pytest.raises(UsageError, match=f"zstd has no level {level}"):
        convert(tmp_path / "a.raw", tmp_path / "a.qcow2", compressed=True, level=level)


def test_higher_levels_are_smaller() -> None:
    for compressors in (zlib_compressor, deflate_compressor):
        sizes = [len(compressors(level)(TEXT + DATA)) for level in (1, None, 9)]
        assert sizes == sorted(sizes, reverse=True), sizes
        assert sizes[0] > sizes[2]


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("trailing", [True, False])
@pytest.mark.parametrize("unended", [True, False])
def test_whatever_is_wrong_is_one_error(wrapped: bool, trailing: bool, unended: bool) -> None:
    # hostile: 21
    def decode(data: bytes, limit: int = CLUSTER) -> bytes:
        return inflate(data, limit, wrapped=wrapped, trailing=trailing, unended=unended)

    good = zlib.compress(TEXT) if wrapped else raw(TEXT)
    assert decode(good) == TEXT
    assert decode(good, CLUSTER + 1) == TEXT
    for limit in (0, 1, CLUSTER - 1):
        with pytest.raises(CodecError, match=f"holds more than {limit} bytes"):
            decode(good, limit)
    for cut in (0, 1, 2, 100, len(good) // 2):
        with pytest.raises(CodecError, match="ends in the middle"):
            decode(good[:cut])
    if trailing:
        assert decode(good + b"\0junk") == TEXT
    else:
        with pytest.raises(CodecError, match="5 bytes follow"):
            decode(good + b"\0junk")
    with pytest.raises(CodecError):
        decode(b"\xff" * 600)
    # The end mark, or the checksum, is cut off: all the data is there.
    if unended:
        assert decode(good[:-1]) == TEXT
    else:
        with pytest.raises(CodecError, match=f"ends in the middle of the stream, after {CLUSTER}"):
            decode(good[:-1])


@pytest.mark.parametrize("trailing", [True, False])
def test_the_checksum_of_a_zlib_stream_counts(trailing: bool) -> None:
    good = bytearray(zlib.compress(TEXT))
    good[-1] ^= 1
    with pytest.raises(CodecError, match="incorrect data check"):
        inflate(bytes(good), CLUSTER, wrapped=True, trailing=trailing)


def test_flipped_bits_never_give_more_than_allowed() -> None:
    # hostile: 21
    chance = random.Random(5)
    good = raw(DATA, 12)
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        try:
            made = inflate(bytes(bad), CLUSTER, wrapped=False, trailing=True)
        except CodecError:
            continue
        assert len(made) <= CLUSTER


def test_a_bomb_stays_small() -> None:
    # hostile: 21
    bomb = zlib.compress(bytes(64 << 20), 9)
    code = (
        "import resource, sys, vmpack.codecs as c\n"
        "data = sys.stdin.buffer.read()\n"
        "for trailing in (False, True):\n"
        "    try: c.inflate(data, 65536, wrapped=True, trailing=trailing)\n"
        "    except c.CodecError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 2
    # This process's own size counts towards a child's peak, so only what the calls add is told.
    assert peaks[1] - peaks[0] < 16 << 10


@pytest.mark.parametrize(
    "compress", [zlib_compressor(), deflate_compressor()], ids=["zlib", "deflate"]
)
def test_threads_share_a_compressor(compress: Compressor) -> None:
    parts = [disk_bytes(CLUSTER, seed=number) for number in range(24)]
    alone = [compress(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compress, parts)) == alone


@pytest.mark.parametrize("name", ["zlib", "deflate", "inflate"])
def test_the_interpreters_lock_is_released(name: str) -> None:
    long = random.Random(6).randbytes(2 << 20) + bytes(16 << 20)
    small = zlib.compress(long, 1)
    works: dict[str, Callable[[], object]] = {
        "zlib": lambda: zlib_compressor(6)(long),
        "deflate": lambda: deflate_compressor(6)(long),
        "inflate": lambda: inflate(small, len(long), wrapped=True, trailing=True),
    }
    state = ["waiting"]

    def run() -> None:
        state[0] = "under way"
        works[name]()
        state[0] = "done"

    thread = threading.Thread(target=run)
    seen = 0
    thread.start()
    while state[0] != "done":
        seen += state[0] == "under way"
    thread.join()
    # A call that kept the lock would let this thread look once or twice, before and after it.
    assert seen > 100


GOLDEN = {
    ("zlib", "0.9.0"): "61da33f13f148d0c327ba85c6eed1b832c32aadd6ab6b1f001c38733e6e8a604",
    ("deflate", "2.3.3"): "a1c0975ce667b1b761489de9c773d24fed077f1698091eca7242455cd9ea924c",
}
"""SHA-256 of what each compressor makes of SAMPLES at every level, by the library's version."""


def golden(name: str) -> str:
    total = hashlib.sha256()
    makers: list[Compressor]
    if name == "zlib":
        makers = [zlib_compressor(level) for level in range(1, 13)]
    else:
        makers = [deflate_compressor(level) for level in range(1, 10)]
    for compress in makers:
        for data in SAMPLES:
            small = compress(data)
            total.update(len(small).to_bytes(4, "little") + small)
    return total.hexdigest()


@pytest.mark.parametrize(("name", "library"), [("zlib", "deflate"), ("deflate", "zlib-ng")])
def test_the_same_bytes_on_every_host(name: str, library: str) -> None:
    version = versions()[library]
    found = golden(name)
    known = GOLDEN.get((name, version))
    assert known in (None, found), f"{library} {version} gives other bytes than it did"


def test_versions_name_what_decides_the_bytes() -> None:
    assert set(versions()) == {"deflate", "zlib-ng", "zstd"}
    assert all(version[0].isdigit() for version in versions().values())


def test_importing_the_codecs_loads_no_codec() -> None:
    code = (
        "import sys, vmpack.codecs; print({'deflate', 'zlib_ng', 'zstandard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
