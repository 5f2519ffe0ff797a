"""``vmpack run``: a bundle's machine, here and now, straight from its file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from vmpack.binary import escape
from vmpack.cli.options import (
    ACCEL,
    FORCE,
    QEMU_ARG,
    STATE,
    TIMEOUT,
    Argument,
    Command,
    option,
    size,
    whole,
)
from vmpack.errors import UsageError
from vmpack.units import MiB

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.cli.terminal import Screen
    from vmpack.ops.run import RunResult
    from vmpack.runner.options import RunOptions


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Run it; the exit code says how it ended, or is the command's own."""
    from vmpack.cli.terminal import Person, Screen
    from vmpack.ops import run as ops

    working = arguments.command is not None or arguments.copy_in or arguments.copy_out
    stream = _stream(console, arguments, working=bool(working))
    typing = stream is not None and not console.json and not working and sys.stdin.isatty()
    options = run_options(arguments, interactive=typing)
    copy_in = [_pair(text, "--copy-in", guest_last=True) for text in arguments.copy_in]
    copy_out = [_pair(text, "--copy-out", guest_last=False) for text in arguments.copy_out]
    with ExitStack() as stack:
        screen: Screen | None = None
        if stream is not None:
            screen = stack.enter_context(closing(Screen(stream, raw=arguments.console == "raw")))
        progress = stack.enter_context(console.reporter())
        result = ops.run(
            arguments.bundle,
            options=options,
            command=arguments.command,
            copy_in=copy_in,
            copy_out=copy_out,
            save=arguments.save,
            force=arguments.force,
            on_console=None if screen is None else screen.show,
            companion=Person(console, screen, typing=typing),
            progress=progress,
        )
    _tell(console, result, save=arguments.save)
    return result.exit_code


def run_options(arguments: SimpleNamespace, *, interactive: bool = False) -> RunOptions:
    """What ``run`` and ``verify`` share."""
    from pathlib import Path

    from vmpack.runner.options import RunOptions

    more: dict[str, Any] = {}
    for name in ("memory", "cpus", "display", "network"):
        if getattr(arguments, name, None) is not None:
            more[name] = getattr(arguments, name)
    state = getattr(arguments, "state", None)
    return RunOptions(
        accel=arguments.accel,
        forwards=tuple(getattr(arguments, "forwards", ())),
        timeout_s=arguments.timeout,
        qemu_args=tuple(arguments.qemu_args),
        state_dir=None if state is None else Path(state),
        interactive=interactive,
        **more,
    )


def _stream(console: Console, arguments: SimpleNamespace, *, working: bool) -> Any:
    """Where the guest's console goes: nowhere, or the stream that the result does not use."""
    mode = arguments.console
    if mode == "none" or (mode is None and (working or (console.json and console.quiet))):
        return None
    return console.stderr if console.json or working else console.stdout


def _tell(console: Console, result: RunResult, *, save: str | None) -> None:
    if result.unverified:
        console.warn(f"ran with arguments of QEMU that were added: {' '.join(result.unverified)}")
    if save is not None and result.saved is None:
        console.warn(f"{save} is not written: the guest did not shut down properly")
    if result.exec is not None and not console.json:
        console.stdout.flush()
        _bytes(console.stdout, result.exec.stdout)
        _bytes(console.stderr, result.exec.stderr)
        if result.exec.truncated:
            console.warn("the command printed more than the guest agent keeps: 16 MiB are shown")
    if console.json:
        console.done(result.as_dict(), ())
    elif not console.quiet and result.exec is None:
        for line in _lines(result):
            console.stderr.write(f"vmpack: {line}\n")


def _bytes(stream: Any, data: bytes) -> None:
    """The command's own output, byte for byte: it was asked for, as with ssh."""
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(errors="replace"))
    else:
        buffer.write(data)
    stream.flush()


def _lines(result: RunResult) -> Iterator[str]:
    ending = result.ending
    yield f"{ending.message}, {ending.seconds:.1f} s after the start ({ending.kind})"
    if ending.exit_code and ending.stderr:
        for line in ending.stderr.splitlines()[-5:]:
            yield f"QEMU: {escape(line)}"
    for path, copied in result.copied:
        yield f"copied out {escape(path)}, {copied} bytes"
    if result.saved is not None:
        yield f"saved as {escape(result.saved.path)}"


def _pair(text: str, flag: str, *, guest_last: bool) -> tuple[str, str]:
    """``A:B`` of a copy; the guest's path is the absolute one on its side of the colon."""
    if guest_last:
        here, colon, guest = text.rpartition(":/")
        first, second = here, f"/{guest}"
    else:
        first, colon, second = text.partition(":")
    if not colon or not first or not second:
        shape = "HERE:/IN/GUEST" if guest_last else "/IN/GUEST:HERE"
        raise UsageError(f"{text!r} is not {shape}", field=flag, hint=f"write {flag} {shape}")
    return first, second


def _forward(text: str) -> tuple[int, int]:
    """``HOST:GUEST`` ports, or one number for both."""
    here, colon, guest = text.partition(":")
    ports = [here, guest if colon else here]
    if not all(port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 for port in ports):
        raise UsageError(f"{text!r} is not HOST-PORT:GUEST-PORT", hint="ports are 1 to 65535")
    return int(ports[0]), int(ports[1])


def _memory(text: str) -> int:
    """Bytes of memory: whole MiB, as QEMU takes it."""
    found = size(text)
    if found <= 0 or found % MiB:
        plain = text if text.isdigit() and int(text) else "512"
        raise UsageError(
            f"{text!r} is no whole number of MiB", hint=f"with a unit: {plain}M, or 2G"
        )
    return found


COMMAND = Command(
    "run",
    "Run a bundle's machine straight from the file, under QEMU.\n"
    "What it writes is thrown away, unless --state or --save keeps it.\n\n"
    "The console is shown on stdout, and what you type reaches it. Ctrl-C asks the guest to shut\n"
    "down, a second one ends it at once.\n\n"
    "Exit code 0: ended as expected; 1: another way; 124: time-out; 125: it cannot run here;\n"
    "126: hung or reset-looped; 130: interrupted; 255: panicked. With --exec: the command's own.",
    (
        Argument("bundle", "the bundle to run", metavar="BUNDLE"),
        ACCEL,
        STATE,
        option(
            "--save",
            name="save",
            metavar="NEW",
            help="write the machine as it is after the run as a new bundle",
        ),
        FORCE,
        option(
            "--memory",
            name="memory",
            metavar="SIZE",
            convert=_memory,
            help="memory in place of the config's",
        ),
        option(
            "--cpus", name="cpus", metavar="N", convert=whole, help="CPUs in place of the config's"
        ),
        option(
            "--forward",
            name="forwards",
            metavar="H:G",
            many=True,
            convert=_forward,
            help="let TCP port H of this host's 127.0.0.1 reach port G of the guest (repeat)",
        ),
        option(
            "--network",
            name="network",
            choices=("restricted", "user", "none"),
            help="what the guest can reach: only what --forward opens, the outside as well, or"
            " nothing (default: restricted)",
        ),
        option(
            "--exec",
            name="command",
            metavar="CMD",
            help="run a shell command in the guest through its agent, then end the machine",
        ),
        option(
            "--copy-in",
            name="copy_in",
            metavar="A:B",
            many=True,
            help="copy file A of this host to B in the guest before that (repeat)",
        ),
        option(
            "--copy-out",
            name="copy_out",
            metavar="A:B",
            many=True,
            help="copy file A of the guest to B on this host after that (repeat)",
        ),
        option(
            "--console",
            name="console",
            choices=("safe", "raw", "none"),
            help="show the guest's console without what could harm a terminal, byte for byte, or"
            " not at all (default: safe)",
        ),
        option(
            "--display",
            name="display",
            metavar="X",
            help="show the screen: gtk, sdl or spice-app in a window; vnc to viewers on this host,"
            " vnc=unix:PATH at a socket (default: none)",
        ),
        TIMEOUT,
        QEMU_ARG,
    ),
    run,
)
