"""A boot held against a record: every promise, every way to differ, and what is not compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmpack.verify.bounds import clean_facts
from vmpack.verify.compare import MAX_DIFFERENCES, compare
from vmpack.verify.kinds import KINDS
from vmpack.verify.layers import LAYERS
from vmpack.verify.model import LEVEL, Comparison, HostFacts, Observation
from vmpack.verify.record import merge

HERE = HostFacts("7.2.22", "tcg", "sha256:a", "here")
NEWER = HostFacts("11.1.3", "tcg", "sha256:b", "there")
IMITATED = replace(HERE, changed=("--as vmware",))
NAMES = [row.name for row in LAYERS]


def seen(host: HostFacts = HERE, **layers: dict[str, Any]) -> Observation:
    means = ("agent",) if "guest" in layers else ()
    return Observation(host, layers, means)  # type: ignore[arg-type]


def found(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Layer, item and code with promise, of each difference."""
    return [(d.layer, d.item, f"{d.code} {d.promise}") for d in comparison.differences]


def test_equal_boots_are_the_same() -> None:
    boot = seen(ending={"kind": "expected"}, guest={"uname": "x"}, reads={"disk:a": {"bytes": 9}})
    result = compare(boot, boot)
    assert result.good
    assert result.relation == "same-host"
    assert {name: v for name, v in result.verdicts.items() if v != "not-compared"} == {
        "ending": "same",
        "guest": "same",
        "reads": "same",
    }
    assert list(result.verdicts) == NAMES


def test_a_member_may_promise_less_than_its_fact() -> None:
    """BHV-CMP-4: where PCI's configuration lies is the firmware's, the rest is not."""
    board = {"driver": "q35-pcihost", "MCFG": 2952790016, "x": 1}
    moved, changed = {**board, "MCFG": 3758096384}, {**board, "x": 2}
    item = "device:q35-pcihost"
    here = seen(hardware={item: board})
    assert found(compare(here, seen(NEWER, hardware={item: moved}))) == [
        ("hardware", f"{item}.MCFG", "changed none")
    ]
    assert not compare(here, seen(NEWER, hardware={item: changed})).good
    assert not compare(here, seen(hardware={item: moved})).good


@pytest.mark.parametrize(
    ("other", "relation"),
    [
        (replace(HERE, name="there", vmpack="9"), "same-host"),
        (replace(HERE, qemu="7.2.23"), "across"),
        (replace(HERE, accel="kvm"), "across"),
        (replace(HERE, firmware="sha256:b"), "across"),
    ],
)
def test_what_makes_a_host_the_same(other: HostFacts, relation: str) -> None:
    assert compare(seen(HERE), seen(other)).relation == relation


def test_exact_items_are_missing_added_or_changed() -> None:
    """BHV-CMP-1: on every pair of hosts."""
    for host in (HERE, NEWER):
        result = compare(
            seen(guest={"unit:a": "active", "unit:b": "active", "cpus": 2}),
            seen(host, guest={"unit:a": "failed", "unit:c": "active", "cpus": True}),
        )
        assert found(result) == [
            ("guest", "unit:a", "changed exact"),
            ("guest", "unit:b", "missing exact"),
            ("guest", "cpus", "changed exact"),
            ("guest", "unit:c", "added exact"),
        ]
        assert not result.good
        assert result.verdicts["guest"] == "differs"
    assert (result.differences[0].expected, result.differences[0].observed) == ("active", "failed")
    assert (result.differences[3].expected, result.differences[3].observed) == (None, "active")


def test_the_member_that_differs_is_named() -> None:
    """BHV-CMP-1."""
    result = compare(
        seen(hardware={"pci:00:03.0": {"id": "a", "bars": {"0": "x", "1": "y"}, "irq": 1}}),
        seen(hardware={"pci:00:03.0": {"id": "b", "bars": {"0": "x", "1": "z"}, "name": 1}}),
    )
    assert found(result) == [
        ("hardware", "pci:00:03.0.id", "changed exact"),
        ("hardware", "pci:00:03.0.bars.1", "changed exact"),
        ("hardware", "pci:00:03.0.irq", "missing exact"),
        ("hardware", "pci:00:03.0.name", "added exact"),
    ]


def test_shared_items_are_compared_where_both_have_them() -> None:
    """BHV-CMP-2: members of objects too; on the same host all of it is exact."""
    boots = [
        {"cpu-model": {"aes": True, "old": 1}, "device:gone": {"a": 1}},
        {"cpu-model": {"aes": False, "new": 1}, "device:come": {"a": 1}},
    ]
    result = compare(seen(hardware=boots[0]), seen(NEWER, hardware=boots[1]))
    assert found(result) == [("hardware", "cpu-model.aes", "changed shared")]
    assert not result.good
    assert len(compare(seen(hardware=boots[0]), seen(hardware=boots[1])).differences) == 5


def test_where_nothing_is_promised_it_drifts() -> None:
    """BHV-CMP-4: told, after what counts, and no failure."""
    boots = [{"acpi:DSDT": "1", "dmi:x": "a"}, {"acpi:DSDT": "2", "dmi:x": "a"}]
    across = compare(seen(tables=boots[0]), seen(NEWER, tables=boots[1]))
    assert found(across) == [("tables", "acpi:DSDT", "changed none")]
    assert across.good
    assert across.verdicts["tables"] == "drift"
    assert not compare(seen(tables=boots[0]), seen(tables=boots[1])).good
    both = compare(
        seen(tables=boots[0], reads={"disk:a": {"bytes": 9_000_000}}),
        seen(NEWER, tables=boots[1], reads={"disk:a": {"bytes": 1}}),
    )
    assert [d.layer for d in both.differences] == ["reads", "tables"]


ORDERS = [
    (["a", "b", "c"], ["a", "c"], [("b", "missing exact")]),
    (["a", "c"], ["a", "b", "c"], [("b", "added exact")]),
    (["a", "b", "c"], ["a", "c", "b"], [("b", "order exact")]),
    (["a", "b", "c"], ["c", "b", "x"], [("a", "missing exact"), ("x", "added exact"),
                                         ("b", "order exact")]),
    (["a", "a"], ["a"], [("a", "missing exact")]),
    (["a"], ["a"], []),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "wanted"), ORDERS)
def test_sequences_name_their_items(
    left: list[str], right: list[str], wanted: list[tuple[str, str]]
) -> None:
    """BHV-CMP-5."""
    result = compare(seen(ending={"order": left}), seen(ending={"order": right}))
    assert found(result) == [("ending", *each) for each in wanted]


def test_a_milestone_that_is_missing_is_told_once() -> None:
    """BHV-CMP-5."""
    result = compare(
        seen(milestones={"order": ["kernel", "init"], "milestone:kernel": "6.1"}),
        seen(milestones={"order": ["init"]}),
    )
    assert found(result) == [("milestones", "milestone:kernel", "missing exact")]


def test_other_hardware_on_purpose_promises_how_it_ends() -> None:
    """BHV-CMP-6: and milestones and checks."""
    facts: dict[str, Any] = {"x:1": "a"}
    other: dict[str, Any] = {"x:1": "b"}
    names: list[str] = [row.name for row in LAYERS if row.kind == "facts"]
    sides: list[Any] = [dict.fromkeys(names, each) for each in (facts, other)]
    result = compare(seen(**sides[0]), seen(IMITATED, **sides[1]))
    promised: dict[str, str] = {d.layer: d.promise for d in result.differences}
    assert {name for name in names if promised[name] != "none"} == {
        "ending",
        "milestones",
        "checks",
    }
    assert "--as vmware" in next(d.cause for d in result.differences if d.layer == "hardware")
    again = compare(seen(IMITATED, hardware=facts), seen(IMITATED, hardware=other))
    assert not again.good


def test_what_is_unstable_is_not_compared() -> None:
    """BHV-CMP-7: whole items, members, layers; whichever side says so."""
    left = merge([seen(guest={"a": 1, "c": {"x": 1, "y": 1}}), seen(guest={"a": 2, "c": {"x": 1}})])
    right = seen(guest={"a": 3, "c": {"x": 1, "y": 9}})
    assert compare(left, right).good
    assert compare(right, left).good
    assert not compare(left, seen(guest={"a": 3, "c": {"x": 2}})).good
    layers = merge([seen(tables={"a": 1}), seen()])
    result = compare(layers, seen(tables={"a": 2}))
    assert (result.verdicts["tables"], result.good) == ("not-compared", True)
    assert result.notes["tables"] == "not observed in every boot"


def test_layers_of_one_side_are_not_compared() -> None:
    """BHV-CMP-7: with the reason."""
    result = compare(seen(reads={}), seen(console={"lines": []}))
    assert result.good
    assert (result.verdicts["reads"], result.notes["reads"]) == (
        "not-compared",
        "not observed in this boot",
    )
    assert result.notes["console"] == "not in the record"
    assert result.notes["ending"] == "not observed"


def test_a_guest_that_fell_silent_differs() -> None:
    """BHV-CMP-7: but not where the boot did not come so far, or on other hardware."""
    recorded = seen(ending={"kind": "expected"}, guest={"uname": "x"})
    silent = compare(recorded, seen(ending={"kind": "expected"}))
    assert found(silent) == [("guest", "means", "missing exact")]
    assert silent.verdicts["guest"] == "differs"
    panicked = compare(recorded, seen(ending={"kind": "panic"}))
    assert found(panicked) == [("ending", "kind", "changed exact")]
    assert compare(recorded, seen(IMITATED, ending={"kind": "expected"})).good


def test_other_means_tell_other_things() -> None:
    """BHV-CMP-8: what both tell is compared."""
    recorded = seen(guest={"uname": "x", "unit:a": "active", "unit:b": "active"})
    login = replace(seen(guest={"uname": "x", "process:a": True}), means=("serial-login",))
    assert compare(recorded, login).good
    login = replace(seen(guest={"uname": "y", "unit:a": "active"}), means=("serial-login",))
    assert [d.item for d in compare(recorded, login).differences] == ["uname", "unit:b"]


def test_what_could_not_be_observed_is_not_missing() -> None:
    """BHV-CMP-8."""
    recorded = seen(guest={"uname": "x", "mount:/": {"type": "ext4"}})
    boot = seen(guest={"uname": "x", "not-observed": ["mount"]})
    assert compare(recorded, boot).good
    assert compare(boot, recorded).good
    assert "mount" in compare(recorded, boot).notes["guest"]
    cut = seen(guest={"uname": "y", "cut": 7})
    assert [d.item for d in compare(recorded, cut).differences] == ["uname"]


def test_differences_are_bounded_and_counted() -> None:
    """BHV-CMP-9."""
    boots = [seen(guest={f"unit:{n}": value for n in range(5000)}) for value in ("a", "b")]
    result = compare(*boots)
    assert len(result.differences) == MAX_DIFFERENCES
    assert f"{5000 - MAX_DIFFERENCES} more" in result.notes["guest"]


def test_reads_may_vary_by_a_hundredth() -> None:
    """BHV-READ-1: of what was recorded, and always by a little."""
    mib = 1 << 20
    recorded = merge(
        [seen(reads={"disk:a": {"bytes": n * mib, "operations": 10_000}}) for n in (99, 101)]
    )
    for bytes_, operations, item in [
        (100 * mib, 10_000, None),
        (102 * mib, 10_099, None),
        (98 * mib + 9, 9_901, None),
        (103 * mib, 10_000, "disk:a.bytes"),
        (97 * mib, 10_000, "disk:a.bytes"),
        (100 * mib, 10_101, "disk:a.operations"),
    ]:
        boot = seen(NEWER, reads={"disk:a": {"bytes": bytes_, "operations": operations}})
        wanted = [("reads", item, "similarity similar")] if item else []
        assert found(compare(recorded, boot)) == wanted
    small = seen(reads={"disk:a": {"bytes": 512, "operations": 1}})
    assert compare(small, seen(reads={"disk:a": {"bytes": 200_000, "operations": 30}})).good


def test_consoles_differ_by_lines_or_by_order() -> None:
    """BHV-CMP-3."""
    log = [f"line {chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(60)]
    recorded = seen(console={"lines": log})
    other = compare(recorded, seen(console={"lines": [*log[:50], "panic"]}))
    assert found(other) == [("console", "lines", "similarity similar")]
    assert other.differences[0].observed == ["panic"]
    turned = compare(recorded, seen(console={"lines": log[30:] + log[:30]}))
    assert found(turned) == [("console", "lines", "order similar")]
    assert (
        compare(recorded, seen(console={"lines": log})).notes["console"].startswith("1.000 alike")
    )


def test_what_came_later_is_not_taken_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """BHV-VER-3: kinds of a level that the older of the two did not have."""
    old = replace(seen(guest={"uname": "x"}), level=1)
    new = replace(seen(guest={"uname": "x", "aura:head": "violet"}), level=2)
    assert compare(old, new).good
    assert compare(new, old).good
    assert not compare(replace(new, level=1), old).good
    later = dict(KINDS["guest"]) | {"unit": replace(KINDS["guest"]["unit"], level=2)}
    monkeypatch.setattr("vmpack.verify.compare.KINDS", {**KINDS, "guest": later})
    units = replace(seen(guest={"uname": "x", "unit:a": "active"}), level=2)
    assert compare(old, units).good
    assert compare(replace(old, level=2), units).good is False


def test_lines_of_an_older_level_are_made_normal_again() -> None:
    """BHV-VER-4."""
    old = replace(seen(console={"lines": ["irq 7"] * 40}), level=LEVEL + 1)
    assert compare(old, seen(console={"lines": ["irq #"] * 40})).good


def test_layers_of_a_newer_vmpack_are_named() -> None:
    """BHV-VER-2."""
    recorded = replace(seen(), unknown_layers={"smell": {"x": 1}})
    result = compare(recorded, seen())
    assert result.unknown_layers == ("smell",)
    assert result.as_dict()["unknown-layers"] == ["smell"]
    assert result.good


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from("abc"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "order", "png", "lines"]), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(["a", "b:1", "b:2", "order", "lines", "sometimes", "cut", "not-observed"])
layers = st.dictionaries(
    st.sampled_from(NAMES), st.dictionaries(keys, values, max_size=5), max_size=4
)


@settings(max_examples=50, deadline=None)
@given(layers, layers, st.sampled_from([HERE, NEWER, IMITATED]))
def test_any_two_observations_can_be_compared(
    left: dict[str, Any], right: dict[str, Any], host: HostFacts
) -> None:
    """BHV-CMP-1: one is always as itself, and what differs one way differs the other way."""
    one, other = seen(HERE, **left), seen(host, **right)
    itself = compare(one, one)
    assert itself.good, itself.differences
    there, back = compare(one, other), compare(other, one)
    means = [("guest", "means")]
    pairs = [[(d.layer, d.item) for d in each.differences] for each in (there, back)]
    assert sorted(set(pairs[0]) - set(means)) == sorted(set(pairs[1]) - set(means)) or any(
        d.code == "order" for d in there.differences
    )
    for each in there.differences:
        assert each.cause
        assert each.cause.isprintable()


def test_cleaning_is_part_of_comparing() -> None:
    """BHV-LIM-1: an observation as it was made is held against one that was kept."""
    fresh = seen(guest={"unit:é\n": "\ud800", "big": 1 << 70})
    kept = replace(fresh, layers={"guest": clean_facts("guest", fresh.layers["guest"])})
    assert compare(kept, fresh).good
