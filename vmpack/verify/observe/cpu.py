"""The CPUs of a running machine: their places, and every property of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vmpack.errors import OperationError
from vmpack.verify.model import Json

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["cpu_facts", "cpu_properties"]

AT_ONCE = 32
"""Questions that are under way at a time: QEMU answers them in order."""

SCALARS = ("bool", "str", "string", "OnOffAuto", "int", "uint")
"""How the names of types begin whose values are kept."""

NESTED, OF_NESTED = "vmx", "vmx-"
"""A quarter of the properties say what a nested hypervisor may do. A CPU without it has none."""

OF_THE_HOST = frozenset(
    {
        *("x2apic", "vme", "monitor", "svm", "acpi", "ht", "pmu", "cmp-legacy", "topoext"),
        *("kvmclock", "kvmclock-stable-bit", "kvm-nopiodelay", "kvm-mmu", "kvm-asyncpf"),
        *("kvm-asyncpf-int", "kvm-steal-time", "kvm-pv-eoi", "kvm-pv-unhalt"),
        *("invtsc", "tsc-deadline", "hypervisor", "arat", "host-phys-bits", "phys-bits"),
    }
)
"""Properties whose defaults differ between accelerators or QEMU versions: measured in
specs/decisions/0011-layers.md. They are a fact of their own, ``cpu-host``."""

IGNORED = frozenset(
    {
        # The host's clock and microcode under KVM.
        *("tsc-frequency", "ucode-rev"),
        # Paths, and state of a device.
        *("type", "realized", "hotplugged", "hotpluggable", "legacy-memory", "parked"),
        # The first CPU's place.
        *("apic-id", "node-id", "socket-id", "die-id", "module-id", "core-id", "thread-id"),
    }
)


def cpu_facts(cpus: Iterable[Mapping[str, Any]], properties: Mapping[str, Json]) -> dict[str, Json]:
    """The facts ``cpus``, ``cpu-model`` and ``cpu-host``.

    ``cpus`` is what ``query-hotpluggable-cpus`` returns: each CPU with its place, or, of those that
    are in one unit, the unit.
    """
    present = [one for one in cpus if "qom-path" in one]
    facts: dict[str, Json] = {
        "model": _one({str(one.get("type")).removesuffix("-x86_64-cpu") for one in present}),
        "vendor": properties.get("vendor"),
        "count": sum(_count(one.get("vcpus-count")) for one in present),
    }
    for key in ("socket", "die", "module", "core", "thread"):
        numbers = {one.get("props", {}).get(f"{key}-id") for one in present} - {None}
        # A level that the machine does not have is one of one; versions tell it or not.
        facts[f"{key}s"] = max(len(numbers), 1)
    model = {key: value for key, value in properties.items() if key not in OF_THE_HOST}
    host = {key: value for key, value in properties.items() if key in OF_THE_HOST}
    found: dict[str, Json] = {"cpus": facts}
    return found | ({"cpu-model": model, "cpu-host": host} if properties else {})


def _one(names: set[str]) -> Json:
    return ", ".join(sorted(names))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 1


async def cpu_properties(session: Session, path: str) -> dict[str, Json]:
    """The properties of the CPU at ``path`` of QEMU's object tree, as they are while it runs."""
    try:
        # Since QEMU 10.1.
        (found,) = await session.qmp("qom-list-get", paths=[path])
        return _kept((one["name"], one["type"], one.get("value")) for one in found["properties"])
    except OperationError:
        pass
    listed = await session.qmp("qom-list", path=path)
    wanted = [one for one in listed if one["type"].startswith(SCALARS)]
    wanted = [one for one in wanted if one["name"] not in IGNORED]
    if await session.qmp("qom-get", path=path, property=NESTED) is False:
        wanted = [one for one in wanted if not one["name"].startswith(OF_NESTED)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def value(name: str) -> Json:
        async with slots:
            try:
                found: Json = await session.qmp("qom-get", path=path, property=name)
            except OperationError:
                return None
            return found

    values = await asyncio.gather(*(value(one["name"]) for one in wanted))
    return _kept((one["name"], one["type"], got) for one, got in zip(wanted, values, strict=True))


def _kept(properties: Iterable[tuple[str, str, Json]]) -> dict[str, Json]:
    """Sorted; of a property with two spellings the one with hyphens."""
    found = {
        name: value
        for name, kind, value in properties
        if kind.startswith(SCALARS) and name not in IGNORED and isinstance(value, (bool, int, str))
    }
    nested = found.get(NESTED) is not False
    return {
        name: found[name]
        for name in sorted(found)
        if ("_" not in name or name.replace("_", "-") not in found)
        and (nested or not name.startswith(OF_NESTED))
    }
