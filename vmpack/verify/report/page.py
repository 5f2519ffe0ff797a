"""The page: one HTML file that asks for nothing else and runs no script.

Profile: specs/report-v1.md, REP-PAGE-1 to REP-PAGE-9.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from vmpack.verify.report.folder import ReportInput
from vmpack.verify.report.view import view

__all__ = ["page"]


def page(report: ReportInput) -> str:
    """The report as an HTML document."""
    from jinja2 import BaseLoader, Environment, StrictUndefined

    from vmpack import __version__

    # Whatever a template places is escaped for HTML: autoescape, and no text is marked as safe but
    # the style sheet, which is ours.
    environment = Environment(
        loader=BaseLoader(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "\n" + _text("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    document = environment.from_string(_text("page.html.j2")).render(
        view=view(report), style=style, style_digest=digest, version=__version__
    )
    return document.strip() + "\n"


def _text(name: str) -> str:
    return files("vmpack.verify.report").joinpath(name).read_text(encoding="utf-8")
