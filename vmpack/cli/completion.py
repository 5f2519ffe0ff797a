"""Shell completion scripts, made from the commands' declarations.

They are plain scripts: pressing Tab starts no process of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from vmpack.cli.app import COMMANDS, ROOT_OPTIONS, load
from vmpack.cli.options import COMMON, Argument

BASH = """\
# vmpack completion for bash (and zsh, through bashcompinit): vmpack --show-completion SHELL
_vmpack() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} word command= options
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
            {names}) command=$word; break ;;
        esac
    done
    case $command:$prev in
{choices}
    esac
    case $command in
{options}
    esac
    if [[ -z $command || $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2>/dev/null
    fi
}}
complete -F _vmpack vmpack
"""


def script(shell: str) -> str:
    """The completion script of ``bash``, ``zsh`` or ``fish``."""
    if shell == "fish":
        return "\n".join(_fish()) + "\n"
    bash = _bash()
    return bash if shell == "bash" else f"autoload -Uz bashcompinit && bashcompinit\n{bash}"


def install(shell: str) -> str:
    """Write the script to where ``shell`` looks by itself, for this user; the path.

    bash looks there where its bash-completion package is installed. Raises ``OSError``.
    """
    home = os.path.expanduser("~")
    if shell == "fish":
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        path = os.path.join(base, "fish", "completions", "vmpack.fish")
    else:
        base = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
        path = os.path.join(base, "bash-completion", "completions", "vmpack")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(script(shell))
    return path


def _arguments(name: str) -> tuple[Argument, ...]:
    return (*load(name).arguments, *COMMON)


def _flags(arguments: tuple[Argument, ...]) -> list[str]:
    return [flag for argument in arguments for flag in argument.flags] + ["--help"]


def _bash() -> str:
    choices = [
        f"        {name}:{'|'.join(f'{name}:' * bool(i) + f for i, f in enumerate(a.flags))})"
        f' COMPREPLY=($(compgen -W "{" ".join(a.choices)}" -- "$cur")); return ;;'
        for name in ("", *COMMANDS)
        for a in (_arguments(name) if name else ROOT_OPTIONS)
        if a.choices and a.flags
    ]
    options = [
        f'        {name}) options="{" ".join(_flags(_arguments(name)))}" ;;' for name in COMMANDS
    ]
    root = " ".join((*COMMANDS, *_flags(ROOT_OPTIONS)))
    options.append(f'        "") options="{root}" ;;')
    return BASH.format(
        names="|".join(COMMANDS), choices="\n".join(choices), options="\n".join(options)
    )


def _fish() -> Iterator[str]:
    yield "# vmpack completion for fish: vmpack --show-completion fish"
    for name, summary in COMMANDS.items():
        yield f"complete -c vmpack -n __fish_use_subcommand -f -a {name} -d '{_quoted(summary)}'"
    for argument in ROOT_OPTIONS:
        yield _fish_option("__fish_use_subcommand", argument)
    for name in COMMANDS:
        for argument in _arguments(name):
            if argument.flags:
                yield _fish_option(f"__fish_seen_subcommand_from {name}", argument)


def _fish_option(condition: str, argument: Argument) -> str:
    words = ["complete -c vmpack", f"-n '{condition}'"]
    words += [f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in argument.flags]
    if argument.choices:
        words.append(f"-x -a '{' '.join(argument.choices)}'")
    elif not argument.is_switch:
        words.append("-r")
    words.append(f"-d '{_quoted(argument.help)}'")
    return " ".join(words)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
