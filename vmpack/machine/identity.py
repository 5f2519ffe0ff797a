"""The identity of a machine: a digest of everything that its guest can observe.

Specified in ``specs/config-v1.md``, section "machine-id" (clauses CFG-ID-1 to CFG-ID-4). The same
machine has the same identity, however it is packed, named, described or compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from vmpack.machine import canonical

__all__ = ["derive_mac", "derive_uuid", "machine_id"]

_DOMAIN = b"vmpack-machine-v1\0"
_UUID_DOMAIN = b"vmpack-uuid-v1\0"
_MAC_DOMAIN = b"vmpack-mac-v1\0"


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


def derive_uuid(seed: bytes) -> str:
    """The machine UUID of ``seed``: version 8 (RFC 9562), its bits from SHA-256."""
    import uuid

    raw = bytearray(hashlib.sha256(_UUID_DOMAIN + seed).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(raw)))


def derive_mac(seed: bytes, index: int, taken: Collection[str | None] = ()) -> str:
    """The MAC address of card ``index``: QEMU's prefix 52:54:00, and none of those ``taken``."""
    for attempt in range(1 << 16):
        number = index.to_bytes(4, "little") + attempt.to_bytes(4, "little")
        tail = hashlib.sha256(_MAC_DOMAIN + number + seed).digest()[:3]
        mac = "52:54:00:" + tail.hex(":")
        if mac not in taken:
            return mac
    raise AssertionError("65,536 digests that all are among 32 addresses")
