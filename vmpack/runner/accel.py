"""Which accelerator runs a guest: KVM where it works, TCG everywhere else.

That /dev/kvm opens proves little: some hosts offer one on which guests crawl, or stop at their
first exception. So ``auto`` trusts KVM only after a small program (``data/probe.S``) has run under
it; the verdict is kept until the host boots again or QEMU changes.
"""

from __future__ import annotations

import grp
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmpack.binary import escape
from vmpack.errors import InfrastructureError, QemuMissingError
from vmpack.runner import cache
from vmpack.runner.options import Accel, Qemu
from vmpack.runner.parent import die_with_parent
from vmpack.runner.qemu import INSTALL, features, identity

__all__ = [
    "HALT",
    "PROBE_RIGHT",
    "Verdict",
    "choose",
    "kvm_verdict",
    "probe",
    "probe_rom",
    "tcg_verdict",
]

PROBE = Path(__file__).with_name("data") / "probe.bin"
PROBE_LIMIT_S = 3.0
"""Working KVM takes about 0.1 s, QEMU's own start included; TCG 0.1 to 0.9 s."""
ROM_SIZE = 64 << 10
PROBE_RIGHT = 2 * 0x12 + 1
"""QEMU's exit code when the probe came out right."""
_WRONG = {2 * 0x11 + 1: "lost an exception", 2 * 0x10 + 1: "computed a wrong result"}
HALT = b"\xf4"
_DEVICE = Path("/dev/kvm")
_CACHE = "kvm.json"
_INTERNAL_ERROR = b"KVM internal error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an accelerator can be used on this host, and why."""

    accel: Accel
    usable: bool
    reason: str
    hint: str | None = None
    probed: bool = False
    """The probe has run, now or since the host booted."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``vmpack doctor``."""
        return {
            "accelerator": self.accel,
            "usable": self.usable,
            "probed": self.probed,
            "reason": self.reason,
            "hint": self.hint,
        }


def choose(wanted: Literal["auto", "kvm", "tcg"], qemu: Qemu) -> tuple[Accel, str]:
    """The accelerator to run with, and the reason to give for it.

    ``kvm`` is taken at its word as far as it can be opened. Raises :class:`InfrastructureError`
    when it cannot, or when the QEMU has neither.
    """
    if wanted == "tcg":
        if not features(qemu).tcg:
            raise InfrastructureError("this QEMU was built without TCG", hint=INSTALL)
        return "tcg", "asked for"
    if wanted == "kvm":
        closed = _closed(qemu)
        if closed is not None:
            raise InfrastructureError(f"KVM cannot be used: {closed.reason}", hint=closed.hint)
        return "kvm", "asked for"
    verdict = kvm_verdict(qemu)
    if verdict.usable:
        return "kvm", verdict.reason
    if not features(qemu).tcg:
        raise InfrastructureError(
            f"this QEMU was built without TCG, and KVM cannot be used: {verdict.reason}",
            hint=verdict.hint or INSTALL,
        )
    return "tcg", f"KVM cannot be used: {verdict.reason}"


def kvm_verdict(qemu: Qemu, *, fresh: bool = False) -> Verdict:
    """Whether KVM runs guests here. ``fresh`` probes again, whatever is remembered."""
    closed = _closed(qemu)
    if closed is not None:
        return closed
    boot, key = _boot_id(), identity(qemu)
    verdicts = _remembered(boot)
    kept = verdicts.get(key)
    if not fresh and isinstance(kept, list) and len(kept) == 2:
        usable, reason = kept
        if isinstance(usable, bool) and isinstance(reason, str):
            return _verdict(usable, escape(reason))
    usable, reason = probe(qemu, "kvm")
    if boot is not None:
        cache.store(_CACHE, {"boot-id": boot, "verdicts": {**verdicts, key: [usable, reason]}})
    return _verdict(usable, reason)


def tcg_verdict(qemu: Qemu) -> Verdict:
    """Whether TCG runs guests here: wherever QEMU has it. It needs nothing of the host."""
    if features(qemu).tcg:
        return Verdict("tcg", True, "runs guests everywhere, slower than KVM")
    return Verdict("tcg", False, "this QEMU was built without it", INSTALL)


def _verdict(usable: bool, reason: str) -> Verdict:
    hint = None
    if not usable:
        hint = (
            "a virtual machine needs nested virtualization that works for this; guests run under "
            "TCG meanwhile, slower. 'vmpack doctor' probes again"
        )
    return Verdict("kvm", usable, reason, hint, probed=True)


def _closed(qemu: Qemu) -> Verdict | None:
    """Why KVM cannot even be opened; ``None`` when it can."""
    if not features(qemu).kvm:
        return Verdict("kvm", False, "this QEMU was built without it", INSTALL)
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        hint = (
            "switch virtualization on in the firmware's setup (in a virtual machine: nested "
            "virtualization), then load the module: modprobe kvm_intel or kvm_amd"
        )
        return Verdict("kvm", False, f"there is no {_DEVICE}", hint)
    except PermissionError:
        hint = _permission()
        return Verdict("kvm", False, f"{_DEVICE} may not be opened", hint)
    except OSError as exc:
        text = (exc.strerror or str(exc)).lower()
        return Verdict("kvm", False, f"{_DEVICE}: {text}", "load the module: modprobe kvm")
    return None


def _permission() -> str:
    """How a user gets to open the device: by its group, where that may and is not root's."""
    with suppress(OSError, KeyError):
        facts = os.stat(_DEVICE)
        if facts.st_mode & 0o060 != 0o060 or facts.st_gid == 0:
            return f"only root may: sudo chgrp kvm {_DEVICE}, sudo chmod g+rw {_DEVICE}"
        group = grp.getgrgid(facts.st_gid).gr_name
        return f"add yourself to its group, then log in again: sudo usermod -aG {group} $USER"
    return "add yourself to its group, then log in again: sudo usermod -aG kvm $USER"


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _remembered(boot: str | None) -> dict[str, object]:
    document = cache.load(_CACHE)
    verdicts = document.get("verdicts")
    if boot is None or document.get("boot-id") != boot or not isinstance(verdicts, dict):
        return {}
    return verdicts


def probe_rom() -> bytes:
    """The probe as a ROM of 64 KiB: its code first, the rest HLT, a jump to it at the reset."""
    code = PROBE.read_bytes()
    jump = b"\xe9" + ((-0xFFF3) & 0xFFFF).to_bytes(2, "little")
    rom = code + HALT * (0xFFF0 - len(code)) + jump
    return rom + HALT * (ROM_SIZE - len(rom))


def probe(qemu: Qemu, accel: Accel) -> tuple[bool, str]:
    """Run the probe under ``accel``: whether it came out right in time, and what happened."""
    rom = os.memfd_create("vmpack-probe", os.MFD_CLOEXEC)
    try:
        os.write(rom, probe_rom())
        argv = [*qemu.prefix, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-machine", "q35,smm=off,vmport=off", "-accel", accel, "-m", "16"]
        # Without `enforce`: a host that cannot offer some feature of the model is no broken one.
        argv += ["-cpu", "qemu64-v1", "-bios", f"/proc/self/fd/{rom}"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        return _judge(argv, rom)
    finally:
        os.close(rom)


def _judge(argv: list[str], rom: int) -> tuple[bool, str]:
    started = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603  the user's own QEMU, as a list
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[rom],
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  one prctl(2), no lock and no import
        )
    except OSError as exc:
        raise QemuMissingError(
            f"{escape(argv[0])}: {(exc.strerror or str(exc)).lower()}", hint=INSTALL
        ) from exc
    with process:
        try:
            words = _listen(process, started + PROBE_LIMIT_S)
            code = process.poll()
        finally:
            # A script in QEMU's place leaves its child to the group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    took = f"{time.monotonic() - started:.1f} s"
    if code == PROBE_RIGHT:
        return True, f"the probe ran right in {took}"
    if _INTERNAL_ERROR in words:
        return False, f"the probe stopped with an internal error of KVM after {took}"
    if code is None:
        return False, f"the probe did not end within {PROBE_LIMIT_S:g} s"
    if code in _WRONG:
        return False, f"the probe {_WRONG[code]}"
    last = words.decode(errors="replace").strip().rsplit("\n", 1)[-1]
    return False, f"QEMU ended with {code}: {escape(last) or 'without a word'}"


def _listen(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What QEMU says until it ends, until it tells of KVM's failure, or until the deadline."""
    assert process.stderr is not None
    words = b""
    while _INTERNAL_ERROR not in words:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([process.stderr], [], [], max(left, 0))
        data = os.read(process.stderr.fileno(), 4096) if ready else b""
        if not data:
            break
        words = (words + data)[-65536:]
    else:
        return words
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(deadline - time.monotonic(), 0))
    return words
