"""What a guest said of itself, and by which means: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vmpack.verify.model import Facts

__all__ = ["GuestReport", "Means"]

Means = Literal["agent", "agent-info", "serial-login", "cloud-init"]
"""``agent``: the probe was run by the guest agent; ``agent-info``: the agent runs nothing, and told
what its ``guest-get-*`` commands tell; ``serial-login``: the probe was typed after a login on the
console; ``cloud-init``: cloud-init ran it from a seed disk."""


@dataclass(frozen=True, slots=True)
class GuestReport:
    """One guest, asked. Its texts come from the guest; only ``problem`` is escaped already."""

    facts: Facts | None = None
    """Layer ``guest``; ``None`` when nobody answered: the layer was not observed."""
    tables: Facts | None = None
    """Layer ``tables``: what firmware and CPU present; ``None`` where the means cannot tell."""
    means: Means | None = None
    """How it answered."""
    problem: str = ""
    """What was wrong with the answer of a means that is there (stalled, nonsense, too long); safe
    to print. Empty as well where there simply is no means."""
