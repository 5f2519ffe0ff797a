"""Reads a VMX: every key of it ends in the report (``specs/hypervisors/vmware.md``)."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors import guest_os
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.vmware.carry import why_not
from vmpack.hypervisors.vmware.syntax import Vmx, parse
from vmpack.machine.names import safe_name
from vmpack.units import MiB

__all__ = ["NVRAM_BLOB", "Reading", "read", "wants"]

NVRAM_BLOB = "vmware-nvram"
"""The blob that keeps a VMX's .nvram file: VMware's own format, of use to VMware alone."""

SMBIOS_27 = 13
"""Hardware version from which guests read the UUID's first three fields as little-endian."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(slots=True)
class Reading:
    """A VMX on its way into a draft: what was taken already, and what is still to be said."""

    vmx: Vmx
    draft: Draft
    source: ConfigSource
    used: set[str] = field(default_factory=set)

    def take(self, key: str) -> str:
        """The key as it is spelt, for the report; it counts as reported."""
        self.used.add(key.lower())
        return self.vmx.spelt(key)

    def kept(self, key: str, what: str) -> None:
        """Report ``key`` as kept, where it is in the file and not reported yet."""
        if key in self.vmx and key.lower() not in self.used:
            self.draft.report.kept(self.take(key), what)

    def changed(self, key: str, how: str) -> None:
        """Report ``key`` as approximated, where it is in the file and not reported yet."""
        if key in self.vmx and key.lower() not in self.used:
            self.draft.report.approximated(self.take(key), how)

    def dropped(self, key: str, why: str) -> None:
        """Report ``key`` as dropped, where it is in the file and not reported yet."""
        if key in self.vmx and key.lower() not in self.used:
            self.draft.dropped(self.take(key), why)

    def set(self, path: str, value: object, key: str, *, how: str = "") -> None:
        """``path`` of the config becomes ``value``, from ``key``."""
        self.draft.set(path, value, self.take(key), how=how)

    @property
    def hardware(self) -> int:
        """The virtual hardware version; 4, as VMware has it, where the file does not say."""
        return self.vmx.number("virtualHW.version") or 4


def wants(source: ConfigSource) -> Sequence[str]:
    """The list of snapshots beside the VMX."""
    name = _stem(source.name) + ".vmsd"
    return [name] if name in source.members else []


def read(source: ConfigSource) -> Imported:
    """The machine that a VMX describes.

    Raises :class:`DamagedError` for what is no VMX, :class:`UnsupportedError` for an encrypted one.
    """
    from vmpack.hypervisors.vmware.disks import read_disks
    from vmpack.hypervisors.vmware.nics import read_nics

    vmx = parse(source.data, path=source.name)
    _refuse_encrypted(vmx)
    known = ("config.version", "virtualHW.version", "displayName", "memsize", "guestOS")
    if not any(key in vmx for key in known):
        raise DamagedError(
            "is no VMX: it has none of " + ", ".join(known),
            path=source.name,
            clause="VMX-SYN-7",
            hint="a VMX says at least config.version and virtualHW.version",
        )
    reading = Reading(vmx, Draft("vmware"), source)
    for part in (
        _identity,
        _guest,
        _processor,
        _firmware,
        read_disks,
        read_nics,
        _others,
        _running,
    ):
        part(reading)
    _rest(reading)
    return reading.draft.build()


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _refuse_encrypted(vmx: Vmx) -> None:
    for key in ("encryption.keySafe", "encryption.data", "encryption.encryptedKey"):
        if vmx.get(key):
            raise UnsupportedError(
                f"the machine is encrypted ({key}): its config cannot be read",
                path=vmx.path,
                field=key,
                clause="VMX-ENC-1",
                hint="decrypt it in VMware first: Settings, Options, Access Control, Remove "
                "Encryption; a virtual TPM has to be removed before that",
            )


def _identity(reading: Reading) -> None:
    vmx, draft = reading.vmx, reading.draft
    reading.kept(".encoding", "text is Unicode now")
    reading.kept("config.version", "written anew")
    version = vmx.number("virtualHW.version")
    if version is not None and 1 <= version <= 99:
        reading.set("ova.hardware", f"vmx-{version:02d}", "virtualHW.version")
    name = vmx.get("displayName")
    if name:
        if safe_name(name) != name:
            draft.verbatim("displayName", name)
        draft.name(name, reading.take("displayName"))
    else:
        draft.name(_stem(reading.source.name), "the file's name")
        reading.kept("displayName", "empty: the file's name")
    note = vmx.get("annotation").replace("\r\n", "\n")
    if note:
        clean = _CONTROL.sub("", note)
        how = "" if clean == note else "without its control characters"
        reading.set("description", clean, "annotation", how=how)
    _uuid(reading)


def _uuid(reading: Reading) -> None:
    text = reading.vmx.get("uuid.bios")
    if not text:
        return
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"[0-9A-Fa-f]{32}", digits, re.ASCII):
        reading.dropped("uuid.bios", "it is not 16 bytes in hexadecimal digits")
        return
    raw = bytes.fromhex(digits)
    swapped = reading.hardware >= SMBIOS_27
    found = uuid.UUID(bytes_le=raw) if swapped else uuid.UUID(bytes=raw)
    reading.set("uuid", str(found), "uuid.bios")


def _guest(reading: Reading) -> None:
    word = reading.vmx.get("guestOS")
    if not word:
        return
    row = guest_os.by_vmware(word)
    if row is None:
        family = guess_family(word)
        if family:
            reading.set("guest-os.family", family, "guestOS", how=f"the family alone: {family}")
        reading.draft.verbatim(reading.take("guestOS"), word)
        return
    reading.set("guest-os.family", row.family, "guestOS")
    if row.id != "unknown":
        reading.draft.data["guest-os"]["id"] = row.id
    if word.lower() != row.vmware.lower():
        # Another spelling, or the 32-bit edition: given back as it was.
        reading.draft.verbatim("guestOS", word)


def guess_family(word: str) -> str | None:
    """The family of a guestOS that is in no table."""
    low = word.lower()
    if low.startswith(("win", "longhorn")):
        return "windows"
    if "bsd" in low:
        return "bsd"
    return "linux" if "linux" in low else None


def _processor(reading: Reading) -> None:
    vmx, draft = reading.vmx, reading.draft
    count = vmx.number("numvcpus") if "numvcpus" in vmx else 1
    per_socket = vmx.number("cpuid.coresPerSocket") or 1
    if count is None or not 1 <= count <= 255:
        reading.dropped("numvcpus", "it is no number of processors from 1 to 255")
        count = 1
    if per_socket < 1 or count % per_socket:
        reading.changed("cpuid.coresPerSocket", f"1, since {count} is no multiple of it")
        per_socket = 1
    source = "numvcpus" if "numvcpus" in vmx else "numvcpus (absent: 1)"
    draft.set("cpu.sockets", count // per_socket, source)
    draft.data["cpu"]["cores"] = per_socket
    reading.used.add("numvcpus")
    reading.kept("cpuid.coresPerSocket", "cpu.cores")
    megabytes = vmx.number("memsize")
    if megabytes is not None and megabytes > 0:
        reading.set("memory", megabytes * MiB, "memsize")
    else:
        reading.dropped("memsize", "it is no number of MiB")


def _firmware(reading: Reading) -> None:
    vmx = reading.vmx
    word = vmx.get("firmware").lower()
    if word == "efi":
        reading.set("firmware.kind", "uefi", "firmware")
    else:
        source = vmx.spelt("firmware") if word else "firmware (absent: bios)"
        reading.draft.set("firmware.kind", "bios", source)
        reading.used.add("firmware")
    if word == "efi":
        reading.draft.data["firmware"]["secure-boot"] = vmx.flag("uefi.secureBoot.enabled")
        reading.kept("uefi.secureBoot.enabled", "firmware.secure-boot")
    _nvram(reading)
    if vmx.flag("vtpm.present"):
        reading.set(
            "tpm",
            {"version": "2.0"},
            "vtpm.present",
            how="an empty TPM 2.0: its state is encrypted",
        )


def _nvram(reading: Reading) -> None:
    name = reading.vmx.get("nvram")
    base = re.split(r"[/\\]", name)[-1]
    if base and base in reading.source.members:
        reading.draft.blobs[NVRAM_BLOB] = FileRef(base)
        reading.changed(
            "nvram",
            f"the blob {NVRAM_BLOB}, given back to VMware; other firmware starts with empty NVRAM",
        )
    elif name:
        reading.dropped("nvram", "the file is not beside the VMX: the firmware starts afresh")


def _others(reading: Reading) -> None:
    vmx, draft = reading.vmx, reading.draft
    if "svga.present" in vmx and vmx.flag("svga.present"):
        reading.changed("svga.present", "a standard VGA card, which every guest has a driver for")
    if "rtc.diffFromUTC" in vmx and vmx.number("rtc.diffFromUTC") == 0:
        reading.set("rtc.clock", "utc", "rtc.diffFromUTC")
    start = vmx.number("rtc.startTime")
    if start is not None and 0 < start < 1 << 34:
        when = datetime.datetime.fromtimestamp(start, datetime.UTC)
        reading.set("rtc.start", when.strftime("%Y-%m-%dT%H:%M:%S"), "rtc.startTime")
    for number in range(4):
        _serial(reading, f"serial{number}", number)
    listed = reading.source.extra.get(_stem(reading.source.name) + ".vmsd")
    if listed:
        _snapshots(draft, listed)


def _serial(reading: Reading, name: str, number: int) -> None:
    vmx = reading.vmx
    kind = vmx.get(f"{name}.fileType").lower()
    if not vmx.flag(f"{name}.present") or kind == "thinprint":
        return
    key = reading.take(f"{name}.present")
    reading.draft.add("serial", {"port": number}, key)
    if kind == "file":
        reading.kept(f"{name}.fileType", "written into a file beside the VMX")
    else:
        reading.changed(
            f"{name}.fileType", "what the port leads to is the host's: a file on export"
        )
    reading.dropped(f"{name}.fileName", "what the port leads to is the host's")


def _snapshots(draft: Draft, data: bytes) -> None:
    """Snapshots that the machine has besides its current state (webvirtcloud#89)."""
    try:
        listed = parse(data, path="snapshots")
    except (DamagedError, UnsupportedError):
        draft.dropped("snapshots", "their list cannot be read; the current state is carried")
        return
    count = listed.number("snapshot.numSnapshots") or 0
    names = [listed.get(f"snapshot{number}.displayName") for number in range(min(count, 8))]
    shown = ", ".join(repr(name) for name in names if name)
    if count > 0:
        draft.dropped("snapshots", f"{count} ({shown}): only the current state is carried")


def _running(reading: Reading) -> None:
    """Locks and suspended memory: the disks are in use, or not at rest."""
    source, draft = reading.source, reading.draft
    lock = f"{source.name}.lck"
    vmss = [one for one in source.members if one == _stem(source.name) + ".vmss"]
    state = reading.vmx.get("checkpoint.vmState")
    if any(one == lock or one.startswith(lock + "/") for one in source.members):
        draft.running = True
        draft.running_hint = (
            f"shut the machine down in VMware; {lock} may also be left from a crash: then remove it"
        )
    elif state or ("checkpoint.vmState" not in reading.vmx and vmss):
        draft.running = True
        draft.running_hint = "resume the suspended machine in VMware, and shut it down"
        reading.dropped("checkpoint.vmState", "the machine is suspended: its memory is not carried")


def _rest(reading: Reading) -> None:
    """Everything that no device or setting of vmpack stands for."""
    carry: Callable[[str, str], None] = reading.draft.verbatim
    for key, value in reading.vmx:
        if key.lower() in reading.used:
            continue
        reading.used.add(key.lower())
        why = why_not(key, value)
        if why is None:
            carry(key, value)
        else:
            reading.draft.dropped(key, why)
