"""The probe: one POSIX shell script, as it is sent to a guest."""

from __future__ import annotations

import functools
from importlib.resources import files

__all__ = ["script"]


@functools.cache
def script() -> str:
    """The probe without comments and indentation: a console takes time for every byte."""
    text = files("vmpack.verify.guest").joinpath("probe.sh").read_text(encoding="ascii")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"
