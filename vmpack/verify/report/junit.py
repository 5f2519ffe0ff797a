"""The verdicts as JUnit's XML, which CI systems show as tests.

Profile: specs/report-v1.md, REP-JUNIT-1 to REP-JUNIT-7. Source: what the schemas of Maven Surefire
(surefire-test-report.xsd) and of Jenkins' xUnit plugin (junit-10.xsd) have in common.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from vmpack.binary import escape
from vmpack.verify.report.folder import PathLike, ReportInput, write_file
from vmpack.verify.report.text import TITLES, clip, last_lines, layers_of, sentence
from vmpack.verify.report.view import unstable

if TYPE_CHECKING:
    from vmpack.verify.model import Comparison, Difference
    from vmpack.verify.replay import ExactResult
    from vmpack.verify.result import HostResult

__all__ = ["junit", "write_junit"]

Outcome = Literal["failure", "error", "skipped"]

OUTCOMES: Mapping[str, Outcome] = {"failed": "failure", "not-compared": "skipped"}
"""Verdict of an own check -> how JUnit calls it."""

MOST = 200
"""Differences that one test case names."""

TAIL = 40
"""Lines of the console and of QEMU's words in a test case."""


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    classname: str
    seconds: float = 0.0
    outcome: Outcome | None = None
    kind: str = ""
    message: str = ""
    text: str = ""
    out: str = ""
    err: str = ""


def write_junit(path: PathLike, report: ReportInput) -> str:
    """Write the XML to ``path``, atomically; the path. Raises :class:`OutputError`."""
    name = os.fspath(path)
    write_file(name, junit(report))
    return name


def junit(report: ReportInput) -> bytes:
    """The XML document: a suite for each host, a case for each layer, boot and own check."""
    root = ElementTree.Element("testsuites")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    seconds = 0.0
    for host in report.result.hosts:
        cases = list(_cases(host, report.result.name or "machine"))
        suite = _suite(host, cases, report)
        root.append(suite)
        seconds += sum(case.seconds for case in cases)
        for key in totals:
            totals[key] += int(suite.get(key, "0"))
    root.set("name", _xml("vmpack verify"))
    for key, value in totals.items():
        root.set(key, str(value))
    root.set("time", f"{seconds:.3f}")
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _suite(host: HostResult, cases: list[_Case], report: ReportInput) -> ElementTree.Element:
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite = ElementTree.Element(
        "testsuite", {"name": _xml(f"vmpack verify: {host.name}"), "tests": str(len(cases))}
    )
    for key, outcome in counts.items():
        suite.set(key, str(sum(case.outcome == outcome for case in cases)))
    suite.set("time", f"{sum(case.seconds for case in cases):.3f}")
    facts = {"bundle": report.result.filename, "machine-id": report.result.machine_id}
    facts |= {"host": host.name, "kind": host.kind}
    facts |= {key: str(value) for key, value in (host.host_facts or {}).items() if value}
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": key, "value": _xml(value)})
    suite.extend(_element(case) for case in cases)
    return suite


def _element(case: _Case) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase",
        {
            "name": _xml(case.name),
            "classname": _xml(case.classname),
            "time": f"{case.seconds:.3f}",
        },
    )
    if case.outcome is not None:
        more = {"message": _xml(case.message)}
        # Surefire's schema demands a type of the first two, and forbids one of the last.
        more |= {} if case.outcome == "skipped" else {"type": _xml(case.kind)}
        ElementTree.SubElement(element, case.outcome, more).text = _xml(case.text) or None
    for name, text in (("system-out", case.out), ("system-err", case.err)):
        if text:
            ElementTree.SubElement(element, name).text = _xml(text)
    return element


def _xml(text: str) -> str:
    """``text`` without what XML 1.0 cannot hold; line ends stay."""
    return "\n".join(escape(line) for line in text.split("\n"))


def _cases(host: HostResult, machine: str) -> Iterator[_Case]:
    # Dots separate packages: a classname is machine, then host.
    classname = ".".join(part.replace(".", "_") for part in (machine, host.name))
    if host.error is not None:
        yield _error(host.error, classname)
    for number, boot in enumerate(host.boots, 1):
        ending = boot.ending
        name = "boot" if len(host.boots) == 1 else f"boot {number}"
        bad: Outcome = "error" if ending.exit_code == 125 else "failure"
        yield _Case(
            name,
            classname,
            # Checks are cases of their own, with times of their own.
            max(ending.seconds - sum(check.seconds for check in boot.checks), 0.0),
            None if boot.good else bad,
            ending.kind,
            ending.message,
            "" if boot.good else "\n".join(last_lines(ending.console_tail, TAIL)),
            err="\n".join(last_lines(ending.stderr.splitlines(), TAIL)),
        )
        for check in boot.checks:
            name = f"check: {check.name}"
            name += "" if len(host.boots) == 1 else f" (boot {number})"
            how = OUTCOMES.get(check.verdict)
            yield _Case(name, classname, check.seconds, how, "check", check.message)
    if host.comparison is not None:
        yield from _layers(host.comparison, classname)
    if host.unstable:
        told = list(unstable(host))
        text = "\n".join(told)
        yield _Case("boots", classname, 0.0, "failure", host.kind, told[0], text)
    if host.exact is not None:
        yield _exact(host.exact, classname)


def _exact(exact: ExactResult, classname: str) -> _Case:
    outcome: Outcome | None = None if exact.good else "failure"
    if exact.verdict == "does-not-apply":
        outcome = "skipped"
    message = clip(exact.message)
    return _Case("exact", classname, exact.seconds, outcome, exact.verdict, message)


def _error(error: Mapping[str, object], classname: str) -> _Case:
    message = clip(str(error.get("message") or "it could not run"))
    hint = clip(str(error.get("hint") or ""))
    return _Case("host", classname, 0.0, "error", str(error.get("kind") or ""), message, hint)


def _layers(comparison: Comparison, classname: str) -> Iterator[_Case]:
    for name in layers_of(list(comparison.verdicts)):
        verdict = next(value for key, value in comparison.verdicts.items() if key == name)
        found = [one for one in comparison.differences if one.layer == name]
        note = next((text for key, text in comparison.notes.items() if key == name), "")
        case = _Case(f"layer: {TITLES.get(name, name)}", classname)
        if verdict == "differs":
            count = [one for one in found if one.counts]
            message = sentence(count[0]) if count else clip(note) or "it differs"
            message += f" (and {len(count) - 1} more)" if len(count) > 1 else ""
            text = _told(count)
            yield replace(case, outcome="failure", kind="differs", message=message, text=text)
        elif verdict == "not-compared":
            yield replace(case, outcome="skipped", message=clip(note) or "not compared")
        else:
            # Where nothing is promised, what differs is told and fails nothing.
            yield replace(case, out="\n".join(filter(None, [clip(note), _told(found)])))


def _told(differences: list[Difference]) -> str:
    lines = []
    for one in differences[:MOST]:
        lines.append(f"{one.layer}-{one.code} {sentence(one)}")
        if one.cause:
            lines.append(f"    {clip(one.cause)}")
    if len(differences) > MOST:
        lines.append(f"and {len(differences) - MOST} more: see report.json")
    return "\n".join(lines)
