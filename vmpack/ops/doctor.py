"""What this host can run machines with, and whether it has what a bundle pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vmpack.errors import InfrastructureError
from vmpack.ops.opening import Path
from vmpack.progress import SILENT, Progress

if TYPE_CHECKING:
    from vmpack.ops.doctor_bundle import Common
    from vmpack.runner.accel import Verdict
    from vmpack.runner.firmware import Descriptor
    from vmpack.runner.left_open import LeftOpen
    from vmpack.runner.options import Accel, Qemu
    from vmpack.runner.preflight import Pin

Status = Literal["ok", "warning", "missing"]
ANSWER_S = 20


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of this host."""

    path: str
    version: str

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {"path": self.path, "version": self.version}


@dataclass(frozen=True, slots=True)
class QemuTool(Tool):
    """A QEMU: whether it can run bundles, and which one does."""

    package: str
    zstd: bool
    machines: int
    used: bool

    def as_dict(self) -> dict[str, object]:
        return {
            "path": self.path,
            "version": self.version,
            "package": self.package,
            "zstd": self.zstd,
            "machine-types": self.machines,
            "used": self.used,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of advice: what is well, what is missing and what to do about it."""

    subject: str
    status: Status
    message: str
    hint: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "subject": self.subject,
            "status": self.status,
            "message": self.message,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class DoctorResult:
    """What was found. Without a bundle, ``pins`` is ``None``."""

    qemus: Sequence[QemuTool]
    accelerators: Sequence[Verdict]
    firmware: Sequence[Descriptor]
    seabios: str | None
    swtpm: Tool | None
    libvirt: Tool | None
    diagnoses: Sequence[Diagnosis]
    bundle: str | None = None
    pins: Sequence[Pin] | None = None
    left_open: Sequence[LeftOpen] = ()
    common: Common | None = None

    @property
    def ready(self) -> bool:
        """Bundles run here; with a bundle: this one does, as it is pinned."""
        able = any(one.used and one.zstd for one in self.qemus)
        able = able and any(one.usable for one in self.accelerators)
        return able and all(one.status != "unavailable" for one in self.pins or ())

    @property
    def exit_code(self) -> int:
        """0 when ready, 125 when something that is needed is missing."""
        return 0 if self.ready else InfrastructureError.exit_code

    def as_dict(self) -> dict[str, object]:
        """The JSON document."""
        firmware = [one.as_dict() for one in self.firmware]
        if self.seabios is not None:
            firmware.insert(0, {"kind": "bios", "code": self.seabios})
        document: dict[str, object] = {
            "ready": self.ready,
            "qemu": [one.as_dict() for one in self.qemus],
            "accelerators": [one.as_dict() for one in self.accelerators],
            "firmware": firmware,
            "swtpm": None if self.swtpm is None else self.swtpm.as_dict(),
            "libvirt": None if self.libvirt is None else self.libvirt.as_dict(),
            "diagnoses": [one.as_dict() for one in self.diagnoses],
        }
        if self.pins is not None:
            document["bundle"] = self.bundle
            document["pins"] = [one.as_dict() for one in self.pins]
            document["left-open"] = [one.as_dict() for one in self.left_open]
            document["common"] = None if self.common is None else self.common.as_dict()
        return document


def doctor(
    bundle: Path | None = None,
    *,
    accel: Literal["auto", "kvm", "tcg"] = "auto",
    qemu_prefix: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> DoctorResult:
    """Look at this host; with ``bundle``, at each of its pins as well. KVM is probed anew.

    What is missing is no error but a diagnosis. Raises what opening the bundle raises.
    """
    from vmpack.runner.accel import kvm_verdict, tcg_verdict
    from vmpack.runner.firmware import descriptors, seabios
    from vmpack.runner.qemu import find_qemu

    progress.stage("looking", None)
    diagnoses: list[Diagnosis] = []
    qemu: Qemu | None = None
    try:
        qemu = find_qemu(qemu_prefix)
    except InfrastructureError as exc:
        diagnoses.append(Diagnosis("qemu", "missing", exc.message, exc.hint))
    accelerators = [] if qemu is None else [kvm_verdict(qemu, fresh=True), tcg_verdict(qemu)]
    found = [] if qemu is None else descriptors(qemu)
    bios = None if qemu is None else seabios(qemu)
    swtpm = _tool("swtpm", ("--version",))
    libvirt = _tool("virsh", ("--version",))
    all_qemus = list(_qemus(qemu))
    qemus = [_qemu_tool(one, used=one is qemu) for one in all_qemus]
    diagnoses += _advice(qemus, accelerators, found, bios, swtpm, libvirt)
    about = None
    if bundle is not None:
        from vmpack.ops.doctor_bundle import diagnose

        usable = [one.accel for one in accelerators if one.usable]
        chosen: Accel | None = accel if accel != "auto" else next(iter(usable), None)
        able = [one for one, tool in zip(all_qemus, qemus, strict=True) if tool.zstd]
        about = diagnose(bundle, able if qemu in able else all_qemus[:1], chosen)
    return DoctorResult(
        qemus=qemus,
        accelerators=accelerators,
        firmware=found,
        seabios=bios,
        swtpm=swtpm,
        libvirt=libvirt,
        diagnoses=diagnoses,
        bundle=None if bundle is None else os.fspath(bundle),
        pins=None if about is None else about.pins,
        left_open=() if about is None else about.left_open,
        common=None if about is None else about.common,
    )


def _qemus(used: Qemu | None) -> Iterator[Qemu]:
    """The one that runs bundles first, then every other one that is installed."""
    from vmpack.runner.qemu import OTHER_PLACES, PROGRAM, features, find_qemu

    if used is None:
        return
    seen = {os.path.realpath(used.prefix[-1])}
    yield used
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for path in [*(os.path.join(folder, PROGRAM) for folder in folders if folder), *OTHER_PLACES]:
        real = os.path.realpath(path)
        if real in seen or not os.access(real, os.X_OK) or not os.path.isfile(real):
            continue
        seen.add(real)
        try:
            other = find_qemu([path])
            features(other)
        except InfrastructureError:
            continue
        yield other


def _qemu_tool(qemu: Qemu, *, used: bool) -> QemuTool:
    from vmpack.runner.qemu import features

    has = features(qemu)
    return QemuTool(
        path=qemu.prefix[-1],
        version=".".join(map(str, has.version)),
        package=has.package,
        zstd=has.zstd,
        machines=len(has.machines),
        used=used,
    )


def _tool(name: str, words: Sequence[str]) -> Tool | None:
    """A program and its version, out of the first line that it says."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  a fixed name out of PATH, as a list
            [path, *words], capture_output=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).decode(errors="replace").splitlines()
    match = re.search(r"\d+(\.\d+)+", lines[0] if lines else "")
    return Tool(path, match[0] if match else "unknown")


def _advice(
    qemus: Sequence[QemuTool],
    accelerators: Sequence[Verdict],
    firmware: Sequence[Descriptor],
    bios: str | None,
    swtpm: Tool | None,
    libvirt: Tool | None,
) -> Iterator[Diagnosis]:
    from vmpack.runner import firmware as fw
    from vmpack.runner import tpm
    from vmpack.runner.qemu import INSTALL

    for one in qemus[:1]:
        if one.zstd:
            yield Diagnosis("qemu", "ok", f"QEMU {one.version} runs bundles")
        else:
            message = f"QEMU {one.version} was built without zstd, which bundles need"
            yield Diagnosis("qemu", "missing", message, INSTALL)
    for verdict in accelerators:
        # Without KVM guests still run; without both they do not.
        bad: Status = "warning" if any(one.usable for one in accelerators) else "missing"
        status: Status = "ok" if verdict.usable else bad
        yield Diagnosis(verdict.accel, status, verdict.reason, verdict.hint)
    if qemus:
        yield _seabios(bios)
        yield from _uefi(firmware, fw.INSTALL)
    if swtpm is None:
        yield Diagnosis("swtpm", "warning", "machines with a TPM do not run", tpm.INSTALL)
    else:
        yield Diagnosis("swtpm", "ok", f"swtpm {swtpm.version}")
    if libvirt is None:
        hint = "install it if you want it (Debian, Ubuntu: libvirt-clients libvirt-daemon-system)"
        yield Diagnosis("libvirt", "warning", "not installed; vmpack itself does not need it", hint)
    else:
        yield Diagnosis("libvirt", "ok", f"virsh {libvirt.version}")


def _seabios(bios: str | None) -> Diagnosis:
    if bios is None:
        hint = "install it, if machines without UEFI do not start (Debian, Ubuntu: seabios)"
        return Diagnosis("bios", "warning", "SeaBIOS is not where it is expected", hint)
    return Diagnosis("bios", "ok", bios)


def _uefi(firmware: Sequence[Descriptor], install: str) -> Iterator[Diagnosis]:
    if not firmware:
        yield Diagnosis("uefi", "warning", "no firmware: machines with UEFI do not run", install)
        return
    yield Diagnosis("uefi", "ok", f"{len(firmware)} to choose from")
    enrolled = [one for one in firmware if one.secure_boot and one.enrolled_keys]
    if enrolled:
        yield Diagnosis("secure-boot", "ok", enrolled[0].description or enrolled[0].code_path)
    else:
        message = "no firmware with keys: only machines that bring theirs have Secure Boot"
        yield Diagnosis("secure-boot", "warning", message, install)
