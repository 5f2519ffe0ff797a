"""Archives that exports are written into: what tar and other tools make of them.

Notes: the .ovf is the first member (image-builder#431); tar as ustar, GNU format above 8 GiB, since
PAX headers fail in vSphere (open-vmdk#65).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.disks import random_disk
from tests.support.tools import require_tool, run
from vmpack.errors import OperationError
from vmpack.formats.base import CreateOptions, ImageReader
from vmpack.hypervisors.base import DiskFile, Plan, TextFile, WrittenDisk
from vmpack.hypervisors.report import Report
from vmpack.ops.archive import USTAR_MOST, header, write_gzipped, write_tar
from vmpack.ops.create import require_options, writable
from vmpack.ops.opening import open_image
from vmpack.output import Output

MIB = 1 << 20
LONG = "a" * 60 + "/" + "b" * 90


def plan_of(disks: Mapping[str, str], image: str, *, digests: Sequence[str] = ()) -> Plan:
    """A plan whose first member tells sizes and digests of its disks."""

    def render(written: Mapping[str, WrittenDisk]) -> Sequence[TextFile]:
        lines = [
            f"{one} {found.size:20d} {sorted(found.digests.items()) if digests else ''}\n"
            for one, found in written.items()
        ]
        return [
            TextFile("first.txt", "".join(lines).encode()),
            TextFile("last.sh", b"#!/bin/sh\n", executable=True),
        ]

    return Plan(
        disks=[DiskFile(one, name, image) for one, name in disks.items()],
        render=render,
        report=Report("export", "test"),
        instructions=(),
        container="tar",
        container_name="x.tar",
        order=("first.txt", *disks.values(), "last.sh"),
        digests=digests,
    )


def unwritten(plan: Plan) -> dict[str, WrittenDisk]:
    digests = {name: "0" * hashlib.new(name).digest_size * 2 for name in plan.digests}
    return {one.disk: WrittenDisk(0, digests, (one.name,)) for one in plan.disks}


def readers(folder: Path, disks: Mapping[str, str]) -> dict[str, ImageReader]:
    found = {}
    for number, one in enumerate(disks):
        random_disk(folder / f"{one}.raw", (number + 1) * MIB + 512, seed=number)
        found[one] = open_image(folder / f"{one}.raw")
    return found


def written(folder: Path, plan: Plan, opened: Mapping[str, ImageReader], workers: int = 2) -> bytes:
    target = writable(plan.disks[0].format)
    given = {"subformat": "streamOptimized"} if target.name == "vmdk" else {}
    values = dict(require_options(target, given))
    options = {
        one: CreateOptions(virtual_size=reader.virtual_size, values=values)
        for one, reader in opened.items()
    }
    path = folder / f"{workers}.tar"
    with Output(path, force=True) as out:
        if plan.container == "tar":
            write_tar(out, plan, options, opened, unwritten(plan), workers=workers)
        else:
            write_gzipped(out, plan, options, opened, unwritten(plan), workers=workers)
        out.commit()
    return path.read_bytes()


@pytest.mark.parametrize("image", ["raw", "vmdk"])
def test_members_lie_in_their_order_and_the_first_tells_of_the_others(
    image: str, tmp_path: Path
) -> None:
    disks = {"a": "disk-a.img", "b": "disk-b.img"}
    plan = plan_of(disks, image, digests=("sha256", "sha1"))
    opened = readers(tmp_path, disks)
    data = written(tmp_path, plan, opened)
    assert data == written(tmp_path, plan, opened, workers=1)
    assert len(data) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == list(plan.order)
        found = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
        for one in archive:
            assert one.isreg()
            assert (one.uid, one.gid, one.mtime, one.uname) == (0, 0, 0, "")
            assert one.mode == (0o755 if one.name == "last.sh" else 0o644)
            assert not one.pax_headers
    lines = found["first.txt"].decode().splitlines()
    for line, name in zip(lines, disks.values(), strict=True):
        assert int(line.split()[1]) == len(found[name])
        assert hashlib.sha256(found[name]).hexdigest() in line
        assert hashlib.sha1(found[name]).hexdigest() in line
    run([require_tool("tar"), "-tvf", tmp_path / "2.tar"])


def test_a_gzipped_archive_has_the_same_members(tmp_path: Path) -> None:
    disks = {"a": "box.img"}
    plain = plan_of(disks, "qcow2")
    values = {name: getattr(plain, name) for name in plain.__slots__} | {"container": "tar.gz"}
    plan = Plan(**values)
    opened = readers(tmp_path, disks)
    data = written(tmp_path, plan, opened)
    assert data == written(tmp_path, plan, opened, workers=1)
    assert data[4:8] == bytes(4), "no time of this machine"
    assert not data[3] & 8, "no name of this machine"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        assert archive.getnames() == list(plan.order)
        archive.extract("box.img", tmp_path, filter="data")
    run([require_tool("qemu-img"), "check", "-f", "qcow2", tmp_path / "box.img"])
    words = [require_tool("qemu-img"), "compare", "-f", "raw", "-F", "qcow2"]
    run([*words, tmp_path / "a.raw", tmp_path / "box.img"])
    assert sorted(os.listdir(tmp_path)) == ["1.tar", "2.tar", "a.raw", "box.img"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("disk.vmdk", 0),
        ("disk.vmdk", USTAR_MOST - 1),
        ("disk.vmdk", USTAR_MOST),
        ("disk.vmdk", 1 << 50),
        (LONG, 5),
        ("b" * 101, 5),
        ("é" * 60, 5),
        ("b" * 300, USTAR_MOST),
    ],
)
def test_headers_are_ustar_and_gnus_where_there_is_no_room(name: str, size: int) -> None:
    raw = header(name, size)
    assert len(raw) % 512 == 0
    found = tarfile.TarInfo.fromtarfile(_at_header(raw))
    assert (found.name, found.size) == (name, size)
    # x and g are PAX; L is GNU's long name.
    kinds = {raw[at + 156 : at + 157] for at in (0, len(raw) - 512)}
    assert kinds <= {b"0", b"L"}
    if size < USTAR_MOST and len(name.encode()) <= 100:
        assert raw[257:265] == b"ustar\x0000"
    assert len(header(name, 0)) == len(raw), "room is left before the size is known"


def _at_header(raw: bytes) -> tarfile.TarFile:
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(10240)))
    archive.fileobj = io.BytesIO(raw + bytes(1024))
    archive.offset = 0
    return archive


def test_source_date_epoch_is_the_time_of_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    disks = {"a": "a.img"}
    data = written(tmp_path, plan_of(disks, "raw"), readers(tmp_path, disks))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {one.mtime for one in archive} == {1700000000}


def test_a_format_that_cannot_be_streamed_is_told(tmp_path: Path) -> None:
    disks = {"a": "a.img"}
    with pytest.raises(OperationError, match="cannot be written into an archive"):
        written(tmp_path, plan_of(disks, "qcow2"), readers(tmp_path, disks))
    assert not (tmp_path / "2.tar").exists()
