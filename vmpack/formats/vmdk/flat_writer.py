"""Writes monolithicFlat and twoGbMaxExtentFlat images: the guest's bytes beside a descriptor.

Profile: specs/vmdk.md, VMDK-WRITE-*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmpack.batches import LEAF
from vmpack.content_seed import ContentSeed
from vmpack.formats.base import Job
from vmpack.formats.raw import RawWriter


class FlatWriter:
    """An image of raw extents, each of ``step`` bytes but the last. Zeros are left as holes.

    ``close`` writes the descriptor once all data is in its place.
    """

    unit = LEAF

    def __init__(
        self,
        extents: Sequence[RawWriter],
        step: int,
        seed: ContentSeed | None,
        close: Callable[[], None],
    ):
        self.seed = seed
        self._extents = extents
        self._step = step
        self._close = close

    def prepare(self, offset: int, data: bytes) -> object:
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, self._step)
            take = min(self._step - start, len(data) - done)
            piece = data if take == len(data) else data[done : done + take]
            self._extents[number].prepare(start, piece)
            done += take
        return None

    def emit(self, prepared: object) -> Sequence[Job]:  # noqa: ARG002 - written already
        return ()

    def finish(self) -> None:
        for extent in self._extents:
            extent.finish()
        self._close()
