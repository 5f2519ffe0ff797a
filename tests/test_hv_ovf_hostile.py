"""Packages of strangers: references, XML, compression and digests, held to their limits."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from tests.support.hostile import WATCH
from tests.support.ovf import (
    BASIC,
    NS,
    SIZE,
    envelope,
    folder_of,
    gzipped,
    imported,
    manifest,
    opened,
    package,
    verdicts,
    vmdk,
)
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, UsageError, VmpackError
from vmpack.hypervisors import xmlsafe
from vmpack.hypervisors.ovf.manifest import parse
from vmpack.ops import importing
from vmpack.ops.pack import pack


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A streamOptimized image, and what it reads as."""
    path = tmp_path_factory.mktemp("ovf") / "d1.vmdk"
    data = vmdk(path)
    return path.read_bytes(), data


Disk = tuple[bytes, bytes]


def read_disk(path: Path, **options: object) -> bytes:
    with opened(path, **options) as (_, found):
        (reader,) = found.readers.values()
        return reader.read(0, reader.virtual_size)


@pytest.mark.parametrize("kind", ["ova", "folder"])
def test_a_package(kind: str, disk: Disk, tmp_path: Path) -> None:
    """An uncompressed member is read where it lies; a folder's files are read as they are."""
    files = {"vm.ovf": envelope(), "d1.vmdk": disk[0]}
    path = package(files, tmp_path / "x.ova") if kind == "ova" else folder_of(files, tmp_path / "x")
    with WATCH.opened() as seen:
        assert read_disk(path) == disk[1]
    assert {Path(name).name for name in seen} <= {"x.ova", "vm.ovf", "d1.vmdk", "x"}
    assert read_disk(path / "vm.ovf" if kind == "folder" else path) == disk[1]


@pytest.mark.parametrize("name", ["sun..vhw-disk1.vmdk", "a b.vmdk", "ä(1).vmdk", "disks/d.vmdk"])
def test_names_that_are_fine(name: str, disk: Disk, tmp_path: Path) -> None:
    """OVF-READ-2; hostile: 41: two dots in a name are no way up."""
    files = {"vm.ovf": envelope(href=name), name: disk[0]}
    assert read_disk(package(files, tmp_path / "x.ova")) == disk[1]


def test_a_reference_with_escapes(disk: Disk, tmp_path: Path) -> None:
    """A URI may say a space as %20: the file's name decides."""
    files = {"vm.ovf": envelope(href="my%20disk.vmdk"), "my disk.vmdk": disk[0]}
    assert read_disk(package(files, tmp_path / "x.ova")) == disk[1]
    files = {"vm.ovf": envelope(href="my%20disk.vmdk"), "my%20disk.vmdk": disk[0]}
    assert read_disk(package(files, tmp_path / "y.ova")) == disk[1]


@pytest.mark.parametrize(
    "href",
    [
        "../d1.vmdk",
        "a/../../d1.vmdk",
        "/etc/passwd",
        "http://example.com/d1.vmdk",
        "file:///etc/passwd",
        "nbd:unix:/run/x",
        "json:{}",
        "C:\\d1.vmdk",
        "..\\d1.vmdk",
        "%2e%2e/d1.vmdk",
        "%2Fetc/passwd",
        "",
        "x" * 2000,
        "a&#10;b",
    ],
)
def test_references_that_lead_elsewhere(href: str, tmp_path: Path) -> None:
    """OVF-READ-2; hostile: 5, 41."""
    data = envelope(href="HREF").replace(b'"HREF"', f'"{href}"'.encode())
    path = package({"vm.ovf": data}, tmp_path / "x.ova")
    with WATCH.opened() as seen, pytest.raises(UnsafeError, match="no file beside") as caught:
        pack([path], tmp_path / "x.vmpack")
    assert caught.value.clause == "OVF-READ-2"
    assert {Path(name).name for name in seen} == {"x.ova"}
    assert not (tmp_path / "x.vmpack").exists()


def test_a_member_of_another_folder(disk: Disk, tmp_path: Path) -> None:
    """hostile: 41: a reference is relative to the envelope."""
    files = {"vm/vm.ovf": envelope(), "d1.vmdk": disk[0]}
    with pytest.raises(UsageError, match="not beside the config"):
        read_disk(package(files, tmp_path / "x.ova"))
    files = {"vm/vm.ovf": envelope(), "vm/d1.vmdk": disk[0]}
    assert read_disk(package(files, tmp_path / "y.ova")) == disk[1]


def test_a_link_out_of_the_folder(disk: Disk, tmp_path: Path) -> None:
    """hostile: 4, 41."""
    (tmp_path / "secret.vmdk").write_bytes(disk[0])
    folder = folder_of({"vm.ovf": envelope()}, tmp_path / "x")
    (folder / "d1.vmdk").symlink_to(tmp_path / "secret.vmdk")
    with pytest.raises(UsageError, match="not beside"):
        read_disk(folder)


def test_info_needs_no_disks(tmp_path: Path) -> None:
    path = package({"vm.ovf": envelope()}, tmp_path / "x.ova")
    found = importing.find(path)
    assert found is not None
    assert importing.read_config(found).config.name == "vm"
    found.close()
    with pytest.raises(UsageError, match="not beside") as caught:
        read_disk(path)
    assert "--disk d1=PATH" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["ova", "folder"])
@pytest.mark.parametrize("how", ["stated", "named", "unsaid"])
def test_gzipped_disks(kind: str, how: str, disk: Disk, tmp_path: Path) -> None:
    """OVF-READ-5: said by the envelope, by the name, or by the content alone."""
    name = "d1.vmdk.gz" if how == "named" else "d1.vmdk"
    stated = 'ovf:compression="gzip"' if how == "stated" else ""
    files = {"vm.ovf": envelope(href=name, file=stated), name: gzipped(disk[0])}
    path = package(files, tmp_path / "x.ova") if kind == "ova" else folder_of(files, tmp_path / "x")
    assert read_disk(path) == disk[1]


def test_gzip_is_bounded(tmp_path: Path) -> None:
    """OVF-READ-5; hostile: 7, 8, 41: a small file makes no large one."""
    bomb = gzipped(bytes(24 << 20))
    data = envelope(href="d1.raw.gz", file='ovf:compression="gzip"').replace(b"vmdk.html", b"raw")
    path = package({"vm.ovf": data, "d1.raw.gz": bomb}, tmp_path / "x.ova")
    assert len(read_disk(path)) == 24 << 20, "without a limit of the caller's"
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeError, match="larger than the 1048576 bytes"):
            pack([path], tmp_path / "x.vmpack", max_size=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    cut = package({"vm.ovf": data, "d1.raw.gz": bomb[:-20]}, tmp_path / "y.ova")
    with pytest.raises(DamagedError):
        read_disk(cut)
    with pytest.raises(UnsupportedError, match="compressed by 'lz4'"):
        imported(envelope(file='ovf:compression="lz4"'))


@pytest.mark.parametrize("kind", ["ova", "folder"])
@pytest.mark.parametrize("packed", [False, True])
def test_disks_in_pieces(kind: str, packed: bool, disk: Disk, tmp_path: Path) -> None:
    """OVF-READ-5: NAME.000000000 and on; compressed first, then cut."""
    whole = gzipped(disk[0]) if packed else disk[0]
    chunk = len(whole) // 3
    pieces = {
        f"d1.vmdk.{number:09d}": whole[start : start + chunk]
        for number, start in enumerate(range(0, len(whole), chunk))
    }
    stated = f'ovf:chunkSize="{chunk}"' + (' ovf:compression="gzip"' if packed else "")
    files = {"vm.ovf": envelope(file=stated), **pieces}
    files["vm.mf"] = manifest(files)
    path = package(files, tmp_path / "x.ova") if kind == "ova" else folder_of(files, tmp_path / "x")
    assert read_disk(path) == disk[1]
    files.pop("vm.mf")
    files["d1.vmdk.000000001"] = b"short"
    with pytest.raises(DamagedError, match="piece 1 has 5 bytes"):
        read_disk(package(files, tmp_path / "short.ova"))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize(
    "form", ["{A}({n})= {h}\n", "{A} ({n}) = {h}\r\n", "  {A}({n})={h}  \n\n", "{A}({n})= {h}"]
)
def test_manifests(algorithm: str, form: str, disk: Disk, tmp_path: Path) -> None:
    """OVF-MF-1, OVF-MF-2; hostile: 44: what is listed is checked, whatever the line looks like."""
    files = {"vm.ovf": envelope(), "d1.vmdk": disk[0]}
    listed = files if form.endswith("\n") else {"d1.vmdk": disk[0]}
    text = manifest(listed, algorithm, form)
    good = {"vm.ovf": files["vm.ovf"], "vm.mf": text, "d1.vmdk": files["d1.vmdk"]}
    assert read_disk(package(good, tmp_path / "good.ova")) == disk[1]
    assert read_disk(folder_of(good, tmp_path / "good")) == disk[1]
    bad = {**good, "d1.vmdk": disk[0][:-1] + bytes([disk[0][-1] ^ 1])}
    for path in (package(bad, tmp_path / "bad.ova"), folder_of(bad, tmp_path / "bad")):
        with pytest.raises(DamagedError, match="the manifest says") as caught:
            pack([path], tmp_path / "x.vmpack")
        assert caught.value.clause == "OVF-MF-2"
    if form.endswith("\n"):
        changed = {**good, "vm.ovf": good["vm.ovf"] + b" "}
        with pytest.raises(DamagedError, match="the manifest says"):
            read_disk(package(changed, tmp_path / "changed.ova"))


def test_a_manifest_that_lists_what_is_not_there(disk: Disk, tmp_path: Path) -> None:
    """OVF-MF-3; hostile: 44. A file in whose place another is named is not asked for."""
    files = {"vm.ovf": envelope(), "d1.vmdk": disk[0], "gone.txt": b"x"}
    files["vm.mf"] = manifest(files)
    files.pop("gone.txt")
    with pytest.raises(DamagedError, match=r"lists 'gone.txt'") as caught:
        read_disk(package(files, tmp_path / "x.ova"))
    assert caught.value.clause == "OVF-MF-3"
    files["vm.mf"] = manifest({"vm.ovf": files["vm.ovf"], "d1.vmdk": b"other"})
    files.pop("d1.vmdk")
    mine = tmp_path / "mine.vmdk"
    mine.write_bytes(disk[0])
    assert read_disk(package(files, tmp_path / "y.ova"), disks={"d1": mine}) == disk[1]


def test_files_that_no_disk_is_are_checked_too(disk: Disk, tmp_path: Path) -> None:
    """hostile: 44."""
    files = {"vm.ovf": envelope(), "d1.vmdk": disk[0], "readme.txt": b"x"}
    files["vm.mf"] = manifest(files)
    files["readme.txt"] = b"y"
    with pytest.raises(DamagedError, match="the manifest says"):
        read_disk(package(files, tmp_path / "x.ova"))


def test_without_a_manifest_and_with_a_signature(disk: Disk, tmp_path: Path) -> None:
    files = {"vm.ovf": envelope(), "d1.vmdk": disk[0], "vm.cert": b"-----BEGIN"}
    with opened(package(files, tmp_path / "x.ova")) as (config, _):
        assert "who signed" in verdicts(config, "dropped")["vm.cert"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hello", "no digest"),
        ("SHA256(a)= 12", "64 digits"),
        ("SHA256(a)= " + "0" * 64 + "\nSHA256(a)= " + "1" * 64, "two digests"),
        ("MD5(a)= " + "0" * 32, "MD5"),
        ("SHA256()= " + "0" * 64, "no digest"),
    ],
)
def test_manifests_that_are_none(text: str, error: str) -> None:
    """OVF-MF-1; hostile: 44."""
    with pytest.raises((DamagedError, UnsupportedError), match=error):
        parse(text.encode(), path="vm.mf")


def test_manifest_names() -> None:
    """Parentheses in names, OpenSSL 3's word, a byte-order mark; the strongest digest counts."""
    text = "\ufeffSHA2-256(a (1).vmdk)= " + "0" * 64 + "\nSHA1(b)= " + "1" * 40
    text += "\nSHA256(b)= " + "2" * 64 + "\nSHA1(b)= " + "1" * 40
    assert parse(text.encode(), path="x") == {
        "a (1).vmdk": ("sha256", "0" * 64),
        "b": ("sha256", "2" * 64),
    }


def _nested(depth: int) -> bytes:
    return envelope(inside="<a>" * depth + "</a>" * depth)


@pytest.mark.parametrize(
    ("data", "clause"),
    [
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + envelope()[39:], "XML-READ-1"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + envelope()[39:], "XML-READ-1"),
        (
            b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
            + envelope(name="<Name>&b;</Name>")[39:],
            "XML-READ-1",
        ),
        (_nested(100), "XML-READ-2"),
        (envelope(inside="<a/>" * 2_001), "XML-READ-2"),
        (envelope(inside="<a " + " ".join(f'b{n}="1"' for n in range(300)) + "/>"), "XML-READ-2"),
        (envelope()[:-20], "XML-READ-3"),
        (envelope().replace(b"<Name>", b"<Name>&nbsp;"), "XML-READ-3"),
        (b"<Envelope xmlns=", "XML-READ-3"),
        (b"\xff\xfe<\0?\0x\0m\0l\0", "XML-READ-3"),
    ],
)
def test_xml(data: bytes, clause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """hostile: 42: no DOCTYPE, no entity, bounded, nothing is fetched."""
    monkeypatch.setattr(xmlsafe, "MAX_ELEMENTS", 2_000)
    with WATCH.opened() as seen, pytest.raises((UnsafeError, DamagedError)) as caught:
        imported(data)
    assert caught.value.clause == clause
    assert seen == []


def test_xml_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """XML-READ-2; hostile: 7, 42."""
    monkeypatch.setattr(xmlsafe, "MAX_CONFIG", 1000)
    with pytest.raises(UnsafeError, match="at most 1000"):
        imported(envelope())


def test_ids_that_nothing_has() -> None:
    """OVF-READ-3."""
    for old, new in (
        (b"ovf:/disk/d1", b"ovf:/disk/d9"),
        (b"ovf:/disk/d1", b"ovf:/file/f9"),
        (b'ovf:fileRef="f1"', b'ovf:fileRef="f9"'),
    ):
        with pytest.raises(DamagedError, match="does not have") as caught:
            imported(envelope().replace(old, new))
        assert caught.value.clause == "OVF-READ-3"
    with pytest.raises(UnsupportedError, match="changes to 'd0'"):
        imported(envelope(disk='ovf:parentRef="d0"'))
    with pytest.raises(DamagedError, match="size of chunks"):
        imported(envelope(file='ovf:chunkSize="-5"'))


def _mutated(rng: random.Random, words: list[bytes]) -> bytes:
    found = list(words)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(found))
        kind = rng.randrange(4)
        if kind == 0:
            del found[at]
        elif kind == 1:
            found.insert(at, rng.choice(words))
        elif kind == 2:
            found[at] = bytes(rng.choice(b'<>/"=&;0123456789azAZ -') for _ in range(6))
        else:
            other = rng.randrange(len(found))
            found[at], found[other] = found[other], found[at]
    return b"".join(found)


def test_only_our_own_errors(tmp_path: Path) -> None:
    """hostile: 10: envelopes and manifests whose parts are moved, doubled, gone or nonsense."""
    import re

    text = envelope(BASIC + '<vmw:Config vmw:key="firmware" vmw:value="efi"/>', root=NS)
    words = re.findall(rb"[\w.:/-]+|\s+|.", text)
    rng = random.Random(7)
    for _ in range(400):
        data = _mutated(rng, words)
        try:
            found = imported(data)
        except VmpackError:
            continue
        assert found.config.to_json_dict()
    line = manifest({"a": b"x", "b (c)": b"y"})
    for _ in range(300):
        data = _mutated(rng, [line[n : n + 7] for n in range(0, len(line), 7)])
        try:
            parse(data, path="x")
        except VmpackError:
            continue


def test_values_that_no_machine_has() -> None:
    """hostile: 9: dropped with a word, never fatal."""
    many = "".join(
        f"<Item><rasd:InstanceID>{n}</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>"
        f"<rasd:Address>00:50:56:00:00:01</rasd:Address></Item>"
        for n in range(500, 540)
    )
    found = imported(envelope(BASIC.replace("VirtualQuantity>2<", "VirtualQuantity>9999<") + many))
    assert found.config.cpu.sockets is None
    assert len(found.config.nics or ()) == 32
    assert sum(one.mac is not None for one in found.config.nics or ()) == 1
    assert len(verdicts(found, "dropped")) >= 8


def test_a_stranger_cannot_fill_the_config() -> None:
    """hostile: 7: carried fields have a limit, and what is over it is said."""
    extra = "".join(
        f'<vmw:ExtraConfig vmw:key="k{n}" vmw:value="{"v" * 400}"/>' for n in range(5000)
    )
    found = imported(envelope(BASIC + extra))
    carried = found.config.verbatim["ovf"]
    assert sum(len(one.key) + len(one.value) for one in carried) <= 1 << 20
    assert verdicts(found, "dropped")


def test_a_compressed_archive(disk: Disk, tmp_path: Path) -> None:
    """A whole OVA through gzip, as some sites hand them out; hostile: 41."""
    whole = package({"vm.ovf": envelope(), "d1.vmdk": disk[0]}, tmp_path / "x.ova")
    packed = tmp_path / "x.ova.gz"
    packed.write_bytes(gzipped(whole.read_bytes()))
    assert read_disk(packed) == disk[1]
    with pytest.raises(UnsafeError, match="larger than"):
        pack([packed], tmp_path / "y.vmpack", max_size=SIZE // 8)
