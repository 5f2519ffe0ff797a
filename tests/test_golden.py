"""The bytes of every writer for fixed input. A change of them is a decision, never an accident.

``python -m tests.test_golden --write`` records the present ones in ``tests/golden``. Compressed
images depend on the codec library as well: each is recorded under the library's version, and with
a version that nobody has recorded only the content is compared, by reading it back.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import disk_bytes, write_sparse
from tests.support.variants import OWN, Variant, writable
from vmpack.codecs import versions

GOLDEN = Path(__file__).parent / "golden"
DISKS = {"mixed": (3_145_728, 11), "odd": (70_001, 12)}
"""Size in bytes and seed of the disks."""
WIDE = 7_340_544
"""Bytes: several of the batches that workers take."""
EPOCH = "1700000000"
Records = dict[str, Any]
IDS = [one.id for one in OWN]


def codec_version(codec: str) -> str:
    """Library and version that compress for ``codec``."""
    return f"{codec} {versions()[codec]}"


def source(folder: Path, disk: str) -> Path:
    size, seed = DISKS[disk]
    return write_sparse(folder / f"{disk}.raw", disk_bytes(size, seed=seed))


def bytes_of(variant: Variant, disk: Path, folder: Path, **words: object) -> str:
    """SHA-256 over the names and contents of the image's files."""
    folder.mkdir()
    variant.write(disk, folder / f"disk.{variant.format}", **words)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def recorded(format_name: str) -> Records:
    path = GOLDEN / f"{format_name}.json"
    found: Records = json.loads(path.read_text()) if path.exists() else {}
    return found


def expected(variant: Variant, disk: str) -> str | None:
    """What is recorded; ``None`` for a version of a codec that nobody has recorded."""
    found = recorded(variant.format)[variant.name][disk]
    if variant.codec is None:
        return str(found)
    version = codec_version(variant.codec)
    return str(found[version]) if version in found else None


@pytest.fixture(autouse=True)
def no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("variant", OWN, ids=IDS)
def test_bytes_are_the_recorded_ones(variant: Variant, disk: str, tmp_path: Path) -> None:
    found = bytes_of(variant, source(tmp_path, disk), tmp_path / "out")
    want = expected(variant, disk)
    if want is not None:
        assert found == want, "if it is meant to be so: python -m tests.test_golden --write"


@pytest.mark.parametrize("variant", OWN, ids=IDS)
def test_bytes_do_not_depend_on_workers(variant: Variant, tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "wide.raw", disk_bytes(WIDE, seed=13))
    found = {bytes_of(variant, disk, tmp_path / str(n), workers=n, verify=False) for n in (1, 2, 5)}
    assert len(found) == 1


@pytest.mark.parametrize("variant", OWN, ids=IDS)
def test_a_given_time_is_the_only_time(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOURCE_DATE_EPOCH goes where a format keeps a time, and nothing else does."""
    disk = source(tmp_path, "odd")
    without = bytes_of(variant, disk, tmp_path / "without", verify=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    given = {bytes_of(variant, disk, tmp_path / f"given{n}", verify=False) for n in range(2)}
    assert len(given) == 1
    assert (given == {without}) == (variant.format != "vhd")


def test_nothing_is_recorded_of_what_is_not_written() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(writable())
    for name in writable():
        assert set(recorded(name)) == {one.name for one in OWN if one.format == name}


def write() -> None:
    """Record the present bytes beside those of other codec versions."""
    GOLDEN.mkdir(exist_ok=True)
    for name in writable():
        before, now = recorded(name), Records()
        for variant in OWN:
            if variant.format == name:
                now[variant.name] = _record(variant, before.get(variant.name, {}))
        text = json.dumps(now, indent=1, sort_keys=True) + "\n"
        (GOLDEN / f"{name}.json").write_text(text)


def _record(variant: Variant, before: Records) -> Records:
    now = Records()
    for disk in DISKS:
        with tempfile.TemporaryDirectory() as scratch:
            found = bytes_of(variant, source(Path(scratch), disk), Path(scratch) / "out")
        if variant.codec is None:
            now[disk] = found
        else:
            now[disk] = {**before.get(disk, {}), codec_version(variant.codec): found}
    return now


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_golden --write")
    write()
