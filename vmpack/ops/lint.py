"""``vmpack lint``: what would stand in a machine's way at a target, found before it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack import hypervisors
from vmpack.errors import UnsupportedError, UsageError, VmpackError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.lint_codes import LintFinding, finding, ordered

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Hypervisor
    from vmpack.machine import MachineConfig

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class LintResult:
    """What was found, errors first."""

    path: str
    target: str | None
    findings: tuple[LintFinding, ...]

    def count(self, severity: str) -> int:
        """How many findings of that severity."""
        return sum(one.severity == severity for one in self.findings)

    @property
    def exit_code(self) -> int:
        """0 without errors, 1 with."""
        return 1 if self.count("error") else 0

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "filename": self.path,
            "target": self.target,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [one.as_dict() for one in self.findings],
        }


def lint(
    path: PathLike,
    to: str | None = None,
    *,
    disks: Mapping[str, PathLike] | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
) -> LintResult:
    """Look at a bundle, at a config of another hypervisor, or at an image, for the target ``to``.

    Without a target only what every target needs is looked at. A config's disks may be absent:
    then what they hold is not looked at, and that is said. Raises :class:`UsageError` for an
    unknown target, and what opening the source raises.
    """
    target = hypervisors.get(to) if to is not None else None
    if target is not None and target.plan is None:
        raise UsageError(f"{target.name} is read, not written", hint="choose another target")
    options = OpenOptions(
        allow_backing=allow_backing, backing_dirs=tuple(backing_dirs), parents=tuple(parents)
    )
    with ExitStack() as stack:
        config, readers, blobs = _open(stack, path, disks or {}, format, options)
        found = lint_machine(target, config, readers, blobs)
    return LintResult(os.fspath(path), to, found)


def lint_machine(
    target: Hypervisor | None,
    config: MachineConfig,
    readers: Mapping[str, ImageReader],
    blobs: Mapping[str, bytes],
) -> tuple[LintFinding, ...]:
    """The findings about a machine whose disks are open (as far as they are at hand)."""
    return ordered(_all(target, config, readers, blobs))


def require_fit(findings: Sequence[LintFinding], path: str) -> None:
    """Raise :class:`UnsupportedError` where the target cannot hold the machine."""
    refusing = [one for one in findings if one.refuses]
    if refusing:
        first = refusing[0]
        raise UnsupportedError(
            "; ".join(f"{one.code}: {one.message}" for one in refusing[:5]),
            path=path,
            field=first.field or None,
            clause="LINT-EXPORT-1",
            hint=f"{first.hint}; --no-lint writes it all the same",
        )


def _all(
    target: Hypervisor | None,
    config: MachineConfig,
    readers: Mapping[str, ImageReader],
    blobs: Mapping[str, bytes],
) -> Iterator[LintFinding]:
    from vmpack.ops.lint_boot import boot_disk_of, lint_boot, open_boot_disk
    from vmpack.ops.lint_initramfs import lint_initramfs
    from vmpack.ops.lint_limits import lint_limits
    from vmpack.units import round_up

    if target is not None:
        sizes = {name: round_up(one.virtual_size, 512) for name, one in readers.items()}
        yield from lint_limits(target, config, sizes)
    if config.tpm is not None and "tpm-state" not in blobs:
        yield finding("state-tpm-missing", field="tpm")
    disk = boot_disk_of(config)
    if disk is None:
        yield finding("boot-no-disk")
        return
    if disk.id not in readers:
        yield finding("boot-disk-absent", f"disk {disk.id} is not at hand")
        return
    try:
        boot = open_boot_disk(disk, readers[disk.id])
        yield from lint_boot(config, boot, blobs)
        yield from lint_initramfs(target, config, boot)
    except VmpackError as exc:
        yield finding("boot-disk-unreadable", f"disk {disk.id}: {exc.message}")


_Machine = tuple["MachineConfig", Mapping[str, ImageReader], Mapping[str, bytes]]


def _open(
    stack: ExitStack,
    path: PathLike,
    disks: Mapping[str, PathLike],
    format_name: str | None,
    options: OpenOptions,
) -> _Machine:
    """The machine's config, and what of its disks and blobs is at hand."""
    from vmpack.ops.opening import is_bundle, parse_target

    name = os.fspath(path)
    is_file = not name.startswith("libvirt:") and not os.path.isdir(name)
    if is_file and parse_target(path)[1] is None and format_name is None and is_bundle(path):
        return _open_bundle(stack, path)
    from vmpack.ops import importing
    from vmpack.ops.pack import pinned_config
    from vmpack.ops.pack_sources import gather

    found = importing.find(path) if format_name is None else None
    if found is not None:
        stack.callback(found.close)
        imported = importing.read_config(found)
        given = {one: disks[one] for one in disks if one in imported.disks}
        if importing.missing_disks(found, imported, given, options) or imported.running:
            # What is there is not opened either: a config with half of its disks pins nothing.
            return imported.config, {}, {}
    gathered = gather(
        stack, [path], disks, None, format=format_name, options=options, max_size=None
    )
    readers = {one.id: one.reader for one in gathered.disks}
    return pinned_config(gathered, None, "keep"), readers, gathered.blobs


def _open_bundle(stack: ExitStack, path: PathLike) -> _Machine:
    from vmpack.bundle import Bundle
    from vmpack.ops.bundle_disk import BundleDisk

    bundle = stack.enter_context(Bundle.open(path))
    readers: dict[str, ImageReader] = {
        disk.id: BundleDisk(bundle.disk(disk.id), None, disk.exact_size) for disk in bundle.disks
    }
    blobs = {
        blob.name: bundle.blob(blob.name)
        for blob in bundle.manifest.blobs
        if blob.name in ("nvram", "tpm-state")
    }
    return bundle.config, readers, blobs
