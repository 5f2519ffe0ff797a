"""Places from which a boot does not get any further by itself, told by what is printed there.

Profile: specs/endings.md, END-KIND. Pure; every pattern takes time linear in its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmpack.runner.options import Kind

__all__ = ["TROUBLES", "USER_SPACE", "Trouble", "trouble_after", "trouble_of"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A place from which a boot does not get any further by itself."""

    kind: Kind
    message: str


TROUBLES: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    (
        "panic",
        re.compile(r"(?<!\[ end )Kernel panic - not syncing(?:: *(?P<why>.{1,200}))?"),
        "the guest's kernel panicked",
    ),
    (
        "no-boot-device",
        re.compile(
            r"No bootable (?:device|option or device)|Boot failed: not a bootable disk"
            r"|^(?:Missing operating system|Operating System not found|Non-system disk)"
        ),
        "the firmware found nothing to boot from",
    ),
    (
        "firmware-shell",
        re.compile(r"^(?:UEFI Interactive Shell|Shell> *$)"),
        "the firmware booted nothing and opened its shell",
    ),
    (
        "firmware-setup",
        re.compile(r"^[ \t]*(?:Boot Maintenance Manager|Select boot device:)"),
        "the firmware waits in its setup or its boot menu",
    ),
    (
        "bootloader-prompt",
        re.compile(
            r"^(?:(?:grub(?: rescue)?> *){1,2}$|boot: *$|Minimal BASH-like line editing"
            r"| *Press enter to boot the selected OS)"
        ),
        "the boot loader waits at its prompt or menu",
    ),
    (
        "emergency-shell",
        re.compile(
            r"You are in (?:emergency|rescue) mode|^\(initramfs\) *$|^dracut:/#"
            r"|^(?:Give root password|Press Enter) for (?:system )?maintenance"
            r"|^Enter runlevel: *$|^\S{1,32}: can't access tty; job control turned off"
        ),
        "the system stopped in an emergency shell",
    ),
    (
        "login-missing",
        re.compile(r"^INIT: no more processes left in this runlevel"),
        "the system has nothing more to start, and no login",
    ),
)
"""Where boots end that do not work: what is printed then, and what that means."""

COUNTDOWN = re.compile(r"entry will be executed automatically in")
"""A boot loader's menu that goes on by itself."""

GOES_ON = frozenset({"boot-loader", "kernel", "init", "systemd", "login"})
"""Milestones after which what looked like the end was none (a shell that ran a start-up script)."""

USER_SPACE = ("init", "systemd", "sysvinit", "openrc", "busybox", "login")
"""Generic milestones that a kernel with a user space shows."""


def trouble_in(line: str) -> Trouble | None:
    """What a line of the console tells."""
    for kind, pattern, message in reversed(TROUBLES):
        found = pattern.search(line)
        if found:
            why = found.groupdict().get("why")
            return Trouble(kind, f"{message}: {why}" if why else message)
    return None


def trouble_of(line: str, before: Trouble | None) -> Trouble | None:
    """Where the boot is stuck after ``line``, when it was stuck at ``before`` so far."""
    if before is not None and before.kind == "bootloader-prompt" and COUNTDOWN.search(line):
        return None
    found = trouble_in(line)
    if found is None:
        return before
    # What is printed after a panic may be anything; the next panic says more.
    kept = before is not None and before.kind == "panic" and found.kind != "panic"
    return before if kept else found


def trouble_after(name: str, before: Trouble | None) -> Trouble | None:
    """Whether a boot is still stuck once it has shown the generic milestone ``name``.

    A log may tell of the panic of another boot: whoever offers a login has not panicked. Pvpanic
    tells of those that come before a reboot.
    """
    if before is None or name not in GOES_ON:
        return before
    return before if before.kind == "panic" and name != "login" else None
