"""Exports appear whole or not at all, whatever fails on the way, and replace nothing unasked."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import hv
from tests.support.crashing import STEPS
from tests.support.tools import missing, run
from vmpack import hypervisors
from vmpack.errors import OutputError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors.base import DiskFile, Hypervisor, Limits, Machine, Plan, TextFile
from vmpack.hypervisors.report import Report
from vmpack.machine import MachineConfig
from vmpack.ops.transfer import export_bundle

ROOT = Path(__file__).resolve().parents[1]
DISK = '[[disk]]\nid = "root"\n[[disk]]\nid = "data"\n'


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return hv.bundle_of(tmp_path / "in", 'name = "m"\n' + DISK)


def of_kind(container: str, bundle: Path) -> str:
    """A target of the registry that writes loose files, or that archive."""
    config = hv.bundle_config(bundle)
    facts = {one: hv.fact(one) for one in ("root", "data")}
    found = None
    for name in hv.writing():
        plan = hypervisors.get(name).plan
        assert plan is not None
        if found is None and plan(Machine(config, facts, folder="/x")).container == container:
            found = name
    return found or missing(f"a target that writes {container or 'files'}", "register one")


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``stand(disk names, text names)``: the name of a target with those files."""

    def make(disks: dict[str, str], texts: dict[str, bytes], **values: Any) -> str:
        def plan(_: Machine) -> Plan:
            return Plan(
                disks=[DiskFile(one, name, "qcow2") for one, name in disks.items()],
                render=lambda _: [TextFile(name, data) for name, data in texts.items()],
                report=Report("export", "stand"),
                instructions=(),
                **values,
            )

        target = Hypervisor("stand", "Stand", writes="x", plan=plan, limits=Limits())
        monkeypatch.setattr(hypervisors, "get", lambda _: target)
        return "stand"

    return make


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> Callable[[], int]:
    """The ``step``-th call that changes the disk fails; how many there were."""
    count = itertools.count(1)
    seen = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen = next(count)
            if seen == step:
                raise error
            return real(*args, **options)

        return call

    for name in (*STEPS, "mkdir"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    return lambda: seen


@pytest.mark.parametrize("container", ["", "tar", "tar.gz"])
@pytest.mark.parametrize("kind", ["full", "interrupted"])
def test_a_failure_at_any_step_leaves_nothing(
    kind: str, container: str, bundle: Path, tmp_path: Path
) -> None:
    """HV-OUT-2; hostile: 50: a full disk, Ctrl-C."""
    name = of_kind(container, bundle)
    out = tmp_path / "out"
    for step in itertools.count(1):
        error: BaseException = (
            KeyboardInterrupt() if kind == "interrupted" else OSError(errno.ENOSPC, "full")
        )
        raised = KeyboardInterrupt if kind == "interrupted" else OutputError
        with pytest.MonkeyPatch.context() as patch:
            steps = fail_at(patch, step, error)
            with suppress(raised):
                export_bundle(bundle, out, name, workers=1)
            done = steps() < step
        if done:
            break
        # A failing removal of what failed before, or of the folder itself, cannot be helped.
        assert not out.exists() or hv.tree(out) == {}, step
        if out.exists():
            hv.remove_empty(out)
    assert step > 8
    assert hv.tree(out)


def test_killed_at_every_step(tmp_path: Path) -> None:
    """hostile: 50: every file that is there is whole; there are no others."""
    bundle = hv.bundle_of(tmp_path / "in", '[[disk]]\nid = "one"\n')
    folder = tmp_path / "out"
    words = [sys.executable, "-m", "tests.support.crashing_export", bundle, "qemu", folder]
    deaths = json.loads(run(words, cwd=ROOT, timeout_s=120).stdout)
    whole = deaths[-1]
    assert whole["ended"]
    assert len(deaths) > 8
    for death in deaths[:-1]:
        assert death["left"].items() <= whole["left"].items()
    assert deaths[0]["left"] == {}


def test_nothing_is_replaced_unasked(bundle: Path, tmp_path: Path) -> None:
    """hostile: 50. HV-OUT-2: said before a disk is written."""
    out = tmp_path / "out"
    export_bundle(bundle, out, "qemu")
    names = sorted(hv.tree(out))
    for name in names:
        for other in names:
            (out / other).unlink(missing_ok=True)
        (out / name).write_bytes(b"mine")
        with pytest.raises(OutputError, match="exists already") as caught:
            export_bundle(bundle, out, "qemu")
        assert caught.value.hint == "--force replaces it"
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {name: b"mine"}
    export_bundle(bundle, out, "qemu", force=True)
    assert sorted(hv.tree(out)) == names


def test_a_failed_replacement_leaves_the_old_files(bundle: Path, tmp_path: Path) -> None:
    """hostile: 50."""
    out = tmp_path / "out"
    export_bundle(bundle, out, "qemu")
    before = hv.tree(out)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 3, OSError(errno.ENOSPC, "full"))
        with pytest.raises(OutputError):
            export_bundle(bundle, out, "qemu", force=True, workers=1)
    assert hv.tree(out) == before


def test_folders_of_other_people_stay(bundle: Path, tmp_path: Path) -> None:
    """A folder that was there before stays, empty or not, and what is in it."""
    out = tmp_path / "out"
    (out / "empty").mkdir(parents=True)
    (out / "theirs").write_bytes(b"theirs")
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 4, OSError(errno.ENOSPC, "full"))
        with pytest.raises(OutputError):
            export_bundle(bundle, out, "qemu", workers=1)
    assert sorted(path.name for path in out.iterdir()) == ["empty", "theirs"]


@pytest.mark.parametrize(
    ("disks", "texts"),
    [
        ({"root": "a.img"}, {"../a": b""}),
        ({"root": "a.img"}, {"/a": b""}),
        ({"root": "a/../b"}, {}),
        ({"root": "a//b"}, {}),
        ({"root": "./b"}, {}),
        ({"root": "x"}, {"x": b""}),
        ({"root": "x"}, {"X": b""}),
        ({"root": "x", "data": "x"}, {}),
        ({"root": "x"}, {"a\0b": b""}),
        ({"root": ""}, {}),
    ],
)
def test_file_names_stay_in_the_folder(
    disks: dict[str, str],
    texts: dict[str, bytes],
    stand: Callable[..., str],
    bundle: Path,
    tmp_path: Path,
) -> None:
    """HV-OUT-2; hostile: 40: whatever a machine is called."""
    with pytest.raises(UnsupportedError):
        export_bundle(bundle, tmp_path / "out", stand(disks, texts))
    assert not (tmp_path / "out").exists()


def test_files_in_folders_of_their_own(
    stand: Callable[..., str], bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    name = stand({"root": "Data/root.qcow2"}, {"Data/deep/er.txt": b"1", "top": b"2"})
    export_bundle(bundle, out, name)
    assert sorted(hv.tree(out)) == ["Data/deep/er.txt", "Data/root.qcow2", "top"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VmpackError):
        export_bundle(bundle, tmp_path / "file", name)
    with pytest.raises(VmpackError):
        export_bundle(bundle, tmp_path / "file" / "out", name)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "Data").write_bytes(b"a file")
    with pytest.raises(OutputError):
        export_bundle(bundle, blocked, name)
    assert sorted(hv.tree(blocked)) == ["Data"]


def test_texts_of_changing_length_do_not_fit_into_an_archive(
    stand: Callable[..., str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner's mistake is told, and gives no broken archive."""
    name = stand({}, {}, container="tar", container_name="a.tar", order=("text",))
    target = hypervisors.get(name)
    lengths = iter(range(1, 9))
    assert target.plan is not None
    plan = dataclasses.replace(
        target.plan(Machine(MachineConfig(), {})),
        render=lambda _: [TextFile("text", b"x" * next(lengths))],
    )
    changed = dataclasses.replace(target, plan=lambda _: plan)
    monkeypatch.setattr(hypervisors, "get", lambda _: changed)
    with pytest.raises(VmpackError, match="set aside"):
        export_bundle(bundle, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_what_is_only_read_is_no_target(
    stand: Callable[..., str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = stand({}, {})
    target = dataclasses.replace(hypervisors.get(name), plan=None)
    monkeypatch.setattr(hypervisors, "get", lambda _: target)
    with pytest.raises(UsageError, match="read, not written"):
        export_bundle(bundle, tmp_path / "out", "stand")


def test_strict_refuses_before_anything_is_written(
    stand: Callable[..., str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = stand({}, {"x": b""})
    target = hypervisors.get(name)
    assert target.plan is not None
    report = Report("export", "stand")
    report.dropped("nic[0].mtu", "it has no such thing")
    plan = dataclasses.replace(target.plan(Machine(MachineConfig(), {})), report=report)
    changed = dataclasses.replace(target, plan=lambda _: plan)
    monkeypatch.setattr(hypervisors, "get", lambda _: changed)
    with pytest.raises(UnsupportedError, match="--strict") as caught:
        export_bundle(bundle, tmp_path / "out", "stand", strict=True)
    assert caught.value.field == "nic[0].mtu"
    assert not (tmp_path / "out").exists()


def test_the_bundle_stays_as_it_is(bundle: Path, tmp_path: Path) -> None:
    """An export never changes the bundle, nor writes over it."""
    before = bundle.read_bytes()
    for name in hv.writing():
        export_bundle(bundle, tmp_path / name, name, verify=False)
    assert bundle.read_bytes() == before
    target = tmp_path / "own" / "run.sh"
    target.parent.mkdir()
    os.link(bundle, target)
    with pytest.raises(UsageError, match="same file"):
        export_bundle(bundle, target.parent, "qemu", force=True)
    assert bundle.read_bytes() == before
