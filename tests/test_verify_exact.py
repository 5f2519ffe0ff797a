"""Exact mode: boots that QEMU records and replays, byte for byte, or says why not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from zstandard import ZstdCompressor, ZstdDecompressor

from tests.support import guests
from tests.support.runner import TCG, qemu_of, sector_bundle
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, OperationError, UnsupportedError, UsageError, VmpackError
from vmpack.machine import MachineConfig
from vmpack.ops.derive import derive
from vmpack.ops.pack import pack
from vmpack.runner.options import RunOptions
from vmpack.verify import exact, following
from vmpack.verify.exact import record_exact, replay_exact, require_recordable
from vmpack.verify.replay import BLOB, MAX_LOG, ExactResult, Replay

HOSTS = ("machine", "trixie-backports")
ONE = "[cpu]\ncores = 1\n"
ECHO = '[expected]\nmilestones = ["boot sector: echo"]\n'
DIGEST = "sha256:" + "0" * 64
RECORD = Replay("7.2.22", DIGEST, "tcg", 1000, DIGEST, 26, DIGEST)


def recorded(bundle: Path, host: str = "machine", options: RunOptions = TCG) -> Replay:
    with Bundle.open(bundle) as opened:
        return asyncio.run(record_exact(opened, options, qemu_of(host)))


def replayed(bundle: Path, record: Replay, host: str = "machine") -> ExactResult:
    with Bundle.open(bundle) as opened:
        return asyncio.run(replay_exact(opened, record, TCG, qemu_of(host)))


def repacked(record: Replay, log: bytes | None = None, console: bytes | None = None) -> Replay:
    """The record with other bytes that it describes as truly."""
    whole = ZstdDecompressor().decompress(record.packed or b"")
    log = whole[: record.size] if log is None else log
    console = whole[record.size :] if console is None else console
    return replace(
        record,
        size=len(log),
        sha256="sha256:" + hashlib.sha256(log).hexdigest(),
        console_size=len(console),
        console_sha256="sha256:" + hashlib.sha256(console).hexdigest(),
        packed=ZstdCompressor().compress(log + console),
    )


def test_a_record_names_its_replay() -> None:
    """BHV-EXACT-2."""
    assert Replay.from_dict(RECORD.as_dict()) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "nvram"},
        {"qemu": "latest"},
        {"qemu": None},
        {"accel": "kvm"},
        {"size": -1},
        {"size": MAX_LOG + 1},
        {"size": True},
        {"size": "12"},
        {"console-size": 1 << 40},
        {"sha256": "0" * 64},
        {"console-sha256": "sha256:xyz"},
        {"firmware": "x" * 1000},
    ],
    ids=str,
)
def test_a_hostile_replay_is_damage(change: Mapping[str, object]) -> None:
    """BHV-EXACT-2; hostile: 48."""
    with pytest.raises(DamagedError) as caught:
        Replay.from_dict({**RECORD.as_dict(), **change}, path="x.json")
    assert caught.value.field == f"replay.{next(iter(change))}"
    with pytest.raises(DamagedError, match="is no object"):
        Replay.from_dict([1])


@pytest.mark.parametrize(
    ("toml", "options", "error", "says"),
    [
        ("[cpu]\ncores = 2", TCG, UnsupportedError, "this one has 2"),
        ("[cpu]\nsockets = 2\nthreads = 2", TCG, UnsupportedError, "this one has 4"),
        (ONE, RunOptions(cpus=3), UnsupportedError, "this one has 3"),
        (ONE + "[tpm]", TCG, UnsupportedError, "without a TPM"),
        (ONE, RunOptions(accel="kvm"), UsageError, "KVM cannot"),
    ],
)
def test_what_cannot_be_the_same_twice_is_refused(
    toml: str, options: RunOptions, error: type[VmpackError], says: str
) -> None:
    """BHV-EXACT-1."""
    with pytest.raises(error, match=says):
        require_recordable(MachineConfig.from_toml(toml), options)


class Echo:
    """The echo sector's boot, recorded by one QEMU."""

    def __init__(self, folder: Path, host: str):
        self.host = host
        self.bundle = sector_bundle(folder, "echo", ONE + ECHO)
        self.record = recorded(self.bundle, host)


@pytest.fixture(scope="module", params=HOSTS)
def echo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Echo:
    return Echo(tmp_path_factory.mktemp("echo"), request.param)


@pytest.mark.qemu
def test_a_boot_is_replayed_byte_for_byte(echo: Echo, tmp_path: Path) -> None:
    """BHV-EXACT-3, BHV-EXACT-4: out of the bundle, as a later run would."""
    assert echo.record.console_size > 20
    stored = tmp_path / "recorded.vmpack"
    with Bundle.open(echo.bundle) as opened:
        derive(opened, stored, blobs={BLOB: echo.record.packed})
    record = Replay.from_dict(echo.record.as_dict())
    result = replayed(stored, record, echo.host)
    assert (result.verdict, result.good) == ("same", True), result
    assert len(result.console) == record.console_size
    assert result.as_dict()["console-bytes"] == record.console_size


@pytest.mark.qemu
def test_the_first_byte_that_differs_is_named(echo: Echo) -> None:
    """BHV-EXACT-3."""
    whole = ZstdDecompressor().decompress(echo.record.packed or b"")
    console = whole[echo.record.size :]
    other = repacked(echo.record, console=console.replace(b"echo", b"\x1b[2J"))
    result = replayed(echo.bundle, other, echo.host)
    assert (result.verdict, result.good) == ("differs", False)
    assert (result.offset, result.line) == (console.index(b"echo"), 1)
    assert (result.observed or "").startswith("vmpack boot sector: echo")
    assert "\x1b" not in result.message


@pytest.mark.qemu
def test_another_qemu_says_that_it_does_not_apply(echo: Echo) -> None:
    """BHV-EXACT-3: at once, nothing is started."""
    result = replayed(echo.bundle, replace(echo.record, qemu="5.1.0"), echo.host)
    assert (result.verdict, result.good, result.console) == ("does-not-apply", True, b"")
    assert "5.1.0" in result.message
    result = replayed(echo.bundle, replace(echo.record, firmware=DIGEST), echo.host)
    assert result.verdict == "does-not-apply"


@pytest.mark.qemu
def test_a_replay_that_does_not_move_is_given_up(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BHV-EXACT-5: half a log leads to nowhere, and never to a verdict of sameness."""
    monkeypatch.setattr(following, "STALLED_S", 1.0)
    whole = ZstdDecompressor().decompress(echo.record.packed or b"")
    half = repacked(echo.record, log=whole[: echo.record.size // 2])
    result = replayed(echo.bundle, half, echo.host)
    assert (result.verdict, result.good) == ("stalled", False), result


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"no frame", "no zstd stream"),
        (ZstdCompressor().compress(b"short"), "another length"),
        (ZstdCompressor().compress(bytes(1026)), "another digest"),
        (ZstdCompressor().compress(bytes(64 << 20)), "another length"),
        (None, "not in the bundle"),
    ],
)
def test_a_damaged_log_is_never_replayed(echo: Echo, packed: bytes | None, says: str) -> None:
    """BHV-EXACT-2."""
    host = replace(echo.record, size=1000, console_size=26, packed=packed)
    with pytest.raises(DamagedError, match=says) as caught:
        replayed(echo.bundle, host, echo.host)
    assert caught.value.field == BLOB


@pytest.mark.qemu
def test_a_boot_that_is_not_as_expected_is_no_record(tmp_path: Path) -> None:
    """BHV-EXACT-4."""
    bundle = sector_bundle(tmp_path, "panic", ONE + '[expected]\nmilestones = ["never"]\n')
    with pytest.raises(OperationError, match="did not come as far as expected: the guest panicked"):
        recorded(bundle)


@pytest.mark.qemu
def test_a_console_without_end_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BHV-EXACT-4; hostile: 48."""
    monkeypatch.setattr(exact, "MAX_CONSOLE", 20000)
    bundle = sector_bundle(tmp_path, "endless-output", ONE + '[expected]\nmilestones = ["never"]\n')
    with pytest.raises(UnsupportedError, match="log or console is longer"):
        recorded(bundle)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("host", "sector", "ending"),
    [
        *(("machine", "poweroff", "power-off"), ("trixie-backports", "poweroff", "power-off")),
        *(("machine", "panic", "panic"), ("machine", "reset", "reset")),
    ],
)
def test_a_machine_that_ends_itself(tmp_path: Path, host: str, sector: str, ending: str) -> None:
    """BHV-EXACT-6: of a power-off QEMU may lose the last moment, and of nothing else."""
    config = ONE + f'[expected]\nmilestones = ["sector"]\nending = "{ending}"\n'
    bundle = sector_bundle(tmp_path, sector, config)
    record = recorded(bundle, host)
    line = f"vmpack boot sector: {sector}\r\n".encode()
    assert record.console_size == len(line)
    result = replayed(bundle, record, host)
    assert result.verdict == "same", result
    assert result.console == line or (sector == "poweroff" and line.startswith(result.console))
    assert ("before the power-off" in result.message) == (result.console != line)


@pytest.mark.qemu
@pytest.mark.slow
def test_a_kernel_with_disk_card_and_randomness(tmp_path: Path) -> None:
    """BHV-EXACT-3: whatever a machine of vmpack has beside a boot sector's."""
    text = f'memory = "256M"\n{ONE}[expected]\nmilestones = ["Linux version"]\n'
    bundle = tmp_path / "small.vmpack"
    pack([guests.small("bios")], bundle, config=MachineConfig.from_toml(text))
    record = recorded(bundle)
    assert len(record.packed or b"") < 1 << 20
    result = replayed(bundle, record)
    assert result.verdict == "same", result
    assert b"Linux version" in result.console
