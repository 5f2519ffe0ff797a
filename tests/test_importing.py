"""What a foreign config may open: what lies beside it, or what its reader was told. No more.

HV-IN-1, HV-IN-2. Most through VMX files, whose disk names are free text.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from tests.support import hv
from tests.support.disks import random_disk
from tests.support.vmx import vmx_text
from vmpack.errors import InputError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.formats.base import OpenOptions
from vmpack.hypervisors.base import MAX_CONFIG, Imported
from vmpack.machine import MachineConfig
from vmpack.ops import importing
from vmpack.ops.convert import convert
from vmpack.ops.create import create
from vmpack.ops.pack import pack
from vmpack.ops.transfer import transfer

MIB = 1 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A disk that no config in ``vm`` may reach."""
    raw = tmp_path / "secret.raw"
    random_disk(raw, MIB)
    convert(raw, tmp_path / "secret.vmdk", output_format="vmdk")
    (tmp_path / "vm").mkdir()
    return tmp_path / "secret.vmdk"


def machine(tmp_path: Path, disk: str, *more: str) -> Path:
    """A VMX in the folder ``vm`` whose first disk is called ``disk``."""
    path = tmp_path / "vm" / "shop.vmx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(vmx_text(*more, **{"scsi0:0.fileName": disk}))
    return path


NAMES = (
    "/etc/passwd",
    "{outside}",
    "../secret.vmdk",
    "sub/../../secret.vmdk",
    "./../secret.vmdk",
    "..\\\\secret.vmdk",
    "C:\\\\secret.vmdk",
    "link.vmdk",
    "linked/secret.vmdk",
    "json:{{}}",
    "nbd://127.0.0.1/x",
    "http://127.0.0.1/x.vmdk",
    "/dev/null",
    "/dev/sda",
    "fifo",
    "sub",
    ".",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(name: str, outside: Path, tmp_path: Path) -> None:
    """hostile: 4, 5, 41. HV-IN-1."""
    config = machine(tmp_path, name.format(outside=outside))
    (config.parent / "sub").mkdir()
    (config.parent / "link.vmdk").symlink_to(outside)
    (config.parent / "linked").symlink_to(tmp_path)
    os.mkfifo(config.parent / "fifo")
    with hv.only_opens(config.parent), pytest.raises(UsageError) as caught:
        pack([config], tmp_path / "out.vmpack")
    assert caught.value.field == "--disk"
    assert "--disk" in (caught.value.hint or "")
    assert "=PATH" in (caught.value.hint or "")
    assert not (tmp_path / "out.vmpack").exists()


def test_what_the_user_names_is_opened(outside: Path, tmp_path: Path) -> None:
    config = machine(tmp_path, "/vmfs/volumes/1/shop.vmdk")
    found = importing.find(config)
    assert found is not None
    (disk_id,) = importing.read_config(found).disks
    packed = pack([config], tmp_path / "a.vmpack", disks={disk_id: outside})
    assert packed.disks[0]["content-digest"] == hv.digest_of(outside)
    with pytest.raises(UsageError, match="no disk 'rot'") as caught:
        pack([config], tmp_path / "b.vmpack", disks={"rot": outside})
    assert disk_id in (caught.value.hint or "")


def test_a_folder_that_is_allowed(outside: Path, tmp_path: Path) -> None:
    """By its last component: the folder of the other host is not there."""
    config = machine(tmp_path, "/vmfs/volumes/1/secret.vmdk")
    packed = pack([config], tmp_path / "a.vmpack", backing_dirs=[tmp_path])
    assert packed.disks[0]["content-digest"] == hv.digest_of(outside)
    inside = machine(tmp_path, "/vmfs/volumes/1/own.vmdk")
    outside.rename(inside.parent / "own.vmdk")
    # The same name beside the config is the file that moved with it.
    pack([inside], tmp_path / "b.vmpack")


def test_all_missing_disks_are_told_at_once(tmp_path: Path) -> None:
    config = machine(
        tmp_path, "one.vmdk", 'scsi0:1.present = "TRUE"', 'scsi0:1.fileName = "two.vmdk"'
    )
    with pytest.raises(UsageError) as caught:
        transfer(config, tmp_path / "out", "qemu")
    assert (caught.value.hint or "").count("--disk ") == 2
    assert not (tmp_path / "out").exists()


def test_info_needs_no_disk(tmp_path: Path) -> None:
    found = importing.find(machine(tmp_path, "absent.vmdk"))
    assert found is not None
    with hv.only_opens(tmp_path / "vm"):
        imported = importing.read_config(found)
    assert imported.config.name == "shop"


def test_a_folder_with_its_config(outside: Path, tmp_path: Path) -> None:
    config = machine(tmp_path, "secret.vmdk")
    outside.rename(config.parent / "secret.vmdk")
    pack([config.parent], tmp_path / "a.vmpack")
    (config.parent / "copy.vmx").write_bytes(config.read_bytes())
    with pytest.raises(UsageError, match=r"more than one config: copy\.vmx, shop\.vmx"):
        pack([config.parent], tmp_path / "b.vmpack")
    config.unlink()
    (config.parent / "copy.vmx").unlink()
    with pytest.raises(InputError, match="without a config"):
        pack([config.parent], tmp_path / "b.vmpack")


def test_a_link_in_a_folder_is_no_config(tmp_path: Path) -> None:
    """hostile: 4: a folder from elsewhere could link to a config of this host."""
    config = machine(tmp_path, "x.vmdk")
    target = config.rename(tmp_path / "of-this-host.vmx")
    config.symlink_to(target)
    os.mkfifo(config.parent / "waits-for-ever.vmx")
    with hv.only_opens(config.parent), pytest.raises(InputError, match="without a config"):
        importing.find(config.parent)


def test_a_config_goes_alone(outside: Path, tmp_path: Path) -> None:
    config = machine(tmp_path, "x.vmdk")
    for sources in ([config, outside], [outside, config], [config, config]):
        with pytest.raises(UsageError, match="other sources"):
            pack(sources, tmp_path / "a.vmpack")
    with pytest.raises(UsageError, match="--config"):
        pack([config], tmp_path / "a.vmpack", config=MachineConfig())


def test_a_config_of_any_size_is_not_read(tmp_path: Path) -> None:
    """hostile: 7."""
    config = machine(tmp_path, "x.vmdk")
    with config.open("r+b") as file:
        file.truncate(MAX_CONFIG + 1)
    with pytest.raises(UnsafeError, match="at most"):
        importing.find(config)


def test_an_archive_without_a_config(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", MIB)
    with tarfile.open(tmp_path / "a.ova", "w") as archive:
        archive.add(tmp_path / "disk.raw", "disk.raw")
    with pytest.raises(UnsupportedError, match="without a config"):
        pack([tmp_path / "a.ova"], tmp_path / "a.vmpack")


def test_an_archive_of_a_config_and_its_disk(outside: Path, tmp_path: Path) -> None:
    """Names are members' names: an absolute one is none of the host's. HV-IN-1."""
    for number, (name, member) in enumerate(
        [
            ("disk.vmdk", "disk.vmdk"),
            (str(outside), "disk.vmdk"),
            ("../secret.vmdk", "disk.vmdk"),
            ("disk.vmdk", "elsewhere/disk.vmdk"),
        ]
    ):
        config = machine(tmp_path, name)
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(config, "vm/shop.vmx")
            archive.add(outside, member if "/" in member else f"vm/{member}")
        with hv.only_opens(path.parent / path.name, tmp_path / "a.vmpack", tmp_path / "b"):
            found = importing.find(path)
            assert found is not None
            imported = importing.read_config(found)
            error = hv.refused(lambda f=found, i=imported: _open(f, i))
            found.close()
        if number:
            assert isinstance(error, UsageError)
            assert error.field == "--disk"
        else:
            assert error is None


def _open(found: importing.Found, imported: Imported) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        importing.open_disks(stack, found, imported, options=OpenOptions())


def test_a_format_that_the_config_states_is_held_to(tmp_path: Path) -> None:
    """hostile: 1, 2: a raw disk whose guest wrote a qcow2 header stays what the config says."""
    config = machine(tmp_path, "disk.vmdk")
    create(config.parent / "disk.vmdk", 65536, "qcow2")
    error = hv.refused(lambda: pack([config], tmp_path / "a.vmpack"))
    if error is None:
        assert hv.bundle_digests(tmp_path / "a.vmpack")
    else:
        assert isinstance(error, VmpackError)


def test_disk_images_are_no_configs(outside: Path, tmp_path: Path) -> None:
    assert importing.find(outside) is None
    assert importing.find("-") is None
    assert importing.find("absent.vmpack#root") is None
    with pytest.raises(InputError):
        importing.find(tmp_path / "absent.vmx")
    bundle = hv.bundle_of(tmp_path / "b", '[[disk]]\nid = "root"\n')
    assert importing.find(bundle) is None
    # A raw name says raw, even where the guest wrote what looks like a config.
    lie = tmp_path / "lie.raw"
    lie.write_bytes(vmx_text().ljust(MIB, b"\n"))
    assert importing.find(lie) is None


def test_no_path_of_the_host_gets_into_the_bundle(outside: Path, tmp_path: Path) -> None:
    """HV-IN-2: CFG-FORM-4."""
    config = machine(tmp_path, "secret.vmdk", 'serial0.fileName = "/home/ann/log"')
    outside.rename(config.parent / "secret.vmdk")
    pack([config], tmp_path / "a.vmpack")
    text = str(hv.bundle_config(tmp_path / "a.vmpack").to_json_dict())
    assert "/home/ann" not in text
    assert str(tmp_path) not in text
    from vmpack.bundle import Bundle

    with Bundle.open(tmp_path / "a.vmpack") as opened:
        assert str(tmp_path) not in str(opened.manifest.provenance)
        assert "import" in opened.manifest.provenance
