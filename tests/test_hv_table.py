"""The tables of hypervisors are those of the registry, and each has what its row promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmpack import hypervisors
from vmpack.errors import UsageError
from vmpack.hypervisors.table import limits_table, page_of, pairs_table, refresh

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "specs/hypervisors/README.md")


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_up_to_date(name: str) -> None:
    page = (ROOT / name).read_text()
    assert "<!-- generated: hypervisors -->" in page
    assert refresh(page) == page, f"run: python -m vmpack.hypervisors.table {' '.join(PAGES)}"


def test_the_command_brings_them_up_to_date(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: hypervisors -->\nold\n<!-- end -->\n")
    subprocess.run([sys.executable, "-m", "vmpack.hypervisors.table", page], cwd=ROOT, check=True)
    assert pairs_table() in page.read_text()
    assert "\nold\n" not in page.read_text()
    assert limits_table() not in page.read_text()


@pytest.mark.parametrize("name", hypervisors.names())
def test_each_row_is_true(name: str) -> None:
    one = hypervisors.get(name)
    assert one.name == name
    assert re.fullmatch(r"[a-z][a-z0-9]*", name)
    assert one.title
    assert bool(one.reads) == (one.read is not None)
    assert bool(one.writes) == (one.plan is not None)
    assert (one.recognise is None) == (one.read is None)
    assert one.proven_by
    assert one.read is not None or one.plan is not None
    if one.plan is not None:
        assert one.limits is not None
        assert one.limits.source
    assert (ROOT / "specs/hypervisors" / page_of(name)).exists()


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        hypervisors.get("hyper-x")
    assert "qemu" in (caught.value.hint or "")


def test_records_are_light_to_import() -> None:
    """What asks every hypervisor about a file must not load a parser of any."""
    code = (
        "import sys; from vmpack import hypervisors\n"
        "[hypervisors.get(name) for name in hypervisors.names()]\n"
        "heavy = {'lxml', 'yaml', 'pydantic', 'construct', 'defusedxml', 'xml', 'plistlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
