"""The ``vm`` fixture for pytest: tests that talk to a machine booted from a bundle.

Specified in ``specs/pytest-plugin.md``. pytest loads this module at every start, whatever it runs:
nothing else of vmpack is imported before a test asks for ``vm``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vmpack.pytest_plugin.machines import Machines
    from vmpack.pytest_plugin.vm import VM

__all__ = ["vm"]

MARKER = (
    "vmpack(bundle=None, memory=None, cpus=None, accel=None, forwards=(), until=None, "
    "timeout=None, restore=True): the machine that the test's `vm` fixture is"
)
_FOUND = pytest.StashKey["VM"]()
"""On a test's item: the machine that it has, for reports about its failure."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line's options and the ini file's."""
    group = parser.getgroup("vmpack", "machines booted from bundles")
    group.addoption("--vmpack-bundle", metavar="FILE", help="the bundle of tests that name none")
    group.addoption(
        "--vmpack-accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="the accelerator of tests that name none (default: auto)",
    )
    group.addoption(
        "--vmpack-artifacts",
        metavar="DIR",
        help="keep picture and console of failed tests in DIR",
    )
    parser.addini("vmpack_bundle", "the bundle of tests that name none, from the ini file's folder")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture(scope="module")
def _vmpack_machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    from vmpack.pytest_plugin.machines import Machines

    machines = Machines(request.config)
    try:
        yield machines
    finally:
        machines.close()


@pytest.fixture
def vm(request: pytest.FixtureRequest, _vmpack_machines: Machines) -> VM:
    """A machine at the end of its boot, the same for every test of the module.

    ``@pytest.mark.vmpack(BUNDLE)`` says which bundle; see ``specs/pytest-plugin.md``. What a test
    changes is undone before the next one: memory and disks are those of a snapshot.
    """
    machine = _vmpack_machines.at_boot(request.node)
    request.node.stash[_FOUND] = machine
    return machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its machine did last."""
    report = yield
    machine = item.stash.get(_FOUND, None)
    if machine is not None and report.failed and report.when == "call":
        from vmpack.pytest_plugin.failure import sections

        wanted = item.config.getoption("--vmpack-artifacts")
        folder = None if wanted is None else Path(wanted)
        report.sections += sections(machine, item.nodeid, folder)
    return report
