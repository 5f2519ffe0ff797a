"""A pack that is killed at any step, or whose machine loses power, leaves the old or the new."""

from __future__ import annotations

import json
import os
import random
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import crashing
from tests.support.bundles import prove_bundle
from tests.support.disks import disk_bytes
from tests.support.tools import run
from vmpack.ops.pack import pack

ROOT = Path(__file__).resolve().parents[1]
SECTOR = 512


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """An old disk and a new one, small enough that each step is one write."""
    for name, seed in (("old", 1), ("new", 2)):
        (tmp_path / f"{name}.raw").write_bytes(disk_bytes(60_000, seed=seed))
    return tmp_path / "old.raw", tmp_path / "new.raw"


def _deaths(variant: str, sources: tuple[Path, Path], target: str) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "tests.support.crashing", variant, *sources, target]
    deaths: list[dict[str, Any]] = json.loads(run(words, cwd=ROOT, timeout_s=120).stdout)
    assert len(deaths) > 20, "pack has more steps than that"
    assert [death["ended"] for death in deaths].count(True) == 2
    return deaths


@pytest.mark.parametrize("variant", [one for one in crashing.VARIANTS if one != "device"])
def test_killed_at_every_step(variant: str, sources: tuple[Path, Path], tmp_path: Path) -> None:
    """VMP-WRITE-1; hostile: 50: the old bundle or the new; the next run leaves no other file."""
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "x.vmpack"
    deaths = _deaths(variant, sources, str(target))
    for death in deaths:
        assert death["after"] in (death["before"], death["next"]), death
        assert death["left"] == ["x.vmpack"], death
    # Somewhere on the way it turned from the old into the new.
    assert {deaths[0]["after"], deaths[-1]["after"]} == {deaths[0]["before"], deaths[0]["next"]}
    prove_bundle(target, {"root": _even(sources[1])})


def _even(raw: Path) -> Path:
    """The disk as a view has it: rounded up to a sector, which QEMU cuts from a raw file."""
    data = raw.read_bytes()
    whole = raw.with_suffix(".even.raw")
    whole.write_bytes(data + bytes(-len(data) % SECTOR))
    return whole


def test_killed_at_every_step_on_a_device(
    sources: tuple[Path, Path], tmp_path: Path, loop_device: Callable[[Path], str]
) -> None:
    """VMP-WRITE-2; hostile: 50: no bundle, or a sound one."""
    image = tmp_path / "device.img"
    image.write_bytes(b"\x55" * (256 << 10))
    deaths = _deaths("device", sources, loop_device(image))
    for death in deaths:
        assert death["after"] in ("refused", death["before"], death["next"]), death
    assert "refused" in {death["after"] for death in deaths}


def _record(call: Callable[[], object], patch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """``(name, first argument or data, offset or kind)`` of each change that ``call`` makes."""
    log: list[tuple[str, Any, Any]] = []
    real = {name: getattr(os, name) for name in crashing.STEPS}

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        log.append(("pwrite", bytes(data), offset))
        done: int = real["pwrite"](fd, data, offset)
        assert done == len(data)
        return done

    def fsync(fd: int) -> None:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        log.append(("fsync", "folder" if folder else "file", None))
        real["fsync"](fd)

    with patch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        patched.setattr(os, "fsync", fsync)
        for name in ("link", "rename", "ftruncate"):

            def other(*args: Any, name: str = name, **options: Any) -> None:
                log.append((name, None, None))
                real[name](*args, **options)

            patched.setattr(os, name, other)
        call()
    return log


def test_a_name_is_given_only_to_what_is_on_the_disk(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMP-WRITE-1: everything, sync, name, sync of the folder."""
    target = tmp_path / "x.vmpack"
    for force, names in ((False, ["link"]), (True, ["link", "rename"])):
        log = _record(lambda: pack([sources[1]], target, force=force, workers=1), monkeypatch)  # noqa: B023
        steps = [name if name != "fsync" else f"fsync {what}" for name, what, _ in log]
        last = len(steps) - 1 - steps[::-1].index("pwrite")
        assert steps[last + 1 :] == ["fsync file", *names, "fsync folder"]


def test_power_lost_while_a_device_is_written(
    sources: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loop_device: Callable[[Path], str],
) -> None:
    """VMP-WRITE-2: of what was not synced, any sectors may be there and any may be lost."""
    size = 256 << 10
    image = tmp_path / "device.img"
    image.write_bytes(bytes(size))
    device = loop_device(image)
    pack([sources[0]], device, force=True, workers=1)
    old = Path(device).read_bytes()
    before = crashing.state(Path(device))
    log = _record(lambda: pack([sources[1]], device, force=True, workers=1), monkeypatch)
    wanted, final = crashing.state(Path(device)), Path(device).read_bytes()
    assert [name for name, _, _ in log].count("fsync") == 3
    rng = random.Random(5)
    disk = bytearray(old)
    waiting: list[tuple[int, bytes]] = []
    seen = set()
    for name, data, offset in log:
        if name == "pwrite":
            sectors = range(0, len(data), SECTOR)
            waiting += [(offset + at, data[at : at + SECTOR]) for at in sectors]
            continue
        for _ in range(12):
            lost = bytearray(disk)
            share = rng.choice((0.03, 0.5, 0.97))
            for at, piece in waiting:
                if rng.random() < share:
                    lost[at : at + len(piece)] = piece
            with open(device, "r+b") as file:
                file.write(lost)
            seen.add(found := crashing.state(Path(device)))
            assert found in ("refused", before, wanted)
        for at, piece in waiting:
            disk[at : at + len(piece)] = piece
        waiting = []
    assert "refused" in seen
    assert bytes(disk) == final, "a write that was not seen"
