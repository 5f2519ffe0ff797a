"""VMX files for tests: a whole machine in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.disks import disk_bytes, write_sparse
from tests.support.tools import run
from vmpack import hypervisors
from vmpack.hypervisors.base import ConfigSource, Imported

MACHINE = {
    ".encoding": "UTF-8",
    "config.version": "8",
    "virtualHW.version": "18",
    "displayName": "shop",
    "guestOS": "debian12-64",
    "numvcpus": "4",
    "cpuid.coresPerSocket": "2",
    "memsize": "512",
    "uuid.bios": "56 4d 96 af e6 46 bd 86-5c 4d 65 4e 77 36 ef 31",
    "scsi0.present": "TRUE",
    "scsi0.virtualDev": "pvscsi",
    "scsi0:0.present": "TRUE",
    "scsi0:0.fileName": "shop.vmdk",
    "ethernet0.present": "TRUE",
    "ethernet0.virtualDev": "vmxnet3",
    "ethernet0.addressType": "static",
    "ethernet0.address": "00:50:56:12:34:56",
    "ethernet0.connectionType": "nat",
}


def vmx_text(*lines: str, **changes: str | None) -> bytes:
    """``MACHINE`` with ``changes`` (``None`` takes a key out), and more lines."""
    keys: dict[str, str | None] = {**MACHINE, **changes}
    text = [f'{key} = "{value}"' for key, value in keys.items() if value is not None]
    return "\n".join([*text, *lines, ""]).encode()


def read_vmx(
    data: bytes,
    members: Mapping[str, int] | None = None,
    extra: Mapping[str, bytes] | None = None,
    name: str = "vm.vmx",
) -> Imported:
    """What vmpack makes of a VMX; no file is there."""
    read = hypervisors.get("vmware").read
    assert read is not None
    return read(ConfigSource(name, data, members or {}, extra or {}))


def verdicts(imported: Imported) -> dict[str, str]:
    """Field of the source -> ``kept``, ``approximated`` or ``dropped``."""
    return {item.field: item.verdict.value for item in imported.report.items}


def write_machine(
    folder: Path, data: bytes, disks: tuple[str, ...] = ("shop.vmdk",), *, size: int = 1 << 20
) -> Path:
    """A folder with the VMX and a small VMDK for each disk, made by qemu-img."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(disks):
        raw = write_sparse(folder / "scratch.raw", disk_bytes(size, seed=seed))
        run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, folder / name])
        raw.unlink()
    path = folder / "vm.vmx"
    path.write_bytes(data)
    return path
