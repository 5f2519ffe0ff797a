"""Incus and LXD: exports, images and instance configs (``specs/hypervisors/incus.md``)."""

from __future__ import annotations

import re

from vmpack.hypervisors.base import ConfigSource, Hypervisor, Imported, Limits, Machine, Plan


def _recognise(name: str, head: bytes) -> bool:
    plain = name.lower()
    if not plain.endswith((".yaml", ".yml")) or b"\0" in head:
        return False
    keys = set(re.findall(rb"^([a-z_]+):", head, re.MULTILINE))
    if plain == "index.yaml":
        return {b"name", b"backend", b"pool"} <= keys
    if plain == "metadata.yaml":
        return {b"architecture", b"creation_date"} <= keys
    return {b"architecture", b"config", b"devices", b"profiles"} <= keys


def _read(source: ConfigSource) -> Imported:
    from vmpack.hypervisors.incus.read import read

    return read(source)


def _plan(machine: Machine) -> Plan:
    from vmpack.hypervisors.incus.write import plan

    return plan(machine)


HYPERVISOR = Hypervisor(
    name="incus",
    title="Incus, LXD",
    reads=("export (tar)", "image (tar)", "incus config show"),
    writes="split image, instance YAML",
    recognise=_recognise,
    read=_read,
    plan=_plan,
    limits=Limits(
        disk_buses=("virtio-scsi", "virtio-blk", "nvme"),
        nic_models=("virtio-net",),
        source="Incus documentation, Instance configuration: disk and nic devices",
    ),
    proven_by="structure only",
)
