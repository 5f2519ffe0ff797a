"""``vmpack pack``: disks (and a config) into one bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.human import disk_rows, exact_size, fields, seconds
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    DISK,
    FORCE,
    FORMAT,
    IDENTITY,
    LEVEL,
    MAX_SIZE,
    PARENT,
    REPORT,
    STATE,
    STRICT,
    Argument,
    Command,
    backing,
    option,
    pairs,
    size,
)
from vmpack.cli.reports import report_lines
from vmpack.errors import UsageError
from vmpack.units import format_size

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.pack import PackResult
    from vmpack.progress import Progress


def run(console: Console, arguments: SimpleNamespace) -> None:
    """Pack, and say what the bundle holds."""
    disks = pairs(arguments.disks, flag="--disk", what="ID=PATH")
    blobs = pairs(arguments.blobs, flag="--blob", what="NAME=PATH")
    if arguments.bundle is None:
        raise UsageError("no bundle to write is named", field="-o", hint="add -o NAME.vmpack")
    if not (arguments.sources or disks or arguments.config):
        raise UsageError("nothing to pack", field="SOURCE", hint="name one or more disk images")
    from vmpack.formats.qcow2.writer import DEFAULT_LEVEL
    from vmpack.ops.pack import pack
    from vmpack.tuning import tune_process

    if arguments.report is not None:
        from vmpack.ops.reporting import require_place

        require_place(arguments.report)
    tune_process()
    begun = time.monotonic()
    with console.reporter() as reporter:
        progress = Tally(reporter)
        if arguments.state is not None:
            result = _pack_state(arguments, progress)
            took = seconds(time.monotonic() - begun)
            console.done(result.as_dict(), _lines(result, 0, took))
            return
        result = pack(
            arguments.sources,
            arguments.bundle,
            format=arguments.format,
            config_path=arguments.config,
            disks=disks,
            blobs=blobs,
            cloud_init=arguments.cloud_init,
            name=arguments.machine_name,
            identity=arguments.identity,
            level=DEFAULT_LEVEL if arguments.level is None else arguments.level,
            cluster_size=arguments.cluster_size,
            **backing(arguments),
            max_size=arguments.max_size,
            strict=arguments.strict,
            reported=arguments.report is not None,
            force=arguments.force,
            progress=progress,
        )
    took = seconds(time.monotonic() - begun)
    if arguments.report is not None and result.report is not None:
        from vmpack.ops.reporting import write_report

        write_report(arguments.report, result.report)
    console.done(result.as_dict(), _lines(result, progress.data_bytes, took))


def _pack_state(arguments: SimpleNamespace, progress: Progress) -> PackResult:
    """The machine of one bundle as its runs left it; everything but the level is the bundle's."""
    from vmpack.formats.qcow2.writer import DEFAULT_LEVEL
    from vmpack.ops.derive import pack_state

    others = (
        "report",
        "format",
        "config",
        "disks",
        "blobs",
        "cloud_init",
        "machine_name",
        "cluster_size",
    )
    if len(arguments.sources) != 1 or any(getattr(arguments, name) for name in others):
        raise UsageError(
            "takes one bundle, and no option that changes the machine",
            field="--state",
            hint="vmpack pack BUNDLE --state DIR -o NEW.vmpack",
        )
    return pack_state(
        arguments.sources[0],
        arguments.state,
        arguments.bundle,
        level=DEFAULT_LEVEL if arguments.level is None else arguments.level,
        force=arguments.force,
        progress=progress,
    )


class Tally:
    """Passes progress on, and keeps how much data the sources had."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.data_bytes = 0

    def stage(self, name: str, total_bytes: int | None) -> None:
        self.data_bytes += total_bytes or 0
        self._inner.stage(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        self._inner.advance(done_bytes)


def _lines(result: PackResult, data_bytes: int, took: str) -> Iterator[str]:
    from vmpack.cli.describe import machine_line

    yield f"packed {escape(result.path)} in {took}"
    rows = [
        ("machine", machine_line(result.config)),
        *disk_rows(result.disks),
        *_sizes(result, data_bytes),
        ("id", escape(result.id)),
        ("machine-id", escape(result.machine_id)),
    ]
    yield from fields(rows, indent=2)
    if result.report is not None:
        yield from report_lines(result.report)


def _sizes(result: PackResult, data_bytes: int) -> Iterator[tuple[str, str]]:
    """What was read and what it became."""
    virtual = sum(size for disk in result.disks if isinstance(size := disk["virtual-size"], int))
    yield "source", f"{format_size(virtual)} of disk, {format_size(data_bytes)} of data"
    share = f", {result.size * 100 // data_bytes}% of the data" if data_bytes else ""
    yield "bundle", exact_size(result.size) + share


COMMAND = Command(
    "pack",
    "Pack a machine's disks, and what else belongs to it, into one file that stock QEMU opens.\n"
    "What the config leaves out is pinned from vmpack's own table, never from this host.",
    (
        Argument(
            "sources",
            "disk images, the boot disk first; or one machine of another hypervisor: .ova, .ovf,"
            " .vmx, libvirt XML, .vbox, ... (vmpack doctor lists them)",
            metavar="SOURCE",
            many=True,
        ),
        option("-o", name="bundle", metavar="BUNDLE", help="the bundle to write (required)"),
        FORMAT,
        option("--config", name="config", metavar="FILE", help="the machine's config (TOML)"),
        DISK,
        option(
            "--blob",
            name="blobs",
            metavar="NAME=PATH",
            many=True,
            help="a file to carry along under NAME: NVRAM, TPM state (repeat)",
        ),
        option(
            "--cloud-init",
            name="cloud_init",
            metavar="FILE",
            help="user data for cloud-init, added as a CD-ROM (disk seed)",
        ),
        STATE,
        option("--name", name="machine_name", metavar="NAME", help="the machine's name"),
        IDENTITY,
        STRICT,
        REPORT,
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
        PARENT,
        MAX_SIZE,
        FORCE,
    ),
    run,
)
