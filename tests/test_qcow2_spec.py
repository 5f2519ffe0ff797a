"""specs/qcow2.md and specs/raw.md against the code: byte tables, and clauses that nobody checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmpack.formats.qcow2 import structs

ROOT = Path(__file__).parent.parent
STRUCTS = {
    "HEADER_V2": 0,
    "HEADER_V3_TAIL": structs.V2_LENGTH,
    "HEADER_V3_COMPRESSION": structs.V3_LENGTH,
    "EXTENSION": 0,
    "FEATURE_NAME": 0,
}


def rows(name: str, base: int) -> list[str]:
    offset = base
    found = []
    for field in getattr(structs, name).subcons:
        found.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_table_is_the_struct(name: str) -> None:
    text = (ROOT / "specs/qcow2.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    assert block.splitlines()[2:] == rows(name, STRUCTS[name])


def test_structs_end_where_the_constants_say() -> None:
    assert structs.HEADER_V2.sizeof() == structs.V2_LENGTH
    assert structs.V2_LENGTH + structs.HEADER_V3_TAIL.sizeof() == structs.V3_LENGTH
    assert structs.V3_LENGTH + structs.HEADER_V3_COMPRESSION.sizeof() == structs.V3_FULL_LENGTH


@pytest.mark.parametrize("page", ["qcow2", "raw"])
def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause(page: str) -> None:
    pattern = re.compile(rf"\b{page.upper()}-[A-Z0-9]+-\d+\b")
    text = (ROOT / f"specs/{page}.md").read_text()
    clauses = {
        row.split("|")[1].strip()
        for row in text.splitlines()
        if row.startswith("| " + page.upper())
    }
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    code = "".join(path.read_text() for path in (ROOT / "vmpack").rglob("*.py"))
    named, used = set(pattern.findall(tests)), set(pattern.findall(code))
    assert clauses - named == set(), "clauses that no test names"
    assert used - clauses == set(), "names in the code that are no clauses"
