"""Fixtures of the whole suite: tools, QEMU's, samples and guests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import guests, tools
from tests.support.disks import random_disk as write_random_disk
from tests.support.qemu import QemuImg, qemu_imgs

# The same examples each time, and no deadline: nothing in the suite depends on time. `make fuzz`
# looks for new ones.
settings.register_profile("suite", deadline=None, derandomize=True)
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5000"))
settings.register_profile("fuzz", deadline=None, max_examples=FUZZ_EXAMPLES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long forms are left to their own targets. Files with real boots come first: begun last, one
    would run on while other workers idle.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    if long and not os.environ.get("VMPACK_LONG"):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``each_qemu_img`` runs once for every qemu-img of this machine."""
    if "each_qemu_img" in metafunc.fixturenames:
        found = qemu_imgs()
        names = [one.name for one in found] or ["none"]
        metafunc.parametrize("each_qemu_img", found or [None], ids=names, indirect=True)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """``require_tool("qemu-img")``: its path; absent, the test is skipped here, fails in CI."""
    return tools.require_tool


@pytest.fixture(scope="session")
def qemu_img() -> QemuImg:
    """The machine's own qemu-img."""
    tools.require_tool("qemu-img")
    return qemu_imgs()[0]


@pytest.fixture
def each_qemu_img(request: pytest.FixtureRequest) -> QemuImg:
    """Each installed qemu-img in turn: this machine's, and those of `make hosts`."""
    tools.require_tool("qemu-img")
    found: QemuImg = request.param
    return found


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of images that other hypervisors wrote; ``VMPACK_SAMPLES`` names it."""
    named = os.environ.get("VMPACK_SAMPLES")
    if not named:
        pytest.skip("VMPACK_SAMPLES names no folder of sample images")
    return Path(named)


@pytest.fixture
def random_disk(tmp_path: Path) -> Callable[..., tuple[Path, bytes]]:
    """``random_disk(size, seed=1, name="disk.raw")``: a raw image with holes, and its bytes."""

    def make(size: int, *, seed: int = 1, name: str = "disk.raw") -> tuple[Path, bytes]:
        path = tmp_path / name
        return path, write_random_disk(path, size, seed=seed)

    return make


@pytest.fixture
def loop_device() -> Iterator[Callable[[Path], str]]:
    """``loop_device(image)``: a block device over the file, until the test ends; needs root."""
    program = tools.require_tool("losetup")
    if os.geteuid():
        tools.missing("the right to make loop devices", "run the tests as root")
    made: list[str] = []

    def attach(image: Path) -> str:
        done = tools.run([program, "--find", "--show", image])
        made.append(done.stdout.decode().strip())
        return made[-1]

    yield attach
    for name in made:
        tools.run([program, "--detach", name])


@pytest.fixture(scope="session")
def guest_bios() -> Path:
    """Disk of the small Linux guest for BIOS, in the cache: read it, copy it, never write it."""
    return guests.small("bios")


@pytest.fixture(scope="session")
def guest_uefi() -> Path:
    """Disk of the small Linux guest for UEFI, in the cache: read it, copy it, never write it."""
    return guests.small("uefi")


@pytest.fixture(scope="session")
def guest_debian() -> Path:
    """Disk of the full Debian guest (4 GiB, sparse), in the cache: read it, never write it."""
    return guests.debian()
