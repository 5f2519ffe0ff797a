"""Bundles in tests: made in one call, and proven with QEMU's own tools.

Every bundle that a test writes goes through :func:`prove_bundle`: `qemu-img check` alone misses
damage (an unpadded tail frame passes it), `compare` alone misses wrong refcounts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.qemu import Spec, qemu_imgs, window
from vmpack.bundle.reader import Bundle
from vmpack.bundle.writer import BundleWriter
from vmpack.formats import get
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.machine import MachineConfig
from vmpack.output import Output
from vmpack.source import ByteSource


def raw_reader(path: str | os.PathLike[str]) -> ImageReader:
    """A reader of a raw file."""
    return get("raw").open(ByteSource.open(path), OpenOptions())


def write_bundle(
    path: Path,
    disks: Sequence[tuple[str, Path, int]],
    *,
    blobs: Mapping[str, bytes] | None = None,
    workers: int = 2,
    level: int = 3,
) -> Path:
    """A bundle of raw files, each ``(id, path, cluster size)``, with a config that pins nothing."""
    plan = [(disk_id, cluster) for disk_id, _, cluster in disks]
    with (
        Output(path, force=True, mode=0o444) as out,
        BundleWriter(out, plan, workers=workers, level=level) as writer,
    ):
        for _, source, _ in disks:
            reader = raw_reader(source)
            writer.add_disk(reader)
            reader.close()
        for name, data in (blobs or {}).items():
            writer.add_blob(name, data)
        config = {"version": 1, "disk": [{"id": disk_id} for disk_id, _ in plan]}
        observable = MachineConfig.from_json_dict(config).observable()
        writer.finish(config, observable, {"vmpack": "test"})
        out.commit()
    return path


def prove_bundle(path: Path, sources: Mapping[str, Spec] | None = None, fmt: str = "raw") -> None:
    """Every disk clean and, where its source is given, identical, with every installed qemu-img.

    ``sources`` maps disk ids to what must be in them; VMP-WIN-1, VMP-WIN-2, VMP-VIEW-6.
    """
    with Bundle.open(path) as bundle:
        disks = bundle.disks
    for qemu in qemu_imgs():
        for disk in disks:
            node = window(path, disk.window_offset, disk.window_size)
            qemu.assert_clean(node)
            if sources is not None:
                qemu.assert_identical(sources[disk.id], node, fmt_a=fmt)
