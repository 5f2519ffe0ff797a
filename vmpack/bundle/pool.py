"""Turns guest data into clusters of the pool: finds zeros, hashes, compresses what is new.

Runs on worker threads; the only shared state it reads is the index, where a miss costs a needless
compression and nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from vmpack.bundle.index import FrameIndex
from vmpack.codecs import Compressor
from vmpack.digest import LEAF, leaf_digests


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is not all zero. ``frame`` is ``None`` when the pool has it already."""

    index: int
    sha256: bytes
    frame: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one worker made of one batch of guest data."""

    length: int
    clusters: list[Cluster]
    leaves: list[tuple[int, bytes]]


def prepare(
    offset: int, data: bytes, cluster_size: int, index: FrameIndex, compress: Compressor
) -> Batch:
    """The clusters and leaves of ``data``, which begins at guest ``offset`` (a whole cluster).

    The disk's last cluster is zero-padded before it is hashed and compressed.
    """
    zero = bytes(cluster_size)
    clusters: list[Cluster] = []
    new: set[bytes] = set()
    length = len(data)
    if length % cluster_size:
        data += bytes(cluster_size - length % cluster_size)
    view = memoryview(data)  # what is hashed and compressed is not copied first
    for number, begin in enumerate(range(0, len(data), cluster_size), offset // cluster_size):
        if data.startswith(zero, begin):
            continue
        cluster = view[begin : begin + cluster_size]
        sha256 = hashlib.sha256(cluster).digest()
        frame = None
        if sha256 not in new and index.find(sha256) is None:
            new.add(sha256)
            frame = compress(cluster)
        clusters.append(Cluster(number, sha256, frame))
    if cluster_size == LEAF:
        # A leaf is a cluster: one hash serves dedup, index and content digest.
        leaves = [(cluster.index, cluster.sha256) for cluster in clusters]
    else:
        leaves = leaf_digests(offset, data)
    return Batch(length, clusters, leaves)
