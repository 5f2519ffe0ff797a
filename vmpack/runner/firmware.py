"""Finds the firmware that a machine starts with, by the descriptors that distributions ship.

Paths differ from one distribution to the next; QEMU's JSON descriptors say which code image goes
with which variable store, for which machine types, and what it can do. Source: QEMU,
docs/interop/firmware.json; the folders and their order are those of its section on management
software.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vmpack.binary import escape
from vmpack.errors import FirmwareMissingError, from_os_error
from vmpack.machine.nvram import refit, to_raw
from vmpack.runner.options import Firmware, Qemu
from vmpack.runner.qemu import foreign_root

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig

__all__ = ["Descriptor", "descriptors", "resolve_firmware", "seabios"]

INSTALL = "install it (Debian, Ubuntu: ovmf; Fedora, RHEL, Arch: edk2-ovmf)"
MAX_DESCRIPTOR = 1 << 20
MAX_CODE = 16 << 20
SEABIOS = "bios-256k.bin"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One UEFI firmware of this host: a code image in flash, and the variables to start with."""

    path: str
    """Of the descriptor itself."""
    description: str
    code_path: str
    code_format: Literal["raw", "qcow2"]
    vars_path: str
    machines: tuple[str, ...]
    """Patterns of machine types of x86_64."""
    features: frozenset[str]

    @property
    def secure_boot(self) -> bool:
        return "secure-boot" in self.features

    @property
    def enrolled_keys(self) -> bool:
        """Its variables hold the keys of Microsoft or of the distribution."""
        return "enrolled-keys" in self.features

    def runs(self, machine: str) -> bool:
        """Whether it is made for that machine type."""
        return any(fnmatch.fnmatchcase(machine, pattern) for pattern in self.machines)

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``vmpack doctor``."""
        return {
            "kind": "uefi",
            "description": self.description,
            "descriptor": self.path,
            "code": self.code_path,
            "nvram-template": self.vars_path,
            "machines": list(self.machines),
            "secure-boot": self.secure_boot,
            "enrolled-keys": self.enrolled_keys,
        }


def descriptors(qemu: Qemu) -> list[Descriptor]:
    """UEFI firmware for x86_64 whose files are there, in the order of the distribution's choice.

    A QEMU of another root has that root's firmware.
    """
    root = foreign_root(qemu.prefix)
    found = []
    for path in _descriptor_files(qemu, root):
        one = _read_descriptor(path, root)
        if one is not None:
            found.append(one)
    return found


def _descriptor_files(qemu: Qemu, root: Path | None) -> list[Path]:
    """By name; a file of a later folder masks its namesake of an earlier one, an empty one too."""
    prefix = Path(qemu.prefix[-1]).parent.parent
    if root is not None:
        folders = [root / "usr/share/qemu/firmware", root / "etc/qemu/firmware"]
    else:
        shared = {Path("/usr/share/qemu/firmware"): None, prefix / "share/qemu/firmware": None}
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        folders = [*shared, Path("/etc/qemu/firmware"), Path(home) / "qemu/firmware"]
    files: dict[str, Path] = {}
    for folder in folders:
        files.update({path.name: path for path in folder.glob("*.json")})
    return [files[name] for name in sorted(files)]


def _read_descriptor(path: Path, root: Path | None) -> Descriptor | None:
    """``None`` for what is no split flash image of UEFI for x86_64, or lacks its files."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(MAX_DESCRIPTOR))
        mapping = document["mapping"]
        if "uefi" not in document["interface-types"] or mapping["device"] != "flash":
            return None
        if mapping.get("mode", "split") != "split":
            return None
        machines = tuple(
            str(machine)
            for target in document["targets"]
            if target["architecture"] == "x86_64"
            for machine in target["machines"]
        )
        code, template = mapping["executable"], mapping["nvram-template"]
        if code["format"] not in ("raw", "qcow2"):
            return None
        one = Descriptor(
            path=str(path),
            description=str(document.get("description", "")),
            code_path=_place(code["filename"], root),
            code_format=code["format"],
            vars_path=_place(template["filename"], root),
            machines=machines,
            features=frozenset(map(str, document.get("features", ()))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    there = os.path.isfile(one.code_path) and os.path.isfile(one.vars_path)
    return one if there and machines else None


def _place(filename: str, root: Path | None) -> str:
    if not os.path.isabs(filename):
        raise ValueError(filename)
    return filename if root is None else str(root) + filename


def seabios(qemu: Qemu) -> str | None:
    """Path of the SeaBIOS that this QEMU would take, when it can be told."""
    prefix = Path(qemu.prefix[-1]).parent.parent
    shared = ("share/qemu", "share/seabios", "share/seavgabios", "share/qemu-kvm")
    folders = [*qemu.data_dirs, *(str(prefix / name) for name in shared)]
    places = (os.path.join(folder, SEABIOS) for folder in folders)
    return next((path for path in places if os.path.isfile(path)), None)


def resolve_firmware(
    config: MachineConfig, qemu: Qemu, nvram: bytes | None = None, code: bytes | None = None
) -> Firmware:
    """The firmware for a pinned config.

    ``nvram`` is the bundle's variable store (raw or qcow2), ``code`` the code image that its
    ``firmware.blob`` names. Raises :class:`FirmwareMissingError` when this host has none that the
    config allows, and what :func:`vmpack.machine.nvram.refit` raises.
    """
    wanted = config.firmware
    if wanted.kind != "uefi":
        return _bios(qemu, wanted.digest, code)
    usable = list(_usable(config, descriptors(qemu), keys_known=nvram is not None))
    ours = None if nvram is None else to_raw(nvram)
    if code is not None:
        _check_digest(code, wanted.digest)
        return _carried(code, ours, usable, secure=bool(wanted.secure_boot))
    if wanted.digest is not None:
        usable = [one for one in usable if _digest_of(one.code_path) == wanted.digest]
        if not usable:
            raise FirmwareMissingError(
                f"no firmware of this host has the digest that is pinned: {wanted.digest}",
                field="firmware.digest",
                hint="pack with --embed-firmware, or install the same firmware",
            )
    if not usable:
        raise _nothing_usable(config)
    chosen = _best(usable, ours)
    template = _template(chosen)
    return Firmware(
        kind="uefi",
        code_path=chosen.code_path,
        code_format=chosen.code_format,
        vars=template if ours is None else refit(ours, template),
        secure_boot="requires-smm" in chosen.features,
    )


def _usable(
    config: MachineConfig, found: list[Descriptor], *, keys_known: bool
) -> Iterator[Descriptor]:
    """Best first. Without Secure Boot: builds that cannot have it, then those without keys."""
    machine = config.machine or ""
    fitting = [one for one in found if one.runs(machine)]
    if config.firmware.secure_boot:
        # The keys are the machine's own where it has an NVRAM, the template's otherwise.
        yield from (one for one in fitting if one.secure_boot and (keys_known or one.enrolled_keys))
        return
    yield from (one for one in fitting if not one.secure_boot)
    yield from (one for one in fitting if one.secure_boot and not one.enrolled_keys)


def _best(usable: list[Descriptor], nvram: bytes | None) -> Descriptor:
    """The first whose variables have the NVRAM's size, so that nothing has to be fitted."""
    if nvram is not None:
        group = [one for one in usable if one.secure_boot == usable[0].secure_boot]
        for one in group:
            if len(_template(one)) == len(nvram):
                return one
    return usable[0]


def _template(descriptor: Descriptor) -> bytes:
    return to_raw(_read(descriptor.vars_path))


def _carried(
    code: bytes, nvram: bytes | None, usable: list[Descriptor], *, secure: bool
) -> Firmware:
    """A code image out of the bundle, with variables of the layout that it was built for."""
    code = to_raw(code)
    # Code and variables of one build fill a flash whose size is a power of two.
    size = 1 << (len(code) - 1).bit_length()
    room = size - len(code)
    if nvram is None or len(nvram) != room:
        template = next((raw for raw in map(_template, usable) if len(raw) == room), None)
        if template is None:
            raise FirmwareMissingError(
                f"the bundle's firmware keeps its variables in {room} bytes, and neither the "
                "bundle nor this host has such a store",
                field="firmware.blob",
                hint=INSTALL,
            )
        nvram = template if nvram is None else refit(nvram, template)
    return Firmware(kind="uefi", code=code, vars=nvram, secure_boot=secure)


def _bios(qemu: Qemu, digest: str | None, code: bytes | None) -> Firmware:
    """SeaBIOS: QEMU's own, the pinned one, or the bundle's."""
    if code is not None:
        _check_digest(code, digest)
        return Firmware(kind="bios", code=code)
    if digest is None:
        return Firmware(kind="bios")
    path = seabios(qemu)
    if path is None or _digest_of(path) != digest:
        raise FirmwareMissingError(
            f"this QEMU's SeaBIOS has not the digest that is pinned: {digest}",
            field="firmware.digest",
            hint="pack with --embed-firmware, or run it under the QEMU it was packed for",
        )
    return Firmware(kind="bios", code_path=path)


def _nothing_usable(config: MachineConfig) -> FirmwareMissingError:
    secure = config.firmware.secure_boot
    what = "UEFI firmware with Secure Boot" if secure else "UEFI firmware"
    return FirmwareMissingError(
        f"this host has no {what} for {config.machine}", field="firmware", hint=INSTALL
    )


def _check_digest(code: bytes, digest: str | None) -> None:
    if digest is not None and "sha256:" + hashlib.sha256(code).hexdigest() != digest:
        raise FirmwareMissingError(
            f"the bundle's firmware has not the digest that is pinned: {digest}",
            field="firmware.digest",
            hint="pack the machine again",
        )


def _digest_of(path: str) -> str:
    return "sha256:" + hashlib.sha256(_read(path)).hexdigest()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_CODE)
    except OSError as exc:
        raise from_os_error(exc, path=escape(path)) from exc
