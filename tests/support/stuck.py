"""Guests that do not come as far as they should, or are up to no good; how to run several."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from fixtures.build import overlays
from fixtures.build.partitions import grub_image, install_bios_grub
from tests.support.guests import BOOT_PARTITION, built, copy_of, small
from tests.support.runner import TCG, qemu_of
from tests.support.tools import missing
from vmpack.bundle import Bundle
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.runner.options import RunOptions
from vmpack.runner.session import Session

CONFIG = """\
serial --unit=0 --speed=115200
terminal_output console serial
set gfxpayload=text
linux ($root)/vmlinuz console=tty0 console=ttyS0,115200 {options}
initrd {archives}
boot
"""
RESCUE = Path("/usr/lib/grub-rescue/grub-rescue-floppy.img")
MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")
PACKAGES = {RESCUE: "grub-rescue-pc", MEMTEST: "memtest86+"}
Result = TypeVar("Result")


def variant(
    folder: Path,
    name: str,
    *,
    system: Callable[[], Path] | None = None,
    files: Mapping[str, bytes] | None = None,
    options: str = "",
) -> Path:
    """A copy of the small BIOS guest with another ``system`` in place of its own, more ``files``
    in it, and more on its kernel's command line."""
    disk = copy_of(small("bios"), folder, f"{name}.raw")
    names = ["initrd"]
    if system is not None:
        names = ["system"]
        _put(disk, "system", built(system).read_bytes())
    if files:
        names.append("more")
        _put(disk, "more", overlays.more(files))
    shown = " ".join(f"($root)/{one}" for one in names)
    _put(disk, "grub.cfg", CONFIG.format(options=options, archives=shown).encode())
    return disk


def _put(disk: Path, name: str, content: bytes) -> None:
    place = f"{disk}@@{BOOT_PARTITION}"
    words = ["mcopy", "-D", "o", "-i", place, "-", f"::/{name}"]
    subprocess.run(words, input=content, check=True)


def without_modules(folder: Path) -> Path:
    """A disk whose GRUB finds nothing of what it needs: ``grub rescue>``."""
    disk = folder / "no-modules.raw"
    disk.write_bytes(bytes(2 << 20))
    core = grub_image("i386-pc", folder / "core.img", "", ["biosdisk", "part_msdos"])
    install_bios_grub(disk, core)
    with disk.open("r+b") as out:
        out.seek(510)
        out.write(b"\x55\xaa")
    return disk


def of_package(image: Path, folder: Path) -> Path:
    """A copy of an image that a Debian package brought."""
    if not image.exists():
        missing(PACKAGES[image], "run `make setup`")
    return copy_of(image, folder, f"{image.stem}.raw")


def bundle_of(disk: Path, config: str = 'memory = "128M"\n') -> Path:
    """The disk's bundle, beside it."""
    path = disk.with_suffix(".vmpack")
    pack([disk], path, config=MachineConfig.from_toml(config), force=True)
    return path


def side_by_side(
    runs: Sequence[tuple[Path, Callable[[Session], Awaitable[Result]]]],
    options: RunOptions = TCG,
) -> list[Result]:
    """What each work returns, on machines that wait together."""

    async def one(bundle: Path, work: Callable[[Session], Awaitable[Result]]) -> Result:
        with Bundle.open(bundle) as opened:
            async with Session.start(opened, options, qemu=qemu_of("machine")) as session:
                return await work(session)

    async def all_of_them() -> list[Result]:
        return list(await asyncio.gather(*(one(*run) for run in runs)))

    return asyncio.run(all_of_them())
