"""Holds a machine against what a target takes: :class:`~vmpack.hypervisors.base.Limits`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vmpack.ops.lint_codes import LintFinding, finding
from vmpack.units import format_size

if TYPE_CHECKING:
    from vmpack.hypervisors.base import Hypervisor, Limits
    from vmpack.machine import MachineConfig


def lint_limits(
    target: Hypervisor, config: MachineConfig, sizes: Mapping[str, int]
) -> Iterator[LintFinding]:
    """What of ``config`` the target does not take; ``sizes`` are the disks' bytes by id.

    What the config leaves open is not looked at.
    """
    limits = target.limits
    if limits is None:
        yield finding("limits-unknown", f"vmpack has no table of the limits of {target.title}")
        return
    yield from _machine(limits, config)
    yield from _disks(limits, config, sizes)
    for number, nic in enumerate(config.nics or ()):
        if limits.nic_models and nic.model is not None and nic.model not in limits.nic_models:
            yield finding(
                "limit-nic-model",
                f"network card {nic.id or number} is {nic.model}; {target.title} has"
                f" {', '.join(limits.nic_models)}",
                f"nic[{number}].model",
            )


def _machine(limits: Limits, config: MachineConfig) -> Iterator[LintFinding]:
    levels = (config.cpu.sockets, config.cpu.dies, config.cpu.cores, config.cpu.threads)
    cpus = 1
    for level in levels:
        cpus *= level or 1
    if limits.max_cpus and cpus > limits.max_cpus:
        yield finding("limit-cpus", f"{cpus} virtual CPUs, at most {limits.max_cpus}", "cpu")
    memory = config.memory or 0
    if limits.max_memory and memory > limits.max_memory:
        text = f"{format_size(memory)} of memory, at most {format_size(limits.max_memory)}"
        yield finding("limit-memory", text, "memory")
    kind = config.firmware.kind
    if kind is not None and kind not in limits.firmware:
        text = f"starts by {kind.upper()}, the target by {', '.join(limits.firmware).upper()} only"
        yield finding("limit-firmware", text, "firmware.kind")
    if config.firmware.secure_boot and not limits.secure_boot:
        yield finding("limit-secure-boot", field="firmware.secure-boot")
    if config.tpm is not None and not limits.tpm:
        yield finding("limit-tpm", field="tpm")
    pattern = limits.name_pattern
    if pattern and config.name is not None and not re.fullmatch(pattern, config.name):
        yield finding("limit-name", f"the name {config.name!r} does not match {pattern}", "name")


def _disks(
    limits: Limits, config: MachineConfig, sizes: Mapping[str, int]
) -> Iterator[LintFinding]:
    for number, disk in enumerate(config.disks or ()):
        place = f"disk[{number}]"
        if limits.disk_buses and disk.bus is not None and disk.bus not in limits.disk_buses:
            yield finding(
                "limit-disk-bus",
                f"disk {disk.id} is on {disk.bus}; the target has {', '.join(limits.disk_buses)}",
                f"{place}.bus",
            )
        size = sizes.get(disk.id)
        if size is None or disk.kind == "cdrom":
            continue
        if limits.max_disk and size > limits.max_disk:
            text = f"disk {disk.id} has {format_size(size)}, at most {format_size(limits.max_disk)}"
            yield finding("limit-disk-size", text, place)
        if size % limits.disk_alignment:
            yield finding(
                "limit-disk-alignment",
                f"disk {disk.id} of {size} bytes is no multiple of {limits.disk_alignment}",
                place,
            )
