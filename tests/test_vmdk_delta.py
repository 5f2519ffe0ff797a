"""Delta links: snapshots over their parents, which are opened only if the caller allows it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.disks import disk_bytes, random_disk, write_sparse
from tests.support.hostile import WATCH
from tests.support.qemu import QemuImg
from tests.support.tools import require_tool, run
from tests.support.vmdk import (
    contents,
    cowd,
    facts_of_qemu,
    open_vmdk,
    read_like,
    sesparse,
    sparse,
    text,
    to_vmdk,
)
from vmpack.errors import DamagedError, UnsafeError
from vmpack.ops.check import check
from vmpack.ops.info import describe, info

DATA = random.Random(5).randbytes(65536)
GRAIN = 4096
MiB = 1 << 20


def make_chain(qemu_img: QemuImg, folder: Path) -> tuple[Path, Path]:
    raw = folder / "disk.raw"
    random_disk(raw, 2 * MiB, seed=13)
    base = to_vmdk(qemu_img, raw, "subformat=monolithicSparse", "base.vmdk")
    top = folder / "base-000001.vmdk"
    qemu_img.run("create", "-f", "vmdk", "-b", base, "-F", "vmdk", top)
    text_of_top = top.read_bytes().replace(os.fsencode(folder) + b"/", b"")
    top.write_bytes(text_of_top[: 21 * 512].ljust(21 * 512, b"\0") + top.read_bytes()[21 * 512 :])
    return base, top


@pytest.mark.qemu
def test_info_of_an_overlay_is_qemu_imgs(tmp_path: Path, each_qemu_img: QemuImg) -> None:
    base, top = make_chain(each_qemu_img, tmp_path)
    theirs = facts_of_qemu(each_qemu_img, top)
    reader = open_vmdk(top, allow_backing=True)
    ours = describe(reader)
    reader.close()
    del ours["actual-size"]
    assert ours == theirs
    assert ours["backing-filename"] == base.name


def deltas(folder: Path) -> tuple[Path, bytes]:
    """A base, a copy-on-write snapshot of it, and a seSparse one on top."""
    size = 600_064
    base = disk_bytes(size, seed=31, block=512)
    first, second = disk_bytes(size, seed=32, block=512), disk_bytes(size, seed=33, block=4096)
    write_sparse(folder / "vm-flat.vmdk", base)
    line = f'RW {size // 512} VMFS "vm-flat.vmdk"'
    (folder / "vm.vmdk").write_bytes(text("vmfs", [line], cid="aaaaaaaa"))
    kept = {n for n in range(size // 512) if n % 3}
    cowd(first, holes=kept).save(folder / "vm-000002-delta.vmdk")
    line = f'RW {size // 512} VMFSSPARSE "vm-000002-delta.vmdk"'
    (folder / "vm-000002.vmdk").write_bytes(
        text("vmfsSparse", [line], cid="bbbbbbbb", parent="aaaaaaaa", hint="vm.vmdk")
    )
    states = {n: 0 if n % 2 else 2 if n % 5 == 0 else 3 for n in range(-(-size // 4096))}
    sesparse(second, states).save(folder / "vm-000001-sesparse.vmdk")
    line = f'RW {size // 512} SESPARSE "vm-000001-sesparse.vmdk"'
    (folder / "vm-000001.vmdk").write_bytes(
        text("seSparse", [line], parent="BBBBBBBB", hint="/vmfs/volumes/x/vm/vm-000002.vmdk")
    )
    middle = bytearray(base)
    for number in range(size // 512):
        piece = first[number * 512 : (number + 1) * 512]
        if number % 3 == 0 and any(piece):
            middle[number * 512 : (number + 1) * 512] = piece
    want = bytearray(middle)
    for number, state in states.items():
        low, high = number * 4096, min(size, (number + 1) * 4096)
        if state:
            want[low:high] = second[low:high] if state == 3 else bytes(high - low)
    return folder / "vm-000001.vmdk", bytes(want)


def test_snapshot_chain_is_flattened_in_the_descriptors_order(tmp_path: Path) -> None:
    """The names are in another order than the chain, as VMware leaves them after a revert."""
    # VMDK-REF-1, VMDK-REF-6
    top, want = deltas(tmp_path)
    read_like(open_vmdk(top, allow_backing=True), want)
    named = (str(tmp_path / "vm-000002.vmdk"), str(tmp_path / "vm.vmdk"))
    read_like(open_vmdk(top, parents=named), want)
    reader = open_vmdk(top, allow_backing=True)
    depths = {run.depth for run in reader.map_runs(0, reader.virtual_size)}
    assert depths == {0, 1, 2}
    reader.close()
    chain = info(top, format="vmdk", allow_backing=True).as_dict()["chain"]
    assert isinstance(chain, list)
    assert [os.path.basename(one["filename"]) for one in chain] == ["vm-000002.vmdk", "vm.vmdk"]


@pytest.mark.qemu
def test_snapshot_chain_is_qemus(tmp_path: Path, qemu_img: QemuImg) -> None:
    top, want = deltas(tmp_path)
    data = top.read_bytes()
    top.write_bytes(data.replace(b"/vmfs/volumes/x/vm/", b""))
    raw = write_sparse(tmp_path / "want.raw", want)
    qemu_img.assert_identical(raw, top, fmt_a="raw", fmt_b="vmdk")
    assert contents(top, allow_backing=True) == want


@pytest.mark.qemu
def test_overlay_of_qemu_img(tmp_path: Path, qemu_img: QemuImg) -> None:
    base, top = make_chain(qemu_img, tmp_path)
    program = require_tool("qemu-io")
    run([program, "-f", "vmdk", "-c", "write -P 9 100k 300k", top])
    want = bytearray(contents(base))
    want[102_400 : 102_400 + 307_200] = b"\x09" * 307_200
    read_like(open_vmdk(top, allow_backing=True), bytes(want))


def test_parent_of_a_split_disk(tmp_path: Path) -> None:
    """Each extent of the child sees the parent at its own place on the disk."""
    # VMDK-REF-7
    data = disk_bytes(4 * 65536, seed=41, block=512)
    other = disk_bytes(4 * 65536, seed=42)
    write_sparse(tmp_path / "base-flat.vmdk", data[: 3 * 65536])
    (tmp_path / "base.vmdk").write_bytes(
        text("monolithicFlat", ['RW 384 FLAT "base-flat.vmdk" 0'], cid="1")
    )
    for number in range(2):
        part = other[number * 131_072 : (number + 1) * 131_072]
        holes = {n for n in range(32) if n % 2}
        image = sparse(part, descriptor=b"", holes=holes)
        image.save(tmp_path / f"top-s00{number + 1}.vmdk")
    lines = [f'RW 256 SPARSE "top-s00{number}.vmdk"' for number in (1, 2)]
    top = tmp_path / "top.vmdk"
    top.write_bytes(text("twoGbMaxExtentSparse", lines, parent="00000001", hint="base.vmdk"))
    want = bytearray(data[: 3 * 65536] + bytes(65536))
    for at in range(0, len(other), 8192):
        if any(other[at : at + 4096]):
            want[at : at + 4096] = other[at : at + 4096]
    read_like(open_vmdk(top, allow_backing=True), bytes(want))


def child(folder: Path, hint: str | None, parent: str = "00000001") -> Path:
    own = text("monolithicSparse", ['RW 128 SPARSE "x"'], parent=parent, hint=hint)
    return sparse(DATA, descriptor=own, holes={3}).save(folder / "child.vmdk")


def base(folder: Path, cid: str = "1") -> Path:
    own = text("monolithicSparse", ['RW 128 SPARSE "x"'], cid=cid)
    return sparse(DATA[::-1], descriptor=own).save(folder / "base.vmdk")


def test_parents_are_opened_only_if_allowed(tmp_path: Path) -> None:
    # hostile: 26
    # hostile: 4
    # VMDK-REF-1
    base(tmp_path)
    path = child(tmp_path, "base.vmdk")
    with WATCH.opened() as opened:
        with pytest.raises(UnsafeError, match=r"needs its parent 'base\.vmdk'") as caught:
            contents(path)
        found = info(path).as_dict()
        assert check(path, format="vmdk").exit_code == 0
    assert caught.value.clause == "VMDK-REF-1"
    assert set(opened) == {str(path)}
    assert found["backing-filename"] == "base.vmdk"
    reader = open_vmdk(path, metadata_only=True)
    with pytest.raises(UnsafeError, match="needs its parent"):
        reader.read(0, 512)
    reader.close()
    want = DATA[: 3 * GRAIN] + DATA[::-1][3 * GRAIN : 4 * GRAIN] + DATA[4 * GRAIN :]
    assert contents(path, allow_backing=True) == want
    assert contents(path, parents=(str(tmp_path / "base.vmdk"),)) == want


@pytest.mark.parametrize(
    "hint", ["/etc/passwd", "../base.vmdk", "nbd:localhost:1", "json:{}", "C:\\vm\\link.vmdk", ".."]
)
def test_parents_lie_in_the_images_folder(hint: str, tmp_path: Path) -> None:
    # hostile: 26
    # hostile: 5
    # VMDK-REF-2, VMDK-REF-3
    folder = tmp_path / "vm"
    folder.mkdir()
    base(tmp_path)
    (folder / "link.vmdk").symlink_to(tmp_path / "base.vmdk")
    path = child(folder, hint)
    with WATCH.opened() as opened, pytest.raises(UnsafeError) as caught:
        contents(path, allow_backing=True)
    assert caught.value.clause == "VMDK-REF-3"
    assert set(opened) == {str(path)}


def test_parent_is_a_vmdk_and_the_right_one(tmp_path: Path) -> None:
    # hostile: 26
    # VMDK-REF-4, VMDK-REF-5, VMDK-REF-6
    path = child(tmp_path, "base.vmdk")
    (tmp_path / "base.vmdk").write_bytes(DATA)
    with pytest.raises(DamagedError, match="does not begin with"):
        contents(path, allow_backing=True)
    base(tmp_path, cid="2")
    with pytest.raises(UnsafeError, match=r"the CID 00000001; .* has 00000002") as caught:
        contents(path, allow_backing=True)
    assert caught.value.clause == "VMDK-REF-6"
    assert "--parent" in str(caught.value.hint)
    sesparse(DATA).save(tmp_path / "base.vmdk")
    with pytest.raises(UnsafeError, match="has none"):
        contents(path, allow_backing=True)
    with pytest.raises(UnsafeError, match=r"its parent '\(no name\)'"):
        contents(child(tmp_path, None), allow_backing=True)
    with pytest.raises(DamagedError, match="comes back"):
        contents(child(tmp_path, "child.vmdk"), allow_backing=True)
