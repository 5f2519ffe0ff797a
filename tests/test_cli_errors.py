"""What went wrong becomes words, JSON and an exit code in one place."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest

import vmpack
from vmpack import errors
from vmpack.cli.console import Common, Console
from vmpack.cli.errors import exit_code, report, translate
from vmpack.cli.main import COMMANDS
from vmpack.cli.reference import exit_code_table, options_table, refresh

SPEC = Path(vmpack.__file__).parents[1] / "specs" / "cli-v1.md"


def reported(
    exc: BaseException, command: str | None = None, *, output: str = "human", verbose: bool = False
) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    console = Console(Common(output=output, verbose=verbose), stdout=out, stderr=err)
    code = report(exc, console, command)
    return code, out.getvalue(), err.getvalue()


def test_an_error_says_what_where_and_what_next() -> None:
    exc = errors.DamagedError(
        "refcount is 3", path="a.qcow2", offset=65536, field="refcount", clause="QCOW2-5", hint="no"
    )
    assert reported(exc) == (
        5,
        "",
        "vmpack: error: a.qcow2, offset 65536, refcount: refcount is 3 [QCOW2-5]\n  hint: no\n",
    )


def test_the_json_error_has_every_fact() -> None:
    exc = errors.UnsupportedError("encrypted", path="a.qcow2", offset=32, hint="decrypt it")
    code, out, _ = reported(exc, output="json")
    assert code == 4
    assert json.loads(out) == {
        "error": {
            "kind": "unsupported",
            "message": "encrypted",
            "path": "a.qcow2",
            "offset": 32,
            "field": None,
            "clause": None,
            "hint": "decrypt it",
        }
    }


def test_control_characters_from_a_file_never_reach_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x7f\u202e\n\udcff"
    exc = errors.DamagedError(f"snapshot {evil}", path=f"/tmp/{evil}", hint=evil)
    code, out, err = reported(exc, output="json")
    assert code == 5
    assert len(err.splitlines()) == 2
    for text in (err.replace("\n", ""), out.replace("\n", "")):
        assert text.isprintable()
        text.encode("utf-8")
    assert json.loads(out)["error"]["message"] == f"snapshot {evil}"


def test_an_unexpected_exception_asks_for_a_report_and_shows_no_traceback() -> None:
    code, _, err = reported(ValueError("boom"))
    assert code == 1
    assert err.startswith("vmpack: error: unexpected ValueError: boom\n  hint: ")
    assert "please report it" in err
    assert "Traceback" not in err


def test_verbose_shows_the_traceback_of_an_unexpected_exception() -> None:
    try:
        raise ValueError("boom")
    except ValueError as exc:
        _, _, err = reported(exc, verbose=True)
    assert "Traceback (most recent call last)" in err
    assert "test_cli_errors.py" in err


def test_verbose_shows_the_causes_of_an_error() -> None:
    exc = errors.DamagedError("outer")
    exc.__cause__ = ValueError("inner")
    assert "cause" not in reported(exc)[2]
    assert "  cause: ValueError: inner\n" in reported(exc, verbose=True)[2]


@pytest.mark.parametrize(
    ("exc", "kind", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "failed", 1),
        (RecursionError("deep"), "internal", 1),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/a.raw"), "input", 1),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "failed", 1),
    ],
)
def test_exceptions_that_are_not_ours_get_a_kind(exc: BaseException, kind: str, code: int) -> None:
    error = translate(exc)
    assert (error.kind, error.exit_code) == (kind, code)


def test_an_interruption_is_one_line() -> None:
    assert reported(KeyboardInterrupt()) == (130, "", "vmpack: interrupted\n")


def test_an_interruption_is_json_too() -> None:
    _, out, _ = reported(KeyboardInterrupt(), output="json")
    assert json.loads(out)["error"]["kind"] == "interrupted"


@pytest.mark.parametrize(
    ("error", "plain", "check", "compare"),
    [
        (errors.UsageError("x"), 2, 1, 2),
        (errors.InputError("x"), 1, 1, 2),
        (errors.OutputError("x"), 1, 1, 2),
        (errors.UnsupportedError("x"), 4, 63, 4),
        (errors.UnsafeError("x"), 4, 63, 4),
        (errors.DamagedError("x"), 5, 2, 5),
        (errors.InfrastructureError("x"), 125, 125, 125),
        (errors.InterruptError("x"), 130, 130, 130),
    ],
)
def test_exit_codes(error: errors.VmpackError, plain: int, check: int, compare: int) -> None:
    assert exit_code(error, "pack") == plain
    assert exit_code(error, "check") == check
    assert exit_code(error, "compare") == compare


def test_the_specification_has_the_exit_codes_and_options_of_the_code() -> None:
    page = SPEC.read_text(encoding="utf-8")
    assert exit_code_table() in page
    assert options_table("common") in page
    assert refresh(page) == page, "run: python -m vmpack.cli.reference specs/cli-v1.md"


def test_every_kind_of_error_is_in_the_table() -> None:
    table = exit_code_table()
    for kind in ("usage", "input", "output", "unsupported", "unsafe", "damaged", "internal"):
        assert f"| `{kind}` |" in table


def test_the_specification_has_a_section_for_every_command() -> None:
    page = SPEC.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## vmpack {name}\n" in page
        assert options_table(name) in page
