"""The rows of :mod:`vmpack.verify.causes`: what usually makes a difference, most specific first.

A text may name ``{item}`` (without its kind), ``{expected}``, ``{observed}``, ``{recorded_qemu}``,
``{qemu}``, ``{recorded_accel}``, ``{accel}`` and ``{changed}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vmpack.verify.layers import BY_HARDWARE, LayerName
from vmpack.verify.model import Code, Json

__all__ = ["CAUSES", "OTHERWISE", "Cause"]


@dataclass(frozen=True, slots=True)
class Cause:
    """One row: the first that fits is taken."""

    layers: tuple[LayerName, ...]
    items: tuple[str, ...]
    """Globs over items."""
    text: str
    code: Code | None = None
    """``None``: any, as everywhere below."""
    expected: Json = None
    observed: Json = None
    when: Literal["qemu", "accel", "firmware", "changed"] | None = None
    """The two hosts have to differ in this."""


HARDWARE: tuple[LayerName, ...] = ("hardware",)
GUEST: tuple[LayerName, ...] = ("guest",)
BOTH: tuple[LayerName, ...] = ("hardware", "guest")

CAUSES: tuple[Cause, ...] = (
    Cause(BY_HARDWARE, ("*",), "the hardware was changed on purpose ({changed})", when="changed"),
    # How it ended.
    Cause(
        ("ending",),
        ("*",),
        "the guest's kernel panicked: the console's last lines say why; a new kernel, initrd or "
        "root file system is the usual reason",
        observed="panic",
    ),
    Cause(
        ("ending",),
        ("*",),
        "the firmware found no boot loader: a disk is missing, in another place of the boot order, "
        "or its boot sector was overwritten",
        observed="no-boot-device",
    ),
    Cause(
        ("ending",),
        ("*",),
        "the firmware booted nothing and opened its shell: the boot entry in NVRAM or the EFI "
        "system partition is gone",
        observed="firmware-shell",
    ),
    Cause(
        ("ending",),
        ("*",),
        "the firmware opened its setup: its settings or the boot entry in NVRAM are gone",
        observed="firmware-setup",
    ),
    Cause(
        ("ending",),
        ("*",),
        "the boot loader stopped at its prompt: its configuration or the partition that holds it "
        "is gone",
        observed="bootloader-prompt",
    ),
    Cause(
        ("ending",),
        ("*",),
        "the system stopped in an emergency shell: a file system that is needed did not mount",
        observed="emergency-shell",
    ),
    Cause(
        ("ending",),
        ("*",),
        "it booted and never offered a login: the service that does (getty) failed, or waits",
        observed="login-missing",
    ),
    Cause(
        ("ending",),
        ("*",),
        "it resets again and again: a boot loader or kernel that does not run on this CPU or "
        "firmware, or a triple fault",
        observed="reset-loop",
    ),
    Cause(
        ("ending",),
        ("*",),
        "nothing moves any more, neither CPU, console nor disk: look at the last console line for "
        "what it waits for",
        observed="hang",
    ),
    Cause(
        ("ending",),
        ("*",),
        "it did not come so far in time: if the host is slow, raise --timeout; else look at the "
        "last milestone",
        observed="timeout",
    ),
    Cause(
        ("ending",),
        ("*",),
        "it ended in another way than recorded: look at its last console lines",
    ),
    # How far it came.
    Cause(
        ("milestones",),
        ("*",),
        "the boot stopped before {item}, or the unit that announces it is gone: the first "
        "milestone that is missing is where to look",
        code="missing",
    ),
    Cause(
        ("milestones",),
        ("failed*", "depend*", "*FAILED*", "*DEPEND*", "trouble*"),
        "a unit that worked when it was recorded fails now: systemctl status {item} in the guest "
        "says why",
        code="added",
    ),
    Cause(
        ("milestones",),
        ("*",),
        "something is started that was not there when it was recorded: a service was added",
        code="added",
    ),
    Cause(
        ("milestones",),
        ("*",),
        "what is started in which order has changed: units or the initrd were changed",
    ),
    Cause(
        ("checks",),
        ("*",),
        "the check finds something else than when it was recorded: run its command in the guest "
        "(vmpack run --exec)",
    ),
    # What the machine is made of.
    Cause(
        HARDWARE,
        ("cpu-model*", "cpu-host*", "cpu*model*"),
        "this accelerator presents the CPU model otherwise ({recorded_accel} then, {accel} now); "
        "--accel takes the recorded one",
        when="accel",
    ),
    Cause(
        HARDWARE,
        ("cpu-host*", "device:*", "machine-options*"),
        "QEMU {qemu} offers this otherwise than {recorded_qemu}: no machine type pins it",
        when="qemu",
    ),
    Cause(
        HARDWARE,
        ("cpu-model*", "cpu-host*", "cpu*model*"),
        "the CPU model or a feature of it was changed in the config, or this QEMU defines the "
        "model otherwise: pin a versioned model such as Nehalem-v1",
    ),
    Cause(
        HARDWARE,
        ("machine*",),
        "another machine type: the config was changed, or the pinned type no longer exists here",
    ),
    Cause(
        BOTH,
        ("cpu-flag:*", "cpu", "cpu.*", "vulnerability:*"),
        "the guest's CPU has other features: the CPU model was changed, or the accelerator cannot "
        "provide all of it ({recorded_accel} then, {accel} now)",
    ),
    Cause(
        BOTH,
        ("cpus*", "cpu-count*", "cpu-socket*", "smp*", "topology*"),
        "the number or grouping of CPUs was changed: cpu in the config, or --cpus",
    ),
    Cause(
        BOTH,
        ("memory", "memory.*", "memory-map*", "ram*"),
        "the memory was changed: memory in the config, or --memory",
    ),
    Cause(
        ("hardware",),
        ("nic*", "net*"),
        "a network card was added, removed or changed: its model and MAC are in the config",
    ),
    Cause(
        GUEST,
        ("nic:*", "interface:*", "address:*", "route:*"),
        "the guest's network is another one: a card or its MAC was changed, or the guest's own "
        "network configuration",
    ),
    Cause(
        BOTH,
        ("disk:*", "block:*", "drive:*", "partition:*", "link:*"),
        "a disk was added, removed, swapped or resized: disks in the config, and their order",
    ),
    Cause(
        BOTH,
        ("pci*", "device:*", "usb:*", "virtio:*", "tpm*", "framebuffer:*", "display*", "serial:*"),
        "a device was added, removed or moved, or its driver is not loaded: compare the config's "
        "devices and addresses, and the guest's modules",
    ),
    Cause(HARDWARE, ("watchdog*",), "the watchdog was added or removed in the config"),
    Cause(
        BOTH,
        ("rtc*", "clock*"),
        "the real-time clock was changed: clock in the config",
    ),
    Cause(
        BOTH,
        ("dmi:*", "smbios*", "uuid*"),
        "the machine's identity was changed: uuid or smbios in the config, or it was packed with "
        "another --identity",
    ),
    # Firmware.
    Cause(
        ("firmware",),
        ("kind*",),
        "it starts with the other firmware (BIOS or UEFI): firmware in the config",
    ),
    Cause(
        ("firmware", "tables"),
        ("*",),
        "this host's firmware is another build; pack with --embed-firmware to take it along",
        when="firmware",
    ),
    Cause(
        ("tables",),
        ("*",),
        "QEMU {qemu} writes these tables otherwise than {recorded_qemu}; nothing is promised "
        "across versions",
        when="qemu",
    ),
    Cause(
        ("tables",),
        ("cpuid:*",),
        "the CPU answers CPUID otherwise under this accelerator ({recorded_accel} then, {accel} "
        "now)",
        when="accel",
    ),
    Cause(
        ("tables",),
        ("*",),
        "the tables describe other hardware: compare the layers hardware and guest",
    ),
    Cause(
        ("firmware",),
        ("*",),
        "the firmware behaves otherwise: its settings (NVRAM) or the devices that it finds were "
        "changed",
    ),
    # What runs in it.
    Cause(
        GUEST,
        ("means",),
        "nobody answers in the guest any more: the guest agent is not running, its channel is "
        "gone, or the login was changed",
    ),
    Cause(
        GUEST,
        ("failed-unit:*", "unit:*"),
        "{item} fails now: systemctl status {item} in the guest says why",
        observed="failed",
    ),
    Cause(
        GUEST,
        ("failed-unit:*",),
        "{item} failed when it was recorded, and does not fail now: record it again if that is "
        "meant",
        code="missing",
    ),
    Cause(
        GUEST,
        ("failed-unit:*",),
        "{item} fails now: systemctl status {item} in the guest says why",
    ),
    Cause(
        GUEST,
        ("unit:*", "process:*"),
        "{item} no longer runs: it was removed or disabled, or what it needs is missing",
        code="missing",
    ),
    Cause(
        GUEST,
        ("unit:*", "process:*"),
        "{item} was not there when it was recorded: something was installed or enabled",
        code="added",
    ),
    Cause(
        GUEST,
        ("module:*",),
        "the module is not loaded: its device is gone, or the kernel that has it was replaced",
        code="missing",
    ),
    Cause(
        GUEST,
        ("module:*",),
        "a module is loaded that was not: a new device, a new kernel, or a service that asks for "
        "it",
        code="added",
    ),
    Cause(
        GUEST,
        ("uname*", "os*"),
        "another kernel or release was booted: the guest was upgraded, or its boot loader chose "
        "another entry",
    ),
    Cause(
        GUEST,
        ("cmdline*", "consoles*"),
        "the kernel was given other options: the boot loader's configuration was changed",
    ),
    Cause(
        GUEST,
        ("mount:*", "swap:*"),
        "a file system is mounted otherwise: a disk is missing or has another UUID, or /etc/fstab "
        "was changed",
    ),
    Cause(
        GUEST,
        ("locale:*", "keyboard:*", "timezone*"),
        "the guest's language, keyboard or time zone was changed",
    ),
    Cause(GUEST, ("user*",), "other users are logged in, or the login was changed"),
    Cause(GUEST, ("init*",), "another program is process 1: the boot loader asks for another init"),
    Cause(
        GUEST,
        ("kernel-taint*",),
        "the kernel met an error, or took a module of another maker: its log in the guest says why",
    ),
    Cause(GUEST, ("root-full*",), "the root file system has no room left"),
    Cause(
        GUEST,
        ("machine-id*", "hostname*"),
        "the guest has another identity: its uuid in the config, its SMBIOS, or /etc was changed",
    ),
    Cause(
        GUEST,
        ("acpi:*", "boot-mode*", "secure-boot*"),
        "the firmware presents the machine otherwise: another machine type, firmware, or devices",
    ),
    # What it looks like.
    Cause(
        ("console",),
        ("*",),
        "the guest prints other messages, or prints them in another order: look at the lines in "
        "the report; other layers say what they mean",
    ),
    Cause(
        ("picture",),
        ("*",),
        "the screen shows something else: compare the two pictures in the report",
    ),
    Cause(
        ("reads",),
        ("*",),
        "it reads more or less of its disks than recorded: something else was started, or a disk's "
        "content was changed",
    ),
)

OTHERWISE: Mapping[LayerName, str] = {
    "ending": "it ended in another way than recorded",
    "milestones": "the boot took another course than recorded",
    "checks": "the check finds something else than recorded",
    "hardware": (
        "the virtual hardware is another one: the config was changed, or this QEMU presents it "
        "otherwise"
    ),
    "firmware": "the firmware behaves otherwise than recorded",
    "guest": "the guest's system was changed since it was recorded",
    "tables": "the tables describe other hardware",
    "picture": "the screen shows something else",
    "console": "the guest prints other messages",
    "reads": "it reads more or less of its disks than recorded",
}
"""For items that no row knows."""
