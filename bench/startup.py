"""What a command costs before it does anything, beside the interpreter's own start."""

from __future__ import annotations

import compileall
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import vmpack
from bench.bundle import VMPACK
from bench.measure import Sample, Side, alternate, cpu_ratio, ratio, samples_dict, seconds
from bench.table import Row, Target

TARGETS = {
    "startup-version": Target(5.0),
    "startup-info-image": Target(9.0),
    "startup-info-bundle": Target(9.0),
}
_MORE = 7
"""These runs take milliseconds: more of them, for the same noise."""


def rows(bundle: Path, disk: Path, turns: int, scratch: Path) -> list[Row]:
    """``vmpack --version`` and ``vmpack info`` (of an image, of a bundle) beside ``python``."""
    # As pip leaves an installed package; otherwise each run would compile it anew where Python is
    # told not to keep what it compiles (PYTHONDONTWRITEBYTECODE).
    compileall.compile_dir(str(Path(vmpack.__file__).parent), quiet=1)
    sides = [
        Side("python", [sys.executable, "-c", "pass"]),
        Side("startup-version", [VMPACK, "--version"]),
        Side("startup-info-image", [VMPACK, "info", str(disk)]),
        Side("startup-info-bundle", [VMPACK, "info", str(bundle)]),
    ]
    return results(alternate(sides, _MORE * turns, scratch))


def results(taken: Mapping[str, Sequence[Sample]]) -> list[Row]:
    """The rows for these samples."""
    python = taken["python"]
    names = {
        "startup-version": "vmpack --version",
        "startup-info-image": "vmpack info, of an image",
        "startup-info-bundle": "vmpack info, of a bundle",
    }
    found = [
        Row(
            key,
            what,
            ratio(taken[key], python),
            "x",
            f"{seconds(taken[key]) * 1000:.0f} ms",
            f"python -c pass {seconds(python) * 1000:.0f} ms",
            TARGETS[key],
            {"cpu-ratio": round(cpu_ratio(taken[key], python), 3)},
        )
        for key, what in names.items()
    ]
    found[0] = Row(**{**vars(found[0]), "details": samples_dict(taken)})
    return found
