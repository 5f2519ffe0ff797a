"""The config page, the JSON Schema and the code say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vmpack.machine import MachineConfig, canonical
from vmpack.machine.expectation import (
    Check,
    Expected,
    GuestOs,
    Login,
    Ova,
    OvfProperty,
    VerbatimField,
    Verify,
)
from vmpack.machine.hardware import (
    Baseboard,
    Bios,
    Chassis,
    Controller,
    Cpu,
    Disk,
    Firmware,
    Nic,
    Rng,
    Rtc,
    SerialPort,
    Smbios,
    System,
    Tpm,
    Video,
)
from vmpack.machine.partition_structs import GPT_ENTRY, GPT_HEADER, MBR
from vmpack.machine.pins import DiskFacts, pin
from vmpack.machine.scalars import PATTERN_MEANINGS, Part
from vmpack.machine.schema import schema_text
from vmpack.verify.hosts_model import NAME_PATTERN, TARGET_PATTERN

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "specs/config-v1.md").read_text()
SCHEMA = json.loads((ROOT / "specs/config-v1.schema.json").read_text())
TABLES: dict[str, type[Part]] = {
    "Top level": MachineConfig,
    "`[guest-os]`": GuestOs,
    "`[cpu]`": Cpu,
    "`[firmware]`": Firmware,
    "`[display]`": Video,
    "`[rtc]`": Rtc,
    "`[rng]`": Rng,
    "`[tpm]`": Tpm,
    "`[smbios]`": Smbios,
    "`[smbios.bios]`": Bios,
    "`[smbios.system]`": System,
    "`[smbios.baseboard]`": Baseboard,
    "`[smbios.chassis]`": Chassis,
    "`[[controller]]`": Controller,
    "`[[disk]]`": Disk,
    "`[[nic]]`": Nic,
    "`[[serial]]`": SerialPort,
    "`[expected]`": Expected,
    "`[verify]`": Verify,
    "`[verify.login]`": Login,
    "`[[verify.check]]`": Check,
    "`[ova]`": Ova,
    "`[[ova.property]]`": OvfProperty,
    "`[[verbatim.HYPERVISOR]]`": VerbatimField,
}


def page_rows(heading: str) -> list[tuple[str, str, str, str]]:
    section = PAGE.split(f"\n### {heading}\n", 1)[1].split("\n### ")[0].split("\n## ")[0]
    cells = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (yes|no) \| (.+) \|$", section, re.MULTILINE)
    return [tuple(row) for row in cells]


def test_every_table_of_the_code_is_on_the_page() -> None:
    assert len(TABLES) == len(SCHEMA["$defs"]) + 1


@pytest.mark.parametrize("heading", TABLES)
def test_table_of_the_page(heading: str) -> None:
    """Names, order, values, bounds and meanings, row by row against the schema."""
    model = TABLES[heading]
    node = SCHEMA if model is MachineConfig else SCHEMA["$defs"][model.__name__]
    rows = page_rows(heading)
    assert [row[0] for row in rows] == list(node["properties"])
    for name, kind, needed, meaning in rows:
        field = node["properties"][name]
        assert (needed == "yes") == (name in node.get("required", ()))
        assert meaning == field["description"]
        items = field.get("items", field)
        if "enum" in items or "const" in items:
            values = items.get("enum", [items.get("const")])
            assert kind == ", ".join(f"`{json.dumps(value)}`" for value in values)
        if "maximum" in field:
            assert kind == f"integer, {field['minimum']} to {field['maximum']}"
        if "maxItems" in field:
            assert f"at most {field['maxItems']}" in kind
        if items.get("pattern", "").startswith("^[^") and "name" not in kind:
            assert f"{items.get('minLength', 0)} to {items['maxLength']}" in kind


def test_types_of_the_page() -> None:
    for pattern, meaning in PATTERN_MEANINGS.items():
        # A hosts file's patterns are on its own page.
        assert meaning in PAGE or pattern in (NAME_PATTERN, TARGET_PATTERN)


def test_the_schema_is_up_to_date() -> None:
    assert schema_text() == (ROOT / "specs/config-v1.schema.json").read_text(), (
        "run: python -m vmpack.machine.schema > specs/config-v1.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def examples() -> tuple[str, str]:
    toml = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    as_json = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert toml is not None
    assert as_json is not None
    return toml[1], as_json[1].replace("\n", "")


def test_the_examples_are_one_config() -> None:
    toml, as_json = examples()
    config = MachineConfig.from_toml(toml)
    assert canonical.dumps(config.to_json_dict()) == as_json.encode()
    loaded = canonical.loads(as_json.encode())
    assert isinstance(loaded, dict)
    assert MachineConfig.from_json_dict(loaded) == config


def test_the_schema_takes_the_examples_and_a_pinned_config() -> None:
    toml, as_json = examples()
    pinned = pin(None, [DiskFacts("root", 0)], seed=b"").to_json_dict()
    for document in (tomllib.loads(toml), json.loads(as_json), pinned):
        jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize(
    "document",
    [
        {"version": 2},
        {"nmae": "x"},
        {"memory": 1.5},
        {"memory": "lots"},
        {"machine": "pc-q35-7.2,accel=kvm"},
        {"cpu": {"model": "host"}},
        {"disk": [{"bus": "sata"}]},
        {"disk": [{"id": "a", "bus": "floppy"}]},
        {"verbatim": {"nobody": [{"key": "a", "value": "b"}]}},
        {"name": "a\x1b"},
        {"uuid": None},
    ],
)
def test_the_schema_refuses_what_the_code_refuses(document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_clauses_are_unique() -> None:
    defined = re.findall(r"(?:\*\*|^\| )(CFG-[A-Z]+-\d+)(?:\*\*| \|)", PAGE, re.MULTILINE)
    assert len(defined) == len(set(defined))
    raised = set()
    for path in (ROOT / "vmpack/machine").glob("*.py"):
        raised |= set(re.findall(r'"(CFG-[A-Z]+-\d+)"', path.read_text()))
    assert raised <= set(defined)


def test_sizes_of_the_partition_structs() -> None:
    """UEFI 2.10: 5.2.1 (MBR), 5.3.2 (GPT header), 5.3.3 (GPT entry)."""
    assert [one.sizeof() for one in (MBR, GPT_HEADER, GPT_ENTRY)] == [512, 92, 128]


def test_reading_a_bundle_pays_for_no_heavy_import() -> None:
    code = (
        "import sys; from vmpack.machine import canonical, identity; "
        "print(sorted({'pydantic', 'construct', 'tomli_w'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
