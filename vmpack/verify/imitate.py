"""The same machine on the devices that another hypervisor would show it: ``verify --as``.

Profile: specs/imitation-v1.md. What the target does not decide stays as it is pinned, and so does
what the verification looks through: the serial console, the guest agent's channel, pvpanic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmpack.binary import escape
from vmpack.errors import InfrastructureError, UsageError, VmpackError
from vmpack.machine import hardware as hw
from vmpack.machine.config import MachineConfig
from vmpack.machine.names import POSITIONS, chipset
from vmpack.machine.placement import give_addresses, give_controllers, give_positions
from vmpack.verify.profiles import PROFILES, Profile

__all__ = ["imitate", "require_possible"]

SERIAL = 20
"""Characters of a serial number on the buses with the shortest ones."""
_CHANNELS = ("virtio-serial", "usb-xhci")
"""Controllers that no disk hangs on."""


def require_possible(config: MachineConfig, target: str) -> Profile:
    """The profile of ``target``.

    Raises :class:`InfrastructureError` where QEMU has too little of it to boot ``config`` so, and
    :class:`UsageError` for a target without a profile.
    """
    profile = PROFILES.get(target)
    if profile is None:
        raise UsageError(
            f"there is no profile of {target}",
            field="--as",
            hint=f"there are: {', '.join(PROFILES)}",
        )
    firmware = config.firmware.kind or "bios"
    refuses = profile.refuses or {}
    second = config.hyperv_generation == 2 and "uefi" in refuses
    reason = refuses.get("any") or refuses.get("uefi" if second else firmware)
    if reason is not None:
        raise InfrastructureError(
            reason,
            field="--as",
            clause="IMI-POSSIBLE-1",
            hint=f"vmpack lint BUNDLE --to {target} looks for its drivers and what else it needs",
        )
    return profile


def imitate(config: MachineConfig, target: str) -> tuple[MachineConfig, tuple[str, ...]]:
    """``config`` as ``target`` would show it, pinned, and what to tell of it.

    The notes, safe to print, say first what was changed, then what cannot be imitated. Raises as
    :func:`require_possible`, and :class:`InfrastructureError` for more disks than there are places.
    """
    profile = require_possible(config, target)
    work = _Work(config, profile)
    work.board()
    work.disks()
    work.nics()
    work.others()
    return work.done(), (*work.notes, *_lacks(work.config, profile))


def _lacks(config: MachineConfig, profile: Profile) -> Iterator[str]:
    kept = [
        name
        for name, there in (
            ("the guest agent's channel", config.guest_agent),
            ("pvpanic", config.pvpanic),
            ("the serial port", config.serials),
        )
        if there
    ]
    if kept:
        yield f"{', '.join(kept)}: kept to look through, whether {profile.title} has it or not"
    yield from (f"not as in {profile.title}: {text}" for text in profile.lacks)


@dataclass
class _Work:
    """A config on its way."""

    config: MachineConfig
    profile: Profile
    notes: list[str] = field(default_factory=list)

    def _set(self, **values: object) -> None:
        self.config = self.config.model_copy(update=values)

    def board(self) -> None:
        """Chipset, and who made the machine."""
        config, profile = self.config, self.profile
        before = config.machine or ""
        if profile.chipset and chipset(before) != profile.chipset:
            # The version stays; every address was for the other chipset's bus.
            machine = f"pc-{profile.chipset}-{before.rpartition('-')[2] or '7.2'}"
            self.notes.append(f"machine: {machine} for {before}")
            self._set(machine=machine, **_unplaced(config))
        if profile.system is not None:
            manufacturer, product = profile.system
            system = config.smbios.system.model_copy(
                update={"manufacturer": manufacturer, "product": product}
            )
            self._set(smbios=config.smbios.model_copy(update={"system": system}))

    def disks(self) -> None:
        """Each disk on a bus that the target has, in the old order."""
        self._set(disks=tuple(self._disk(disk) for disk in self.config.disks or ()))
        used = {(one.bus, one.controller or 0) for one in self.config.disks or ()}
        kept = [
            one
            for one in self.config.controllers
            if one.bus in _CHANNELS or (one.bus, one.index) in used
        ]
        self._set(controllers=tuple(kept))

    def _disk(self, disk: hw.Disk) -> hw.Disk:
        profile = self.profile
        if disk.kind == "cdrom":
            allowed, wanted = profile.cdrom_buses, profile.cdrom_bus
        else:
            windows = self.config.guest_os.family == "windows"
            allowed = profile.disk_buses
            wanted = profile.windows_bus if windows else profile.disk_bus
        if disk.bus == "ide" and chipset(self.config.machine) != "i440fx":
            allowed = tuple(bus for bus in allowed if bus != "ide")
        if disk.bus in allowed:
            return disk
        self.notes.append(f"disk {escape(disk.id)}: on {wanted} for {disk.bus}")
        values: dict[str, object] = {
            "bus": wanted,
            "controller": None,
            "port": None,
            "unit": None,
            "address": None,
            "serial": disk.serial[:SERIAL] if disk.serial else disk.serial,
        }
        if disk.logical_block_size == 4096 and wanted not in ("virtio-blk", "virtio-scsi", "nvme"):
            self.notes.append(f"disk {escape(disk.id)}: sectors of 512 bytes for 4096")
            values |= {"logical_block_size": 512}
        return disk.model_copy(update=values)

    def nics(self) -> None:
        """Each card as a model that the target has; addresses of PCI and network stay."""
        found = []
        for nic in self.config.nics or ():
            model = nic.model or "virtio-net"
            if model not in self.profile.nic_models:
                wanted = self.profile.nic_model
                self.notes.append(f"network card {escape(nic.id or '')}: {wanted} for {model}")
                found.append(nic.model_copy(update={"model": wanted, "mtu": None}))
            else:
                found.append(nic)
        self._set(nics=tuple(found))

    def others(self) -> None:
        """Screen, pointing device, randomness, TPM."""
        config, profile = self.config, self.profile
        display = config.display
        if display.model not in (None, "none", *profile.displays):
            self.notes.append(f"display: {profile.display} for {display.model}")
            self._set(display=display.model_copy(update={"model": profile.display}))
        if config.input not in (None, *profile.inputs):
            self.notes.append(f"input: {profile.inputs[0]} for {config.input}")
            left = [one for one in self.config.controllers if one.bus != "usb-xhci"]
            self._set(input=profile.inputs[0], controllers=tuple(left))
        if config.rng.model == "virtio-rng" and not profile.has_rng:
            self.notes.append("no source of randomness: the target has no virtio-rng")
            self._set(rng=hw.Rng(model="none"))
        if config.tpm is not None and not profile.has_tpm:
            self.notes.append("no TPM: the target has none for this kind of machine")
            self._set(tpm=None)

    def done(self) -> MachineConfig:
        """The config with every device in a place, its rules checked."""
        try:
            placed = give_addresses(give_controllers(give_positions(self.config)))
            return MachineConfig.from_json_dict(placed.to_json_dict())
        except VmpackError as exc:
            raise InfrastructureError(
                f"as {self.profile.title}: {exc.message}",
                field=exc.field,
                clause="IMI-POSSIBLE-2",
                hint="the target has fewer places than this machine needs",
            ) from exc


def _unplaced(config: MachineConfig) -> dict[str, Any]:
    """Everything that has a PCI address, without it."""

    def bare(parts: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(one.model_copy(update={"address": None}) for one in parts)

    return {
        "display": config.display.model_copy(update={"address": None}),
        "rng": config.rng.model_copy(update={"address": None}),
        "nics": bare(config.nics or ()),
        "controllers": bare(config.controllers),
        "disks": tuple(
            one if one.bus in POSITIONS else one.model_copy(update={"address": None})
            for one in config.disks or ()
        ),
    }
