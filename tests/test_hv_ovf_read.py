"""OVF envelopes: what is read of them, item by item, and that no field of them is lost."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from tests.support.ovf import (
    BASIC,
    DISK,
    MEMORY,
    NS,
    SCSI,
    envelope,
    imported,
    item,
    items,
    verdicts,
)
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors.base import FileRef, Imported
from vmpack.machine.hardware import Disk

PLACED = frozenset(
    {"Caption", "Parent", "AddressOnParent", "AutomaticAllocation", "AllocationUnits", "Address"}
    | {"ResourceType", "VirtualQuantity", "Connection", "HostResource", "ResourceSubType"}
    | {"position"}
)
"""What the line of a whole item says, and what is the number of a place in its label."""


def disk(found: Imported) -> Disk:
    assert found.config.disks is not None
    return found.config.disks[0]


def leaves(root: Element) -> list[tuple[str, str]]:
    """``(name, value)`` of every attribute and text of a document."""
    found = []
    for one in root.iter():
        found += [(key.rpartition("}")[2], value) for key, value in one.items()]
        if (one.text or "").strip():
            found.append((one.tag.rpartition("}")[2], (one.text or "").strip()))
    return found


def said(found: Imported) -> str:
    """All that the report and the carried fields say, as one text."""
    config = found.config
    lines = [f"{one.field} {one.detail}" for one in found.report.items]
    lines += [f"{one.key} {one.value}" for one in config.verbatim.get("ovf", ())]
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["vmware.ovf", "ubuntu.2.0.ovf"])
def test_every_field_of_a_foreign_sample(name: str, samples: Path) -> None:
    """Each name of an attribute or element is in the report, or in what is carried whole."""
    data = (samples / name).read_bytes()
    found = imported(data, name)
    text = said(found)
    whole = PLACED if "as vbox:Machine has it" in text else frozenset()
    lost = {key for key, _ in leaves(fromstring(data)) if key not in text and key not in whole}
    assert lost == set()
    assert [one.field for one in found.report.items if one.verdict.value == "dropped"] == (
        [] if name == "vmware.ovf" else ["vbox:Machine@lastStateChange", "Boot/Order(1)@device"]
    )


def test_what_vmware_wrote(samples: Path) -> None:
    found = imported((samples / "vmware.ovf").read_bytes(), "vmware.ovf")
    config = found.config
    assert (config.name, config.memory) == ("vmw", 1536 << 20)
    assert (config.cpu.sockets, config.cpu.cores) == (1, 2)
    assert (config.guest_os.id, config.guest_os.family) == ("rhel6", "linux")
    assert config.firmware.kind == "bios"
    assert [nic.network for nic in config.nics or ()] == ["lanethernet0"] * 4
    assert config.ova.hardware == "vmx-08"
    assert config.ova.properties[0].value == "custom-value"
    assert disk(found).bus == "virtio-scsi", "the first model of the list that vmpack has"
    assert dict(found.disks) == {"vmdisk1": FileRef("input.vmdk", "vmdk")}
    carried = {one.key for one in config.verbatim["ovf"]}
    assert "hardware/vmw:Config(tools.syncTimeWithHost)" in carried
    assert "hardware/Item(VMCI device)" in carried
    assert "nic:3/vmw:Config(slotInfo.pciSlotNumber)" in carried


def test_what_virtualbox_wrote(samples: Path) -> None:
    found = imported((samples / "ubuntu.2.0.ovf").read_bytes(), "ubuntu.2.0.ovf")
    config = found.config
    assert (config.name, config.memory, config.cpu.cores) == ("ubuntu", 512 << 20, 1)
    # The settings have 39a69c87-0433-4945-...; SMBIOS has its first fields the other way round.
    assert config.uuid == "879ca639-3304-4549-8e25-b89431544a28"
    assert [(nic.mac, nic.network, nic.model) for nic in config.nics or ()] == [
        ("08:00:27:2a:fb:4e", "user", "e1000")
    ]
    cdrom, root = config.disks or ()
    assert (cdrom.kind, cdrom.empty, cdrom.bus, cdrom.port, cdrom.boot) == (
        "cdrom",
        True,
        "ide",
        1,
        1,
    )
    assert (root.id, root.bus, root.boot) == ("vmdisk1", "sata", 2)


def test_the_appliance() -> None:
    """Product, properties, licences, annotation; texts by message id."""
    inside = """
      <ProductSection ovf:class="com.x" ovf:required="false"><Info>p</Info>
        <Product ovf:msgid="p"/><Vendor>V &amp; Co</Vendor><Version>1</Version>
        <FullVersion>1.2.3</FullVersion><ProductUrl>http://p</ProductUrl><AppUrl>http://a</AppUrl>
        <VendorUrl>http://v</VendorUrl>
        <Icon ovf:fileRef="f9"/>
        <Category>Net</Category>
        <Property ovf:key="ip" ovf:type="string" ovf:qualifiers="x" ovf:userConfigurable="true"
          ovf:value="1.2.3.4"><Label>IP</Label><Description>of it</Description></Property>
        <Property ovf:key="pw" ovf:type="string" ovf:password="true"/>
        <Property ovf:key="n" ovf:type="uint16" ovf:value="5"/>
        <Property ovf:key="b" ovf:type="boolean" ovf:value="True"/>
        <Property ovf:key="r" ovf:type="real32"/>
      </ProductSection>
      <ProductSection ovf:class="second"><Info>q</Info><Product>Other</Product></ProductSection>
      <EulaSection><Info>e</Info><License>read
        me</License></EulaSection>
      <EulaSection><Info>e</Info><License>and me</License></EulaSection>
      <AnnotationSection><Info>a</Info><Annotation>note\u202e this</Annotation></AnnotationSection>
    """
    outside = '<Strings xml:lang="en"><Msg ovf:msgid="p">Shop</Msg></Strings>'
    found = imported(envelope(inside=inside, outside=outside))
    ova = found.config.ova
    assert (ova.product, ova.vendor, ova.version, ova.full_version) == (
        "Shop",
        "V & Co",
        "1",
        "1.2.3",
    )
    assert (ova.product_url, ova.vendor_url, ova.application_url) == (
        "http://p",
        "http://v",
        "http://a",
    )
    assert ova.annotation == "note this"
    assert len(ova.eula) == 2
    assert [(one.key, one.type, one.value, one.category) for one in ova.properties] == [
        ("ip", "string", "1.2.3.4", "Net"),
        ("pw", "password", None, "Net"),
        ("n", "int", "5", "Net"),
        ("b", "boolean", "True", "Net"),
        ("r", "string", None, "Net"),
    ]
    assert ova.properties[0].user_configurable
    carried = {one.key: one.value for one in found.config.verbatim["ovf"]}
    assert carried["product@ovf:class"] == "com.x"
    assert carried["property:ip@ovf:qualifiers"] == "x"
    assert "<Product>Other</Product>" in carried["VirtualSystem/ProductSection"]


def test_the_default_deployment_option() -> None:
    """OVF-READ-6: the default configuration is the machine; the others are carried."""
    hardware = (
        item(3, "VirtualQuantity=1", "InstanceID=1")
        + item(3, "VirtualQuantity=8", "InstanceID=1", attributes='ovf:configuration="big huge"')
        + item(3, "VirtualQuantity=4", "InstanceID=1", attributes='ovf:configuration="mid"')
        + item(3, "VirtualQuantity=16", "InstanceID=1", attributes='ovf:bound="max"')
        + items(MEMORY, SCSI, DISK)
    )
    outside = """<DeploymentOptionSection><Info>o</Info>
      <Configuration ovf:id="big"><Label>Big</Label><Description>b</Description></Configuration>
      <Configuration ovf:id="mid" ovf:default="true"><Label>M</Label><Description>m</Description>
      </Configuration></DeploymentOptionSection>"""
    found = imported(envelope(hardware, outside=outside))
    assert found.config.cpu.sockets == 4
    assert "'mid'" in verdicts(found, "approximated")["DeploymentOptionSection"]
    keys = [one.key for one in found.config.verbatim["ovf"]]
    assert sum(key.startswith("hardware/Item") for key in keys) == 3
    assert "Envelope/DeploymentOptionSection" in keys


def test_several_machines_are_named() -> None:
    """OVF-READ-4."""
    one = envelope().decode()
    start, end = one.index("<VirtualSystem "), one.index("</Envelope>")
    system = one[start:end]
    both = system + system.replace('ovf:id="vm"', 'ovf:id="db\x7f"')
    collection = f'<VirtualSystemCollection ovf:id="c"><Info>c</Info>{both}'
    many = one[:start] + collection + "</VirtualSystemCollection></Envelope>"
    with pytest.raises(UnsupportedError, match=r"2 machines: vm, db\\x7f") as caught:
        imported(many.encode())
    assert caught.value.clause == "OVF-READ-4"
    single = many.replace(both, system)
    assert imported(single.encode()).config.name == "vm"
    with pytest.raises(DamagedError, match="no VirtualSystem"):
        imported((one[:start] + "</Envelope>").encode())


def test_versions_and_roots() -> None:
    """OVF-READ-1."""
    two = NS.replace("envelope/1", "envelope/2")
    assert imported(envelope(root=two)).config.name == "vm"
    other = (
        envelope()
        .replace(b"Envelope", b"ovf:Envelope")
        .replace(b'xmlns="http://schemas.dmtf.org/ovf/envelope/1"', b"")
    )
    with pytest.raises(DamagedError):
        # What has no namespace is no VirtualSystem of OVF's... but its local name is.
        imported(
            other.replace(b"VirtualSystem ", b"Nothing ").replace(b"/VirtualSystem>", b"/Nothing>")
        )
    old = envelope(
        root=NS.replace(
            "http://schemas.dmtf.org/ovf/envelope/1", "http://www.vmware.com/schema/ovf/1/envelope"
        )
    )
    with pytest.raises(UnsupportedError, match=r"0\.9"):
        imported(old)
    with pytest.raises(UnsupportedError, match="not the Envelope"):
        imported(b"<domain/>")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-bom", "latin-1"])
def test_encodings(encoding: str) -> None:
    """Byte-order marks, UTF-16 that says UTF-8, and declared 8-bit encodings."""
    text = envelope(name="<Name>Büro</Name>").decode()
    if encoding == "utf-16-be-bom":
        data = b"\xfe\xff" + text.encode("utf-16-be")
    elif encoding == "latin-1":
        data = text.replace("UTF-8", "ISO-8859-1").encode("latin-1")
    else:
        data = text.encode(encoding)
    assert imported(data).config.name == "Büro"


def test_any_prefixes() -> None:
    """The names are the namespaces', not the prefixes'."""
    text = envelope().decode()
    for old, new in (("ovf:", "o:"), ("rasd:", "r:"), ("vssd:", "v:"), ("xmlns:o:", "xmlns:ovf:")):
        text = text.replace(old, new)
    text = text.replace("xmlns:ovf", "xmlns:o").replace("xmlns:rasd", "xmlns:r")
    text = (
        text.replace("xmlns:vssd", "xmlns:v")
        .replace("xmlns:r:", "xmlns:r")
        .replace("o:/disk", "ovf:/disk")
    )
    found = imported(text.encode())
    assert found.config.memory == 256 << 20
    assert dict(found.disks) == {"d1": FileRef("d1.vmdk", "vmdk")}


def test_nothing_of_the_host_is_carried() -> None:
    """CFG-FORM-4: paths, devices, datastores and sockets are dropped, with a word."""
    secrets = ("/dev/sdb", "C:\\vm\\x.iso", "\\\\server\\share", "[ds1] vm/x.log", "file:///etc/x")
    extra = "".join(
        f'<vmw:ExtraConfig vmw:key="k{number}" vmw:value="{value}"/>'
        for number, value in enumerate(secrets)
    )
    serial = item(21, "ElementName=Serial port 1", "HostResource=/dev/ttyS0", number=55)
    found = imported(envelope(BASIC + serial + extra))
    text = "\n".join(one.value for one in found.config.verbatim.get("ovf", ()))
    for secret in (*secrets, "/dev/ttyS0"):
        assert secret not in text
    assert len(verdicts(found, "dropped")) == len(secrets) + 1
    assert "the host" in next(iter(verdicts(found, "dropped").values()))
