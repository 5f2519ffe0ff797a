"""What a verification found, for people and for CI: a folder, a page, JUnit's XML, GitHub's own.

Profile: specs/report-v1.md. Every text in a result may be a hostile guest's, or another host's:
each writer here escapes for the place that it writes to, and bounds what it takes.
"""

from vmpack.verify.report.folder import ReportInput, filled, write_report
from vmpack.verify.report.github import github_lines, in_github, report_to_github, stopped_commands
from vmpack.verify.report.junit import junit, write_junit

__all__ = [
    "ReportInput",
    "filled",
    "github_lines",
    "in_github",
    "junit",
    "report_to_github",
    "stopped_commands",
    "write_junit",
    "write_report",
]
