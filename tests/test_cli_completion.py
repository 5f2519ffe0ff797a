"""Shell completion, asked for as the shells ask: typer's scripts and vmpack's own answers."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tools import find_tool, run
from vmpack.cli.main import COMMANDS
from vmpack.cli.main import run as vmpack
from vmpack.cli.typer_app import NAME_THE_SHELL, SHELLS

PROGRAM = Path(sys.executable).with_name("vmpack")


@pytest.fixture
def complete(tmp_path: Path, require_tool: Callable[[str], str]) -> Callable[[str], list[str]]:
    """What bash offers for the last word of a line: its own programmable completion, driven."""
    bash = require_tool("bash")
    script = tmp_path / "completion.bash"
    script.write_bytes(run([sys.executable, "-m", "vmpack", "--show-completion", "bash"]).stdout)
    folder = tmp_path / "folder"
    folder.mkdir()

    def ask(line: str) -> list[str]:
        words = shlex.join(line.split(" "))
        # compgen cannot run a function that reads the line, so readline's variables are set here;
        # "-o default" of the registration is file names where the function offers nothing.
        code = (
            f"source {shlex.quote(str(script))}; spec=$(complete -p vmpack); "
            f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
            f"[[ $spec =~ -F\\ ([^ ]+) ]]; ${{BASH_REMATCH[1]}} {shlex.quote(str(PROGRAM))}; "
            'if [[ ${#COMPREPLY[@]} -eq 0 && $spec == *"-o default"* ]]; then '
            'COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")); fi; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = run([bash, "--norc", "-c", code], cwd=folder)
        assert done.stderr == b""
        return sorted(done.stdout.decode().split())

    return ask


def test_bash_offers_commands(complete: Callable[[str], list[str]]) -> None:
    assert complete("vmpack ") == sorted(COMMANDS)
    assert complete("vmpack un") == ["unpack"]
    assert complete("vmpack --output json co") == ["compare", "convert"]


def test_bash_offers_options(complete: Callable[[str], list[str]]) -> None:
    assert complete("vmpack pack --clu") == ["--cluster-size"]
    assert complete("vmpack info x --dig") == ["--digest"]
    assert {"--output", "--version", "--help"} <= set(complete("vmpack --"))


def test_bash_offers_choices(complete: Callable[[str], list[str]]) -> None:
    assert complete("vmpack info --output ") == ["human", "json"]
    assert complete("vmpack --progress ") == ["auto", "json", "none"]
    assert complete("vmpack pack a.raw --identity d") == ["derive"]


def test_bash_offers_files(complete: Callable[[str], list[str]], tmp_path: Path) -> None:
    (tmp_path / "folder" / "disk.raw").touch()
    for line in ("vmpack info di", "vmpack pack -o di", "vmpack compare a.raw di"):
        assert complete(line) == ["disk.raw"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vmpack(["--show-completion", shell]) == 0
    assert "_VMPACK_COMPLETE" in capsys.readouterr().out
    assert NAME_THE_SHELL not in os.environ


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_script(shell: str, tmp_path: Path) -> None:
    path = tmp_path / f"completion.{shell}"
    path.write_bytes(run([sys.executable, "-m", "vmpack", "--show-completion", shell]).stdout)
    if find_tool(shell):
        # zsh needs compinit's functions, as a user's .zshrc has them.
        before = "autoload -Uz compinit && compinit -u; " if shell == "zsh" else ""
        done = run([shell, "-c", f"{before}source {path}"], env={"HOME": str(tmp_path)})
        assert done.stderr == b""


def test_it_is_installed_for_the_user(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    bash = require_tool("bash")
    env = {"HOME": str(tmp_path), "PATH": os.defpath}
    done = run([PROGRAM, "--install-completion", "bash"], env=env)
    assert b"bash completion installed" in done.stdout
    asked = run([bash, "--norc", "-c", ". ~/.bashrc; complete -p vmpack"], env=env)
    assert b"-F _vmpack_completion" in asked.stdout


def test_without_a_name_the_shell_is_found_out(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    bash = require_tool("bash")
    # "; true" keeps bash from becoming the program: it has to be the parent that is looked at.
    done = run([bash, "--norc", "-c", f"{shlex.quote(str(PROGRAM))} --show-completion; true"])
    assert b"complete_bash" in done.stdout
