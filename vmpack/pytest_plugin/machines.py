"""Which machine a test gets: booted once for a module, as it was at the end of its boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from vmpack.errors import VmpackError
from vmpack.pytest_plugin.vm import VM

if TYPE_CHECKING:
    from vmpack.runner.options import RunOptions

__all__ = ["Machines", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``@pytest.mark.vmpack`` asks for. Equal ones share a machine."""

    bundle: str | None = None
    """Path, from the test file's folder or from pytest's root folder."""
    memory: str | int | None = None
    """Bytes, or text such as ``512M``."""
    cpus: int | None = None
    accel: Literal["auto", "kvm", "tcg"] | None = None
    forwards: tuple[tuple[int, int], ...] = ()
    """``(port of this host's 127.0.0.1, port of the guest)``."""
    until: str | None = None
    """Where the boot ends: a pattern on the console; absent: what the bundle's config expects."""
    timeout: float | None = None
    """Seconds for the boot."""
    restore: bool = True
    """Undo what the last test did; otherwise tests find the machine as they left it."""

    def options(self, default_accel: Literal["auto", "kvm", "tcg"]) -> RunOptions:
        """For the runner. Raises :class:`UsageError` for a size that is none."""
        from vmpack.runner.options import RunOptions
        from vmpack.units import parse_size

        memory = parse_size(self.memory, name="memory") if isinstance(self.memory, str) else None
        return RunOptions(
            accel=self.accel or default_accel,
            memory=memory or (self.memory if isinstance(self.memory, int) else None),
            cpus=self.cpus,
            forwards=self.forwards,
            timeout_s=self.timeout,
            interactive=True,
        )


class Machines:
    """The machines of one module."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._machines: dict[tuple[Path, Wanted], VM] = {}

    def at_boot(self, item: pytest.Item) -> VM:
        """The machine that ``item`` is marked for, at the end of its boot."""
        wanted = self._wanted(item)
        path = self._path(item, wanted)
        machine = self._machines.get((path, wanted))
        try:
            if machine is None:
                options = wanted.options(self._config.getoption("--vmpack-accel"))
                machine = VM(path, options, until=wanted.until)
                self._machines[path, wanted] = machine
                machine.boot()
                if wanted.restore and _others(item):
                    machine.keep()
            elif wanted.restore or machine.ending is not None:
                machine.restore()
        except VmpackError as exc:
            hint = f"\nhint: {exc.hint}" if exc.hint else ""
            pytest.fail(f"{exc}{hint}", pytrace=False)
        return machine

    def _wanted(self, item: pytest.Item) -> Wanted:
        marker = item.get_closest_marker("vmpack")
        if marker is None:
            return Wanted()
        words = dict(marker.kwargs)
        if "forwards" in words:
            words["forwards"] = tuple((here, there) for here, there in words["forwards"])
        try:
            return Wanted(*marker.args, **words)
        except TypeError as exc:
            said = str(exc).replace("Wanted.__init__()", "it")
            pytest.fail(f"@pytest.mark.vmpack: {said}", pytrace=False)

    def _path(self, item: pytest.Item, wanted: Wanted) -> Path:
        config = self._config
        if wanted.bundle is not None:
            beside = item.path.parent / wanted.bundle
            path = beside if beside.exists() else config.rootpath / wanted.bundle
        elif named := config.getoption("--vmpack-bundle"):
            path = config.invocation_params.dir / named
        elif named := config.getini("vmpack_bundle"):
            path = (config.inipath or config.rootpath / "x").parent / named
        else:
            pytest.fail(
                "no bundle is named\nhint: @pytest.mark.vmpack('app.vmpack'), or pytest "
                "--vmpack-bundle FILE, or vmpack_bundle in the ini file",
                pytrace=False,
            )
        return path.resolve()

    def close(self) -> None:
        """End all of them."""
        for machine in self._machines.values():
            machine.close()
        self._machines.clear()


def _others(item: pytest.Item) -> bool:
    """Whether another test of the module uses ``vm``: otherwise nothing need be restored."""
    module = item.getparent(pytest.Module)
    return any(
        other is not item
        and other.getparent(pytest.Module) is module
        and "vm" in getattr(other, "fixturenames", ())
        for other in item.session.items
    )
