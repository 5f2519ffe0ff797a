"""What a guest agent tells that runs no programs (Windows, or a system that forbids it). Pure.

Source: QEMU Guest Agent Protocol Reference (qga/qapi-schema.json of QEMU 7.2 to 11.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address

from vmpack.verify.guest.found import MAX_LINE, Found
from vmpack.verify.model import Facts, Json

__all__ = ["COMMANDS", "parse_info"]

MAX_ITEMS = 256
"""Members of a list that are looked at."""


def _text(value: object) -> str:
    # JSON can spell half a character, which no file takes.
    text = value[:MAX_LINE] if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode()


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    for one in (value if isinstance(value, list) else [])[:MAX_ITEMS]:
        if isinstance(one, dict):
            yield one


def _size(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _osinfo(found: Found, reply: object) -> None:
    if isinstance(reply, dict):
        for name in ("id", "name", "version-id", "kernel-release", "kernel-version", "machine"):
            if text := _text(reply.get(name)):
                found.fact(f"os-info:{name}", text)


def _host_name(found: Found, reply: object) -> None:
    if isinstance(reply, dict) and (name := _text(reply.get("host-name"))):
        found.fact("hostname", name)


def _users(found: Found, reply: object) -> None:
    for one in _objects(reply):
        if name := _text(one.get("user")):
            found.fact(f"user:{name}", True)


def _interfaces(found: Found, reply: object) -> None:
    for one in _objects(reply):
        name, mac = _text(one.get("name")), _text(one.get("hardware-address"))
        if mac in ("", "00:00:00:00:00:00"):
            continue
        found.fact(f"nic:{mac.lower()}", {"name": name})
        for address in _objects(one.get("ip-addresses")):
            text = _text(address.get("ip-address")).partition("%")[0]
            prefix = _size(address.get("prefix"))
            if prefix is not None and _is_reachable(text):
                found.add(f"address:{name}", f"{text}/{prefix}")


def _is_reachable(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    # Other IPv6 addresses may be temporary: the agent does not say.
    return address.version == 4 and not (address.is_loopback or address.is_link_local)


def _file_systems(found: Found, reply: object) -> None:
    for one in _objects(reply):
        if place := _text(one.get("mountpoint")):
            kind, source = _text(one.get("type")), _text(one.get("name"))
            found.fact(f"mount:{place}", {"source": source, "type": kind})


def _disks(found: Found, reply: object) -> None:
    for one in _objects(reply):
        name = _text(one.get("name"))
        address = one.get("address")
        known: dict[str, Json] = {"partition": one.get("partition") is True}
        if isinstance(address, dict):
            known["bus-type"] = _text(address.get("bus-type"))
            known["serial"] = _text(address.get("serial"))
        if name:
            found.fact(f"disk:{name}", known)


_READERS: Mapping[str, Callable[[Found, object], None]] = {
    "guest-get-osinfo": _osinfo,
    "guest-get-host-name": _host_name,
    "guest-get-users": _users,
    "guest-network-get-interfaces": _interfaces,
    "guest-get-fsinfo": _file_systems,
    "guest-get-disks": _disks,
}

COMMANDS = tuple(_READERS)
"""What is asked, in this order. Not ``guest-get-timezone``: its answers, offset and name, change
with the season."""


def parse_info(replies: Mapping[str, object]) -> Facts:
    """The facts in the agent's replies, by command. Never raises."""
    found = Found()
    for command, reader in _READERS.items():
        if command in replies:
            reader(found, replies[command])
    return dict(sorted(found.facts.items()))
