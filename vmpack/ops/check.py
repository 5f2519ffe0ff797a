"""Whether a bundle or an image is whole; exit codes as ``qemu-img check``'s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.formats.base import Finding, ImageReader, OpenOptions
from vmpack.ops.opening import Path, is_bundle, open_image, parse_target
from vmpack.progress import SILENT, Progress

CLEAN, DAMAGED, LEAKS, NOT_SUPPORTED = 0, 2, 3, 63
MAX_FINDINGS = 1000
"""Findings that a result keeps; the counts go on."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found. ``findings`` holds the first thousand; the counts count all."""

    filename: str
    format: str | None
    findings: Sequence[Finding]
    corruptions: int
    leaks: int
    unsupported: str | None = None
    """Why the file could not be checked, where that is so."""

    @property
    def exit_code(self) -> int:
        """0 clean, 2 damaged, 3 leaks only, 63 not supported: as ``qemu-img check``."""
        if self.unsupported is not None:
            return NOT_SUPPORTED
        if self.corruptions:
            return DAMAGED
        return LEAKS if self.leaks else CLEAN

    def as_dict(self) -> dict[str, object]:
        """The JSON document: qemu-img's counts, and the findings."""
        return {
            "filename": self.filename,
            "format": self.format,
            "check-errors": 0 if self.unsupported is None else 1,
            "corruptions": self.corruptions,
            "leaks": self.leaks,
            "unsupported": self.unsupported,
            "findings": [
                {
                    "kind": one.kind,
                    "message": one.message,
                    "offset": one.offset,
                    "guest-offset": one.guest_offset,
                    "clause": one.clause,
                }
                for one in self.findings
            ],
        }


def check(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    full: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> CheckResult:
    """Check a bundle's stored bytes, or an image's structures.

    ``full`` also decodes all of the content. Damage is a finding, an unreadable header too; what
    cannot be read or is refused raises.
    """
    name = parse_target(path)[0]
    if format == "vmpack" or (format is None and name != "-" and is_bundle(name)):
        found = _bundle(name, full, workers, progress)
        return _result(name, "vmpack", found)
    try:
        reader = open_image(path, format=format, options=OpenOptions(metadata_only=True))
    except DamagedError as exc:
        return _result(name, format, iter([_finding(exc)]))
    except UnsupportedError as exc:
        return CheckResult(name, format, (), 0, 0, str(exc))
    try:
        kind = reader.format.qemu_name
        try:
            return _result(name, kind, _image(reader, full, workers, progress))
        except UnsupportedError as exc:
            return CheckResult(name, kind, (), 0, 0, str(exc))
    finally:
        reader.close()


def _bundle(name: str, full: bool, workers: int | None, progress: Progress) -> Iterator[Finding]:
    from vmpack.bundle import Bundle

    try:
        bundle = Bundle.open(name)
    except DamagedError as exc:
        yield _finding(exc)
        return
    with bundle:
        yield from bundle.check(full=full, workers=workers, progress=progress)


def _image(
    reader: ImageReader, full: bool, workers: int | None, progress: Progress
) -> Iterator[Finding]:
    damaged = False
    for finding in reader.check():
        damaged = damaged or finding.kind == "corruption"
        yield finding
    if not full or damaged:
        # The content of an image whose tables are wrong would only add echoes of that.
        return
    from vmpack.batches import data_bytes
    from vmpack.digest import content_digest

    try:
        progress.stage("reading", data_bytes(reader))
        content_digest(reader, workers=workers, progress=progress)
    except DamagedError as exc:
        yield _finding(exc)


def _finding(exc: DamagedError) -> Finding:
    what = f"{exc.field}: {exc.message}" if exc.field else exc.message
    return Finding("corruption", what, exc.offset, clause=exc.clause)


def _result(name: str, format_name: str | None, findings: Iterator[Finding]) -> CheckResult:
    kept: list[Finding] = []
    corruptions = leaks = 0
    for finding in findings:
        if finding.kind == "leak":
            leaks += 1
        else:
            corruptions += 1
        if len(kept) < MAX_FINDINGS:
            kept.append(finding)
    return CheckResult(name, format_name, kept, corruptions, leaks)
