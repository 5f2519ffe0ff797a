"""Names of OVF documents: namespaces, resource types, and the words that each tool has for them.

Sources: DSP0243 1.0, 1.1 and 2.0 (DMTF); CIM_ResourceAllocationSettingData (CIM 2.23 and 2.52);
"OVF Tool User's Guide" (VMware); samples that VMware's and VirtualBox's exporters wrote.
"""

from __future__ import annotations

from vmpack.hypervisors.carry import Prefixes, Rules

OVF1 = "http://schemas.dmtf.org/ovf/envelope/1"
OVF2 = "http://schemas.dmtf.org/ovf/envelope/2"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
RASD = f"{_CIM}CIM_ResourceAllocationSettingData"
VSSD = f"{_CIM}CIM_VirtualSystemSettingData"
EPASD = f"{_CIM}CIM_EthernetPortAllocationSettingData.xsd"
SASD = f"{_CIM}CIM_StorageAllocationSettingData.xsd"
VMW = "http://www.vmware.com/schema/ovf"
VBOX = "http://www.virtualbox.org/ovf/machine"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

OLD = ("http://www.vmware.com/schema/ovf/1/envelope", "http://schemas.dmtf.org/ovf/1/envelope")
"""OVF 0.9 and the drafts of 1.0: sections are told by ``xsi:type``."""

SPACES = {
    OVF1: "ovf",
    OVF2: "ovf",
    RASD: "rasd",
    f"{_CIM}CIM_StorageAllocationSettingData": "rasd",
    SASD: "rasd",
    f"{_CIM}CIM_EthernetPortAllocationSettingData": "rasd",
    EPASD: "rasd",
    VSSD: "vssd",
    VMW: "vmw",
    VBOX: "vbox",
    XSI: "xsi",
}
"""Storage and Ethernet items of OVF 2.0 have the same properties as ``rasd``: one name here."""

READ_PREFIXES = Prefixes(SPACES, (OVF1, OVF2))
WRITTEN = {
    version: Prefixes(
        {
            space: "ovf",
            RASD: "rasd",
            VSSD: "vssd",
            **({SASD: "sasd", EPASD: "epasd"} if version == "2.0" else {}),
            VMW: "vmw",
            VBOX: "vbox",
            XSI: "xsi",
        },
        (space,),
    )
    for version, space in (("1.1", OVF1), ("2.0", OVF2))
}
"""Prefixes of the documents that are written, by OVF's version."""

CPU, MEMORY, IDE, SCSI, NIC = 3, 4, 5, 6, 10
FLOPPY, CD, DVD, DISK, OTHER_STORAGE = 14, 15, 16, 17, 20
SERIAL, GRAPHICS, USB, SOUND = 21, 24, 23, 35
OTHER = 1
CONTROLLERS = (IDE, SCSI, OTHER_STORAGE)

VMDK_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
ISO_FORMAT = "http://www.ecma-international.org/publications/standards/Ecma-119.htm"
FORMATS = (
    ("vmdk", "vmdk"),
    ("qcow", "qcow2"),
    ("vhdx", "vhdx"),
    ("vhd", "vhd"),
    ("linkid=137171", "vhd"),
    ("ecma-119", "raw"),
    ("iso", "raw"),
    ("vdi", "vdi"),
    ("raw", "raw"),
)
"""A part of the address that ``ovf:format`` is -> the disk format."""

SCSI_MODELS = {
    "lsilogic": "lsilogic",
    "lsilogicsas": "lsisas1068",
    "virtualscsi": "pvscsi",
    "pvscsi": "pvscsi",
    "buslogic": "buslogic",
    "virtio": "virtio-scsi",
    "virtio-scsi": "virtio-scsi",
    "virtioscsi": "virtio-scsi",
}
STORAGE_MODELS = {
    "ahci": "sata",
    "vmware.sata.ahci": "sata",
    "nvme": "nvme",
    "vmware.nvme.controller": "nvme",
    "virtioscsi": "virtio-scsi",
    "virtio-scsi": "virtio-scsi",
    "lsilogicsas": "lsisas1068",
}
NIC_MODELS = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "virtio": "virtio-net",
    "virtio-net": "virtio-net",
    "pcnet32": "pcnet",
    "pcnet": "pcnet",
    "ne2k_pci": "ne2k",
    "rtl8139": "rtl8139",
}
APPROXIMATE_NICS = {"vmxnet": "vmxnet3", "vmxnet2": "vmxnet3", "flexible": "pcnet"}

ORDER = (
    "Address",
    "AddressOnParent",
    "AllocationUnits",
    "AutomaticAllocation",
    "AutomaticDeallocation",
    "Caption",
    "ChangeableType",
    "ComponentSetting",
    "ConfigurationName",
    "Connection",
    "ConsumerVisibility",
    "Description",
    "DesiredVLANEndpointMode",
    "ElementName",
    "Generation",
    "HostExtentName",
    "HostExtentNameFormat",
    "HostExtentNameNamespace",
    "HostExtentStartingAddress",
    "HostResource",
    "HostResourceBlockSize",
    "InstanceID",
    "Limit",
    "MappingBehavior",
    "OtherEndpointMode",
    "OtherHostExtentNameFormat",
    "OtherHostExtentNameNamespace",
    "OtherResourceType",
    "Parent",
    "PoolID",
    "Reservation",
    "ResourceSubType",
    "ResourceType",
    "SoID",
    "SoOrgID",
    "VirtualQuantity",
    "VirtualQuantityUnits",
    "VirtualResourceBlockSize",
    "Weight",
)
"""Properties of an item stand in this order (DSP0243: a sequence, in alphabetical order)."""

PROPERTY_TYPES = {"password": "string", "ip": "string", "int": "sint64"}
"""Types of properties that an OVF has other words for; VMware qualifies addresses by ``Ip``."""

RULES = Rules(
    labels=frozenset(
        {"Info", "Description", "vbox:OSType"}
        # VirtualBox's settings that no field of a config decides.
        | {"PAE", "LongMode", "IOAPIC", "BIOS", "Display", "USB", "NAT", "InternalNetwork"}
        | {f"rasd:{name}" for name in ("Caption", "Description", "ElementName")}
        | {f"vssd:{name}" for name in ("Caption", "Description", "ElementName")}
    ),
    repeated=frozenset(
        {"Item", "StorageItem", "EthernetPortItem", "ProductSection", "EulaSection", "Strings"}
        | {"DeploymentOptionSection", "vmw:ExtraConfig", "vmw:BootOrderSection"}
    ),
    places=("os", "vbox:controller:"),
)
