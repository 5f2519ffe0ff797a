"""Each command from argv to its result: JSON documents by their contract, and words for people."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import vmpack
from tests.support.disks import random_disk
from tests.support.qemu import QemuImg
from tests.support.tools import run as process
from vmpack.cli.main import run


class Cli:
    """Runs commands in this process, inside a folder of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder = folder
        self.capsys = capsys

    def text(self, *words: str, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of a command that ends with ``code``."""
        got = run(words)
        out, err = self.capsys.readouterr()
        assert got == code, err
        return out, err

    def json(self, *words: str, code: int = 0) -> Any:
        """The one JSON document of a command."""
        return json.loads(self.text(*words, "--output", "json", code=code)[0])


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, capsys)


@pytest.fixture
def bundle(cli: Cli) -> str:
    """``app.vmpack`` with the disks ``root`` and ``data``, beside ``disk.raw`` and ``data.raw``."""
    random_disk("disk.raw", 300_000)
    random_disk("data.raw", 1 << 20, seed=2)
    Path("vars.fd").write_bytes(b"variables")
    cli.text(
        *(
            "pack",
            "--disk",
            "root=disk.raw",
            "--disk",
            "data=data.raw",
            "--blob",
            "notes.txt=vars.fd",
        ),
        *("--name", "app", "-o", "app.vmpack", "-q"),
    )
    return "app.vmpack"


def test_info_of_a_bundle_has_the_fields_of_the_contract(cli: Cli, bundle: str) -> None:
    document = cli.json("info", bundle)
    assert document["format"] == "vmpack"
    assert document["version"] == 1
    assert document["id"].startswith("sha256:")
    assert document["machine-id"].startswith("sha256:")
    assert document["name"] == "app"
    assert document["config"]["version"] == 1
    root, data = sorted(document["disks"], key=lambda disk: disk["id"], reverse=True)
    assert (root["id"], data["id"]) == ("root", "data")
    wanted = {"id", "virtual-size", "stored-size", "content-digest", "window", "cluster-size"}
    assert wanted | {"bus"} <= set(root)
    assert set(root["window"]) == {"offset", "size"}
    assert [blob["name"] for blob in document["blobs"]] == ["notes.txt"]


def test_info_of_a_bundle_in_words(cli: Cli, bundle: str) -> None:
    document = cli.json("info", bundle)
    out, err = cli.text("info", bundle)
    assert err == ""
    for fact in ("app.vmpack", document["id"], document["machine-id"], "notes.txt", "x86_64"):
        assert fact in out
    for disk in document["disks"]:
        assert disk["content-digest"] in out
        assert f"{disk['window']['offset']}+{disk['window']['size']}" in out


def test_info_of_an_image_agrees_with_qemu_img(cli: Cli, qemu_img: QemuImg) -> None:
    qemu_img.run("create", "-q", "-f", "qcow2", "a.qcow2", "10M")
    theirs = qemu_img.json("info", "a.qcow2")
    ours = cli.json("info", "a.qcow2")
    for key in ("filename", "format", "virtual-size", "actual-size", "cluster-size", "dirty-flag"):
        assert ours[key] == theirs[key]
    assert ours["format-specific"]["type"] == "qcow2"
    out, _ = cli.text("info", "a.qcow2")
    assert "virtual size  10 MiB (10485760 bytes)" in out


def test_info_digest_is_the_bundles_own(cli: Cli, bundle: str) -> None:
    disks = {disk["id"]: disk for disk in cli.json("info", bundle)["disks"]}
    for path, disk in (("disk.raw", "root"), ("data.raw", "data")):
        found = cli.json("info", path, "--digest")["content-digest"]
        assert found == disks[disk]["content-digest"]


def test_info_of_a_chain_lists_it(cli: Cli, qemu_img: QemuImg) -> None:
    qemu_img.run("create", "-q", "-f", "qcow2", "base.qcow2", "1M")
    qemu_img.run("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    assert "chain" not in cli.json("info", "top.qcow2")
    for way in (["--allow-backing"], ["--allow-backing-dir", os.getcwd()]):
        document = cli.json("info", "top.qcow2", *way)
        assert [Path(each["filename"]).name for each in document["chain"]] == ["base.qcow2"]
    assert cli.text("info", "top.qcow2", "--allow-backing")[0].count("image ") == 2


def test_control_characters_in_a_snapshots_name_stay_off_the_terminal(
    cli: Cli, qemu_img: QemuImg
) -> None:
    qemu_img.run("create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    qemu_img.run("snapshot", "-c", "\x1b]0;owned\x07", "a.qcow2")
    for words in (["info", "a.qcow2"], ["info", "a.qcow2", "--output", "json"]):
        out, err = cli.text(*words)
        assert "owned" in out
        assert "".join((out + err).splitlines()).isprintable()


def test_pack_tells_what_it_made(cli: Cli, bundle: str) -> None:
    document = cli.json("pack", "disk.raw", "-o", "b.vmpack")
    assert set(document) >= {"filename", "format", "id", "machine-id", "name", "size", "disks"}
    assert document["size"] == Path("b.vmpack").stat().st_size
    out, _ = cli.text("pack", "disk.raw", "-o", "c.vmpack")
    assert re.match(r"packed c\.vmpack in \d+\.\d s\n", out)
    assert re.search(r"source +\S+ KiB of disk, \S+ KiB of data\n", out)
    assert re.search(rf"bundle +\S+ KiB \({Path('c.vmpack').stat().st_size} bytes\), \d+% of", out)
    assert max(map(len, out.splitlines())) <= 80
    assert json.loads(cli.text("info", "c.vmpack", "--output", "json")[0])["id"] in out
    assert document["machine-id"] in out


def test_pack_takes_a_bundles_disk_as_a_source(cli: Cli, bundle: str) -> None:
    cli.text("pack", f"{bundle}#data", "-o", "b.vmpack")
    assert cli.text("compare", "b.vmpack", "data.raw")[0] == "identical\n"


@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_unpack_gives_the_disks_back(cli: Cli, bundle: str, to: str) -> None:
    document = cli.json("unpack", bundle, "-o", "out", "--to", to)
    assert document["folder"] == "out"
    assert {disk["id"]: disk["filename"] for disk in document["disks"]} == {
        "root": f"out/root.{to}",
        "data": f"out/data.{to}",
    }
    assert Path("out/blobs/notes.txt").read_bytes() == b"variables"
    cli.text("compare", "disk.raw", f"out/root.{to}")
    if to == "raw":
        assert Path("out/root.raw").read_bytes() == Path("disk.raw").read_bytes()
    out, err = cli.text("unpack", bundle, "-o", "out", "--to", to, code=1)
    assert out == ""
    assert "hint: --force" in err
    out, _ = cli.text("unpack", bundle, "-o", "out", "--to", to, "--force", "--no-verify")
    assert f"out/root.{to}" in out
    assert re.search(r"config +out/vm\.toml\n", out)


def test_check_exit_codes_are_qemu_imgs(cli: Cli, bundle: str, qemu_img: QemuImg) -> None:
    assert cli.text("check", bundle, "--full") == (f"{bundle}: clean\n", "")
    assert cli.json("check", bundle)["corruptions"] == 0
    assert "cannot be checked" in cli.text("check", "disk.raw", code=63)[0]
    assert cli.text("check", "none.vmpack", code=1)[0] == ""
    raw = bytearray(Path(bundle).read_bytes())
    raw[len(raw) // 3] ^= 1
    Path("bad.vmpack").write_bytes(raw)
    document = cli.json("check", "bad.vmpack", code=2)
    assert document["corruptions"] >= 1
    assert document["findings"][0]["message"]
    assert cli.text("check", "bad.vmpack", code=2)[0].endswith("bad.vmpack: damaged\n")
    assert cli.text("check", "bad.vmpack", "-q", code=2) == ("", "")


def test_check_of_leaks_only_is_3(cli: Cli, qemu_img: QemuImg) -> None:
    qemu_img.run("create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    raw = bytearray(Path("a.qcow2").read_bytes())
    table = int.from_bytes(raw[48:56], "big")
    block = int.from_bytes(raw[table : table + 8], "big")
    used = len(raw) // 65536 + 1
    raw += bytes(-len(raw) % 65536 + 65536)
    raw[block + 2 * used : block + 2 * used + 2] = b"\x00\x01"
    Path("a.qcow2").write_bytes(raw)
    assert qemu_img.run("check", "-f", "qcow2", "a.qcow2", check=False).returncode == 3
    assert cli.json("check", "a.qcow2", code=3)["leaks"] == 1
    assert "leaked clusters, no damage" in cli.text("check", "a.qcow2", code=3)[0]


def test_compare(cli: Cli, bundle: str) -> None:
    assert cli.text("compare", "disk.raw", f"{bundle}#root")[0] == "identical\n"
    assert cli.json("compare", "data.raw", f"{bundle}#data")["identical"] is True
    raw = bytearray(Path("data.raw").read_bytes())
    raw[700_001] ^= 1
    Path("other.raw").write_bytes(raw)
    out, err = cli.text("compare", "data.raw", "other.raw", code=1)
    assert (out, err) == ("different from offset 700001 on\n", "")
    assert cli.json("compare", "data.raw", "other.raw", code=1)["offset"] == 700_001
    assert cli.text("compare", "data.raw", "other.raw", "-q", code=1) == ("", "")
    assert "the sizes differ" in cli.text("compare", "disk.raw", "data.raw", code=1)[1]
    Path("longer.raw").write_bytes(Path("data.raw").read_bytes() + bytes(512))
    assert cli.text("compare", "data.raw", "longer.raw") == (
        "identical\n",
        "vmpack: warning: the sizes differ: 1048576 and 1049088 bytes\n",
    )
    for way in ("-s", "--strict"):
        assert cli.json("compare", "data.raw", "longer.raw", way, code=1)["identical"] is False
    assert "has 2 disks" in cli.text("compare", "disk.raw", bundle, code=2)[1]


def test_convert(cli: Cli, bundle: str, qemu_img: QemuImg) -> None:
    document = cli.json(
        *("convert", f"{bundle}#root", "a.qcow2", "-c", "-m", "1"),
        *("-o", "compression_type=zstd,cluster_size=64K"),
    )
    assert document["format"] == "qcow2"
    assert document["verified"] is True
    assert document["size"] == Path("a.qcow2").stat().st_size
    qemu_img.assert_clean("a.qcow2", fmt="qcow2")
    out, _ = cli.text("convert", "a.qcow2", "b.raw", "--no-verify")
    assert out.startswith("converted a.qcow2 (qcow2) into b.raw (raw)\n")
    cli.text("compare", "b.raw", "disk.raw")


def test_convert_dry_run_writes_nothing(cli: Cli, bundle: str) -> None:
    before = sorted(os.listdir())
    assert cli.json("convert", "disk.raw", "x.qcow2", "--dry-run")["dry-run"] is True
    assert cli.text("convert", "disk.raw", "x.qcow2", "--dry-run")[0].startswith("would convert")
    assert sorted(os.listdir()) == before


def test_convert_shows_lines_of_progress_with_p(cli: Cli, bundle: str) -> None:
    _, err = cli.text("convert", "disk.raw", "a.qcow2", "-p")
    assert err.splitlines()[0] == "converting: 0%"
    assert "converting: 100%" in err


def test_convert_through_pipes(cli: Cli, bundle: str) -> None:
    argv = [sys.executable, "-m", "vmpack", "convert"]
    env = {"PYTHONPATH": os.fspath(Path(vmpack.__file__).parents[1])}
    done = process([*argv, f"{bundle}#root", "-", "-O", "raw"], env=env)
    assert done.stdout == Path("disk.raw").read_bytes()
    process([*argv, "-", "piped.qcow2", "-f", "raw", "-q"], stdin=done.stdout, env=env)
    cli.text("compare", "piped.qcow2", "disk.raw")
    assert cli.json("convert", "disk.raw", "-", "-O", "raw", code=2)["error"]["field"] == "--output"


def test_max_size_refuses_before_anything_is_written(cli: Cli, bundle: str) -> None:
    for words in (["pack", "data.raw", "-o", "x"], ["convert", "data.raw", "x", "-O", "qcow2"]):
        error = cli.json(*words, "--max-size", "512K", code=4)["error"]
        assert "--max-size" in error["hint"]
        assert not Path("x").exists()


def test_map_agrees_with_qemu_img(cli: Cli, bundle: str, qemu_img: QemuImg) -> None:
    cli.text("convert", "disk.raw", "a.qcow2", "-q")
    ours = cli.json("map", "a.qcow2")
    theirs = qemu_img.json("map", "-f", "qcow2", "a.qcow2")
    keys = ("start", "length", "depth", "zero", "data")
    assert [[row[key] for key in keys] for row in ours] == [
        [row[key] for key in keys] for row in theirs
    ]
    out, _ = cli.text("map", "a.qcow2")
    assert len(out.splitlines()) == len(ours) + 1


def test_measure(cli: Cli, bundle: str) -> None:
    document = cli.json("measure", "data.raw", "-O", "qcow2")
    assert set(document) == {"required", "fully-allocated"}
    cli.text("convert", "data.raw", "a.qcow2")
    assert document["required"] == Path("a.qcow2").stat().st_size
    assert cli.json("measure", "--size", "1G", "-O", "raw")["required"] == 1 << 30
    assert "fully allocated  1 GiB (1073741824 bytes)" in cli.text(
        "measure", "--size", "1G", "-O", "raw"
    )[0]  # fmt: skip


def test_create(cli: Cli, qemu_img: QemuImg) -> None:
    document = cli.json("create", "a.qcow2", "1.5G", "-O", "qcow2", "-o", "cluster_size=4K")
    assert document == {"filename": "a.qcow2", "format": "qcow2", "virtual-size": 3 << 29}
    assert qemu_img.json("info", "a.qcow2")["cluster-size"] == 4096
    assert "exists" in cli.text("create", "a.qcow2", "1G", "-O", "qcow2", code=1)[1]
    cli.text("create", "a.qcow2", "1G", "-O", "qcow2", "--force", "-q")
    error = cli.json("create", "b.qcow2", "1G", "-O", "qcow2", "-o", "colour=red", code=2)["error"]
    assert "cluster_size" in error["hint"]


def test_a_file_with_a_hash_in_its_name_is_that_file(cli: Cli) -> None:
    random_disk("a#b.raw", 1 << 16)
    assert cli.json("info", "a#b.raw")["virtual-size"] == 1 << 16


def test_an_unknown_disk_of_a_bundle_is_told_with_the_known_ones(cli: Cli, bundle: str) -> None:
    error = cli.json("map", f"{bundle}#rot", code=2)["error"]
    assert "root" in error["hint"]
    assert "data" in error["hint"]
