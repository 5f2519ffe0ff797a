"""What a failed test's report says of its machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vmpack.errors import VmpackError

if TYPE_CHECKING:
    from vmpack.pytest_plugin.vm import VM

__all__ = ["sections"]

LINES = 30


def sections(machine: VM, node_id: str, folder: Path | None) -> list[tuple[str, str]]:
    """Titles and texts: the console's last lines, the ending, files that were written.

    A machine that cannot be asked any more is not what failed the test.
    """
    lines = list(machine.console.tail(LINES))
    found = [("vm: last lines of the console", "\n".join(lines) or "(it printed nothing)")]
    ending = machine.ending
    if ending is not None:
        said = f"{ending.kind}: {ending.message}"
        found.append(("vm: ending", "\n".join([said, *ending.stderr.splitlines()[-5:]])))
    if folder is not None:
        stem = re.sub(r"[^\w.-]+", "-", node_id).strip("-")[-150:]
        found.append(("vm: files", "\n".join(map(str, _write(machine, folder, stem)))))
    return found


def _write(machine: VM, folder: Path, stem: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    console = folder / f"{stem}.console.txt"
    console.write_text("\n".join(machine.console.tail(100_000)) + "\n")
    written = [console]
    try:
        picture = machine.screenshot()
    except (VmpackError, AssertionError):
        return written
    if picture:
        written.append(folder / f"{stem}.png")
        written[-1].write_bytes(picture)
    return written
