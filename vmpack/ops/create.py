"""Creates an empty disk image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vmpack import formats
from vmpack.errors import UsageError
from vmpack.formats.base import CreateOptions, Format
from vmpack.ops.opening import Path
from vmpack.ops.writing import NewImage
from vmpack.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class CreateResult:
    """What was created. Sizes in bytes."""

    filename: str
    format: str
    virtual_size: int

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "filename": self.filename,
            "format": self.format,
            "virtual-size": self.virtual_size,
        }


def create(
    path: Path,
    size: int,
    output_format: str,
    *,
    options: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = SILENT,  # noqa: ARG001 - every operation takes it; this one is instant
) -> CreateResult:
    """Create an image of ``size`` bytes that reads as zeros.

    Raises :class:`UsageError` for options that the format does not have, :class:`OutputError`
    when ``path`` exists and ``force`` is not set.
    """
    target = writable(output_format)
    values = require_options(target, options or {})
    name = os.fspath(path)
    wanted = CreateOptions(virtual_size=size, values=values, empty=True)
    with NewImage(target, name, wanted, force=force) as new:
        new.finish()
        new.commit()
    made = size if target.disk_size is None else max(size, target.disk_size(wanted))
    return CreateResult(name, target.qemu_name, made)


def writable(name: str) -> Format:
    """The format called ``name``, which vmpack can write; else :class:`UsageError`."""
    found = formats.get(name)
    if found.create is None:
        raise UsageError(f"format {name} cannot be written")
    return found


def require_options(target: Format, values: Mapping[str, str]) -> Mapping[str, str]:
    """``values``, all of them options that the format has; else :class:`UsageError`."""
    for key in values:
        if key not in target.options:
            known = ", ".join(target.options) or "none"
            raise UsageError(
                f"{target.name} has no option {key!r}", field="-o", hint=f"it has: {known}"
            )
    return values
