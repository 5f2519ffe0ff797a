"""Kept changes: of one bundle, one run at a time, readable afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vmpack.bundle.reader import Bundle
from vmpack.errors import DamagedError, InputError, OutputError, RefusedError
from vmpack.formats.base import OpenOptions
from vmpack.formats.qcow2.reader import Qcow2Reader
from vmpack.ops.pack import pack
from vmpack.runner.state import Kept, State


@pytest.fixture
def bundle(tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]) -> Path:
    source, _ = random_disk(1 << 20)
    path = tmp_path / "app.vmpack"
    pack([source], path)
    return path


def test_a_folder_keeps_overlays_and_nvram(bundle: Path, tmp_path: Path) -> None:
    """STATE-3: the overlay names no other file."""
    folder = tmp_path / "state"
    with Bundle.open(bundle) as opened:
        with State(folder, opened) as state:
            os.close(state.overlay("root", 1 << 20))
            fd = state.nvram(b"\xff" * 4096)
            os.pwrite(fd, b"boot entry", 100)
            os.close(fd)
        assert folder.stat().st_mode & 0o777 == 0o700  # hostile: 47
        with State(folder, opened, create=False) as state:
            nvram = state.nvram_bytes()
            assert nvram is not None
            assert nvram[100:110] == b"boot entry"
            overlay = state.overlays()["root"]
            reader = Qcow2Reader(overlay, OpenOptions())
            assert reader.virtual_size == 1 << 20
            assert reader.header.backing_name is None
            reader.close()


def test_a_folder_belongs_to_one_bundle(bundle: Path, tmp_path: Path) -> None:
    """STATE-1."""
    other = tmp_path / "other.vmpack"
    with Bundle.open(bundle) as opened:
        pack([f"{bundle}#root"], other, name="other")
        State(tmp_path / "state", opened).close()
    with Bundle.open(other) as opened, pytest.raises(RefusedError, match="another bundle") as error:
        State(tmp_path / "state", opened)
    assert error.value.hint is not None


def test_one_run_at_a_time(bundle: Path, tmp_path: Path) -> None:
    """STATE-2."""
    with Bundle.open(bundle) as opened:
        with State(tmp_path / "state", opened), pytest.raises(RefusedError, match="in use"):
            State(tmp_path / "state", opened)
        State(tmp_path / "state", opened).close()


def test_what_is_no_state_is_refused(bundle: Path, tmp_path: Path) -> None:
    """STATE-5."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    with Bundle.open(bundle) as opened:
        with pytest.raises(OutputError, match="neither empty"):
            State(full, opened)
        assert [one.name for one in full.iterdir()] == ["precious"]
        with pytest.raises(InputError, match="no machine's state"):
            State(tmp_path / "absent", opened, create=False)
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "state.json").write_bytes(b'{"format":')
        with pytest.raises(DamagedError):
            State(tmp_path / "torn", opened)


def test_nvram_that_cannot_be_fitted_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened, State(tmp_path / "state", opened) as state:
        os.close(state.nvram(b"a" * 4096))
        with pytest.raises(RefusedError, match="no UEFI variables in it"):
            state.nvram(b"b" * 8192)
        assert state.nvram_bytes() == b"a" * 4096


def test_changes_without_a_name_can_be_read_later() -> None:
    """STATE-4: what run --save takes."""
    with Kept() as kept:
        fd = kept.overlay("root", 1 << 20)
        os.close(fd)
        os.close(kept.nvram(b"n" * 100))
        (overlay,) = kept.overlays().values()
        reader = Qcow2Reader(overlay, OpenOptions())
        assert reader.virtual_size == 1 << 20
        reader.close()
        assert kept.nvram_bytes() == b"n" * 100


def test_pack_state_makes_a_bundle_of_the_changed_machine(bundle: Path, tmp_path: Path) -> None:
    """STATE-4, through the command."""
    from vmpack.cli.main import run

    folder, new = tmp_path / "state", tmp_path / "new.vmpack"
    with Bundle.open(bundle) as opened, State(folder, opened) as state:
        os.close(state.overlay("root", 1 << 20))
        os.close(state.nvram(b"n" * 4096))
        old = opened.disks[0].content_digest
    assert run(["pack", str(bundle), "--state", str(folder), "-o", str(new), "-q"]) == 0
    with Bundle.open(new) as opened:
        assert opened.disks[0].content_digest == old
        assert opened.blob("nvram") == b"n" * 4096
    words = ["pack", str(bundle), "--state", str(folder), "--name", "x", "-o", str(new)]
    assert run(words) == 2
