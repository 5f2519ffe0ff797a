"""What can be said of a config from its JSON object alone.

No pydantic here: taking a bundle apart and checking it need no more than this, and loading the
schema takes longer than unpacking a small machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmpack.errors import DamagedError
from vmpack.units import GiB, MiB

__all__ = ["NOT_OBSERVABLE", "disk_ids", "observable", "toml_text"]

NOT_OBSERVABLE = frozenset(
    {"version", "name", "description", "guest-os", "expected", "verify", "ova", "verbatim"}
)
"""Fields that the guest cannot observe: they are no part of the ``machine-id``."""


def observable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the guest can observe of a canonical config: the part that makes the ``machine-id``."""
    return {key: value for key, value in config.items() if key not in NOT_OBSERVABLE}


def disk_ids(config: Mapping[str, Any]) -> set[str]:
    """The ids of the disks that have an image; what is no list of disks has none."""
    disks = config.get("disk")
    return {
        one["id"]
        for one in (disks if isinstance(disks, list) else ())
        if isinstance(one, dict) and isinstance(one.get("id"), str) and one.get("empty") is not True
    }


def toml_text(config: Mapping[str, Any]) -> str:
    """A canonical config as TOML, for a person to read and change.

    Raises :class:`DamagedError` for what no config holds and TOML cannot say (null).
    """
    import tomli_w

    data = dict(config)
    memory = data.get("memory")
    if type(memory) is int and memory > 0 and memory % MiB == 0:
        whole = memory % GiB == 0
        data["memory"] = f"{memory // GiB}G" if whole else f"{memory // MiB}M"
    try:
        return tomli_w.dumps(data, multiline_strings=False)
    except TypeError as exc:
        raise DamagedError(
            "the config holds what no config can",
            field="config",
            hint="'vmpack check --full' says what is wrong with it",
        ) from exc
