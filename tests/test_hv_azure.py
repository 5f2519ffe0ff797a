"""Azure: what is written. Clauses: specs/hypervisors/azure.md."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.proxmox import machine
from tests.support.spec_tables import clauses
from tests.support.tools import require_tool
from vmpack import hypervisors
from vmpack.errors import UnsupportedError
from vmpack.hypervisors.azure import HYPERVISOR, MAX_OS_DISK, vm_name
from vmpack.hypervisors.base import ExportDisk, Machine
from vmpack.ops.opening import open_image
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle
from vmpack.units import MiB

FAKE = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" END >> "$CALLS"
if [ "$2" = grant-access ]; then echo 'https://example.invalid/?a=b&c=d e'; fi
"""


def calls(folder: Path, script: Path) -> list[list[str]]:
    """What the script runs: every word of every call of ``az`` and ``azcopy``."""
    require_tool("sh")
    tools = folder / "tools"
    tools.mkdir(parents=True)
    for name in ("az", "azcopy"):
        (tools / name).write_text(FAKE)
        (tools / name).chmod(0o755)
    log = folder / "calls"
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CALLS": str(log),
        "RESOURCE_GROUP": "my group",
        "LOCATION": "westeurope",
        "VM_SIZE": "Standard_B1s",
    }
    subprocess.run(["sh", str(script)], env=environment, check=True, capture_output=True, cwd="/")
    found: list[list[str]] = [[]]
    for word in log.read_bytes().decode().split("\0")[:-1]:
        if word == "END":
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


@pytest.mark.parametrize("size", [3 * MiB + 512, 20 * MiB, 21 * MiB + 4096])
def test_disks_that_azure_takes(tmp_path: Path, size: int) -> None:
    """AZURE-WRITE-1, AZURE-WRITE-3: fixed, whole MiB, 20 at least, the footer behind."""
    # note: the footer after a multiple of 1 MiB (azure-docs#74831); never grow a disk that is
    # aligned already (azure-docs#29804)
    content = disk_bytes(size, seed=size)
    source = write_sparse(tmp_path / "root.raw", content)
    pack([source], tmp_path / "a b.vmpack", name="a b'c")
    result = export_bundle(tmp_path / "a b.vmpack", tmp_path / "out", "azure")
    image = tmp_path / "out" / "root.vhd"
    wanted = max(20 * MiB, -(-size // MiB) * MiB)
    assert image.stat().st_size == wanted + 512
    footer = image.read_bytes()[-512:]
    assert struct.unpack(">Q", footer[48:56])[0] == wanted
    assert struct.unpack(">I", footer[60:64])[0] == 2
    reader = open_image(image)
    assert reader.read(0, wanted) == content.ljust(wanted, b"\0")
    reader.close()
    fields = [item["field"] for item in result.report["items"]]  # type: ignore[attr-defined]
    assert ("disk root" in fields) == (wanted != size)
    found = calls(tmp_path / "run", tmp_path / "out" / "import-azure.sh")
    create, grant, copy, revoke, make = found
    assert create[:3] == ["az", "disk", "create"]
    assert option(create, "--upload-size-bytes") == str(wanted + 512)
    assert option(create, "--resource-group") == "my group"
    assert option(create, "--hyper-v-generation") == "V1"
    assert grant[:3] == ["az", "disk", "grant-access"]
    assert copy[1:4] == ["copy", str(image), "https://example.invalid/?a=b&c=d e"]
    assert revoke[:3] == ["az", "disk", "revoke-access"]
    assert make[:3] == ["az", "vm", "create"]
    assert option(make, "--name") == "a-b-c"
    assert option(make, "--attach-os-disk") == option(create, "--name") == "a-b-c-os"


def test_generation_and_security() -> None:
    """AZURE-WRITE-4."""
    assert HYPERVISOR.plan is not None
    made = machine(
        {
            "firmware": {"kind": "uefi", "secure-boot": True},
            "guest-os": {"family": "windows"},
            "name": "a name of more than fifteen letters",
            "tpm": {},
            "disk": [
                {"id": "cd", "kind": "cdrom", "bus": "sata", "empty": True},
                {"id": "data", "bus": "sata"},
                {"id": "root", "bus": "sata", "boot": 1},
            ],
            "nic": [{}, {}],
        }
    )
    planned = HYPERVISOR.plan(made)
    text = planned.render({})[0].data.decode()
    assert "upload a-name-of-more--os root.vhd" not in text
    assert "--os-type Windows --hyper-v-generation V2 --security-type TrustedLaunch" in text
    assert "--enable-secure-boot true" in text
    assert "--enable-vtpm true" in text
    assert "-data0 data.vhd" in text
    assert [one.disk for one in planned.disks] == ["root", "data"]
    said = {one.field: one.verdict.value for one in planned.report.items}
    assert said["disk[0].id"] == "dropped"
    assert said["nic[1].mac"] == "dropped"
    assert len(said) == len(planned.report.items)


def test_names() -> None:
    """AZURE-WRITE-5."""
    # hostile: 43
    assert vm_name("$(id) 'x'; rm -rf /", windows=False) == "id-x-rm--rf"
    assert vm_name("\u96ea", windows=False) == "machine"
    assert vm_name("a" * 100, windows=False) == "a" * 64
    assert vm_name("a" * 14 + "-b", windows=True) == "a" * 14


def test_what_azure_cannot_hold() -> None:
    """AZURE-WRITE-2."""
    assert HYPERVISOR.plan is not None
    made = machine({"disk": [{"id": "root", "bus": "sata"}]})
    large = Machine(made.config, {"root": ExportDisk("root", MAX_OS_DISK + 512, 0)})
    with pytest.raises(UnsupportedError, match="Azure takes 4095"):
        HYPERVISOR.plan(large)
    empty = machine({"disk": [{"id": "cd", "kind": "cdrom", "bus": "sata"}]})
    with pytest.raises(UnsupportedError, match="no disk to start from"):
        HYPERVISOR.plan(empty)


def test_registered() -> None:
    assert hypervisors.get("azure") is HYPERVISOR


def test_every_clause_is_tested() -> None:
    text = Path(__file__).read_text()
    assert {one for one in clauses("hypervisors/azure.md") if one not in text} == set()
