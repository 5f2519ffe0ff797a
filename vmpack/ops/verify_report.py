"""The files that a verification leaves for people and for CI."""

from __future__ import annotations

from dataclasses import replace

from vmpack.ops.verify_record import times_of
from vmpack.ops.verify_request import Request
from vmpack.verify.result import VerifyResult

__all__ = ["write_reports"]


def write_reports(request: Request, result: VerifyResult) -> VerifyResult:
    """Write the folder and the XML that ``request`` names; ``result`` with their paths.

    ``report.json`` in the folder is the result's document, without the XML's path. Raises
    :class:`OutputError`.
    """
    from vmpack.verify.report import ReportInput, filled, write_junit, write_report

    times = {} if result.record is None else times_of(result.record.record)
    report = ReportInput(result, times)
    if request.report is not None:
        write_report(request.report, report)
        result = filled(result, request.report)
    if request.junit is not None:
        path = write_junit(request.junit, report)
        result = replace(result, report=(*result.report, path))
    return result
