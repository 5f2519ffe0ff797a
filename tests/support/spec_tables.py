"""Reads the byte tables and clauses of ``specs/``, so that code and page cannot drift."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SPECS = Path(__file__).resolve().parents[2] / "specs"
BYTE_TABLE = re.compile(r"^\| Offset \| Size \| Field \|", re.MULTILINE)
_NAMES = {"Int8ub": "u8", "Int32ub": "u32", "Int64ub": "u64", "Int32ul": "u32", "Int64ul": "u64"}


def byte_tables(page: str) -> list[list[tuple[int, int, str, str]]]:
    """Every byte table of a page: rows of ``(offset, size, field, meaning)``."""
    text = (SPECS / page).read_text()
    tables = []
    for match in BYTE_TABLE.finditer(text):
        rows = []
        for line in text[match.start() :].splitlines()[2:]:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not line.startswith("|"):
                break
            rows.append((int(cells[0]), int(cells[1]), cells[2].strip("`"), cells[4]))
        tables.append(rows)
    return tables


def struct_rows(struct: Any, start: int = 0) -> list[tuple[int, int, str, str]]:
    """The same rows from a construct ``Struct`` whose first field lies at ``start``."""
    rows = []
    offset = start
    for field in struct.subcons:
        size = field.sizeof()
        rows.append((offset, size, field.name, str(field.docs)))
        offset += size
    return rows


def clauses(page: str) -> list[str]:
    """The ids of a page's clauses: words such as ``VMP-HDR-1`` in bold."""
    return re.findall(r"\*\*([A-Z0-9]+(?:-[A-Z0-9]+)*-\d+)\*\*", (SPECS / page).read_text())
