"""Endings as tables: what QEMU says, and what that means for whoever runs a machine."""

from __future__ import annotations

import pytest

from vmpack.errors import FirmwareMissingError, PinUnavailableError, QemuDiedError, ZstdMissingError
from vmpack.machine.names import Ending as Expected
from vmpack.runner import endings
from vmpack.runner.endings import DEADLINES, Quiet, Resets, Sample, Stall, Verdict
from vmpack.runner.options import EXIT_CODES, Accel, Ending, Kind
from vmpack.runner.process import ChildProcess
from vmpack.runner.watch import Clock

SHUTDOWNS: tuple[tuple[str, Expected | None, bool, bool, Kind], ...] = (
    # reason, expected ending, something awaited, interrupted -> kind
    ("guest-shutdown", None, False, False, "shutdown"),
    ("guest-shutdown", "power-off", False, False, "expected"),
    ("guest-shutdown", "running", False, False, "unexpected"),
    ("guest-shutdown", "panic", False, False, "unexpected"),
    ("guest-shutdown", "power-off", True, False, "unexpected"),
    ("guest-shutdown", None, True, False, "unexpected"),
    ("guest-shutdown", None, False, True, "interrupted"),
    ("guest-shutdown", "power-off", True, True, "interrupted"),
    ("guest-reset", None, False, False, "unexpected"),
    ("guest-reset", "reset", False, False, "expected"),
    ("guest-reset", "reset", True, False, "unexpected"),
    ("guest-panic", None, False, False, "panic"),
    ("guest-panic", "panic", False, False, "expected"),
    ("guest-panic", "panic", True, False, "panic"),
    ("guest-panic", None, False, True, "panic"),
    ("host-signal", None, False, False, "interrupted"),
    ("host-qmp-quit", "power-off", False, False, "interrupted"),
    ("host-error", None, False, False, "unexpected"),
)


@pytest.mark.parametrize(("reason", "expected", "awaited", "interrupted", "kind"), SHUTDOWNS)
def test_shutdown(
    reason: str, expected: Expected | None, awaited: bool, interrupted: bool, kind: Kind
) -> None:
    found = endings.of_shutdown(reason, expected, awaited=awaited, interrupted=interrupted)
    assert found.kind == kind
    assert found.message


def test_exit_codes_are_the_contract() -> None:
    wanted = {0: 2, 1: 7, 124: 1, 125: 5, 126: 2, 130: 1, 255: 1}
    codes = list(EXIT_CODES.values())
    assert {code: codes.count(code) for code in set(codes)} == wanted
    assert Ending("panic", "m").as_dict()["exit-code"] == 255


QEMU = "qemu-system-x86_64: "
STARTS = (
    ("unsupported machine type", PinUnavailableError),
    ("'igb' is not a valid device model name", PinUnavailableError),
    ("unable to find CPU model 'Foo-v9'", PinUnavailableError),
    ("Property 'virtio-x.y' not found", PinUnavailableError),
    ("qcow2: unknown compression type: 1", ZstdMissingError),
    ("could not load PC BIOS 'bios-256k.bin'", FirmwareMissingError),
    ('failed to find romfile "efi-virtio.rom"', FirmwareMissingError),
    ("something new", QemuDiedError),
)


@pytest.mark.parametrize(("words", "error"), STARTS)
def test_a_failed_start_is_told_by_what_qemu_says(words: str, error: type[Exception]) -> None:
    found = endings.failed_start(1, f"{QEMU}warning: deprecated\n{QEMU}{words}\nUse -help\n")
    assert type(found) is error
    assert found.exit_code == 125
    assert error is QemuDiedError or words in found.message


def test_features_that_the_cpu_lacks_are_listed() -> None:
    words = "".join(
        f"{QEMU}warning: TCG doesn't support requested feature: CPUID.01H:ECX.{name} [bit 5]\n"
        for name in ("vmx", "x", "y", "z", "a", "b")
    )
    error = endings.failed_start(1, words + f"{QEMU}TCG doesn't support requested features\n")
    assert isinstance(error, PinUnavailableError)
    assert error.message.startswith("this host's CPU lacks CPUID.01H:ECX.vmx, ")
    assert error.message.endswith(" and 2 more")


def test_what_the_host_cannot_give_is_told_with_what_to_do() -> None:
    rule = "tcp:127.0.0.1:22-:22"
    for words, says, hint in (
        (
            f'-netdev {{"type": "user", "x": ": "}}: Could not set up host forwarding rule {rule}',
            f"exit code 1: Could not set up host forwarding rule {rule}",
            "--forward",
        ),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "pc.ram", "--memory"),
        ("-nonsense: invalid option", "exit code 1: -nonsense: invalid option", "--qemu-arg -x"),
    ):
        error = endings.failed_start(1, QEMU + words, ("-x",))
        assert error.exit_code == 125
        assert error.message.endswith(says) or says == "pc.ram"
        assert hint in (error.hint or "")
    words = f"{QEMU}warning: host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]"
    assert "--accel tcg" in (endings.failed_start(1, words).hint or "")
    assert "--accel tcg" not in (endings.failed_start(1, words.replace("host", "TCG")).hint or "")


def test_a_silent_end_names_the_signal() -> None:
    silent = endings.of_exit(-11, "")
    assert silent == Verdict("qemu-died", "QEMU ended with signal 11: it said nothing")
    last = endings.of_exit(1, "a\nb\n")
    assert last == Verdict("qemu-died", "QEMU ended with exit code 1: b")


def test_three_resets_in_a_row_are_a_loop_unless_somebody_typed_or_time_passed() -> None:
    resets = Resets()
    assert [resets.add(at) for at in (1, 2, 3)] == [False, False, True]
    resets = Resets()
    assert [resets.add(at) for at in (1, 2)] == [False, False]
    resets.forgive()
    assert [resets.add(at) for at in (3, 4, 5)] == [False, False, True]
    resets = Resets()
    assert [resets.add(at) for at in (100, 500, 1000, 1400)] == [False] * 4
    assert resets.total == 4


def test_one_reboot_that_gives_several_events_is_one() -> None:
    resets = Resets()
    assert not any(resets.add(at) for at in (9.0, 9.1, 9.2, 9.9))
    assert resets.total == 1
    assert not any(resets.add(at) for at in (10.0, 10.1, 10.9))
    assert resets.add(11.0)


def follow(stall: Stall, seconds: range, **rates: float) -> None:
    for second in seconds:
        stall.add(
            Sample(
                seconds=second,
                cpu_s=second * rates.get("cpu", 0),
                output=int(second * rates.get("output", 0)),
                blocks=int(second * rates.get("blocks", 0)),
            )
        )


TCG = DEADLINES["tcg"]
LONG = int(TCG.busy_s) + 2


@pytest.mark.parametrize("rates", [{"cpu": 1.0, "output": 1}, {"output": 1}, {"blocks": 1}])
def test_a_machine_that_does_something_is_not_stopped(rates: dict[str, float]) -> None:
    stall = Stall(TCG)
    follow(stall, range(LONG), **rates)
    assert not stall.stopped
    assert stall.gave_up is None


def test_a_machine_that_does_nothing_is_asked_soon_and_given_up_late() -> None:
    stall = Stall(TCG)
    follow(stall, range(3), cpu=0.01)
    assert stall.stopped
    assert stall.gave_up is None
    follow(stall, range(3, int(TCG.idle_s) + 2), cpu=0.01)
    assert stall.gave_up is not None
    assert not stall.gave_up.busy
    assert "1% of a CPU" in stall.gave_up.message


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_a_busy_machine_without_output_is_given_up_as_its_accelerator_is_fast(
    accel: Accel,
) -> None:
    """END-TIME."""
    limit = int(DEADLINES[accel].busy_s)
    stall = Stall(DEADLINES[accel])
    follow(stall, range(limit), cpu=1.0)
    assert not stall.stopped
    assert stall.gave_up is None
    follow(stall, range(limit, limit + 2), cpu=1.0)
    assert stall.gave_up is not None
    assert stall.gave_up.busy
    assert "100% of a CPU" in stall.gave_up.message
    assert DEADLINES["tcg"].busy_s > DEADLINES["kvm"].busy_s


IDLE, BUSY = Quiet(120.0, 0.01), Quiet(300.0, 0.99)
QUIETS: tuple[tuple[Quiet, Expected | None, bool, tuple[str, ...], Kind], ...] = (
    # quiet, expected ending, something awaited, generic milestones seen -> kind
    (IDLE, None, True, (), "hang"),
    (IDLE, None, True, ("kernel",), "hang"),
    (IDLE, None, True, ("kernel", "init"), "login-missing"),
    (IDLE, None, True, ("systemd",), "login-missing"),
    (IDLE, None, True, ("busybox", "login"), "unexpected"),
    (BUSY, None, True, ("kernel", "init"), "hang"),
    (IDLE, "hang", True, ("init",), "hang"),
    (IDLE, "hang", False, ("init",), "expected"),
    (BUSY, "hang", False, (), "expected"),
)


@pytest.mark.parametrize(("quiet", "expected", "awaited", "seen", "kind"), QUIETS)
def test_a_quiet_machine(
    quiet: Quiet, expected: Expected | None, awaited: bool, seen: tuple[str, ...], kind: Kind
) -> None:
    """END-HANG, END-LOGIN."""
    found = endings.of_quiet(quiet, expected, seen.__contains__, awaited=awaited)
    assert found.kind == kind
    assert quiet.message in found.message


REGISTERS = {
    "CPU#0\nEAX=0\nEIP=00007c2b EFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1": True,
    "RIP=ffffffff810 RFL=00000246 [---Z-P-] HLT=1": False,
    "RFL=00000046 HLT=1\nRFL=00000202 HLT=1": False,
    "EFL=00000046 HLT=1\nRFL=00000002 HLT=1": True,
    "RFL=00000046 HLT=1\nRFL=00000046 HLT=0": False,
    "nothing": False,
}


@pytest.mark.parametrize("text", REGISTERS)
def test_only_cpus_without_interrupts_cannot_wake(text: str) -> None:
    assert endings.cannot_wake(text) is REGISTERS[text]


def test_time_without_a_cpu_does_not_count_but_some_always_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall, starved = 100.0, 0.0
    monkeypatch.setattr("vmpack.runner.watch.time.monotonic", lambda: wall)

    class Starved(ChildProcess):
        def __init__(self) -> None:
            """No process: only its clock."""

        def starved_seconds(self) -> float:
            return starved

    clock = Clock(Starved())
    wall += 10
    assert clock.read() == pytest.approx(10)
    wall, starved = wall + 10, starved + 6
    assert clock.read() == pytest.approx(14)
    wall, starved = wall + 10, starved + 30
    assert clock.read() == pytest.approx(16.5)
    wall, starved = wall + 1, starved - 20
    assert clock.read() == pytest.approx(17.5)
