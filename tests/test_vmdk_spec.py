"""specs/vmdk.md against the code: byte tables, and clauses that nobody checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmpack.formats.vmdk import descriptor, structs

ROOT = Path(__file__).parent.parent
STRUCTS = {
    "SPARSE_HEADER": 512,
    "MARKER": 512,
    "GRAIN_MARKER": structs.GRAIN_MARKER_BYTES,
    "COWD_HEADER": 2048,
    "SESPARSE_HEADER": 512,
    "SESPARSE_VOLATILE": 512,
}


def rows(name: str) -> list[str]:
    offset = 0
    found = []
    for field in getattr(structs, name).subcons:
        found.append(f"| {offset} | {field.sizeof()} | `{field.name}` | {field.docs} |")
        offset += field.sizeof()
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_table_is_the_struct(name: str) -> None:
    text = (ROOT / "specs/vmdk.md").read_text()
    block = text.split(f"<!-- struct: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    assert block.splitlines()[2:] == rows(name)
    assert getattr(structs, name).sizeof() == STRUCTS[name]


def test_disk_types_are_the_pages() -> None:
    text = (ROOT / "specs/vmdk.md").read_text()
    table = text.split("| `createType` |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    named = {True: "", False: ""}
    for row in table:
        cells = row.split("|")
        named[cells[3].strip() == "yes"] += cells[1] + ","
    plain = {name for name in descriptor.CREATE_TYPES if not name.startswith("2Gb")}
    assert set(re.findall(r"\b[a-z]\w+", named[True])) == plain
    assert set(re.findall(r"\w+", named[False])) == set(descriptor.DEVICE_TYPES)


def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause() -> None:
    pattern = re.compile(r"\bVMDK-[A-Z]+-\d+\b")
    text = (ROOT / "specs/vmdk.md").read_text()
    clauses = {row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| VMDK-")}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_vmdk_*.py"))
    code = "".join(path.read_text() for path in (ROOT / "vmpack/formats").rglob("*.py"))
    assert clauses - set(pattern.findall(tests)) == set(), "clauses that no test names"
    # In the code a clause may stand without its "VMDK-".
    short = re.findall(r'"((?:MAP|SPARSE|STREAM|COWD|SE|PART|DESC|CHECK)-\d+)"', code)
    used = set(pattern.findall(code)) | {f"VMDK-{name}" for name in short}
    assert used - clauses == set(), "names in the code that are no clauses"
