"""The report's folder and its page: whole, valid, safe from guests, and seen in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest

from tests.support import reports
from tests.support.browser import CONTROL, Visit, measure, screenshot
from vmpack.runner.left_open import LeftOpen
from vmpack.verify.checks import CheckResult
from vmpack.verify.compare import compare
from vmpack.verify.model import Difference, HostFacts
from vmpack.verify.record import read_record
from vmpack.verify.report import ReportInput, filled, write_report
from vmpack.verify.report.folder import folder_names
from vmpack.verify.report.page import page
from vmpack.verify.report.pictures import LARGEST, Budget
from vmpack.verify.result import HostResult

SPACE = "{http://www.w3.org/1999/xhtml}"
HEADINGS = ("h1", "h2", "h3", "h4")
EVIL = (
    "<script>alert(1)</script>",
    '"><img src="https://example.org/x" onerror="alert(1)">',
    "</style></title></textarea><svg onload=alert(1)>",
    "'; alert(1) //",
    "{{ 7 * 7 }}{% include 'x' %}",
    "]]><!-- \x00\x1b]0;owned\x07\x9b31m\u202egnp.exe\ud800",
    "javascript:alert(1)",
)


@cache
def evil() -> ReportInput:
    """Every text that a guest, a host or a bundle can choose is an attack."""
    bad = " ".join(EVIL)
    console = "\n".join([*EVIL, "same"]).encode(errors="surrogatepass") + b"\xff\xfe\r\n"
    expected = reports.observation(guest={bad: bad, "unit:<b>": "active"})
    seen = reports.observation(console, guest={bad: [bad], f"unit:{bad}": {bad: None}})
    boot = reports.boot(
        "unexpected",
        bad,
        times={bad: 100, "login": 200},
        missing=(bad,),
        seen=seen,
        console=console,
        picture=b"\x89PNG\r\n\x1a\n<script>",
        console_tail=EVIL,
        stderr="\n".join(EVIL),
        checks=[
            CheckResult(bad, "command", "failed", bad, 1.0, picture=bad.encode("utf-16", "replace"))
        ],
    )
    boot = replace(boot, problems=EVIL, accel_reason=bad)
    host = replace(reports.host(bad, [boot], expected), notes=EVIL)
    assert host.comparison is not None
    own = Difference("guest", "changed", bad, bad, {bad: [bad]}, "exact", bad)
    host = replace(
        host, comparison=replace(host.comparison, differences=(own, *host.comparison.differences))
    )
    error = {"kind": bad, "message": bad, "hint": bad}
    return reports.report(
        host, HostResult(bad, error=error), expected=expected, name=bad, notes=EVIL, unverified=EVIL
    )


@cache
def many() -> ReportInput:
    """More of everything than a page can show."""
    lines = "".join(f"line {n} {'x' * 300} &<>\n" for n in range(7000)).encode()
    expected = reports.observation(b"common\n")
    seen = reports.observation(lines)
    boots = [reports.boot(seen=seen, times={f"m{n}": n for n in range(500)})] * 100
    host = reports.host("here", boots, expected)
    assert host.comparison is not None
    wrong = [
        Difference("guest", "missing", f"unit:{n}", "&" * 5000, None, "exact", "<" * 5000)
        for n in range(3000)
    ]
    host = replace(host, comparison=replace(host.comparison, differences=tuple(wrong)))
    return reports.report(*[replace(host, name=f"h{n}") for n in range(3)], expected=expected)


def parsed(report: ReportInput) -> Element:
    """The page's tree; an error of the standard's parser is raised (REP-PAGE-2)."""
    parser = html5lib.HTMLParser(strict=True)
    root = parser.parse(page(report))
    assert isinstance(root, Element)
    return root


def named(root: Element, *names: str) -> Iterator[Element]:
    wanted = {SPACE + name for name in names}
    return (one for one in root.iter() if one.tag in wanted)


def text_of(one: Element) -> str:
    return " ".join(" ".join(one.itertext()).split())


def test_the_folder_holds_it_all(tmp_path: Path) -> None:
    """REP-DIR-2, REP-DIR-3, REP-SAFE-3."""
    report = reports.rich()
    paths = write_report(tmp_path / "a" / "new", report)
    folder = tmp_path / "a" / "new"
    assert sorted(paths) == sorted(str(each) for each in folder.rglob("*") if each.is_file())
    names = [str(Path(path).relative_to(folder)) for path in paths]
    assert names[-2:] == ["report.json", "index.html"]
    assert "laptop/boot-1.qemu.txt" in names
    assert "laptop/boot-1.screen.png" in names
    document = json.loads((folder / "report.json").read_text())
    assert document == json.loads(json.dumps(filled(report.result, folder).as_dict()))
    assert document["hosts"][1]["artefacts"] == [
        each for each in names if each.startswith("laptop")
    ]
    one = read_record(folder / "laptop" / "boot-1.observation.json")
    assert one.observation.layers["guest"]["unit:ssh.service"] == "failed"
    assert (
        (folder / "bookworm" / "boot-1.console.txt").read_text().startswith("[    0.000000] Linux")
    )
    before = {path: Path(path).read_bytes() for path in paths}
    (folder / "mine").touch()
    assert write_report(folder, report) == paths
    assert {path: Path(path).read_bytes() for path in paths} == before
    assert (folder / "mine").exists()


def test_names_of_hosts_are_made_safe() -> None:
    """REP-DIR-1."""
    names = (
        "../../etc",
        "a/b",
        "a b",
        "A-B",
        "..",
        "",
        "index.html",
        "report.json",
        "x" * 300,
        "é",
    )
    made = folder_names(tuple(HostResult(name) for name in names))
    assert made[:4] == ("etc", "a-b", "a-b-2", "A-B-3")
    assert made[4:8] == ("host", "host-2", "index.html-2", "report.json-2")
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,70}", name) for name in made)
    assert len({name.casefold() for name in made}) == len(names)


@pytest.mark.parametrize("make", [reports.rich, evil, reports.report])
def test_the_page_is_valid(make: Callable[[], ReportInput]) -> None:
    """REP-PAGE-2, REP-PAGE-9, REP-SAFE-3: no error, one h1, no level left out, links that lead."""
    report = make()
    root = parsed(report)
    levels = [int(one.tag[-1]) for one in named(root, *HEADINGS)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [one.tag.removeprefix(SPACE) for one in named(root, "main", "footer")] == [
        "main",
        "footer",
    ]
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(ids) == len(set(ids))
    links = [one.get("href") or "" for one in named(root, "a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(one.get("alt") for one in named(root, "img"))
    assert page(make()) == page(report)


def test_what_the_page_tells() -> None:
    """REP-PAGE-3, REP-PAGE-4, REP-PAGE-5, REP-PAGE-6."""
    root = parsed(reports.rich())
    text = text_of(root)
    for words in (
        "1 of 3 hosts did what is expected. laptop: check disk failed: exit code 1, expected 0",
        "Run with arguments of QEMU that were added: -device e1000",
        "what the guest reports unit:ssh.service changed expected active observed failed",
        "ssh.service fails now",
        "✗ never (record 5.4 s)",
        "1.1 s (record 0.9 s)",
        "1 only in the record (−), 1 only in this boot (+)",  # noqa: RUF001
        "− driver cdrom: ready",  # noqa: RUF001
        "+ cdrom: timeout waiting for medium",
        "there is no swtpm apt-get install swtpm",
        "1 difference where nothing is promised",
        "TCG doesn't support requested feature",
    ):
        assert words in text, words
    alts = [one.get("alt") or "" for one in named(root, "img")]
    assert "The screen “end” of the record, 720 by 400 pixels" in alts
    assert len(alts) == 5
    opened = [text_of(one)[:30] for one in named(root, "details") if one.get("open") is not None]
    assert [words[:11] for words in opened] == ["Last lines ", "What QEMU s"]


def test_nothing_of_a_guest_is_markup() -> None:
    """REP-SAFE-1, REP-PAGE-1: whatever a guest says is text, without control characters."""
    safe, attacked = parsed(reports.rich()), parsed(evil())
    known = {one.tag for one in safe.iter()}
    assert {one.tag for one in attacked.iter()} <= known
    names = {name for one in safe.iter() for name in one.attrib}
    assert {name for one in attacked.iter() for name in one.attrib} <= names
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert "script" not in {tag.removeprefix(SPACE) for tag in known}
    assert all(
        (one.get("src") or "").startswith("data:image/png;") for one in named(attacked, "img")
    )
    for one in named(attacked, "a"):
        assert re.fullmatch(r"#[\w-]+|[\w.-]+/[\w.-]+", one.get("href") or ""), one.get("href")
    text = text_of(attacked)
    for words in EVIL[:5]:
        assert words in text
    assert "\\x1b]0;owned\\x07" in text
    source = page(evil())
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", source
    )
    assert "49" not in re.findall(r"\{\{|49", text)


def test_a_page_has_its_size() -> None:
    """REP-SAFE-2: what is left out is said."""
    source = page(many())
    assert len(source) < 12_000_000
    assert "And 2700 more: see report.json" in source
    assert "And 384 more: see report.json" in source
    assert source.count("The rest is too long for this page") == 3


def test_pictures_are_looked_at_before_a_browser_does() -> None:
    """REP-PAGE-6, REP-SAFE-2."""
    budget = Budget()
    good = reports.png()
    uri = budget.picture(good, "x").uri
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == good
    for bad in (b"", b"<svg>", good[:20], good[:16] + b"\x7f" + good[17:], good[:16] + bytes(8)):
        assert budget.picture(bad, "x").uri == ""
    assert budget.picture(good + bytes(LARGEST), "x").why.startswith("it is too large")
    small = Budget(len(good))
    assert [bool(small.picture(good, "x").uri) for _ in range(2)] == [True, False]


def test_a_policy_forbids_what_the_page_does_not_need() -> None:
    """REP-PAGE-1."""
    root = parsed(evil())
    (policy,) = [
        one.get("content") or ""
        for one in named(root, "meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    (style,) = named(root, "style")
    assert "url(" not in (style.text or "")
    assert "@import" not in (style.text or "")


def luminance(colour: str) -> float:
    """Of WCAG 2: relative luminance of ``#rrggbb``."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def schemes() -> list[dict[str, str]]:
    (style,) = named(parsed(reports.report()), "style")
    found = re.findall(r":root \{(.*?)\}", style.text or "", re.S)
    light, dark = (dict(re.findall(r"--(\S+): (#\w+);", block)) for block in found[:2])
    return [light, {**light, **dark}]


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast(scheme: int) -> None:
    """REP-PAGE-7."""
    colours = schemes()[scheme]
    tints = [f"{name}-tint" for name in ("good", "bad", "drift", "none")]
    on = {
        name: ["page", "card"] for name in ("text", "soft", "link", "old", "good", "bad", "drift")
    }
    on["text"] += ["sunk", *tints]
    on["soft"] += ["sunk", "bad-tint"]
    for name in ("good", "bad", "drift", "none"):
        on.setdefault(name, []).append(f"{name}-tint")
    for name, backgrounds in on.items():
        for background in backgrounds:
            low, high = sorted((luminance(colours[name]), luminance(colours[background])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, name, background)


@pytest.fixture(scope="module", params=["light", "dark"])
def visit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp(request.param)
    wide = reports.report(
        *[replace(host, name=f"{host.name}-{n}") for n in range(4) for host in evil().result.hosts],
        expected=reports.observation(),
    )
    for name, report in (("rich", reports.rich()), ("evil", evil()), ("wide", wide)):
        write_report(folder / name, report)
    pages = [folder / name / "index.html" for name in ("rich", "evil", "wide")]
    return measure(folder, pages, (375, 1200), dark=request.param == "dark")


def test_a_browser_shows_it(visit: Visit) -> None:
    """REP-PAGE-1, REP-PAGE-7, REP-PAGE-8: in light and dark, on a phone and a desk."""
    # What the measuring page itself does shows that requests and messages would be seen.
    assert visit.requests == {CONTROL}
    assert [line for line in visit.console if "control: this is seen" not in line] == []
    assert len(visit.console) == 1
    backgrounds = {frame["background"] for frame in visit.frames}
    assert len(backgrounds) == 1
    colours = ["rgb({}, {}, {})".format(*bytes.fromhex(each["page"][1:])) for each in schemes()]
    assert backgrounds <= set(colours)
    for frame in visit.frames:
        assert frame["scripts"] == 0
        assert frame["scrolls"] <= frame["width"], frame
        assert frame["wide"] == []
        assert all(frame["pictures"])
    assert sum(bool(frame["pictures"]) for frame in visit.frames) == 6


def test_light_and_dark_are_drawn(tmp_path: Path) -> None:
    """REP-PAGE-7: the pixels themselves."""
    from PIL import Image

    (tmp_path / "page.html").write_text(page(reports.rich()))
    for dark in (False, True):
        picture = screenshot(tmp_path, tmp_path / "page.html", (375, 900), dark=dark)
        with Image.open(picture) as image:
            drawn = image.convert("RGB")
            data = drawn.tobytes()
        colours = {f"#{data[at : at + 3].hex()}" for at in range(0, len(data), 3)}
        assert {schemes()[dark][name] for name in ("card", "text", "bad-tint")} <= colours


def test_the_boot_that_differs_is_shown() -> None:
    """REP-PAGE-3: and beside it the screen of one that went wrong."""
    same, other = reports.observation(), reports.observation(b"only in the second\n")
    boots = [
        reports.boot(seen=one, picture=reports.png(text))
        for one, text in ((same, "1"), (other, "2"), (same, "3"))
    ]
    boots.append(reports.boot("panic", "the guest panicked", picture=reports.png("oops")))
    host = HostResult("here", tuple(boots), compare(same, other))
    source = page(reports.report(host, expected=same))
    assert "only in the second" in source
    assert "boot 4: end" in source
    assert source.count("<img ") == 3
    opened = LeftOpen("tables", "QEMU writes them", "pin them")
    assert "QEMU writes them pin them" in page(reports.report(replace(host, left_open=(opened,))))


def test_the_record_may_be_of_another_machine() -> None:
    report = reports.rich()
    assert report.result.record is not None
    other = replace(report.result, record=replace(report.result.record, same_machine=False))
    assert "the record is of another machine" in page(replace(report, result=other))
    assert HostFacts("1", "tcg", "x").name == "here"
