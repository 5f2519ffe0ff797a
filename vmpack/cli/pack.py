"""``vmpack pack``: disks (and a config) into one bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.human import disk_rows, exact_size, fields
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    FORCE,
    FORMAT,
    LEVEL,
    MAX_SIZE,
    Argument,
    Command,
    backing,
    option,
    pairs,
    size,
)
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.pack import PackResult


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Pack, and say what the bundle holds."""
    disks = pairs(arguments.disks, flag="--disk", what="ID=PATH")
    blobs = pairs(arguments.blobs, flag="--blob", what="NAME=PATH")
    if arguments.bundle is None:
        raise UsageError("no bundle to write is named", field="-o", hint="add -o NAME.vmpack")
    if not (arguments.sources or disks or arguments.config):
        raise UsageError("nothing to pack", field="SOURCE", hint="name one or more disk images")
    from vmpack.bundle.writer import DEFAULT_LEVEL
    from vmpack.ops.pack import pack

    with console.reporter() as progress:
        result = pack(
            arguments.sources,
            arguments.bundle,
            format=arguments.format,
            config_path=arguments.config,
            disks=disks,
            blobs=blobs,
            name=arguments.machine_name,
            identity=arguments.identity,
            level=DEFAULT_LEVEL if arguments.level is None else arguments.level,
            cluster_size=arguments.cluster_size,
            **backing(arguments),
            max_size=arguments.max_size,
            force=arguments.force,
            progress=progress,
        )
    console.done(result.as_dict(), _lines(result))


def _lines(result: PackResult) -> Iterator[str]:
    from vmpack.cli.describe import machine_line

    yield f"packed {escape(result.path)}, {exact_size(result.size)}"
    rows = [("machine", machine_line(result.config)), ("machine-id", escape(result.machine_id))]
    yield from fields([*rows, *disk_rows(result.disks)], indent=2)


COMMAND = Command(
    "pack",
    "Pack a machine's disks, and what else belongs to it, into one file that stock QEMU opens.\n"
    "What the config leaves out is pinned from vmpack's own table, never from this host.",
    (
        Argument("sources", "disk images, the boot disk first", metavar="SOURCE", many=True),
        option("-o", name="bundle", metavar="BUNDLE", help="the bundle to write (required)"),
        FORMAT,
        option("--config", name="config", metavar="FILE", help="the machine's config (TOML)"),
        option(
            "--disk",
            name="disks",
            metavar="ID=PATH",
            many=True,
            help="the image of the disk that the config calls ID (repeat)",
        ),
        option(
            "--blob",
            name="blobs",
            metavar="NAME=PATH",
            many=True,
            help="a file to carry along under NAME: NVRAM, TPM state (repeat)",
        ),
        option("--name", name="machine_name", metavar="NAME", help="the machine's name"),
        option(
            "--identity",
            name="identity",
            choices=("keep", "new", "derive"),
            default="keep",
            help="what becomes of MAC addresses and UUIDs (default: keep)",
        ),
        LEVEL,
        option(
            "--cluster-size",
            name="cluster_size",
            metavar="SIZE",
            convert=size,
            help="4K to 2M, for all disks (default: 64K; 4K for disks under 64M)",
        ),
        ALLOW_BACKING,
        BACKING_DIR,
        MAX_SIZE,
        FORCE,
    ),
    run,
)
