"""The suite's own helpers: what they promise to the tests that lean on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.disks import disk_bytes
from tests.support.qemu import QemuImg, image, window


@pytest.mark.parametrize("size", [0, 1, 511, 4097, 300_001])
def test_random_disk_is_seeded_sparse_and_exact(
    random_disk: Callable[..., tuple[Path, bytes]], size: int
) -> None:
    path, data = random_disk(size, seed=5)
    assert path.read_bytes() == data == disk_bytes(size, seed=5)
    assert len(data) == size
    if size > 100_000:
        assert os.stat(path).st_blocks * 512 < size
        assert data != disk_bytes(size, seed=6)


def test_missing_tool_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make setup"):
        tools.require_tool("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make setup"):
        tools.require_tool("no-such-program")


def test_window_reads_a_disk_inside_a_larger_file(
    each_qemu_img: QemuImg, tmp_path: Path, random_disk: Callable[..., tuple[Path, bytes]]
) -> None:
    raw, _ = random_disk(1 << 20)
    packed = tmp_path / "disk.qcow2"
    each_qemu_img.run("convert", "-f", "raw", "-O", "qcow2", raw, packed)
    inner = packed.read_bytes()
    outer = tmp_path / "outer.bin"
    outer.write_bytes(disk_bytes(65536, seed=2) + inner + disk_bytes(4096, seed=3))
    node = window(outer, 65536, len(inner))
    each_qemu_img.assert_clean(node)
    each_qemu_img.assert_identical(node, image(raw, "raw"))
    with pytest.raises(AssertionError):
        each_qemu_img.assert_identical(window(outer, 65536 + 512, len(inner)), image(raw, "raw"))
