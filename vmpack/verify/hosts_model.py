"""What a hosts file may say, checked: specs/hosts-v1.md, HOSTS-FILE-*."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from vmpack.machine import reading
from vmpack.machine.scalars import PATTERN_MEANINGS, Line, NoBoolean, Part
from vmpack.verify.hosts import HERE, Host, Ssh, require_file, resolved

__all__ = ["HostEntry", "HostsFile", "read"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TARGET_PATTERN = r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9][A-Za-z0-9.:%_-]{0,254}$"
PATTERN_MEANINGS[NAME_PATTERN] = "up to 64 letters, digits, '.', '_' and '-'"
PATTERN_MEANINGS[TARGET_PATTERN] = "[USER@]HOST"
SSH_ONLY = ("port", "identity", "config", "vmpack", "folder")
PLACES = ("qemu", "root", "ssh")

HostName = Annotated[str, StringConstraints(strict=True, pattern=NAME_PATTERN)]
Target = Annotated[str, StringConstraints(strict=True, pattern=TARGET_PATTERN)]
Port = Annotated[int, NoBoolean, Field(strict=True, ge=1, le=65535)]


class HostEntry(Part):
    """One ``[host.NAME]``."""

    qemu: Line | None = Field(default=None, description="path of a QEMU of this machine")
    root: Line | None = Field(default=None, description="root of another system with a QEMU")
    accel: Literal["auto", "kvm", "tcg"] | None = Field(
        default=None, description="how the guest's CPU is run; default: as --accel says"
    )
    ssh: Target | None = Field(default=None, description="another machine: [USER@]HOST")
    port: Port | None = Field(default=None, description="port of its ssh server")
    identity: Line | None = Field(default=None, description="path of the private key to log in")
    config: Line | None = Field(default=None, description="path of an ssh configuration file")
    vmpack: Line | None = Field(default=None, description="path of vmpack there")
    folder: Line | None = Field(default=None, description="folder there that keeps the bundles")


class HostsFile(Part):
    """A hosts file."""

    hosts: Annotated[dict[HostName, HostEntry], Field(max_length=1000)] = Field(
        default={}, alias="host", description="the hosts, by name"
    )

    @model_validator(mode="after")
    def _check_rules(self) -> HostsFile:
        for name, entry in self.hosts.items():
            for field, message, hint in _conflicts(name, entry):
                raise PydanticCustomError(
                    "conflict",
                    "{message}",
                    {
                        "message": message,
                        "field": f"host.{name}{field}",
                        "clause": "HOSTS-FILE-3",
                        "hint": hint,
                    },
                )
        return self


def _conflicts(name: str, entry: HostEntry) -> Iterator[tuple[str, str, str]]:
    if name == HERE:
        yield "", "this name is taken: it is this machine", "give the host another name"
    given = [place for place in PLACES if getattr(entry, place) is not None]
    if len(given) > 1:
        what = f"{' and '.join(given)} say two places"
        yield f".{given[1]}", what, "a host is one place: keep one of them"
    if not given and entry.accel is None:
        yield "", "says no place", "name one of qemu, root, ssh or accel"
    if entry.ssh is None:
        for field in SSH_ONLY:
            if getattr(entry, field) is not None:
                yield f".{field}", "is for a machine that ssh reaches", "add ssh, or remove it"


def read(path: str | os.PathLike[str]) -> dict[str, Host]:
    """The hosts of a file. Raises :class:`UsageError` and :class:`InputError`."""
    name = os.fspath(path)
    require_file(Path(name))
    data = reading.parse_toml(reading.read_text(name), path=name)
    folder = Path(os.path.abspath(name)).parent
    file = reading.from_person(HostsFile, data, path=name)
    return {host: _host(host, entry, folder) for host, entry in file.hosts.items()}


def _host(name: str, entry: HostEntry, folder: Path) -> Host:
    def place(path: str | None) -> str | None:
        return None if path is None else resolved(path, folder)

    ssh = None
    if entry.ssh is not None:
        ssh = Ssh(
            target=entry.ssh,
            port=entry.port,
            identity=place(entry.identity),
            config=place(entry.config),
            vmpack=entry.vmpack or "vmpack",
            folder=entry.folder,
        )
    return Host(name, entry.accel, place(entry.qemu), place(entry.root), ssh)
