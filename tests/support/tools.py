"""Tools that a test needs: found, or the test is skipped here and fails in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NoReturn

import pytest

SBIN = ("/usr/sbin", "/sbin")
"""Debian keeps mke2fs and the like here, off an ordinary user's PATH."""


def in_ci() -> bool:
    """CI sets ``CI=true``: there a missing tool is a failure, never a skip."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(what: str, hint: str) -> NoReturn:
    """Skip the running test, visibly; in CI fail it. The one place of the suite that skips."""
    message = f"{what} is missing: {hint}"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def find_tool(name: str) -> str | None:
    """Path of an installed program, or None."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, *SBIN]))


def require_tool(name: str) -> str:
    """Path of an installed program; without it the test is skipped here and fails in CI."""
    return find_tool(name) or missing(name, "run `make setup`")


def run(
    argv: Sequence[object],
    *,
    timeout_s: float = 60,
    check: bool = True,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. ``check`` turns a non-zero exit into an error that shows stderr.

    ``argv`` are strings and paths. ``env`` is added to this process's environment.
    """
    done = subprocess.run(
        [str(word) for word in argv],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
    )
    if check and done.returncode:
        shown = " ".join(str(word) for word in argv)
        text = (done.stderr + done.stdout).decode(errors="replace")
        raise AssertionError(f"exit code {done.returncode} of: {shown}\n{text}")
    return done
