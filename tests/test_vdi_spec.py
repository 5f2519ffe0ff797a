"""specs/vdi.md against the code: byte tables, and clauses that nobody checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmpack.formats.vdi import structs

ROOT = Path(__file__).parent.parent
STRUCTS = {"PREHEADER": 0, "HEADER": 72}


def rows(name: str, base: int) -> list[str]:
    offset = base
    found = []
    for field in getattr(structs, name).subcons:
        found.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_table_is_the_struct(name: str) -> None:
    text = (ROOT / "specs/vdi.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    assert block.splitlines()[2:] == rows(name, STRUCTS[name])


def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause() -> None:
    pattern = re.compile(r"\bVDI-[A-Z]+-\d+\b")
    text = (ROOT / "specs/vdi.md").read_text()
    clauses = {row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| VDI-")}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_vdi_*.py"))
    code = "".join(path.read_text() for path in (ROOT / "vmpack/formats/vdi").glob("*.py"))
    named, used = set(pattern.findall(tests)), set(pattern.findall(code))
    assert clauses - named == set(), "clauses that no test names"
    assert used - clauses == set(), "names in the code that are no clauses"
