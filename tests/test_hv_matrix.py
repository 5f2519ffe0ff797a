"""Every hypervisor that is read, to every one that is written: all pairs of the registry.

A new hypervisor joins by its line in the registry. What is asserted holds for each pair: nothing is
lost without a word, disks have the same content, the same input gives the same bytes, and nothing
but source and target is opened.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support import hv
from tests.support.tools import missing
from vmpack import hypervisors
from vmpack.machine.names import Hypervisor
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer

MACHINES = {"bios": hv.RICH, "uefi": hv.UEFI}
READING, WRITING = hv.reading(), hv.writing()
OWN = [name for name in READING if name in WRITING]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Path]:
    return {name: hv.bundle_of(folder / name, toml) for name, toml in MACHINES.items()}


@functools.cache
def _source(name: str, bundle: Path, folder: Path) -> hv.Source:
    return hv.written_for(name, bundle, folder)[1]


def digests(bundle: Path, target: str = "") -> list[str]:
    """Of a bundle's disks; as ``target`` has them, where it wants more room behind their ends."""
    if target == "azure":
        return sorted(hv.grown_digests(bundle, 20 * hv.MIB))
    return sorted(hv.bundle_digests(bundle).values())


def images(result: Any, source: hv.Source) -> list[str]:
    """Content digests of an export's disks: by its own reader where it has one."""
    if source.is_config:
        return sorted(hv.read_back(source)[1].values())
    assert all(Path(path).exists() for _, path in result.disks), result.disks
    return sorted(hv.digest_of(path) for _, path in result.disks)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", WRITING)
def test_a_bundle_to_each(
    name: str, machine: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    """hostile: 4, 43."""
    bundle = bundles[machine]
    out = tmp_path / "out"
    with hv.only_opens(tmp_path, bundle.parent):
        result = export_bundle(bundle, out, name)
    assert result.target == name
    hv.require_whole(result.report, hv.bundle_config(bundle), _verbatim_of(name))
    for path in (one for one in out.rglob("*") if one.is_file()):
        hv.parse(path)
    assert images(result, hv.source_in(result, out)) == digests(bundle, name)
    listed = {*result.files, *(path for _, path in result.disks)}
    for one in listed:
        assert Path(one).exists() or Path(one.rpartition(":")[0]).exists(), one
    assert result.instructions
    first = hv.tree(out)
    shutil.rmtree(out)
    export_bundle(bundle, out, name, verify=False, workers=1)
    assert hv.tree(out) == first


def _verbatim_of(name: str) -> str:
    return hypervisors.get(name).same_as or name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", OWN)
def test_out_and_back(name: str, machine: str, bundles: dict[str, Path], folder: Path) -> None:
    """What an export says it kept is there when its own reader reads it."""
    bundle = bundles[machine]
    result, source = hv.written_for(name, bundle, folder / f"{name}-{machine}-back")
    imported, _ = hv.read_back(source)
    hv.require_reasons(imported.report.as_dict())
    before, after = hv.bundle_config(bundle), hv.pinned(imported)
    kept = hv.kept(result.report)
    there, here = hv.comparable(after), hv.comparable(before, kept)
    changed = [
        (path, value, there.get(path)) for path, value in here.items() if there.get(path) != value
    ]
    assert changed == []


@pytest.mark.parametrize("name", READING)
def test_each_has_a_machine_to_read(name: str, bundles: dict[str, Path], folder: Path) -> None:
    """A hypervisor that is only read has its own tests' sample; those that are written, theirs."""
    if name not in WRITING:
        missing(f"a writer for {name}", "its own tests read samples")
    source = _source(name, bundles["bios"], folder / f"from-{name}")
    imported, found = hv.read_back(source)
    assert sorted(found.values()) == digests(bundles["bios"])
    assert imported.config.name in ("shop", None)


@pytest.mark.parametrize("target", WRITING)
@pytest.mark.parametrize("name", OWN)
def test_each_to_each(
    name: str, target: str, bundles: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """Straight from one to another; hostile: 4."""
    source = _source(name, bundles["bios"], folder / f"from-{name}")
    out = tmp_path / "out"
    with hv.only_opens(tmp_path, folder):
        result = transfer(source.path, out, target, disks=source.disks, verify=False)
    assert set(result.report) == {"import", "export"}
    for part in result.report.values():
        hv.require_reasons(part)  # type: ignore[arg-type]
    assert images(result, hv.source_in(result, out)) == digests(bundles["bios"], target)


@pytest.mark.parametrize("name", OWN)
def test_through_a_bundle_it_is_the_same(
    name: str, bundles: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """The bundle in between changes nothing but what follows from its disks' digests."""
    source = _source(name, bundles["bios"], folder / f"from-{name}")
    packed = pack([source.path], tmp_path / "again.vmpack", disks=source.disks)
    assert packed.report is not None
    assert packed.report["direction"] == "import"
    out = tmp_path / "out"
    straight = transfer(source.path, out, name, disks=source.disks, verify=False)
    first = hv.tree(out)
    shutil.rmtree(out)
    bundled = export_bundle(tmp_path / "again.vmpack", out, name, verify=False)
    assert straight.report["export"] == bundled.report
    assert hv.tree(out).keys() == first.keys()
    imported, found = hv.read_back(hv.source_in(bundled, out))
    assert sorted(found.values()) == digests(bundles["bios"])
    once = hv.read_back(source)[0]
    assert imported.config.verbatim == once.config.verbatim


TEXT = 'it\'s "$(touch owned)" `touch owned`; touch owned & | > owned * ~ ,a=x %s {{x}} ${y} #!'
TEXT += " <b>&amp;</b> ]]> --> ' @' \\ C:\\x !y é 漢 \U0001f600 -- & {yaml: [x]} : - ? | 'q"
ASCII = TEXT.encode("ascii", "ignore").decode()


def toml(text: str) -> str:
    """A string as TOML has it, which is as JSON has it but for surrogates."""
    return json.dumps(text, ensure_ascii=False)


HOSTILE = f"""
name = {toml(TEXT.replace("/", "").replace(chr(92), "")[:128])}
description = {toml(TEXT + chr(10) + "EOF" + chr(10) + "'@" + chr(10) + TEXT)}
uuid = "12345678-9abc-4def-8123-456789abcdef"
memory = "512M"
guest-os = {{id = "debian12", family = "linux"}}

[smbios]
oem-strings = [{toml(ASCII)}]
bios = {{vendor = {toml(ASCII)}}}
system = {{serial = {toml(ASCII)}}}
baseboard = {{asset = {toml(ASCII)}}}

[[disk]]
id = "root"
serial = "a b-c_d.e"

[[nic]]
network = "lab 1 - x.y_z"

[ova]
product = {toml(TEXT)}
vendor = {toml(TEXT)}
version = {toml(TEXT)}
full-version = {toml(TEXT)}
product-url = {toml(TEXT)}
vendor-url = {toml(TEXT)}
application-url = {toml(TEXT)}
annotation = {toml(TEXT + chr(10) + TEXT)}
eula = [{toml(TEXT + chr(10) + TEXT)}]

[[ova.property]]
key = "a.b-c_d"
value = {toml(TEXT + chr(10) + TEXT)}
label = {toml(TEXT)}
description = {toml(TEXT)}
category = {toml(TEXT)}
"""
CARRIED = "".join(
    f"""
[[verbatim.{name}]]
key = {toml(key)}
value = {toml(TEXT + chr(10) + TEXT)}
"""
    for name in get_args(Hypervisor)
    for key in ("a.b", TEXT, "domain@type", "../x", "x/y[1]/z", "scsi0:0.fileName", "args", "run")
)


@pytest.mark.parametrize("carried", ["", CARRIED], ids=["text", "verbatim"])
@pytest.mark.parametrize("name", WRITING)
def test_text_stays_text(name: str, carried: str, tmp_path: Path) -> None:
    """hostile: 43. Metacharacters of shells, PowerShell, XML, YAML and VMX in every field."""
    bundle = hv.bundle_of(tmp_path / "in", HOSTILE + carried)
    out = tmp_path / "out"
    with hv.only_opens(tmp_path):
        result = export_bundle(bundle, out, name, verify=False)
    hv.require_whole(result.report, hv.bundle_config(bundle), _verbatim_of(name))
    for path in (one for one in out.rglob("*") if one.is_file()):
        assert not path.is_symlink()
        hv.parse(path)
    assert all("\n" not in line and "\x1b" not in line for line in result.instructions)
    source = hv.source_in(result, out)
    assert images(result, source) == digests(bundle, name)
    if source.is_config and not carried:
        config = hv.read_back(source)[0].config
        before = hv.bundle_config(bundle)
        kept = hv.kept(result.report)
        after = dict(hv.leaves(config.to_json_dict()))
        for place, value in hv.leaves(before.to_json_dict()):
            if isinstance(value, str) and TEXT[:20] in value and place in kept:
                assert after.get(place) == value, place
