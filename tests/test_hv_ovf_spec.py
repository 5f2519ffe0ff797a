"""The pages of OVF, VirtualBox, XML and tar: no clause that nobody checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "specs/containers.md": ("TAR", "test_containers_*.py", "vmpack/containers"),
    "specs/hypervisors/xml.md": ("XML", "test_hv_*.py", "vmpack/hypervisors"),
    "specs/hypervisors/ova.md": ("OVF", "test_hv_*.py", "vmpack/hypervisors/ovf"),
    "specs/hypervisors/virtualbox.md": ("VBOX", "test_hv_*.py", "vmpack/hypervisors/virtualbox"),
}


@pytest.mark.parametrize("page", PAGES)
def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause(page: str) -> None:
    prefix, tests, code = PAGES[page]
    pattern = re.compile(rf"\b{prefix}-[A-Z]+-\d+\b")
    rows = (ROOT / page).read_text().splitlines()
    clauses = [row.split("|")[1].strip() for row in rows if row.startswith(f"| {prefix}-")]
    assert len(set(clauses)) == len(clauses)
    named = {
        found
        for path in (ROOT / "tests").glob(tests)
        if path != Path(__file__)
        for found in pattern.findall(path.read_text())
    }
    used = {
        found for path in (ROOT / code).rglob("*.py") for found in pattern.findall(path.read_text())
    }
    assert set(clauses) - named == set(), "clauses that no test names"
    assert used - set(clauses) == set(), "names in the code that are no clauses"
    assert named - set(clauses) == set(), "names in tests that are no clauses"
