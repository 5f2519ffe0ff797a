"""Finds the QEMU of this host and asks it what it has: machine types, CPU models, zstd, KVM.

The answers come from QEMU itself over QMP (a machine ``none``, 100 ms), never from its version
number, and are cached until the program changes. Source: QEMU's QAPI schema, query-machines,
query-cpu-definitions, query-kvm, query-qmp-schema.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vmpack.binary import escape
from vmpack.errors import QemuDiedError, QemuMissingError, ZstdMissingError
from vmpack.runner import cache
from vmpack.runner.options import Qemu
from vmpack.runner.parent import die_with_parent

__all__ = [
    "PROGRAM",
    "VARIABLE",
    "Features",
    "MachineType",
    "cpu_features",
    "cpu_models",
    "features",
    "find_qemu",
    "foreign_root",
    "identity",
    "missing_devices",
    "require_zstd",
]

PROGRAM = "qemu-system-x86_64"
VARIABLE = "VMPACK_QEMU"
"""Environment variable that names another QEMU than the first one in PATH: a program, or several
words of a shell that start one, such as another root's loader and its options before it."""
OTHER_PLACES = ("/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm")
"""Red Hat's distributions keep it here."""
INSTALL = (
    "install it (Debian, Ubuntu: qemu-system-x86; Fedora: qemu-system-x86-core; RHEL: qemu-kvm; "
    f"Arch: qemu-base), or name one with {VARIABLE}=/path/to/{PROGRAM}"
)
ANSWER_S = 60
"""A QEMU that takes longer to say what it has is not going to run a guest."""
_MAX_REPLY = 16 << 20
_CACHE = "qemu.json"
_CACHED_QEMUS = 16


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type that a QEMU has."""

    deprecated: bool
    max_cpus: int


@dataclass(frozen=True, slots=True)
class Features:
    """What one QEMU has, whatever the host's own hardware."""

    version: tuple[int, ...]
    package: str
    """How the distribution calls it; may be empty."""
    machines: Mapping[str, MachineType]
    cpu_models: Mapping[str, tuple[str, ...]]
    """Model -> CPU features of it that TCG lacks; :func:`cpu_models` tells for KVM."""
    zstd: bool
    """Reads qcow2 clusters that zstd compressed, as a bundle's are."""
    kvm: bool
    """KVM is compiled in; whether this host's works is for :mod:`vmpack.runner.accel`."""
    tcg: bool


def find_qemu(prefix: Sequence[str] | None = None) -> Qemu:
    """The QEMU of this host, or the one that ``prefix`` starts.

    ``prefix`` may run a QEMU of another root through that root's own loader; its firmware, option
    ROMs and modules are then taken from there. Raises :class:`QemuMissingError` when there is
    none, :class:`QemuDiedError` when it does not answer.
    """
    words = tuple(prefix) if prefix is not None else _find_program()
    root = foreign_root(words)
    folders: tuple[str, ...] = ()
    if root is not None:
        modules = sorted(root.glob("usr/lib/*/qemu")) or sorted(root.glob("usr/lib*/qemu"))
        if modules and words[0] != "env":
            words = ("env", f"QEMU_MODULE_DIR={modules[0]}", *words)
        places = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
        folders = tuple(str(root / place) for place in places if (root / place).is_dir())
    found = Qemu(prefix=words, version=(), data_dirs=folders)
    return Qemu(prefix=words, version=features(found).version, data_dirs=folders)


def _find_program() -> tuple[str, ...]:
    named = os.environ.get(VARIABLE)
    if named:
        return _named(named)
    found = shutil.which(PROGRAM)
    for path in OTHER_PLACES:
        found = found or shutil.which(path)
    if found is None:
        raise QemuMissingError(f"{PROGRAM} is not installed", hint=INSTALL)
    return (os.path.abspath(found),)


def _named(text: str) -> tuple[str, ...]:
    """The words that ``VARIABLE`` stands for: one program, whose name may hold spaces, or more."""
    candidates = [[text]]
    with contextlib.suppress(ValueError):
        candidates.append(shlex.split(text))
    for words in candidates:
        found = shutil.which(words[0]) if words else None
        if found is not None:
            return (os.path.abspath(found), *words[1:])
    raise QemuMissingError(
        f"{VARIABLE} names {escape(text)}, which is no program here",
        hint=f"name a {PROGRAM} with it, or unset it to take the one in PATH",
    )


def foreign_root(prefix: Sequence[str]) -> Path | None:
    """The root of another system that the program belongs to; ``None`` for this system's own."""
    program = Path(prefix[-1])
    if not program.is_absolute() or program.parent.name != "bin":
        return None
    base = program.parent.parent
    # /usr is this system's; /opt/qemu and /usr/local have their data relative to the program,
    # and QEMU finds it there by itself.
    if base.name != "usr" or base.parent == Path("/"):
        return None
    return base.parent


def identity(qemu: Qemu) -> str:
    """A text that changes when another program stands in this QEMU's place."""
    program = qemu.prefix[-1]
    try:
        facts = os.stat(program)
    except OSError as exc:
        raise QemuMissingError(
            f"{escape(program)}: {(exc.strerror or str(exc)).lower()}", hint=INSTALL
        ) from exc
    real = os.path.realpath(program)
    key = f"{real}:{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}"
    # The same program under another root's loader, or without it, is not the same.
    return ":".join([*qemu.prefix[:-1], key])


def features(qemu: Qemu) -> Features:
    """What this QEMU has. Asked once, then kept until the program changes."""
    key = identity(qemu)
    known = cache.load(_CACHE)
    found = _decode(known.get(key))
    if found is None:
        document = _inquire(qemu)
        found = _decode(document)
        if found is None:
            raise QemuDiedError(
                f"{escape(qemu.prefix[-1])} gives answers that are not QEMU's",
                hint=f"name another one with {VARIABLE}",
            )
        kept = dict(list(known.items())[-(_CACHED_QEMUS - 1) :])
        cache.store(_CACHE, {**kept, key: document})
    return found


def cpu_models(qemu: Qemu, accel: str) -> Mapping[str, tuple[str, ...]]:
    """CPU models -> features of them that this host lacks under ``accel`` (``kvm`` or ``tcg``)."""
    if accel == "tcg":
        return features(qemu).cpu_models
    return _cpus(_ask(qemu, "kvm", [("query-cpu-definitions", {})])[0])


def cpu_features(qemu: Qemu, accel: str) -> frozenset[str]:
    """Every CPU feature that a guest can be given here under ``accel``, by QEMU's names."""
    question = {"type": "full", "model": {"name": "max"}}
    answer = _ask(qemu, accel, [("query-cpu-model-expansion", question)])[0]
    props = answer["model"]["props"] if answer else {}
    return frozenset(name.replace("_", "-") for name, value in props.items() if value is True)


def missing_devices(qemu: Qemu, drivers: Iterable[str]) -> list[str]:
    """Those of ``drivers`` (``virtio-blk-pci``, ...) that this QEMU does not have."""
    key = identity(qemu)
    wanted = sorted(set(drivers))
    unknown = [name for name in wanted if (key, name) not in _DEVICES]
    if unknown:
        questions = [("device-list-properties", {"typename": name}) for name in unknown]
        accel = "tcg" if features(qemu).tcg else "kvm"
        for name, answer in zip(unknown, _ask(qemu, accel, questions), strict=True):
            _DEVICES[key, name] = answer is not None
    return [name for name in wanted if not _DEVICES[key, name]]


_DEVICES: dict[tuple[str, str], bool] = {}
"""QEMU and device -> whether it has that. Not kept longer: packages bring devices and take them."""


def require_zstd(qemu: Qemu) -> None:
    """Raise :class:`ZstdMissingError` when this QEMU cannot read a bundle's disks."""
    if not features(qemu).zstd:
        raise ZstdMissingError(
            f"{escape(qemu.prefix[-1])} was built without zstd, which bundles are compressed with",
            hint=f"install a QEMU with zstd, or name one with {VARIABLE}; "
            "'vmpack unpack' needs no QEMU",
        )


def _inquire(qemu: Qemu) -> dict[str, object]:
    """The document that is cached."""
    names = ("query-version", "query-machines", "query-cpu-definitions", "query-kvm")
    questions: list[tuple[str, dict[str, object]]] = [(name, {}) for name in names]
    questions.append(("query-qmp-schema", {}))
    tcg = True
    try:
        answers = _ask(qemu, "tcg", questions)
    except QemuDiedError as exc:
        # A QEMU for KVM alone says so by its name of the accelerator; anything else is an error.
        if "tcg" not in exc.message:
            raise
        tcg = False
        answers = _ask(qemu, "kvm", questions)
    version, machines, cpus, kvm, schema = answers
    return {
        "version": version and version["qemu"],
        "package": version and version["package"],
        "machines": {
            name: [bool(one.get("deprecated")), one["cpu-max"]]
            for one in machines or ()
            for name in (one["name"], one.get("alias"))
            if name is not None
        },
        "cpus": _cpus(cpus),
        "zstd": _has_zstd(schema or ()),
        "kvm": bool(kvm and kvm["present"]),
        "tcg": tcg,
    }


def _cpus(answer: Any) -> dict[str, tuple[str, ...]]:
    return {one["name"]: tuple(one.get("unavailable-features", ())) for one in answer or ()}


def _has_zstd(schema: Iterable[Mapping[str, Any]]) -> bool:
    """Whether qcow2's ``compression-type`` may be zstd. The schema's type names are numbers."""
    types = {one["name"]: one for one in schema}
    return any(
        "zstd" in types[member["type"]].get("values", ())
        for one in types.values()
        for member in one.get("members", ())
        if one["meta-type"] == "object" and member["name"] == "compression-type"
    )


def _decode(document: object) -> Features | None:
    """Features from a cached document; ``None`` for one that is not well-formed."""
    if not isinstance(document, dict):
        return None
    try:
        version = document["version"]
        return Features(
            version=tuple(int(version[part]) for part in ("major", "minor", "micro")),
            package=str(document["package"]),
            machines={
                str(name): MachineType(bool(deprecated), int(most))
                for name, (deprecated, most) in document["machines"].items()
            },
            cpu_models={str(name): tuple(lacks) for name, lacks in document["cpus"].items()},
            zstd=bool(document["zstd"]),
            kvm=bool(document["kvm"]),
            tcg=bool(document["tcg"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _ask(
    qemu: Qemu, accel: str, questions: Sequence[tuple[str, Mapping[str, object]]]
) -> list[Any]:
    """What QMP returns to each command; ``None`` for one that it answers with an error."""
    argv = [*qemu.prefix, "-machine", "none", "-accel", accel, "-S", "-nodefaults"]
    argv += ["-no-user-config", "-display", "none", "-qmp", "stdio"]
    commands = [("qmp_capabilities", {}), *questions]
    lines = [
        json.dumps({"execute": name, "arguments": arguments, "id": number}).encode() + b"\n"
        for number, (name, arguments) in enumerate(commands)
    ]
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(  # noqa: S603  the user's own QEMU, as a list
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                preexec_fn=die_with_parent,  # noqa: PLW1509  one prctl(2), no lock and no import
            )
        except OSError as exc:
            raise QemuMissingError(
                f"{escape(argv[0])}: {(exc.strerror or str(exc)).lower()}", hint=INSTALL
            ) from exc
        answers, in_time = _converse(process, lines)
        complaints.seek(0)
        words = escape(" ".join(complaints.read(500).decode(errors="replace").split()))
    if not in_time:
        raise QemuDiedError(
            f"{escape(qemu.prefix[-1])} did not say what it has within {ANSWER_S} s",
            hint=f"try it by hand: {PROGRAM} --version",
        )
    if any(number not in answers for number in range(1, len(questions) + 1)):
        raise QemuDiedError(
            f"{escape(qemu.prefix[-1])} ended with {process.returncode} before it said what it "
            f"has: {words or 'without a word'}",
            hint=f"try it by hand: {PROGRAM} --version",
        )
    return [answers[number].get("return") for number in range(1, len(questions) + 1)]


def _converse(
    process: subprocess.Popen[bytes], lines: Sequence[bytes]
) -> tuple[dict[int, Mapping[str, Any]], bool]:
    """The replies to ``lines`` by number, and whether the time sufficed; ends QEMU.

    One command at a time: QEMU drops the commands that wait when its input ends, and reads no more
    of them while nobody reads its replies.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(ANSWER_S, expire)
    timer.start()
    found: dict[int, Mapping[str, Any]] = {}
    try:
        with process:
            greeted = True
            # One that died at once does not read; what it said tells.
            with contextlib.suppress(BrokenPipeError):
                greeted = _talk(process.stdin, process.stdout, lines, found)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b'{"execute":"quit"}\n')
            if not greeted:
                process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()
    return found, not expired.is_set()


def _talk(
    to: IO[bytes], back: IO[bytes], lines: Sequence[bytes], found: dict[int, Mapping[str, Any]]
) -> bool:
    """Say ``lines``, each once the one before is answered; ``False`` to who talks no QMP."""
    for number, line in enumerate(lines):
        to.write(line)
        to.flush()
        if number == 0:
            greeting = back.readline(_MAX_REPLY)
            if b'"QMP"' not in greeting:
                return not greeting
        while number not in found:
            said = back.readline(_MAX_REPLY)
            if not said:
                return True
            found |= _reply(said)
    return True


def _reply(line: bytes) -> dict[int, Mapping[str, Any]]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    if isinstance(message, dict) and isinstance(message.get("id"), int):
        return {message["id"]: message}
    return {}
