"""OVF packages to read: envelopes with what a test wants in them, folders and archives of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.support.disks import disk_bytes, write_sparse
from vmpack.hypervisors.base import ConfigSource, Imported
from vmpack.hypervisors.ovf.read import read
from vmpack.ops import importing
from vmpack.ops.convert import convert
from vmpack.ops.importing import Opened

SIZE = 1 << 20
NS = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/'
    'CIM_ResourceAllocationSettingData" '
    'xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/'
    'CIM_VirtualSystemSettingData" '
    'xmlns:vmw="http://www.vmware.com/schema/ovf" '
    'xmlns:vbox="http://www.virtualbox.org/ovf/machine"'
)
VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
CPU = (3, "VirtualQuantity=2")
MEMORY = (4, "VirtualQuantity=256", "AllocationUnits=byte * 2^20")
SCSI = (6, "InstanceID=3", "Address=0", "ResourceSubType=lsilogic")
DISK = (17, "HostResource=ovf:/disk/d1", "Parent=3", "AddressOnParent=0")
Item = tuple[int | str, ...]


def item(*values: int | str, attributes: str = "", more: str = "", number: int = 0) -> str:
    """An Item: its ResourceType, then ``Name=value``; an InstanceID is given where none is."""
    kind, *rest = values
    found = dict(str(one).split("=", 1) for one in rest)
    found |= {"ResourceType": str(kind), "InstanceID": found.get("InstanceID", str(number))}
    inner = "".join(f"<rasd:{key}>{found[key]}</rasd:{key}>" for key in sorted(found))
    return f"<Item {attributes}>{inner}{more}</Item>"


def items(*each: Item, first: int = 100) -> str:
    return "".join(item(*one, number=first + number) for number, one in enumerate(each))


BASIC = items(CPU, MEMORY, SCSI, DISK)


def envelope(
    hardware: str = BASIC,
    *,
    href: str = "d1.vmdk",
    file: str = "",
    disk: str = "",
    system: str = "vmx-10",
    inside: str = "",
    outside: str = "",
    root: str = NS,
    name: str = "<Name>vm</Name>",
) -> bytes:
    """An envelope of one machine with one disk, and what is added to its parts."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope {root}>
  <References><File ovf:href={quoteattr(href)} ovf:id="f1" {file}/></References>
  <DiskSection><Info>disks</Info>
    <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1048576" ovf:format="{VMDK}" {disk}/>
  </DiskSection>
  {outside}
  <VirtualSystem ovf:id="vm"><Info>a machine</Info>{name}
    <VirtualHardwareSection><Info>hardware</Info>
      <System><vssd:VirtualSystemType>{system}</vssd:VirtualSystemType></System>
      {hardware}
    </VirtualHardwareSection>
    {inside}
  </VirtualSystem>
</Envelope>
""".encode()


def imported(data: bytes, name: str = "vm.ovf", **members: bytes) -> Imported:
    """What is read of an envelope alone."""
    return read(ConfigSource(name, data, {key: len(value) for key, value in members.items()}))


def verdicts(found: Imported, verdict: str) -> dict[str, str]:
    """Field -> detail of the report's items of that verdict."""
    return {one.field: one.detail for one in found.report.items if one.verdict.value == verdict}


def vmdk(path: Path, seed: int = 1, size: int = SIZE) -> bytes:
    """Write a streamOptimized image beside its raw disk, whose bytes are given back."""
    data = disk_bytes(size, seed=seed)
    raw = write_sparse(path.with_suffix(".raw"), data)
    convert(raw, path, output_format="vmdk", options={"subformat": "streamOptimized"})
    raw.unlink()
    return data


def package(files: Mapping[str, bytes], path: Path) -> Path:
    """A tar of these files, in this order."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder_of(files: Mapping[str, bytes], path: Path) -> Path:
    """A folder of these files."""
    for name, data in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def manifest(
    files: Mapping[str, bytes], algorithm: str = "sha256", form: str = "{A}({n})= {h}\n"
) -> bytes:
    """A manifest of the files, in whatever form."""
    text = "".join(
        form.format(A=algorithm.upper(), n=name, h=hashlib.new(algorithm, data).hexdigest())
        for name, data in files.items()
    )
    return text.encode()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@contextmanager
def opened(path: Path, **options: object) -> Iterator[tuple[Imported, Opened]]:
    """A package as ``pack`` opens it."""
    found = importing.find(path)
    assert found is not None, path
    with ExitStack() as stack:
        stack.callback(found.close)
        config = importing.read_config(found)
        yield config, importing.open_disks(stack, found, config, **options)  # type: ignore[arg-type]
