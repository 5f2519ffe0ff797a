"""``vmpack verify``: whether a bundle does on this host what it is expected to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.console import RED
from vmpack.cli.options import ACCEL, FORCE, QEMU_ARG, TIMEOUT, Argument, Command, option, whole
from vmpack.cli.run import run_options

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.verify_request import Request
    from vmpack.runner.milestones import Reached
    from vmpack.verify.result import VerifyResult


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Do what is asked for, and tell what was found; the exit code is the first bad host's."""
    if arguments.end_with_stdin:
        from vmpack.verify.tether import end_with_stdin

        end_with_stdin()
    if not on_github():
        return _verify(console, arguments).exit_code
    from vmpack.ops.verify_report import tell_github
    from vmpack.verify.report import stopped_commands

    def write(text: str) -> None:
        console.stdout.write("" if console.json else text)
        console.stdout.flush()

    # A guest's words on the console must be no commands to the runner of the workflow.
    with stopped_commands(write):
        result = _verify(console, arguments)
    for line in tell_github(_request(arguments), result):
        write(f"{line}\n")
    return result.exit_code


def on_github() -> bool:
    """Whether this is a step of a workflow on GitHub, whose runner reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _verify(console: Console, arguments: SimpleNamespace) -> VerifyResult:
    from vmpack.cli.verify_show import lines
    from vmpack.ops.verify import verify

    def reached(boot: int, milestone: Reached) -> None:
        # For whoever watches: a boot under emulation takes a while.
        if console.verbose:
            console.stderr.write(
                f"boot {boot}: {milestone.seconds:7.1f} s  {escape(milestone.name)}\n"
            )
            console.stderr.flush()

    with console.reporter() as progress:
        result = verify(
            arguments.bundle,
            _request(arguments),
            options=run_options(arguments),
            on_reached=reached,
            progress=progress,
        )
    if result.unverified:
        console.warn(f"ran with arguments of QEMU that were added: {' '.join(result.unverified)}")
    for text in (*result.notes, *_expiring(result)):
        console.warn(text)
    console.done(result.as_dict(), lines(console, result))
    _tell_errors(console, result)
    return result


def _expiring(result: VerifyResult) -> Iterator[str]:
    """Pins that a host still has, and a newer QEMU will not; each once."""
    found = {
        f"{pin.pin} {pin.value}: {pin.message}; {pin.hint}": None
        for host in result.hosts
        for pin in host.pins
        if pin.status == "deprecated"
    }
    yield from found


def _tell_errors(console: Console, result: VerifyResult) -> None:
    """What kept a host from it goes to stderr, as every error does."""
    for host in result.hosts:
        if host.error is None:
            continue
        places = [host.name if host.name != "here" else None, host.error.get("path")]
        where = ", ".join(str(place) for place in places if place)
        text = f"{where}: {host.error.get('message')}" if where else str(host.error.get("message"))
        console.stderr.write(f"vmpack: {console.mark('error:', RED)} {escape(text)}\n")
        if host.error.get("hint"):
            console.stderr.write(f"  hint: {escape(str(host.error['hint']))}\n")


def _request(arguments: SimpleNamespace) -> Request:
    from dataclasses import fields

    from vmpack.ops.verify_request import Request

    given = {each.name: getattr(arguments, each.name) for each in fields(Request)}
    return Request(**{**given, "on": tuple(given["on"])})


TARGETS = ("vmware", "virtualbox", "hyperv", "proxmox", "azure")
"""What --as can imitate, or say why not."""

COMMAND = Command(
    "verify",
    "Boot a bundle here and hold it against its behaviour record, layer by layer, and against\n"
    "what its config expects: milestones on its console, the checks of [[verify.check]], and how\n"
    "it ends. Without a record (make one with --record) it is that alone; without expectations it\n"
    "has to come to a login prompt. Nothing that it writes is kept.\n\n"
    "Exit code 0: as expected; 1: it behaves differently; 124: time-out; 125: it cannot run here;\n"
    "126: hung or reset-looped; 255: panicked. With several hosts: the first bad one's.",
    (
        Argument("bundle", "the bundle to boot", metavar="BUNDLE"),
        option(
            "--record",
            name="record",
            help="boot it, and store what was the same in each boot in the bundle, as its record",
        ),
        option(
            "--record-to",
            name="record_to",
            metavar="FILE",
            help="store the record in FILE instead, as JSON",
        ),
        FORCE,
        option(
            "--against",
            name="against",
            metavar="FILE",
            help="compare with the record in FILE, which is one of --record-to or a bundle",
        ),
        option(
            "--no-boot",
            name="no_boot",
            help="boot nothing: compare the bundle's record with that of --against",
        ),
        option(
            "--boots",
            name="boots",
            metavar="N",
            convert=whole,
            help="boot it N times (default: 3 with --record, otherwise 1)",
        ),
        option(
            "--preflight",
            name="preflight",
            help="boot nothing: say whether the host has what the bundle pins",
        ),
        option(
            "--on",
            name="on",
            metavar="HOST",
            many=True,
            help="do it on HOST of the hosts file (repeat); here is this host",
        ),
        option(
            "--hosts",
            name="hosts",
            metavar="FILE",
            help="the hosts file (default: hosts.toml here, or in ~/.config/vmpack)",
        ),
        ACCEL,
        option(
            "--as",
            name="as_target",
            metavar="TARGET",
            choices=TARGETS,
            help="boot it on the devices that it would find at TARGET, as far as QEMU has them:"
            f" {', '.join(TARGETS)}",
        ),
        option(
            "--exact",
            name="exact",
            help="with --record: record a deterministic boot as well; otherwise: replay it, and"
            " compare the console byte for byte",
        ),
        TIMEOUT,
        option(
            "--report",
            name="report",
            metavar="DIR",
            help="write a page about it, and each boot's console, pictures and what QEMU said,"
            " into DIR",
        ),
        option(
            "--junit",
            name="junit",
            metavar="FILE",
            help="write the verdicts into FILE, as JUnit's XML",
        ),
        option(
            "--end-with-stdin",
            name="end_with_stdin",
            help="end when standard input does, as that of a broken connection; a line with a"
            " number says that the next one comes within so many seconds",
        ),
        QEMU_ARG,
    ),
    run,
)
