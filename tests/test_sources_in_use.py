"""A disk that a running machine writes is not read: what came out would be torn."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.tools import require_tool
from vmpack.errors import UnsafeError
from vmpack.ops.convert import convert
from vmpack.ops.info import info
from vmpack.ops.pack import pack

pytestmark = pytest.mark.qemu


@contextmanager
def _held(path: Path, *flags: str) -> Iterator[None]:
    """A QEMU program that has the image open until the block ends."""
    words = [require_tool("qemu-io"), *flags, "-f", "raw", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # Its prompt and answer say that the image is open.
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        while b"read 512/512" not in process.stdout.readline():
            assert process.poll() is None
        yield
        process.stdin.close()
        process.stdout.read()


def test_a_disk_in_use_is_refused(
    tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    source, _ = random_disk(1 << 20)
    with _held(source):
        with pytest.raises(UnsafeError, match="in use") as caught:
            pack([source], tmp_path / "a.vmpack")
        assert caught.value.hint
        with pytest.raises(UnsafeError, match="in use"):
            convert(source, tmp_path / "a.qcow2")
        # Looking at it does no harm.
        assert info(source).as_dict()["virtual-size"] == 1 << 20
    assert sorted(one.name for one in tmp_path.iterdir()) == [source.name]
    pack([source], tmp_path / "a.vmpack")


def test_a_disk_that_others_only_read_is_taken(
    tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    source, _ = random_disk(1 << 20)
    with _held(source, "-r"):
        pack([source], tmp_path / "a.vmpack")
        convert(source, tmp_path / "a.qcow2")
