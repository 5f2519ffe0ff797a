"""What firmware, boot loaders, kernels and init systems print on a console: a table of detectors.

The table of specs/behaviour-v1.md. A detector is *proven* when a guest of the tests shows it in a
real boot; the others are written from the programs' sources and manuals, and are marked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["MARKS", "SETS", "Mark", "MarkSet", "Stage"]

Stage = Literal["firmware", "boot-loader", "kernel", "initramfs", "init", "login"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One milestone: its first line counts."""

    name: str
    """Of the milestone; several detectors may show the same one."""
    stage: Stage
    of: str
    """Whose text it is, for people."""
    pattern: re.Pattern[str]
    """Searched in each line. Its group ``is``, where it has one, is the milestone's detail, which
    is taken from a line that has ended."""
    proven: bool = False
    ordered: bool = True
    """Comes at the same place in every boot; login prompts are started beside other things."""


@dataclass(frozen=True, slots=True)
class MarkSet:
    """Milestones without an order, one for each name that is found: ``KIND:NAME``."""

    kind: str
    of: str
    pattern: re.Pattern[str]
    """``name`` is who, ``is``, where it has one, is what."""
    proven: bool = False


def _mark(
    name: str, stage: Stage, of: str, pattern: str, *flags: Literal["proven", "any-order"]
) -> Mark:
    return Mark(
        name,
        stage,
        of,
        re.compile(pattern),
        proven="proven" in flags,
        ordered="any-order" not in flags,
    )


MARKS: tuple[Mark, ...] = (
    _mark("firmware", "firmware", "SeaBIOS", r"^SeaBIOS \(version"),
    _mark("firmware", "firmware", "OVMF", r"^BdsDxe: |^UEFI firmware ", "proven"),
    _mark("firmware", "firmware", "iPXE", r"^iPXE \d.* -- Open Source Network Boot Firmware"),
    _mark("boot-loader", "boot-loader", "GRUB 2", r"GRUB loading|Welcome to GRUB", "proven"),
    _mark("boot-loader", "boot-loader", "GRUB 2", r"^\s*Booting `(?P<is>[^']+)'?", "proven"),
    _mark(
        "boot-loader",
        "boot-loader",
        "SYSLINUX, ISOLINUX, EXTLINUX, PXELINUX",
        r"^(?P<is>(?:SYS|ISO|EXT|PXE)LINUX \d\S*)",
    ),
    _mark(
        "boot-loader", "boot-loader", "systemd-boot", r"Boot in \d+ s\.|Reboot Into Firmware Int"
    ),
    _mark("boot-loader", "boot-loader", "LILO", r"^LILO(?: \d|$)"),
    _mark("boot-loader", "boot-loader", "Limine", r"^\s*Limine \d"),
    _mark("boot-loader", "boot-loader", "FreeBSD", r"FreeBSD/\S{1,40} (?:bootstrap|EFI) loader"),
    _mark("boot-loader", "boot-loader", "OpenBSD", r">> OpenBSD/\S+ \S*BOOT"),
    _mark("boot-loader", "boot-loader", "NetBSD", r">> NetBSD/\S+ .{0,80}Boot"),
    _mark("efi-stub", "boot-loader", "Linux's EFI stub", r"^EFI stub: "),
    _mark("kernel", "kernel", "Linux", r"Linux version (?P<is>\d\S*.{0,400})", "proven"),
    _mark("kernel", "kernel", "FreeBSD", r"^Copyright \(c\) .*The FreeBSD Project"),
    _mark("kernel", "kernel", "OpenBSD, NetBSD", r"^(?P<is>(?:Open|Net)BSD \d\S* \(\S+\))"),
    _mark("kernel", "kernel", "illumos", r"^SunOS Release (?P<is>\S+)"),
    _mark("kernel", "kernel", "Windows (emergency services)", r"^SAC>"),
    _mark(
        "command-line",
        "kernel",
        "Linux",
        r"\] (?:Kernel c|C)ommand line: (?P<is>.{0,2000})",
        "proven",
    ),
    _mark("init", "initramfs", "Linux", r"Run (?P<is>/\S+) as init process", "proven"),
    _mark("initramfs", "initramfs", "initramfs-tools", r"^Loading, please wait\.\.\.", "proven"),
    _mark("initramfs", "initramfs", "dracut", r"dracut: dracut-\S+|dracut-cmdline\["),
    _mark("systemd", "init", "systemd", r"systemd\[1\]: |^Welcome to (?!GRUB).+!\s*$", "proven"),
    _mark(
        "virtualization",
        "init",
        "systemd",
        r"Detected virtualization (?P<is>\S+?)\.?(?=\s|$)",
        "proven",
    ),
    _mark("hostname", "init", "systemd", r"Hostname set to <(?P<is>[^>]{1,64})>", "proven"),
    _mark(
        "default-target",
        "init",
        "systemd",
        r"Queued start job for default target (?P<is>\S.{0,100}?)\.?\s*$",
        "proven",
    ),
    _mark("sysvinit", "init", "sysvinit", r"INIT: version (?P<is>\S+) booting", "proven"),
    _mark(
        "runlevel",
        "init",
        "sysvinit",
        r"INIT: Entering runlevel: (?P<is>\w)",
        "proven",
    ),
    _mark("busybox", "init", "BusyBox", r"BusyBox v(?P<is>\d\S*)", "proven"),
    _mark("openrc", "init", "OpenRC", r"OpenRC (?P<is>\d\S*) is starting up"),
    _mark("runit", "init", "runit", r"^- runit: (?:\S+ )?enter stage: (?P<is>/\S+)"),
    _mark("finit", "init", "Finit", r"^Finit v?(?P<is>\d\S*)"),
    _mark("cloud-init", "init", "cloud-init", r"Cloud-init v\. (?P<is>\S+) running"),
    _mark("cloud-init-done", "init", "cloud-init", r"Cloud-init v\. \S+ finished at", "any-order"),
    _mark("login", "login", "getty", r"(?:^|\s)(?!Last )\S+ login:(?:\s|$)", "proven", "any-order"),
)
"""What nearly every boot shows, in the usual order."""

SETS: tuple[MarkSet, ...] = (
    MarkSet("target", "systemd", re.compile(r"Reached target (?P<name>\S+)"), proven=True),
    MarkSet(
        "failed",
        "systemd",
        re.compile(
            r"\[(?P<is>FAILED|DEPEND| TIME )\] (?:Failed to (?:start|mount|activate|listen on) "
            r"|Dependency failed for |Timed out (?:starting|waiting for device) )?"
            r"(?P<name>\S+\.(?:service|mount|socket|device|target|swap|timer|path|scope|slice)\b"
            r"|\S.{0,79}?)(?:\.?\s*$| - )"
        ),
        proven=True,
    ),
    MarkSet(
        "failed", "LSB init scripts", re.compile(r"^\[(?P<is>FAIL)\] (?P<name>\S.{0,79}?)\s*$")
    ),
    MarkSet("failed", "OpenRC", re.compile(r"\* (?P<is>ERROR): (?P<name>\S+) failed to start")),
)
"""systemd starts its units side by side: their lines have no order that would last."""
