"""The texts of an export: ``qm`` config, and the shell script that imports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING

from vmpack.hypervisors.proxmox.syntax import encode_text

if TYPE_CHECKING:
    from vmpack.hypervisors.proxmox.layout import Drive
    from vmpack.hypervisors.proxmox.write import Writing

CONFIG = "qm.conf"
SCRIPT = "import.sh"
_HEAD = """\
#!/bin/sh
# Imports the machine into Proxmox VE 7.2 or newer; run it as root on a node.
# Usage: sh import.sh VMID STORAGE [ISO-STORAGE]
set -eu
if [ $# -lt 2 ]; then
    echo "usage: sh $0 VMID STORAGE [ISO-STORAGE]" >&2
    exit 2
fi
vmid=$1
storage=$2
here=$(cd -- "$(dirname -- "$0")" && pwd)
case $here in
    *[,=]*)
        echo "$here: Proxmox cannot import from a folder with ',' or '=' in its name" >&2
        exit 1
        ;;
esac
"""


def config_text(writing: Writing, drives: Sequence[Drive]) -> str:
    """``qm config``'s form, with the files beside it as volumes; vmpack reads it back."""
    lines: list[str] = []
    for key, value in writing.options.items():
        if key == "description":
            lines[:0] = [f"#{encode_text(line)}" for line in value.split("\n")]
        else:
            lines.append(f"{key}: {value}")
    for key, (file, properties) in writing.volumes.items():
        # A new, empty volume is nobody's file: Proxmox makes it.
        volume = file or "NEW:1"
        lines.append(f"{key}: {volume},{properties}")
    lines += [f"{one.key}: {_value(one.file or 'none', one)}" for one in drives]
    return "\n".join(lines) + "\n"


def script_text(writing: Writing, drives: Sequence[Drive]) -> str:
    """The script; every value is quoted for the shell."""
    isos = any(one.file.endswith(".iso") for one in drives)
    lines = ["isos=${3:-local}"] if isos else []
    return _HEAD + "\n".join([*lines, "", *_commands(writing, drives), ""])


def _commands(writing: Writing, drives: Sequence[Drive]) -> Iterator[str]:
    # The boot order names drives, which have to be there first.
    late = {key: value for key, value in writing.options.items() if key == "boot"}
    early = [f"--{key} {quote(value)}" for key, value in writing.options.items() if key not in late]
    yield 'qm create "$vmid" \\\n    ' + " \\\n    ".join(early)
    for key, (file, properties) in writing.volumes.items():
        yield f'qm set "$vmid" --{key} {_new(file, properties)}'
    for drive in drives:
        yield from _drive(drive)
    for key, value in late.items():
        yield f'qm set "$vmid" --{key} {quote(value)}'
    yield 'echo "VM $vmid is there: qm start $vmid"'


def _new(file: str, properties: str) -> str:
    if not file:
        return f'"$storage:1"{quote("," + properties)}'
    return f'"$storage:0,import-from=$here/"{quote(file + "," + properties)}'


def _drive(drive: Drive) -> Iterator[str]:
    if not drive.file:
        yield f'qm set "$vmid" --{drive.key} {quote(_value("none", drive))}'
        return
    if drive.file.endswith(".iso"):
        name = f'"vm-$vmid-"{quote(drive.file)}'
        yield f'cp -- "$here/"{quote(drive.file)} "$(pvesm path "$isos:iso/"{name})"'
        yield f'qm set "$vmid" --{drive.key} "$isos:iso/"{name}{quote(_behind(drive))}'
        return
    tail = quote(drive.file + _behind(drive))
    yield f'qm set "$vmid" --{drive.key} "$storage:0,import-from=$here/"{tail}'


def _behind(drive: Drive) -> str:
    return "".join(f",{key}={value}" for key, value in drive.properties.items())


def _value(volume: str, drive: Drive) -> str:
    return volume + _behind(drive)
