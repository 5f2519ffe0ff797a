"""Proxmox VE: what is written, and read back. Clauses: specs/hypervisors/proxmox.md."""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from tests.support.proxmox import TPM_STATE, TYPICAL, backup, machine, parsed
from tests.support.tools import require_tool
from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import Machine, WrittenDisk
from vmpack.hypervisors.proxmox.write import plan
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer
from vmpack.units import MiB


def texts(made: Machine) -> dict[str, bytes]:
    planned = plan(made)
    written = {one.disk: WrittenDisk(1) for one in planned.disks}
    first = {one.name: one.data for one in planned.render(written)}
    assert first == {one.name: one.data for one in planned.render(written)}
    return first


FAKE = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" END >> "$CALLS"
if [ "${0##*/}" = pvesm ]; then echo "$CALLS.iso"; fi
"""


def calls(folder: Path, script: bytes) -> list[list[str]]:
    """What the script runs: every word of every call of ``qm`` and ``pvesm``."""
    require_tool("sh")
    tools = folder / "tools"
    tools.mkdir(parents=True)
    for name in ("qm", "pvesm", "cp"):
        (tools / name).write_text(FAKE)
        (tools / name).chmod(0o755)
    (folder / "import.sh").write_bytes(script)
    log = folder / "calls"
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(log)}
    words = ["sh", str(folder / "import.sh"), "123", "tank", "isos"]
    subprocess.run(words, env=environment, check=True, capture_output=True, cwd="/")
    found: list[list[str]] = [[]]
    for word in log.read_bytes().decode().split("\0")[:-1]:
        if word == "END":
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


NASTY = "a'b\"c `id` $(id) ${x} \\ ; rm -rf / & | < > * ? ! ~ # %41 [x] {y} é 雪 -- =,:"


def test_the_script_says_to_qm_what_the_config_says(tmp_path: Path) -> None:
    """PVE-WRITE-1, PVE-WRITE-2: metacharacters in every field of text."""
    # hostile: 43
    made = machine(
        {
            "name": NASTY.replace("/", "").replace("\\", ""),
            "description": f"{NASTY}\n{NASTY}",
            "guest-os": {"family": "linux", "id": "debian12"},
            "firmware": {"kind": "uefi", "secure-boot": True},
            "tpm": {},
            "smbios": {"system": {"manufacturer": NASTY.encode("ascii", "replace").decode()}},
            "disk": [
                {"id": "root", "bus": "virtio-scsi", "serial": "a b.c_d-e"},
                {"id": "seed", "bus": "sata", "kind": "cdrom"},
                {"id": "drive", "bus": "sata", "kind": "cdrom", "empty": True},
            ],
            "nic": [{"mac": "52:54:00:12:34:56", "network": "vmbr7"}, {"network": NASTY[:1]}],
        },
        {"tpm-state": TPM_STATE},
    )
    files = texts(made)
    found = calls(tmp_path / "run", files["import.sh"])
    here = str(tmp_path / "run")
    assert found[0][:3] == ["qm", "create", "123"]
    options = dict(zip(found[0][3::2], found[0][4::2], strict=True))
    assert options["--description"] == f"{NASTY}\n{NASTY}"
    product = made.config.smbios.system.manufacturer
    assert product is not None
    assert f"manufacturer={b64encode(product.encode()).decode()}" in options["--smbios1"]
    assert options["--net0"] == "virtio=52:54:00:12:34:56,bridge=vmbr7"
    assert (options["--bios"], options["--machine"]) == ("ovmf", "pc-q35-7.2")
    rest = {call[3]: call[4] for call in found[1:] if call[0] == "qm"}
    assert rest["--efidisk0"] == "tank:1,efitype=4m,pre-enrolled-keys=1"
    assert rest["--tpmstate0"] == f"tank:0,import-from={here}/tpmstate.raw,version=v2.0"
    assert rest["--scsi0"] == f"tank:0,import-from={here}/root.qcow2,serial=a%20b.c_d-e"
    assert rest["--sata0"] == "isos:iso/vm-123-seed.iso,media=cdrom,serial=seed"
    assert rest["--sata1"] == "none,media=cdrom,serial=drive"
    assert rest["--boot"] == "order=scsi0"
    assert ["pvesm", "path", "isos:iso/vm-123-seed.iso"] in found


def test_the_written_config_reads_as_the_machine(tmp_path: Path) -> None:
    """PVE-WRITE-3: config -> qm config -> config."""
    made = machine(
        {
            "name": "shop",
            "description": "two\nlines: 100%",
            "machine": "pc-i440fx-7.2",
            "cpu": {"model": "Nehalem-v1", "cores": 2, "sockets": 2, "flags": ["+aes"]},
            "guest-os": {"family": "linux"},
            "uuid": "6e1d8a9c-3b6f-4bd4-9d0e-112233445566",
            "disk": [
                {"id": "root", "bus": "virtio-blk", "address": "00:0a.0"},
                {"id": "data", "bus": "virtio-scsi", "controller": 0, "port": 3},
                {"id": "cd", "bus": "ide", "kind": "cdrom", "empty": True},
            ],
            "nic": [{"model": "e1000", "network": "vmbr3", "address": "00:12.0", "mtu": 1400}],
            "input": "ps2",
            "pvpanic": False,
        }
    )
    again = parsed(texts(made)["qm.conf"].decode()).config
    first, second = made.config.to_json_dict(), again.to_json_dict()
    for key in ("name", "description", "machine", "uuid", "memory", "input", "rtc"):
        assert second.get(key) == first.get(key), key
    assert second["cpu"] == {"sockets": 2, "cores": 2, "model": "Nehalem-v1", "flags": ["+aes"]}
    one, two = made.config.disks or (), {disk.id: disk for disk in again.disks or ()}
    for disk in one:
        other = two["ide0" if disk.id == "cd" else disk.id]
        for name in ("bus", "controller", "port", "unit", "serial", "boot", "kind", "empty"):
            mine = getattr(disk, name)
            assert (
                getattr(other, name) == mine or (name == "kind" and mine == "disk") or not mine
            ), (
                disk.id,
                name,
            )
    assert (again.nics or ())[0].address == "00:12.0"
    assert (again.nics or ())[0].mac == (made.config.nics or ())[0].mac


def test_every_field_is_accounted_for() -> None:
    """PVE-WRITE-4."""
    made = machine(
        {
            "cpu": {"model": "Snowridge-v1", "threads": 2, "flags": ["+xyz", "+aes"]},
            "firmware": {"kind": "uefi", "digest": "sha256:" + "0" * 64},
            "disk": [
                {"id": f"d{n}", "bus": bus}
                for n, bus in enumerate(
                    ("nvme", "lsilogic", "pvscsi", "buslogic", "lsisas1068", "virtio-blk", "sata")
                )
            ],
            "nic": [{"model": "igb"}, {"model": "tulip", "mtu": 1400}, {"network": "none"}],
            "ova": {"product": "x"},
            "verify": {"check": [{"wait-for": "login"}]},
            "verbatim": {"vmware": [{"key": "a", "value": "b"}]},
        }
    )
    planned = plan(made)
    names = [one.field for one in planned.report.items]
    assert len(names) == len(set(names))
    assert {"cpu.threads", "disk[0].bus", "nic[0].model", "ova.product", "verify.check[0].wait-for",
            "verbatim.vmware[0].key"} <= set(names)  # fmt: skip


def test_verbatim_is_given_back(tmp_path: Path) -> None:
    """PVE-WRITE-5: qm config -> bundle -> qm config."""
    source = tmp_path / "vzdump.vma"
    source.write_bytes(backup())
    pack([source], tmp_path / "a.vmpack")
    result = export_bundle(tmp_path / "a.vmpack", tmp_path / "out", "proxmox")
    lines = (tmp_path / "out" / "qm.conf").read_text().splitlines()
    for line in TYPICAL.partition("\n[")[0].splitlines():
        key = line.partition(":")[0]
        if key in (
            "efidisk0",
            "tpmstate0",
            "ide2",
            "scsi0",
            "scsi1",
            "smbios1",
            "agent",
            "machine",
            "net1",
            "boot",
            "meta",
        ):
            continue
        assert line in lines or (key in ("net0",) or line.startswith("#")), line
    text = "\n".join(lines)
    for part in ("discard=on", "iothread=1", "firewall=1,tag=12", "fstrim_cloned_disks=1"):
        assert part in text
    assert "scsihw: virtio-scsi-single" in lines
    assert (tmp_path / "out" / "tpmstate.raw").stat().st_size == 4 * MiB
    assert result.instructions


EVIL = {
    "args": "-drive file=/etc/shadow",
    "hookscript": "local:snippets/x",
    "hostpci0": "01:00.0",
    "usb0": "host=1:2",
    "scsi0.file": "/etc/shadow",
    "scsi0.import-from": "/etc/shadow",
    "scsi0.cache": "none,import-from=/etc/shadow",
    "net0.ifname": "x",
    "cpu": "host\nargs: -x",
    "vga": "std\nargs: x",
    "onboot": "1\nargs: x",
    "agent.path": "x",
    "x y": "z",
    "serial1": "/dev/ttyS0",
    "cicustom": "user=local:x",
}


@pytest.mark.parametrize("key", EVIL)
def test_a_strangers_bundle_cannot_name_the_host(key: str) -> None:
    """PVE-WRITE-5: what root's qm is told."""
    # hostile: 46
    made = machine({"disk": [{"id": "root", "bus": "virtio-scsi"}]})
    field = [{"key": key, "value": EVIL[key]}]
    data = made.config.to_json_dict() | {"verbatim": {"proxmox": field}}
    try:
        evil = MachineConfig.model_validate(data, context={"person": True})
    except ValueError:
        return
    planned = Machine(evil, made.disks)
    files = texts(planned)
    for text in (files["qm.conf"], files["import.sh"]):
        for secret in (
            b"shadow",
            b"args",
            b"hookscript",
            b"hostpci",
            b"usb0",
            b"/dev/tty",
            b"cicustom",
        ):
            assert secret not in text
    assert any(
        one.field == key.replace("\n", "\\n") and one.verdict.value == "dropped"
        for one in plan(planned).report.items
    )


def test_too_many_disks() -> None:
    disks = [{"id": f"d{n}", "bus": "virtio-scsi"} for n in range(58)]
    with pytest.raises(UnsupportedError, match="no drive is left"):
        plan(machine({"disk": disks}))


def test_from_proxmox_to_proxmox_without_a_bundle(tmp_path: Path) -> None:
    """PVE-WRITE-6: the export is packed again by its config, files beside it."""
    source = tmp_path / "vzdump.vma"
    source.write_bytes(backup())
    transfer(source, tmp_path / "one", "proxmox")
    second = transfer(tmp_path / "one" / "qm.conf", tmp_path / "two", "proxmox")
    names = {Path(path).name for _, path in second.disks}
    assert names == {"scsi0.qcow2", "scsi1.qcow2"}
    ours, theirs = (tmp_path / one / "qm.conf" for one in ("one", "two"))
    assert ours.read_text() == theirs.read_text()
    state = (tmp_path / one / "tpmstate.raw" for one in ("one", "two"))
    assert len({path.read_bytes() for path in state}) == 1
