"""``vmpack convert``: one disk image into another format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack import hypervisors
from vmpack.binary import escape
from vmpack.cli.human import exact_size, fields
from vmpack.cli.options import (
    ALLOW_BACKING,
    BACKING_DIR,
    DIGEST,
    DISK,
    FORCE,
    FORMAT,
    FORMAT_OPTION,
    IDENTITY,
    LEVEL,
    MANIFEST,
    MAX_SIZE,
    NO_LINT,
    NO_VERIFY,
    OUTPUT_FORMAT,
    OVF_VERSION,
    PARENT,
    REPORT,
    STRICT,
    VERIFY_BOOT,
    Argument,
    Command,
    backing,
    format_options,
    option,
    pairs,
    target_options,
    whole,
)
from vmpack.cli.proof import boot_options, proof_dict, proof_lines
from vmpack.errors import UsageError
from vmpack.units import format_size

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.convert import ConvertResult


STDOUT = "-"


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Convert, and say what was written; with ``--verify-boot`` the boot's exit code."""
    if arguments.to is not None:
        return _transfer(console, arguments)
    _require_image(arguments)
    options = format_options(arguments.options)
    if arguments.target == STDOUT and console.json and not arguments.dry_run:
        raise UsageError(
            "standard output cannot carry the disk and a JSON result",
            field="--output",
            hint="write to a file, or drop --output json",
        )
    if arguments.show_progress and console.progress_mode == "auto":
        console.progress_mode = "bar"
    from vmpack.ops.convert import convert
    from vmpack.tuning import tune_process

    tune_process()
    with console.reporter() as progress:
        result = convert(
            arguments.source,
            arguments.target,
            source_format=arguments.format,
            output_format=arguments.output_format,
            options=options,
            compressed=arguments.compressed,
            level=arguments.level,
            workers=arguments.workers,
            snapshot=arguments.snapshot,
            **backing(arguments),
            max_size=arguments.max_size,
            verify=not arguments.no_verify,
            digest=arguments.digest,
            dry_run=arguments.dry_run,
            target_exists=arguments.target_exists,
            force=arguments.force,
            progress=progress,
        )
        proof = None
        if arguments.verify_boot:
            from vmpack.ops.verify_boot import prove_image

            proof = prove_image(result, progress=progress)
    if arguments.target != STDOUT or arguments.dry_run:
        lines = [*_lines(result), *proof_lines(console, proof)]
        console.done({**result.as_dict(), **proof_dict(proof)}, lines)
    return 0 if proof is None else proof.exit_code


def _require_image(arguments: SimpleNamespace) -> None:
    """Without ``--to`` one image is converted: what is for a whole machine has no place."""
    if arguments.verify_boot and (arguments.target == STDOUT or arguments.dry_run):
        raise UsageError(
            "there is no image to boot", field="--verify-boot", hint="write to a file, for real"
        )
    given = {
        "--disk": bool(arguments.disks),
        "--identity": arguments.identity != "keep",
        "--manifest": arguments.manifest is not None,
        "--ovf-version": arguments.ovf_version is not None,
        "--no-lint": arguments.no_lint,
        "--strict": arguments.strict,
        "--report": arguments.report is not None,
    }
    for flag, is_given in given.items():
        if is_given:
            raise UsageError("is for a whole machine", field=flag, hint="add --to TARGET")


def _transfer(console: Console, arguments: SimpleNamespace) -> int:
    """A whole machine, straight from one hypervisor to another."""
    import time

    from vmpack.cli.unpack import show_export
    from vmpack.ops.transfer import transfer
    from vmpack.tuning import tune_process

    for flag, given in (
        ("-f", arguments.format),
        ("-O", arguments.output_format),
        ("-o", arguments.options),
        ("-c", arguments.compressed),
        ("-n", arguments.target_exists),
        ("--level", arguments.level),
        ("--snapshot", arguments.snapshot),
        ("--dry-run", arguments.dry_run),
        ("--digest", arguments.digest),
    ):
        if given:
            raise UsageError(
                "is for one disk image; --to moves a whole machine",
                field=flag,
                hint=f"drop {flag}",
            )
    if arguments.report is not None:
        from vmpack.ops.reporting import require_place

        require_place(arguments.report)
    tune_process()
    begun = time.monotonic()
    with console.reporter() as progress:
        result = transfer(
            arguments.source,
            arguments.target,
            arguments.to,
            disks=pairs(arguments.disks, flag="--disk", what="ID=PATH"),
            identity=arguments.identity,
            options=target_options(arguments),
            **backing(arguments),
            max_size=arguments.max_size,
            strict=arguments.strict,
            lint=not arguments.no_lint,
            force=arguments.force,
            verify=not arguments.no_verify,
            boot=boot_options(arguments),
            workers=arguments.workers,
            progress=progress,
        )
    return show_export(console, result, begun, arguments.report)


def _lines(result: ConvertResult) -> Iterator[str]:
    done = "would convert" if result.dry_run else "converted"
    source = f"{escape(result.source)} ({result.source_format})"
    yield f"{done} {source} into {escape(result.target)} ({result.target_format})"
    rows = [
        ("disk", exact_size(result.virtual_size)),
        ("data", format_size(result.data_bytes)),
        ("file", "" if result.size is None else exact_size(result.size)),
        ("content", result.content_digest or ""),
        ("verified", "read back, the same" if result.verified else ""),
        *(("note", note) for note in result.notes),
    ]
    yield from fields([row for row in rows if row[1]], indent=2)


COMMAND = Command(
    "convert",
    "Convert a disk image into another format. What was written is read back and compared.",
    (
        Argument(
            "source",
            "an image, a disk of a bundle (app.vmpack#root), or - (stdin; needs -f)",
            metavar="SRC",
        ),
        Argument(
            "target",
            "the image to write, or - (stdout; raw, streamOptimized VMDK, fixed VHD)",
            metavar="DST",
        ),
        FORMAT,
        OUTPUT_FORMAT,
        FORMAT_OPTION,
        option("-c", name="compressed", help="compress the clusters"),
        option("-n", name="target_exists", help="DST is there already (a block device, say)"),
        option(
            "-p",
            name="show_progress",
            help="show progress, as lines of text where there is no terminal",
        ),
        option("-m", name="workers", metavar="N", convert=whole, help="threads to work with"),
        LEVEL,
        option("--snapshot", name="snapshot", metavar="S", help="an internal snapshot of SRC"),
        ALLOW_BACKING,
        BACKING_DIR,
        PARENT,
        MAX_SIZE,
        option(
            "--to",
            name="to",
            metavar="TARGET",
            choices=hypervisors.names(),
            help="SRC is a whole machine, DST the folder to write for this hypervisor:"
            f" {', '.join(hypervisors.names())}",
        ),
        DISK,
        IDENTITY,
        MANIFEST,
        OVF_VERSION,
        NO_LINT,
        STRICT,
        REPORT,
        DIGEST,
        NO_VERIFY,
        VERIFY_BOOT,
        option("--dry-run", name="dry_run", help="say what would be done, write nothing"),
        FORCE,
    ),
    run,
)
