"""From a bundle to the plan of a run: every descriptor is opened here, and closed after it."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from vmpack.bundle import Bundle
from vmpack.bundle.manifest import NVRAM
from vmpack.errors import PinUnavailableError, from_os_error
from vmpack.machine.config import MachineConfig
from vmpack.runner.blocks import is_written
from vmpack.runner.console import Console
from vmpack.runner.options import Accel, Firmware, Plan, Qemu, RunOptions
from vmpack.runner.scratch import Storage, memory_file, reopen

__all__ = ["Files", "Host", "find_host", "plan_of"]


@dataclass(frozen=True, slots=True)
class Host:
    """What this host runs a machine with."""

    qemu: Qemu
    accel: Accel
    accel_reason: str
    firmware: Firmware


def find_host(
    bundle: Bundle, config: MachineConfig, options: RunOptions, qemu: Qemu | None
) -> Host:
    """QEMU, accelerator and firmware. Raises :class:`InfrastructureError` for what is missing."""
    from vmpack.runner.accel import choose
    from vmpack.runner.firmware import resolve_firmware
    from vmpack.runner.qemu import find_qemu, require_zstd

    qemu = qemu or find_qemu()
    require_zstd(qemu)
    accel, reason = choose(options.accel, qemu)
    has_nvram = any(blob.name == NVRAM for blob in bundle.manifest.blobs)
    nvram = bundle.blob(NVRAM) if has_nvram else None
    return Host(qemu, accel, reason, resolve_firmware(config, qemu, nvram))


class Files:
    """The descriptors of one run, by their roles; :meth:`close` releases them all."""

    def __init__(self) -> None:
        self.fdsets: dict[str, int] = {}
        self.inherited: dict[int, int] = {}
        self.sockets: dict[str, int] = {}
        self.ours: dict[str, socket.socket] = {}
        """Our ends of the sockets."""
        self.picture = -1
        self._picture_position = -1
        self._theirs: list[socket.socket] = []
        self._stack = ExitStack()

    @property
    def descriptors(self) -> list[int]:
        """What QEMU inherits."""
        return [*self.inherited.values(), *self.sockets.values()]

    def add(self, role: str, fd: int, *, owned: bool = True) -> None:
        """Hand ``fd`` over as the only member of an fdset of its own."""
        if owned:
            self._stack.callback(os.close, fd)
        number = len(self.inherited) + 1
        self.inherited[number] = fd
        self.fdsets[role] = number

    def add_socket(self, name: str) -> None:
        """A socket pair: QEMU inherits one end, the other one is in ``ours``."""
        ours, theirs = socket.socketpair()
        self._stack.callback(ours.close)
        self._stack.callback(theirs.close)
        ours.setblocking(False)
        self.ours[name] = ours
        self.sockets[name] = theirs.fileno()
        self._theirs.append(theirs)

    def add_picture(self) -> None:
        """A file in memory that QEMU writes the screen to."""
        self.picture = memory_file("vmpack-picture")
        self._stack.callback(os.close, self.picture)
        self._picture_position = reopen(self.picture, os.O_WRONLY)
        self.add("picture", self._picture_position)

    def clear_picture(self) -> None:
        """Make room for the next picture: QEMU's descriptor shares its position with ours."""
        os.ftruncate(self.picture, 0)
        os.lseek(self._picture_position, 0, os.SEEK_SET)

    def read_picture(self) -> bytes:
        """What QEMU has written."""
        return os.pread(self.picture, os.fstat(self.picture).st_size, 0)

    def handed_over(self) -> None:
        """QEMU has its ends of the sockets: without ours of them its end can be seen."""
        for end in self._theirs:
            end.close()

    def close(self) -> None:
        """Close everything. Closing twice is harmless."""
        self._stack.close()


def plan_of(
    files: Files,
    bundle: Bundle,
    config: MachineConfig,
    options: RunOptions,
    host: Host,
    storage: Storage,
    consoles: tuple[Console, Console],
) -> Plan:
    """The plan of a run; what it needs is opened into ``files``.

    ``consoles`` are the recorded serial port and the firmware's log. Raises
    :class:`PinUnavailableError` for an agent's channel without its controller.
    """
    _add_disks(files, bundle, config, storage)
    _add_firmware(files, host.firmware, storage)
    console, log = consoles
    files.add("console", console.output_fd, owned=False)
    files.add("typing", console.input_fd, owned=False)
    files.add("firmware-log", log.output_fd, owned=False)
    if config.display.model not in (None, "none"):
        files.add_picture()
    files.add_socket("qmp")
    if config.guest_agent:
        if not any(one.bus == "virtio-serial" for one in config.controllers):
            raise PinUnavailableError(
                "the guest agent's channel has no controller", hint="pack the machine again"
            )
        files.add_socket("agent")
    return Plan(
        config=config,
        options=options,
        accel=host.accel,
        qemu=host.qemu,
        firmware=host.firmware,
        windows={disk.id: (disk.window_offset, disk.window_size) for disk in bundle.disks},
        fdsets=files.fdsets,
        inherited=files.inherited,
        sockets=files.sockets,
        durable=storage.durable,
    )


def _add_disks(files: Files, bundle: Bundle, config: MachineConfig, storage: Storage) -> None:
    entries = {disk.id: disk for disk in bundle.disks}
    # One descriptor for all: it is the one whose header and views were checked.
    files.add("bundle", bundle.source.fd, owned=False)
    for disk in config.disks or ():
        entry = entries.get(disk.id)
        if disk.empty or entry is None:
            continue
        files.fdsets[f"disk:{disk.id}"] = files.fdsets["bundle"]
        if is_written(disk):
            files.add(f"overlay:{disk.id}", storage.overlay(disk.id, entry.virtual_size))


def _add_firmware(files: Files, firmware: Firmware, storage: Storage) -> None:
    if firmware.code is not None:
        image = memory_file("vmpack-firmware", firmware.code)
        try:
            files.add("code", reopen(image, os.O_RDONLY))
        finally:
            os.close(image)
    elif firmware.code_path is not None:
        try:
            files.add("code", os.open(firmware.code_path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as exc:
            raise from_os_error(exc, path=firmware.code_path) from exc
    if firmware.vars is not None:
        files.add("nvram", storage.nvram(firmware.vars))
