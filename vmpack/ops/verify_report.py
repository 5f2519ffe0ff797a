"""The files that a verification leaves for people and for CI."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from vmpack.ops.verify_record import times_of
from vmpack.ops.verify_request import Request
from vmpack.verify.result import VerifyResult

if TYPE_CHECKING:
    from vmpack.verify.report import ReportInput

__all__ = ["report_input", "tell_github", "write_reports"]


def report_input(result: VerifyResult) -> ReportInput:
    """``result`` as the writers of reports take it."""
    from vmpack.verify.report import ReportInput

    return ReportInput(result, {} if result.record is None else times_of(result.record.record))


def write_reports(request: Request, result: VerifyResult) -> VerifyResult:
    """Write the folder and the XML that ``request`` names; ``result`` with their paths.

    ``report.json`` in the folder is the result's document, without the XML's path. Raises
    :class:`OutputError`.
    """
    from vmpack.verify.report import filled, write_junit, write_report

    report = report_input(result)
    if request.report is not None:
        write_report(request.report, report)
        result = filled(result, request.report)
    if request.junit is not None:
        path = write_junit(request.junit, report)
        result = replace(result, report=(*result.report, path))
    return result


def tell_github(request: Request, result: VerifyResult) -> tuple[str, ...]:
    """Write the step's summary and outputs; the annotations, lines for stdout.

    Raises :class:`OutputError`.
    """
    from vmpack.verify.report import github_lines, report_to_github

    report = report_input(result)
    page = None if request.report is None else os.path.join(request.report, "index.html")
    junit = None if request.junit is None else os.fspath(request.junit)
    report_to_github(report, page=page, junit=junit)
    return github_lines(report)
