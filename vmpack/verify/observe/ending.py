"""The ending layer: how a boot ended, and what QEMU reported on the way, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vmpack.runner.options import Ending
from vmpack.verify.model import Json

__all__ = ["EVENTS", "MAX_EVENTS", "ending_facts", "event_names"]

EVENTS = frozenset(
    {
        *("RESET", "SHUTDOWN", "POWERDOWN", "SUSPEND", "SUSPEND_DISK", "WAKEUP", "WATCHDOG"),
        *("GUEST_PANICKED", "GUEST_CRASHLOADED", "GUEST_PVSHUTDOWN"),
        *("BLOCK_IO_ERROR", "DEVICE_TRAY_MOVED", "MEM_UNPLUG_ERROR", "DEVICE_UNPLUG_GUEST_ERROR"),
    }
)
"""Events that the same boot always has, in the same order. Others follow the host's timing (STOP,
RESUME, RTC_CHANGE, BALLOON_CHANGE, NIC_RX_FILTER_CHANGED, VSERPORT_CHANGE)."""

MAX_EVENTS = 100


def event_names(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The deterministic events in their order, each with its reason: ``SHUTDOWN guest-reset``.

    Repeated ones count once: Linux pulses the reset line, and a failing disk fails many times.
    """
    names: list[str] = []
    for event in events:
        if event.get("event") not in EVENTS:
            continue
        data = event.get("data") or {}
        words = [str(event["event"])]
        words += [str(data[key]) for key in ("reason", "action", "operation") if data.get(key)]
        name = " ".join(words)
        if (not names or names[-1] != name) and len(names) < MAX_EVENTS:
            names.append(name)
    return names


def ending_facts(ending: Ending, events: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    """The facts of the layer: ``kind``, ``reason``, ``resets`` and ``order``, the events."""
    names: list[Json] = [*event_names(events)]
    return {
        "kind": ending.kind,
        "reason": ending.reason,
        "resets": ending.resets,
        "order": names,
    }
