"""Archives of strangers: what is taken of a tar, and that it is read where it lies."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.hostile import WATCH
from vmpack.containers import tar
from vmpack.errors import DamagedError, UnsafeError, VmpackError
from vmpack.source import ByteSource

DATA = b"0123456789" * 100


def header(name: str = "a.ovf", size: int = len(DATA), **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str = "a.ovf", data: bytes = DATA, **fields: object) -> bytes:
    return header(name, len(data), **fields) + data + bytes(-len(data) % 512)


def resigned(head: bytes) -> bytes:
    """A header with its checksum put right."""
    blank = head[:148] + b" " * 8 + head[156:]
    return head[:148] + b"%06o\0 " % sum(blank) + head[156:]


END = bytes(1024)


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[bytes], dict[str, tuple[int, int]]]:
    path = tmp_path / "x.ova"

    def read(data: bytes) -> dict[str, tuple[int, int]]:
        path.write_bytes(data)
        with ByteSource.open(path) as source:
            return {name: (one.offset, one.size) for name, one in tar.members(source).items()}

    return read


Listed = Callable[[bytes], dict[str, tuple[int, int]]]


@pytest.mark.parametrize(
    "format_of", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_members_are_slices_of_the_file(format_of: int, tmp_path: Path) -> None:
    """TAR-READ-6: nothing is extracted, no other file is opened."""
    path = tmp_path / "x.ova"
    names = ["vm.ovf", "./vm.mf", "disks/one.vmdk", "long-" * 18 + ".vmdk", "sun..vhw-disk1.vmdk"]
    with tarfile.open(path, "w", format=format_of) as archive:
        folder = tarfile.TarInfo("disks")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = DATA * number
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with ByteSource.open(path) as source:
        assert tar.is_tar(source.pread(0, 512))
        with WATCH.opened() as opened:
            found = tar.members(source)
        assert opened == []
        assert list(found) == [name.removeprefix("./") for name in names]
        for number, one in enumerate(found.values()):
            assert source.pread(one.offset, one.size) == DATA * number


@pytest.mark.parametrize(
    "name",
    ["../a", "/etc/passwd", "a/../b", "..", "a//b", "a\\b", "C:x", "./", "x/./y", "a/.."],
)
def test_names_that_lead_elsewhere(name: str, listed: Listed) -> None:
    """TAR-READ-1; hostile: 40."""
    with pytest.raises(UnsafeError, match="lead out") as caught:
        listed(member("good.ovf") + member(name) + END)
    assert caught.value.clause == "TAR-READ-1"
    assert caught.value.offset == 1536


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ],
)
def test_members_that_are_no_files(kind: bytes, listed: Listed) -> None:
    """TAR-READ-2; hostile: 40."""
    if kind == tarfile.CONTTYPE:
        assert list(listed(member(type=kind) + END)) == ["a.ovf"], "a file by an old name"
        return
    with pytest.raises(UnsafeError, match="not a regular file"):
        listed(member(type=kind, linkname="/etc/passwd") + END)


def test_sparse_members(listed: Listed) -> None:
    """TAR-READ-2: their bytes are not where their offsets say."""
    head = bytearray(header(type=tarfile.GNUTYPE_SPARSE))
    head[386:410] = b"00000000000\00000000000010\0"[:24]
    head[483:495] = b"00000001750\0"
    with pytest.raises(UnsafeError, match="not a regular file"):
        listed(resigned(bytes(head)) + DATA + bytes(24) + END)


def test_a_name_twice(listed: Listed) -> None:
    """TAR-READ-4; hostile: 40: the first and the last could be meant."""
    for second in ("a.ovf", "./a.ovf"):
        with pytest.raises(UnsafeError, match="comes twice"):
            listed(member() + member(second) + END)


def test_headers_that_ask_for_much(listed: Listed) -> None:
    """TAR-READ-3; hostile: 7: a long name is a name."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        with pytest.raises(UnsafeError) as caught:
            listed(header("././@LongLink", 1 << 40, type=kind) + DATA)
        assert caught.value.clause == "TAR-READ-3"


def negative() -> bytes:
    head = bytearray(header())
    head[124:136] = b"\xff" * 12
    return resigned(bytes(head))


def test_sizes_that_are_none(listed: Listed) -> None:
    """TAR-READ-5; hostile: 9, 40."""
    pax = b"20 size=-1000000000\n"
    assert len(pax) == 20
    cases = {
        "negative": negative() + DATA + END,
        "past the end": header(size=1 << 40) + DATA,
        "cut": member()[:-600],
        "pax": header("x", len(pax), type=tarfile.XHDTYPE) + pax + bytes(492) + member() + END,
    }
    for name, data in cases.items():
        with pytest.raises((DamagedError, UnsafeError)) as caught:
            listed(data)
        assert caught.value.clause in ("TAR-READ-3", "TAR-READ-5"), name


def test_an_archive_that_breaks_off(listed: Listed) -> None:
    """TAR-READ-5: what tarfile takes for the end is not one."""
    with pytest.raises(DamagedError):
        listed(member() + b"rubbish" * 200)
    with pytest.raises(DamagedError):
        listed(b"rubbish" * 200)
    assert list(listed(member())) == ["a.ovf"], "no end of zeros: some tools write none"


def test_only_our_own_errors(tmp_path: Path) -> None:
    """hostile: 10, 40."""
    good = member("a.ovf") + header("b" * 150) + DATA + bytes(24) + member("c") + END
    path = tmp_path / "x.ova"
    rng = random.Random(5)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.2 else len(data)])
        with ByteSource.open(path) as source, suppress(VmpackError):
            for one in tar.members(source).values():
                source.slice(one.offset, one.size)


def test_many_members(listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    """TAR-READ-4; hostile: 7."""
    monkeypatch.setattr(tar, "MAX_MEMBERS", 3)
    with pytest.raises(UnsafeError, match="more than 3"):
        listed(b"".join(member(f"f{n}", b"") for n in range(5)) + END)
    with pytest.raises(UnsafeError, match="more than 6"):
        listed(b"".join(header(f"d{n}", 0, type=tarfile.DIRTYPE) for n in range(9)) + END)
