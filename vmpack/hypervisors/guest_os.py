"""What the hypervisors call one and the same guest operating system.

The config's word is libosinfo's short identifier (``debian12``); where a source names a
distribution without its version, the identifier has none either (``ubuntu``).

Sources: the enumeration GuestOsIdentifier of the vSphere API, and the ids that Workstation writes;
CIM_OperatingSystem.OSType (CIM 2.52; what it lacks is 1, Other, or 102, Other 64-Bit);
``VBoxManage list ostypes``; osinfo-db; ``qm(1)``, option ostype.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

__all__ = [
    "GuestOs",
    "best",
    "by_cim",
    "by_id",
    "by_libosinfo",
    "by_proxmox",
    "by_virtualbox",
    "by_vmware",
    "family_of",
    "libosinfo_url",
]

# id | family | VMX guestOS | vSphere guestId | VirtualBox | CIM OSType | Proxmox ostype
# Where several rows share a name, the first one is what the name reads as.
_TABLE = """
linux       |linux  |other5xlinux-64      |other5xLinux64Guest      |Linux26_64       |101|l26
linux2022   |linux  |other5xlinux-64      |other5xLinux64Guest      |Linux26_64       |101|l26
linux2020   |linux  |other5xlinux-64      |other5xLinux64Guest      |Linux26_64       |101|l26
linux2018   |linux  |other4xlinux-64      |other4xLinux64Guest      |Linux26_64       |101|l26
linux2016   |linux  |other3xlinux-64      |other3xLinux64Guest      |Linux26_64       |101|l26
linux26     |linux  |other26xlinux-64     |other26xLinux64Guest     |Linux26_64       |100|l26
linux24     |linux  |other24xlinux-64     |other24xLinux64Guest     |Linux24_64       |98 |l24
linux-other |linux  |otherlinux-64        |otherLinux64Guest        |Linux_64         |101|l26
debian      |linux  |debian12-64          |debian12_64Guest         |Debian_64        |96 |l26
debian13    |linux  |debian13-64          |debian13_64Guest         |Debian_64        |96 |l26
debian12    |linux  |debian12-64          |debian12_64Guest         |Debian_64        |96 |l26
debian11    |linux  |debian11-64          |debian11_64Guest         |Debian_64        |96 |l26
debian10    |linux  |debian10-64          |debian10_64Guest         |Debian_64        |96 |l26
debian9     |linux  |debian9-64           |debian9_64Guest          |Debian_64        |96 |l26
debian8     |linux  |debian8-64           |debian8_64Guest          |Debian_64        |96 |l26
debian7     |linux  |debian7-64           |debian7_64Guest          |Debian_64        |96 |l26
debian6     |linux  |debian6-64           |debian6_64Guest          |Debian_64        |96 |l26
debian5     |linux  |debian5-64           |debian5_64Guest          |Debian_64        |96 |l26
debian4     |linux  |debian4-64           |debian4_64Guest          |Debian_64        |96 |l26
ubuntu      |linux  |ubuntu-64            |ubuntu64Guest            |Ubuntu_64        |94 |l26
rhel        |linux  |rhel9-64             |rhel9_64Guest            |RedHat_64        |80 |l26
rhel10      |linux  |rhel10-64            |rhel10_64Guest           |RedHat_64        |80 |l26
rhel9       |linux  |rhel9-64             |rhel9_64Guest            |RedHat_64        |80 |l26
rhel8       |linux  |rhel8-64             |rhel8_64Guest            |RedHat_64        |80 |l26
rhel7       |linux  |rhel7-64             |rhel7_64Guest            |RedHat_64        |80 |l26
rhel6       |linux  |rhel6-64             |rhel6_64Guest            |RedHat_64        |80 |l26
rhel5       |linux  |rhel5-64             |rhel5_64Guest            |RedHat_64        |80 |l26
rhel4       |linux  |rhel4-64             |rhel4_64Guest            |RedHat_64        |80 |l26
rhel3       |linux  |rhel3-64             |rhel3_64Guest            |RedHat_64        |80 |l26
centos      |linux  |centos-64            |centos64Guest            |RedHat_64        |107|l26
centos-stream|linux |centos9-64           |centos9_64Guest          |RedHat_64        |107|l26
centos9     |linux  |centos9-64           |centos9_64Guest          |RedHat_64        |107|l26
centos8     |linux  |centos8-64           |centos8_64Guest          |RedHat_64        |107|l26
centos7     |linux  |centos7-64           |centos7_64Guest          |RedHat_64        |107|l26
centos6     |linux  |centos6-64           |centos6_64Guest          |RedHat_64        |107|l26
ol          |linux  |oraclelinux-64       |oracleLinux64Guest       |Oracle_64        |109|l26
ol10        |linux  |oraclelinux10-64     |oracleLinux10_64Guest    |Oracle_64        |109|l26
ol9         |linux  |oraclelinux9-64      |oracleLinux9_64Guest     |Oracle_64        |109|l26
ol8         |linux  |oraclelinux8-64      |oracleLinux8_64Guest     |Oracle_64        |109|l26
ol7         |linux  |oraclelinux7-64      |oracleLinux7_64Guest     |Oracle_64        |109|l26
ol6         |linux  |oraclelinux6-64      |oracleLinux6_64Guest     |Oracle_64        |109|l26
rocky       |linux  |rockylinux-64        |rockylinux_64Guest       |RedHat_64        |80 |l26
almalinux   |linux  |almalinux-64         |almalinux_64Guest        |RedHat_64        |80 |l26
fedora      |linux  |fedora-64            |fedora64Guest            |Fedora_64        |101|l26
sles        |linux  |sles-64              |sles64Guest              |OpenSUSE_64      |85 |l26
sles16      |linux  |sles16-64            |sles16_64Guest           |OpenSUSE_64      |85 |l26
sles15      |linux  |sles15-64            |sles15_64Guest           |OpenSUSE_64      |85 |l26
sles12      |linux  |sles12-64            |sles12_64Guest           |OpenSUSE_64      |85 |l26
sles11      |linux  |sles11-64            |sles11_64Guest           |OpenSUSE_64      |85 |l26
sles10      |linux  |sles10-64            |sles10_64Guest           |OpenSUSE_64      |85 |l26
sle         |linux  |sles15-64            |sles15_64Guest           |OpenSUSE_64      |85 |l26
sled        |linux  |sles12-64            |sles12_64Guest           |OpenSUSE_64      |85 |l26
opensuse    |linux  |opensuse-64          |opensuse64Guest          |OpenSUSE_64      |83 |l26
suse        |linux  |suse-64              |suse64Guest              |OpenSUSE_64      |83 |l26
amazonlinux2|linux  |amazonlinux2-64      |amazonlinux2_64Guest     |RedHat_64        |101|l26
amazonlinux3|linux  |amazonlinux3-64      |amazonlinux3_64Guest     |RedHat_64        |101|l26
photon      |linux  |vmware-photon-64     |vmwarePhoton64Guest      |Linux26_64       |101|l26
coreos      |linux  |coreos-64            |coreos64Guest            |Linux26_64       |101|l26
asianux     |linux  |asianux9-64          |asianux9_64Guest         |RedHat_64        |101|l26
mandriva    |linux  |mandriva-64          |mandriva64Guest          |Mandriva_64      |90 |l26
archlinux   |linux  |other5xlinux-64      |other5xLinux64Guest      |ArchLinux_64     |101|l26
gentoo      |linux  |other5xlinux-64      |other5xLinux64Guest      |Gentoo_64        |101|l26
alpinelinux |linux  |other5xlinux-64      |other5xLinux64Guest      |Linux26_64       |101|l26
win         |windows|windows9-64          |windows9_64Guest         |WindowsNT_64     |120|win10
win11       |windows|windows11-64         |windows11_64Guest        |Windows11_64     |120|win11
win10       |windows|windows9-64          |windows9_64Guest         |Windows10_64     |120|win10
win8        |windows|windows8-64          |windows8_64Guest         |Windows8_64      |114|win8
win8.1      |windows|windows8-64          |windows8_64Guest         |Windows81_64     |117|win8
win7        |windows|windows7-64          |windows7_64Guest         |Windows7_64      |105|win7
winvista    |windows|winvista-64          |winVista64Guest          |WindowsVista_64  |74 |wvista
winxp       |windows|winxppro-64          |winXPPro64Guest          |WindowsXP_64     |71 |wxp
win2k25     |windows|windows2022srvnext-64|windows2022srvNext_64Guest|Windows2022_64  |102|win11
win2k22     |windows|windows2019srvnext-64|windows2019srvNext_64Guest|Windows2022_64  |102|win11
win2k19     |windows|windows2019srv-64    |windows2019srv_64Guest   |Windows2019_64   |118|win10
win2k16     |windows|windows9srv-64       |windows9Server64Guest    |Windows2016_64   |118|win10
win2k12     |windows|windows8srv-64       |windows8Server64Guest    |Windows2012_64   |112|win8
win2k12r2   |windows|windows8srv-64       |windows8Server64Guest    |Windows2012_64   |115|win8
win2k8r2    |windows|windows7srv-64       |windows7Server64Guest    |Windows2008_64   |103|win7
win2k8      |windows|longhorn-64          |winLonghorn64Guest       |Windows2008_64   |77 |w2k8
win2k3      |windows|winnetenterprise-64  |winNetEnterprise64Guest  |Windows2003_64   |70 |w2k3
win2k       |windows|win2000serv          |win2000ServGuest         |Windows2000      |58 |w2k
freebsd     |bsd    |freebsd-64           |freebsd64Guest           |FreeBSD_64       |78 |other
freebsd15   |bsd    |freebsd15-64         |freebsd15_64Guest        |FreeBSD_64       |78 |other
freebsd14   |bsd    |freebsd14-64         |freebsd14_64Guest        |FreeBSD_64       |78 |other
freebsd13   |bsd    |freebsd13-64         |freebsd13_64Guest        |FreeBSD_64       |78 |other
freebsd12   |bsd    |freebsd12-64         |freebsd12_64Guest        |FreeBSD_64       |78 |other
freebsd11   |bsd    |freebsd11-64         |freebsd11_64Guest        |FreeBSD_64       |78 |other
openbsd     |bsd    |freebsd-64           |freebsd64Guest           |OpenBSD_64       |102|other
netbsd      |bsd    |freebsd-64           |freebsd64Guest           |NetBSD_64        |102|other
dragonflybsd|bsd    |freebsd-64           |freebsd64Guest           |FreeBSD_64       |102|other
solaris11   |other  |solaris11-64         |solaris11_64Guest        |Solaris11_64     |81 |solaris
solaris10   |other  |solaris10-64         |solaris10_64Guest        |Solaris_64       |81 |solaris
msdos6.22   |other  |dos                  |dosGuest                 |DOS              |14 |other
unknown     |other  |other-64             |otherGuest64             |Other_64         |102|other
"""

# Other words for a row, lower-case: what stands for 32-bit guests, older or more special systems.
_VMWARE_TOO = {
    "genericlinux": "linux-other",
    "other3xlinux": "linux2016",
    "other4xlinux": "linux2018",
    "other6xlinux": "linux2022",
    "redhat": "rhel",
    "rhel2": "rhel",
    "asianux3": "asianux",
    "asianux4": "asianux",
    "asianux5": "asianux",
    "asianux7": "asianux",
    "asianux8": "asianux",
    "oes": "sles",
    "nld9": "sles",
    "mandrake": "mandriva",
    "turbolinux": "linux-other",
    "sjds": "linux-other",
    "winhyperv": "win2k8r2",
    "windowshyperv": "win2k8r2",
    "windows12": "win11",
    "win2000pro": "win2k",
    "win2000advserv": "win2k",
    "winxphome": "winxp",
    "winnetweb": "win2k3",
    "winnetstandard": "win2k3",
    "winnetdatacenter": "win2k3",
    "winnetbusiness": "win2k3",
    "winlonghorn": "win2k8",
}
_VIRTUALBOX_TOO = {
    "archlinux": "archlinux",
    "linux": "linux-other",
    "linux22": "linux24",
    "opensuse_leap": "opensuse",
    "opensuse_tumbleweed": "opensuse",
    "opensuse_factory": "opensuse",
    "suse_le": "sles",
    "xandros": "linux-other",
    "turbolinux": "linux-other",
    "mandriva_lx": "mandriva",
    "mandriva_ol": "mandriva",
    "solaris10": "solaris10",
    "opensolaris": "solaris10",
    "windowsnt": "win",
    "windows2025": "win2k25",
}
_CIM_TOO = {
    36: "linux",
    42: "freebsd",
    67: "winxp",
    69: "win2k3",
    73: "winvista",
    76: "win2k8",
    79: "rhel",
    82: "opensuse",
    84: "sles",
    93: "ubuntu",
    95: "debian",
    97: "linux24",
    99: "linux26",
    106: "centos",
    108: "ol",
    113: "win8",
    116: "win8.1",
    118: "win2k16",
    119: "win10",
    120: "win10",
}
_OSINFO = {
    "almalinux": "almalinux.org/almalinux",
    "alpinelinux": "alpinelinux.org/alpinelinux",
    "centos": "centos.org/centos",
    "centos-stream": "centos.org/centos-stream",
    "debian": "debian.org/debian",
    "dragonflybsd": "dragonflybsd.org/dragonflybsd",
    "fedora": "fedoraproject.org/fedora",
    "freebsd": "freebsd.org/freebsd",
    "linux": "libosinfo.org/linux",
    "mandriva": "mandriva.com/mandriva",
    "msdos": "microsoft.com/msdos",
    "netbsd": "netbsd.org/netbsd",
    "ol": "oracle.com/ol",
    "openbsd": "openbsd.org/openbsd",
    "opensuse": "opensuse.org/opensuse",
    "rhel": "redhat.com/rhel",
    "rocky": "rockylinux.org/rocky",
    "sle": "suse.com/sle",
    "sled": "suse.com/sled",
    "sles": "suse.com/sles",
    "ubuntu": "ubuntu.com/ubuntu",
    "win": "microsoft.com/win",
}
"""Distribution -> address of its versions in osinfo-db, without ``http://``."""

_OSINFO_WHOLE = {
    "archlinux": "http://archlinux.org/archlinux/rolling",
    "gentoo": "http://gentoo.org/gentoo/rolling",
    "solaris10": "http://sun.com/solaris/10",
    "solaris11": "http://oracle.com/solaris/11",
}
_WINDOWS = re.compile(r"win(2k[0-9]*(r2)?|vista|xp|me|[0-9.]+)")
_SERVICE_PACK = re.compile(r"(sle[ds]?[0-9]+)sp([0-9]+)")


@dataclass(frozen=True, slots=True)
class GuestOs:
    """One operating system under every name; names are those of its 64-bit edition."""

    id: str
    """For ``guest-os.id``; libosinfo's short identifier, without a version where none is known."""
    family: str
    """For ``guest-os.family``."""
    vmware: str
    """``guestOS`` of a VMX."""
    vsphere: str
    """``vmw:osType`` of an OVF, ``guestId`` of the vSphere API."""
    virtualbox: str
    """``OSType`` of VirtualBox."""
    cim: int
    """CIM_OperatingSystem.OSType, ``ovf:id`` of an OVF's OperatingSystemSection."""
    proxmox: str
    """``ostype`` of a Proxmox config."""


@cache
def _rows() -> dict[str, GuestOs]:
    found = {}
    for line in _TABLE.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        os_id, family, vmware, vsphere, virtualbox, cim, proxmox = cells
        found[os_id] = GuestOs(os_id, family, vmware, vsphere, virtualbox, int(cim), proxmox)
    return found


def _vmware_word(name: str) -> str:
    """``rhel6-64`` and ``rhel6_64Guest`` are ``rhel6``."""
    word = re.sub(r"guest", "", name.lower())
    return re.sub(r"(winxppro|[a-z0-9]+?)[-_]?64$", r"\1", word.replace("vmware-photon", "photon"))


@cache
def _names() -> dict[tuple[str, str], str]:
    """``(whose word, word)`` -> id; the table's first row with a word has it."""
    found: dict[tuple[str, str], str] = {}
    for os_id, row in _rows().items():
        for whose, word in (
            ("vmware", _vmware_word(row.vmware)),
            ("vmware", _vmware_word(row.vsphere)),
            ("virtualbox", row.virtualbox.lower().removesuffix("_64")),
            ("cim", str(row.cim)),
            ("proxmox", row.proxmox),
        ):
            # A version says more than its distribution, and a plain word more than a version.
            if os_id in ("linux", "debian", "rhel", "sle", "sled", "centos-stream", "win") and (
                whose == "vmware"
            ):
                continue
            found.setdefault((whose, word), os_id)
    found |= {("vmware", word): os_id for word, os_id in _VMWARE_TOO.items()}
    found |= {("virtualbox", word): os_id for word, os_id in _VIRTUALBOX_TOO.items()}
    found |= {("cim", str(number)): os_id for number, os_id in _CIM_TOO.items()}
    found[("vmware", "photon")] = found[("vmware", "vmwarephoton")] = "photon"
    return found


def _find(whose: str, word: str) -> GuestOs | None:
    os_id = _names().get((whose, word))
    return None if os_id is None else _rows()[os_id]


def by_vmware(name: str) -> GuestOs | None:
    """By a VMX's ``guestOS`` or a vSphere ``guestId``, of any case, 32-bit ones too."""
    return _find("vmware", _vmware_word(name.strip()))


def by_virtualbox(name: str) -> GuestOs | None:
    """By VirtualBox's ``OSType``; those with a version too (``Debian12_64``)."""
    word = name.strip().lower()
    word = word.removesuffix("_64").removesuffix("_lts")
    found = _find("virtualbox", word)
    if found is not None:
        return found
    split = re.fullmatch(r"([a-z_]+?)_?([0-9]+)", word)
    if split is None:
        return None
    base = _find("virtualbox", split[1])
    if base is None:
        return None
    plain = re.sub(r"[0-9.]+$", "", base.id)
    return _rows().get(f"{plain}{split[2]}", base)


def by_cim(number: int, version: str = "") -> GuestOs | None:
    """By CIM's OSType, ``version`` as an OVF's ``ovf:version`` (``80`` and ``6``: rhel6)."""
    found = _find("cim", str(number))
    if found is None or not re.fullmatch(r"[0-9]{1,2}(\.[0-9]+)*", version):
        return found
    plain = re.sub(r"[0-9.]+$", "", found.id)
    return _rows().get(plain + version.partition(".")[0], found)


def by_proxmox(name: str) -> GuestOs | None:
    """By Proxmox' ``ostype``, which names families rather than systems."""
    return _rows()["linux"] if name == "l26" else _find("proxmox", name)


def by_id(os_id: str) -> GuestOs | None:
    """By libosinfo's short identifier: ``rhel8.6`` is ``rhel8``, ``ubuntu22.04`` is ``ubuntu``."""
    rows = _rows()
    word = os_id
    while word:
        if word in rows:
            return rows[word]
        if "." in word:
            word = word.rpartition(".")[0]
            continue
        service_pack = re.fullmatch(r"(.*[0-9])sp[0-9]+", word)
        shorter = service_pack[1] if service_pack else re.sub(r"[0-9]+$", "", word)
        if shorter == word:
            shorter = word.rpartition("-")[0]
        word = shorter
    return None


def family_of(os_id: str) -> str | None:
    """``linux``, ``windows``, ``bsd``, ``other``; ``None`` where the identifier is not known."""
    found = by_id(os_id)
    return None if found is None else found.family


def best(os_id: str | None, family: str | None) -> GuestOs:
    """The row for a config's ``guest-os``: by its identifier, otherwise for its family."""
    found = by_id(os_id) if os_id else None
    if found is not None and family in (None, found.family):
        return found
    general = {"linux": "linux", "windows": "win10", "bsd": "freebsd"}
    return _rows()[general.get(family or "", "unknown")]


def libosinfo_url(os_id: str) -> str | None:
    """The address that libosinfo has for a system; ``None`` where the identifier has no version."""
    if os_id in _OSINFO_WHOLE:
        return _OSINFO_WHOLE[os_id]
    if _WINDOWS.fullmatch(os_id):
        return f"http://microsoft.com/win/{os_id.removeprefix('win')}"
    packed = _SERVICE_PACK.fullmatch(os_id)
    plain = f"{packed[1]}.{packed[2]}" if packed else os_id
    split = re.fullmatch(r"([a-z][a-z-]*?)([0-9][0-9.]*)", plain)
    if split is None or split[1] not in _OSINFO:
        return None
    return f"http://{_OSINFO[split[1]]}/{split[2]}"


def by_libosinfo(url: str) -> str | None:
    """The short identifier for libosinfo's address; ``None`` for an address that is not known."""
    for os_id, whole in _OSINFO_WHOLE.items():
        if url == whole:
            return os_id
    base, _, version = url.removeprefix("http://").removeprefix("https://").rpartition("/")
    for name, known in _OSINFO.items():
        if known == base and (name == "win" or version[:1].isdigit()):
            split = re.fullmatch(r"([0-9]+)\.([0-9]+)", version)
            if name in ("sle", "sled", "sles") and split:
                return f"{name}{split[1]}sp{split[2]}"
            return name + version
    return None
