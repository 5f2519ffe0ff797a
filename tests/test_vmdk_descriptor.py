"""Descriptors that lie, break the format, or ask for what the caller did not allow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes
from tests.support.hostile import WATCH
from tests.support.vmdk import Image, contents, described, open_vmdk, sparse, text
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.formats.vmdk.descriptor import Descriptor, ExtentLine, parse
from vmpack.ops.check import check
from vmpack.ops.info import info

FLAT = 'RW 128 FLAT "disk-flat.vmdk" 0'
GOOD = text("monolithicFlat", [FLAT])


def refused(raw: bytes, kind: type[VmpackError], clause: str, match: str = "") -> VmpackError:
    with pytest.raises(kind, match=match) as caught:
        parse(raw, path="disk.vmdk")
    assert caught.value.clause == clause
    assert str(caught.value).isprintable()
    return caught.value


def changed(old: str, new: str) -> bytes:
    assert old.encode() in GOOD
    return GOOD.replace(old.encode(), new.encode())


DAMAGED = {
    "empty": (b"", "1", "does not begin"),
    "no signature": (GOOD[10:], "1", "does not begin"),
    "version": (changed("version=1", "version=7"), "1", "version 7"),
    "no version": (changed("version=1\n", ""), "1", "none"),
    "not utf-8": (GOOD + b"# \xff\n", "3", "not text in utf-8"),
    "control": (GOOD + b"# \x1b[2J\n", "3", "control character"),
    "lone cr": (GOOD + b"# a\rb\n", "3", "control character"),
    "c1": (GOOD + "# \x9b\n".encode(), "3", "control character"),
    "nonsense": (GOOD + b"hello\n", "4", "no line of a descriptor"),
    "escaped": (GOOD + "\u202ehello\n".encode(), "4", "u202ehello"),
    "open quote": (GOOD + b'ddb.uuid = "60 00\n', "4", "no line"),
    "two values": (GOOD + b'ddb.uuid = "a" "b"\n', "4", "no line"),
    "negative": (changed("RW 128", "RW -128"), "4", "no line"),
    "huge": (changed("RW 128", "RW 12345678901234567890123"), "4", "no line"),
    "digits of another script": (changed("RW 128", "RW \u0661\u0662"), "4", "no line"),
    "second cid": (GOOD + b"CID=1\n", "5", "CID is given twice"),
    "second type": (GOOD + b'createType="vmfs"\n', "5", "createType is given twice"),
    "second ddb": (GOOD + b'ddb.adapterType = "ide"\n', "5", "adapterType is given twice"),
    "no type": (changed('createType="monolithicFlat"\n', ""), "6", "no createType"),
    "flat without offset": (changed('vmdk" 0', 'vmdk"'), "8", "no FLAT extent"),
    "offset of sparse": (changed("FLAT", "SPARSE"), "8", "no SPARSE extent"),
    "zero with a name": (changed("FLAT", "ZERO"), "8", "no ZERO extent"),
    "flat without a name": (changed(' "disk-flat.vmdk" 0', ""), "8", "no FLAT extent"),
    "empty name": (changed("disk-flat.vmdk", ""), "8", "no FLAT extent"),
    "long name": (changed("disk-flat", "d" * 1025), "8", "no FLAT extent"),
    "no extent": (changed(FLAT, ""), "8", "names no extent"),
    "8 EiB": (changed("RW 128", f"RW {1 << 54}"), "8", "8 EiB"),
    "too many": (changed(FLAT, "RW 1 ZERO\n" * 4097), "8", "more than 4096"),
    "no cid": (changed("CID=12345678\nparent", "parent"), "10", "CID is"),
    "cid": (changed("CID=12345678", "CID=123456789"), "10", "CID is 123456789"),
    "cid text": (changed("parentCID=ffffffff", "parentCID=none"), "10", "parentCID is none"),
    "orphan": (text("vmfs", [FLAT], hint="a.vmdk"), "10", "names a parent"),
    "empty parent": (text("vmfs", [FLAT], parent="1", hint=""), "10", "0 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_text_that_is_no_descriptor(name: str) -> None:
    # hostile: 28
    # VMDK-DESC-1, VMDK-DESC-2, VMDK-DESC-3, VMDK-DESC-4, VMDK-DESC-5, VMDK-DESC-8, VMDK-DESC-10
    raw, clause, match = DAMAGED[name]
    error = refused(raw, DamagedError, f"VMDK-DESC-{clause}", match)
    assert error.path == "disk.vmdk"


UNSUPPORTED = {
    "encoding": (GOOD + b'encoding="EBCDIC-037"\n', "3", "EBCDIC"),
    "codec that is no encoding": (GOOD + b'encoding="zlib"\n', "3", "zlib"),
    "type": (changed("monolithicFlat", "raid5"), "6", "raid5"),
    "native": (GOOD + b'isNativeSnapshot="yes"\n', "6", "storage array"),
    "noaccess": (changed("RW 128", "NOACCESS 128"), "7", "NOACCESS"),
    "extent type": (changed("FLAT", "WARP"), "7", "WARP"),
    "rdm": (changed("FLAT", "VMFSRDM"), "7", "VMFSRDM"),
    "partition": (changed('vmdk" 0', 'vmdk" 0 partitionUUID dev0'), "7", "device"),
    "encrypted": (GOOD + b'encryptionKeys="vmware:key/list/(pair/x)"\n', "9", "encryption"),
    "crypt filter": (GOOD + b'ddb.iofilters = "vmwarevmcrypt"\n', "9", "encryption"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_vmpack_does_not_read_is_refused_by_name(name: str) -> None:
    # hostile: 25
    # VMDK-DESC-6, VMDK-DESC-7, VMDK-DESC-9
    raw, clause, match = UNSUPPORTED[name]
    refused(raw, UnsupportedError, f"VMDK-DESC-{clause}", match)


@pytest.mark.parametrize(
    "kind",
    [
        *("custom", "fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRDM", "vmfsRDMP"),
        *("vmfsRawDeviceMap", "vmfsPassthroughRawDeviceMap"),
    ],
)
def test_disks_on_devices_are_refused_by_name(kind: str) -> None:
    # hostile: 25
    # VMDK-DESC-6
    refused(text(kind, [FLAT]), UnsupportedError, "VMDK-DESC-6", f"disk type {kind}")


def test_what_stands_behind_a_nul_byte_is_not_read() -> None:
    # VMDK-DESC-3
    found = parse(GOOD + b'\0\nCID=1\ncreateType="fullDevice"\xff', path="disk.vmdk")
    assert (found.cid, found.create_type) == (0x12345678, "monolithicFlat")


def test_entries_that_vmpack_does_not_know_are_reported(tmp_path: Path) -> None:
    # VMDK-DESC-4
    path = tmp_path / "disk.vmdk"
    path.write_bytes(GOOD + b'novelty = "1"\nddb.new.thing = "x"\n')
    found = info(path).as_dict()["format-specific"]
    assert isinstance(found, dict)
    assert found["data"]["unknown-entries"] == ["novelty"]


def test_a_long_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    # hostile: 28
    # VMDK-DESC-2
    refused(GOOD + b"#" * (1 << 20), DamagedError, "VMDK-DESC-2", "1 MiB")
    path = tmp_path / "disk.vmdk"
    with path.open("wb") as out:
        out.write(GOOD)
        out.truncate(1 << 40)
    with pytest.raises(DamagedError, match="too long for a descriptor"):
        open_vmdk(path)


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "/etc/passwd", "sub/disk.vmdk", "/dev/sda", "..", ".", "nbd:host:1"),
        *("json:{}", "http://host/x", "link.vmdk", "pipe", "folder"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_extents_lie_beside_the_descriptor(name: str, allow: bool, tmp_path: Path) -> None:
    # hostile: 4
    # hostile: 5
    # hostile: 25
    # VMDK-PART-1
    (tmp_path / "secret").write_bytes(b"s" * 65536)
    folder = tmp_path / "vm"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/disk.vmdk").write_bytes(b"s" * 65536)
    (folder / "link.vmdk").symlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    path = folder / "disk.vmdk"
    path.write_bytes(text("monolithicFlat", [f'RW 128 FLAT "{name}" 0']))
    with WATCH.opened() as opened, pytest.raises(VmpackError) as caught:
        contents(path, allow_backing=allow)
    assert not isinstance(caught.value, DamagedError)
    assert {one for one in opened if one != str(path)} <= {str(folder / "pipe"), str(folder / name)}
    assert not any("secret" in one or "passwd" in one for one in opened)


def test_info_opens_the_descriptor_alone(tmp_path: Path) -> None:
    # hostile: 6
    # VMDK-PART-1
    path = tmp_path / "disk.vmdk"
    path.write_bytes(text("monolithicFlat", [FLAT, 'RW 128 FLAT "/dev/sda" 0']))
    before = path.read_bytes()
    with WATCH.opened() as opened:
        found = info(path).as_dict()
    assert set(opened) == {str(path)}
    assert path.read_bytes() == before
    assert found["virtual-size"] == 131_072
    reader = open_vmdk(path, metadata_only=True)
    with pytest.raises(UsageError, match="metadata only"):
        reader.read(0, 1)
    with pytest.raises(UsageError, match="metadata only"):
        list(reader.extents())
    reader.close()


def test_info_is_bounded(tmp_path: Path) -> None:
    # hostile: 6
    path = tmp_path / "disk.vmdk"
    lines = [f'RW 1 FLAT "{number:0200}" 0' for number in range(4000)]
    many = "".join(f'key{number}="x"\n' for number in range(5000))
    path.write_bytes(text("monolithicFlat", lines, more=many))
    found = info(path).as_dict()
    assert len(str(found)) < 400_000
    data = found["format-specific"]["data"]  # type: ignore[index]
    assert (len(data["extents"]), data["extents-total"]) == (256, 4000)


def test_a_descriptor_is_no_extent(tmp_path: Path) -> None:
    # hostile: 31
    # VMDK-PART-3
    path = tmp_path / "disk.vmdk"
    path.write_bytes(text("monolithicFlat", ['RW 1 FLAT "disk.vmdk" 0']).ljust(512, b"\n"))
    with pytest.raises(UnsafeError, match="names itself"):
        open_vmdk(path)
    os.link(path, tmp_path / "other.vmdk")
    path.write_bytes(text("monolithicFlat", ['RW 1 FLAT "other.vmdk" 0']).ljust(512, b"\n"))
    with pytest.raises(UnsafeError, match="names itself"):
        open_vmdk(path)


EMBEDDED = {
    "flat": text("monolithicFlat", ['RW 8 FLAT "other.bin" 0']),
    "sparse but flat": text("monolithicSparse", ['RW 8 FLAT "other.bin" 0']),
    "two": text("monolithicSparse", ['RW 8 SPARSE "disk.vmdk"', 'RW 8 SPARSE "b.vmdk"']),
    "split": text("twoGbMaxExtentSparse", ['RW 8 SPARSE "other.vmdk"']),
}


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("capacity", [0, 8])
def test_embedded_descriptor_is_of_its_own_extent(name: str, capacity: int, tmp_path: Path) -> None:
    # hostile: 31
    # VMDK-DESC-11
    (tmp_path / "other.bin").write_bytes(b"s" * 4096)
    image = sparse(disk_bytes(4096), descriptor=EMBEDDED[name]).set_header(capacity=capacity)
    path = image.save(tmp_path / "disk.vmdk")
    with (
        WATCH.opened() as opened,
        pytest.raises(DamagedError, match="sparse extent, but") as caught,
    ):
        open_vmdk(path)
    assert caught.value.clause == "VMDK-DESC-11"
    assert set(opened) == {str(path)}


def test_an_extent_holds_no_descriptor(tmp_path: Path) -> None:
    # hostile: 31
    # VMDK-DESC-11
    path = described(tmp_path, "SPARSE", sparse(disk_bytes(4096)), 8)
    with pytest.raises(DamagedError, match="holds a descriptor itself"):
        open_vmdk(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.set_header(descriptor_at=2),
        lambda image: image.set_header(descriptor_at=1 << 63),
        lambda image: image.set_header(descriptor_size=0),
        lambda image: image.set_header(descriptor_size=2048),
        lambda image: image.set_header(descriptor_size=1 << 63),
        lambda image: image.set_header(descriptor_size=1000),
    ],
)
def test_place_of_the_embedded_descriptor(change: Callable[[Image], Image], tmp_path: Path) -> None:
    # hostile: 28
    # VMDK-DESC-2
    path = change(sparse(disk_bytes(4096))).save(tmp_path / "disk.vmdk")
    with pytest.raises(DamagedError) as caught:
        open_vmdk(path)
    assert caught.value.clause == "VMDK-DESC-2"


@pytest.mark.parametrize("kind", ["SPARSE", "embedded"])
@pytest.mark.parametrize("sectors", [0, 1, 127, 129, 136, 1 << 40])
def test_extents_add_up_to_their_capacity(kind: str, sectors: int, tmp_path: Path) -> None:
    # hostile: 31
    # VMDK-PART-5
    data = disk_bytes(65536)
    if kind == "SPARSE":
        path = described(tmp_path, "SPARSE", sparse(data, descriptor=b""), sectors)
    else:
        own = text("monolithicSparse", [f'RW {sectors} SPARSE "disk.vmdk"'])
        path = sparse(data, descriptor=own).save(tmp_path / "disk.vmdk")
    if 120 < sectors <= 128:
        # A capacity rounded up to whole grains, as VirtualBox writes it.
        assert contents(path) == data[: sectors * 512]
        return
    with pytest.raises(DamagedError, match="the descriptor says") as caught:
        open_vmdk(path)
    assert caught.value.clause == "VMDK-PART-5"


def test_flat_file_that_is_cut_short(tmp_path: Path) -> None:
    # VMDK-PART-4
    path = tmp_path / "disk.vmdk"
    path.write_bytes(text("monolithicFlat", ['RW 128 FLAT "disk-flat.vmdk" 3']))
    (tmp_path / "disk-flat.vmdk").write_bytes(bytes(65536 + 3 * 512 - 1))
    with pytest.raises(DamagedError, match="67071 bytes, but 65536 from 1536"):
        open_vmdk(path)
    found = check(path, format="vmdk")
    assert (found.exit_code, found.findings[0].clause) == (2, "VMDK-PART-4")


def test_extent_of_another_kind(tmp_path: Path) -> None:
    # VMDK-PART-2
    path = described(tmp_path, "SESPARSE", sparse(disk_bytes(4096), descriptor=b""), 8)
    with pytest.raises(DamagedError, match="is a SPARSE extent, not SESPARSE"):
        open_vmdk(path)
    (tmp_path / "disk-data.vmdk").write_bytes(b"QFI\xfb" + bytes(1000))
    with pytest.raises(DamagedError, match="is no VMDK extent: it begins with 51 46 49 fb"):
        open_vmdk(path)


def test_written_descriptors_read_as_they_were_meant() -> None:
    lines = (ExtentLine(5, "FLAT", "a ü.bin", 7), ExtentLine(9, "ZERO"))
    whole = Descriptor(1, "vmfs", lines, {"a.b": "c"}, 2, "x\\y.vmdk", 3, "GBK", "c.vmdk")
    assert parse(whole.encode(), path="x") == whole
    with pytest.raises(UsageError, match="cannot hold the file name"):
        ExtentLine(1, "SPARSE", 'a"b').encode()
    with pytest.raises(UsageError, match="cannot hold the file name"):
        ExtentLine(1, "SPARSE", "a\nRW 1 FLAT").encode()
