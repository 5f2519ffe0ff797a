"""``--identity keep|new|derive`` when packing, unpacking and converting, for every target.

HV-ID-1. Notes: MAC lost; fresh MACs wanted when cloning; duplicate disk UUIDs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from tests.support import hv
from vmpack.errors import VmpackError
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack
from vmpack.ops.transfer import export_bundle, transfer

Identity = Literal["keep", "new", "derive"]
UUID = "12345678-9abc-4def-8123-456789abcdef"
MACS = ("52:54:00:12:34:56", "52:54:00:12:34:57")
SERIALS = hv.RICH + '[smbios.system]\nserial = "OLD-SERIAL-1"\n'
KEPT = (UUID, *MACS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hv.bundle_of(tmp_path_factory.mktemp("identity"), SERIALS)


def identity_of(config: MachineConfig) -> tuple[object, ...]:
    return config.uuid, *(nic.mac for nic in config.nics or ())


def texts(folder: Path) -> str:
    """Every small file of an export, as if text, in one case and with no separators."""
    small = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size < 4 * hv.MIB
    )
    found = [path.read_bytes().decode("latin-1") for path in small]
    return plain("".join(found))


def plain(text: str) -> str:
    """Without the separators that UUIDs and addresses are written with."""
    return re.sub(r"[-: ]", "", text.lower())


@pytest.mark.parametrize("name", hv.writing())
def test_unpack(name: str, bundle: Path, tmp_path: Path) -> None:
    def written(identity: Identity, place: str) -> dict[str, str]:
        export_bundle(bundle, tmp_path / place, name, identity=identity, verify=False, force=True)
        return hv.tree(tmp_path / place)

    kept = written("keep", "keep")
    derived, derived_again = written("derive", "out"), written("derive", "out")
    new, newer = written("new", "out"), written("new", "out")
    assert derived == derived_again
    has_old = [one for one in KEPT if plain(one) in texts(tmp_path / "keep")]
    if has_old:
        # A target that makes all of them itself has nothing to change.
        assert len({str(one) for one in (kept, derived, new, newer)}) == 4
    assert export_bundle(bundle, tmp_path / "keep", name, force=True, verify=False)
    assert hv.tree(tmp_path / "keep") == kept
    written("derive", "out")
    now = texts(tmp_path / "out")
    for one in (*has_old, "OLD-SERIAL-1"):
        assert plain(one) not in now, one


@pytest.mark.parametrize("name", [one for one in hv.reading() if one in hv.writing()])
def test_pack_and_convert(name: str, bundle: Path, tmp_path: Path) -> None:
    """From each hypervisor whose machines are read."""
    _, source = hv.written_for(name, bundle, tmp_path / "in")
    imported = identity_of(hv.read_back(source)[0].config)

    def packed(identity: Identity) -> tuple[object, ...]:
        out = tmp_path / "out.vmpack"
        pack([source.path], out, disks=source.disks, identity=identity, force=True)
        return identity_of(hv.bundle_config(out))

    keep = packed("keep")
    assert [new for old, new in zip(imported, keep, strict=True) if old not in (None, new)] == []
    derived = packed("derive")
    assert derived == packed("derive")
    # What the source did not give is derived in either case.
    assert not set(derived) & set(imported)
    assert len(set(derived)) == len(derived)
    assert not set(packed("new")) & set(packed("new"))

    def converted(identity: Identity) -> dict[str, str]:
        out = tmp_path / "converted"
        transfer(
            source.path,
            out,
            "qemu",
            disks=source.disks,
            identity=identity,
            force=True,
            verify=False,
        )
        found = identity_of(MachineConfig.from_file(out / "vm.toml"))
        return {str(n): str(one) for n, one in enumerate(found)}

    assert [one for one in imported if one and str(one) not in converted("keep").values()] == []
    assert converted("derive") == converted("derive")
    assert converted("new") != converted("new")


def test_what_is_no_identity_stays(bundle: Path, tmp_path: Path) -> None:
    """Devices and their addresses are the guest's view of its hardware: they are no identity."""
    export_bundle(bundle, tmp_path / "a", "qemu", identity="keep")
    export_bundle(bundle, tmp_path / "b", "qemu", identity="new")
    before = MachineConfig.from_file(tmp_path / "a/vm.toml").to_json_dict()
    after = MachineConfig.from_file(tmp_path / "b/vm.toml").to_json_dict()
    changed = {
        path for path, value in hv.leaves(before) if dict(hv.leaves(after)).get(path) != value
    }
    assert changed == {"uuid", "nic[0].mac", "nic[1].mac", "smbios.system.serial"}


def test_a_typo_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(VmpackError):
        export_bundle(bundle, tmp_path / "out", "qmu")
    assert not (tmp_path / "out").exists()
