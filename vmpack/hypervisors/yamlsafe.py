"""YAML of strangers within bounds, and YAML that is the same bytes whenever it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vmpack.errors import DamagedError, UnsafeError

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_DOCUMENTS = 64


def parse(data: bytes, *, path: str) -> list[Any]:
    """The documents of a YAML file: mappings with string keys, lists, strings, numbers, booleans.

    Raises :class:`UnsafeError` for aliases (a few lines of them can stand for gigabytes) and for
    what is too deep or too much, :class:`DamagedError` for what is no YAML.
    """
    import yaml

    depth = nodes = documents = 0
    try:
        for event in yaml.parse(data, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UnsafeError(
                    "has an alias, which YAML bombs are made of",
                    path=path,
                    hint="write the value out where the alias (*name) stands",
                )
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            nodes += 1
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > MAX_DEPTH or nodes > MAX_NODES or documents > MAX_DOCUMENTS:
                raise UnsafeError(
                    f"is deeper than {MAX_DEPTH} levels, or has more than {MAX_NODES} values or "
                    f"{MAX_DOCUMENTS} documents",
                    path=path,
                )
        return [_plain(one) for one in yaml.load_all(data, Loader=yaml.SafeLoader)]
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as exc:
        raise DamagedError(
            "is not sound YAML", path=path, hint="a YAML checker names the line"
        ) from exc


def _plain(value: Any) -> Any:
    """Dates, sets and binary data become text; keys become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)[:100]
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


def dump(*documents: Mapping[str, Any]) -> bytes:
    """The documents in block style, keys in the order given, without aliases."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: Any) -> bool:
            return True

    return yaml.dump_all(
        documents,
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        encoding="utf-8",
        explicit_start=len(documents) > 1,
    )
