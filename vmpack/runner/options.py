"""What the runner is told and what it reports: plain data, no behaviour, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = [
    "EXIT_CODES",
    "Accel",
    "Deterministic",
    "Ending",
    "Firmware",
    "Kind",
    "Plan",
    "Qemu",
    "RunOptions",
    "Where",
]

Accel = Literal["kvm", "tcg"]

Kind = Literal[
    "expected",
    "shutdown",
    "interrupted",
    "unexpected",
    "no-boot-device",
    "firmware-shell",
    "firmware-setup",
    "bootloader-prompt",
    "emergency-shell",
    "login-missing",
    "timeout",
    "qemu-missing",
    "qemu-died",
    "firmware-missing",
    "pin-unavailable",
    "zstd-missing",
    "hang",
    "reset-loop",
    "panic",
]

Where = Literal["console", "screen", "firmware-log", "qemu"]
"""What an ending was seen on: the serial console, the screen's text, the firmware's debug console,
or QEMU's own events and counters."""

EXIT_CODES: Mapping[Kind, int] = {
    "expected": 0,
    "shutdown": 0,
    "interrupted": 130,
    "unexpected": 1,
    "no-boot-device": 1,
    "firmware-shell": 1,
    "firmware-setup": 1,
    "bootloader-prompt": 1,
    "emergency-shell": 1,
    "login-missing": 1,
    "timeout": 124,
    "qemu-missing": 125,
    "qemu-died": 125,
    "firmware-missing": 125,
    "pin-unavailable": 125,
    "zstd-missing": 125,
    "hang": 126,
    "reset-loop": 126,
    "panic": 255,
}
"""How a run can end, and the exit code that ``vmpack run`` and ``vmpack verify`` end with."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU of this host."""

    prefix: tuple[str, ...]
    """argv that starts it: a path, or another root's loader before it."""
    version: tuple[int, ...]
    data_dirs: tuple[str, ...] = ()
    """Folders to look for its BIOS and option ROMs in (``-L``), when not its built-in ones."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """What starts the machine: SeaBIOS of the QEMU itself, or a pair of flash images."""

    kind: Literal["bios", "uefi"]
    code_path: str | None = None
    """The code image, a file of the host. With ``code`` absent as well: QEMU's own SeaBIOS."""
    code_format: Literal["raw", "qcow2"] = "raw"
    vars: bytes | None = None
    """The variable store as raw bytes: the host's template, or the bundle's own, refitted."""
    secure_boot: bool = False
    """The code needs SMM, and flash that only SMM writes, as builds with Secure Boot do."""
    code: bytes | None = None
    """The code image itself, where the bundle carries it; ``code_path`` is ``None`` then."""


@dataclass(frozen=True, slots=True)
class Deterministic:
    """A run that QEMU records, or replays, instruction by instruction; one CPU, under TCG."""

    mode: Literal["record", "replay"]
    log: int
    """Descriptor of this process: the log's file, which QEMU opens through it."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What whoever runs a bundle decides; everything else is the bundle's config."""

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    memory: int | None = None
    """Bytes; the config's when ``None``."""
    cpus: int | None = None
    forwards: tuple[tuple[int, int], ...] = ()
    """``(port of this host's 127.0.0.1, port of the guest)``, TCP."""
    display: str | None = None
    """Where the screen is shown, as ``--display`` says it: ``gtk``, ``vnc``, ...; nowhere when
    ``None``. See :mod:`vmpack.runner.display`."""
    timeout_s: float | None = None
    """Wall-clock seconds after which the guest is ended; ``None`` waits as long as it lives."""
    qemu_args: tuple[str, ...] = ()
    """Appended to QEMU's command line as they are; whatever is reported is then unverified."""
    state_dir: Path | None = None
    """Folder that keeps overlays, NVRAM and TPM state; thrown away when ``None``."""
    network: Literal["restricted", "user", "none"] = "restricted"
    """``restricted``: the guest reaches nothing but what ``forwards`` opens to it."""
    interactive: bool = False
    """The console takes input."""
    seed: bytes | None = field(default=None, repr=False)
    """A read-only image that is shown as one more disk; or as the disk ``seed`` where the machine
    has one. Whoever adds it says so: the machine is another one."""
    deterministic: Deterministic | None = None
    """Nothing from outside reaches the guest then but what the log holds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the command line of QEMU is made of: :mod:`vmpack.runner.argv`."""

    config: MachineConfig
    """Pinned."""
    options: RunOptions
    accel: Accel
    qemu: Qemu
    firmware: Firmware
    windows: Mapping[str, tuple[int, int]]
    """Disk id -> offset and size in bytes of its window in the bundle."""
    fdsets: Mapping[str, int]
    """Role -> number of the fdset that QEMU opens as ``/dev/fdset/N``: ``disk:ID`` (the bundle,
    read-only), ``overlay:ID``, ``code``, ``nvram``, ``console``, ``firmware-log``, ``picture``,
    ``typing``, ``seed``."""
    inherited: Mapping[int, int]
    """Number of an fdset -> descriptor of this process that QEMU inherits as its member."""
    sockets: Mapping[str, int] = field(default_factory=dict)
    """``qmp``, ``agent``, ``tpm`` -> descriptor of this process that QEMU inherits."""
    devices: frozenset[int] = frozenset()
    """Numbers of the fdsets that are block devices of the host, not regular files."""
    durable: bool = False
    """The overlays outlive the run: QEMU flushes them when the guest asks for it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. All text in it is escaped: it is safe to print."""

    kind: Kind
    message: str
    reason: str | None = None
    """QEMU's SHUTDOWN reason (``guest-shutdown``, ``guest-reset``, ``guest-panic``, ...)."""
    seconds: float = 0.0
    """From the guest's first instruction."""
    console_tail: tuple[str, ...] = ()
    picture: bytes | None = field(default=None, repr=False)
    """The screen as PNG, where there is a display and QEMU still answered."""
    stderr: str = ""
    """What QEMU printed, shortened."""
    resets: int = 0
    where: Where | None = None
    """What showed it; ``None`` for what this process decided."""

    @property
    def exit_code(self) -> int:
        """The exit code that belongs to ``kind``."""
        return EXIT_CODES[self.kind]

    def as_dict(self) -> dict[str, object]:
        """The JSON object of reports; the picture is only said to be there."""
        return {
            "kind": self.kind,
            "exit-code": self.exit_code,
            "message": self.message,
            "reason": self.reason,
            "where": self.where,
            "milliseconds": round(self.seconds * 1000),
            "resets": self.resets,
            "console-tail": list(self.console_tail),
            "picture": self.picture is not None,
            "stderr": self.stderr,
        }
