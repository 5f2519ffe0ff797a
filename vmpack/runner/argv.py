"""QEMU's command line: a pure function of the plan, so that a table of cases can test it.

Nothing from a bundle's config reaches it unescaped: machine, CPU and device names are enumerations
(CFG-TYPE-2), devices and block nodes are JSON, SMBIOS strings have their commas doubled
(CFG-TYPE-3), and every file is a descriptor that was opened before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from vmpack.errors import PinUnavailableError
from vmpack.machine import hardware as hw
from vmpack.machine.config import MachineConfig
from vmpack.runner.blocks import CODE, NVRAM, Node, block_nodes
from vmpack.runner.devices import console_port, devices, has_agent, network_backends
from vmpack.runner.display import display_words, is_window
from vmpack.runner.options import Accel, Plan
from vmpack.units import MiB

__all__ = [
    "SANDBOX",
    "accel_words",
    "board_words",
    "build_argv",
    "ends_at_reset",
    "escape",
    "json_words",
    "objects",
]

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny,spawn="
TRANSLATION_CACHE_MIB = 128
"""A Debian guest boots as fast with it as with QEMU's default of 1 GiB."""


def build_argv(plan: Plan) -> list[str]:
    """The words that start QEMU, paused. Raises :class:`PinUnavailableError` for what none has."""
    return [
        *plan.qemu.prefix,
        *(word for folder in plan.qemu.data_dirs for word in ("-L", folder)),
        *("-nodefaults", "-no-user-config", "-S"),
        # The libraries of a window start threads and helpers in ways that are killed otherwise.
        *("-sandbox", SANDBOX + ("allow" if is_window(plan.options.display) else "deny")),
        *_accel(plan),
        *board_words(plan),
        *display_words(plan.options.display),
        # QEMU stays, paused, when the guest is done: its last screen can still be read.
        *("-action", f"reboot={'shutdown' if ends_at_reset(plan.config) else 'reset'}"),
        *("-action", "shutdown=pause,panic=pause,watchdog=reset"),
        *_descriptors(plan),
        *_character_devices(plan),
        *json_words("-object", objects(plan)),
        *json_words("-blockdev", block_nodes(plan)),
        *json_words("-netdev", network_backends(plan)),
        *json_words("-device", devices(plan)),
        *plan.options.qemu_args,
    ]


def accel_words(accel: Accel) -> list[str]:
    """The accelerator's words."""
    if accel == "kvm":
        return ["-accel", "kvm"]
    return ["-accel", f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"]


def _accel(plan: Plan) -> list[str]:
    """The accelerator; in a deterministic run the clock that counts instructions, and the log."""
    exact = plan.options.deterministic
    if exact is None:
        return accel_words(plan.accel)
    # With a fixed shift a replay was seen to stop just before its log's end (7.2, shift=1).
    log = f"shift=auto,rr={exact.mode},rrfile=/dev/fd/{exact.log}"
    cache = f"tcg,thread=single,tb-size={TRANSLATION_CACHE_MIB}"
    return ["-accel", cache, "-icount", log]


def board_words(plan: Plan) -> list[str]:
    """Machine, CPU, memory, clock, firmware strings: all that takes no file and no descriptor.

    Raises :class:`PinUnavailableError` for a config that is not pinned.
    """
    smbios = _smbios(plan.config, uefi=plan.firmware.kind == "uefi")
    return [*_board(plan), *smbios, "-boot", "strict=on"]


def ends_at_reset(config: MachineConfig) -> bool:
    """Whether a reset is how this machine is expected to end; otherwise it may reboot."""
    return config.expected.ending == "reset"


def escape(value: object) -> str:
    """A value inside a comma-separated option: QEMU reads a doubled comma as one."""
    return str(value).replace(",", ",,")


def json_words(option: str, nodes: Iterable[Node]) -> list[str]:
    """``option`` and the JSON of each node."""
    return [word for node in nodes for word in (option, json.dumps(node))]


def _option(kind: str, values: Mapping[str, object]) -> str:
    """``kind,key=value,...`` without the values that are ``None``."""
    pairs = [f"{key}={escape(value)}" for key, value in values.items() if value is not None]
    return ",".join([kind, *pairs])


def _board(plan: Plan) -> Iterator[str]:
    config, options = plan.config, plan.options
    if config.machine is None or config.cpu.model is None:
        raise PinUnavailableError(
            "the config pins no machine type and CPU", hint="pack the machine again"
        )
    if config.memory is None and options.memory is None:
        raise PinUnavailableError("the config pins no memory", hint="say how much: --memory")
    machine: dict[str, object] = {"usb": "off", "dump-guest-core": "off"}
    machine |= {"pflash0": CODE} if "code" in plan.fdsets else {}
    machine |= {"pflash1": NVRAM} if "nvram" in plan.fdsets else {}
    machine |= {"smm": "on"} if plan.firmware.secure_boot else {}
    yield from ("-machine", _option(config.machine, machine))
    yield from ("-cpu", _cpu(config.cpu))
    yield from ("-smp", _topology(config.cpu, options.cpus))
    yield from ("-m", f"{(options.memory or config.memory or 0) // MiB}M")
    if config.uuid is not None:
        yield from ("-uuid", config.uuid)
    yield from ("-rtc", f"base={_clock(config.rtc)},clock=host")
    if plan.firmware.secure_boot:
        # Without it the guest could write the variables past the firmware.
        yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")


def _cpu(cpu: hw.Cpu) -> str:
    # The same CPUID under every accelerator: the model's vendor, no leaves of KVM or TCG; and what
    # the host cannot give is an error (enforce), not a silently smaller CPU.
    values: dict[str, object] = {"vendor": cpu.vendor, "kvm": "off", "tcg-cpuid": "off"}
    values |= {flag[1:]: "on" if flag[0] == "+" else "off" for flag in cpu.flags}
    return _option(cpu.model or "", values) + ",enforce"


def _topology(cpu: hw.Cpu, wanted: int | None) -> str:
    sockets, dies = cpu.sockets or 1, cpu.dies or 1
    cores, threads = cpu.cores or 1, cpu.threads or 1
    if wanted is not None and wanted != sockets * dies * cores * threads:
        sockets, dies, cores, threads = 1, 1, wanted, 1
    count = sockets * dies * cores * threads
    return (
        f"cpus={count},maxcpus={count},sockets={sockets},dies={dies},cores={cores},"
        f"threads={threads}"
    )


def _clock(rtc: hw.Rtc) -> str:
    return rtc.start or rtc.clock or "utc"


def _smbios(config: MachineConfig, *, uefi: bool) -> Iterator[str]:
    smbios = config.smbios
    bios = _strings(smbios.bios)
    if bios:
        yield from ("-smbios", _option("type=0", bios | ({"uefi": "on"} if uefi else {})))
    for number, part in ((1, smbios.system), (2, smbios.baseboard), (3, smbios.chassis)):
        strings = _strings(part)
        if strings:
            yield from ("-smbios", _option(f"type={number}", strings))
    if smbios.oem_strings:
        values = [f"value={escape(text)}" for text in smbios.oem_strings]
        yield from ("-smbios", ",".join(["type=11", *values]))


def _strings(part: hw.Bios | hw.System | hw.Baseboard | hw.Chassis) -> dict[str, object]:
    return dict(part.model_dump(exclude_none=True))


def _descriptors(plan: Plan) -> Iterator[str]:
    for number, fd in plan.inherited.items():
        yield from ("-add-fd", f"fd={fd},set={number}")


def _character_devices(plan: Plan) -> Iterator[str]:
    for name, role in (("console", "console"), ("firmware-log", "firmware-log")):
        backend = f"file,id={name},path=/dev/fdset/{plan.fdsets[role]},append=on"
        yield from ("-chardev", backend)
    console = console_port(plan)
    for one in plan.config.serials or ():
        if one.port != console:
            yield from ("-chardev", f"null,id=serial{one.port}")
    for name, fd in plan.sockets.items():
        yield from ("-chardev", f"socket,id={name},fd={fd}")
    if has_agent(plan) and "agent" not in plan.sockets:
        yield from ("-chardev", "null,id=agent")
    yield from ("-qmp", "chardev:qmp")
    if plan.config.tpm is not None:
        yield from ("-tpmdev", "emulator,id=tpm-backend,chardev=tpm")


def objects(plan: Plan) -> Iterator[Node]:
    """Backends of the host that devices take."""
    if plan.config.rng.model == "virtio-rng":
        # Needs no file of the host, unlike rng-random.
        yield {"qom-type": "rng-builtin", "id": "randomness"}
    if plan.options.deterministic is not None:
        for nic in plan.config.nics or ():
            yield {"qom-type": "filter-replay", "id": f"log-{nic.id}", "netdev": f"net-{nic.id}"}
