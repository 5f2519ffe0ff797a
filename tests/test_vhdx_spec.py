"""specs/vhdx.md, held against the structures and the tests."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.spec_tables import SPECS, struct_rows
from tests.support.vhdx import LOG_GUID, header, log_entry
from vmpack.formats.vhdx import log, structs

TABLE = re.compile(r"<!-- struct: (\w+) -->\n((?:\|.*\n)+)")
NAMES = [
    name
    for name, value in vars(structs).items()
    if type(value).__name__ == "Struct" and type(value).__module__.startswith("construct")
]


def page_rows(name: str) -> list[tuple[int, int, str, str]]:
    text = dict(TABLE.findall((SPECS / "vhdx.md").read_text()))[name]
    rows = []
    for line in text.splitlines()[2:]:
        offset, size, field, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append((int(offset), int(size), field.strip("`"), meaning))
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_page_and_struct_agree(name: str) -> None:
    assert page_rows(name) == struct_rows(getattr(structs, name))


def test_every_clause_is_checked_by_a_test() -> None:
    wanted = set(re.findall(r"^\| (VHDX-\w+-\d+) \|", (SPECS / "vhdx.md").read_text(), re.M))
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_vhdx_*.py"))
    assert len(wanted) > 45
    assert wanted - set(re.findall(r"VHDX-\w+-\d+", tests)) == set()


def test_every_clause_of_the_code_is_on_the_page() -> None:
    folder = Path(structs.__file__).parent
    used = set(re.findall(r"VHDX-\w+-\d+", "".join(p.read_text() for p in folder.glob("*.py"))))
    assert used - set(re.findall(r"VHDX-\w+-\d+", (SPECS / "vhdx.md").read_text())) == set()


def test_structs_that_are_not_parsed_one_by_one() -> None:
    """The table of descriptors goes through struct: the same fields at the same places."""
    raw = log_entry([(1 << 20, 8192), (2 << 20, bytes(range(256)) * 16)], sequence=9, tail=0)
    zero = structs.ZERO_DESCRIPTOR.parse(raw[64:96])
    data = structs.DATA_DESCRIPTOR.parse(raw[96:128])
    sector = structs.DATA_SECTOR.parse(raw[4096:8192])
    first, second = log._DESCRIPTOR.iter_unpack(raw[64:128])
    assert first == (zero.signature, bytes(4), struct.pack("<Q", 8192), 1 << 20, 9)
    assert second == (data.signature, data.trailing_bytes, data.leading_bytes, 2 << 20, 9)
    assert (sector.sequence_high, sector.sequence_low) == (0, 9)
    assert data.leading_bytes + sector.data + data.trailing_bytes == bytes(range(256)) * 16
    assert structs.LOG_HEADER.sizeof() == structs.LOG_HEADER_BYTES
    assert structs.ZERO_DESCRIPTOR.sizeof() == structs.DESCRIPTOR_BYTES == log._DESCRIPTOR.size


def test_headers_encode_as_they_decode() -> None:
    raw = header(5, log_guid=LOG_GUID)
    found = structs.Header.decode(raw)
    assert found.encode() == raw
    assert (found.sequence_number, found.log_guid) == (5, LOG_GUID)
    assert structs.checksum_is_right(raw)
    assert not structs.checksum_is_right(raw[:99] + b"\1" + raw[100:])
    assert UUID(bytes_le=structs.BAT_REGION.bytes_le) == structs.BAT_REGION


def test_the_record_imports_little() -> None:
    code = (
        "import sys; from vmpack import formats; formats.get('vhdx');"
        "sys.exit('construct' in sys.modules or 'google_crc32c' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_crc_is_the_fast_one() -> None:
    """The package falls back to Python where its C part is missing: a thousand times slower."""
    import google_crc32c

    assert google_crc32c.implementation == "c"
    assert google_crc32c.value(b"123456789") == 0xE306_9283
