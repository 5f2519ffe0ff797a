"""What lint can find: stable codes, each with its severity, its meaning and what to do next.

The table is :data:`CODES`; ``specs/lint-v1.md`` shows it, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vmpack.binary import escape

Severity = Literal["error", "warning", "info"]


class Code(NamedTuple):
    """One kind of finding. A code's name and severity change only with a major version."""

    severity: Severity
    meaning: str
    hint: str


CODES: dict[str, Code] = {
    "limit-disk-size": Code(
        "error",
        "a disk is larger than the target takes",
        "split the disk, or shrink it in the guest and convert it again",
    ),
    "limit-disk-alignment": Code(
        "warning",
        "a disk's size is no multiple of what the target asks for",
        "the export rounds it up where the disk's format allows it; otherwise grow the disk first",
    ),
    "limit-cpus": Code(
        "error", "more virtual CPUs than the target takes", "lower cores or sockets in the config"
    ),
    "limit-memory": Code(
        "error", "more memory than the target takes", "lower memory in the config"
    ),
    "limit-firmware": Code(
        "error",
        "the target does not start machines by this firmware",
        "choose another target, or install the other boot loader in the guest",
    ),
    "limit-secure-boot": Code(
        "warning",
        "Secure Boot cannot be kept: the target has none",
        "the guest starts without it; BitLocker then asks for its recovery key",
    ),
    "limit-tpm": Code(
        "warning",
        "the TPM cannot be kept: the target has none",
        "release what the guest has sealed to its TPM (BitLocker, LUKS) before you move it",
    ),
    "limit-disk-bus": Code(
        "warning",
        "the target does not have a disk's bus: the export replaces it",
        "the guest needs the driver of the other bus at boot",
    ),
    "limit-nic-model": Code(
        "warning",
        "the target does not have a network card's model: the export replaces it",
        "the guest may call the card by another name",
    ),
    "limit-name": Code(
        "warning",
        "the machine's name is none that the target takes: the export changes it",
        "name it anew: vmpack pack --name",
    ),
    "limits-unknown": Code(
        "info", "vmpack has no table of this target's limits", "only the boot disk was looked at"
    ),
    "state-tpm-missing": Code(
        "warning",
        "the machine has a TPM, and its state is not there: the target starts with an empty one",
        "pack the state with --blob tpm-state=FILE, or release what the guest has sealed to it",
    ),
    "state-nvram-unreadable": Code(
        "warning",
        "the NVRAM is none that vmpack reads",
        "pack the firmware's variable store (OVMF's) with --blob nvram=FILE",
    ),
    "state-no-keys": Code(
        "warning",
        "Secure Boot is on, and the NVRAM holds no platform key",
        "enroll keys, or pack the NVRAM of the machine that has them",
    ),
    "boot-no-disk": Code(
        "warning",
        "the machine has no disk to start from",
        "give it one, or let it start from the network",
    ),
    "boot-disk-absent": Code(
        "info",
        "the boot disk is not at hand: whether it starts was not looked at",
        "name its file: --disk ID=PATH",
    ),
    "boot-disk-unreadable": Code(
        "error", "the boot disk cannot be read", "see what vmpack check says of it"
    ),
    "boot-empty": Code(
        "error",
        "nothing on the boot disk starts: no boot code and no partition table",
        "name the boot disk first, or give it a boot order in the config",
    ),
    "boot-no-code": Code(
        "error",
        "the machine starts by BIOS, and the boot disk has no boot code",
        "install a boot loader in the guest (grub-install DISK)",
    ),
    "boot-firmware": Code(
        "error",
        "the boot disk starts by the other firmware",
        "set firmware.kind in the config to the one that the disk is made for",
    ),
    "boot-no-active": Code(
        "warning",
        "no partition is active, and the boot code is not GRUB's, which needs none",
        "mark the boot partition active (sfdisk --activate)",
    ),
    "boot-partition-empty": Code(
        "error",
        "the active partition has no boot sector",
        "mark the right partition active, or install the boot loader again",
    ),
    "boot-table-damaged": Code(
        "error",
        "the partition table is damaged: no sound GPT",
        "repair it in a copy of the disk (sgdisk --verify, gdisk)",
    ),
    "boot-table-problem": Code(
        "warning",
        "the partition table is damaged in part",
        "repair it in a copy of the disk (sgdisk -e, gdisk)",
    ),
    "boot-no-esp": Code(
        "error",
        "the machine starts by UEFI, and the boot disk has no EFI system partition",
        "set firmware.kind to bios, or make an EFI system partition with a boot loader",
    ),
    "boot-esp-damaged": Code(
        "error",
        "the EFI system partition is no FAT file system that can be read",
        "repair it in a copy of the disk (fsck.vfat)",
    ),
    "boot-no-loader": Code(
        "error",
        "the EFI system partition has no EFI/BOOT/BOOTX64.EFI, and no boot entry names a file",
        "copy the boot loader there (grub-install --removable), or pack the NVRAM",
    ),
    "boot-loader-bad": Code(
        "error",
        "the boot loader is no program for x86-64 UEFI",
        "install the boot loader again",
    ),
    "boot-loader-unsigned": Code(
        "error",
        "Secure Boot is on, and the boot loader is not signed",
        "install the signed one (shim), or switch Secure Boot off",
    ),
    "boot-needs-nvram": Code(
        "warning",
        "only a boot entry in the NVRAM starts the disk: a target that leaves the NVRAM behind"
        " does not",
        "copy the boot loader to EFI/BOOT/BOOTX64.EFI as well (grub-install --removable)",
    ),
    "boot-entry-stale": Code(
        "warning",
        "a boot entry names a file that is not on its partition",
        "remove it in the guest (efibootmgr -B)",
    ),
    "initramfs-no-driver": Code(
        "error",
        "neither kernel nor initramfs has a driver for the boot disk on the target",
        "build the initramfs with it: dracut --add-drivers, or /etc/initramfs-tools/modules",
    ),
    "initramfs-driver-unseen": Code(
        "warning",
        "the initramfs has no driver for the boot disk on the target; the kernel may have it",
        "build the initramfs with it: dracut --add-drivers, or /etc/initramfs-tools/modules",
    ),
    "initramfs-unknown": Code(
        "info",
        "which drivers the initramfs has was not determined",
        "try the boot: vmpack verify",
    ),
    "windows-boot-bus": Code(
        "warning",
        "Windows starts from a bus that the target replaces: without its driver it stops with"
        " INACCESSIBLE_BOOT_DEVICE (0x7B)",
        "install and start the other bus's driver once before you move it",
    ),
}
"""Every code there is."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing that stands in the way, or may."""

    code: str
    message: str
    """This case of it: names and numbers."""
    field: str = ""
    """The config's field, ``disk[0].bus``, where there is one."""

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``info``."""
        return CODES[self.code].severity

    @property
    def hint(self) -> str:
        """What to do next."""
        return CODES[self.code].hint

    @property
    def refuses(self) -> bool:
        """Whether an export to the target is refused for it: the target cannot hold the machine."""
        return self.severity == "error" and self.code.startswith("limit-")

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        found: dict[str, object] = {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
        }
        if self.field:
            found["field"] = self.field
        return found


def finding(code: str, message: str = "", field: str = "") -> LintFinding:
    """A finding; without a message, the code's meaning is it."""
    return LintFinding(code, escape(message) if message else CODES[code].meaning, field)


def ordered(findings: Iterator[LintFinding]) -> tuple[LintFinding, ...]:
    """Errors first, each thing once."""
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: rank[one.severity]))
