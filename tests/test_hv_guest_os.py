"""Names of operating systems: every hypervisor's lead to the same one and back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.tools import missing
from vmpack.hypervisors import guest_os
from vmpack.machine import MachineConfig

OSINFO = Path("/usr/share/osinfo/os")
_FAMILIES = {
    "linux": "linux",
    "winnt": "windows",
    "win9x": "windows",
    "win16": "windows",
    "freebsd": "bsd",
    "netbsd": "bsd",
    "openbsd": "bsd",
    "dragonflybsd": "bsd",
}


def _all_ids() -> list[str]:
    return sorted(guest_os._rows())


@pytest.mark.parametrize("os_id", _all_ids())
def test_every_row_is_found_by_each_of_its_names(os_id: str) -> None:
    row = guest_os.by_id(os_id)
    assert row is not None
    for found in (
        guest_os.by_vmware(row.vmware),
        guest_os.by_vmware(row.vsphere),
        guest_os.by_vmware(row.vmware.upper()),
        guest_os.by_virtualbox(row.virtualbox),
        guest_os.by_cim(row.cim),
        guest_os.by_proxmox(row.proxmox),
    ):
        assert found is not None
    same = guest_os.by_vmware(row.vmware)
    assert same is not None
    assert (same.family, same.vmware) == (row.family, row.vmware)
    assert guest_os.by_vmware(row.vsphere) == same
    config = {"guest-os": {"family": row.family, "id": row.id}}
    assert MachineConfig.from_json_dict({"version": 1, **config}).guest_os.id == row.id


@pytest.mark.parametrize(
    ("name", "os_id"),
    [
        ("rhel6-64", "rhel6"),
        ("rhel6_64Guest", "rhel6"),
        ("ubuntu64Guest", "ubuntu"),
        ("otherGuest64", "unknown"),
        ("windows9Server64Guest", "win2k16"),
        ("windows9-64", "win10"),
        ("winNetEnterpriseGuest", "win2k3"),
        ("windows7", "win7"),
        ("winxppro", "winxp"),
        ("Windows2019srvNext-64", "win2k22"),
        ("longhorn", "win2k8"),
        ("redhat", "rhel"),
        ("vmware-photon-64", "photon"),
        ("beos", None),
        ("", None),
    ],
)
def test_vmware_names(name: str, os_id: str | None) -> None:
    found = guest_os.by_vmware(name)
    assert (found.id if found else None) == os_id


@pytest.mark.parametrize(
    ("name", "os_id"),
    [
        ("Ubuntu_64", "ubuntu"),
        ("Ubuntu22_LTS_64", "ubuntu"),
        ("Debian12_64", "debian12"),
        ("RedHat9_64", "rhel9"),
        ("Windows11_64", "win11"),
        ("Windows81", "win8.1"),
        ("Linux26", "linux"),
        ("OS2Warp4", None),
    ],
)
def test_virtualbox_names(name: str, os_id: str | None) -> None:
    found = guest_os.by_virtualbox(name)
    assert (found.id if found else None) == os_id


def test_cim_numbers_with_the_version_that_an_ovf_adds() -> None:
    cases = {
        (80, "6"): "rhel6",
        (94, ""): "ubuntu",
        (96, "12"): "debian12",
        (107, "7.9"): "centos7",
    }
    for (number, version), os_id in cases.items():
        found = guest_os.by_cim(number, version)
        assert found is not None
        assert found.id == os_id
    assert guest_os.by_cim(4711) is None


def test_what_a_config_is_written_as() -> None:
    cases = {
        ("debian12", "linux"): "debian12-64",
        ("rhel8.6", "linux"): "rhel8-64",
        ("ubuntu22.04", "linux"): "ubuntu-64",
        ("sles12sp5", "linux"): "sles12-64",
        ("centos-stream9", "linux"): "centos9-64",
        ("win2k19", None): "windows2019srv-64",
        (None, "windows"): "windows9-64",
        (None, "linux"): "other5xlinux-64",
        (None, "bsd"): "freebsd-64",
        ("haiku", "other"): "other-64",
        (None, None): "other-64",
        # A family that contradicts the identifier is believed.
        ("debian12", "windows"): "windows9-64",
    }
    for (os_id, family), name in cases.items():
        assert guest_os.best(os_id, family).vmware == name
    assert guest_os.family_of("rocky9.1") == "linux"
    assert guest_os.family_of("plan9") is None


def test_against_libosinfos_own_data() -> None:
    """Every address and family that the table gives is osinfo-db's."""
    if not OSINFO.is_dir():
        missing("osinfo-db", "run `make setup`")
    seen = 0
    for path in OSINFO.glob("*/*.xml"):
        for one in ElementTree.parse(path).getroot().findall("os"):
            os_id, url = one.findtext("short-id"), one.get("id")
            assert os_id is not None
            assert url is not None
            known = guest_os.libosinfo_url(os_id)
            if known is not None:
                assert known == url
                assert guest_os.by_libosinfo(url) == os_id
                seen += 1
            row = guest_os.by_id(os_id)
            if row is not None:
                assert row.family == _FAMILIES.get(one.findtext("family") or "", "other"), os_id
    assert seen > 300
    assert guest_os.by_libosinfo("http://example.org/os/1") is None
    assert guest_os.libosinfo_url("ubuntu") is None
