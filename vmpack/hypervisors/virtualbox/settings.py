"""Reads a .vbox: the machine, and the tree of its media."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from vmpack.binary import escape
from vmpack.errors import UnsupportedError
from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.carry import Carrier
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.virtualbox import names
from vmpack.hypervisors.virtualbox.read import Machine, child, children
from vmpack.hypervisors.xmlsafe import local

OLDEST = (1, 9)
MAX_MEDIA = 4096


def read(config: ConfigSource) -> Imported:
    """The machine of a .vbox; see :class:`vmpack.hypervisors.base.Hypervisor`."""
    path = config.name
    root = xmlsafe.parse(config.data, path=path)
    name = local(root.tag)
    machine = child(root, "Machine")
    if name != "VirtualBox" or machine is None:
        encrypted = child(root, "MachineEncrypted") is not None
        raise UnsupportedError(
            "holds an encrypted machine" if encrypted else "holds no machine of VirtualBox's",
            path=path,
            clause="VBOX-READ-1",
            hint="decrypt it in VirtualBox first: VBoxManage encryptvm NAME setencryption"
            if encrypted
            else "the file that describes a machine is its .vbox",
        )
    _require_version(root.get("version", ""), path)
    draft = Draft("virtualbox")
    carrier = Carrier(draft, names.PREFIXES, names.secret)
    draft.report.kept("VirtualBox@version", "the version of settings that is written")
    carrier.take(root, "version")
    Machine(carrier, machine, names.ROOT, media(machine, path)).read()
    carrier.carry(root, "VirtualBox")
    return draft.build()


def _require_version(text: str, path: str) -> None:
    found = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", text)
    if found is None or (int(found[1]), int(found[2])) < OLDEST or int(found[1]) > 1:
        raise UnsupportedError(
            f"its settings have the version {escape(text[:40])!r}; known are 1.9 and later",
            path=path,
            clause="VBOX-READ-2",
            hint="let a newer VirtualBox open the machine and save it",
        )


def media(machine: Element, path: str) -> dict[str, tuple[str, FileRef]]:
    """UUID -> (id, file) of every image that the settings register."""
    registry = child(machine, "MediaRegistry")
    found: dict[str, tuple[str, FileRef]] = {}
    for image, parents in _images(registry):
        uuid = image.get("uuid", "").lower()
        location = image.get("location", "").replace("\\", "/")
        name = re.split(r"/", location)[-1]
        if any(one.get("name", "").startswith("CRYPT/") for one in children(image, "Property")):
            raise UnsupportedError(
                f"the disk {escape(name[:80])!r} is encrypted",
                path=path,
                field="MediaRegistry",
                clause="VBOX-READ-5",
                hint="decrypt it in VirtualBox first: VBoxManage encryptmedium FILE",
            )
        is_disk = local(image.tag) == "HardDisk"
        kind = names.FORMATS.get(image.get("format", "").upper()) if is_disk else "raw"
        stem = re.sub(r"\.[A-Za-z0-9]{1,8}$", "", name) or "disk"
        if parents:
            # A differencing image is called by a UUID: its base has the name.
            stem = re.sub(r"\.[A-Za-z0-9]{1,8}$", "", parents[-1].rpartition("/")[2]) or stem
        file = FileRef(location, kind, parents=tuple(parents))
        found[uuid] = (stem, file)
        if len(found) > MAX_MEDIA:
            raise UnsupportedError(f"registers more than {MAX_MEDIA} images", path=path)
    return found


def _images(registry: Element | None) -> Iterator[tuple[Element, list[str]]]:
    """Every image, and the files of those that it holds changes to, nearest first."""
    for section in registry if registry is not None else ():
        for image in section:
            yield from _tree(image, [])


def _tree(image: Element, parents: list[str]) -> Iterator[tuple[Element, list[str]]]:
    if local(image.tag) not in ("HardDisk", "Image"):
        return
    yield image, parents
    own = image.get("location", "").replace("\\", "/")
    for one in children(image, "HardDisk"):
        yield from _tree(one, [own, *parents])
