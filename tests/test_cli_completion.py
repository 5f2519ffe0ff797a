"""Shell completion: the scripts do in the shells what they promise."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tools import find_tool, run
from vmpack.cli.app import COMMANDS
from vmpack.cli.app import run as vmpack
from vmpack.cli.completion import script


def complete(line: str, tmp_path: Path) -> list[str]:
    """What bash offers for the last word of ``line``."""
    words = line.split(" ")
    path = tmp_path / "completion.bash"
    path.write_text(script("bash"))
    code = (
        f"source {shlex.quote(str(path))}; COMP_WORDS=({shlex.join(words)}); "
        f'COMP_CWORD={len(words) - 1}; _vmpack; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = run(["bash", "--norc", "-c", code], cwd=tmp_path)
    assert done.stderr == b""
    return sorted(done.stdout.decode().split())


def test_bash_offers_the_commands(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    require_tool("bash")
    assert set(COMMANDS) <= set(complete("vmpack ", tmp_path))
    assert complete("vmpack un", tmp_path) == ["unpack"]
    assert complete("vmpack co", tmp_path) == ["compare", "convert"]


def test_bash_offers_options_and_their_values(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    require_tool("bash")
    assert complete("vmpack pack --cl", tmp_path) == ["--cluster-size"]
    assert complete("vmpack info --output ", tmp_path) == ["human", "json"]
    assert complete("vmpack --output ", tmp_path) == ["human", "json"]
    assert complete("vmpack --output json un", tmp_path) == ["unpack"]
    assert complete("vmpack pack a.raw --identity d", tmp_path) == ["derive"]


def test_bash_offers_files(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    require_tool("bash")
    (tmp_path / "disk.raw").touch()
    assert complete("vmpack info di", tmp_path) == ["disk.raw"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_script(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    assert all(name in text for name in COMMANDS)
    if find_tool(shell):
        path = tmp_path / f"completion.{shell}"
        path.write_text(text)
        # zsh's bashcompinit needs compinit's functions, as a user's .zshrc has them.
        before = "autoload -Uz compinit && compinit -u; " if shell == "zsh" else ""
        done = run([shell, "-c", f"{before}source {path}"], env={"HOME": str(tmp_path)})
        assert done.stderr == b""


def test_fish_offers_the_commands(tmp_path: Path) -> None:
    if find_tool("fish"):
        path = tmp_path / "completion.fish"
        path.write_text(script("fish"))
        done = run(["fish", "-c", f"source {path}; complete -C 'vmpack un'"])
        assert b"unpack" in done.stdout


def test_the_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert vmpack(["--show-completion", "bash"]) == 0
    assert capsys.readouterr().out == script("bash")


def test_the_script_is_installed_where_bash_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path))
    assert vmpack(["--install-completion", "bash"]) == 0
    path = tmp_path / "bash-completion/completions/vmpack"
    assert path.read_text() == script("bash")
    assert str(path) in capsys.readouterr().out
