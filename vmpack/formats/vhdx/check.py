"""Checks what opening a VHDX file does not: every BAT entry, and that no two blocks overlap.

Source: [MS-VHDX] 2.5. Profile: specs/vhdx.md, VHDX-BAT.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.base import Finding
from vmpack.formats.vhdx.bat import Bat
from vmpack.formats.vhdx.image import Image
from vmpack.formats.vhdx.structs import (
    FULLY_PRESENT,
    NOT_PRESENT,
    OFFSET_MASK,
    PARTIALLY_PRESENT,
    RESERVED_MASK,
    STATE_MASK,
    UNMAPPED,
    MiB,
)

MAX_FILE = 1 << 47
"""Bytes of a file whose blocks are counted: one byte of memory for each MiB of it."""


def check_image(image: Image, bat: Bat) -> Iterator[Finding]:
    """Everything that is inconsistent, in the order in which it is found.

    Raises :class:`UnsupportedError` for a file of more than 128 TiB.
    """
    if image.source.size > MAX_FILE:
        raise UnsupportedError(
            f"a file of {image.source.size} bytes to check", path=image.source.path
        )
    return _Check(image, bat).run()


class _Check:
    def __init__(self, image: Image, bat: Bat):
        self.image = image
        self.bat = bat
        self.differencing = image.metadata.locator is not None
        self.used = bytearray(-(-image.source.size // MiB))
        """One byte for each MiB of the file: whether a block lies there."""

    def run(self) -> Iterator[Finding]:
        yield from self.image.faults
        chunks = -(-self.bat.blocks // self.bat.chunk_ratio)
        for chunk in range(chunks):
            raw = self.bat.entries(chunk)
            word = int.from_bytes(raw[:8], "little")
            partial = False
            # Most chunks of a large disk are of one kind and hold nothing.
            if not (_is_plain(word) and raw == raw[:8] * (len(raw) // 8)):
                words = struct.unpack(f"<{len(raw) // 8}Q", raw)
                for block, word in enumerate(words, chunk * self.bat.chunk_ratio):
                    partial |= word & STATE_MASK == PARTIALLY_PRESENT
                    yield from self._payload(block, word)
            yield from self._bitmap(chunk, partial)

    def _payload(self, block: int, word: int) -> Iterator[Finding]:
        try:
            if word & STATE_MASK != PARTIALLY_PRESENT or not self.differencing:
                self.bat.state(word, block)
            elif word & RESERVED_MASK:
                # Not a whole block's state, but its reserved bits are as wrong.
                self.bat.state(word & ~STATE_MASK, block)
            if word & STATE_MASK >= FULLY_PRESENT:
                host = self.bat.host(word, block)
                yield from self._own(host, self.bat.block_size, block)
        except DamagedError as exc:
            guest = block * self.bat.block_size
            yield Finding("corruption", exc.message, exc.offset, guest, exc.clause)

    def _own(self, host: int, length: int, block: int | None) -> Iterator[Finding]:
        first, last = host // MiB, min((host + length) // MiB, len(self.used))
        if any(self.used[first:last]):
            guest = None if block is None else block * self.bat.block_size
            yield Finding("corruption", "two blocks overlap", host, guest, "VHDX-BAT-6")
        self.used[first:last] = b"\1" * (last - first)

    def _bitmap(self, chunk: int, partial: bool) -> Iterator[Finding]:
        word = self.bat.bitmap_entry(chunk)
        present = word is not None and word & STATE_MASK != NOT_PRESENT
        if not self.differencing:
            if present:
                text = f"sector bitmap {chunk} is present in a disk without parent"
                yield Finding("corruption", text, word and word & OFFSET_MASK, None, "VHDX-BAT-7")
            return
        if present or partial:
            try:
                yield from self._own(self.bat.bitmap(chunk), MiB, None)
            except DamagedError as exc:
                yield Finding("corruption", exc.message, exc.offset, None, exc.clause)


def _is_plain(word: int) -> bool:
    return word & STATE_MASK <= UNMAPPED and not word & RESERVED_MASK
