"""The command line: parse, call one function of :mod:`vmpack.ops`, print, exit.

Nothing here is library: options, JSON documents and exit codes are the contract that
``specs/cli-v1.md`` writes down. Each command is one module, imported when it is invoked.
:data:`app` is the whole of it as a ``typer.Typer``, for programs that want to embed or document it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    app: typer.Typer

__all__ = ["app"]


def __getattr__(name: str) -> object:
    # On first use (PEP 562): typer costs more than most commands take.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vmpack.cli.typer_app import app

    return app
