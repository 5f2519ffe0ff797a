"""What another machine's vmpack sends back, and what it could send: read as a stranger's."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import sector_bundle
from tests.support.tools import run
from vmpack.bundle import Bundle
from vmpack.errors import RemoteError
from vmpack.runner.options import RunOptions
from vmpack.verify.remote import Order
from vmpack.verify.remote_result import host_result

pytestmark = pytest.mark.qemu

OFF = '[expected]\nmilestones = ["sector"]\nending = "power-off"\n'


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that says its name and powers off."""
    return sector_bundle(tmp_path_factory.mktemp("off"), "poweroff", OFF)


def archive(files: dict[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out


@pytest.fixture(scope="module")
def sent(off: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a report, as another machine makes them."""
    folder = tmp_path_factory.mktemp("sent")
    words = ["verify", off, "--accel", "tcg", "--output", "json", "--report", folder / "report"]
    result = run([sys.executable, "-m", "vmpack", *words]).stdout
    files = {"result.json": result, "code": b"0\n", "stderr.txt": b""}
    for path in (folder / "report").rglob("*"):
        if path.is_file():
            files[str(path.relative_to(folder))] = path.read_bytes()
    return files


def read_back(files: dict[str, bytes], bundle: Path, tmp_path: Path) -> Any:
    path = tmp_path / "archive.tar"
    path.write_bytes(archive(files).getvalue())
    with path.open("rb") as file, Bundle.open(bundle) as opened:
        return host_result("far", file, path.stat().st_size, Order(RunOptions()), opened)


def test_a_report_is_read_whole(sent: dict[str, bytes], off: Path, tmp_path: Path) -> None:
    """HOSTS-BACK-1."""
    result = read_back(sent, off, tmp_path)
    assert result.good
    (boot,) = result.boots
    assert boot.observation is not None
    assert boot.observation.host.name == "far"
    assert boot.ending.picture is not None
    assert boot.console.startswith(b"vmpack boot sector")
    told = json.loads(sent["result.json"])["hosts"][0]["boots"][0]
    mine = boot.as_dict()
    assert {key: mine[key] for key in told} == told


Lie = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (lambda told: told.update({"machine-id": "sha256:0"}), "another machine"),
        (lambda told: told.update(hosts=[]), "cannot be read"),
        (lambda told: told.update(hosts=told["hosts"] * 2), "cannot be read"),
        (lambda told: told["hosts"][0].update(boots={}), "a list is needed"),
        (lambda told: told["hosts"][0].update(boots=[None]), "an object is needed"),
        (lambda told: told["hosts"][0].update(boots=[{}] * 20_000), "a list is needed"),
        (lambda told: told["hosts"][0]["boots"][0]["ending"].update(kind="x\x1b"), "not known"),
        (lambda told: told["hosts"][0]["boots"][0]["ending"].update(message=3), "a text"),
        (lambda told: told["hosts"][0]["boots"][0]["ending"].update(resets=-1), "whole number"),
        (lambda told: told["hosts"][0]["pins"][0].update(status="fine"), "not known"),
        (lambda told: told["hosts"][0]["boots"][0]["expected"].update(timeout="1"), "a number"),
    ],
)
def test_a_report_that_lies_is_refused(
    sent: dict[str, bytes], off: Path, tmp_path: Path, lie: Lie, says: str
) -> None:
    """HOSTS-BACK-3."""
    told = json.loads(sent["result.json"])
    lie(told)
    with pytest.raises(RemoteError, match=says) as caught:
        read_back({**sent, "result.json": json.dumps(told).encode()}, off, tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"../../etc/x": b""}, "lead out of a folder"),
        ({"report/here/boot-1.observation.json": b"[" * 100_000}, "cannot be read"),
        ({"report/here/boot-1.observation.json": b'{"vmpack-behaviour": 9}'}, "cannot be read"),
        ({"result.json": b"[" * 100_000}, "ended with 0"),
        ({"result.json": b"", "code": b"1\x1b[2J", "stderr.txt": b"\x1b]0;x"}, "x1b"),
    ],
)
def test_an_archive_that_lies_is_refused(
    sent: dict[str, bytes], off: Path, tmp_path: Path, files: dict[str, bytes], says: str
) -> None:
    """HOSTS-BACK-1, HOSTS-BACK-3."""
    with pytest.raises(RemoteError, match=says) as caught:
        read_back({**sent, **files}, off, tmp_path)
    assert str(caught.value).isprintable()


def test_what_vmpack_there_could_not_do_keeps_its_kind(
    sent: dict[str, bytes], off: Path, tmp_path: Path
) -> None:
    """HOSTS-SSH-5, HOSTS-BACK-3."""
    error = {"kind": "damaged", "message": "bad\x1b[2J", "offset": 7, "other": {}}
    found = read_back({"result.json": json.dumps({"error": error}).encode()}, off, tmp_path)
    assert (found.exit_code, found.kind) == (125, "damaged")
    assert found.error["message"] == "bad\\x1b[2J"
    assert (found.error["offset"], found.error["path"]) == (7, None)
    old = {"error": {"kind": "usage", "message": "no such option", "field": "--end-with-stdin"}}
    found = read_back({"result.json": json.dumps(old).encode()}, off, tmp_path)
    assert (found.kind, found.exit_code) == ("remote", 125)
    assert "same version" in found.error["hint"]
