"""What a run of GitHub Actions shows of a verification: annotations, a summary, outputs.

Profile: specs/report-v1.md, REP-GH-1 to REP-GH-5. Source: GitHub's documentation of workflow
commands, and how its runner takes lines apart: a command stands at the start of a line after
``::``, and in an older form anywhere in it after ``##[``, so that whatever a guest prints has to
be kept from being one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape as html
from typing import TYPE_CHECKING

from vmpack.errors import from_os_error
from vmpack.verify.report.folder import ReportInput
from vmpack.verify.report.text import clip, sentence
from vmpack.verify.report.view import Cell, unstable, view

if TYPE_CHECKING:
    from vmpack.verify.report.view import Host, Item, View

__all__ = ["github_lines", "in_github", "report_to_github", "stopped_commands"]

MOST = 10
"""Annotations of one sort that GitHub shows of a step; the last one says how many more there are.
"""

SUMMARY = 900_000
"""Bytes of the summary; GitHub takes 1 MiB of all of a step."""

ITEMS = 60
"""Differences of a host in the summary."""

MARKS = {"good": "✅", "bad": "❌", "drift": "〰️", "none": "➖"}  # noqa: RUF001


def in_github(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a step of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def github_lines(report: ReportInput) -> tuple[str, ...]:
    """Lines for stdout, one workflow command each: errors, warnings, one notice if all is well."""
    errors, notices = [], []
    for host in report.result.hosts:
        title = f"vmpack verify: {host.name}: {host.kind}"
        if host.error is not None:
            said = [host.error.get("message"), host.error.get("hint")]
            errors.append((title, [clip(str(word)) for word in said if word]))
        for boot in host.boots:
            if not boot.good:
                tail = [clip(line, 200) for line in boot.ending.console_tail[-5:]]
                errors.append((title, [clip(boot.ending.message), *(f"| {one}" for one in tail)]))
        differences = host.comparison.differences if host.comparison is not None else ()
        errors += [(title, [told]) for told in unstable(host)]
        errors += [(title, [sentence(one), clip(one.cause)]) for one in differences if one.counts]
        if host.exact is not None and not host.exact.good:
            errors.append((title, [clip(host.exact.message)]))
    warnings = [("vmpack verify", [clip(note)]) for note in report.result.notes]
    if report.result.unverified:
        words = clip(" ".join(report.result.unverified))
        warnings.append(("vmpack verify", [f"run with arguments of QEMU that were added: {words}"]))
    if report.result.exit_code == 0:
        count = len(report.result.hosts)
        what = f"as expected on {count} host{'' if count == 1 else 's'}"
        notices.append((f"vmpack verify: {report.result.name or 'machine'}", [what]))
    each = (("error", errors), ("warning", warnings), ("notice", notices))
    return tuple(line for sort, found in each for line in _commands(sort, found))


def _commands(sort: str, found: Sequence[tuple[str, list[str]]]) -> Iterator[str]:
    kept = found if len(found) <= MOST else found[: MOST - 1]
    for title, lines in kept:
        # Titles are one line of a page.
        yield f"::{sort} title={_property(clip(title, 120))}::{_data(lines)}"
    if len(kept) < len(found):
        more = f"and {len(found) - len(kept)} more: see the report"
        yield f"::{sort} title=vmpack verify::{_data([more])}"


def _data(lines: Sequence[str]) -> str:
    return "%0A".join(line.replace("%", "%25") for line in lines if line)


def _property(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")


@contextmanager
def stopped_commands(
    write: Callable[[str], object], environ: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Within it nothing that is printed is a workflow command, as far as GitHub's runner goes.

    ``write`` takes whole lines for stdout and has to pass them on at once. Elsewhere it does
    nothing. A guest's words must never be printed outside of it: they could set secrets' masks,
    outputs and annotations.
    """
    if not in_github(environ):
        yield
        return
    # Whoever knows the word can end it, so that it has to be new each time.
    token = secrets.token_hex(16)
    write(f"::stop-commands::{token}\n")
    try:
        yield
    finally:
        write(f"::{token}::\n")


def report_to_github(
    report: ReportInput,
    environ: Mapping[str, str] = os.environ,
    *,
    page: str | None = None,
    junit: str | None = None,
) -> None:
    """Append the summary and the outputs to the files that GitHub names in its environment.

    The outputs are ``verdict`` (``expected``, ``differs``, ...), ``exit-code``, ``report`` and
    ``junit``: the paths ``page`` and ``junit``, where given. What GitHub does not ask for is not
    written. Raises
    :class:`OutputError`.
    """
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        _append(path, summary(report))
    if path := environ.get("GITHUB_OUTPUT"):
        outputs = {"verdict": report.result.kind, "exit-code": str(report.result.exit_code)}
        paths = {"report": page, "junit": junit}
        outputs |= {name: path for name, path in paths.items() if path is not None}
        _append(path, "".join(_output(name, value) for name, value in outputs.items()))


def _output(name: str, value: str) -> str:
    # A value of several lines would otherwise be able to be further outputs.
    end = f"end-{secrets.token_hex(8)}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _append(path: str, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as exc:
        raise from_os_error(exc, path=path, writing=True) from exc


def summary(report: ReportInput) -> str:
    """The job summary: HTML, of which GitHub's Markdown shows the tables."""
    page = view(report)
    # No blank line may stand within: after one, Markdown would be at work again.
    parts = [f"<h2>{_mark(page.cell)} vmpack verify: {_code(page.title)}</h2>\n"]
    parts.append(f"<p><b>{html(page.cell.text)}</b>: {_code(page.summary)}</p>\n")
    parts += [f"<p>⚠️ {_code(warning)}</p>\n" for warning in page.warnings]
    parts.append(_matrix(page))
    length = sum(map(len, parts))
    for host in page.hosts:
        for text in _details(host):
            length += len(text.encode(errors="backslashreplace"))
            if length > SUMMARY:
                return "".join([*parts, "<p>More is in the report.</p>\n\n"])
            parts.append(text)
    return "".join([*parts, "\n"])


def _mark(cell: Cell) -> str:
    return MARKS[cell.style]


def _code(text: str) -> str:
    return f"<code>{html(text)}</code>"


def _matrix(page: View) -> str:
    head = "".join(f"<th>{_code(host.name)}</th>" for host in page.hosts)
    nothing = Cell("none", "")
    rows = [("result", [host.cell for host in page.hosts])]
    for name, title in page.layers:
        rows.append((title, [host.row.get(name) or nothing for host in page.hosts]))
    lines = [f"<table>\n<tr><th>layer</th>{head}</tr>\n"]
    for title, cells in rows:
        texts = "".join(f"<td>{_mark(cell)} {html(cell.text)}</td>" for cell in cells)
        lines.append(f"<tr><th>{html(title)}</th>{texts}</tr>\n")
    return "".join([*lines, "</table>\n"])


def _details(host: Host) -> Iterator[str]:
    if host.error is not None:
        yield f"<p>{_code(host.name)}: {_code(host.error[0])} {html(host.error[1])}</p>\n"
    for ending in host.endings:
        if ending.cell.style == "bad":
            yield f"<p>{_code(host.name)}, boot {ending.number}: {_code(ending.message)}</p>\n"
            if ending.tail:
                lines = "&#10;".join(html(line) for line in ending.tail[-15:])
                yield f"<pre>{lines}</pre>\n"
    if not host.items:
        return
    yield (
        f"<details open><summary>Differences on {_code(host.name)}</summary>\n<table>\n"
        "<tr><th>layer</th><th>item</th><th>expected</th><th>observed</th><th>usual cause</th></tr>"
        "\n" + "".join(map(_difference, host.items[:ITEMS])) + "</table></details>\n"
    )


def _difference(item: Item) -> str:
    cells = [_code(clip(text, 300)) for text in (item.item, item.expected, item.observed)]
    cells = [html(f"{item.layer}: {item.code}"), *cells, html(item.cause)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
