"""``vmpack doctor``: what this host can run machines with, and whether a bundle runs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.console import DIM, GREEN, RED, YELLOW
from vmpack.cli.options import ACCEL, Argument, Command

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.doctor import DoctorResult
    from vmpack.runner.left_open import LeftOpen

MOST = 6
"""Machine types and CPU models that are named to people."""

_COLOURS = {
    "ok": GREEN,
    "available": GREEN,
    "warning": YELLOW,
    "deprecated": YELLOW,
    "missing": RED,
    "unavailable": RED,
}


def run(console: Console, arguments: SimpleNamespace) -> int:
    """Look, and say what was found; the exit code."""
    from vmpack.ops.doctor import doctor

    with console.reporter() as progress:
        result = doctor(arguments.bundle, accel=arguments.accel or "auto", progress=progress)
    console.result(result.as_dict(), _lines(console, result))
    return result.exit_code


def _lines(console: Console, result: DoctorResult) -> Iterator[str]:
    for tool in result.qemus:
        package = f", {escape(tool.package)}" if tool.package else ""
        used = " (used)" if tool.used and len(result.qemus) > 1 else ""
        yield f"QEMU {tool.version}{package}: {escape(tool.path)}{used}"
    for descriptor in result.firmware:
        yield f"UEFI {escape(descriptor.code_path)}: {escape(descriptor.description)}"
    if result.qemus or result.firmware:
        yield ""
    rows = [(one.subject, one.status, one.message, one.hint) for one in result.diagnoses]
    yield from status_lines(console, rows)
    if result.pins is not None:
        yield ""
        yield f"{escape(result.bundle or '')} pins"
        pins = [
            (f"{one.pin} {one.value}".strip(), one.status, one.message, one.hint)
            for one in result.pins
        ]
        yield from status_lines(console, pins)
        yield from _about(console, result)
    yield ""
    what = "this bundle" if result.pins is not None else "a bundle"
    if result.ready:
        yield console.style(f"{what} runs here", GREEN)
    else:
        yield console.style(f"{what} does not run here", RED)


def open_lines(console: Console, items: Sequence[LeftOpen]) -> Iterator[str]:
    """What the pins do not fix, one line each, with the hint of what can be fixed."""
    width = max((len(one.item) for one in items), default=0)
    for one in items:
        yield f"{one.item:<{width}}  {escape(one.message)}"
        if one.hint is not None:
            yield console.style(f"{'':<{width}}  hint: {escape(one.hint)}", DIM)


def _about(console: Console, result: DoctorResult) -> Iterator[str]:
    """What the pins leave to this host, and what every QEMU here has."""
    if result.left_open:
        yield ""
        yield "not pinned: this host decides"
        yield from open_lines(console, result.left_open)
    if result.common is None:
        return
    count = sum(one.zstd for one in result.qemus)
    yield ""
    yield "it could be pinned to" + (f", for all {count} QEMUs here" if count > 1 else "")
    machines = [
        f"{name} (until QEMU {gone})" if gone else name
        for name, gone in result.common.machines.items()
    ]
    for title, names in (("machine", machines), ("cpu.model", result.common.cpu_models)):
        more = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
        text = ", ".join([*names[:MOST], *more])
        yield f"{title:<9}  {escape(text) or 'nothing that all have'}"


def status_lines(
    console: Console, rows: Sequence[tuple[str, str, str, str | None]]
) -> Iterator[str]:
    """Status, subject and message in columns; the hint of what is not well below it."""
    width = max((len(status) for _, status, _, _ in rows), default=0)
    for subject, status, message, hint in rows:
        shown = console.style(f"{status:<{width}}", _COLOURS[status])
        yield f"{shown}  {escape(subject)}: {escape(message)}"
        if hint is not None:
            yield f"{'':<{width}}  hint: {escape(hint)}"


COMMAND = Command(
    "doctor",
    "Show what this host can run bundles with: QEMU, accelerators (KVM is probed), firmware, TPM.\n"
    "With a bundle, also whether this host has everything that it pins.\n\n"
    "Exit code 0: bundles run here; 125: something that is needed is missing.",
    (
        Argument("bundle", "a bundle to look at as well", (), "BUNDLE", optional=True),
        ACCEL,
    ),
    run,
)
