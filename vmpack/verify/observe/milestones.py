"""The milestones layer: how far a boot came, by what its console said.

``order`` lists what comes in the same order in every boot, first the generic milestones, each as
its name, then the config's own patterns as ``pattern:TEXT``. Each milestone is also a fact of its
own, with its detail: ``milestone:kernel``: ``6.1.0-41-amd64 ...``. Targets that systemd reached
(``target:multi-user``) and what failed (``failed:ssh.service``: ``FAILED``) have no order.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmpack.runner.detectors import MARKS, SETS
from vmpack.runner.milestones import Reached
from vmpack.verify.model import Json

__all__ = ["milestone_facts"]

MAX_DETAIL = 2048
ORDERED = frozenset(mark.name for mark in MARKS if mark.ordered)
KINDS = frozenset(one.kind for one in SETS)


def milestone_facts(
    seen: Iterable[Reached], reached: Iterable[Reached] = (), missing: Iterable[str] = ()
) -> dict[str, Json]:
    """The facts of the layer; ``seen`` are generic milestones, ``reached`` the config's own.

    ``missing`` are patterns that were not found: ``pattern:TEXT`` is false for them.
    """
    order: list[Json] = []
    facts: dict[str, Json] = {}
    for one in seen:
        kind, _, name = one.name.partition(" ")
        if kind in KINDS and name:
            facts[f"{kind}:{name}"] = one.detail or True
            continue
        facts[f"milestone:{one.name}"] = one.detail[:MAX_DETAIL] or True
        if one.name in ORDERED:
            order.append(one.name)
    patterns = {one.name for one in reached}
    facts |= {f"pattern:{text}": True for text in sorted(patterns)}
    facts |= {f"pattern:{text}": False for text in missing if text not in patterns}
    return {"order": order, **facts}
