"""The scalar types of a config: bounded, strict, and free of anything that could be an option.

Each pattern has a sentence in :data:`PATTERN_MEANINGS`, which is what a user reads when a value
does not match. Specified in ``specs/config-v1.md``, section "Types".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic import ValidationInfo as Info
from pydantic_core import PydanticCustomError

from vmpack.machine.names import CPU_PATTERN, MACHINE_PATTERN
from vmpack.units import MiB, parse_size

ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
# C0, DEL, C1, line and paragraph separators, bidirectional overrides and isolates: whatever could
# make a terminal or a log show something else than what is stored.
_UNSAFE = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
LINE_PATTERN = rf"^[^{_UNSAFE}]*$"
TEXT_PATTERN = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"
NAME_PATTERN = rf"^[^./\\{_UNSAFE}][^/\\{_UNSAFE}]*$"
ASCII_PATTERN = r"^[\x20-\x7e]+$"
SERIAL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,35}$"
WWN_PATTERN = r"^0x[0-9a-f]{16}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
MAC_PATTERN = r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"
ADDRESS_PATTERN = r"^00:(0[1-9a-f]|1[0-9a-f])\.[0-7]$"
NETWORK_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$"
FLAG_PATTERN = r"^[+-][a-z0-9][a-z0-9._-]{0,31}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$"
DATE_PATTERN = r"^(0[1-9]|1[0-2])/(0[1-9]|[12][0-9]|3[01])/[0-9]{4}$"
RELEASE_PATTERN = r"^[0-9]{1,3}\.[0-9]{1,3}$"
HARDWARE_PATTERN = r"^(vmx-[0-9]{1,2}|virtualbox-2\.2)$"
OS_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
PROPERTY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

PATTERN_MEANINGS = {
    ID_PATTERN: "1 to 32 lower-case letters, digits and '-', starting with a letter or digit",
    LINE_PATTERN: "one line of text without control characters",
    TEXT_PATTERN: "text without control characters (tabs and line feeds are allowed)",
    NAME_PATTERN: "one line of text without '/', '\\' or control characters, not starting with '.'",
    ASCII_PATTERN: "printable ASCII",
    SERIAL_PATTERN: "up to 36 letters, digits, '.', '_', ' ' and '-'",
    WWN_PATTERN: "0x and 16 lower-case hexadecimal digits",
    UUID_PATTERN: "a UUID such as 12345678-9abc-8def-8123-456789abcdef",
    MAC_PATTERN: "a unicast MAC address such as 52:54:00:12:34:56",
    ADDRESS_PATTERN: "a PCI address on bus 0 from 00:01.0 to 00:1f.7",
    NETWORK_PATTERN: "up to 64 letters, digits, '.', '_', ' ' and '-'",
    FLAG_PATTERN: "'+' or '-' and a CPU feature's name, such as +aes",
    DIGEST_PATTERN: "sha256: and 64 lower-case hexadecimal digits",
    TIME_PATTERN: "a time such as 2026-01-31T12:00:00",
    DATE_PATTERN: "a date as SMBIOS has it, MM/DD/YYYY",
    RELEASE_PATTERN: "a release such as 1.0",
    HARDWARE_PATTERN: "vmx-NN or virtualbox-2.2",
    OS_PATTERN: "up to 64 lower-case letters, digits, '.', '_' and '-'",
    PROPERTY_PATTERN: "up to 128 letters, digits, '.', '_' and '-'",
    MACHINE_PATTERN: "a versioned machine type such as pc-q35-7.2 or pc-i440fx-7.2",
    CPU_PATTERN: "a versioned CPU model such as Nehalem-v1",
}


_PLURALS = {
    "disks": "disk",
    "nics": "nic",
    "controllers": "controller",
    "serials": "serial",
    "checks": "check",
    "properties": "property",
}


def field_name(attribute: str) -> str:
    """The config's name of a Python attribute: kebab-case, and singular for arrays of tables."""
    return _PLURALS.get(attribute, attribute.replace("_", "-"))


class Part(BaseModel):
    """Base of every table of a config: unchangeable, no unknown fields, kebab-case names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=field_name,
        hide_input_in_errors=True,
    )


def _lower(value: object, info: Info) -> object:
    """People write UUIDs and MACs in either case; a bundle has one."""
    return value.lower() if isinstance(value, str) and written_by_a_person(info) else value


def _size(value: object, info: Info) -> object:
    if isinstance(value, str) and written_by_a_person(info):
        return parse_size(value, name="memory")
    return value


def written_by_a_person(info: Info) -> bool:
    """Whether the config comes from a person (TOML): such conveniences as ``"512M"`` apply."""
    return bool(info.context and info.context.get("person"))


def _no_boolean(value: object) -> object:
    """``True`` equals 1 in Python, and must not pass for it."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "an integer is needed")
    return value


NoBoolean = BeforeValidator(_no_boolean)


def _string(pattern: str, least: int = 1, most: int = 255) -> StringConstraints:
    return StringConstraints(strict=True, pattern=pattern, min_length=least, max_length=most)


Id = Annotated[str, _string(ID_PATTERN, most=32)]
Name = Annotated[str, _string(NAME_PATTERN, most=128)]
Line = Annotated[str, _string(LINE_PATTERN)]
Value = Annotated[str, _string(TEXT_PATTERN, least=0, most=8192)]
Key = Annotated[str, _string(LINE_PATTERN, most=512)]
Text = Annotated[str, _string(TEXT_PATTERN, most=8192)]
LongText = Annotated[str, _string(TEXT_PATTERN, most=65536)]
Ascii = Annotated[str, _string(ASCII_PATTERN)]
LongAscii = Annotated[str, _string(ASCII_PATTERN, most=4096)]
Serial = Annotated[str, _string(SERIAL_PATTERN, most=36)]
Wwn = Annotated[str, _string(WWN_PATTERN)]
Uuid = Annotated[str, _string(UUID_PATTERN), BeforeValidator(_lower)]
Mac = Annotated[str, _string(MAC_PATTERN), BeforeValidator(_lower)]
Address = Annotated[str, _string(ADDRESS_PATTERN)]
Network = Annotated[str, _string(NETWORK_PATTERN, most=64)]
Flag = Annotated[str, _string(FLAG_PATTERN)]
Digest = Annotated[str, _string(DIGEST_PATTERN)]
Time = Annotated[str, _string(TIME_PATTERN)]
Date = Annotated[str, _string(DATE_PATTERN)]
Release = Annotated[str, _string(RELEASE_PATTERN)]
OvfHardware = Annotated[str, _string(HARDWARE_PATTERN)]
OsId = Annotated[str, _string(OS_PATTERN, most=64)]
PropertyKey = Annotated[str, _string(PROPERTY_PATTERN, most=128)]
MachineType = Annotated[str, _string(MACHINE_PATTERN, most=32)]
CpuModel = Annotated[str, _string(CPU_PATTERN, most=48)]
Bool = Annotated[bool, Field(strict=True)]


Index = Annotated[int, Field(strict=True, ge=0, le=31)]
Port = Annotated[int, Field(strict=True, ge=0, le=255)]
Count = Annotated[int, Field(strict=True, ge=1, le=255)]
Order = Annotated[int, Field(strict=True, ge=1, le=64)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=86400)]
ExitCode = Annotated[int, Field(strict=True, ge=0, le=255)]
Mtu = Annotated[int, Field(strict=True, ge=576, le=65535)]
RotationRate = Annotated[int, Field(strict=True, ge=1, le=65534)]

MEMORY_MAX = 1 << 46
Memory = Annotated[
    int,
    Field(strict=True, ge=MiB, le=MEMORY_MAX, multiple_of=MiB),
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MiB, "maximum": MEMORY_MAX, "multipleOf": MiB},
                {"type": "string", "pattern": r"^[0-9.]+ *[KMGTkmgt](i?[Bb])?$"},
            ]
        }
    ),
]
