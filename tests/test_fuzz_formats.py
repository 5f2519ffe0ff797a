"""Mutated images of every format, seeded; ``make fuzz`` is the long run."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from tests.support.fuzz_corpus import READABLE, load
from tests.support.fuzz_patient import Patient
from tests.support.tools import require_tool, run

ROOT = Path(__file__).parent.parent
IMAGES = {"raw": 400, "qcow2": 5000, "vmdk": 7000, "vhd": 3200, "vhdx": 2600, "vdi": 2400}
"""How many of each format; more where there is more to get wrong."""
OTHERS = 400
SEEDS = (1, 2)
"""Two processes, for two processors."""
TIMEOUT_S = 600


def share(name: str) -> int:
    return IMAGES.get(name, OTHERS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tool("qemu-img")
    folder = tmp_path_factory.mktemp("corpus")
    run([sys.executable, ROOT / "tools/fuzz.py", "--save", folder], timeout_s=300)
    return folder


def test_there_are_enough_of_them() -> None:
    assert sum(share(name) for name in READABLE) >= 20_000


@pytest.mark.qemu
@pytest.mark.parametrize("name", READABLE)
def test_mutated_images_end_in_success_or_vmpacks_own_error(
    name: str, corpus: Path, tmp_path: Path
) -> None:
    """hostile: 4, 6, 7, 9, 10, 11.

    In bounded time (5 s of CPU an image), with 200 MiB at most, and no other file opened.
    """
    count = share(name) // len(SEEDS)
    program = [sys.executable, str(ROOT / "tools/fuzz.py"), name, "--count", str(count)]
    program += ["--corpus", str(corpus), "--keep", str(tmp_path)]
    running = [
        subprocess.Popen(
            [*program, "--seed", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in SEEDS
    ]
    try:
        for one in running:
            out, errors = one.communicate(timeout=TIMEOUT_S)
            assert one.returncode == 0, f"{out}{errors}"
            found = re.search(r"(\d+) images, (\d+) refused, .* 0 failures", out)
            assert found is not None, out
            assert int(found[1]) == count
            # Of a format with structures much is damaged by one wrong byte.
            assert name == "raw" or int(found[2]) > count // 10
    finally:
        for one in running:
            one.kill()
            one.communicate()


@pytest.mark.qemu
@pytest.mark.parametrize("name", READABLE)
def test_an_image_is_put_back_as_it_was(name: str, corpus: Path, tmp_path: Path) -> None:
    import random

    from tests.support.fuzz import mutate

    rng = random.Random(7)
    for one in load(corpus, name):
        patient = Patient(one, tmp_path / one.name)
        for _ in range(40):
            mutate(rng, patient)
            patient.write()
            for part, now in zip(one.parts, patient.now, strict=True):
                assert patient.path(part.name).read_bytes() == now
            patient.restore()
            for part, now in zip(one.parts, patient.now, strict=True):
                assert patient.path(part.name).read_bytes() == part.data == now
        patient.close()


def test_the_limits_hold() -> None:
    """What takes too long, or too much memory, is a failure."""
    from tests.support.fuzz import TooSlowError, cpu_limit

    with pytest.raises(TooSlowError), cpu_limit(0.05):
        deque(n for n in itertools.count() if n < 0)
    program = "from tests.support.fuzz import limit_memory; limit_memory(); bytearray(300 << 20)"
    done = run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert b"MemoryError" in done.stderr
