"""Hosts beside layers: what was the same where, as one table.

Profile: specs/hosts-v1.md, HOSTS-MATRIX-*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.verify.layers import LAYERS

if TYPE_CHECKING:
    from vmpack.verify.result import HostResult

__all__ = ["BOOT", "NOTHING", "matrix", "matrix_document"]

BOOT = "boot"
"""The first row: how the host ended, by its kind."""
NOTHING = "-"
"""A layer that nobody compared on that host: no record, or no boot."""


def matrix(hosts: Sequence[HostResult]) -> list[tuple[str, ...]]:
    """The rows of the table: its head, the endings, then each layer's verdict on each host.

    The head is ``("layer", NAME, ...)``. A cell is one word: ``same``, ``differs``, ``drift``
    (nothing is promised there), ``not-compared``, or :data:`NOTHING`. All of it is safe to print.
    Layers are those of the comparisons; without any there are only the endings.
    """
    rows = [
        ("layer", *(escape(host.name) for host in hosts)),
        (BOOT, *(escape(host.kind) for host in hosts)),
    ]
    if any(host.comparison is not None for host in hosts):
        rows += [(one.title, *(_verdict(host, one.name) for host in hosts)) for one in LAYERS]
    return rows


def matrix_document(hosts: Sequence[HostResult]) -> dict[str, object]:
    """The same as JSON: the hosts' names, and for each layer the verdicts in their order."""
    return {
        "hosts": [host.name for host in hosts],
        BOOT: [host.kind for host in hosts],
        "layers": {
            one.name: [
                None if host.comparison is None else host.comparison.verdicts.get(one.name)
                for host in hosts
            ]
            for one in LAYERS
        },
    }


def _verdict(host: HostResult, layer: str) -> str:
    verdicts = {} if host.comparison is None else dict(host.comparison.verdicts)
    return next((verdict for name, verdict in verdicts.items() if name == layer), NOTHING)
