"""Reads Vagrant boxes. Profile: specs/hypervisors/vagrant.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.libvirt import names as libvirt_names
from vmpack.hypervisors.report import Report
from vmpack.hypervisors.vagrant.vagrantfile import settings
from vmpack.units import MiB

VAGRANTFILE = "Vagrantfile"
BOX_OVF = "box.ovf"
MAX_DISKS = 64
CARRIED = frozenset(
    {"nested", "keymap", "kvm_hidden", "sound_type", "graphics_type", "graphics_autoport"}
    | {"video_vram", "video_accel3d", "suspend_mode", "autostart", "title", "volume_cache"}
    | {"mgmt_attach", "nic_adapter_count", "machine_virtual_size", "driver"}
)
"""Settings of vagrant-libvirt that are given back: values that name nothing of the host."""


def metadata(source: ConfigSource) -> dict[str, Any]:
    """The box's metadata. Raises :class:`DamagedError` for what is none."""
    try:
        found = json.loads(source.data)
    except (ValueError, RecursionError) as exc:
        raise DamagedError(
            "is not JSON", path=source.name, clause="VAG-READ-1", hint="download the box again"
        ) from exc
    if not isinstance(found, dict):
        raise DamagedError("is not a JSON object", path=source.name, clause="VAG-READ-1")
    return found


def wanted(source: ConfigSource) -> Sequence[str]:
    """Names of the small files that are read with the metadata."""
    found = [VAGRANTFILE]
    if metadata(source).get("provider") == "virtualbox":
        found += [BOX_OVF, *(name for name in source.members if name.endswith(".mf"))][:16]
    return found


def read_box(source: ConfigSource) -> Imported:
    """The machine; every key of the metadata and every line of code is in the report.

    Raises :class:`DamagedError` and :class:`UnsupportedError` for a box that cannot be read.
    """
    known = metadata(source)
    if known.get("provider") == "virtualbox":
        return _virtualbox(source, known)
    draft = Draft("vagrant")
    draft.report.kept("provider", "a machine of QEMU")
    _disks(draft, source, known)
    for key, value in known.items():
        if key in ("provider", "disks", "format"):
            continue
        if key == "virtual_size":
            draft.report.kept("virtual_size", "the disk's own size")
        elif key == "architecture" and value in ("amd64", "x86_64"):
            draft.set("architecture", "x86_64", "architecture")
        else:
            _carry(draft, f"metadata.json/{key}", value)
    data, report = draft.data, draft.report
    for number, name, value in _settings(source):
        _setting(draft, number, name, value)
    data.setdefault("nic", [{}])
    report.approximated(
        "(network)", "one card: Vagrant adds a card of its management network to every machine"
    )
    return draft.build()


def _disks(draft: Draft, source: ConfigSource, known: dict[str, Any]) -> None:
    """``disks`` of format v2, or the one image of v1."""
    listed = known.get("disks")
    if listed is None:
        name = "box.img"
        kind = known.get("format", "qcow2")
        draft.add_disk("root", _file(name, kind), name)
        if "format" in known:
            draft.report.kept("format", str(kind)[:40])
        return
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_DISKS:
        raise DamagedError("lists no disks", path=source.name, field="disks", clause="VAG-READ-2")
    for number, one in enumerate(listed):
        path = one.get("path") if isinstance(one, dict) else None
        if not isinstance(path, str) or not path:
            raise DamagedError(
                f"disk {number} has no path",
                path=source.name,
                field=f"disks[{number}]",
                clause="VAG-READ-2",
            )
        label = f"disks[{number}]"
        wanted_id = one.get("name") or re.sub(r"\.[a-z0-9]+$", "", path.rpartition("/")[2])
        if number == 0 and "name" not in one:
            wanted_id = "root"
        draft.add_disk(str(wanted_id), _file(path, one.get("format", known.get("format"))), label)
        for key, value in one.items():
            if key not in ("path", "name", "format"):
                _carry(draft, f"metadata.json/{label}.{key}", value)
    if "format" in known:
        draft.report.kept("format", "of each disk")


def _file(path: str, kind: object) -> FileRef:
    known = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "vdi": "vdi", "vpc": "vhd"}
    return FileRef(path, known.get(kind) if isinstance(kind, str) else None)


def _carry(draft: Draft, key: str, value: object) -> None:
    text = json.dumps(value)
    if names_host(text) or names_host(str(value)):
        draft.verbatim(escape(key)[:500], text, secret=True)
    else:
        draft.verbatim(escape(key)[:500], text)


def _settings(source: ConfigSource) -> Sequence[tuple[int, str, Any]]:
    text = source.extra.get(VAGRANTFILE, b"").decode("utf-8", "replace")
    return list(settings(text))


def _setting(draft: Draft, number: int, name: str, value: Any) -> None:
    label = f"Vagrantfile:{number} {name}".strip()
    reader = (_CALLS if isinstance(value, dict) else _READERS).get(name)
    if reader is not None:
        reader(draft, label, value)
    elif name in CARRIED and not isinstance(value, dict) and not names_host(str(value)):
        draft.verbatim(f"libvirt.{name}", json.dumps(value))
    elif name:
        draft.dropped(label, "a setting of Vagrant's, or one that may name something of the host")
    else:
        draft.dropped(label, "Ruby, which is not run: nobody can know what it does")


def _memory(draft: Draft, label: str, value: Any) -> None:
    try:
        draft.set("memory", int(value) * MiB, label)
    except ValueError:
        draft.dropped(label, "not a number of MiB")


def _cpus(draft: Draft, label: str, value: Any) -> None:
    if not re.fullmatch(r"[0-9]{1,4}", str(value)):
        draft.dropped(label, "not a number")
    elif "cores" in draft.data.get("cpu", {}):
        draft.report.kept(label, "cputopology")
    else:
        # As libvirt does where nobody says more.
        draft.set("cpu.sockets", int(value), label)


def _topology(draft: Draft, label: str, value: Any) -> None:
    counts = {name: str(count) for name, count in dict(value).items()}
    if set(counts) != {"sockets", "cores", "threads"} or not all(
        re.fullmatch(r"[0-9]{1,4}", count) for count in counts.values()
    ):
        draft.dropped(label, "not sockets, cores and threads")
        return
    for name, count in counts.items():
        draft.set(f"cpu.{name}", int(count), label)


def _channel(draft: Draft, label: str, value: Any) -> None:
    if value.get("target_name") == libvirt_names.AGENT:
        draft.set("guest-agent", True, label)
    else:
        draft.dropped(label, "a channel of another kind than the guest agent's")


def _random(draft: Draft, label: str, _: Any) -> None:
    draft.set("rng.model", "virtio-rng", label)


def _controller(draft: Draft, label: str, value: Any) -> None:
    ours = libvirt_names.SCSI_BUSES.get(str(value))
    disks = [disk for disk in draft.data["disk"] if disk.get("bus") == "virtio-scsi"]
    if ours is None or not disks:
        draft.dropped(label, "no model of SCSI controllers, or no disk on SCSI")
        return
    for disk in disks:
        disk["bus"] = ours
    draft.report.kept(label, "disk.bus")


def _machine(draft: Draft, label: str, value: Any) -> None:
    if re.fullmatch(r"pc-(q35|i440fx)-[1-9][0-9]?\.[0-9]{1,2}(\.[0-9])?", str(value)):
        draft.set("machine", value, label)
        return
    ours = "pc-q35-7.2" if "q35" in str(value) else "pc-i440fx-7.2"
    draft.set("machine", ours, label, how=f"{str(value)[:40]!r} is an alias: pinned to {ours}")


def _bus(draft: Draft, label: str, value: Any) -> None:
    ours = {"virtio": "virtio-blk", "sata": "sata", "ide": "ide", "scsi": "virtio-scsi"}
    if value not in ours:
        draft.report.approximated(label, f"{str(value)[:40]!r}: vmpack's pin instead")
        return
    for disk in draft.data["disk"]:
        disk["bus"] = ours[value]
    draft.report.kept(label, "disk.bus")


def _nic(draft: Draft) -> dict[str, Any]:
    found: dict[str, Any] = draft.data.setdefault("nic", [{}])[0]
    return found


def _nic_model(draft: Draft, label: str, value: Any) -> None:
    ours = libvirt_names.NICS_READ.get(str(value))
    if ours is None:
        draft.report.approximated(label, f"{str(value)[:40]!r}: vmpack's pin instead")
        return
    _nic(draft)["model"] = ours
    draft.report.kept(label, "nic[0].model")


def mac_of(value: Any) -> str:
    """A MAC address with or without colons, as a config has it; anything else as it is."""
    plain = re.sub(r"[:-]", "", str(value)).lower()
    if not re.fullmatch(r"[0-9a-f]{12}", plain):
        return str(value)
    return ":".join(plain[at : at + 2] for at in range(0, 12, 2))


def _mac(draft: Draft, label: str, value: Any) -> None:
    _nic(draft)["mac"] = mac_of(value)
    draft.set_source("nic[0].mac", label)
    draft.report.kept(label, "nic[0].mac")


def _video(draft: Draft, label: str, value: Any) -> None:
    ours = libvirt_names.VIDEO_READ.get(str(value))
    if ours is None:
        draft.report.approximated(label, f"{str(value)[:40]!r}: vmpack's pin instead")
    else:
        draft.set("display.model", ours, label)


def _loader(draft: Draft, label: str, _: Any) -> None:
    draft.set("firmware.kind", "uefi", label, how="each host has UEFI firmware of its own")


def _cpu_model(draft: Draft, label: str, value: Any) -> None:
    ours = libvirt_names.CPUS_READ.get(str(value))
    if ours is None:
        draft.report.approximated(label, f"{str(value)[:40]!r}: pinned to vmpack's table instead")
    else:
        draft.set("cpu.model", ours, label)


def _cpu_mode(draft: Draft, label: str, value: Any) -> None:
    if value == "custom":
        draft.report.kept(label, "cpu.model")
    else:
        how = f"{str(value)[:40]!r} is another CPU on each host: pinned to vmpack's table instead"
        draft.report.approximated(label, how)


def _exact(draft: Draft, label: str, _: Any) -> None:
    draft.report.kept(label, "as every machine of vmpack's")


def _architecture(draft: Draft, label: str, value: Any) -> None:
    if value != "x86_64":
        raise UnsupportedError(f"a machine of {str(value)[:20]!r}", field=label)
    draft.set("architecture", "x86_64", label)


def _tpm_version(draft: Draft, label: str, value: Any) -> None:
    draft.set("tpm.version", str(value), label)


def _tpm_model(draft: Draft, label: str, value: Any) -> None:
    draft.set("tpm.model", value, label)


def _text(path: str) -> Callable[[Draft, str, Any], None]:
    def read(draft: Draft, label: str, value: Any) -> None:
        draft.set(path, str(value).lower() if path == "uuid" else str(value), label)

    return read


_CALLS: dict[str, Callable[[Draft, str, Any], None]] = {
    "cputopology": _topology,
    "channel": _channel,
    "random": _random,
}
"""Settings that have a dictionary."""
_READERS: dict[str, Callable[[Draft, str, Any], None]] = {
    "memory": _memory,
    "cpus": _cpus,
    "machine_type": _machine,
    "disk_bus": _bus,
    "nic_model_type": _nic_model,
    "base_mac": _mac,
    "management_network_mac": _mac,
    "video_type": _video,
    "loader": _loader,
    "cpu_model": _cpu_model,
    "cpu_mode": _cpu_mode,
    "cpu_fallback": _exact,
    "disk_controller_model": _controller,
    "tpm_type": _exact,
    "tpm_version": _tpm_version,
    "tpm_model": _tpm_model,
    "description": _text("description"),
    "uuid": _text("uuid"),
    "machine_arch": _architecture,
}


def _virtualbox(source: ConfigSource, known: dict[str, Any]) -> Imported:
    """A box of VirtualBox is an OVF appliance; its Vagrantfile has the MAC address."""
    from vmpack import hypervisors

    if BOX_OVF not in source.extra:
        raise UnsupportedError(
            f"a box of VirtualBox without {BOX_OVF}",
            path=source.name,
            clause="VAG-READ-3",
            hint="take the disk image out of the box, and pack that",
        )
    ovf = hypervisors.get("ova")
    assert ovf.read is not None
    appliance = replace(source, name=BOX_OVF, data=source.extra[BOX_OVF])
    inner = ovf.read(appliance)
    draft = Draft("vagrant")
    draft.data = inner.config.to_json_dict()
    draft.report.kept("provider", "an OVF appliance")
    for key in known:
        if key != "provider":
            draft.dropped(f"metadata.json/{escape(key)[:100]}", "not known for VirtualBox")
    for number, name, value in _settings(source):
        if name == "base_mac" and draft.data.get("nic"):
            _mac(draft, f"Vagrantfile:{number} base_mac", value)
        elif name == "memory":
            _memory(draft, f"Vagrantfile:{number} memory", value)
        else:
            draft.dropped(f"Vagrantfile:{number} {name}".strip(), "Ruby, which is not run")
    found = draft.build()
    report = Report("import", "vagrant", [*inner.report.items, *found.report.items])
    return replace(inner, config=found.config, report=report)
