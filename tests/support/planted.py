"""Machines, and changes that are planted in them: what the proof of ``vmpack verify`` boots.

A change is made where somebody would make it: in the machine's config, or on its disks. Nothing is
mounted: files of the small guest are put into its FAT partition, and into one more archive for its
initramfs.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fixtures.build import sectors
from tests.support import stuck
from tests.support.guests import BOOT_PARTITION
from tests.support.runner import qemu_of
from vmpack.bundle import Bundle
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.runner.options import RunOptions
from vmpack.verify.boot import Boot, boot_once
from vmpack.verify.compare import compare
from vmpack.verify.layers import LAYERS, LayerName
from vmpack.verify.model import Code, Difference

FACTS = frozenset(row.name for row in LAYERS if row.kind == "facts")
"""Layers that say what differs; the others say that something is less alike."""

RECORD, UNCHANGED = "record", "unchanged"
"""Boots of the base."""

Disks = Callable[[Path], list[Path]]
"""From an empty folder to a machine's disks, the boot disk first."""

OPTIONS = RunOptions(accel="tcg", timeout_s=300)


@dataclass(frozen=True)
class Base:
    """A machine as it was recorded."""

    config: str
    disks: Disks
    means: str | None = None
    """How its guest is asked."""


@dataclass(frozen=True)
class Change:
    """What was changed, and the difference that has to be found."""

    layer: LayerName
    code: Code
    item: str
    """Of the difference."""
    config: tuple[tuple[str, str], ...] = ()
    """What stands in the base's config -> what takes its place; nothing there: it is appended."""
    disks: Disks | None = None
    """In place of the base's."""

    @property
    def difference(self) -> tuple[LayerName, Code, str]:
        """Its place in a report."""
        return self.layer, self.code, self.item


def machine(folder: Path, base: Base, change: Change | None = None) -> Path:
    """The bundle of a base, changed or as it was; the file is ``folder``'s only bundle."""
    text = base.config
    for old, new in change.config if change else ():
        assert old in text, old
        text = text.replace(old, new, 1) if old else f"{text}\n{new}\n"
    make = change.disks if change and change.disks else base.disks
    bundle = folder / "machine.vmpack"
    pack(make(folder), bundle, config=MachineConfig.from_toml(text), level=1)
    for disk in folder.glob("*.raw"):
        disk.unlink()
    return bundle


def boot_all(
    bundles: Iterable[Path],
    base: Base,
    record: Boot | None = None,
    *,
    at_once: int = 1,
    host: str = "machine",
) -> list[Boot]:
    """Boot each once; ``at_once`` of them side by side, because some wait on purpose."""
    places = asyncio.Semaphore(at_once)
    end = None if record is None else record.end

    async def one(bundle: Path) -> Boot:
        async with places:
            with Bundle.open(bundle) as opened:
                return await boot_once(
                    opened, OPTIONS, qemu=qemu_of(host), end=end, means=base.means
                )

    async def everything() -> Sequence[Boot]:
        return await asyncio.gather(*map(one, bundles))

    return list(asyncio.run(everything()))


def recorded(changes: Mapping[str, Change], folder: Path, base: Base) -> dict[str, Boot]:
    """A boot of the base for its record, one more of it, and one of each changed machine.

    Rows whose config and disks are the same share a boot.
    """
    made: dict[object, Path] = {None: _machine_in(folder / "base", base, None)}
    places: dict[str, object] = {UNCHANGED: None}
    for number, (name, change) in enumerate(changes.items()):
        places[name] = change.config, change.disks
        if places[name] not in made:
            made[places[name]] = _machine_in(folder / str(number), base, change)
    (record,) = boot_all([made[None]], base)
    boots = dict(zip(made, boot_all(made.values(), base, record, at_once=2), strict=True))
    return {RECORD: record, **{name: boots[place] for name, place in places.items()}}


def _machine_in(folder: Path, base: Base, change: Change | None) -> Path:
    folder.mkdir()
    return machine(folder, base, change)


def differences(boots: Mapping[str, Boot], name: str) -> tuple[Difference, ...]:
    """What a boot shows that is not as recorded."""
    record, boot = boots[RECORD], boots[name]
    assert record.good, record.ending
    assert record.problems == ()
    assert record.observation is not None
    assert boot.observation is not None
    return compare(record.observation, boot.observation).differences


def assert_found(boots: Mapping[str, Boot], name: str, change: Change) -> None:
    """The change's own difference is there, it counts, and its layer holds facts."""
    counted = [one for one in differences(boots, name) if one.counts]
    found = {(one.layer, one.code, one.item): one for one in counted}
    assert change.layer in FACTS
    assert change.difference in found, (boots[name].ending, boots[name].problems, list(found))
    assert found[change.difference].cause


def assert_nothing_found(boots: Mapping[str, Boot]) -> None:
    """The machine as it was shows no difference: without that, the others would prove nothing."""
    assert boots[UNCHANGED].good, boots[UNCHANGED].ending
    assert differences(boots, UNCHANGED) == ()


# A boot sector: the virtual hardware, and endings that need no system.


def sector(name: str) -> Disks:
    """A disk that boots the sector ``name``, and one of 2 MiB for data."""

    def make(folder: Path) -> list[Path]:
        return [sectors.write_disk(name, folder / "root.raw"), blank(folder / "data.raw", 2)]

    return make


def more_disks(*sizes_mib: int) -> Disks:
    """The sector's disk, and blank ones of these sizes."""

    def make(folder: Path) -> list[Path]:
        disks = [blank(folder / f"data{n}.raw", size) for n, size in enumerate(sizes_mib)]
        return [sectors.write_disk("echo", folder / "root.raw"), *disks]

    return make


def nothing_to_boot(folder: Path) -> list[Path]:
    """Two disks without a boot loader."""
    return [blank(folder / "root.raw", 1), blank(folder / "data.raw", 2)]


def blank(path: Path, size_mib: int) -> Path:
    """A disk with nothing on it."""
    with path.open("wb") as file:
        file.truncate(size_mib << 20)
    return path


SECTOR = Base(
    """
memory = "128M"
machine = "pc-q35-7.2"
uuid = "4f1f6bd0-6e4c-4a55-8d0e-6f2f7a9d1c01"
expected = { milestones = ["boot sector: *echo"] }
[cpu]
model = "Nehalem-v1"
cores = 2
[display]
model = "std"
[rtc]
clock = "utc"
[smbios.bios]
version = "1.0"
[smbios.system]
serial = "A-1"
[[nic]]
id = "lan"
model = "virtio-net"
mac = "52:54:00:12:34:56"
address = "00:10.0"
[[disk]]
id = "root"
address = "00:11.0"
boot = 1
[[disk]]
id = "data"
serial = "D-1"
address = "00:12.0"
""",
    sector("echo"),
)

# The small guest: a kernel, its initramfs, processes, and a login on the console.


def guest(
    *, options: str = "", edits: Iterable[tuple[str, str, str]] = (), **files: bytes
) -> Disks:
    """The small guest with ``options`` on its kernel's command line.

    ``edits`` are ``(FILE, OLD, NEW)`` of its own sources; ``files`` are more of its files, ``__``
    standing for a slash and ``_DOT_`` for a dot.
    """
    named = {name.replace("__", "/").replace("_DOT_", "."): data for name, data in files.items()}
    for name, old, new in edits:
        path = name if name == "init" else f"etc/{name}"
        text = named.get(path, (stuck_sources() / name).read_bytes())
        assert old.encode() in text, old
        named[path] = text.replace(old.encode(), new.encode(), 1)

    def make(folder: Path) -> list[Path]:
        return [stuck.variant(folder, "root", files=named, options=options)]

    return make


def stuck_sources() -> Path:
    """The folder of the small guest's own files."""
    from fixtures.build.small import SOURCES

    return SOURCES


def patched(change: Callable[[Path], None]) -> Disks:
    """The small guest with its disk ``change``d."""

    def make(folder: Path) -> list[Path]:
        (disk,) = guest()(folder)
        change(disk)
        return [disk]

    return make


def boot_file(disk: Path, name: str) -> bytes:
    """A file of the boot partition."""
    place = f"{disk}@@{BOOT_PARTITION}"
    return subprocess.run(
        ["mcopy", "-i", place, f"::/{name}", "-"], capture_output=True, check=True
    ).stdout


def put_boot_file(disk: Path, name: str, content: bytes) -> None:
    """Write a file of the boot partition, in place of the one there."""
    place = f"{disk}@@{BOOT_PARTITION}"
    words = ["mcopy", "-D", "o", "-i", place, "-", f"::/{name}"]
    subprocess.run(words, input=content, check=True)


def remove_boot_file(disk: Path, name: str) -> None:
    """Delete a file of the boot partition."""
    subprocess.run(["mdel", "-i", f"{disk}@@{BOOT_PARTITION}", f"::/{name}"], check=True)


def write_at(disk: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes of a disk."""
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


SMALL = Base(
    """
memory = "256M"
machine = "pc-q35-7.2"
uuid = "4f1f6bd0-6e4c-4a55-8d0e-6f2f7a9d1c02"
[cpu]
cores = 1
[smbios.system]
product = "small"
[[nic]]
id = "lan"
mac = "52:54:00:12:34:57"
address = "00:10.0"
[[disk]]
id = "root"
serial = "R-1"
[verify.login]
user = "root"
""",
    guest(),
    means="serial-login",
)
