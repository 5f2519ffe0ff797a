"""libvirt's words for what vmpack models, and which of its fields may be carried along.

Sources: formatdomain.html; src/cpu_map of libvirt 9.0 (models); QEMU's ``-cpu help`` (which
versions the names without a version stand for, with machine types from 4.1 on).
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.carry import names_host

QEMU_SPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
OSINFO_SPACE = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

SCSI_MODELS = {
    "virtio-scsi": "virtio-scsi",
    "lsilogic": "lsilogic",
    "lsisas1068": "lsisas1068",
    "pvscsi": "vmpvscsi",
    "buslogic": "buslogic",
}
"""Bus -> model of ``<controller type='scsi'>``."""

SCSI_BUSES = {model: bus for bus, model in SCSI_MODELS.items()}

DISK_BUSES = {"virtio-blk": "virtio", "sata": "sata", "ide": "ide"}
"""Bus -> ``<target bus>`` where there is one controller model."""

TARGET_PREFIXES = {"virtio": "vd", "sata": "sd", "scsi": "sd", "ide": "hd", "usb": "sd"}

NIC_MODELS = {"virtio-net": "virtio", "ne2k": "ne2k_pci"}
"""Model -> libvirt's; the others have QEMU's names in both."""

NICS_READ = {
    **{name: name for name in ("e1000", "e1000e", "igb", "vmxnet3", "rtl8139", "pcnet", "tulip")},
    "virtio": "virtio-net",
    "ne2k_pci": "ne2k",
}
VIRTIO_VARIANTS = ("virtio-transitional", "virtio-non-transitional")

VIDEO = {
    "std": "vga",
    "virtio-vga": "virtio",
    "qxl": "qxl",
    "vmware": "vmvga",
    "cirrus": "cirrus",
    "bochs": "bochs",
    "none": "none",
}
VIDEO_READ = {theirs: ours for ours, theirs in VIDEO.items()}

_ALIASES = {
    "Broadwell": ("Broadwell", "Broadwell-noTSX", "Broadwell-IBRS", "Broadwell-noTSX-IBRS"),
    "Cascadelake-Server": ("Cascadelake-Server", "", "Cascadelake-Server-noTSX"),
    "EPYC": ("EPYC", "EPYC-IBPB"),
    "Haswell": ("Haswell", "Haswell-noTSX", "Haswell-IBRS", "Haswell-noTSX-IBRS"),
    "Icelake-Server": ("Icelake-Server", "Icelake-Server-noTSX"),
    "IvyBridge": ("IvyBridge", "IvyBridge-IBRS"),
    "Nehalem": ("Nehalem", "Nehalem-IBRS"),
    "SandyBridge": ("SandyBridge", "SandyBridge-IBRS"),
    "Skylake-Client": ("Skylake-Client", "Skylake-Client-IBRS", "Skylake-Client-noTSX-IBRS"),
    "Skylake-Server": ("Skylake-Server", "Skylake-Server-IBRS", "Skylake-Server-noTSX-IBRS"),
    "Westmere": ("Westmere", "Westmere-IBRS"),
}
_PLAIN = (
    *("486", "Conroe", "Cooperlake", "Dhyana", "EPYC-Milan", "EPYC-Rome", "Opteron_G1"),
    *("Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5", "Penryn", "Snowridge", "athlon"),
    *("core2duo", "coreduo", "kvm32", "kvm64", "n270", "pentium", "pentium2", "pentium3"),
    *("phenom", "qemu32", "qemu64"),
)
CPU_NAMES = {
    **{f"{name}-v1": name for name in _PLAIN},
    **{
        f"{family}-v{number}": name
        for family, names in _ALIASES.items()
        for number, name in enumerate(names, 1)
        if name
    },
}
"""Versioned CPU model -> the name that libvirt 9.0 has for it."""

CPUS_READ = {theirs: ours for ours, theirs in CPU_NAMES.items()}

_FEATURES = {
    name.replace("_", "-"): name
    for name in (
        *("cmp_legacy", "ds_cpl", "fxsr_opt", "lahf_lm", "nodeid_msr", "perfctr_core"),
        *("perfctr_nb", "tsc_adjust", "kvm_pv_eoi", "kvm_pv_unhalt"),
    )
} | {"pclmulqdq": "pclmuldq"}
_FEATURES_READ = {theirs: ours for ours, theirs in _FEATURES.items()}


def feature_to_libvirt(name: str) -> str:
    """QEMU's name of a CPU feature as libvirt spells it."""
    return _FEATURES.get(name, name)


def feature_to_qemu(name: str) -> str:
    """Libvirt's name of a CPU feature as QEMU spells it."""
    return _FEATURES_READ.get(name, name)


SYSINFO: dict[str, tuple[str, dict[str, str]]] = {
    "bios": (
        "bios",
        {"vendor": "vendor", "version": "version", "date": "date", "release": "release"},
    ),
    "system": (
        "system",
        {
            "manufacturer": "manufacturer",
            "product": "product",
            "version": "version",
            "serial": "serial",
            "sku": "sku",
            "family": "family",
        },
    ),
    "baseboard": (
        "baseBoard",
        {
            "manufacturer": "manufacturer",
            "product": "product",
            "version": "version",
            "serial": "serial",
            "asset": "asset",
            "location": "location",
        },
    ),
    "chassis": (
        "chassis",
        {
            "manufacturer": "manufacturer",
            "version": "version",
            "serial": "serial",
            "asset": "asset",
            "sku": "sku",
        },
    ),
}
"""Table of ``smbios`` -> libvirt's element, and field -> entry."""

AGENT = "org.qemu.guest_agent.0"
TPM_STATE = {"2.0": "tpm2-00.permall", "1.2": "tpm-00.permall"}
"""TPM family -> the file in which swtpm, and so libvirt, keeps its state."""

# What is carried along where vmpack has no field for it. A list of what may be, not of what may
# not: an element that nobody here knows could name anything of the host.
TOP_CARRIED = frozenset(
    {"title", "genid", "maxMemory", "memoryBacking", "memtune", "numatune", "cputune", "iothreads"}
    | {"iothreadids", "defaultiothread", "vcpus", "blkiotune", "pm", "perf", "on_poweroff"}
    | {"on_reboot", "on_crash", "on_lockfailure", "throttlegroups"}
)
DEVICES_CARRIED = frozenset(
    {"sound", "graphics", "audio", "memballoon", "iommu", "vsock", "redirdev", "redirfilter", "hub"}
    | {"parallel", "serial", "console", "channel", "input", "video", "watchdog", "controller"}
    | {"crypto", "smartcard", "panic"}
)
MODELLED = frozenset(
    {"disk", "interface", "controller", "serial", "channel", "tpm", "rng", "video"}
)
"""Devices that a config has fields for: what else they say is carried in their places."""
OS_CARRIED = frozenset({"bootmenu", "bios", "firmware"})
"""Children of ``<os>`` that are: others name kernels, tables and firmware of the host."""
SECTIONS = frozenset({"features", "clock", "cpu", "os", "metadata"})
"""Sections of a domain whose unknown children are carried."""
CHILDREN_CARRIED = frozenset(
    {"driver", "iotune", "throttlefilters", "geometry", "blockio", "transient", "shareable"}
    | {"vendor", "product", "acpi", "address", "bandwidth", "tune", "vlan", "coalesce", "port"}
    | {"rom", "link", "filterref", "model", "backend", "protocol", "target", "rate", "latency"}
    | {"acceleration", "resolution", "statistics", "active_pcr_banks", "profile"}
)

_HOST_ATTRIBUTES = frozenset(
    {"file", "dev", "dir", "path", "socket", "bridge", "pool", "volume", "socketpath", "wiremode"}
    | {"keymapfile", "rendernode", "managed", "slave", "master", "partition", "network"}
)
SECRETS = frozenset({"passwd", "password", "passwdValidTo", "secret"})
"""Attributes that hold passwords, or name them."""

_HOST_ELEMENTS = frozenset(
    {"source", "hostdev", "filesystem", "lease", "seclabel", "auth", "encryption", "mirror"}
    | {"reservations", "cookies", "ssl", "knownHosts", "identity", "log", "initiator"}
    | {"backingStore", "backenddomain", "script", "virtualport", "downscript", "portForward"}
)


def secret(element: Element, attribute: str, value: str) -> str | None:
    """Why a value may be neither carried along nor given back; ``None``: it may."""
    space, name = xmlsafe.split(element.tag)
    if space == QEMU_SPACE:
        return "it goes to QEMU's command line, where it may name files of the host"
    if attribute in SECRETS or name in ("secret", "secrets"):
        return "it is a secret"
    if not space and name in _HOST_ELEMENTS and (attribute != "#text" or value.strip()):
        return "it names something of the host"
    if not space and attribute in _HOST_ATTRIBUTES:
        return "it names a file, device, network or socket of the host"
    return "it names a file, device or socket of the host" if names_host(value) else None


_KEY = re.compile(r"domain(?:/[A-Za-z][\w.:-]*(?:\([\w .:-]*\))?)*(?:@[\w:#.-]+)?", re.ASCII)


def why_not(key: str, fragment: Element | None) -> str | None:
    """Why a carried field may not be given back, by its key and its fragment of XML.

    ``fragment``: the element, or one that stands for the attribute that the key names. A bundle
    comes from a stranger: what is carried in it is held to the rules of carrying once more.
    """
    if not _KEY.fullmatch(key) or fragment is None:
        return "not a field that vmpack carries for libvirt"
    steps = [part.partition("(")[0] for part in key.partition("@")[0].split("/")[1:]]
    # What a fragment is called decides what it is; only foreign metadata has names of its own.
    is_named = not steps or fragment.tag == steps[-1]
    if steps[:1] == ["metadata"]:
        is_named = len(steps) == 2 and ":" in fragment.tag
    if not is_named or not _is_known(steps, key.partition("@")[2]):
        return "not a field that vmpack carries for libvirt"
    for one in fragment.iter():
        for attribute, value in (*one.items(), ("#text", one.text or "")):
            found = secret(one, attribute, value)
            if found is not None:
                return found
    return None


def _is_known(steps: list[str], attribute: str) -> bool:
    if not steps:
        return attribute == "type"
    if steps[0] in TOP_CARRIED:
        return True
    if steps[0] == "os":
        return len(steps) > 1 and steps[1] in OS_CARRIED
    if steps[0] in SECTIONS or steps[0] in ("memory", "vcpu"):
        return bool(attribute) or len(steps) > 1
    if steps[0] != "devices" or len(steps) < 2:
        return False
    if len(steps) == 2 and attribute:
        # The type of a device decides what of the host it is joined to.
        return steps[1] in MODELLED and (attribute != "type" or steps[1] == "interface")
    if len(steps) == 2:
        return steps[1] in DEVICES_CARRIED
    if steps[1] in DEVICES_CARRIED and steps[1] not in MODELLED:
        return True
    return steps[1] in MODELLED and steps[2] in CHILDREN_CARRIED
