"""What ``vmpack info`` prints about a bundle whose manifest lies: bounded, and safe to look at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import write_bundle
from tests.support.disks import random_disk
from vmpack.bundle.structs import HEADER_SIZE, Header
from vmpack.cli.human import LONGEST, MOST
from vmpack.cli.main import run
from vmpack.machine import canonical

EVIL = "\x1b]0;owned\x07\x1b[2J\x7f\u202e\n"


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    random_disk(tmp_path / "disk.raw", 20_000)
    return write_bundle(
        tmp_path / "good.vmpack", [("root", tmp_path / "disk.raw", 4096)]
    ).read_bytes()


def forged(raw: bytes, path: Path, **members: Any) -> str:
    """The bundle with other members in its manifest, and every digest right."""
    header = Header.decode(raw[:HEADER_SIZE])
    manifest: Any = canonical.loads(raw[header.manifest_offset :])
    text = canonical.dumps({**manifest, **members})
    header = replace(
        header,
        manifest_size=len(text),
        manifest_sha256=hashlib.sha256(text).digest(),
        total_size=header.manifest_offset + len(text),
    )
    path.write_bytes(header.encode() + raw[HEADER_SIZE : header.manifest_offset] + text)
    return str(path)


def lies() -> list[dict[str, object]]:
    nested: object = EVIL
    for _ in range(20):
        nested = [nested]
    cards = [{"model": EVIL, "mac": EVIL}] * 1000
    return [
        {"config": {"version": 1, "name": EVIL, "machine": EVIL, "nic": cards}},
        {"config": {"name": "n" * 1_000_000, "firmware": {"kind": "k" * 100_000}}},
        {"config": {"name": 1, "nic": nested, "disk": [{"id": [], "bus": {}}, 1, None]}},
        {"config": {"memory": "much", "cpu": {"cores": 2**53 - 1, "threads": EVIL}}},
        {"config": {"cpu": 1, "nic": {"model": EVIL}}, "provenance": {"vmpack": EVIL * 1000}},
        {"x-" + "k" * 1000: nested, "behaviour": {"x": nested}},
    ]


@pytest.mark.parametrize("number", range(len(lies())))
def test_info_of_a_lying_bundle_is_bounded_and_printable(
    number: int, raw: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forged(raw, tmp_path / "evil.vmpack", **lies()[number])
    assert run(["info", path]) == 0
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert len(out) < 20 * LONGEST
    assert run(["info", path, "--output", "json"]) == 0
    out, _ = capsys.readouterr()
    assert out.replace("\n", "").isascii()
    assert all(line.isprintable() for line in out.splitlines())
    assert json.loads(out)["config"] == lies()[number].get("config", json.loads(out)["config"])


def test_json_about_a_file_has_a_limit(
    raw: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep: object = [1] * 200_000
    for _ in range(25):
        deep = [deep]
    path = forged(raw, tmp_path / "evil.vmpack", config={"x": deep})
    assert run(["info", path, "--output", "json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["kind"] == "unsafe"
    assert document["error"]["path"] == path
    assert run(["info", path]) == 0


def test_long_lists_are_cut_for_people(
    raw: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest: Any = canonical.loads(raw[Header.decode(raw[:HEADER_SIZE]).manifest_offset :])
    blob = {"offset": manifest["pool"]["offset"], "stored-size": 1, "size": 1}
    blobs = [
        {**blob, "name": f"b{number}", "digest": "sha256:" + "0" * 64} for number in range(MOST + 5)
    ]
    assert run(["info", forged(raw, tmp_path / "evil.vmpack", blobs=blobs)]) == 0
    assert capsys.readouterr().out.endswith("and 5 more\n")
