"""``vmpack unpack``: a bundle's disks, config and blobs into a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack import formats, hypervisors
from vmpack.binary import escape
from vmpack.cli.human import fields, seconds
from vmpack.cli.options import (
    FORCE,
    IDENTITY,
    MANIFEST,
    NO_LINT,
    NO_VERIFY,
    OVF_VERSION,
    REPORT,
    STRICT,
    VERIFY_BOOT,
    Argument,
    Command,
    option,
    target_options,
)
from vmpack.cli.proof import boot_options, proof_dict, proof_lines
from vmpack.cli.reports import finding_lines, report_lines
from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.exporting import ExportResult
    from vmpack.ops.unpack import UnpackResult


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Unpack, and say which files there are now; with ``--verify-boot`` the boot's exit code."""
    if arguments.folder is None:
        raise UsageError("no folder to write is named", field="-o", hint="add -o DIR")
    from vmpack.tuning import tune_process

    tune_process()
    begun = time.monotonic()
    if arguments.to in hypervisors.names():
        if arguments.report is not None:
            from vmpack.ops.reporting import require_place

            require_place(arguments.report)
        result = _export(console, arguments)
        return show_export(console, result, begun, arguments.report)
    _require_plain(arguments)
    from vmpack.ops.unpack import unpack

    with console.reporter() as progress:
        unpacked = unpack(
            arguments.bundle,
            arguments.folder,
            to=arguments.to,
            force=arguments.force,
            verify=not arguments.no_verify,
            progress=progress,
        )
        proof = None
        if arguments.verify_boot:
            from vmpack.ops.verify_boot import prove_unpacked

            proof = prove_unpacked(unpacked, progress=progress)
    lines = [*_lines(unpacked, seconds(time.monotonic() - begun)), *proof_lines(console, proof)]
    console.done({**unpacked.as_dict(), **proof_dict(proof)}, lines)
    return 0 if proof is None else proof.exit_code


def _require_plain(arguments: SimpleNamespace) -> None:
    """A disk format as target takes none of a hypervisor's options."""
    given = {
        "--identity": arguments.identity not in (None, "keep"),
        "--in-place": arguments.in_place,
        "--manifest": arguments.manifest is not None,
        "--ovf-version": arguments.ovf_version is not None,
        "--no-lint": arguments.no_lint,
        "--strict": arguments.strict,
        "--report": arguments.report is not None,
    }
    for flag, is_given in given.items():
        if is_given:
            raise UsageError(
                f"is for a hypervisor as target, {arguments.to} is a disk format",
                field=flag,
                hint=f"targets are {', '.join(hypervisors.names())}",
            )


def _export(console: Console, arguments: SimpleNamespace) -> ExportResult:
    from vmpack.ops.transfer import export_bundle

    with console.reporter() as progress:
        return export_bundle(
            arguments.bundle,
            arguments.folder,
            arguments.to,
            identity=arguments.identity,
            options=target_options(arguments),
            in_place=arguments.in_place,
            strict=arguments.strict,
            lint=not arguments.no_lint,
            force=arguments.force,
            verify=not arguments.no_verify,
            boot=boot_options(arguments),
            progress=progress,
        )


def show_export(
    console: Console, result: ExportResult, begun: float, report: str | None = None
) -> int:
    """Print what was written for a hypervisor, what was lost, and how to import it.

    The exit code: that of the boot of it, where there was one.
    """
    if report is not None:
        from vmpack.ops.reporting import write_report

        write_report(report, result.report)
    told = [*_export_lines(result, seconds(time.monotonic() - begun))]
    console.done(result.as_dict(), [*told, *proof_lines(console, result.proof)])
    return 0 if result.proof is None else result.proof.exit_code


def _export_lines(result: ExportResult, took: str) -> Iterator[str]:
    yield f"written for {result.target} into {escape(result.folder)} in {took}"
    rows = [(f"disk {escape(disk_id)}", escape(path)) for disk_id, path in result.disks]
    yield from fields([*rows, *(("file", escape(path)) for path in result.files)], indent=2)
    yield from report_lines(result.report)
    yield from finding_lines(result.findings)
    if result.instructions:
        yield "to import it:"
        yield from (f"  {line}" for line in result.instructions)


def _lines(result: UnpackResult, took: str) -> Iterator[str]:
    yield f"unpacked into {escape(result.folder)} in {took}"
    config, *blobs = result.files
    rows = [("config", escape(config))]
    rows += [(f"disk {escape(disk_id)}", escape(path)) for disk_id, path in result.disks]
    yield from fields([*rows, *(("file", escape(path)) for path in blobs)], indent=2)


COMMAND = Command(
    "unpack",
    "Unpack a bundle into disk images and files, or into what another hypervisor imports.\n"
    "The content is proved by its digests.",
    (
        Argument("bundle", "the bundle to unpack", metavar="BUNDLE"),
        option("-o", name="folder", metavar="DIR", help="the folder to write (required)"),
        option(
            "--to",
            name="to",
            metavar="TARGET",
            choices=(*formats.names(), *hypervisors.names()),
            default="qcow2",
            help=f"the format of the disks ({', '.join(formats.names())}), or the hypervisor to"
            f" write for ({', '.join(hypervisors.names())}); default: qcow2",
        ),
        IDENTITY,
        option(
            "--in-place",
            name="in_place",
            help="leave the disks in the bundle (libvirt only)",
        ),
        MANIFEST,
        OVF_VERSION,
        NO_LINT,
        STRICT,
        REPORT,
        NO_VERIFY,
        VERIFY_BOOT,
        FORCE,
    ),
    run,
)
