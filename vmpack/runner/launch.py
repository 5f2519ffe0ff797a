"""From a bundle to the plan of a run: every descriptor is opened here, and closed after it."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.bundle import Bundle
from vmpack.bundle.manifest import NVRAM, TPM_STATE
from vmpack.errors import PinUnavailableError, UsageError, from_os_error
from vmpack.machine.config import MachineConfig
from vmpack.runner.argv import build_argv
from vmpack.runner.blocks import is_written
from vmpack.runner.console import Console
from vmpack.runner.display import display_words, is_window, vnc_socket
from vmpack.runner.options import Accel, Firmware, Plan, Qemu, RunOptions
from vmpack.runner.process import ChildProcess, plain_user, spawn
from vmpack.runner.scratch import Storage, memory_file, reopen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmpack.runner.qemu import MachineType
    from vmpack.runner.tpm import TpmEmulator

__all__ = ["Files", "Host", "find_blob", "find_host", "plan_of"]

LOW_PORTS = 1024


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
    """QEMU, accelerator and firmware.

    Raises :class:`InfrastructureError` for what is missing, :class:`UsageError` for a display that
    there is not.
    """
    from vmpack.runner.accel import choose
    from vmpack.runner.firmware import resolve_firmware
    from vmpack.runner.qemu import features, find_qemu, require_zstd

    _check_display(config, options)
    qemu = qemu or find_qemu()
    require_zstd(qemu)
    _check_machine(config, options, qemu, features(qemu).machines)
    accel, reason = choose(options.accel, qemu)
    nvram = find_blob(bundle, NVRAM)
    code = bundle.blob(config.firmware.blob) if config.firmware.blob else None
    return Host(qemu, accel, reason, resolve_firmware(config, qemu, nvram, code))


def _check_machine(
    config: MachineConfig, options: RunOptions, qemu: Qemu, machines: Mapping[str, MachineType]
) -> None:
    if config.machine is None:
        return
    version = ".".join(map(str, qemu.version))
    found = machines.get(config.machine)
    if found is None:
        raise PinUnavailableError(
            f"QEMU {version} has no machine type {config.machine}",
            field="machine",
            hint="vmpack doctor BUNDLE says why; a newer or older QEMU may have it",
        )
    if options.cpus is not None and options.cpus > found.max_cpus:
        raise UsageError(
            f"{config.machine} takes at most {found.max_cpus} CPUs in QEMU {version}",
            field="--cpus",
        )


def _check_display(config: MachineConfig, options: RunOptions) -> None:
    display_words(options.display)
    if options.display not in (None, "none") and config.display.model in (None, "none"):
        raise UsageError(
            "the machine has no graphics card, so there is no screen to show",
            field="--display",
            hint="its console is shown in the terminal",
        )


def find_blob(bundle: Bundle, name: str) -> bytes | None:
    """A blob's bytes; ``None`` when the bundle has none of that name."""
    there = any(blob.name == name for blob in bundle.manifest.blobs)
    return bundle.blob(name) if there else None


class Files:
    """The descriptors of one run, by their roles; :meth:`close` releases them all."""

    def __init__(self) -> None:
        self.fdsets: dict[str, int] = {}
        self.inherited: dict[int, int] = {}
        self.sockets: dict[str, int] = {}
        self.ours: dict[str, socket.socket] = {}
        """Our ends of the sockets."""
        self.also: list[int] = []
        """What else QEMU inherits, under the same numbers; somebody else's to close."""
        self.picture = -1
        self._picture_position = -1
        self._theirs: list[socket.socket] = []
        self._stack = ExitStack()

    @property
    def descriptors(self) -> list[int]:
        """What QEMU inherits."""
        return [*self.inherited.values(), *self.sockets.values(), *self.also]

    def add(self, role: str, fd: int, *, owned: bool = True) -> None:
        """Hand ``fd`` over as the only member of an fdset of its own."""
        if owned:
            self._stack.callback(os.close, fd)
        number = len(self.inherited) + 1
        self.inherited[number] = fd
        self.fdsets[role] = number

    def add_bytes(self, role: str, data: bytes) -> None:
        """Hand ``data`` over as a file in memory, read-only."""
        image = memory_file(f"vmpack-{role}", data)
        try:
            self.add(role, reopen(image, os.O_RDONLY))
        finally:
            os.close(image)

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

    def remove_at_end(self, path: str | None) -> None:
        """A socket that QEMU makes: it cannot remove it when it is killed."""

        def remove(path: str) -> None:
            with suppress(OSError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)

        if path is not None:
            self._stack.callback(remove, path)

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
    if options.seed is not None:
        files.add_bytes("seed", options.seed)
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
        if options.deterministic is None:
            files.add_socket("agent")
    if options.deterministic is not None:
        files.also = [options.deterministic.log]
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
        devices=frozenset(number for number, fd in files.inherited.items() if _is_device(fd)),
        durable=storage.durable,
    )


def _is_device(fd: int) -> bool:
    return stat.S_ISBLK(os.fstat(fd).st_mode)


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
        files.add_bytes("code", firmware.code)
    elif firmware.code_path is not None:
        try:
            files.add("code", os.open(firmware.code_path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as exc:
            raise from_os_error(exc, path=firmware.code_path) from exc
    if firmware.vars is not None:
        files.add("nvram", storage.nvram(firmware.vars))


async def start_tpm(
    files: Files, bundle: Bundle, config: MachineConfig, storage: Storage
) -> TpmEmulator | None:
    """The machine's TPM, where it has one, with its state."""
    if config.tpm is None:
        return None
    from vmpack.runner import tpm as emulator

    tpm = await emulator.start_tpm(config.tpm, storage.tpm_state(find_blob(bundle, TPM_STATE)))
    files.sockets["tpm"] = tpm.socket
    return tpm


async def keep_tpm(tpm: TpmEmulator, process: ChildProcess, storage: Storage) -> None:
    """End QEMU, then the TPM, and keep what swtpm writes at its end."""
    process.kill()
    await process.wait()
    state = await tpm.stop()
    if state is not None:
        storage.keep_tpm_state(state)


def start_qemu(plan: Plan, files: Files) -> ChildProcess:
    """QEMU, paused, with its ends of the sockets. See :func:`vmpack.runner.process.spawn`."""
    devices = ["/dev/kvm"] if plan.accel == "kvm" else []
    # A window belongs to the user's own desktop, a socket into their folder, low ports to root.
    own = is_window(plan.options.display) or vnc_socket(plan.options.display) is not None
    own = own or any(port < LOW_PORTS for port, _ in plan.options.forwards)
    user = None if own else plain_user(plan.qemu.prefix, devices=devices)
    process = spawn(build_argv(plan), inherit=files.descriptors, user=user)
    files.remove_at_end(vnc_socket(plan.options.display))
    files.handed_over()
    return process
