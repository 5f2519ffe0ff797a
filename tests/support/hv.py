"""Machines on their way between hypervisors: what to move, where from, and what is there then."""

from __future__ import annotations

import hashlib
import json
import os
import plistlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import yaml

from tests.support.disks import random_disk
from tests.support.hostile import WATCH
from tests.support.tools import require_tool, run
from vmpack import hypervisors
from vmpack.bundle import Bundle
from vmpack.errors import InputError, VmpackError
from vmpack.hypervisors.base import ExportDisk, Imported
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops import importing
from vmpack.ops.exporting import ExportResult
from vmpack.ops.opening import open_image
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SIZES = {"root": MIB, "data": 2 * MIB}
RICH = """
name = "shop"
description = "Sells things."
uuid = "12345678-9abc-4def-8123-456789abcdef"
memory = "512M"
guest-os = {id = "debian12", family = "linux"}
cpu = {sockets = 1, cores = 2}

[[disk]]
id = "root"
bus = "sata"
boot = 1

[[disk]]
id = "data"
bus = "sata"

[[disk]]
id = "cd"
kind = "cdrom"
bus = "sata"
empty = true

[[nic]]
model = "e1000"
mac = "52:54:00:12:34:56"

[[nic]]
model = "e1000"
mac = "52:54:00:12:34:57"
"""
UEFI = RICH + '[firmware]\nkind = "uefi"\n'


def reading() -> list[str]:
    """Hypervisors whose configs are read."""
    return [name for name in hypervisors.names() if hypervisors.get(name).read is not None]


def writing() -> list[str]:
    """Hypervisors for which machines are written."""
    return [name for name in hypervisors.names() if hypervisors.get(name).plan is not None]


def bundle_of(
    folder: Path,
    toml: str = RICH,
    blobs: Mapping[str, bytes] | None = None,
    name: str = "app.vmpack",
) -> Path:
    """A bundle of that machine, its disks small and random."""
    folder.mkdir(exist_ok=True)
    config = MachineConfig.from_toml(toml)
    disks, given = {}, {}
    for number, disk in enumerate(one for one in config.disks or () if not one.empty):
        disks[disk.id] = folder / f"{disk.id}.raw"
        random_disk(disks[disk.id], SIZES.get(disk.id, MIB), seed=number + 1)
    for blob, data in (blobs or {}).items():
        given[blob] = folder / f"{blob}.blob"
        given[blob].write_bytes(data)
    pack([], folder / name, config=config, disks=disks, blobs=given)
    return folder / name


@dataclass(frozen=True)
class Source:
    """A machine as a hypervisor has it, to be read."""

    path: Path
    """What ``vmpack pack`` is given."""
    disks: Mapping[str, Path] = field(default_factory=dict)
    """What ``--disk`` is given."""
    is_config: bool = True
    """A hypervisor reads it; false for a script with disks."""


def written_for(name: str, bundle: Path, folder: Path) -> tuple[ExportResult, Source]:
    """The bundle's machine for that hypervisor, and what reads it again."""
    result = export_bundle(bundle, folder, name, verify=False)
    return result, source_in(result, folder)


def source_in(result: ExportResult, folder: Path) -> Source:
    """What an export is read by again: its one archive, or its folder."""
    archive = result.disks[0][1].rpartition(":")[0] if result.disks else ""
    path = Path(archive) if archive and os.path.isfile(archive) else folder
    try:
        found = importing.find(path)
    except InputError:
        found = None
    if found is None:
        return Source(path, is_config=False)
    with ExitStack() as stack:
        stack.callback(found.close)
        imported = importing.read_config(found)
    files = {disk_id: Path(file) for disk_id, file in result.disks}
    volumes = importing.volumes(imported)
    if not volumes:
        return Source(path)
    order = list(files.values())
    return Source(
        path,
        {
            disk_id: files.get(disk_id) or order[list(imported.disks).index(disk_id)]
            for disk_id in volumes
        },
    )


def read_back(source: Source) -> tuple[Imported, dict[str, str]]:
    """The machine that a source describes, and the content digest of each of its disks."""
    from vmpack.digest import content_digest

    found = importing.find(source.path)
    assert found is not None, source
    with ExitStack() as stack:
        stack.callback(found.close)
        imported = importing.read_config(found)
        opened = importing.open_disks(stack, found, imported, disks=source.disks)
        digests = {disk_id: content_digest(reader) for disk_id, reader in opened.readers.items()}
    return imported, digests


def digest_of(path: str | Path) -> str:
    """Content digest of a disk image."""
    from vmpack.digest import content_digest

    reader = open_image(path)
    try:
        return content_digest(reader)
    finally:
        reader.close()


def grown_digests(bundle: Path, size: int) -> list[str]:
    """Content digests of a bundle's disks, were each ``size`` bytes long."""
    from vmpack.digest import content_digest
    from vmpack.ops.grown import GrownDisk

    found = []
    with Bundle.open(bundle) as opened:
        for one in opened.manifest.disks:
            reader = opened.disk(one.id)
            found.append(content_digest(GrownDisk(reader, size)))
            reader.close()
    return found


def bundle_digests(bundle: Path) -> dict[str, str]:
    """Content digest of each disk of a bundle."""
    with Bundle.open(bundle) as opened:
        return {disk.id: disk.content_digest for disk in opened.disks}


def bundle_config(bundle: Path) -> MachineConfig:
    with Bundle.open(bundle) as opened:
        return MachineConfig.from_json_dict(opened.manifest.config)


def pinned(imported: Imported) -> MachineConfig:
    """The imported config with every choice pinned."""
    facts = [
        DiskFacts(disk.id, MIB, kind=disk.kind or "disk")
        for disk in imported.config.disks or ()
        if not disk.empty
    ]
    return pin(imported.config, facts, seed=b"t", name=imported.config.name or "unnamed")


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file of a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a config's JSON and its path, ``disk[0].bus``; lists of text whole."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def kept(report: Mapping[str, Any]) -> set[str]:
    """The fields that a report calls kept."""
    return {item["field"] for item in report["items"] if item["verdict"] == "kept"}


def comparable(config: MachineConfig, kept: set[str] | None = None) -> dict[str, object]:
    """The fields of a config (those in ``kept``) by paths that do not depend on an order or an id.

    Disks are counted without those of which nothing was kept, controllers are known by their names.
    """
    found: dict[str, object] = {}
    data = config.to_json_dict()
    for disk in data.get("disk", ()):
        del disk["id"]
    numbers: dict[int, int] = {}
    for path, value in leaves(data):
        if path == "version" or (kept is not None and path not in kept):
            continue
        place = path
        if path.startswith("disk["):
            number = int(path[5 : path.index("]")])
            numbers.setdefault(number, len(numbers))
            place = f"disk[{numbers[number]}]{path[path.index(']') + 1 :]}"
        elif path.startswith("controller["):
            one = config.controllers[int(path[11 : path.index("]")])]
            place = f"controller[{one.bus}-{one.index}]{path[path.index(']') + 1 :]}"
        found[place] = value
    return found


def require_whole(report: Mapping[str, Any], config: MachineConfig, own: str) -> None:
    """Every field of the config has a verdict in an export's report, and says why."""
    said = require_reasons(report)
    for path, _ in leaves(config.to_json_dict()):
        if path == "version" or path.startswith(f"verbatim.{own}["):
            continue
        stems = [path, *(path[:n] for n, char in enumerate(path) if char in ".[")]
        assert said & set(stems), f"{path} is in no report"


def require_reasons(report: Mapping[str, Any]) -> set[str]:
    """The fields of a report, each of which has a verdict and says why."""
    for item in report["items"]:
        assert item["verdict"] in ("kept", "approximated", "dropped"), item
        assert item["field"], item
        if item["verdict"] != "kept":
            assert item.get("detail"), f"no word why: {item}"
    for verdict in ("kept", "approximated", "dropped"):
        assert report[verdict] == sum(one["verdict"] == verdict for one in report["items"])
    return {item["field"] for item in report["items"]}


def parse(path: Path) -> None:
    """A text file of an export is what its name says, by another parser than vmpack's."""
    data = path.read_bytes()
    kind = path.suffix.lower()
    if kind in (".xml", ".ovf", ".vbox"):
        defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    elif kind in (".yaml", ".yml"):
        list(yaml.safe_load_all(data.decode()))
    elif kind == ".json":
        json.loads(data)
    elif kind == ".plist":
        plistlib.loads(data)
    elif kind == ".sh":
        run([require_tool("bash"), "-n", path])
        run([require_tool("shellcheck"), "-S", "warning", path])
    elif kind == ".toml":
        MachineConfig.from_file(path)


@contextmanager
def only_opens(*folders: Path) -> Iterator[None]:
    """Nothing outside of ``folders`` is opened in the block, no process started, no socket.

    Python's own code, and what the C library looks at, apart.
    """
    with WATCH.opened() as seen:
        yield
    allowed = [os.path.realpath(one) for one in folders]
    allowed += [str(ROOT / "vmpack"), os.path.realpath(sys.prefix), sys.base_prefix + "/lib"]
    outside = []
    for name in seen:
        path = os.path.realpath(name)
        own = path.startswith((f"/proc/{os.getpid()}/", "/proc/self/", "/dev/null", "/etc/ld.so"))
        if not own and not any(os.path.commonpath([path, one]) == one for one in allowed):
            outside.append(name)
    # A file without a name, into which an archive is unpacked, is opened by its folder's.
    assert [one for one in outside if one != tempfile.gettempdir()] == [], outside


def fact(disk_id: str) -> ExportDisk:
    """What an exporter is told of a small disk."""
    return ExportDisk(disk_id, MIB, MIB)


def remove_empty(folder: Path) -> None:
    """Remove a folder in which there are none but folders."""
    for root, _, _ in os.walk(folder, topdown=False):
        Path(root).rmdir()


def refused(work: Any) -> VmpackError | None:
    """The error of vmpack's own that ``work`` raises; any other is a failure of the test."""
    try:
        work()
    except VmpackError as exc:
        return exc
    return None
