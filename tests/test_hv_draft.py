"""Building a config from what a stranger's says, and the report of what became of it. HV-REP-1."""

from __future__ import annotations

import json

import pytest

from vmpack.errors import UnsupportedError
from vmpack.hypervisors.base import FileRef
from vmpack.hypervisors.draft import MAX_VERBATIM, Draft
from vmpack.hypervisors.report import Report, Verdict


def verdicts(draft: Draft) -> list[tuple[str, str]]:
    return [(one.field, one.verdict.value) for one in draft.report.items]


def test_values_go_where_they_belong() -> None:
    draft = Draft("vmware")
    draft.set("cpu.cores", 2, "numvcpus")
    draft.set("cpu.sockets", 1, "cpuid.coresPerSocket", how="one socket")
    draft.set("memory", 512 << 20, "memsize")
    assert draft.add("nic", {"model": "e1000", "mac": None}, "ethernet0") == 0
    imported = draft.build()
    assert (imported.config.cpu.cores, imported.config.cpu.sockets) == (2, 1)
    nics = imported.config.nics
    assert nics is not None
    assert (nics[0].model, nics[0].mac) == ("e1000", None)
    assert verdicts(draft) == [
        ("numvcpus", "kept"),
        ("cpuid.coresPerSocket", "approximated"),
        ("memsize", "kept"),
        ("ethernet0", "kept"),
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("memory", 5),
        ("memory", -1),
        ("memory", 1 << 60),
        ("memory", "much"),
        ("memory", True),
        ("memory", [1]),
        ("cpu.cores", 0),
        ("cpu.cores", 10**30),
        ("cpu.model", "host"),
        ("uuid", "no-uuid"),
        ("uuid", "\ud800"),
        ("machine", "microvm"),
        ("firmware.kind", "coreboot"),
        ("description", "a\x00b"),
        ("description", "x" * 10000),
        ("unknown", 1),
        ("cpu", "text"),
        ("guest-os.id", "A B"),
    ],
)
def test_what_no_machine_can_have_is_dropped_and_said(path: str, value: object) -> None:
    """hostile: 10: never fatal, never changed without a word."""
    draft = Draft("vmware")
    draft.set("name", "m", "displayName")
    draft.set(path, value, "the.field")
    imported = draft.build()
    assert imported.config.name == "m"
    assert verdicts(draft) == [("displayName", "kept"), ("the.field", "dropped")]
    (item,) = draft.report.of(Verdict.DROPPED)
    assert item.detail.startswith(path.partition(".")[0])


def test_of_a_list_only_the_bad_element_goes() -> None:
    draft = Draft("vmware")
    for number, mac in enumerate(["52:54:00:00:00:01", "zz", "52:54:00:00:00:03"]):
        draft.add("nic", {"mac": mac}, f"ethernet{number}")
    nics = draft.build().config.nics
    assert nics is not None
    assert [nic.mac for nic in nics] == ["52:54:00:00:00:01", None, "52:54:00:00:00:03"]
    assert dict(verdicts(draft)) == {
        "ethernet0": "kept",
        "ethernet1": "dropped",
        "ethernet2": "kept",
    }


def test_a_disk_that_cannot_be_goes_whole_and_the_others_keep_their_names() -> None:
    draft = Draft("vmware")
    draft.add_disk("a", FileRef("a.vmdk"), "scsi0:0", bus="lsilogic", controller=0, port=0)
    draft.add_disk("b", FileRef("b.vmdk"), "scsi0:1", bus="lsilogic", controller=0, port=99999)
    draft.add_disk("c", FileRef("c.vmdk"), "scsi0:2", bus="lsilogic", controller=0, port=2)
    draft.add_disk("d", FileRef("d.vmdk"), "scsi0:3", bus="no-such-bus")
    imported = draft.build()
    assert set(imported.disks) == {disk.id for disk in imported.config.disks or ()}
    said = dict(verdicts(draft))
    assert said["scsi0:0"] == said["scsi0:2"] == "kept"
    assert said["scsi0:1"] == said["scsi0:3"] == "dropped"


def test_two_devices_at_one_place() -> None:
    """A rule between fields: the config is refused until one of them gives way."""
    draft = Draft("vmware")
    for name in ("a", "b"):
        draft.add_disk(name, FileRef(name), f"ide0:{name}", bus="ide", controller=0, port=0, unit=0)
    imported = draft.build()
    assert imported.config.disks
    assert list(draft.report.of(Verdict.DROPPED))


def test_ids_are_made_of_any_text_and_unique() -> None:
    draft = Draft("vmware")
    wanted = ["My Disk (1).vmdk", "my disk 1.vmdk", "", "é", "é", "x" * 99, "x" * 99, "../../etc"]
    found = [draft.add_disk(one, FileRef("f"), f"s{n}") for n, one in enumerate(wanted)]
    assert len(set(found)) == len(wanted)
    assert found[:4] == ["my-disk-1-vmdk", "my-disk-1-vmdk-2", "disk", "disk-2"]
    assert all(len(one) <= 32 for one in found)
    assert len(draft.build().disks) == len(wanted)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("shop", "shop"),
        ("a/b\\c", "a-b-c"),
        (".hidden", "hidden"),
        ("..", "machine"),
        ("", "machine"),
        ("x\x1b]0;y\x07", "x-]0;y-"),
        ("a\u202eb", "a-b"),
        ("é漢", "é漢"),
        ("x" * 300, "x" * 128),
        ("\ud800", "-"),
    ],
)
def test_names(text: str, name: str) -> None:
    """hostile: 11."""
    draft = Draft("vmware")
    draft.name(text, "displayName")
    assert draft.build().config.name == name
    assert verdicts(draft) == [("displayName", "kept" if text == name else "approximated")]


def test_what_is_not_modelled_is_carried_along() -> None:
    draft = Draft("vmware")
    draft.verbatim("a.b", "value")
    draft.verbatim("a.b", "again")
    draft.verbatim("c", "x\x07y")
    draft.verbatim("path", "/home/ann/x", secret=True)
    draft.verbatim("long", "x" * 8193)
    draft.verbatim("", "no key")
    draft.verbatim("k" * 513, "")
    draft.verbatim("k\n", "")
    fields = draft.build().config.verbatim["vmware"]
    assert [(one.key, one.value) for one in fields] == [
        ("a.b", "value"),
        ("a.b", "again"),
        ("c", "xy"),
    ]
    assert [verdict for _, verdict in verdicts(draft)] == [
        *("kept", "kept", "approximated"),
        *["dropped"] * 5,
    ]
    assert "/home/ann" not in json.dumps(draft.report.as_dict())


def test_what_is_carried_is_bounded() -> None:
    """hostile: 7."""
    draft = Draft("vmware")
    for number in range(MAX_VERBATIM + 5):
        draft.verbatim(f"k{number}", "v" * 100)
    assert len(draft.build().config.verbatim["vmware"]) <= MAX_VERBATIM
    assert draft.report.count(Verdict.DROPPED) >= 5


def test_a_report_counts_escapes_and_refuses() -> None:
    """hostile: 11. Text of the source is shown as text."""
    report = Report("import", "vmware")
    report.kept("a\x1b[31m", "b\u202e")
    report.approximated("c", "nearly")
    report.require_nothing_dropped("x.vmx")
    for number in range(7):
        report.dropped(f"d{number}", f"why {number}")
    found = report.as_dict()
    assert (found["kept"], found["approximated"], found["dropped"]) == (1, 1, 7)
    assert "\x1b" not in str(found)
    assert "\u202e" not in str(found)
    with pytest.raises(UnsupportedError, match="d0, d1, d2, d3, d4 and 2 more") as caught:
        report.require_nothing_dropped("x.vmx")
    assert caught.value.field == "d0"
    assert "why 0" in (caught.value.hint or "")
