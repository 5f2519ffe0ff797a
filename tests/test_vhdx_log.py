"""A dirty log is replayed in memory, as [MS-VHDX] 2.3 has it; or the file is refused."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.support.qemu import QemuImg
from tests.support.tools import run
from tests.support.vhdx import (
    LOG,
    LOG_GUID,
    Made,
    MiB,
    header,
    log_entry,
    open_vhdx,
    patch,
    put_log,
    summed,
)
from vmpack.errors import DamagedError, UnsafeError, UnsupportedError, VmpackError
from vmpack.formats.vhdx.replay import ReplayedSource
from vmpack.ops.check import check
from vmpack.ops.compare import compare
from vmpack.ops.info import info

HEAD = b"\x5a" * (3 * MiB)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Path, Made]]:
    def make(log_length: int = MiB) -> tuple[Path, Made]:
        disk = Made(3 * MiB, blocks={0: (6, HEAD[:MiB])}, log_guid=LOG_GUID, log_length=log_length)
        return disk.write(tmp_path / "disk.vhdx"), disk

    return make


def bat_sector(disk: Made, **blocks: int) -> bytes:
    """The BAT's first 4 KiB: block 0 where it is, others (``b1=host``) at their place."""
    words = [0] * 512
    words[0] = disk.data_at | 6
    for name, host in blocks.items():
        words[int(name[1:])] = host | 6
    return struct.pack("<512Q", *words)


def read(path: Path) -> bytes:
    reader = open_vhdx(path)
    try:
        assert isinstance(reader.source, ReplayedSource)
        return reader.read(0, reader.virtual_size)
    finally:
        reader.close()


def qemu_replays(qemu_img: QemuImg, path: Path) -> Path:
    """A copy whose log qemu-img replayed."""
    copy = path.with_name("by-qemu.vhdx")
    shutil.copy(path, copy)
    done = qemu_img.run("check", "-f", "vhdx", "-r", "all", copy, check=False)
    assert done.returncode == 0, done.stderr
    return copy


@pytest.mark.qemu
def test_updates_of_the_bat_are_seen(
    made: Callable[..., tuple[Path, Made]], qemu_img: QemuImg
) -> None:
    # hostile: 37
    # VHDX-LOG-2, VHDX-LOG-3: a block that only the log puts in place, data only at its old place.
    path, disk = made()
    place = disk.data_at + MiB
    with path.open("r+b") as out:
        out.seek(place)
        out.write(b"\xa5" * MiB)
    entry = log_entry(
        [(disk.bat_at, bat_sector(disk, b1=place))], sequence=5, tail=0, flushed=place + MiB
    )
    put_log(path, 0, entry)
    want = HEAD[:MiB] + b"\xa5" * MiB + bytes(MiB)
    before = path.read_bytes()
    assert read(path) == want
    assert path.read_bytes() == before
    document = info(path).as_dict()
    assert document["dirty-flag"] is True
    assert document["format-specific"]["data"]["log-replayed"] is True  # type: ignore[index]
    assert check(path).exit_code == 0
    assert compare(path, qemu_replays(qemu_img, path)).identical


@pytest.mark.qemu
@pytest.mark.parametrize("start", [0, MiB - 4096, MiB - 3 * 4096, 256 * 1024])
def test_entries_follow_one_another_around_the_end(
    start: int, made: Callable[..., tuple[Path, Made]], qemu_img: QemuImg
) -> None:
    # VHDX-LOG-4: three entries of three sectors, the last one's tail is the first; zero and data
    # descriptors, later ones over earlier ones.
    path, disk = made()
    meta = bytearray(path.read_bytes()[disk.metadata_at : disk.metadata_at + 4096])
    other = b"\x11" * 4096
    entries = [
        log_entry([(disk.data_at, other), (disk.data_at + 8192, other)], sequence=7, tail=start),
        log_entry([(disk.data_at, 16384), (disk.metadata_at, bytes(meta))], sequence=8, tail=start),
        log_entry([(disk.data_at + 4096, b"\x22" * 4096)], sequence=9, tail=start),
    ]
    put_log(path, start, *entries)
    want = bytes(4096) + b"\x22" * 4096 + bytes(8192) + HEAD[16384:MiB] + bytes(2 * MiB)
    assert read(path) == want
    assert compare(path, qemu_replays(qemu_img, path)).identical


def test_a_torn_head_is_left_out(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-3: the entry that was being written when the power went is not part of the sequence.
    path, disk = made()
    first = log_entry([(disk.data_at, b"\x11" * 4096)], sequence=1, tail=0)
    torn = log_entry([(disk.data_at, b"\x22" * 4096)], sequence=2, tail=0)
    put_log(path, 0, first, torn[:-4096] + bytes(4096))
    assert read(path)[:4096] == b"\x11" * 4096


def test_what_makes_an_entry_not_valid(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-3: each change alone, its checksum made right again.
    path, disk = made()
    good = log_entry([(disk.data_at, b"\x22" * 4096), (0x30000, 0)], sequence=2, tail=0)
    changes = {
        "signature": (0, b"logx"),
        "checksum": (4, b"\1\2\3\4"),
        "length": (8, struct.pack("<I", 4096)),
        "odd length": (8, struct.pack("<I", 8193)),
        "long": (8, struct.pack("<I", 2 * MiB)),
        "tail": (12, struct.pack("<I", 512)),
        "far tail": (12, struct.pack("<I", MiB)),
        "sequence": (16, struct.pack("<Q", 3)),
        "no sequence": (16, bytes(8)),
        "count": (24, struct.pack("<I", 3)),
        "many": (24, struct.pack("<I", 1 << 31)),
        "reserved": (28, b"\1"),
        "guid": (32, UUID(int=9).bytes_le),
        "descriptor": (64, b"dxsc"),
        "descriptor's place": (64 + 16, struct.pack("<Q", disk.data_at + 512)),
        "descriptor's sequence": (64 + 24, struct.pack("<Q", 1)),
        "zero's length": (96 + 8, struct.pack("<Q", 513)),
        "zero's sequence": (96 + 24, struct.pack("<Q", 9)),
        "data signature": (4096, b"datx"),
        "data's high": (4100, b"\1"),
        "data's low": (8188, b"\1"),
    }
    old = log_entry([(disk.data_at, b"\x11" * 4096)], sequence=1, tail=65536)
    put_log(path, 65536, old)
    put_log(path, 0, good)
    assert read(path)[:4096] == b"\x22" * 4096
    for name, (at, raw) in changes.items():
        changed = good[:at] + raw + good[at + len(raw) :]
        put_log(path, 0, changed if name == "checksum" else summed(changed))
        assert read(path)[:4096] == b"\x11" * 4096, name


def test_the_newest_of_two_sequences(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-4
    path, disk = made()
    put_log(path, 8 * 4096, log_entry([(disk.data_at, b"\x33" * 4096)], sequence=40, tail=8 * 4096))
    put_log(path, 0, log_entry([(disk.data_at, b"\x22" * 4096)], sequence=30, tail=0))
    assert read(path)[:4096] == b"\x33" * 4096
    # A newer one whose tail was overwritten is not whole.
    put_log(path, 64 * 4096, log_entry([(disk.data_at, 4096)], sequence=50, tail=60 * 4096))
    assert read(path)[:4096] == b"\x33" * 4096
    # Entries before the tail are written already, and stay out.
    put_log(path, 100 * 4096, log_entry([(disk.data_at, 4096)], sequence=60, tail=100 * 4096))
    tail = 101 * 4096
    put_log(path, tail, log_entry([(disk.data_at + 4096, 4096)], sequence=61, tail=tail))
    assert read(path)[:8192] == HEAD[:4096] + bytes(4096)


def test_a_log_without_a_valid_sequence(made: Callable[..., tuple[Path, Made]]) -> None:
    # hostile: 37
    # VHDX-LOG-5: refused, by info and check too: what is in the file may be anything.
    path, disk = made()
    with pytest.raises(DamagedError, match="no valid sequence") as caught:
        open_vhdx(path)
    assert caught.value.clause == "VHDX-LOG-5"
    put_log(path, 0, log_entry([(disk.data_at, 4096)], sequence=1, tail=0, guid=UUID(int=5)))
    with pytest.raises(DamagedError, match="no valid sequence"):
        info(path)
    assert check(path).exit_code == 2
    # The same entry is nothing to replay where the header says that the log is empty.
    for at in (0x10000, 0x20000):
        patch(path, at + 48, bytes(16))
    reader = open_vhdx(path)
    assert reader.read(0, 4096) == HEAD[:4096]
    reader.close()


def test_an_entry_without_updates(made: Callable[..., tuple[Path, Made]]) -> None:
    path, _ = made()
    put_log(path, 0, log_entry([], sequence=1, tail=0))
    assert read(path)[:MiB] == HEAD[:MiB]


def test_a_file_shorter_than_its_log_says(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-6
    path, disk = made()
    put_log(path, 0, log_entry([], sequence=1, tail=0, flushed=disk.data_at + 2 * MiB))
    with pytest.raises(DamagedError) as caught:
        open_vhdx(path)
    assert caught.value.clause == "VHDX-LOG-6"


def test_the_file_grows_to_what_the_log_says(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-6: a block past the file's end that the replay would have made.
    path, disk = made()
    place = disk.data_at + MiB
    bat = bat_sector(disk, b2=place)
    put_log(path, 0, log_entry([(disk.bat_at, bat)], sequence=1, tail=0, last=place + MiB))
    assert read(path) == HEAD[:MiB] + bytes(2 * MiB)
    reader = open_vhdx(path)
    runs = [run for run in reader.map_runs(0, 3 * MiB) if run.data]
    assert [(run.offset, run.host) for run in runs] == [(0, disk.data_at), (2 * MiB, None)]
    reader.close()
    put_log(path, 0, log_entry([(disk.bat_at, bat)], sequence=1, tail=0, last=place))
    with pytest.raises(DamagedError) as caught:
        read(path)
    assert caught.value.clause == "VHDX-BAT-3"


@pytest.mark.parametrize("where", [0, 0x10000, 0x20000, LOG, LOG + MiB - 4096, 1 << 63])
def test_updates_of_headers_and_log_are_refused(
    where: int, made: Callable[..., tuple[Path, Made]]
) -> None:
    # VHDX-LOG-7
    path, _ = made()
    put_log(path, 0, log_entry([(where, 4096)], sequence=1, tail=0))
    with pytest.raises(DamagedError) as caught:
        open_vhdx(path)
    assert caught.value.clause == "VHDX-LOG-7"


def test_limits(made: Callable[..., tuple[Path, Made]], tmp_path: Path) -> None:
    # hostile: 7
    # VHDX-LOG-1, VHDX-LOG-8
    path, _ = made()
    for at in (0x10000, 0x20000):
        patch(path, at + 64, b"\1")
    with pytest.raises(UnsupportedError, match="log version 1"):
        open_vhdx(path)
    # A header that says the same of an empty log is read.
    for at in (0x10000, 0x20000):
        patch(path, at + 48, bytes(16))
    open_vhdx(path).close()
    large = Made(MiB, log_guid=LOG_GUID, log_length=257 * MiB).write(tmp_path / "large.vhdx")
    with pytest.raises(UnsupportedError, match="a log of"):
        open_vhdx(large)


def test_entries_that_claim_the_same_bytes(made: Callable[..., tuple[Path, Made]]) -> None:
    # hostile: 7
    # VHDX-LOG-8: each sector an entry of the whole log: 256 times a MiB to sum up.
    path, _ = made()
    head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, MiB, 0, 1, 0, 0, LOG_GUID.bytes_le, 0, 0)
    put_log(path, 0, *[head.ljust(4096, b"\0")] * 256)
    with pytest.raises(UnsafeError) as caught:
        open_vhdx(path)
    assert caught.value.clause == "VHDX-LOG-8"


def test_random_updates_against_a_model(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-LOG-2: whatever the order and overlap, and reads of any alignment.
    rng = Random(37)
    path, disk = made(4 * MiB)
    want = bytearray(HEAD[:MiB])
    entries = []
    for sequence in range(1, 41):
        updates: list[tuple[int, int] | tuple[int, bytes]] = []
        for _ in range(rng.randrange(6)):
            sector = rng.randrange(256)
            if rng.random() < 0.4:
                length = min(rng.randrange(20), 256 - sector) * 4096
                updates.append((disk.data_at + sector * 4096, length))
                want[sector * 4096 : sector * 4096 + length] = bytes(length)
            else:
                raw = rng.randbytes(4096)
                updates.append((disk.data_at + sector * 4096, raw))
                want[sector * 4096 : (sector + 1) * 4096] = raw
        entries.append(log_entry(updates, sequence=sequence, tail=MiB, padding=rng.randrange(3)))
    put_log(path, MiB, *entries, log_length=4 * MiB)
    reader = open_vhdx(path)
    assert reader.read(0, MiB) == want
    for _ in range(200):
        low, high = sorted((rng.randrange(MiB + 1), rng.randrange(MiB + 1)))
        assert reader.read(low, high - low) == want[low:high]
    reader.close()


@pytest.mark.qemu
def test_the_sample(samples: Path, tmp_path: Path, qemu_img: QemuImg) -> None:
    # hostile: 37
    # What qemu-img refuses to read without writing to it.
    path = tmp_path / "dirty.vhdx"
    with path.open("wb") as out:
        raw = run(["xz", "-dc", samples / "hyperv-dirty-log-10g.vhdx.xz"]).stdout
        for at in range(0, len(raw), MiB):
            if any(raw[at : at + MiB]):
                out.seek(at)
                out.write(raw[at : at + MiB])
        out.truncate(len(raw))
    done = qemu_img.run("info", "-f", "vhdx", path, check=False)
    assert done.returncode
    assert b"log that needs to be replayed" in done.stderr
    assert info(path).as_dict()["virtual-size"] == 10 << 30
    assert compare(path, qemu_replays(qemu_img, path)).identical


def test_mutated_logs(made: Callable[..., tuple[Path, Made]]) -> None:
    # hostile: 10
    # Whatever a byte of the log says: the old state, the new one, or an error.
    rng = Random(10)
    path, disk = made()
    raw = log_entry(
        [(disk.data_at, b"\x22" * 4096), (disk.bat_at + 8192, 4096)], sequence=3, tail=0
    )
    for _ in range(200):
        changed = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2))):
            changed[rng.randrange(8, 128)] = rng.choice(
                (0, 1, 0x10, 0x7F, 0xFF, rng.randrange(256))
            )
        put_log(path, 0, summed(bytes(changed)) if rng.random() < 0.9 else bytes(changed))
        try:
            data = read(path)
        except VmpackError:
            continue
        assert len(data) == 3 * MiB


def test_headers_of_two_versions(made: Callable[..., tuple[Path, Made]]) -> None:
    # VHDX-HDR-2: the log's guid is the current header's.
    path, disk = made()
    put_log(path, 0, log_entry([(disk.data_at, 4096)], sequence=1, tail=0))
    patch(path, 0x20000, header(1, log_guid=UUID(int=0)))
    reader = open_vhdx(path)
    assert reader.read(0, 16) == HEAD[:16]
    reader.close()
