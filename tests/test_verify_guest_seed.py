"""Asking a guest by cloud-init: the seed that is made for it, and where the machine shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fixtures.build import sectors
from tests.support.runner import in_session
from vmpack.bundle import Bundle
from vmpack.errors import OperationError
from vmpack.machine import MachineConfig
from vmpack.machine.seed_image import LABEL, read_seed, seed_iso
from vmpack.ops.pack import pack
from vmpack.runner.options import RunOptions
from vmpack.runner.session import Session
from vmpack.verify import boot as boot_module
from vmpack.verify.boot import boot_once
from vmpack.verify.guest import observe, seed_for

PROBE = '[verify]\nprobe = "cloud-init"\n'
USER_DATA = b"#cloud-config\nhostname: mine\n"


def bundle_of(folder: Path, config: str = PROBE, **more: Any) -> Path:
    """A bundle of a boot sector that is asked by cloud-init."""
    disk = sectors.write_disk("echo", folder / "echo.raw")
    target = folder / "echo.vmpack"
    pack([disk], target, config=MachineConfig.from_toml(f'memory = "64M"\n{config}'), **more)
    return target


def test_a_seed_is_made_only_where_the_config_asks(tmp_path: Path) -> None:
    with Bundle.open(bundle_of(tmp_path, "")) as bundle:
        assert seed_for(bundle, bundle.config) is None


def test_a_seed_is_user_data_that_does_nothing_and_the_probe(tmp_path: Path) -> None:
    with Bundle.open(bundle_of(tmp_path)) as bundle:
        seed, other = (seed_for(bundle, bundle.config) for _ in range(2))
    assert seed is not None
    assert other is not None
    files = read_seed(seed.image) or {}
    assert sorted(files) == ["meta-data", "user-data", "vendor-data"]
    assert files["user-data"].startswith(b"#cloud-config")
    assert files["vendor-data"].startswith(b"#!/bin/sh\n")
    assert seed.framed.nonce.encode() in files["vendor-data"]
    assert seed.framed.nonce != other.framed.nonce
    assert LABEL.encode() in seed.image


def test_the_seed_that_a_machine_was_packed_with_is_kept(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_bytes(USER_DATA)
    with Bundle.open(bundle_of(tmp_path, cloud_init=tmp_path / "user-data")) as bundle:
        seed = seed_for(bundle, bundle.config)
        reader = bundle.disk("seed")
        own = read_seed(reader.read(0, reader.virtual_size)) or {}
        reader.close()
    assert seed is not None
    files = read_seed(seed.image) or {}
    assert own == {name: files[name] for name in ("meta-data", "user-data")}
    assert files["user-data"] == USER_DATA


@pytest.mark.parametrize(
    "image",
    [
        bytes(65536),
        seed_iso({"user-data": b"x"}),
        seed_iso({"meta-data": b"", "user-data": b"", "vendor-data": b""}),
    ],
)
def test_what_is_no_seed_is_not_replaced(tmp_path: Path, image: bytes) -> None:
    disk = sectors.write_disk("echo", tmp_path / "echo.raw")
    seed = tmp_path / "own.img"
    seed.write_bytes(image)
    target = tmp_path / "own.vmpack"
    config = MachineConfig.from_toml(PROBE + '[[disk]]\nid = "root"\n[[disk]]\nid = "seed"\n')
    pack([], target, config=config, disks={"root": disk, "seed": seed})
    with Bundle.open(target) as bundle, pytest.raises(OperationError, match="seed"):
        seed_for(bundle, bundle.config)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("config", "device"),
    [
        ("", "/machine/peripheral/disk-seed/virtio-backend"),
        ('[[disk]]\nid = "echo"\nbus = "sata"\n', "disk-seed"),
        ('machine = "pc-i440fx-7.2"\n[[disk]]\nid = "echo"\nbus = "ide"\n', "disk-seed"),
    ],
)
def test_the_machine_has_one_more_disk(tmp_path: Path, config: str, device: str) -> None:
    options = RunOptions(accel="tcg", timeout_s=60, seed=seed_iso({"user-data": b"x"}))

    async def look(session: Session) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await session.qmp("query-block")
        return found

    blocks = in_session(bundle_of(tmp_path, config), look, options=options)
    (seed,) = (one for one in blocks if device in str(one.get("qdev")))
    assert seed["inserted"]["ro"]
    assert seed["inserted"]["node-name"] == "seed"


@pytest.mark.qemu
def test_a_boot_says_that_a_seed_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "SEEDED_S", 1.0)
    monkeypatch.setattr(boot_module, "SETTLE_S", 0.2)
    config = '[expected]\nmilestones = ["sector: echo"]\n[verify]\nprobe = "cloud-init"\n'
    with Bundle.open(bundle_of(tmp_path, config)) as bundle:
        boot = asyncio.run(boot_once(bundle, RunOptions(accel="tcg", timeout_s=60)))
    assert boot.good
    assert boot.host.changed == ("probe cloud-init",)
    assert boot.observation is not None
    assert "guest" not in boot.observation.layers
    (problem,) = boot.problems
    assert problem.startswith("cloud-init: ")
