"""specs/vhd.md against the code: byte tables, and clauses that nobody checks."""

from __future__ import annotations

import re

import pytest

from tests.support.spec_tables import SPECS
from tests.support.vhd import FOOTER_FIELDS, HEADER_FIELDS
from vmpack.formats.vhd import structs

ROOT = SPECS.parent


@pytest.mark.parametrize("name", ["FOOTER", "HEADER", "LOCATOR"])
def test_byte_table_is_the_struct(name: str) -> None:
    text = (SPECS / "vhd.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    offset, rows = 0, []
    for field in getattr(structs, name).subcons:
        rows.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    assert block.splitlines()[2:] == rows


def test_structs_end_where_the_constants_say() -> None:
    assert structs.FOOTER.sizeof() == structs.FOOTER_SIZE
    assert structs.HEADER.sizeof() == structs.HEADER_SIZE
    for struct, fields in ((structs.FOOTER, FOOTER_FIELDS), (structs.HEADER, HEADER_FIELDS)):
        offset = 0
        for field in struct.subcons:
            assert fields.get(field.name, (offset, 0))[0] == offset
            offset += field.sizeof()


def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause() -> None:
    pattern = re.compile(r"\bVHD-[A-Z0-9]+-\d+\b")
    clauses = set(re.findall(r"^\| (VHD-[A-Z]+-\d+) \|", (SPECS / "vhd.md").read_text(), re.M))
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_vhd_*.py"))
    code = "".join(path.read_text() for path in (ROOT / "vmpack").rglob("*.py"))
    assert clauses - set(pattern.findall(tests)) == set(), "clauses that no test names"
    assert set(pattern.findall(code)) - clauses == set(), "names in the code that are no clauses"
    assert len(clauses) > 30
