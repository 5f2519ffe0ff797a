"""What CI reads of a verification: JUnit's XML, GitHub's annotations, summary and outputs."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
from defusedxml import ElementTree

from tests.support import reports
from tests.test_verify_report_page import EVIL, evil, many
from vmpack.cli.console import dumps
from vmpack.verify.replay import ExactResult
from vmpack.verify.report import (
    ReportInput,
    github_lines,
    junit,
    report_to_github,
    stopped_commands,
    write_junit,
)
from vmpack.verify.report.github import summary
from vmpack.verify.report.page import page

TIME = re.compile(r"[0-9]{1,3}\.[0-9]{3}")
ON = {"GITHUB_ACTIONS": "true"}

# What both schemas take: element -> attributes it must have, attributes it may have, elements in
# their order. Source: Maven Surefire's surefire-test-report.xsd, Jenkins xUnit's junit-10.xsd.
SCHEMA: dict[str, tuple[set[str], set[str], tuple[str, ...]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, ("testsuite",)),
    "testsuite": (
        {"name", "tests", "errors", "skipped", "failures"},
        {"time", "group"},
        ("properties", "testcase"),
    ),
    "properties": (set(), set(), ("property",)),
    "property": ({"name", "value"}, set(), ()),
    "testcase": (
        {"name", "time"},
        {"classname", "group"},
        ("failure", "skipped", "error", "system-out", "system-err"),
    ),
    "failure": ({"type"}, {"message"}, ()),
    "error": ({"type"}, {"message"}, ()),
    "skipped": (set(), {"message"}, ()),
    "system-out": (set(), set(), ()),
    "system-err": (set(), set(), ()),
}
REPEATED = {"testsuite", "testcase", "property"}


def hold(element: Element) -> None:
    """The element, and all in it, are as both schemas have them."""
    must, may, inside = SCHEMA[element.tag]
    assert must <= set(element.attrib) <= must | may, element.attrib
    if "time" in element.attrib:
        assert TIME.fullmatch(element.attrib["time"]), element.attrib
    names = [child.tag for child in element]
    assert names == sorted(names, key=inside.index), names
    assert all(names.count(name) == 1 for name in set(names) - REPEATED), names
    assert not (inside and (element.text or "").strip())
    for child in element:
        hold(child)


def tree(report: ReportInput) -> Element:
    root: Element = ElementTree.fromstring(junit(report))
    hold(root)
    for suite in root:
        cases = suite.findall("testcase")
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[name]) == sum(case.find(tag) is not None for case in cases)
        assert int(suite.attrib["tests"]) == len(cases)
        names = [(case.get("classname"), case.get("name")) for case in cases]
        assert len(names) == len(set(names))
    assert int(root.attrib["tests"]) == len(root.findall(".//testcase"))
    return root


def case(root: Element, host: str, name: str) -> Element:
    (found,) = root.findall(f"./testsuite[@name='vmpack verify: {host}']/testcase[@name='{name}']")
    return found


def test_junit_tells_hosts_layers_boots_and_checks() -> None:
    """REP-JUNIT-1 to REP-JUNIT-5, REP-JUNIT-7."""
    report = reports.rich()
    root = tree(report)
    assert [suite.get("name") for suite in root] == [
        f"vmpack verify: {name}" for name in ("bookworm", "laptop", "backports")
    ]
    failed = case(root, "laptop", "layer: what the guest reports")
    assert failed.get("classname") == "tiny.laptop"
    assert failed[0].tag == "failure"
    assert "guest-changed what the guest reports: unit:ssh.service" in (failed[0].text or "")
    assert "expected active, observed failed" in failed[0].get("message", "")
    drift = case(root, "bookworm", "layer: firmware")
    assert [child.tag for child in drift] == ["system-out"]
    assert "firmware-missing" in (drift[0].text or "")
    assert case(root, "laptop", "layer: block reads")[0].tag == "skipped"
    boot = case(root, "laptop", "boot")
    assert (boot[0].tag, boot[0].get("type"), boot[1].tag) == (
        "failure",
        "unexpected",
        "system-err",
    )
    assert boot.get("time") == "6.900"
    assert case(root, "laptop", "check: disk").get("time") == "0.400"
    assert case(root, "laptop", "check: screen")[0].tag == "skipped"
    assert case(root, "bookworm", "check: disk (boot 1)").find("failure") is None
    (error,) = case(root, "backports", "host")
    assert (error.tag, error.get("type"), error.text) == (
        *("error", "pin-unavailable"),
        "apt-get install swtpm",
    )
    assert junit(report) == junit(reports.rich())


def test_infrastructure_is_an_error_and_a_replay_a_case() -> None:
    """REP-JUNIT-2, REP-JUNIT-4."""
    died = reports.host("here", [reports.boot("qemu-died", "QEMU ended with signal 9")])
    assert case(tree(reports.report(died)), "here", "boot")[0].tag == "error"
    good = reports.host("here", [reports.boot()])
    for verdict, tag in (("differs", "failure"), ("does-not-apply", "skipped"), ("same", None)):
        exact = ExactResult(verdict, "line 3 differs", seconds=1.5)  # type: ignore[arg-type]
        found = case(tree(reports.report(replace(good, exact=exact))), "here", "exact")
        assert [child.tag for child in found] == ([tag] if tag else [])
        assert found.get("time") == "1.500"


def test_boots_that_are_not_the_same_make_no_record() -> None:
    """REP-JUNIT-2, REP-GH-1, REP-PAGE-3."""
    keys = tuple(f"unit:{number}" for number in range(20))
    host = replace(reports.host("here", [reports.boot()]), unstable={"guest": keys})
    report = reports.report(host)
    (failure,) = case(tree(report), "here", "boots")
    assert failure.get("type") == "unstable"
    words = "Not the same in each boot: what the guest reports: unit:0, unit:1"
    assert (failure.text or "").startswith(words)
    assert [parse(line)[2][: len(words)] for line in github_lines(report)] == [words]
    assert words in page(report)
    assert "and 12 more" in page(report)


def test_junit_is_xml_whatever_a_guest_says(tmp_path: Path) -> None:
    """REP-JUNIT-6, REP-SAFE-1, REP-SAFE-2."""
    path = write_junit(tmp_path / "new" / "junit.xml", evil())
    data = Path(path).read_bytes()
    assert data == junit(evil())
    root = tree(evil())
    assert b"CDATA" not in data
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ufffe\uffff]", data.decode())
    text = "".join(root.itertext())
    for words in EVIL[:5]:
        assert words in text
    for suite in root:
        for found in suite.findall("testcase"):
            assert (found.get("classname") or "").count(".") == 1
    big = junit(many())
    assert len(big) < 3_000_000
    assert b"and 2800 more: see report.json" in big


# GitHub


def parse(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as the runner takes it apart: name, properties, data."""
    assert "\n" not in line
    assert "\r" not in line
    match = re.fullmatch(r"::(\w[\w-]*)(?: (.*?))?::(.*)", line)
    assert match is not None, line
    pairs = [pair.split("=", 1) for pair in (match[2] or "").split(",") if pair]

    def plain(text: str, more: tuple[tuple[str, str], ...] = ()) -> str:
        for coded, char in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
            text = text.replace(coded, char)
        return text

    more = (("%3A", ":"), ("%2C", ","))
    return match[1], {name: plain(value, more) for name, value in pairs}, plain(match[3])


def test_annotations() -> None:
    """REP-GH-1, REP-GH-2."""
    found = [parse(line) for line in github_lines(reports.rich())]
    sorts = [sort for sort, _, _ in found]
    assert sorts == ["error"] * 7 + ["warning"] * 2
    assert found[0][1] == {"title": "vmpack verify: laptop: unexpected"}
    assert found[0][2].splitlines()[0] == "check disk failed: exit code 1, expected 0"
    assert any("ssh.service fails now" in data for _, _, data in found)
    assert found[6][2] == "no swtpm\napt-get install swtpm"
    good = reports.report(reports.host("here", [reports.boot()]))
    assert [parse(line) for line in github_lines(good)] == [
        ("notice", {"title": "vmpack verify: tiny"}, "as expected on 1 host")
    ]
    percent = replace(good, result=replace(good.result, notes=("100%0A, a: b%",)))
    assert parse(github_lines(percent)[0])[2] == "100%0A, a: b%"


@pytest.mark.parametrize("make", [evil, many])
def test_annotations_are_ours_alone(make: Callable[[], ReportInput]) -> None:
    """REP-GH-1, REP-GH-2, REP-SAFE-1: a guest cannot make one, and not too many are made."""
    lines = github_lines(make())
    found = [parse(line) for line in lines]
    assert {sort for sort, _, _ in found} <= {"error", "warning", "notice"}
    for sort, properties, data in found:
        assert set(properties) == {"title"}
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", data)
        assert sum(each == sort for each, _, _ in found) <= 10
    assert sum(map(len, lines)) < 100_000
    if make is many:
        assert found[9][2] == "and 8991 more: see the report"


def test_a_guest_cannot_command_the_runner() -> None:
    """REP-GH-3: what is printed stands between a word that nobody knows, also when it fails."""
    out = io.StringIO()
    tokens = set()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), stopped_commands(out.write, ON):
            out.write(f"| ##[add-mask]x\n{1 / 0}")
        first, last = out.getvalue().splitlines()[-2:]
        token = first.removeprefix("::stop-commands::")
        assert last == f"::{token}::"
        assert re.fullmatch("[0-9a-f]{32}", token)
        tokens.add(token)
    assert len(tokens) == 2
    quiet = io.StringIO()
    with stopped_commands(quiet.write, {}):
        pass
    assert quiet.getvalue() == ""


def test_json_holds_no_command() -> None:
    """REP-GH-3: the older form of a command works anywhere in a line."""
    told = {"a": ["##[add-mask]x", "\\##[[###[", "\x7f"]}
    text = dumps(told)
    assert "##[" not in text
    assert json.loads(text) == told


def outputs(text: str) -> dict[str, str]:
    """As the runner reads the file: NAME<<END, lines, END."""
    found, lines = {}, text.splitlines()
    while lines:
        name, end = lines.pop(0).split("<<", 1)
        at = lines.index(end)
        found[name], lines = "\n".join(lines[:at]), lines[at + 1 :]
    return found


def test_outputs_and_summary_are_appended(tmp_path: Path) -> None:
    """REP-GH-4, REP-GH-5."""
    files = {"GITHUB_OUTPUT": tmp_path / "out", "GITHUB_STEP_SUMMARY": tmp_path / "summary"}
    for path in files.values():
        path.write_text("before<<x\n1\nx\n")
    environ = {**ON, **{name: str(path) for name, path in files.items()}}
    odd = "a\nverdict=expected\nverdict<<x"
    report_to_github(reports.rich(), environ, page=odd)
    assert outputs(files["GITHUB_OUTPUT"].read_text()) == {
        "before": "1",
        "verdict": "unexpected",
        "exit-code": "1",
        "report": odd,
    }
    text = files["GITHUB_STEP_SUMMARY"].read_text()
    assert text.startswith("before<<x\n1\nx\n<h2>")
    assert "<code>unit:ssh.service</code>" in text
    report_to_github(reports.rich(), ON)
    assert sorted(os.listdir(tmp_path)) == ["out", "summary"]


@pytest.mark.parametrize("make", [reports.rich, evil, many])
def test_the_summary_is_no_markdown_of_a_guest(make: Callable[[], ReportInput]) -> None:
    """REP-GH-4, REP-SAFE-1, REP-SAFE-2."""
    text = summary(make())
    assert len(text.encode()) < 1_000_000
    # A blank line would end the HTML, and begin Markdown.
    assert "\n\n" not in text.rstrip("\n")
    text = text[:200_000]
    root = html5lib.parseFragment(text, treebuilder="etree", namespaceHTMLElements=False)
    allowed = {"h2", "p", "b", "code", "table", "tbody", "tr", "th", "td", "pre"}
    allowed |= {"details", "summary", "DOCUMENT_FRAGMENT"}
    assert {one.tag for one in root.iter()} <= allowed
    assert {name for one in root.iter() for name in one.attrib} <= {"open"}
    if make is evil:
        assert EVIL[1] in "".join(root.itertext())
