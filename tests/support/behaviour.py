"""Tables of specs/behaviour-v1.md."""

from __future__ import annotations

from tests.support.spec_tables import SPECS

PAGE = SPECS / "behaviour-v1.md"


def rows_of(*header: str) -> list[tuple[str, ...]]:
    """The rows of the table with these columns; names in backticks lose them in the first one."""
    wanted = "| " + " | ".join(header) + " |"
    lines = PAGE.read_text().splitlines()
    assert wanted in lines, wanted
    rows = []
    for line in lines[lines.index(wanted) + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().replace("\\|", "|") for cell in line.strip("|").split(" | ")]
        rows.append((cells[0].strip("`"), *cells[1:]))
    return rows
