"""The built guests: copies to boot and change, the endings they are told to take, firmware."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from fixtures.build.debian import debian_guest
from fixtures.build.packages import BuildError
from fixtures.build.secure import secure_guest
from fixtures.build.small import small_guest
from tests.support.tools import missing, require_tool, run

BOOT_PARTITION = 1 << 20
OVMF = Path("/usr/share/OVMF")


def built(build: Callable[[], Path]) -> Path:
    """The cached guest, built when needed; where it cannot be, the test is skipped or fails."""
    try:
        return build()
    except BuildError as exc:
        missing("a test guest", f"{exc}\nrun `make guests`")


def small(firmware: str) -> Path:
    """The small guest's disk in the cache, for ``bios`` or ``uefi``. Copy it before a boot."""
    return built(lambda: small_guest(firmware))


def secure() -> Path:
    """The small guest whose boot is signed from shim to kernel. Copy it before a boot."""
    return built(secure_guest)


def copy_of(disk: Path, folder: Path, name: str | None = None) -> Path:
    """A sparse copy that a test may boot and change."""
    target = folder / (name or disk.name)
    run(["cp", "--sparse=always", "--reflink=auto", disk, target], timeout_s=120)
    return target


def set_ending(disk: Path, ending: str) -> None:
    """Tell a small guest's disk how to end: ``poweroff``, ``reboot``, ``panic`` or ``hang``.

    An empty ``ending`` lets it boot to its login.
    """
    text = f"set ending=vmpack.end={ending}\n" if ending else "set ending=\n"
    place = f"{disk}@@{BOOT_PARTITION}"
    subprocess.run(
        ["mcopy", "-D", "o", "-i", place, "-", "::/ending.cfg"], input=text.encode(), check=True
    )


def uefi_arguments(folder: Path) -> list[str]:
    """QEMU arguments for OVMF, with a variable store of its own in ``folder``."""
    code, template = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
    if not code.exists():
        missing("OVMF", "run `make setup`")
    variables = folder / "nvram.fd"
    shutil.copy(template, variables)
    return [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
    ]


def debian() -> Path:
    """The full Debian guest's disk in the cache. Boot an overlay of it, never the disk itself."""
    return built(debian_guest)


def overlay_of(disk: Path, folder: Path) -> Path:
    """A qcow2 overlay that takes a boot's writes, so that ``disk`` stays as it is."""
    target = folder / "overlay.qcow2"
    words = [require_tool("qemu-img"), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk]
    run([*words, target])
    return target
