"""MachineConfig: what is taken, what is refused, and how it says so."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmpack.errors import DamagedError, InputError, UnsupportedError, UsageError, VmpackError
from vmpack.machine import DiskFacts, MachineConfig, canonical, pin
from vmpack.machine.names import CPU_FAMILIES, safe_id, safe_name

DISK = '[[disk]]\nid = "root"\n'


def refused(toml: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        MachineConfig.from_toml(toml)
    return caught.value


@pytest.mark.parametrize(
    ("toml", "field", "message", "hint"),
    [
        ('nmae = "x"', "nmae", "unknown field", "name"),
        ('[cpu]\nmodle = "x"', "cpu.modle", "unknown field", "model"),
        ('[[disk]]\nid = "a"\nbuss = "sata"', "disk[0].buss", "unknown field", "bus"),
        ('[[disk]]\nbuss = "sata"', "disk[0].buss", "unknown field", "bus"),
        ('[[verify.check]]\nwait_for = "x"', "verify.check[0].wait_for", "unknown", "wait-for"),
        (DISK + 'bus = "virtio_blk"', "disk[0].bus", "not one of", "virtio-blk"),
        (DISK + 'bus = "floppy"', "disk[0].bus", "not one of", "known here"),
        ("[[disk]]\n", "disk[0].id", "is missing", None),
        ('[cpu]\nmodel = "Nehalem"', "cpu.model", "versioned CPU model", "Nehalem-v1"),
        ('[cpu]\nmodel = "host"', "cpu.model", "versioned CPU model", None),
        ('machine = "q35"', "machine", "versioned machine type", "pc-q35-7.2"),
        ('memory = "lots"', "memory", "not a size", "powers of 1024"),
        ("memory = 1000", "memory", "1048576", None),
        ("memory = 1.5", "memory", "an integer is needed", None),
        ("memory = 1048577", "memory", "multiple of 1048576", None),
        ("version = 2", "version", "not one of 1", None),
        ("version = true", "version", "an integer is needed", None),
        ("[tpm]\nversion = 2.0", "tpm.version", "not one of", '"2.0"'),
        ("pvpanic = 1", "pvpanic", "true or false is needed", None),
        ('disk = "a"', "disk", "a list is needed", None),
        ('cpu = "a"', "cpu", "a table is needed", None),
        ('[rtc]\nstart = "2026-02-30T00:00:00"', "rtc.start", "no such time", None),
        ("name = ", "end of document", "not TOML", "quotes"),
        ("a = 1\nb c", "line 2, column 3", "not TOML", None),
        ("memory = " + "9" * 5000, None, "out of range", None),
        ("a = " + "[" * 50_000, None, "nested too deeply", None),
    ],
)
def test_errors_name_field_cause_and_remedy(
    toml: str, field: str | None, message: str, hint: str | None
) -> None:
    error = refused(toml)
    assert error.field == field
    assert message in error.message
    assert hint is None or hint in (error.hint or "")
    assert "pydantic" not in str(error)


@pytest.mark.parametrize(
    ("toml", "field", "clause"),
    [
        (DISK + DISK, "disk[1].id", "CFG-RULE-1"),
        ('[[nic]]\nid = "n"\n[[nic]]\nid = "n"', "nic[1].id", "CFG-RULE-1"),
        (
            '[[nic]]\nmac = "52:54:00:00:00:01"\n[[nic]]\nmac = "52:54:00:00:00:01"',
            "nic[1].mac",
            "CFG-RULE-1",
        ),
        (DISK + "boot = 1\n[[nic]]\nboot = 1", "nic[0].boot", "CFG-RULE-1"),
        ("[[serial]]\nport = 0\n[[serial]]\nport = 0", "serial[1].port", "CFG-RULE-1"),
        ("[cpu]\nsockets = 16\ncores = 16", "cpu", "CFG-RULE-2"),
        ('[cpu]\nflags = ["+aes", "-aes"]', "cpu.flags[1]", "CFG-RULE-2"),
        ('[firmware]\nkind = "bios"\nsecure-boot = true', "firmware.secure-boot", "CFG-RULE-3"),
        (
            'machine = "pc-i440fx-7.2"\n[firmware]\nsecure-boot = true',
            "firmware.secure-boot",
            "CFG-RULE-3",
        ),
        ('machine = "pc-q35-7.2"\n' + DISK + 'bus = "ide"', "disk[0].bus", "CFG-RULE-4"),
        (DISK + 'kind = "cdrom"\nbus = "nvme"', "disk[0].bus", "CFG-RULE-5"),
        (DISK + 'kind = "cdrom"\nread-only = false', "disk[0].read-only", "CFG-RULE-5"),
        (DISK + "empty = true", "disk[0].empty", "CFG-RULE-5"),
        (DISK + f'bus = "nvme"\nserial = "{"x" * 21}"', "disk[0].serial", "CFG-RULE-5"),
        (DISK + "port = 1", "disk[0].bus", "CFG-RULE-6"),
        (DISK + 'bus = "sata"\nport = 6', "disk[0].port", "CFG-RULE-6"),
        (DISK + 'bus = "sata"\nunit = 1', "disk[0].unit", "CFG-RULE-6"),
        (DISK + 'bus = "nvme"\nport = 0', "disk[0].controller", "CFG-RULE-6"),
        (DISK + 'bus = "sata"\naddress = "00:05.0"', "disk[0].address", "CFG-RULE-6"),
        (
            DISK + 'bus = "sata"\nport = 2\n[[disk]]\nid = "b"\nbus = "sata"\nport = 2',
            "disk[1].port",
            "CFG-RULE-6",
        ),
        (
            '[rng]\naddress = "00:05.0"\n[display]\naddress = "00:05.0"',
            "rng.address",
            "CFG-RULE-7",
        ),
        ('[rng]\naddress = "00:1f.0"', "rng.address", "CFG-RULE-7"),
        ('[rng]\naddress = "00:05.1"', "rng.address", "CFG-RULE-7"),
        (
            '[[controller]]\nbus = "sata"\nindex = 0\naddress = "00:05.0"',
            "controller[0].address",
            "CFG-RULE-7",
        ),
        ('[tpm]\nversion = "1.2"\nmodel = "tpm-crb"', "tpm.model", "CFG-RULE-8"),
        ('[rng]\nmodel = "none"\naddress = "00:05.0"', "rng.address", "CFG-RULE-8"),
        ('[[verify.check]]\nname = "a"', "verify.check[0]", "CFG-RULE-10"),
        ('[[verify.check]]\nsend = "a"\nstdout = "b"', "verify.check[0]", "CFG-RULE-10"),
        ('[[verify.check]]\nsend = "a"\ncommand = "b"', "verify.check[0]", "CFG-RULE-10"),
        ('[verify]\nprobe = "login"', "verify.probe", "CFG-RULE-11"),
        (
            '[[ova.property]]\nkey = "a"\n[[ova.property]]\nkey = "a"',
            "ova.property[1].key",
            "CFG-RULE-1",
        ),
    ],
)
def test_rules_between_fields(toml: str, field: str, clause: str) -> None:
    error = refused(toml)
    assert (error.field, error.clause) == (field, clause)


def test_verbatim_is_bounded() -> None:
    """CFG-RULE-9."""
    entry = '[[verbatim.vmware]]\nkey = "{}"\nvalue = "' + "x" * 8192 + '"\n'
    MachineConfig.from_toml("".join(entry.format(n) for n in range(100)))
    error = refused("".join(entry.format(n) for n in range(130)))
    assert (error.field, error.clause) == ("verbatim", "CFG-RULE-9")


EVIL = [
    "a,b",
    "a=b",
    "pc-q35-7.2,accel=kvm",
    "../../etc/passwd",
    "/etc/passwd",
    "a\nb",
    "a\x1b[2J",
    "a\u202eb",
    "",
    " ",
    "--",
    "x" * 70_000,
]


@pytest.mark.parametrize("value", EVIL, ids=ascii)
@pytest.mark.parametrize(
    "path",
    [
        "machine",
        "architecture",
        "uuid",
        "watchdog",
        "cpu.model",
        "cpu.vendor",
        "firmware.kind",
        "firmware.digest",
        "firmware.blob",
        "display.model",
        "display.address",
        "rng.model",
        "rtc.start",
        "tpm.model",
        "disk.0.id",
        "disk.0.bus",
        "disk.0.serial",
        "disk.0.wwn",
        "nic.0.model",
        "nic.0.mac",
        "nic.0.network",
        "nic.0.id",
        "smbios.bios.release",
        "cpu.flags.0",
    ],
)
def test_nothing_that_reaches_a_command_line_takes_a_metacharacter(path: str, value: str) -> None:
    """CFG-TYPE-2, hostile: 46: in a bundle, where pydantic alone would decide."""
    data: Any = value
    for part in reversed(path.split(".")):
        data = [data] if part == "0" else {part: data}
    data["version"] = 1
    if "disk" in data and "id" not in data["disk"][0]:
        data["disk"][0]["id"] = "root"
    with pytest.raises(DamagedError) as caught:
        MachineConfig.from_json_dict(data)
    assert (caught.value.field or "").startswith("config." + path.split(".")[0])
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


@pytest.mark.parametrize("field", ["path", "file", "socket", "device", "backing"])
def test_no_field_could_name_a_file_of_the_host(field: str) -> None:
    """CFG-FORM-4."""
    assert refused(DISK + f'{field} = "/dev/sda"').message.startswith("unknown field")


@pytest.mark.parametrize("name", ["a\x1b[31m", "a/b", "..", "a\\b", "a\nb", "a\u2028b", ""])
def test_names_hold_neither_paths_nor_controls(name: str) -> None:
    assert refused(f"name = {json.dumps(name)}").field == "name"


def test_a_persons_shorthands() -> None:
    """CFG-FORM-3."""
    config = MachineConfig.from_toml(
        'memory = "512M"\nuuid = "12345678-9ABC-8DEF-8123-456789ABCDEF"\n'
        '[cpu]\nflags = ["-vmx", "+aes"]\n[[nic]]\nmac = "52:54:00:AB:CD:EF"'
    )
    assert config.to_json_dict() == {
        "version": 1,
        "memory": 512 << 20,
        "uuid": "12345678-9abc-8def-8123-456789abcdef",
        "cpu": {"flags": ["+aes", "-vmx"]},
        "nic": [{"mac": "52:54:00:ab:cd:ef"}],
    }
    assert 'memory = "512M"' in config.to_toml()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"memory": "512M"}, "config.memory"),
        ({"version": True}, "config.version"),
        ({"hyperv-generation": True}, "config.hyperv-generation"),
        ({"name": None}, "config.name"),
        ({"cpu": {}}, "config.cpu"),
        ({"controller": []}, "config.controller"),
        ({"uuid": "12345678-9ABC-8DEF-8123-456789ABCDEF"}, "config.uuid"),
        ({"cpu": {"flags": ["-vmx", "+aes"]}}, "config.cpu.flags[0]"),
        ({"guest_agent": True}, "config.guest_agent"),
        ({"nics": []}, "config.nics"),
    ],
)
def test_a_bundles_config_has_one_form(change: dict[str, object], field: str) -> None:
    """CFG-FORM-2, CFG-FORM-3."""
    with pytest.raises(DamagedError) as caught:
        MachineConfig.from_json_dict({"version": 1, **change})
    assert caught.value.field == field


def test_a_bundles_config_states_its_version() -> None:
    """CFG-FORM-2, CFG-VER-1."""
    with pytest.raises(DamagedError, match="canonical form"):
        MachineConfig.from_json_dict({})
    with pytest.raises(UnsupportedError) as caught:
        MachineConfig.from_json_dict({"version": 2, "quantum": True})
    assert caught.value.clause == "CFG-VER-1"


def test_none_is_told_from_not_pinned() -> None:
    """CFG-FORM-2."""
    none = MachineConfig.from_toml("nic = []\nserial = []\n")
    assert none.to_json_dict() == {"version": 1, "nic": [], "serial": []}
    assert MachineConfig.from_toml("") != none
    pinned = pin(none, [], seed=b"")
    assert pinned.nics == ()
    assert pinned.serials == ()


def test_observable_is_what_the_guest_can_see() -> None:
    """CFG-ID-1."""
    plain = pin(None, [DiskFacts("root", 0)], seed=b"")
    toml = plain.to_toml() + (
        '[guest-os]\nfamily = "linux"\n[expected]\ntimeout = 1\n[ova]\nvendor = "x"\n'
        '[[verify.check]]\nsend = "x"\n[[verbatim.xen]]\nkey = "a"\nvalue = "b"\n'
    )
    described = MachineConfig.from_toml('name = "x"\ndescription = "y"\n' + toml)
    assert described != plain
    assert described.observable() == plain.observable()
    assert "version" not in plain.observable()
    changed = MachineConfig.from_toml(plain.to_toml().replace('"1G"', '"2G"'))
    assert changed.observable() != plain.observable()


def test_reads_files_of_both_kinds(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "vm.toml", tmp_path / "vm.json"
    toml.write_bytes(b'\xef\xbb\xbfname = "x"\nmemory = "1G"\n')
    as_json.write_text('{"name": "x", "memory": "1G"}')
    assert MachineConfig.from_toml(toml) == MachineConfig.from_file(as_json)
    with pytest.raises(InputError, match="no such file"):
        MachineConfig.from_file(tmp_path / "absent.toml")
    toml.write_bytes('name = "x"'.encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-8"):
        MachineConfig.from_file(toml)
    for bad in ('{"name": ', '{"name": "x", "name": "y"}', "[" * 100_000, "9" * 5000, "[]"):
        as_json.write_text(bad)
        with pytest.raises(UsageError) as caught:
            MachineConfig.from_file(as_json)
        assert caught.value.path == str(as_json)
    toml.write_bytes(b"#" * ((4 << 20) + 1))
    with pytest.raises(UsageError, match="at most"):
        MachineConfig.from_file(toml)


def test_a_config_cannot_be_changed() -> None:
    config = MachineConfig.from_toml(DISK)
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, "name", "other")  # noqa: B010 - mypy would refuse the plain form


LINES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=20,
)
IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
CONFIGS = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "description": LINES,
        "memory": st.integers(1, 1 << 20).map(lambda count: count << 20),
        "pvpanic": st.booleans(),
        "cpu": st.fixed_dictionaries(
            {"model": st.sampled_from(CPU_FAMILIES).map(lambda family: f"{family}-v1")},
            optional={"cores": st.integers(1, 255)},
        ),
        "tpm": st.just({}) | st.just({"version": "2.0"}),
        "nic": st.lists(st.sampled_from(["e1000", "tulip"]).map(lambda m: {"model": m})),
        "disk": st.lists(IDS, max_size=4, unique=True).map(
            lambda ids: [{"id": one, "bus": "virtio-blk"} for one in ids]
        ),
        "expected": st.lists(LINES, min_size=1, max_size=4).map(lambda x: {"milestones": x}),
        "verbatim": st.dictionaries(
            st.sampled_from(["vmware", "xen"]),
            st.lists(
                st.fixed_dictionaries({"key": LINES, "value": LINES | st.just("a\n\t\"'\\")}),
                min_size=1,
                max_size=3,
            ),
            min_size=1,
        ),
    },
)


@given(CONFIGS)
@settings(max_examples=60)
def test_every_form_comes_back(data: dict[str, Any]) -> None:
    if len(data.get("nic", ())) > 32:
        data["nic"] = data["nic"][:32]
    config = MachineConfig.from_json_dict(data)
    assert config.to_json_dict() == data
    assert MachineConfig.from_toml(config.to_toml()) == config
    stored = canonical.loads(canonical.dumps(config.to_json_dict()))
    assert isinstance(stored, dict)
    assert MachineConfig.from_json_dict(stored) == config


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["disk", "id", "cpu", "nic", "version", "verbatim", "key", "\x1b"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["version", "disk", "cpu", "verbatim", "nic"]), JUNK))
def test_junk_gives_our_own_error(data: dict[str, Any]) -> None:
    with contextlib.suppress(VmpackError):
        MachineConfig.from_json_dict(data)


@given(st.text())
def test_any_text_makes_an_id_and_a_name(text: str) -> None:
    MachineConfig.from_json_dict(
        {"version": 1, "name": safe_name(text), "disk": [{"id": safe_id(text)}]}
    )
