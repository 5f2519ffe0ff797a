"""``vmpack.cli.app``, the typer app, and the program's own parser: one command line, read twice."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from tests.support.disks import random_disk
from vmpack import cli
from vmpack.cli.main import COMMANDS, ROOT_OPTIONS, load, run, understand
from vmpack.cli.options import COMMON, HELP, Argument, Command, option
from vmpack.cli.typer_app import build
from vmpack.errors import UsageError

SEEN: list[tuple[str, dict[str, object]]] = []
"""What the commands of :data:`RECORDER` were called with."""


def record(command: Command, values: SimpleNamespace) -> int:
    SEEN.append((command.name, vars(values)))
    return 0


RECORDER: Any = get_command(build(record))


def by_typer(words: list[str]) -> tuple[str, dict[str, object]] | None:
    """The command and its values as typer reads the line, ``None`` where it refuses."""
    SEEN.clear()
    code = RECORDER.main(words, "vmpack", standalone_mode=False)
    assert code in (0, 1, 2)
    return SEEN[0] if SEEN and code == 0 else None


def by_vmpack(words: list[str]) -> tuple[str, dict[str, object]] | None:
    """The same as the program reads it."""
    try:
        command, values, _ = understand(words)
    except UsageError:
        return None
    assert command is not None
    return command.name, vars(values)


def flags_of(parameters: list[Any]) -> dict[str, set[str]]:
    return {each.name: set(each.opts) for each in parameters if each.param_type_name == "option"}


def test_typer_has_the_commands() -> None:
    assert list(RECORDER.commands) == list(COMMANDS)
    assert isinstance(cli.app, typer.Typer)


def test_the_root_has_the_declared_options() -> None:
    context = typer.Context(RECORDER, info_name="vmpack", help_option_names=list(HELP.flags))
    declared = {each.name: set(each.flags) for each in (*ROOT_OPTIONS, HELP)}
    assert flags_of(RECORDER.get_params(context)) == declared


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_declared_arguments(name: str) -> None:
    params = {each.name: each for each in RECORDER.commands[name].params}
    declared = {each.name: each for each in (*load(name).arguments, *COMMON)}
    assert set(params) == set(declared)
    for key, argument in declared.items():
        param = params[key]
        if not argument.flags:
            assert param.param_type_name == "argument"
            assert param.required == (not argument.optional and not argument.many)
            assert param.nargs == (-1 if argument.many else 1)
        else:
            assert param.opts == list(argument.flags)
            assert param.is_flag == argument.is_switch
            assert param.multiple == argument.many
            assert not param.required
            assert not param.secondary_opts
        if argument.metavar:
            assert param.metavar == argument.metavar


LINES = [
    "info a.raw",
    "info --digest a.raw -f raw",
    "info -fraw a.raw -qv --output=json",
    "--output json info a.raw",
    "--output json -q info a.raw --output human",
    "pack a b -o c --force d --level -5 --cluster-size 64K",
    "pack -oc --disk root=a --disk=data=b --blob x=y",
    "convert a b -o k=v -o k=w -cp -m2 -nO raw",
    "convert - x -f raw --max-size 1.5G",
    "check -- --full",
    "compare a b -F raw -f qcow2",
    "measure --size 1G -O raw",
    "create a 10M -O raw --force",
]


@pytest.mark.parametrize("line", LINES)
def test_both_understand_the_same(line: str) -> None:
    read = by_vmpack(line.split())
    assert read is not None
    assert by_typer(line.split()) == read


REFUSED = [
    "",
    "info",
    "info a b",
    "info a --bogus",
    "info a -zq",
    "info a --digest=1",
    "info a --output",
    "info a --output xml",
    "info a -f --digest",
    "infos a",
    "--bogus info a",
    "create a ten -O raw",
    "convert a b -m 0",
]


@pytest.mark.parametrize("line", REFUSED)
def test_both_refuse_the_same_in_the_same_words(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    said = capsys.readouterr()
    assert RECORDER.main(line.split(), "vmpack", standalone_mode=False) == 2
    assert capsys.readouterr() == said


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


def value_of(argument: Argument) -> st.SearchStrategy[str]:
    if argument.choices:
        return st.sampled_from(argument.choices) | TEXT
    return st.sampled_from(["1G", "512", "3", "-2", "a=b", "x.raw", "-", ""]) | TEXT


def said(argument: Argument) -> st.SearchStrategy[list[str]]:
    """One way to say an option."""
    flags = st.sampled_from(argument.flags)
    if argument.is_switch:
        return flags.map(lambda flag: [flag])
    together = st.tuples(flags, value_of(argument)).map(
        lambda pair: [f"{pair[0]}={pair[1]}" if pair[0].startswith("--") else "".join(pair)]
    )
    return st.tuples(flags, value_of(argument)).map(list) | together


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Command lines made of what is declared, and a little of what is not."""
    before = draw(st.lists(st.sampled_from(COMMON).flatmap(said), max_size=1))
    name = draw(st.sampled_from(list(COMMANDS)))
    arguments = [each for each in (*load(name).arguments, *COMMON) if each.flags]
    some = st.one_of(
        st.sampled_from(arguments).flatmap(said),
        st.sampled_from(["a.raw", "1G", "-", "--", "--bogus", "-z", ""]).map(lambda word: [word]),
        TEXT.map(lambda word: [word]),
    )
    after = draw(st.lists(some, max_size=6))
    words = chain(*before, [name], *after)
    return [word for word in words if word not in HELP.flags]


@given(lines())
@settings(max_examples=300, deadline=None)
def test_both_read_any_line_alike(words: list[str]) -> None:
    if any(word.startswith("-") and not word.startswith("--") and "h" in word for word in words):
        return  # -qh is help too, which typer shows at once
    assert by_typer(words) == by_vmpack(words)


def test_the_app_runs_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_disk(tmp_path / "disk.raw", 1 << 16)
    words = ["info", str(tmp_path / "disk.raw"), "--output", "json"]
    assert run(words) == 0
    expected = json.loads(capsys.readouterr().out)
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0
    assert json.loads(done.stdout) == expected


def test_the_app_has_the_exit_codes_and_the_words_of_the_program(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check", str(tmp_path / "none.raw")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"vmpack: error: {tmp_path}/none.raw: no such file")
    done = CliRunner().invoke(cli.app, ["info", "--forse", "--output", "json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["kind"] == "usage"
    assert CliRunner().invoke(cli.app, ["--version"]).stdout.startswith("vmpack ")


def test_brackets_in_help_are_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = option("--odd", name="odd", help="a [bold]K=V[/bold] pair, [x] or [/]")
    strange = load("map")._replace(about="Map [red]all[/red].", arguments=(odd,))
    monkeypatch.setattr("vmpack.cli.map.COMMAND", strange)
    get_command(build()).main(["map", "--help"], "vmpack", standalone_mode=False)
    out = capsys.readouterr().out
    assert "a [bold]K=V[/bold] pair, [x] or [/]" in out
    assert "Map [red]all[/red]." in out
