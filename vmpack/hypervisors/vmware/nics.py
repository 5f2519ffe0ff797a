"""Network cards of a VMX: ``ethernet0.*``."""

from __future__ import annotations

import re

from vmpack.hypervisors.vmware.read import Reading

__all__ = ["CONNECTIONS", "MODELS", "plain_network", "read_nics"]

MAX_NICS = 32
MODELS = {
    "e1000": "e1000",
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
    "vlance": "pcnet",
}
"""``virtualDev`` -> NIC model."""

_OLD = {"vmxnet": "pcnet", "vmxnet2": "pcnet", "flexible": "pcnet"}
CONNECTIONS = {"nat": "user", "bridged": "bridged", "hostonly": "hostonly"}
"""``connectionType`` -> network of the config."""

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def plain_network(name: str) -> str:
    """A network's name in the characters that a config's has; empty where none is left."""
    return re.sub(r"[^A-Za-z0-9._ -]+", "-", name).strip(" -._")[:64]


def read_nics(reading: Reading) -> None:
    """Every card that is present."""
    reading.draft.data["nic"] = []
    numbers = {
        int(found[1])
        for key, _ in reading.vmx
        if (found := re.match(r"ethernet([0-9]{1,3})\.", key.lower()))
    }
    for number in sorted(numbers):
        if not reading.vmx.flag(f"ethernet{number}.present"):
            continue
        if len(reading.draft.data["nic"]) == MAX_NICS:
            reading.dropped(f"ethernet{number}.present", f"a machine has {MAX_NICS} cards here")
        else:
            _read_nic(reading, f"ethernet{number}")


def _read_nic(reading: Reading, name: str) -> None:
    vmx = reading.vmx
    model, how = _model(reading, name)
    mac = _mac(reading, name)
    network = _network(reading, name)
    source = reading.take(f"{name}.present")
    reading.draft.add("nic", {"model": model, "mac": mac, "network": network}, source)
    if how:
        word = f"{name}.virtualDev"
        if word in vmx:
            reading.changed(word, how)
        else:
            reading.draft.report.approximated(f"{word} (absent)", how)
    reading.kept(f"{name}.virtualDev", model)
    if mac is not None:
        reading.kept(f"{name}.{_mac_key(reading, name)}", mac)
        if vmx.get(f"{name}.addressType").lower() == "static":
            reading.kept(f"{name}.addressType", "the card's address")
        else:
            reading.changed(f"{name}.addressType", "the address that it has now is kept: static")
        for key in ("generatedAddress", "address", "generatedAddressOffset", "checkMACAddress"):
            reading.dropped(f"{name}.{key}", "of no use beside a fixed address")
    else:
        reading.changed(f"{name}.addressType", "no address is given: a new one")
        for key in ("generatedAddress", "address", "generatedAddressOffset"):
            reading.dropped(f"{name}.{key}", "it is no unicast MAC address")


def _model(reading: Reading, name: str) -> tuple[str, str]:
    word = reading.vmx.get(f"{name}.virtualDev").lower()
    if word in MODELS:
        return MODELS[word], ""
    if word in _OLD:
        return _OLD[word], f"{_OLD[word]}, which {word} is to a guest without VMware Tools"
    default = "e1000" if "64" in reading.vmx.get("guestOS") else "pcnet"
    return default, f"{default}, VMware's default for this guest"


def _mac_key(reading: Reading, name: str) -> str:
    is_static = reading.vmx.get(f"{name}.addressType").lower() == "static"
    return "address" if is_static else "generatedAddress"


def _mac(reading: Reading, name: str) -> str | None:
    """The address that the guest sees; static ones and generated ones have a key each."""
    text = reading.vmx.get(f"{name}.{_mac_key(reading, name)}").strip()
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        return None
    mac = text.lower().replace("-", ":")
    taken = {one.get("mac") for one in reading.draft.data["nic"]}
    return None if mac in taken else mac


def _network(reading: Reading, name: str) -> str | None:
    """The network's name: no host is named, whatever ``vnet`` says."""
    vmx = reading.vmx
    kind = vmx.get(f"{name}.connectionType").lower()
    label = vmx.get(f"{name}.networkName")
    vnet = re.split(r"[/\\]", vmx.get(f"{name}.vnet"))[-1]
    if not vmx.flag(f"{name}.startConnected", default=True):
        reading.kept(f"{name}.startConnected", "network none: the cable is unplugged")
        return "none"
    reading.kept(f"{name}.startConnected", "the cable is plugged in")
    if label:
        found, key = label, "networkName"
    elif kind == "custom" and vnet:
        found, key = vnet, "vnet"
        reading.kept(f"{name}.connectionType", "network")
    elif kind in CONNECTIONS:
        found, key = CONNECTIONS[kind], "connectionType"
    else:
        reading.draft.report.kept(f"{name}.connectionType (absent)", "network bridged")
        return "bridged"
    clean = plain_network(found)
    if clean == found:
        reading.kept(f"{name}.{key}", f"network {clean}")
    elif clean:
        reading.changed(f"{name}.{key}", f"network {clean}")
        if key != "vnet":
            reading.draft.verbatim(f"{name}.{key}", found)
    return clean or None
