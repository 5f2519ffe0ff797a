"""UEFI variable stores: read, fitted to another layout, and refused where they are broken."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.disks import random_disk
from tests.support.nvram import FIRST, boot_entry, ovmf, variable, with_variables
from tests.support.qemu import QemuImg
from tests.support.tools import missing
from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, UnsupportedError, VmpackError
from vmpack.machine.nvram import MAX_SIZE, VariableStore, parse, refit, to_raw
from vmpack.ops.pack import pack
from vmpack.runner.state import State

SMALL, LARGE = "OVMF_VARS.fd", "OVMF_VARS_4M.fd"
STORES = [SMALL, LARGE, "OVMF_VARS.ms.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd"]


def template(name: str) -> bytes:
    try:
        return ovmf(name)
    except OSError:
        missing("OVMF", "run `make setup`")


def contents(store: VariableStore) -> list[tuple[str, bytes]]:
    return [(one.name, one.data) for one in store.variables]


@pytest.mark.parametrize("name", STORES)
def test_every_store_of_ovmf_is_understood(name: str) -> None:
    """NVR-VOL-1, NVR-STORE-1."""
    raw = template(name)
    store = parse(raw)
    assert store.length == len(raw)
    assert store.end == (0x40000 if "4M" in name else 0xE000)
    assert not store.interrupted
    names = {one.name for one in store.variables}
    enrolled = {"PK", "KEK", "db", "dbx", "SecureBootEnable"}
    assert names & enrolled == (enrolled if "." in name.removesuffix(".fd") else set())


@pytest.mark.parametrize(("source", "target"), [(SMALL, LARGE), (LARGE, SMALL)])
def test_variables_survive_another_size(source: str, target: str) -> None:
    """NVR-FIT-1: the same variables in the same order, in the layout of the firmware."""
    entries = [variable("BootOrder", b"\x42\0"), variable("Boot0042", boot_entry("debian"))]
    nvram = with_variables(template(source), *entries, variable("odd", b"12345"))
    fitted = refit(nvram, template(target))
    assert len(fitted) == len(template(target))
    assert [one.raw for one in parse(fitted).variables] == [
        one.raw for one in parse(nvram).variables
    ]
    assert fitted[:FIRST] == template(target)[:FIRST]
    end = parse(fitted).end
    assert fitted[end:] == template(target)[end:]
    assert refit(fitted, template(source)) == nvram


def test_keys_of_secure_boot_survive_another_size() -> None:
    nvram = template("OVMF_VARS.ms.fd")
    assert contents(parse(refit(nvram, template(LARGE)))) == contents(parse(nvram))


def test_the_templates_own_variables_are_not_added() -> None:
    """NVR-FIT-1: a machine without keys does not get the host's."""
    nvram = with_variables(template(SMALL), variable("Timeout", b"\x05\0"))
    fitted = refit(nvram, template("OVMF_VARS_4M.ms.fd"))
    assert contents(parse(fitted)) == [("Timeout", b"\x05\0")]


def test_a_store_of_the_right_size_is_kept_byte_for_byte() -> None:
    """NVR-FIT-1: deleted variables and interrupted writes included."""
    nvram = with_variables(template(LARGE), variable("gone", b"x", state=0x3C))
    assert refit(nvram, template(LARGE)) == nvram


def test_deleted_and_unfinished_variables_are_left_out() -> None:
    """NVR-VAR-1: of two under one name the finished one holds, wherever it stands."""
    nvram = with_variables(
        template(SMALL),
        variable("deleted", b"1", state=0x3C),
        variable("unfinished", b"2", state=0x7F),
        variable("both", b"old", state=0x3E),
        variable("alone", b"3", state=0x3E),
        variable("both", b"new"),
    )
    expected = [("both", b"new"), ("alone", b"3")]
    assert contents(parse(nvram)) == expected
    fitted = refit(nvram, template(LARGE))
    assert contents(parse(fitted)) == expected
    assert all(one.raw[2] == 0x3F for one in parse(fitted).variables)


def test_a_variable_without_a_finished_header_ends_nothing() -> None:
    """NVR-VAR-1."""
    head = bytearray(variable("lost", b"data"))[:60]
    head[2] = 0xFF
    head[36:44] = b"\xff" * 8
    nvram = with_variables(template(SMALL), bytes(head), variable("next", b"1"))
    assert contents(parse(nvram)) == [("next", b"1")]


def test_what_has_no_room_is_refused() -> None:
    """NVR-FIT-2."""
    big = [variable(f"big{n}", bytes(30_000)) for n in range(2)]
    with pytest.raises(UnsupportedError, match="take 60") as error:
        refit(with_variables(template(LARGE), *big), template(SMALL))
    assert error.value.clause == "NVR-FIT-2"
    assert "OVMF_CODE_4M" in (error.value.hint or "")


def interrupted(raw: bytes, flags: int) -> bytes:
    """A store with one write in the queue of its workspace."""
    at = raw.index(bytes.fromhex("2b29589e687c7d49a0ce6500fd9f1b95")) + 32
    write = struct.pack("<B3x16s4xQQ", flags, bytes(16), 1, 0) + bytes(40)
    return raw[:at] + write + raw[at + len(write) :]


@pytest.mark.parametrize(("flags", "pending"), [(0xFC, True), (0xF8, False), (0xFF, False)])
def test_a_store_that_was_being_rewritten_is_not_fitted(flags: int, pending: bool) -> None:
    """NVR-FIT-3: its variables may stand in the spare space; its own firmware finishes the work."""
    nvram = interrupted(template(SMALL), flags)
    assert parse(nvram).interrupted is pending
    assert refit(nvram, template(SMALL)) == nvram
    if pending:
        with pytest.raises(UnsupportedError, match="while its firmware rewrote") as error:
            refit(nvram, template(LARGE))
        assert error.value.clause == "NVR-FIT-3"
    else:
        assert len(refit(nvram, template(LARGE))) == len(template(LARGE))


@pytest.mark.parametrize(
    ("offset", "value", "clause", "message"),
    [
        (40, b"_FVX", "NVR-VOL-1", "no UEFI variables"),
        (16, bytes(16), "NVR-VOL-1", "no UEFI variables"),
        (32, b"\xff" * 8, "NVR-VOL-2", "a volume of"),
        (48, b"\x01\x00", "NVR-VOL-2", "a volume of"),
        (50, b"\x00\x00", "NVR-VOL-3", "checksum"),
        (72, bytes(16), "NVR-STORE-1", "another kind"),
        (92, b"\x00", "NVR-STORE-2", "not formatted"),
        (88, b"\xff\xff\xff\x7f", "NVR-STORE-3", "a variable store of"),
        (88, b"\x01\x00\x00\x00", "NVR-STORE-3", "a variable store of"),
        (FIRST + 40, b"\xff\xff\xff\x7f", "NVR-VAR-2", "a variable of"),
    ],
)
def test_broken_stores_are_refused(offset: int, value: bytes, clause: str, message: str) -> None:
    raw = with_variables(template(SMALL), variable("one", b"1"))
    raw = raw[:offset] + value + raw[offset + len(value) :]
    with pytest.raises(VmpackError, match=message) as error:
        parse(raw)
    assert error.value.clause == clause


@pytest.mark.parametrize("size", [0, 1, 55, 71, 99, 1000])
def test_cut_stores_are_refused(size: int) -> None:
    with pytest.raises(DamagedError):
        parse(template(SMALL)[:size])


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12))
def test_only_our_own_errors_escape(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(with_variables(template(SMALL), variable("a", b"1"), variable("b", b"2")))
    for offset, value in changes:
        raw[offset] = value
    # The checksum is made right again, so that what follows is reached.
    struct.pack_into("<H", raw, 50, 0)
    total = sum(struct.unpack_from("<36H", raw)) & 0xFFFF
    struct.pack_into("<H", raw, 50, -total & 0xFFFF)
    try:
        fitted = refit(bytes(raw), template(LARGE))
    except VmpackError:
        return
    assert len(fitted) == len(template(LARGE))


def test_qcow2_stores_are_read(tmp_path: Path, qemu_img: QemuImg) -> None:
    """NVR-RAW-1: Fedora's templates and libvirt's copies of them are qcow2."""
    source, target = tmp_path / "vars.fd", tmp_path / "vars.qcow2"
    raw = with_variables(template(SMALL), variable("Timeout", b"\x05\0"))
    source.write_bytes(raw)
    qemu_img.run("convert", "-f", "raw", "-O", "qcow2", source, target)
    assert to_raw(target.read_bytes()) == raw
    assert to_raw(raw) == raw


def test_images_too_large_for_flash_are_refused(tmp_path: Path, qemu_img: QemuImg) -> None:
    """NVR-RAW-2: nothing of that size is allocated first."""
    target = tmp_path / "vars.qcow2"
    qemu_img.run("create", "-q", "-f", "qcow2", target, "64T")
    with pytest.raises(DamagedError) as error:
        to_raw(target.read_bytes())
    assert error.value.clause == "NVR-RAW-2"
    with pytest.raises(DamagedError):
        to_raw(bytes(MAX_SIZE + 1))


def test_a_kept_state_moves_to_a_host_with_other_firmware(tmp_path: Path) -> None:
    """STATE-6."""
    random_disk(tmp_path / "disk.raw", 1 << 20)
    pack([tmp_path / "disk.raw"], tmp_path / "app.vmpack")
    entry = variable("Boot0042", boot_entry("debian"))
    with (
        Bundle.open(tmp_path / "app.vmpack") as bundle,
        State(tmp_path / "state", bundle) as state,
    ):
        os.close(state.nvram(with_variables(template(SMALL), entry)))
        os.close(state.nvram(template(LARGE)))
        kept = state.nvram_bytes()
    assert kept == with_variables(template(LARGE), entry)


def test_every_clause_is_named_by_a_test_and_every_name_is_a_clause() -> None:
    root = Path(__file__).parent.parent
    pattern = re.compile(r"\bNVR-[A-Z]+-\d+\b")
    clauses = set(
        re.findall(r"^\| (NVR-[A-Z]+-\d+) \|", (root / "specs/nvram.md").read_text(), re.M)
    )
    tests = (Path(__file__), Path(__file__).with_name("test_nvram_boot.py"))
    named = {name for path in tests for name in pattern.findall(path.read_text())}
    used = {
        name
        for folder in ("runner", "machine")
        for path in (root / "vmpack" / folder).glob("*.py")
        for name in pattern.findall(path.read_text())
    }
    assert clauses == named
    assert used <= clauses
