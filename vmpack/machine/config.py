"""``MachineConfig``: a whole virtual machine, without its disks' contents.

Specified in ``specs/config-v1.md``. A config never names a path, device or socket of a host. It is
written by people as TOML, and stored in a bundle as canonical JSON; both have the same fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from vmpack.machine import reading
from vmpack.machine.expectation import Expected, GuestOs, Ova, VerbatimField, Verify
from vmpack.machine.hardware import (
    Controller,
    Cpu,
    Disk,
    Firmware,
    Nic,
    Rng,
    Rtc,
    SerialPort,
    Smbios,
    Tpm,
    Video,
)
from vmpack.machine.names import Architecture, Hypervisor
from vmpack.machine.rules import conflicts
from vmpack.machine.scalars import Bool, MachineType, Memory, Name, NoBoolean, Part, Text, Uuid

__all__ = ["MachineConfig"]


class MachineConfig(Part):
    """A virtual machine; immutable. ``model_copy(update=...)`` is not validated: rebuild instead.

    ``None`` means "not pinned"; the config of a bundle has been through
    :func:`vmpack.machine.pins.pin`. ``disks``, ``nics`` and ``serials`` tell none (an empty tuple)
    from not pinned (``None``).
    """

    version: Annotated[Literal[1], NoBoolean] = Field(
        default=1, description="version of this schema"
    )
    name: Name | None = Field(default=None, description="name of the machine")
    description: Text | None = Field(default=None, description="free text")
    architecture: Architecture | None = Field(default=None, description="instruction set")
    machine: MachineType | None = Field(default=None, description="versioned machine type")
    uuid: Uuid | None = Field(default=None, description="UUID of the machine, lower case")
    memory: Memory | None = Field(default=None, description="bytes, a multiple of 1 MiB")
    hyperv_generation: Annotated[Literal[1, 2], NoBoolean] | None = Field(
        default=None, description="generation on Hyper-V: 1 is BIOS, 2 is UEFI"
    )
    pvpanic: Bool | None = Field(
        default=None, description="device by which a guest reports a panic"
    )
    guest_agent: Bool | None = Field(default=None, description="channel for the QEMU guest agent")
    watchdog: Literal["none"] | None = Field(default=None, description="watchdog device")
    input: Literal["ps2", "usb-tablet"] | None = Field(default=None, description="pointing device")
    guest_os: GuestOs = Field(default=GuestOs(), description="what is installed")
    cpu: Cpu = Field(default=Cpu(), description="CPU")
    firmware: Firmware = Field(default=Firmware(), description="firmware")
    display: Video = Field(default=Video(), description="graphics card")
    rtc: Rtc = Field(default=Rtc(), description="clock")
    rng: Rng = Field(default=Rng(), description="randomness")
    tpm: Tpm | None = Field(default=None, description="TPM; none when absent")
    smbios: Smbios = Field(default=Smbios(), description="SMBIOS strings")
    controllers: Annotated[tuple[Controller, ...], Field(max_length=32)] = Field(
        default=(), description="controllers"
    )
    disks: Annotated[tuple[Disk, ...], Field(max_length=64)] | None = Field(
        default=None, description="disks and CD-ROM drives"
    )
    nics: Annotated[tuple[Nic, ...], Field(max_length=32)] | None = Field(
        default=None, description="network cards"
    )
    serials: Annotated[tuple[SerialPort, ...], Field(max_length=4)] | None = Field(
        default=None, description="serial ports"
    )
    expected: Expected = Field(default=Expected(), description="how a good boot looks")
    verify: Verify = Field(default=Verify(), description="the user's own checks")
    ova: Ova = Field(default=Ova(), description="product data")
    verbatim: dict[
        Hypervisor, Annotated[tuple[VerbatimField, ...], Field(min_length=1, max_length=4096)]
    ] = Field(default={}, description="fields of a source that vmpack does not model")

    @field_validator("cpu")
    @classmethod
    def _sort_flags(cls, cpu: Cpu) -> Cpu:
        flags = tuple(sorted(cpu.flags, key=lambda flag: (flag[1:], flag)))
        return cpu if flags == cpu.flags else cpu.model_copy(update={"flags": flags})

    @model_validator(mode="after")
    def _check_rules(self) -> MachineConfig:
        for found in conflicts(self):
            raise PydanticCustomError(
                "conflict",
                "{message}",
                {
                    "message": found.message,
                    "field": found.field,
                    "clause": found.clause,
                    "hint": found.hint,
                },
            )
        return self

    @classmethod
    def from_toml(cls, source: str | os.PathLike[str]) -> MachineConfig:
        """The config in the TOML text ``source``, or in the file that a ``Path`` names.

        Raises :class:`UsageError` with line and column, or the field, and a hint; and
        :class:`InputError` for a file that cannot be read.
        """
        if isinstance(source, str):
            return reading.from_person(cls, reading.parse_toml(source))
        return cls.from_file(source)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MachineConfig:
        """The config that a person wrote: JSON if the name ends in ``.json``, otherwise TOML."""
        text = reading.read_text(path)
        is_json = os.fspath(path).lower().endswith(".json")
        parse = reading.parse_json if is_json else reading.parse_toml
        return reading.from_person(cls, parse(text, path=path), path=path)

    @classmethod
    def from_json_dict(
        cls, data: Mapping[str, object], *, path: str | None = None
    ) -> MachineConfig:
        """The config of a bundle, as :func:`vmpack.machine.canonical.loads` gives it.

        Raises :class:`DamagedError` with the field for anything but what :meth:`to_json_dict`
        writes, and :class:`UnsupportedError` for a later version of the schema.
        """
        return reading.from_bundle(cls, data, path=path)

    def to_json_dict(self) -> dict[str, Any]:
        """JSON types only; ``version`` always, every other field that differs from absence."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {"version": self.version, **data}

    def to_toml(self) -> str:
        """TOML that :meth:`from_toml` reads back to an equal config."""
        from vmpack.machine.plain import toml_text

        return toml_text(self.to_json_dict())

    def observable(self) -> dict[str, Any]:
        """What the guest can observe, as JSON types: the part that makes the ``machine-id``."""
        from vmpack.machine.plain import observable

        return observable(self.to_json_dict())
