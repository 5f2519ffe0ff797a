"""The behaviour record: whatever a guest says fits into it, whatever a file says is survived."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runner import sector_bundle
from vmpack.errors import DamagedError, InputError, UnsupportedError, UsageError, VmpackError
from vmpack.machine import canonical
from vmpack.verify.bounds import (
    MAX_KEY,
    MAX_LAYER_BYTES,
    MAX_LAYER_VALUES,
    MAX_PICTURE_BYTES,
    clean_facts,
)
from vmpack.verify.layers import LAYERS
from vmpack.verify.model import CUT, HostFacts, Json, Observation
from vmpack.verify.record import Record, merge, read_record
from vmpack.verify.replay import Replay

HOST = HostFacts("7.2.22", "tcg", "sha256:" + "1" * 64, "here", "0.1.0")
MACHINE = "sha256:" + "0" * 64
NAMES = [layer.name for layer in LAYERS]


def seen(**layers: dict[str, Any]) -> Observation:
    return Observation(HOST, layers)  # type: ignore[arg-type]


def record_of(observation: Observation, **more: Any) -> Record:
    return Record(observation, MACHINE, vmpack="0.1.0", **more)


def trip(record: Record) -> Record:
    """Through the bytes that a bundle's manifest holds."""
    return Record.from_dict(json.loads(canonical.dumps(record.as_dict())))


REPLAY = Replay("7.2.22", HOST.firmware, "tcg", 9, "sha256:" + "2" * 64, 3, "sha256:" + "3" * 64)
FULL = Record(
    Observation(
        HostFacts("7.2.22", "tcg", "sha256:x", "here", "0.1.0", ("--as vmware",)),
        {
            "ending": {"kind": "expected", "order": ["RESET", "SHUTDOWN guest-reset"]},
            "guest": {"unit:ssh.service": "active", "pci-driver:0000:00:03.0": {"driver": "e1000"}},
            "reads": {"disk:root": {"bytes": [1, 2], "operations": [3, 3]}},
            "console": {"lines": ["a", "b"], "sometimes": ["c"]},
        },
        ("agent",),
        3,
        {"guest": ("unit:x.service", "disk:a > serial"), "tables": ("*",)},
    ),
    MACHINE,
    end="milestones",
    ending="power-off",
    vmpack="0.1.0",
    replay=REPLAY,
    extra={"x-more": {"a": [1]}},
)


def test_a_record_is_what_it_was_after_a_bundle_held_it() -> None:
    """BHV-REC-1: every member, and the members that a newer vmpack wrote."""
    assert trip(FULL) == FULL
    assert set(FULL.as_dict()) - {"x-more"} == {
        *("vmpack-behaviour", "level", "machine-id", "vmpack", "host", "boots", "means", "end"),
        *("ending", "layers", "unstable", "replay"),
    }


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(), max_size=20)
    # Surrogates: what Python makes of bytes that are no UTF-8.
    | st.text(st.characters(categories=["Cs"]), max_size=3)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
facts = st.dictionaries(st.text(max_size=MAX_KEY + 20), json_values, max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), facts, max_size=4))
def test_whatever_was_observed_can_be_kept(layers: dict[str, Any]) -> None:
    """BHV-LIM-1: keys and texts that JSON tools would lose are written in another way, once."""
    record = record_of(seen(**layers))
    again = trip(record)
    assert again.as_dict() == record.as_dict()
    for name, kept in again.observation.layers.items():
        assert clean_facts(name, kept) == kept
        assert len(kept) <= len(layers[name]) + 1


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("guest", {f"unit:{n}": "x" * 100 for n in range(20_000)}),
        ("guest", {"unit:" + "x" * 1_000_000: "active"}),
        ("guest", {"uname": "x" * 20_000_000}),
        ("guest", {"list": [1] * 1_000_000}),
        ("guest", {"big": 1 << 1_000_000}),
        ("picture", {f"p{n}": {"png": "A" * 350_000} for n in range(20)}),
        ("console", {"lines": ["x"] * 1_000_000}),
    ],
    ids=["many", "key", "text", "list", "integer", "pictures", "lines"],
)
def test_a_layer_is_bounded(name: Any, hostile: dict[str, Json]) -> None:
    """BHV-LIM-1: what is too much is left out and counted."""
    began = time.process_time()
    kept = clean_facts(name, hostile)
    assert time.process_time() - began < 10
    size = len(canonical.dumps(kept))
    assert size <= 2 * (MAX_PICTURE_BYTES if name == "picture" else MAX_LAYER_BYTES)
    assert len(kept) <= MAX_LAYER_VALUES + 1
    assert len(kept) - (CUT in kept) + int(str(kept.get(CUT, 0))) == len(hostile)


def test_every_layer_full_is_less_than_a_manifest_holds() -> None:
    """BHV-LIM-1."""
    assert (len(LAYERS) + 4) * MAX_LAYER_VALUES * 0.9 < canonical.MAX_VALUES
    assert (len(LAYERS) - 1) * MAX_LAYER_BYTES + MAX_PICTURE_BYTES < canonical.MAX_BYTES


def test_long_keys_stay_apart() -> None:
    """BHV-LIM-1."""
    kept = clean_facts("guest", {"unit:" + "x" * 300 + end: end for end in "ab"})
    assert list(kept.values()) == ["a", "b"]
    assert all(len(key) == MAX_KEY for key in kept)
    assert clean_facts("guest", {"é\n": math.inf}) == {"\\xe9\\n": "inf"}


WRONG: list[tuple[list[str], Any, str]] = [
    (["vmpack-behaviour"], "1", "BHV-REC-1"),
    (["vmpack-behaviour"], True, "BHV-REC-1"),
    (["level"], 0, "BHV-REC-1"),
    (["machine-id"], "sha256:1", "BHV-REC-1"),
    (["host"], [], "BHV-REC-1"),
    (["host", "qemu"], 7, "BHV-REC-1"),
    (["host", "changed"], "x", "BHV-REC-1"),
    (["boots"], 0, "BHV-REC-1"),
    (["boots"], 10**9, "BHV-REC-1"),
    (["means"], ["a"] * 100, "BHV-REC-1"),
    (["end"], "sometime", "BHV-REC-1"),
    (["layers"], None, "BHV-REC-1"),
    (["layers", "guest"], [], "BHV-REC-1"),
    (["layers", "guest", "x"], 1.5, "BHV-LIM-1"),
    (["layers", "guest", "x"], 1 << 60, "BHV-LIM-1"),
    (["layers", "guest", "x"], "x" * 100_000, "BHV-LIM-1"),
    (["layers", "guest", "é"], 1, "BHV-LIM-1"),
    (["layers", "guest", "x"], [[[[[[[[[[]]]]]]]]]], "BHV-LIM-1"),
    (["layers", "new", "x"], 1.5, "BHV-LIM-1"),
    (["unstable", "guest"], [1], "BHV-REC-1"),
    (["replay"], [], "BHV-EXACT-2"),
    (["x-more"], {"a": 1.5}, "BHV-LIM-1"),
]


@pytest.mark.parametrize(("place", "value", "clause"), WRONG)
def test_a_damaged_record_names_what_is_wrong(place: list[str], value: Any, clause: str) -> None:
    document = copy.deepcopy(FULL.as_dict())
    inner: Any = document
    for name in place[:-1]:
        inner = inner.setdefault(name, {})
    inner[place[-1]] = value
    with pytest.raises(DamagedError) as caught:
        Record.from_dict(document, path="a.json")
    assert (caught.value.clause, caught.value.path) == (clause, "a.json")
    assert caught.value.field
    assert caught.value.field.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(set(FULL.as_dict()) - {"x-more"}))
def test_no_member_may_be_missing(name: str) -> None:
    """BHV-REC-1."""
    document = FULL.as_dict()
    del document[name]
    with pytest.raises(DamagedError, match="is missing"):
        Record.from_dict(document)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_records_raise_nothing_else(data: st.DataObject) -> None:
    """BHV-LIM-1: any value in the place of any other."""
    document = copy.deepcopy(FULL.as_dict())
    inner: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans()):
            inner = inner[key]
            continue
        inner[key] = data.draw(json_values)
        break
    try:
        record = Record.from_dict(document)
    except VmpackError as exc:
        said = str(exc)
    else:
        said = ""
        assert trip(record) == record
    assert said.isprintable()


def test_a_newer_record_is_refused_with_a_way_out() -> None:
    """BHV-VER-1."""
    with pytest.raises(UnsupportedError, match="version 2") as caught:
        Record.from_dict({"vmpack-behaviour": 2, "whatever": {}})
    assert "newer vmpack" in str(caught.value.hint)


def test_what_a_newer_vmpack_adds_is_kept() -> None:
    """BHV-VER-2: layers, kinds and members."""
    document = FULL.as_dict() | {"level": 9, "later": {"a": 1}}
    layers: Any = document["layers"]
    layers["smell"] = {"kind:x": [1, {"y": "z"}]}
    layers["guest"]["aura:head"] = "violet"
    record = Record.from_dict(document)
    assert record.as_dict() == document
    assert record.observation.unknown_layers == {"smell": {"kind:x": [1, {"y": "z"}]}}


def test_records_of_files_and_bundles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(FULL.as_dict(), indent=2))
    assert read_record(path) == FULL
    bundle = sector_bundle(tmp_path, "poweroff")
    with pytest.raises(InputError, match="no behaviour record"):
        read_record(bundle)
    with pytest.raises(InputError):
        read_record(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"a": 1.5}',
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 1_000_000 + b"}",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"[" + b"[]," * 400_000 + b"0]",
        b" " * (17 << 20),
        b'"\\ud800"',
    ],
    ids=range(13),
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, data: bytes) -> None:
    """BHV-LIM-2."""
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(DamagedError) as caught:
        read_record(path)
    assert caught.value.path == str(path)


def test_what_all_boots_had_is_kept() -> None:
    """BHV-MRG-1: the rest is unstable, members of objects one by one."""
    first = seen(guest={"a": 1, "b": True, "c": {"x": 1, "y": 2, "z": {"p": 1}}, "d": 0})
    second = seen(guest={"a": 1, "b": 1, "c": {"x": 1, "y": 3, "z": {"p": 2}}, "e": 0})
    merged = merge([first, first, second])
    assert merged.layers["guest"] == {"a": 1, "c": {"x": 1, "z": {}}}
    assert merged.unstable["guest"] == ("b", "c > y", "c > z > p", "d", "e")
    assert merged.boots == 3
    assert trip(record_of(merged)).observation == merged


def test_a_layer_of_some_boots_is_none() -> None:
    """BHV-MRG-2, and so with the means by which the guest was asked."""
    asked = Observation(HOST, {"guest": {"a": 1}, "ending": {}}, ("agent",))
    merged = merge([asked, seen(ending={})])
    assert merged.layers == {"ending": {}}
    assert merged.unstable == {"guest": ("*",)}
    assert merged.means == ()


def test_lines_of_some_boots_come_sometimes() -> None:
    """BHV-MRG-3: in the order of the first boot."""
    boots = [["a", "b", "b", "c"], ["c", "a", "b", "d"], ["b", "a", "c"]]
    merged = merge([seen(console={"lines": lines}) for lines in boots])
    assert merged.layers["console"] == {"lines": ["a", "c"], "sometimes": ["d", "b"]} or (
        merged.layers["console"] == {"lines": ["a", "c"], "sometimes": ["b", "d"]}
    )
    assert merged.unstable == {}


def test_many_lines_that_come_sometimes_still_fit() -> None:
    """BHV-LIM-1."""
    boots = [seen(console={"lines": [f"{n} {k}" * 30 for n in range(7000)]}) for k in range(3)]
    merged = merge(boots)
    assert merged.layers["console"]["lines"] == []
    assert trip(record_of(merged)).observation.layers["console"] == merged.layers["console"]


def test_block_reads_become_ranges() -> None:
    """BHV-MRG-4; merging what was merged widens them."""
    boots = [seen(reads={"disk:a": {"bytes": n, "operations": 7}}) for n in (5, 3, 9)]
    merged = merge(boots)
    assert merged.layers["reads"] == {"disk:a": {"bytes": [3, 9], "operations": [7, 7]}}
    again = merge([merged, seen(reads={"disk:a": {"bytes": 1, "operations": 7}})])
    assert again.layers["reads"] == {"disk:a": {"bytes": [1, 9], "operations": [7, 7]}}
    assert again.boots == 4


def test_there_must_be_boots() -> None:
    with pytest.raises(UsageError):
        merge([])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), facts, max_size=3), min_size=1, max_size=4))
def test_merging_takes_whatever_was_observed(boots: list[dict[str, Any]]) -> None:
    merged = merge([seen(**layers) for layers in boots])
    assert merge([merged]).layers.keys() == merged.layers.keys()
    assert trip(record_of(merged)).as_dict() == record_of(merged).as_dict()
