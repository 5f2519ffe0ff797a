"""The published JSON Schema of configs: ``python -m vmpack.machine.schema`` writes it to stdout.

It describes what a person may write (``memory`` as text too). Rules between fields
(:mod:`vmpack.machine.rules`) are beyond a schema: ``vmpack`` checks those.
"""

from __future__ import annotations

import json
import sys

from vmpack.machine.config import MachineConfig

__all__ = ["schema_text"]


def schema_text() -> str:
    """The JSON Schema (draft 2020-12), ready to be stored as ``specs/config-v1.schema.json``."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:vmpack:config-v1",
        **MachineConfig.model_json_schema(by_alias=True),
    }
    _drop_nulls(schema)
    return json.dumps(schema, indent=2, ensure_ascii=True) + "\n"


def _drop_nulls(node: object) -> None:
    """Absence is a missing key, in TOML as in canonical JSON: ``null`` is no value of a config."""
    if isinstance(node, list):
        for item in node:
            _drop_nulls(item)
    if not isinstance(node, dict):
        return
    if "anyOf" in node:
        kept = [one for one in node["anyOf"] if one != {"type": "null"}]
        del node["anyOf"]
        node |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    if node.get("default", 0) in (None, [], {}) or isinstance(node.get("default"), dict):
        del node["default"]
    for item in node.values():
        _drop_nulls(item)


if __name__ == "__main__":
    sys.stdout.write(schema_text())
