"""Guest disks to try: seeded, so that a failing test fails again."""

from __future__ import annotations

import os
import random
from pathlib import Path

BLOCK = 4096


def disk_bytes(size: int, *, seed: int = 1, block: int = BLOCK) -> bytes:
    """``size`` bytes in runs of blocks that differ in kind.

    Zeros, one repeated byte, text that compresses well, noise that does not, and blocks that came
    before. Any size, odd ones too.
    """
    rng = random.Random(seed)
    parts: list[bytes] = []
    have = 0
    while have < size:
        count = rng.choice((1, 1, 2, 3, 7, 16))
        run = _run(rng, count * block, parts)
        parts.append(run)
        have += len(run)
    return b"".join(parts)[:size]


def _run(rng: random.Random, length: int, before: list[bytes]) -> bytes:
    kind = rng.randrange(6)
    if kind <= 1:
        return bytes(length)
    if kind == 2:
        return bytes([rng.randrange(1, 256)]) * length
    if kind == 3:
        line = b"%016x the quick brown fox\n" % rng.getrandbits(64)
        return (line * (length // len(line) + 1))[:length]
    if kind == 4 and before:
        return rng.choice(before)
    return rng.randbytes(length)


def write_sparse(path: str | os.PathLike[str], data: bytes, *, block: int = BLOCK) -> Path:
    """Write ``data`` as a raw image: zero blocks become holes, the size is exact."""
    target = Path(path)
    with target.open("wb") as out:
        for offset in range(0, len(data), block):
            piece = data[offset : offset + block]
            if piece.count(0) != len(piece):
                out.seek(offset)
                out.write(piece)
        out.truncate(len(data))
    return target


def random_disk(
    path: str | os.PathLike[str], size: int, *, seed: int = 1, block: int = BLOCK
) -> bytes:
    """Write a raw image of ``size`` bytes with holes, and return the bytes it reads as."""
    data = disk_bytes(size, seed=seed, block=block)
    write_sparse(path, data, block=block)
    return data
