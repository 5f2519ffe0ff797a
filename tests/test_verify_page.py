"""The page of behaviour records has the code's tables; each difference has a cause for people."""

from __future__ import annotations

import fnmatch
import re
import string
from pathlib import Path

from tests.support.behaviour import PAGE, rows_of
from tests.support.spec_tables import clauses
from vmpack.runner.detectors import MARKS, SETS
from vmpack.runner.options import EXIT_CODES
from vmpack.verify.cause_table import CAUSES, OTHERWISE
from vmpack.verify.causes import cause_of
from vmpack.verify.kinds import KINDS
from vmpack.verify.layers import LAYERS, layer
from vmpack.verify.model import LEVEL, HostFacts, Observation
from vmpack.verify.record import Record

HERE = HostFacts("7.2.22", "tcg", "sha256:a", "here")
NAMES = [row.name for row in LAYERS]


def test_the_page_has_the_table_of_layers() -> None:
    rows: list[tuple[str, ...]] = []
    for row in LAYERS:
        rows.append((row.name, row.title, row.kind, *row.promise))
        rows += [(f"{row.name}` `{glob}", "-", row.kind, *pair) for glob, pair in row.items.items()]
    assert rows_of("Layer", "Title", "Compared as", "Same host", "Across") == rows


def test_the_page_has_every_kind_of_fact() -> None:
    """BHV-FACT-1."""
    rows = [
        (row.name, f"`{kind}`", str(one.level), one.value)
        for row in LAYERS
        for kind, one in KINDS[row.name].items()
    ]
    assert rows_of("Layer", "Kind", "Level", "Value") == rows
    assert max(one.level for kinds in KINDS.values() for one in kinds.values()) <= LEVEL


def test_the_page_has_every_member_of_a_record() -> None:
    """BHV-REC-1."""
    record = Record(Observation(HERE, {}), "sha256:" + "0" * 64).as_dict()
    assert {row[0] for row in rows_of("Member", "Type", "Meaning")} == set(record)


def test_the_page_has_every_detector() -> None:
    words = ("no", "yes")
    rows = [(m.name, m.stage, m.of, words[m.proven], words[m.ordered]) for m in MARKS]
    assert rows_of("Milestone", "Stage", "Printed by", "Proven", "Ordered") == rows
    sets = [(f"{one.kind}:", one.of, words[one.proven]) for one in SETS]
    assert rows_of("Set of milestones", "Printed by", "Proven") == sets


def test_each_clause_is_there_once_and_named_by_a_test() -> None:
    names = clauses(PAGE.name)
    assert len(set(names)) == len(names) > 40
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in names if not re.search(rf"\b{name}\b", tests)] == []


def test_every_cause_can_be_found_and_filled() -> None:
    """BHV-CAUSE-1: no row hides another, each has the places that exist."""
    known = {*("item", "expected", "observed", "recorded_qemu", "qemu", "recorded_accel"),
             *("accel", "changed")}  # fmt: skip
    assert set(OTHERWISE) == set(NAMES)
    for row in CAUSES:
        fields = {name for _, name, _, _ in string.Formatter().parse(row.text) if name}
        assert fields <= known, row
        assert row.layers
        assert all(layer(name) for name in row.layers)
        assert row.text[0].islower() or row.text.startswith(("{", "QEMU"))
        assert not row.text.endswith(".")


def test_every_bad_ending_and_every_kind_has_a_cause() -> None:
    """BHV-CAUSE-1."""
    good = {"expected", "shutdown", "interrupted"}
    generic = cause_of("ending", "changed", "reason", "a", "b", HERE, HERE)
    for kind, code in EXIT_CODES.items():
        if kind not in good | {"unexpected"} and code != 125:
            assert cause_of("ending", "changed", "kind", "expected", kind, HERE, HERE) != generic, (
                kind
            )
    for name, kinds in KINDS.items():
        for known in kinds:
            item = f"{known}:x"
            assert any(
                name in row.layers
                and row.when is None
                and any(
                    fnmatch.fnmatchcase(text, glob) for glob in row.items for text in (item, known)
                )
                for row in CAUSES
            ), (name, known)


def test_causes_are_safe_to_print() -> None:
    """BHV-CAUSE-1: units and values are the guest's."""
    item = "unit:\x1b[31m{qemu}.service"
    said = cause_of("guest", "changed", item, "active", "failed", HERE, HERE)
    assert said.isprintable()
    assert "{qemu}.service fails now" in said
    long = cause_of("guest", "missing", "unit:" + "x" * 9000, None, None, HERE, HERE)
    assert len(long) < 500
