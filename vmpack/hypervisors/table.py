"""The tables of hypervisors in README and in ``specs/hypervisors/``, from the registry.

``python -m vmpack.hypervisors.table README.md specs/hypervisors/README.md`` brings them up to date;
a test compares.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from vmpack import hypervisors

__all__ = ["limits_table", "page_of", "pairs_table", "refresh"]

BLOCK = re.compile(r"(<!-- generated: (hypervisors|limits) -->\n).*?(<!-- end -->)", re.DOTALL)


def pairs_table() -> str:
    """What is read and written of each hypervisor, and what proves it, as a Markdown table."""
    lines = ["| hypervisor | `pack` reads | `--to` | writes | proven by |", "|---|---|---|---|---|"]
    for name in hypervisors.names():
        one = hypervisors.get(name)
        reads = ", ".join(f"`{text}`" if text.startswith(".") else text for text in one.reads)
        target = f"`{name}`" if one.plan is not None else ""
        writes = one.writes if one.plan is not None else ""
        lines.append(_row(one.title, reads, target, writes, one.proven_by))
    return "\n".join(lines) + "\n"


def limits_table() -> str:
    """What each target takes, as lint holds a machine against it, and the document that says so."""
    lines = ["| target | page | disk buses | network cards | source |", "|---|---|---|---|---|"]
    for name in hypervisors.names():
        limits = hypervisors.get(name).limits
        if limits is None:
            continue
        page = f"[{page_of(name)}]({page_of(name)})"
        lines.append(
            _row(
                f"`{name}`",
                page,
                ", ".join(limits.disk_buses) or "any",
                ", ".join(limits.nic_models) or "any",
                limits.source,
            )
        )
    return "\n".join(lines) + "\n"


def page_of(name: str) -> str:
    """The page in ``specs/hypervisors/`` that the hypervisor's module names, or its own name's."""
    module = importlib.import_module(hypervisors.module_of(name))
    found = re.search(r"specs/hypervisors/([a-z0-9-]+\.md)", module.__doc__ or "")
    return found[1] if found else f"{name}.md"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def refresh(page: str) -> str:
    """``page`` with its generated blocks as the registry has them now."""

    def block(match: re.Match[str]) -> str:
        text = pairs_table() if match[2] == "hypervisors" else limits_table()
        return f"{match[1]}{text}{match[3]}"

    return BLOCK.sub(block, page)


def _main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(refresh(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main()
