"""Shows what became of each field of a machine that moved between hypervisors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmpack.binary import escape

if TYPE_CHECKING:
    from vmpack.ops.lint_codes import LintFinding

MOST = 40
"""Fields that the terminal shows of each kind; ``--report`` and ``--output json`` have all."""


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines about an import, an export, or both."""
    parts = [report] if "items" in report else [report[key] for key in ("import", "export")]
    for part in parts:
        yield from _part(part)


def _part(part: Mapping[str, Any]) -> Iterator[str]:
    what = "from" if part["direction"] == "import" else "to"
    counts = ", ".join(f"{part[name]} {name}" for name in ("kept", "approximated", "dropped"))
    yield f"fields {what} {escape(part['hypervisor'])}: {counts}"
    for verdict in ("approximated", "dropped"):
        items = [one for one in part["items"] if one["verdict"] == verdict]
        for one in items[:MOST]:
            yield f"  {verdict}  {escape(one['field'])}: {escape(one.get('detail', ''))}"
        if len(items) > MOST:
            yield f"  and {len(items) - MOST} more {verdict}; --report FILE has them all"


def finding_lines(findings: Sequence[LintFinding]) -> Iterator[str]:
    """Lines about what lint found: what it is, and below it what to do."""
    for one in findings[:MOST]:
        yield f"{one.severity}: {one.code}: {escape(one.message)}"
        yield f"  {one.hint}"
    if len(findings) > MOST:
        yield f"and {len(findings) - MOST} more findings; --output json has them all"
