"""The structures of a bundle and the byte tables of specs/vmpack-v1.md are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.spec_tables import byte_tables, clauses, struct_rows
from vmpack.bundle import structs
from vmpack.errors import DamagedError, RefusedError, UnsupportedError

PAGE = "vmpack-v1.md"
ROOT = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("number", "struct", "size"),
    [(0, structs.HEADER, 4096), (1, structs.FRAME_RECORD, 48), (2, structs.SEGMENT_RECORD, 48)],
    ids=["header", "frame record", "segment record"],
)
def test_byte_tables_are_the_structs(number: int, struct: object, size: int) -> None:
    rows = struct_rows(struct)
    assert byte_tables(PAGE)[number] == rows
    assert rows[-1][0] + rows[-1][1] == size


def test_the_bulk_record_is_both_records() -> None:
    values = (1 << 40, 5000, 16, bytes(range(32)))
    raw = structs.RECORD.pack(*values)
    frame = structs.FRAME_RECORD.parse(raw)
    segment = structs.SEGMENT_RECORD.parse(raw)
    assert (frame.offset, frame.size, frame.cluster_bits, frame.sha256) == values
    assert (segment.offset, segment.size, segment.reserved, segment.sha256) == values


def _header() -> structs.Header:
    return structs.Header(
        total_size=20_000 + 96 + 700,
        index_offset=20_000,
        index_size=96,
        manifest_offset=20_096,
        manifest_size=700,
        manifest_sha256=bytes(range(32)),
    )


def test_a_header_decodes_to_what_was_encoded() -> None:
    raw = _header().encode()
    assert len(raw) == 4096
    assert raw[:12] == b"\x89VMPACK\n\x01\0\0\0"
    assert structs.Header.decode(raw) == _header()


@pytest.mark.parametrize("at", range(0, 4096, 7))
def test_any_changed_byte_of_a_header_is_found(at: int) -> None:
    """VMP-HDR-1, VMP-HDR-3."""
    raw = bytearray(_header().encode())
    raw[at] ^= 0x20
    with pytest.raises(RefusedError if at < 8 else DamagedError):
        structs.Header.decode(bytes(raw))


def test_a_short_header_is_damaged_not_foreign() -> None:
    """VMP-HDR-1."""
    raw = _header().encode()
    with pytest.raises(DamagedError, match="cut short"):
        structs.Header.decode(raw[:4095])
    with pytest.raises(RefusedError, match="not a vmpack bundle"):
        structs.Header.decode(b"QFI\xfb" + raw[4:])


def _signed(raw: bytearray) -> bytes:
    import hashlib

    return bytes(raw[:4064]) + hashlib.sha256(raw[:4064]).digest()


@pytest.mark.parametrize(
    ("offset", "value", "error", "text"),
    [
        (8, 2, UnsupportedError, "version 2"),
        (13, 0, UnsupportedError, "header of"),
        (16, 1, UnsupportedError, "feature not supported: bit 0"),
        (23, 0x80, UnsupportedError, "bit 63"),
        (112, 1, DamagedError, "reserved"),
        (4063, 1, DamagedError, "reserved"),
        (40, 1, DamagedError, "index and manifest"),
        (50, 1, DamagedError, "index and manifest"),
        (56, 1, DamagedError, "index and manifest"),
        (75, 1, DamagedError, "index and manifest"),
    ],
)
def test_wrong_fields_are_refused(offset: int, value: int, error: type, text: str) -> None:
    """VMP-HDR-2, VMP-HDR-4, VMP-HDR-5, VMP-HDR-6."""
    raw = bytearray(_header().encode())
    raw[offset] = value
    with pytest.raises(error, match=text):
        structs.Header.decode(_signed(raw))


def test_unknown_compatible_bits_are_ignored_and_kept() -> None:
    raw = bytearray(_header().encode())
    raw[32] = 4
    assert structs.Header.decode(_signed(raw)).compat == 4


def test_every_clause_that_the_code_names_is_on_the_page() -> None:
    known = clauses(PAGE)
    assert len(known) == len(set(known)), "a clause id is used twice"
    source = ROOT.parent / "vmpack"
    named = set()
    for path in source.rglob("*.py"):
        named |= set(re.findall(r"\bVMP-[A-Z]+-\d+\b", path.read_text()))
    assert named <= set(known)


def test_every_clause_is_checked_by_a_test() -> None:
    """A clause that no test names is a promise that nobody keeps."""
    named = set()
    for path in ROOT.rglob("*.py"):
        named |= set(re.findall(r"\bVMP-[A-Z]+-\d+\b", path.read_text()))
    assert sorted(set(clauses(PAGE)) - named) == []
