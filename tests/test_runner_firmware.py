"""Firmware: found by QEMU's descriptors, and machines started by UEFI from their own NVRAM."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import guests
from tests.support.nvram import ovmf, variable, with_boot_entry, with_variables
from tests.support.qemu import QemuImg
from tests.support.runner import HOSTS, qemu_of
from vmpack.bundle import Bundle
from vmpack.errors import FirmwareMissingError
from vmpack.machine import MachineConfig
from vmpack.machine.nvram import parse
from vmpack.ops.pack import pack
from vmpack.runner.firmware import descriptors, resolve_firmware, seabios
from vmpack.runner.options import Ending, Qemu, RunOptions
from vmpack.runner.session import Session
from vmpack.runner.state import Kept

pytestmark = pytest.mark.qemu
UEFI = 'machine = "pc-q35-7.2"\n[firmware]\nkind = "uefi"\n'
SECURE = UEFI + "secure-boot = true\n"
CODE, VARS = bytes(0x37C000), "OVMF_VARS_4M.fd"


class Root:
    """A QEMU in a root of its own, with firmware that the test puts there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.qemu = Qemu((str(folder / "usr/bin/qemu-system-x86_64"),), (7, 2))

    def put(self, name: str, content: bytes) -> str:
        path = self.folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    def describe(
        self,
        name: str,
        features: tuple[str, ...] = (),
        *,
        etc: bool = False,
        changes: Mapping[str, object] | None = None,
    ) -> None:
        """A descriptor whose code is ``/fw/NAME``; ``changes`` replace parts of it."""
        mapping = {
            "device": "flash",
            "executable": {"filename": self.put(f"/fw/{name}", CODE), "format": "raw"},
            "nvram-template": {"filename": self.put("/fw/vars", ovmf(VARS)), "format": "raw"},
        }
        document: dict[str, object] = {
            "description": name,
            "interface-types": ["uefi"],
            "mapping": mapping,
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": list(features),
            "tags": [],
        }
        folder = "etc" if etc else "usr/share"
        self.put(
            f"{folder}/qemu/firmware/{name}.json",
            json.dumps(document | dict(changes or {})).encode(),
        )

    def chosen(self, toml: str = UEFI, nvram: bytes | None = None) -> str:
        """Name of the code that is chosen for a machine."""
        found = resolve_firmware(MachineConfig.from_toml(toml), self.qemu, nvram)
        assert found.code_path is not None
        return Path(found.code_path).name


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


@pytest.mark.parametrize("host", HOSTS)
def test_each_host_has_firmware_of_both_kinds(host: str) -> None:
    qemu = qemu_of(host)
    plain = resolve_firmware(MachineConfig.from_toml(UEFI), qemu)
    assert plain.kind == "uefi"
    assert not plain.secure_boot
    assert len(plain.vars or b"") == 540672
    secure = resolve_firmware(MachineConfig.from_toml(SECURE), qemu)
    assert secure.secure_boot
    assert "PK" in {one.name for one in parse(secure.vars or b"").variables}
    bios = seabios(qemu)
    assert bios is not None
    assert Path(bios).stat().st_size == 256 << 10
    for one in descriptors(qemu):
        assert one.as_dict()["code"] == one.code_path
        assert Path(one.code_path).is_relative_to(_place(qemu))


def _place(qemu: Qemu) -> Path:
    return Path(qemu.prefix[-1]).parents[2]


def test_bios_is_qemus_own_unless_pinned(root: Root) -> None:
    pinned = root.put("usr/share/seabios/bios-256k.bin", b"the BIOS")
    config = MachineConfig.from_toml('machine = "pc-q35-7.2"\n[firmware]\nkind = "bios"\n')
    assert resolve_firmware(config, root.qemu).code_path is None
    digest = "sha256:" + hashlib.sha256(b"the BIOS").hexdigest()
    found = resolve_firmware(_digest(config, digest), root.qemu)
    assert found.code_path == str(root.folder / pinned)
    assert resolve_firmware(_digest(config, digest), root.qemu, None, b"the BIOS").code
    with pytest.raises(FirmwareMissingError, match="SeaBIOS has not the digest"):
        resolve_firmware(_digest(config, "sha256:" + "0" * 64), root.qemu)


def _digest(config: MachineConfig, digest: str) -> MachineConfig:
    return MachineConfig.from_json_dict(
        config.to_json_dict() | {"firmware": {"kind": config.firmware.kind, "digest": digest}}
    )


def test_without_secure_boot_a_build_that_lacks_it_comes_first(root: Root) -> None:
    root.describe("10-keys", ("secure-boot", "requires-smm", "enrolled-keys"))
    with pytest.raises(FirmwareMissingError, match=r"no UEFI firmware for pc-q35-7\.2") as error:
        root.chosen()
    assert "ovmf" in (error.value.hint or "")
    root.describe("20-secure", ("secure-boot", "requires-smm"))
    assert root.chosen() == "20-secure"
    assert resolve_firmware(MachineConfig.from_toml(UEFI), root.qemu).secure_boot
    root.describe("30-plain")
    assert root.chosen() == "30-plain"


def test_secure_boot_needs_keys_unless_the_machine_has_its_own(root: Root) -> None:
    root.describe("10-plain")
    root.describe("20-secure", ("secure-boot", "requires-smm"))
    with pytest.raises(FirmwareMissingError, match="with Secure Boot"):
        root.chosen(SECURE)
    assert root.chosen(SECURE, nvram=ovmf("OVMF_VARS_4M.snakeoil.fd")) == "20-secure"
    root.describe("30-keys", ("secure-boot", "requires-smm", "enrolled-keys"))
    assert root.chosen(SECURE) == "30-keys"


def test_among_equals_the_one_with_the_nvrams_size_is_taken(root: Root) -> None:
    """So a machine that was installed with flash of 2 MiB keeps its NVRAM byte for byte."""
    root.describe("10-large")
    small = {"filename": root.put("/fw/small", ovmf("OVMF_VARS.fd")), "format": "raw"}
    code = {"filename": root.put("/fw/20-small", CODE), "format": "raw"}
    mapping = {"device": "flash", "executable": code, "nvram-template": small}
    root.describe("20-small", changes={"mapping": mapping})
    assert root.chosen() == "10-large"
    assert root.chosen(nvram=ovmf("OVMF_VARS.fd")) == "20-small"
    assert root.chosen(nvram=ovmf("OVMF_VARS_4M.fd")) == "10-large"


def test_the_administrators_folder_masks_the_distributions(root: Root) -> None:
    root.describe("10-one")
    root.describe("20-two")
    assert root.chosen() == "10-one"
    root.put("etc/qemu/firmware/10-one.json", b"")
    assert root.chosen() == "20-two"
    root.describe("05-ours", etc=True)
    assert root.chosen() == "05-ours"


@pytest.mark.parametrize(
    "changes",
    [
        {"interface-types": ["bios"]},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}]},
        {"targets": []},
        {"mapping": {"device": "memory", "filename": "/fw/10-odd"}},
        {"mapping": {"device": "flash", "mode": "stateless", "executable": {}}},
        {"mapping": None},
        {"targets": 3},
    ],
)
def test_what_does_not_fit_the_machine_is_passed_over(
    root: Root, changes: Mapping[str, object]
) -> None:
    root.describe("10-odd", changes=changes)
    root.put("usr/share/qemu/firmware/15-broken.json", b"{")
    root.describe("20-right")
    assert root.chosen() == "20-right"
    shutil.rmtree(root.folder / "fw")
    assert descriptors(root.qemu) == []


def test_templates_in_qcow2_are_read(root: Root, tmp_path: Path, qemu_img: QemuImg) -> None:
    raw, qcow2 = tmp_path / "vars.fd", tmp_path / "vars.qcow2"
    raw.write_bytes(ovmf(VARS))
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    root.describe("10-qcow2")
    root.put("/fw/vars", qcow2.read_bytes())
    found = resolve_firmware(MachineConfig.from_toml(UEFI), root.qemu)
    assert found.vars == ovmf(VARS)


def test_a_pinned_digest_chooses_or_refuses(root: Root) -> None:
    root.describe("10-one")
    root.describe("20-two")
    root.put("/fw/20-two", b"two")
    config = MachineConfig.from_toml(UEFI)
    digest = "sha256:" + hashlib.sha256(b"two").hexdigest()
    assert (resolve_firmware(_digest(config, digest), root.qemu).code_path or "").endswith("20-two")
    with pytest.raises(FirmwareMissingError, match="digest") as error:
        resolve_firmware(_digest(config, "sha256:" + "0" * 64), root.qemu)
    assert error.value.field == "firmware.digest"


def test_carried_code_gets_variables_of_its_own_layout(root: Root) -> None:
    """Code and variables of one build fill a flash whose size is a power of two."""
    root.describe("10-large")
    config = MachineConfig.from_toml(UEFI)
    large = resolve_firmware(config, root.qemu, None, CODE)
    assert (large.code, large.code_path, large.vars) == (CODE, None, ovmf(VARS))
    small_code = bytes(0x1E0000)
    with pytest.raises(FirmwareMissingError, match="keeps its variables in 131072 bytes"):
        resolve_firmware(config, root.qemu, None, small_code)
    nvram = with_variables(ovmf("OVMF_VARS.fd"), variable("Timeout", b"\x05\0"))
    assert resolve_firmware(config, root.qemu, nvram, small_code).vars == nvram
    fitted = resolve_firmware(config, root.qemu, nvram, CODE).vars
    assert fitted == with_variables(ovmf(VARS), variable("Timeout", b"\x05\0"))
    with pytest.raises(FirmwareMissingError, match="digest"):
        resolve_firmware(_digest(config, "sha256:" + "0" * 64), root.qemu, None, CODE)


def test_the_users_own_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    qemu = qemu_of("machine")
    first = descriptors(qemu)[0]
    (tmp_path / "qemu/firmware").mkdir(parents=True)
    (tmp_path / "qemu/firmware" / Path(first.path).name).touch()
    assert first not in descriptors(qemu)


def boot(bundle: Path, until: str, *, host: str = "machine") -> tuple[Ending, str, bytes]:
    """How a run went, what it printed, and its NVRAM afterwards."""

    async def run() -> tuple[Ending, str]:
        options = RunOptions(accel="tcg", timeout_s=120)
        with Bundle.open(bundle) as opened:
            async with Session.start(opened, options, storage=kept, qemu=qemu_of(host)) as session:
                ending = await session.wait(lambda console: until.encode() in console.data)
                return ending, session.console.data.decode(errors="replace")

    with Kept() as kept:
        ending, text = asyncio.run(run())
        return ending, text, kept.nvram_bytes() or b""


def uefi_bundle(folder: Path, disk: Path, config: str, nvram: bytes | None = None) -> Path:
    blobs = {}
    if nvram is not None:
        blobs["nvram"] = folder / "nvram.fd"
        blobs["nvram"].write_bytes(nvram)
    machine = MachineConfig.from_toml('memory = "512M"\ncpu.cores = 1\n' + config)
    pack([disk], folder / "app.vmpack", config=machine, blobs=blobs, force=True)
    return folder / "app.vmpack"


@pytest.mark.slow
@pytest.mark.parametrize("host", ["machine", "trixie-backports"])
def test_a_boot_entry_of_another_layout_and_format_is_started(
    host: str, tmp_path: Path, guest_uefi: Path, qemu_img: QemuImg
) -> None:
    """NVR-RAW-1, NVR-FIT-1: 2 MiB flash in qcow2 there, 4 MiB in raw here."""
    raw, qcow2 = tmp_path / "vars.fd", tmp_path / "vars.qcow2"
    raw.write_bytes(with_boot_entry(ovmf("OVMF_VARS.fd"), "vmpack entry"))
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    bundle = uefi_bundle(tmp_path, guest_uefi, "", qcow2.read_bytes())
    ending, _, nvram = boot(bundle, 'BdsDxe: starting Boot0042 "vmpack entry"', host=host)
    assert ending.kind == "expected", ending
    assert len(nvram) == 540672
    assert "Boot0042" in {one.name for one in parse(nvram).variables}


@pytest.mark.slow
def test_secure_boot_from_shim_to_kernel_and_its_entry_on_another_host(tmp_path: Path) -> None:
    """The guest's own program writes a boot entry; another QEMU and firmware start from it."""
    bundle = uefi_bundle(tmp_path, guests.secure(), "firmware.secure-boot = true")
    ending, text, nvram = boot(bundle, "secureboot: Secure boot enabled")
    assert ending.kind == "expected", text
    entries = [
        one.name for one in parse(nvram).variables if "vmpack".encode("utf-16-le") in one.data
    ]
    (entry,) = (name for name in entries if name.startswith("Boot0"))
    assert f'starting {entry} "vmpack guest"' not in text
    bundle = uefi_bundle(tmp_path, guests.secure(), "firmware.secure-boot = true", nvram)
    ending, text, _ = boot(bundle, f'BdsDxe: starting {entry} "vmpack guest"', host="trixie")
    assert ending.kind == "expected", text


@pytest.mark.slow
def test_secure_boot_refuses_a_loader_that_nobody_signed(tmp_path: Path, guest_uefi: Path) -> None:
    bundle = uefi_bundle(tmp_path, guest_uefi, "firmware.secure-boot = true")
    ending, text, _ = boot(bundle, "vmpack-guest: boot loader")
    assert ending.kind == "no-boot-device", ending
    assert "Access Denied" in text


@pytest.mark.slow
def test_carried_firmware_starts_the_machine(tmp_path: Path, guest_uefi: Path) -> None:
    """The build for 2 MiB, which no descriptor of this host names."""
    code = ovmf("OVMF_CODE.fd")
    (tmp_path / "code.fd").write_bytes(code)
    (tmp_path / "nvram.fd").write_bytes(with_boot_entry(ovmf("OVMF_VARS.fd"), "carried"))
    digest = hashlib.sha256(code).hexdigest()
    config = (
        f'memory = "512M"\n[firmware]\nkind = "uefi"\nblob = "code"\ndigest = "sha256:{digest}"\n'
    )
    blobs = {"code": tmp_path / "code.fd", "nvram": tmp_path / "nvram.fd"}
    bundle = tmp_path / "app.vmpack"
    pack([guest_uefi], bundle, config=MachineConfig.from_toml(config), blobs=blobs)
    ending, text, nvram = boot(bundle, 'BdsDxe: starting Boot0042 "carried"')
    assert ending.kind == "expected", text
    assert len(nvram) == 131072
