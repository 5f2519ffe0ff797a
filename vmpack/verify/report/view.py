"""What the page shows, as words that a template only has to place: bounded, nothing left to decide.

Texts are free of control characters; the template escapes them for HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmpack.verify.report.consoles import WIDTH, Diff, console_diff
from vmpack.verify.report.folder import ReportInput
from vmpack.verify.report.pictures import Budget, Pair, pairs
from vmpack.verify.report.text import CODES, TITLES, VERDICTS, clip, last_lines, layers_of, shown
from vmpack.verify.report.timeline import Timeline, timeline

if TYPE_CHECKING:
    from vmpack.verify.boot import Boot
    from vmpack.verify.model import Difference, Observation
    from vmpack.verify.result import HostResult

__all__ = ["KINDS", "Cell", "Ending", "Host", "Item", "View", "unstable", "view"]

DIFFERENCES = 300
BOOTS = 60
TAIL = 60

KINDS = {
    "expected": "as expected",
    "differs": "behaves differently",
    "unexpected": "ended unexpectedly",
    "timeout": "time-out",
    "hang": "hung",
    "reset-loop": "reset loop",
    "panic": "panicked",
    "no-boot-device": "no boot device",
    "firmware-shell": "firmware shell",
    "firmware-setup": "firmware setup",
    "emergency-shell": "emergency shell",
    "login-missing": "no login prompt",
    "unstable": "not the same in each boot",
    "shutdown": "shut down",
    "interrupted": "interrupted",
    "bootloader-prompt": "boot-loader prompt",
    "qemu-died": "QEMU died",
    "qemu-missing": "no QEMU",
    "pin-unavailable": "cannot run here",
    "firmware-missing": "no firmware",
    "zstd-missing": "QEMU lacks zstd",
    "infrastructure": "could not run",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One verdict of the matrix."""

    style: str
    """``good``, ``bad``, ``drift`` or ``none``."""
    text: str
    note: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One difference."""

    layer: str
    code: str
    item: str
    expected: str
    observed: str
    promise: str
    cause: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How one boot ended."""

    number: int
    cell: Cell
    message: str
    told: str
    tail: tuple[str, ...]
    stderr: tuple[str, ...]
    problems: tuple[str, ...]
    checks: tuple[tuple[Cell, str, str, str], ...]
    """Verdict, name, seconds and message of each own check."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host."""

    anchor: str
    name: str
    cell: Cell
    facts: tuple[tuple[str, str], ...]
    error: tuple[str, str] | None
    """Message and hint."""
    endings: tuple[Ending, ...]
    items: tuple[Item, ...]
    drift: tuple[Item, ...]
    left_out: int
    timeline: Timeline | None
    pictures: tuple[Pair, ...]
    diff: Diff | None
    pins: tuple[tuple[Cell, str, str, str], ...]
    left_open: tuple[tuple[str, str], ...]
    """What the pins do not fix, and what that means."""
    notes: tuple[str, ...]
    files: tuple[str, ...]
    row: Mapping[str, Cell]
    """Layer -> its cell in the matrix."""


@dataclass(frozen=True, slots=True)
class View:
    """The page."""

    title: str
    cell: Cell
    summary: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    layers: tuple[tuple[str, str], ...]
    """Name and title of each row of the matrix."""
    hosts: tuple[Host, ...]


def view(report: ReportInput) -> View:
    """The view of a report."""
    result = report.result
    budget = Budget()
    hosts = tuple(
        _host(number, host, report, budget) for number, host in enumerate(result.hosts, 1)
    )
    names = layers_of(list(dict.fromkeys(name for host in hosts for name in host.row)))
    warnings = [clip(note) for note in result.notes]
    if result.unverified:
        words = clip(" ".join(result.unverified))
        warnings.append(f"Run with arguments of QEMU that were added: {words}")
    return View(
        title=clip(result.name or result.filename, 120),
        cell=_kind_cell(result.kind, good=result.exit_code == 0),
        summary=_summary(report),
        facts=tuple(_facts(report)),
        warnings=tuple(warnings),
        layers=tuple((name, TITLES.get(name, clip(name, 60))) for name in names),
        hosts=hosts,
    )


def _summary(report: ReportInput) -> str:
    hosts = report.result.hosts
    good = sum(host.good for host in hosts)
    if report.result.recorded is not None and good == len(hosts):
        return "A new behaviour record was stored."
    if not hosts:
        return "No host was asked."
    if len(hosts) == 1:
        return _sentence(hosts[0])
    if good == len(hosts):
        return f"All {len(hosts)} hosts did what is expected."
    first = next(host for host in hosts if not host.good)
    return f"{good} of {len(hosts)} hosts did what is expected. {clip(first.name, 60)}: " + (
        _sentence(first)
    )


def _sentence(host: HostResult) -> str:
    if host.error is not None:
        return clip(str(host.error.get("message") or "could not run"))
    for boot in host.boots:
        if not boot.good:
            return clip(boot.ending.message)
    if host.unstable:
        return f"{next(unstable(host))}."
    comparison = host.comparison
    if comparison is not None and not comparison.good:
        layers = layers_of([one.layer for one in comparison.differences if one.counts])
        named = ", ".join(dict.fromkeys(TITLES.get(name, name) for name in layers))
        count = sum(one.counts for one in comparison.differences)
        return f"{count} {'difference' if count == 1 else 'differences'}: {named}."
    if host.exact is not None and not host.exact.good:
        return clip(host.exact.message)
    if comparison is None:
        return "It did what its config expects; there was no record to compare it with."
    return "It did what was recorded."


def _facts(report: ReportInput) -> Iterator[tuple[str, str]]:
    result = report.result
    yield "bundle", clip(result.filename)
    yield "id", clip(result.id, 80)
    yield "machine-id", clip(result.machine_id, 80)
    if result.record is not None:
        seen = result.record.record.observation
        where = "the bundle" if result.record.source == "bundle" else clip(result.record.source)
        boots = f"{seen.boots} boot{'' if seen.boots == 1 else 's'}"
        yield "record", f"{where}: {boots} on QEMU {clip(seen.host.qemu)}, {clip(seen.host.accel)}"
        if not result.record.same_machine:
            yield "", "the record is of another machine"
    if result.recorded is not None:
        yield "recorded in", clip(result.recorded)


def _kind_cell(kind: str, *, good: bool) -> Cell:
    return Cell("good" if good else "bad", KINDS.get(kind, clip(kind, 60)))


def _host(number: int, host: HostResult, report: ReportInput, budget: Budget) -> Host:
    anchor = f"host-{number}"
    comparison = host.comparison
    differences = comparison.differences if comparison is not None else ()
    counting = [one for one in differences if one.counts]
    others = [one for one in differences if not one.counts]
    kept = others[: max(DIFFERENCES - len(counting), 0)]
    boot = _compared(host, report.expected)
    facts = host.host_facts or {}
    error = None
    if host.error is not None:
        error = tuple(clip(str(host.error.get(key) or "")) for key in ("message", "hint"))
    return Host(
        anchor=anchor,
        name=clip(host.name, 80),
        cell=_kind_cell(host.kind, good=host.good),
        facts=tuple((clip(key, 40), shown(value)) for key, value in facts.items()),
        error=None if error is None else (error[0], error[1]),
        endings=tuple(_ending(n, one) for n, one in enumerate(host.boots[:BOOTS], 1)),
        items=tuple(_item(one) for one in counting[:DIFFERENCES]),
        drift=tuple(_item(one) for one in kept),
        left_out=len(differences) - len(counting[:DIFFERENCES]) - len(kept),
        timeline=timeline(host.boots[:BOOTS], report.times, comparison),
        pictures=tuple(_pictures(host, boot, report, differences, budget)),
        diff=None if boot is None else console_diff(report.expected, boot.observation),
        pins=tuple(_pins(host)),
        left_open=tuple(
            (clip(one.item, 80), " ".join(filter(None, [clip(one.message), clip(one.hint or "")])))
            for one in host.left_open
        ),
        notes=(*unstable(host), *(clip(note) for note in host.notes)),
        files=host.artefacts,
        row=_row(host, anchor),
    )


def _compared(host: HostResult, expected: Observation | None) -> Boot | None:
    """The boot to look at: the one that the comparison is of, otherwise one that went wrong."""
    from vmpack.verify.compare import compare

    seen = [(boot, boot.observation) for boot in host.boots if boot.observation is not None]
    if len(seen) > 1 and expected is not None and host.comparison is not None:
        for boot, observation in seen:
            if compare(expected, observation).differences == host.comparison.differences:
                return boot
    return next((boot for boot in host.boots if not boot.good), next(iter(host.boots), None))


def _row(host: HostResult, anchor: str) -> dict[str, Cell]:
    comparison = host.comparison
    styles = {"same": "good", "differs": "bad", "drift": "drift"}
    cells: dict[str, Cell] = {}
    for name, verdict in (comparison.verdicts if comparison is not None else {}).items():
        style = styles.get(verdict, "none")
        note = clip(dict(comparison.notes).get(name, "") if comparison is not None else "", 120)
        link = f"#{anchor}-differences" if style in ("bad", "drift") else ""
        cells[name] = Cell(style, VERDICTS.get(verdict, clip(verdict, 40)), note, link)
    return cells


def _item(one: Difference) -> Item:
    return Item(
        layer=TITLES.get(one.layer, clip(one.layer, 60)),
        code=CODES.get(one.code, clip(one.code, 40)),
        item=clip(one.item, 200),
        expected=shown(one.expected),
        observed=shown(one.observed),
        promise=clip(one.promise, 40),
        cause=clip(one.cause),
    )


def _ending(number: int, boot: Boot) -> Ending:
    ending = boot.ending
    told = f"{ending.seconds:.1f} s after the start"
    if ending.resets:
        told += f", {ending.resets} reset{'' if ending.resets == 1 else 's'}"
    styles = {"passed": "good", "failed": "bad"}
    return Ending(
        number,
        _kind_cell(ending.kind, good=boot.good),
        clip(ending.message),
        told,
        last_lines(ending.console_tail, TAIL, WIDTH),
        last_lines(ending.stderr.splitlines(), TAIL, WIDTH),
        tuple(clip(problem) for problem in boot.problems),
        tuple(
            (
                Cell(
                    styles.get(check.verdict, "none"),
                    VERDICTS.get(check.verdict, clip(check.verdict, 40)),
                ),
                clip(check.name, 120),
                f"{check.seconds:.1f} s",
                clip(check.message),
            )
            for check in boot.checks
        ),
    )


def _pictures(
    host: HostResult,
    compared: Boot | None,
    report: ReportInput,
    differences: Sequence[Difference],
    budget: Budget,
) -> Iterator[Pair]:
    """Those of the boot that is compared, and of one that went wrong."""
    differing = {one.item for one in differences if one.layer == "picture"}
    for number, boot in enumerate(host.boots, 1):
        if boot is compared:
            yield from pairs(boot, report.expected, differing, budget)
        elif not boot.good:
            for pair in pairs(boot, None, set(), budget):
                yield replace(pair, name=f"boot {number}: {pair.name}")


def unstable(host: HostResult) -> Iterator[str]:
    """A sentence for each layer whose items were not the same in each boot for a record."""
    for name in layers_of(list(host.unstable or {})):
        keys = next(keys for layer, keys in (host.unstable or {}).items() if layer == name)
        more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
        told = ", ".join(clip(key, 80) for key in keys[:8])
        yield f"Not the same in each boot: {TITLES.get(name, clip(name, 60))}: {told}{more}"


def _pins(host: HostResult) -> Iterator[tuple[Cell, str, str, str]]:
    styles = {"available": "good", "deprecated": "drift", "unavailable": "bad"}
    for pin in host.pins:
        told = " ".join(filter(None, [clip(pin.message), clip(pin.hint or "")]))
        cell = Cell(styles.get(pin.status, "none"), clip(pin.status, 40))
        yield cell, clip(pin.pin, 80), shown(pin.value), told
