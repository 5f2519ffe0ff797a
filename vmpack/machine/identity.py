"""The identity of a machine: a digest of everything that its guest can observe.

Specified in ``specs/config-v1.md``, section "machine-id" (clauses CFG-ID-1 to CFG-ID-4). The same
machine has the same identity, however it is packed, named, described or compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from vmpack.machine import canonical

__all__ = ["machine_id"]

_DOMAIN = b"vmpack-machine-v1\0"


def machine_id(
    config_observable: Mapping[str, object],
    disks: Sequence[tuple[str, str]],
    nvram: str | None = None,
    tpm_state: str | None = None,
) -> str:
    """``sha256:HEX`` of the machine.

    ``config_observable`` is :meth:`MachineConfig.observable`; ``disks`` pairs each disk's id with
    its content digest (``vmpack-content-v1:HEX``), in any order; ``nvram`` and ``tpm_state`` are
    the SHA-256 of those blobs in hex, ``None`` where there is none. Raises :class:`UsageError` for
    a config that has no canonical form.
    """
    preimage = canonical.dumps(
        {
            "config": dict(config_observable),
            "disks": [
                {"id": disk_id, "content-digest": digest} for disk_id, digest in sorted(disks)
            ],
            "nvram": nvram,
            "tpm-state": tpm_state,
        }
    )
    return "sha256:" + hashlib.sha256(_DOMAIN + preimage).hexdigest()
