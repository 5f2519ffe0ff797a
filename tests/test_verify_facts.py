"""Real observations: each fact's kind is known, and what was observed can be kept and compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.runner import TCG, sector_bundle
from tests.support.tools import require_tool, run
from vmpack.bundle import Bundle
from vmpack.verify import guest
from vmpack.verify.boot import boot_once
from vmpack.verify.compare import compare
from vmpack.verify.guest.parse import parse
from vmpack.verify.kinds import KINDS, kind_of
from vmpack.verify.layers import LayerName
from vmpack.verify.model import CUT, NOT_OBSERVED, Facts, Observation
from vmpack.verify.record import Record, merge

CHECKS = '[[verify.check]]\nwait-for = "echo"\n[[verify.check]]\nscreenshot = "after"\n'


def unknown(layers: Mapping[LayerName, Facts]) -> list[str]:
    """Facts whose kind the page does not have."""
    return [
        f"{name} {key}"
        for name, facts in layers.items()
        for key in facts
        if "*" not in KINDS[name]
        and kind_of(key) not in KINDS[name]
        and key not in (CUT, NOT_OBSERVED)
    ]


def observed(path: Path) -> Observation:
    with Bundle.open(path) as bundle:
        boot = asyncio.run(boot_once(bundle, TCG))
    assert boot.observation is not None
    return boot.observation


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> list[Observation]:
    """Two of a sector that goes on running."""
    config = '[expected]\nmilestones = ["boot sector"]\n' + CHECKS
    path = sector_bundle(tmp_path_factory.mktemp("facts"), "echo", config)
    return [observed(path), observed(path)]


@pytest.mark.qemu
def test_every_fact_of_a_boot_is_on_the_page(boots: list[Observation]) -> None:
    """BHV-FACT-1."""
    assert unknown(boots[0].layers) == []
    assert {"ending", "milestones", "checks", "hardware", "firmware", "picture"} < {
        *boots[0].layers
    }


def test_every_fact_of_a_guest_is_on_the_page() -> None:
    """BHV-FACT-1: the probe, run on this machine."""
    probe = Path(guest.__file__).with_name("probe.sh")
    told = parse(run([require_tool("sh"), probe], timeout_s=60).stdout)
    assert told.complete
    assert len(told.facts) > 50
    assert unknown({"guest": told.facts, "tables": told.tables}) == []


@pytest.mark.qemu
def test_a_boot_is_as_it_was_recorded(boots: list[Observation]) -> None:
    """BHV-CMP-1, BHV-REC-1: through a record's JSON."""
    record = Record(merge(boots[:1] * 2), "sha256:" + "0" * 64, end="milestones")
    kept = Record.from_dict(record.as_dict()).observation
    result = compare(kept, boots[1])
    assert result.good, result.differences
    assert result.relation == "same-host"
    compared = {name for name, verdict in result.verdicts.items() if verdict != "not-compared"}
    assert compared == set(boots[0].layers)
    across = compare(kept, replace(boots[1], host=replace(boots[1].host, qemu="99.0.0")))
    assert across.good
    assert not across.differences


@pytest.mark.qemu
def test_another_sector_is_found_by_more_than_likeness(
    boots: list[Observation], tmp_path: Path
) -> None:
    """BHV-CMP-4: its ending says it, not its console alone."""
    path = sector_bundle(tmp_path, "panic", '[expected]\nmilestones = ["boot sector"]\n' + CHECKS)
    result = compare(boots[0], observed(path))
    assert {"ending", "console"} <= {each.layer for each in result.differences if each.counts}
    assert result.differences[0].layer == "ending"
    assert "panic" in result.differences[0].cause
