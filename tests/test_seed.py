"""Seeds for cloud-init: read back by pycdlib, isoinfo and blkid, and the same bytes each time."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pycdlib
import pytest

from tests.support.bundles import prove_bundle
from tests.support.disks import random_disk
from tests.support.spec_tables import SPECS
from tests.support.tools import require_tool, run
from vmpack.bundle import Bundle
from vmpack.cli.main import run as vmpack
from vmpack.errors import RefusedError, UsageError
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.seed import MAX_USER_DATA, make_image, meta_data, seed_image
from vmpack.ops.unpack import unpack

USER_DATA = b"#cloud-config\nhostname: web-1\nruncmd:\n- [touch, /etc/seeded]\n"
META = b"instance-id: 1\nlocal-hostname: web-1\n"


@pytest.fixture
def user_data(tmp_path: Path) -> Path:
    path = tmp_path / "user-data.yaml"
    path.write_bytes(USER_DATA)
    return path


def content(iso: pycdlib.PyCdlib, **where: str) -> bytes:
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, **where)
    return out.getvalue()


@pytest.mark.parametrize("data", [USER_DATA, b"", b"x" * 100_000], ids=["yaml", "empty", "large"])
def test_the_files_are_there_by_each_of_their_names(data: bytes) -> None:
    """SEED-ISO-1."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(make_image(data, META)))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    for kind in ("rr_path", "joliet_path"):
        assert content(iso, **{kind: "/user-data"}) == data
        assert content(iso, **{kind: "/meta-data"}) == META
    iso.close()


def test_other_tools_read_it(tmp_path: Path) -> None:
    """SEED-ISO-1: isoinfo (Rock Ridge, Joliet), and blkid, by which cloud-init finds it."""
    image = tmp_path / "seed.iso"
    image.write_bytes(make_image(USER_DATA, META))
    isoinfo = require_tool("isoinfo")
    for names in ("-R", "-J"):
        listed = run([isoinfo, "-i", image, names, "-f"]).stdout.split()
        assert sorted(listed) == [b"/meta-data", b"/user-data"]
        assert run([isoinfo, "-i", image, names, "-x", "/user-data"]).stdout == USER_DATA
    found = run([require_tool("blkid"), "-p", "-o", "export", image]).stdout.decode().splitlines()
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(found)


def test_neither_clock_nor_time_zone_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEED-SAME-1."""
    first = make_image(USER_DATA, META)
    for zone, now in (("Asia/Kathmandu", 1.0e9), ("America/St_Johns", 4.2e9)):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert make_image(USER_DATA, META) == first
    monkeypatch.undo()
    time.tzset()


def test_meta_data_is_the_machines(user_data: Path) -> None:
    """SEED-META-1."""
    uuid = "8a5b1d2c-0000-4000-8000-000000000001"
    config = MachineConfig(uuid=uuid)
    first = meta_data(USER_DATA, None, "web")
    assert first == meta_data(USER_DATA, None, "web")
    others = {
        meta_data(USER_DATA + b"#", None, "web"),
        meta_data(USER_DATA, config, "web"),
        meta_data(USER_DATA, None, "db"),
        first,
    }
    assert len(others) == 4
    found = re.fullmatch(rb"instance-id: [0-9a-f-]{36}\nlocal-hostname: (.*)\n", first)
    assert found is not None
    assert found[1] == b"web"
    for name, host in (("Web 1: \u00e4!", "Web-1"), ("---", "vm"), ("x" * 99, "x" * 63)):
        assert meta_data(USER_DATA, None, name).endswith(f"local-hostname: {host}\n".encode())


def test_what_cloud_init_would_not_know_is_refused(tmp_path: Path) -> None:
    """SEED-DATA-1, SEED-DATA-2."""
    path = tmp_path / "data"
    for good in (b"#!/bin/sh\n", b"\x1f\x8b\x08\0", b"## template: jinja\n#cloud-config\n"):
        path.write_bytes(good)
        assert good in seed_image(path, None, "vm")
    for bad in (b"hostname: x\n", b"", b"\0\1"):
        path.write_bytes(bad)
        with pytest.raises(UsageError) as caught:
            seed_image(path, None, "vm")
        assert caught.value.clause == "SEED-DATA-2"
    with path.open("wb") as file:
        file.truncate(MAX_USER_DATA + 1)
    with pytest.raises(RefusedError) as refused:
        seed_image(path, None, "vm")
    assert refused.value.clause == "SEED-DATA-1"


def test_a_bundle_with_a_seed(tmp_path: Path, user_data: Path) -> None:
    """SEED-DISK-1, SEED-SAME-1: a CD-ROM, not the boot disk; the same bundle again."""
    random_disk(tmp_path / "root.raw", 1 << 20)
    bundles = [tmp_path / "a.vmpack", tmp_path / "b.vmpack"]
    for bundle in bundles:
        words = ["pack", tmp_path / "root.raw", "-o", bundle, "--cloud-init", user_data]
        assert vmpack([*map(str, words), "--name", "web 1", "-q"]) == 0
    assert bundles[0].read_bytes() == bundles[1].read_bytes()
    with Bundle.open(bundles[0]) as opened:
        disks = {disk.id: disk for disk in opened.config.disks or ()}
    assert list(disks) == ["root", "seed"]
    assert (disks["seed"].kind, disks["seed"].read_only, disks["seed"].boot) == (
        "cdrom",
        True,
        None,
    )
    assert disks["root"].boot == 1
    unpack(bundles[0], tmp_path / "out", to="raw")
    wanted = make_image(USER_DATA, meta_data(USER_DATA, None, "web 1"))
    assert (tmp_path / "out" / "seed.raw").read_bytes() == wanted
    prove_bundle(bundles[0], {"root": tmp_path / "root.raw", "seed": tmp_path / "out" / "seed.raw"})


def test_a_machine_that_has_such_a_disk(tmp_path: Path, user_data: Path) -> None:
    """SEED-DISK-1."""
    random_disk(tmp_path / "root.raw", 1 << 16)
    with pytest.raises(UsageError, match="'seed'"):
        pack(
            [],
            tmp_path / "a.vmpack",
            disks={"seed": tmp_path / "root.raw"},
            cloud_init=user_data,
        )
    assert not (tmp_path / "a.vmpack").exists()


def test_every_clause_is_named_by_a_test() -> None:
    clauses = re.findall(r"^\| (SEED-[A-Z]+-\d+) \|", (SPECS / "seed-v1.md").read_text(), re.M)
    assert len(clauses) == 6
    assert set(clauses) - set(re.findall(r"SEED-[A-Z]+-\d+", Path(__file__).read_text())) == set()
