"""Reads a domain's CPU, machine type and firmware. Profile: specs/hypervisors/libvirt.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.libvirt import names

if TYPE_CHECKING:
    from vmpack.hypervisors.libvirt.reader import Domain

_VERSIONED = re.compile(r"pc-(q35|i440fx)-[1-9][0-9]?\.[0-9]{1,2}(\.[0-9])?")
_CPU = re.compile(r"[A-Za-z0-9_-]+-v[1-9][0-9]?")


def read_vcpu(domain: Domain, element: Element) -> None:
    """``<vcpu>``: how many CPUs."""
    count = domain.number(domain.text(element))
    now = domain.attribute(element, "current")
    if count is None:
        domain.draft.dropped("vcpu", "not a number")
        return
    if now and now != str(count):
        domain.draft.dropped("vcpu@current", "all CPUs are there from the start")
    domain.attribute(element, "placement")
    topology = domain.root.find("cpu/topology")
    if topology is None or _product(domain, topology) != count:
        # libvirt's own choice where it is told none.
        domain.draft.set("cpu.sockets", count, "vcpu")
        domain.draft.data["cpu"] |= {"dies": 1, "cores": 1, "threads": 1}
    else:
        domain.draft.report.kept("vcpu", "cpu topology")


def _product(domain: Domain, topology: Element) -> int:
    product = 1
    for name in ("sockets", "dies", "clusters", "cores", "threads"):
        product *= domain.number(topology.get(name, "1")) or 1
    return product


def read_cpu(domain: Domain, element: Element) -> None:
    """``<cpu>``: model, features and topology."""
    mode = domain.attribute(element, "mode") or "custom"
    model = element.find("model")
    for name in ("match", "check", "migratable"):
        value = domain.attribute(element, name)
        if value in ("exact", "partial"):
            domain.draft.report.kept(f"cpu@{name}", "pins are exact")
        elif value:
            domain.draft.report.approximated(f"cpu@{name}", "pins are exact")
    topology = element.find("topology")
    if topology is not None:
        _topology(domain, topology)
    if mode == "custom" and model is not None:
        _model(domain, model)
        _flags(domain, element)
        return
    domain.draft.report.approximated(
        "cpu@mode", f"{mode!r} is another CPU on each host: pinned to vmpack's table instead"
    )
    for child in element.findall("feature") + ([] if model is None else [model]):
        label = f"cpu/{child.tag}({child.get('name', '')})"
        domain.carrier.drop(child, label, "it belongs to the CPU of the host")


def _topology(domain: Domain, topology: Element) -> None:
    count = domain.root.find("vcpu")
    wanted = domain.number((count.text or "") if count is not None else "1")
    if wanted is not None and _product(domain, topology) != wanted:
        domain.carrier.drop(topology, "cpu/topology", "it does not multiply to the number of CPUs")
        return
    clusters = domain.number(domain.attribute(topology, "clusters") or "1") or 1
    for name in ("sockets", "dies", "cores", "threads"):
        value = domain.number(domain.attribute(topology, name) or "1") or 1
        how = ""
        if name == "cores" and clusters > 1:
            value, how = value * clusters, f"{clusters} clusters of {value} cores"
        domain.draft.set(f"cpu.{name}", value, f"cpu/topology@{name}", how=how)


def _model(domain: Domain, model: Element) -> None:
    name = domain.text(model)
    domain.attribute(model, "fallback")
    ours = names.CPUS_READ.get(name) or (name if _CPU.fullmatch(name) else None)
    if ours is None:
        domain.draft.report.approximated(
            "cpu/model", f"{name[:60]!r} has no version: pinned to vmpack's table instead"
        )
        return
    domain.draft.set("cpu.model", ours, "cpu/model")
    vendor = domain.attribute(model, "vendor_id")
    if vendor:
        domain.draft.set("cpu.vendor", vendor, "cpu/model@vendor_id")


def _flags(domain: Domain, element: Element) -> None:
    signs = {"require": "+", "force": "+", "disable": "-", "forbid": "-"}
    flags: dict[str, str] = {}
    for child in element.findall("feature"):
        name = names.feature_to_qemu(domain.attribute(child, "name"))
        policy = domain.attribute(child, "policy") or "require"
        label = f"cpu/feature({name[:40]})"
        if policy not in signs:
            domain.draft.dropped(label, f"policy {policy[:20]!r} leaves it to the host")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,31}", name) or len(flags) >= 128:
            domain.draft.dropped(label, "no name of a CPU feature, or one of too many")
        else:
            flags[name] = signs[policy]
            how = f"policy {policy!r}" if policy in ("force", "forbid") else ""
            (domain.draft.report.approximated if how else domain.draft.report.kept)(
                label, how or "cpu.flags"
            )
    if flags:
        found = domain.draft.data.setdefault("cpu", {})
        found["flags"] = [sign + name for name, sign in flags.items()]
    vendor = element.find("vendor")
    if vendor is not None:
        domain.carrier.drop(vendor, "cpu/vendor", "it tells which hosts will do")


def read_os(domain: Domain, element: Element) -> None:
    """``<os>``: machine type and firmware."""
    kind = element.find("type")
    if kind is not None:
        domain.text(kind)
        if domain.attribute(kind, "arch") == "i686":
            domain.draft.report.approximated("os/type@arch", "an x86_64 runs i686 guests")
        _machine_type(domain, domain.attribute(kind, "machine"))
    efi = domain.attribute(element, "firmware") == "efi"
    loader = element.find("loader")
    if loader is not None:
        efi = _loader(domain, loader) or efi
    for feature in element.findall("firmware/feature"):
        if feature.get("name") == "secure-boot":
            on = domain.attribute(feature, "enabled") == "yes"
            domain.attribute(feature, "name")
            domain.draft.set("firmware.secure-boot", on, "os/firmware/feature(secure-boot)")
    nvram = element.find("nvram")
    if nvram is not None:
        _nvram(domain, nvram)
    if efi:
        domain.draft.set("firmware.kind", "uefi", "os@firmware")
    else:
        domain.draft.data["firmware"].pop("secure-boot", None)
    smbios = element.find("smbios")
    if smbios is not None:
        mode = domain.attribute(smbios, "mode")
        if mode == "host":
            domain.draft.dropped("os/smbios", "the strings are those of the host")
        else:
            domain.draft.report.kept("os/smbios", "smbios")
    for name in ("kernel", "initrd", "cmdline", "dtb", "init", "initarg", "shim"):
        for child in element.findall(name):
            domain.carrier.drop(child, f"os/{name}", "it starts a kernel of the host, not a disk")


def _machine_type(domain: Domain, machine: str) -> None:
    if _VERSIONED.fullmatch(machine):
        domain.draft.set("machine", machine, "os/type@machine")
        return
    if not machine:
        return
    is_q35 = "q35" in machine
    ours = "pc-q35-7.2" if is_q35 else "pc-i440fx-7.2"
    how = f"{machine[:60]!r} is an alias or one distribution's own: pinned to {ours}"
    domain.draft.set("machine", ours, "os/type@machine", how=how)


def _loader(domain: Domain, loader: Element) -> bool:
    """Whether the loader is UEFI."""
    if domain.text(loader):
        domain.draft.report.approximated("os/loader", "each host has firmware of its own")
    if domain.attribute(loader, "secure") == "yes":
        domain.draft.set("firmware.secure-boot", True, "os/loader@secure")
    for name in ("readonly", "stateless", "format"):
        domain.attribute(loader, name)
    kind = domain.attribute(loader, "type")
    path = (loader.text or "").lower()
    return kind == "pflash" or any(word in path for word in ("ovmf", "edk2", "efi"))


def _nvram(domain: Domain, nvram: Element) -> None:
    if domain.attribute(nvram, "template"):
        domain.draft.report.approximated("os/nvram@template", "each host has firmware of its own")
    domain.attribute(nvram, "templateFormat")
    domain.attribute(nvram, "format")
    source = nvram.find("source")
    path = domain.text(nvram) or ("" if source is None else domain.attribute(source, "file"))
    domain.attribute(nvram, "type")
    if path:
        domain.draft.blobs["nvram"] = FileRef(path)
        domain.draft.report.kept("os/nvram", "the blob nvram, where the file is at hand")
