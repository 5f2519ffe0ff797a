"""Names of an export's files: the same on Linux, macOS and Windows."""

from __future__ import annotations

import re

__all__ = ["file_stem", "image_name"]

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def image_name(disk_id: str, *, is_cdrom: bool) -> str:
    """The name of a disk's file; Windows keeps some names for itself."""
    stem = f"disk-{disk_id}" if _RESERVED.fullmatch(disk_id) else disk_id
    return f"{stem}.iso" if is_cdrom else f"{stem}.vmdk"


def file_stem(name: str) -> str:
    """The machine's name as a file's, at most 120 bytes."""
    plain = re.sub(r'[<>:"|?*/\\\x00-\x1f\x7f]', "-", name)
    plain = plain.encode("utf-8", "replace")[:120].decode("utf-8", "ignore").strip(" .")
    return f"vm-{plain}" if _RESERVED.fullmatch(plain) else plain or "machine"
