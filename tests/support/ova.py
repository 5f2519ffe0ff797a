"""OVAs that were written, taken apart."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from xml.etree.ElementTree import Element

from tests.support import hv
from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.base import ExportDisk, Machine, WrittenDisk
from vmpack.hypervisors.ovf import names
from vmpack.hypervisors.ovf.plan import plan
from vmpack.machine import DiskFacts, MachineConfig, pin
from vmpack.ops.transfer import export_bundle

TARGETS = ("ova", "esxi", "virtualbox")
OVF, RASD = f"{{{names.OVF1}}}", f"{{{names.RASD}}}"
VMW = f"{{{names.VMW}}}"

LEAVES_THAT_CHANGE = frozenset(
    {"size", "href", "id", "fileRef", "capacity", "capacityAllocationUnits", "populatedSize"}
    | {"format", "version", "lang", "InstanceID", "Parent", "AddressOnParent", "Address"}
    | {"diskId", "instanceId", "lastStateChange", "uuid", "PortCount", "Info", "device"}
    | {"VirtualSystemIdentifier", "MACAddress", "AllocationUnits"}
)
"""Sizes, numbers and ids that a package has anew, and what only restates another field."""


class Written:
    """An OVA, taken apart."""

    def __init__(self, path: Path):
        self.path = path
        with tarfile.open(path) as archive:
            self.members = archive.getmembers()
            self.data = {
                one.name: (archive.extractfile(one) or io.BytesIO()).read() for one in self.members
            }
        self.ovf = self.data[self.members[0].name]
        self.root = xmlsafe.parse(self.ovf, path=path.name)

    def items(self, kind: int | None = None) -> list[dict[str, str]]:
        """The items, or those of a resource type: property -> text."""
        found = [
            {xmlsafe.local(one.tag): one.text or "" for one in item}
            for item in self.root.iter()
            if xmlsafe.local(item.tag) in ("Item", "StorageItem", "EthernetPortItem")
        ]
        return [one for one in found if kind is None or one["ResourceType"] == str(kind)]

    def config(self, tag: str = "Config") -> dict[str, str]:
        """``vmw:Config`` or ``vmw:ExtraConfig``: key -> value."""
        return {
            one.get(f"{VMW}key", ""): one.get(f"{VMW}value", "")
            for one in self.root.iter(f"{VMW}{tag}")
        }


def written(bundle: Path, out: Path, to: str, **options: str) -> Written:
    result = export_bundle(bundle, out, to, options=options)
    (path,) = result.files
    return Written(Path(path))


def planned(toml: str, to: str = "esxi", **blobs: bytes) -> tuple[Element, dict[str, str]]:
    """The envelope of a machine, and the report: field -> verdict."""
    config = MachineConfig.from_toml(toml)
    disks = [one for one in config.disks or () if not one.empty]
    facts = [DiskFacts(one.id, hv.MIB, kind=one.kind or "disk") for one in disks]
    facts = facts or [DiskFacts("root", hv.MIB)]
    machine = Machine(
        pin(config, facts, seed=b"x"),
        {one.id: ExportDisk(one.id, hv.MIB, 65536) for one in facts},
        {name.replace("_", "-"): data for name, data in blobs.items()},
    )
    made = plan(machine, to)
    digests = {"sha256": "0" * 64}
    files = made.render({one.disk: WrittenDisk(1, digests) for one in made.disks})
    verdicts = {one.field: one.verdict.value for one in made.report.items}
    return xmlsafe.parse(files[0].data, path="x"), verdicts


def family(root: Element) -> str:
    return next(one.text or "" for one in root.iter(f"{{{names.VSSD}}}VirtualSystemType"))


def subtypes(root: Element, kind: int) -> list[str]:
    return [
        one.findtext(f"{RASD}ResourceSubType") or ""
        for one in root.iter(f"{OVF}Item")
        if one.findtext(f"{RASD}ResourceType") == str(kind)
    ]


def texts(root: Element) -> dict[tuple[str, str], int]:
    """``(name, value)`` of each leaf, and how often it is there."""
    found: dict[tuple[str, str], int] = {}
    for one in root.iter():
        pairs = [(xmlsafe.local(key), value) for key, value in one.items()]
        pairs.append((xmlsafe.local(one.tag), (one.text or "").strip()))
        for pair in pairs:
            if pair[1] and pair[0] not in LEAVES_THAT_CHANGE:
                found[pair] = found.get(pair, 0) + 1
    return found
