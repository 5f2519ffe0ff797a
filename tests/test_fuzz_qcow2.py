"""A small, seeded run of the fuzzer; ``make fuzz`` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.tools import require_tool, run

ROOT = Path(__file__).parent.parent


@pytest.mark.qemu
@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_images_end_in_success_or_vmpacks_own_error(seed: int, tmp_path: Path) -> None:
    # hostile: 10
    # hostile: 7
    require_tool("qemu-img")
    program = [sys.executable, ROOT / "tools/fuzz.py", "--count", "1500", "--seed", str(seed)]
    done = run([*program, "--keep", tmp_path], timeout_s=240)
    assert b" 0 failures" in done.stdout
