"""How a run ended, from what QEMU and the guest showed. Pure: no process, no clock.

The reason of QEMU's SHUTDOWN event is the truth; its exit code is 0 for panics as well.
Source: QEMU's QAPI schema, ShutdownCause and RunState.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vmpack.errors import (
    FirmwareMissingError,
    InfrastructureError,
    PinUnavailableError,
    QemuDiedError,
    ZstdMissingError,
)
from vmpack.machine.names import Ending as Expected
from vmpack.runner.options import Accel, Kind, Where
from vmpack.runner.troubles import USER_SPACE

__all__ = [
    "DEADLINES",
    "Deadlines",
    "Quiet",
    "Resets",
    "Sample",
    "Stall",
    "Verdict",
    "cannot_wake",
    "failed_start",
    "of_exit",
    "of_hang",
    "of_quiet",
    "of_shutdown",
]

LOOP = 3
"""So many resets in a row are a loop."""
LOOP_S = 300.0
"""A machine that ran longer than this between two resets was not looping."""
SAME_S = 1.0
"""Resets closer together are one: Linux pulses the line, and SeaBIOS resets once more."""
IDLE_SHARE = 0.05
"""An idle Linux takes 1 to 3% of a CPU under TCG."""
STOPPED_S = 2.0
"""Seconds without any activity after which the CPUs are asked whether they can go on."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Effective seconds after which a boot is given up; specs/endings.md, END-TIME."""

    prompt_s: float
    """A prompt or shell stands on the console, and nothing else is printed."""
    idle_s: float
    """No output, no block I/O, and hardly any CPU time: a guest that waits."""
    busy_s: float
    """No output and no block I/O, but CPU time: a guest that loops, or that computes."""


DEADLINES: Mapping[Accel, Deadlines] = {
    "kvm": Deadlines(prompt_s=3.0, idle_s=120.0, busy_s=120.0),
    "tcg": Deadlines(prompt_s=3.0, idle_s=120.0, busy_s=300.0),
}
"""What waits, waits as long under each accelerator; what computes takes some ten times as long
under TCG."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended: kind, message, and what showed it."""

    kind: Kind
    message: str
    where: Where | None = None


def of_shutdown(
    reason: str, expected: Expected | None, *, awaited: bool = False, interrupted: bool = False
) -> Verdict:
    """Kind and message for a SHUTDOWN event.

    ``expected`` is the config's ending; ``awaited``: something else was waited for, so that a
    power-off comes too early; ``interrupted``: the user asked for it.
    """
    if reason == "guest-panic":
        kind: Kind = "expected" if expected == "panic" and not awaited else "panic"
        return Verdict(kind, "the guest panicked", "qemu")
    if interrupted:
        return Verdict("interrupted", "the guest was shut down on request")
    if reason == "guest-shutdown":
        return _wanted("the guest powered off", "power-off", expected, awaited, default="shutdown")
    if reason in ("guest-reset", "subsystem-reset"):
        return _wanted("the guest reset the machine", "reset", expected, awaited)
    if reason == "host-ui":
        return Verdict("interrupted", "its window was closed")
    if reason in ("host-signal", "host-qmp-quit"):
        return Verdict("interrupted", f"QEMU was told to end ({reason})")
    return Verdict("unexpected", f"the machine stopped ({reason})", "qemu")


def of_hang(message: str, expected: Expected | None, *, awaited: bool = False) -> Verdict:
    """Kind for a guest that does nothing any more."""
    kind: Kind = "expected" if expected == "hang" and not awaited else "hang"
    return Verdict(kind, message, "qemu")


def of_quiet(
    quiet: Quiet,
    expected: Expected | None,
    seen: Callable[[str], bool],
    *,
    awaited: bool = False,
) -> Verdict:
    """Kind for a guest that prints and reads nothing; ``seen`` asks for generic milestones.

    One that loops is hung, and so is one that waits before its user space has begun. A user space
    that waits is up, and lacks what was expected of it: END-LOGIN.
    """
    up = any(seen(name) for name in USER_SPACE)
    if not awaited or expected == "hang" or quiet.busy or not up:
        return of_hang(quiet.message, expected, awaited=awaited)
    if seen("login"):
        message = f"the system is up and prints nothing more: {quiet.message}"
        return Verdict("unexpected", message, "console")
    return Verdict("login-missing", f"the system offers no login: {quiet.message}", "console")


def _wanted(
    message: str,
    ending: Expected,
    expected: Expected | None,
    awaited: bool,
    default: Kind = "unexpected",
) -> Verdict:
    if awaited:
        return Verdict("unexpected", f"{message} before it came as far as expected", "qemu")
    if expected == ending:
        return Verdict("expected", message, "qemu")
    if expected is None:
        return Verdict(default, message, "qemu")
    return Verdict("unexpected", f"{message}; expected was: {expected}", "qemu")


_WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("zstd-missing", re.compile(r"unknown compression type|compression type .* not supported")),
    (
        "pin-unavailable",
        re.compile(
            r"unsupported machine type|is not a valid device model name|unable to find CPU model"
            r"|Property '?\S+'? not found"
            r"|Invalid SMP CPUs|Invalid CPU topology|[Pp]arameter 'driver' expects"
        ),
    ),
    (
        "firmware-missing",
        re.compile(r"could not load PC BIOS|[Ff]ailed to (?:find|load) (?:rom|firmware)|romfile"),
    ),
)
_HINTS: dict[Kind, str] = {
    "zstd-missing": "install a QEMU that was built with zstd; vmpack doctor says more",
    "pin-unavailable": "this QEMU is too old or too new for the machine; vmpack doctor says more",
    "firmware-missing": "install seabios and ovmf; vmpack doctor says more",
}
_ERRORS: dict[Kind, type[InfrastructureError]] = {
    "zstd-missing": ZstdMissingError,
    "pin-unavailable": PinUnavailableError,
    "firmware-missing": FirmwareMissingError,
}


_PREFIX = re.compile(r"^(?:\S*qemu\S*: )?(?:warning: )?(?:-\w+ (?=\S))?(?:\{.*\}: )?")
_LACKING = re.compile(r"doesn't support requested feature: (\S+)")


def of_exit(returncode: int, stderr: str) -> Verdict:
    """Kind and message for a QEMU that ended by itself; ``stderr`` is safe to print."""
    words = stderr.strip()
    last = words.splitlines()[-1] if words else "it said nothing"
    how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    lacking = _LACKING.findall(words)
    if lacking:
        more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
        return Verdict("pin-unavailable", f"this host's CPU lacks {', '.join(lacking[:4])}{more}")
    for kind, pattern in _WORDS:
        for line in words.splitlines():
            if pattern.search(line):
                return Verdict(kind, _PREFIX.sub("", line))
    return Verdict("qemu-died", f"QEMU ended with {how}: {_PREFIX.sub('', last)}")


_HOST: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"Display '\S+' is not available|gtk initialization failed|Could not initialize SDL"
            r"|egl: render node|capable Spice client|connect to DBus"
        ),
        (
            "a window needs a desktop session, and QEMU's part for it (Debian, Ubuntu: "
            "qemu-system-gui; Fedora: qemu-ui-gtk); --display vnc needs neither"
        ),
    ),
    (
        re.compile(r"host forwarding rule"),
        (
            "that port is in use here, or below 1024, which needs root: --forward 10022:22 takes "
            "another one"
        ),
    ),
    (
        re.compile(r"cannot set up guest memory|Cannot allocate memory"),
        "this host has less memory than the machine: give it less with --memory",
    ),
)
"""What QEMU says when the host cannot give what the run asks for, and what to do about it."""


def failed_start(returncode: int, stderr: str, added: Sequence[str] = ()) -> InfrastructureError:
    """The error for a QEMU that ended before the guest ran; ``added`` are the user's own words."""
    found = of_exit(returncode, stderr)
    kind, message = found.kind, found.message
    hint = _HINTS.get(kind)
    if "host doesn't support requested feature" in stderr:
        hint = "--accel tcg may have what this host's CPU lacks; vmpack doctor BUNDLE says more"
    if kind == "qemu-died":
        known = next((hint for pattern, hint in _HOST if pattern.search(stderr)), None)
        if known is not None:
            return InfrastructureError(message, hint=known)
        hint = f"try it without --qemu-arg {' '.join(added)}" if added else None
    return _ERRORS.get(kind, QemuDiedError)(message, hint=hint)


class Resets:
    """Counts resets; three in a row, with nothing that a person did between, are a loop."""

    def __init__(self) -> None:
        self.total = 0
        self._row = 0
        self._last = float("-inf")

    def add(self, seconds: float) -> bool:
        """Another RESET event at ``seconds`` of the run; whether the machine is looping."""
        since = seconds - self._last
        if since >= SAME_S:
            self.total += 1
            self._row = 1 if since > LOOP_S else self._row + 1
            self._last = seconds
        return self._row >= LOOP

    def forgive(self) -> None:
        """Somebody typed: what follows may be meant."""
        self._row = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a machine has done until ``seconds`` of its run; all fields only grow."""

    seconds: float
    """Effective: time in which the host had no CPU for the machine does not count."""
    cpu_s: float
    output: int
    """Bytes of console and firmware log, and changes of the screen's text."""
    blocks: int
    """Block operations."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A machine that has printed and read nothing for too long."""

    seconds: float
    share: float
    """Of one CPU, in that time."""

    @property
    def busy(self) -> bool:
        """It computes, or loops."""
        return self.share > IDLE_SHARE

    @property
    def message(self) -> str:
        """For people."""
        return (
            f"no output and no block I/O for {self.seconds:.0f} s, "
            f"{self.share * 100:.0f}% of a CPU in that time"
        )


class Stall:
    """Follows a machine's activity and tells when it has stopped."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._quiet_from: Sample | None = None
        self._idle_from: Sample | None = None
        self._last: Sample | None = None

    def add(self, sample: Sample) -> None:
        """The next sample, some tenths of a second after the last one."""
        last = self._last
        self._last = sample
        if last is None or (sample.output, sample.blocks) != (last.output, last.blocks):
            self._quiet_from = self._idle_from = sample
            return
        spent = sample.cpu_s - last.cpu_s
        if spent > IDLE_SHARE * max(sample.seconds - last.seconds, 0.01):
            self._idle_from = sample

    @property
    def stopped(self) -> bool:
        """No output, no block I/O and no CPU time for so long that it may be dead."""
        if self._idle_from is None or self._last is None:
            return False
        return self._last.seconds - self._idle_from.seconds >= STOPPED_S

    @property
    def gave_up(self) -> Quiet | None:
        """For how long there was nothing, once no more is to be expected of a boot."""
        if self._quiet_from is None or self._last is None:
            return None
        seconds = self._last.seconds - self._quiet_from.seconds
        if seconds < min(self._deadlines.idle_s, self._deadlines.busy_s):
            return None
        quiet = Quiet(seconds, (self._last.cpu_s - self._quiet_from.cpu_s) / max(seconds, 0.01))
        limit = self._deadlines.busy_s if quiet.busy else self._deadlines.idle_s
        return quiet if seconds >= limit else None


_FLAGS = re.compile(r"\b[ER]FL=([0-9a-f]+).*\bHLT=([01])")
INTERRUPT_FLAG = 0x200


def cannot_wake(registers: str) -> bool:
    """Whether every CPU of ``info registers -a`` is halted with interrupts off: it stays so.

    One that is not halted is within an interrupt that it handles, as an idle one now and then is.
    """
    cpus = [(int(flags, 16), halted) for flags, halted in _FLAGS.findall(registers)]
    return bool(cpus) and all(
        halted == "1" and not flags & INTERRUPT_FLAG for flags, halted in cpus
    )
