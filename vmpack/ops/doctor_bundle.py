"""One bundle on this host: its pins, what they leave open, and what it could be pinned to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.errors import InfrastructureError, QemuMissingError
from vmpack.ops.opening import Path

if TYPE_CHECKING:
    from vmpack.machine import MachineConfig
    from vmpack.runner.left_open import LeftOpen
    from vmpack.runner.options import Accel, Qemu
    from vmpack.runner.preflight import Pin

__all__ = ["BundleDiagnosis", "Common", "diagnose"]


@dataclass(frozen=True, slots=True)
class Common:
    """What every QEMU of this host has: a machine that is pinned to it runs under each of them."""

    machines: Mapping[str, str | None]
    """Versioned machine types of the bundle's kind, newest first, that none calls deprecated, and
    the QEMU version that is to go without each."""
    cpu_models: tuple[str, ...]
    """Versioned models of which nothing is lacking, under the accelerator that was looked at."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object."""
        machines = [{"name": name, "expires": gone} for name, gone in self.machines.items()]
        return {"machine-types": machines, "cpu-models": list(self.cpu_models)}


@dataclass(frozen=True, slots=True)
class BundleDiagnosis:
    """What was found about a bundle."""

    pins: tuple[Pin, ...]
    left_open: tuple[LeftOpen, ...] = ()
    common: Common | None = None
    """``None`` where this host has no QEMU."""


def diagnose(path: Path, qemus: Sequence[Qemu], accel: Accel | None) -> BundleDiagnosis:
    """Hold a bundle against the first of ``qemus``, and look for what all of them have.

    Raises what opening the bundle raises.
    """
    from vmpack.bundle import Bundle
    from vmpack.bundle.manifest import NVRAM
    from vmpack.runner.launch import find_blob
    from vmpack.runner.left_open import left_open
    from vmpack.runner.preflight import Pin, preflight
    from vmpack.runner.qemu import INSTALL

    with Bundle.open(path) as bundle:
        config = bundle.config
        nvram = find_blob(bundle, NVRAM)
        carried = config.firmware.blob
        code = bundle.blob(carried) if carried is not None else None
    machine = config.machine or ""
    if not qemus or accel is None:
        message = "no accelerator can be used" if qemus else "there is no QEMU"
        return BundleDiagnosis((Pin("machine", machine, "unavailable", message, INSTALL),))
    try:
        pins = tuple(preflight(config, qemus[0], accel, nvram=nvram, code=code))
    except QemuMissingError as exc:
        return BundleDiagnosis((Pin("machine", machine, "unavailable", exc.message, exc.hint),))
    return BundleDiagnosis(
        pins, tuple(left_open(config, qemus[0], accel)), _common(config, qemus, accel)
    )


def _common(config: MachineConfig, qemus: Sequence[Qemu], accel: Accel) -> Common | None:
    from vmpack.runner.preflight import expiry
    from vmpack.runner.qemu import cpu_models, features

    kind = (config.machine or "").rpartition("-")[0]
    machines: set[str] | None = None
    models: set[str] | None = None
    for qemu in qemus:
        try:
            has, cpus = features(qemu), cpu_models(qemu, accel)
        except InfrastructureError:
            continue
        current = {name for name, one in has.machines.items() if not one.deprecated}
        clean = {name for name, lacks in cpus.items() if not lacks}
        machines = current if machines is None else machines & current
        models = clean if models is None else models & clean
    if machines is None or models is None:
        return None
    return Common(
        {name: expiry(name) for name in _versioned(machines, kind)},
        tuple(sorted(name for name in models if re.search(r"-v[0-9]+$", name))),
    )


def _versioned(machines: set[str], kind: str) -> Iterator[str]:
    """Types of that kind with a version, newest first."""
    found = []
    for name in machines:
        match = re.fullmatch(r"(.+)-([0-9]+(?:\.[0-9]+)+)", name)
        if match is not None and match[1] == kind:
            found.append((tuple(map(int, match[2].split("."))), name))
    return (name for _, name in sorted(found, reverse=True))
