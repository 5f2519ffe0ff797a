"""Command lines: what is understood, and what is said about what is not."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmpack.cli.main import COMMANDS, load, run
from vmpack.cli.options import COMMON, format_options, pairs
from vmpack.cli.parser import parse
from vmpack.errors import UsageError


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("", "no command is given", "vmpack --help"),
        ("pakc x", "no such command: pakc", "did you mean pack"),
        ("frobnicate", "no such command: frobnicate", "vmpack --help"),
        ("pack a.raw --forse -o b", "no such option: --forse", "did you mean --force"),
        ("--verison", "no such option: --verison", "did you mean --version"),
        ("info -z x", "no such option: -z", "vmpack info --help"),
        ("info", "PATH is missing", "vmpack info --help"),
        ("info a b", "unexpected argument: b", "vmpack info --help"),
        ("info a --output xml", "--output: 'xml' is none of human, json", "vmpack info --help"),
        ("info a --output", "--output: a value is missing", "vmpack info --help"),
        ("pack a --output b.vmpack", "--output: 'b.vmpack' is none", "given with -o"),
        ("info a --digest=yes", "--digest: takes no value", "info --help"),
        ("convert a b -m none", "-m: 'none' is not a positive whole number", None),
        ("convert a b -m 0", "-m: '0' is not a positive whole number", None),
        ("convert a b -o compat=", "-o: 'compat=' is not KEY=VALUE", "write -o KEY=VALUE"),
        ("convert a b -o a=1,a=2", "-o: 'a' is given twice", None),
        ("convert a b --max-size 12X", "--max-size: '12X' is not a size", "powers of 1024"),
        ("create a.raw 1.0001K -O raw", "SIZE: '1.0001K' is not a whole number", "powers of"),
        ("create a.raw 1G", "-O: no format is named", "-O qcow2"),
        ("measure -O raw", "PATH: measure takes a PATH or --size", "measure --help"),
        ("measure a --size 1G -O raw", "PATH: measure takes a PATH or --size", None),
        ("info a -zq", "no such option: -z", "vmpack info --help"),
        ("pack a -o --force", "-o: a value is missing: --force is an option", "pack --help"),
        ("pack a -o", "-o: a value is missing", "vmpack pack --help"),
        ("--show-completion tcsh", "--show-completion: 'tcsh' is none of bash", "name a shell"),
        ("pack -o b.vmpack", "SOURCE: nothing to pack", "name one or more"),
        ("pack a.raw", "-o: no bundle to write is named", "-o NAME.vmpack"),
        ("pack --disk root -o b.vmpack", "--disk: 'root' is not ID=PATH", "write --disk ID=PATH"),
        ("unpack a.vmpack", "-o: no folder to write is named", "-o DIR"),
        ("unpack a.vmpack -o d --to floppy", "--to: 'floppy' is none of raw, qcow2", None),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line_with_a_hint(
    words: str, message: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, *rest = err.splitlines()
    assert first.startswith(f"vmpack: error: {message}")
    if hint is not None:
        assert rest == [next(line for line in rest if line.startswith("  hint: "))]
        assert hint in rest[0]


@pytest.mark.parametrize(
    "words",
    ["--output json info", "info --output json", "info --output=json --bogus", "map --output json"],
)
def test_a_usage_error_is_json_too(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words.split()) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert list(document) == ["error"]
    assert set(document["error"]) == {
        "kind", "message", "path", "offset", "field", "clause", "hint",
    }  # fmt: skip
    assert document["error"]["kind"] == "usage"
    assert err.startswith("vmpack: error: ")


def test_after_two_dashes_words_are_paths() -> None:
    arguments = parse(load("info"), ["--digest", "--", "--output=json"])
    assert arguments.path == "--output=json"
    assert arguments.digest
    assert arguments.output is None


def test_options_and_arguments_may_be_mixed() -> None:
    arguments = parse(load("pack"), ["a.raw", "-o", "x.vmpack", "b.raw", "--force", "c.raw"])
    assert arguments.sources == ["a.raw", "b.raw", "c.raw"]
    assert arguments.bundle == "x.vmpack"


def test_common_options_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--output", "json", "info", "/nonexistent/disk.raw"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "input"


def test_what_stands_after_the_command_wins(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--output", "json", "info", "/nonexistent/a.raw", "--output", "human"]) == 1
    assert capsys.readouterr().out == ""


def test_check_says_1_about_usage_as_qemu_img_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 1
    assert "PATH is missing" in capsys.readouterr().err


def test_compare_never_says_1_about_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "/nonexistent/a.raw", "/nonexistent/b.raw"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, summary in COMMANDS.items():
        assert re.search(rf"\b{name} +{re.escape(summary)}", out)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("way", ["--help", "-h"])
def test_help_of_a_command_tells_all_its_options(
    name: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--force", way, "--bogus"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    for argument in (*load(name).arguments, *COMMON):
        assert argument.shown in words
        for choice in argument.choices:
            assert choice in words


def test_a_command_is_the_module_of_its_name() -> None:
    assert [load(name).name for name in COMMANDS] == list(COMMANDS)


def test_an_option_means_the_same_in_every_command() -> None:
    seen: dict[str, tuple[str, str]] = {}
    # The few whose value is the command's own: what to write to, and the form of it.
    # (qemu-img compare has its own --strict.)
    own = {"-o", "--to", "--report", "--strict"}
    for name in COMMANDS:
        for argument in load(name).arguments:
            for flag in set(argument.flags) - own:
                assert seen.setdefault(flag, (argument.name, argument.help)) == (
                    argument.name,
                    argument.help,
                )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a=1"], {"a": "1"}),
        (["a=1,b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=x,,y"], {"a": "x,y"}),
        (["a=b=c"], {"a": "b=c"}),
        (["a,b=2"], {"a": "on", "b": "2"}),
    ],
)
def test_format_options_are_qemu_imgs(texts: list[str], expected: dict[str, str]) -> None:
    assert format_options(texts) == expected


@pytest.mark.parametrize("text", ["", "=x", "x=", "x"])
def test_pairs_need_both_sides(text: str) -> None:
    with pytest.raises(UsageError, match="is not ID=PATH"):
        pairs([text], flag="--disk", what="ID=PATH")


FLAGS = sorted({flag for name in COMMANDS for a in load(name).arguments for flag in a.flags})
READING = ("info", "check", "compare", "map", "measure")
WORDS = st.one_of(
    st.sampled_from([*FLAGS, "--output", "--output=json", "json", "-q", "-v", "--", "a=b", "1G"]),
    st.text(st.characters(exclude_characters="/\0"), max_size=8),
)


@given(st.lists(st.sampled_from(READING), max_size=1), st.lists(WORDS, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_command_line_ends_in_an_exit_code_and_printable_words(
    command: list[str], words: list[str]
) -> None:
    words = [word for word in words if word not in {"-", "-h", "--help"}]
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    # A folder without files: every word that is taken as a path names nothing.
    os.chdir("/proc/self/task")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*command, *words])
    finally:
        os.chdir(before)
    assert code in {0, 1, 2, 4, 63}
    assert "unexpected" not in err.getvalue().replace("unexpected argument", "")
    assert all(line.isprintable() for line in (err.getvalue() + out.getvalue()).split("\n"))
    if code and out.getvalue():
        assert set(json.loads(out.getvalue())) == {"error"}
