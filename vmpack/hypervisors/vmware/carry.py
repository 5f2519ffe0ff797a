"""Which keys of a VMX may be carried along as text, and given back: the same rule both ways.

A key that names a file, folder, device, socket or secret of a host is neither (CFG-FORM-4).
"""

from __future__ import annotations

import re

__all__ = ["is_key", "names_host", "why_not"]

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_HOST = re.compile(
    r"[/~]|[A-Za-z]:[\\/]|\\\\|\.\.?[\\/]|\.\.$|[A-Za-z][A-Za-z0-9+.-]*://|\[[^\]]+\] |file:"
)
_INSIDE = re.compile(r"/vmfs/|(^|[\s\"'=,;:])/(dev|home|tmp|var|etc|Users|Volumes|proc|sys|root)/")
_FILE_KEYS = re.compile(
    r"(file_?name|path|dir|directory|derivedname|hostlog|logfile|hostfile|device[0-9]+)$"
)
_PLAIN = {
    "",
    "-1",
    "auto detect",
    "vmware-null-remote-floppy",
    "emptybackingstring",
    "default",
}
"""Values by which a key for a file names none."""

_GONE = {
    "uuid.location": "where the files lie is computed anew from where they lie",
    "uuid.action": "whether the UUID is kept is decided when the machine is exported",
    "vc.uuid": "a vCenter gives its own when the machine is registered",
    "extendedconfigfile": "the file only says which team the machine belongs to",
    "vmxstats.filename": "statistics of another host",
    "checkpoint.vmstate": "no memory of a running machine is carried",
    "checkpoint.vmstate.readonly": "no memory of a running machine is carried",
    "config.readonly": "the copy may be written",
    "encryption.required.vtpm": "the TPM's state is not carried",
    "msg.autoanswer": "questions are for whoever opens the machine",
}
_GONE_PARTS = (
    (re.compile(r"pcipassthru[0-9]*[.:]"), "a device of the host"),
    (re.compile(r"usb(_xhci)?\.autoconnect\."), "a device of the host"),
    (re.compile(r"usb(_xhci)?(:[0-9]+)?\.(autoconnect|desc|path|.*host)"), "a device of the host"),
    (re.compile(r"remotedisplay\.vnc\.(key|password)"), "a secret of the host"),
    (re.compile(r"(.*\.)?(password|passphrase|secret)$"), "a secret"),
    (re.compile(r"vtpm\."), "keys and state of the TPM stay with the encrypted machine"),
    (re.compile(r"encryption\."), "keys of the encrypted machine"),
    (re.compile(r"encryptedvm\."), "keys of the encrypted machine"),
    (re.compile(r"migrate\."), "state of a migration between hosts"),
    (re.compile(r"ethernet[0-9]+\.(bsdname|linkid|dvs\.|opaquenetwork\.)"), "a port of the host's"),
)


def is_key(key: str) -> bool:
    """Whether a VMX can have this key at all."""
    return len(key) <= 512 and _KEY.fullmatch(key) is not None


def names_host(value: str) -> bool:
    """Whether the value is a path, address or device of a host."""
    return _HOST.match(value.strip()) is not None or _INSIDE.search(value) is not None


def why_not(key: str, value: str) -> str | None:
    """Why this key is not carried along; ``None``: it may be."""
    low = key.lower()
    if low in _GONE:
        return _GONE[low]
    if low.startswith("guestinfo."):
        # Data for the guest; a path in it is the guest's.
        return None
    for pattern, why in _GONE_PARTS:
        if pattern.match(low):
            return why
    if names_host(value):
        return "it names a file, device or socket of the host"
    if _FILE_KEYS.search(low) and value.strip().lower() not in _PLAIN:
        return "it names a file that stays behind"
    return None
