"""The command line as a typer app: what people look at, made from the commands' declarations.

``--help``, ``vmpack COMMAND --help`` and shell completion come from here. ``vmpack.cli.app`` runs
commands as well; the ``vmpack`` program itself has :mod:`vmpack.cli.parser` read the line, because
loading typer takes longer than many commands do (specs/decisions/0002-typer-and-start-up.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_command

from vmpack.cli import main
from vmpack.cli.console import Console
from vmpack.cli.options import COMMON, Argument, Command
from vmpack.cli.parser import finish
from vmpack.errors import UsageError

PROGRAM = "vmpack"
COMMON_PANEL = "In every command"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
NAME_THE_SHELL = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
"""With it set typer asks which shell completion is for, in place of looking at its parents."""

Carry = Callable[[Command, SimpleNamespace], int]


class Group(TyperGroup):
    """The root command: whatever goes wrong ends in vmpack's own words and exit codes."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)

        def work() -> int:
            try:
                done = super(Group, self).main(
                    words, prog_name or PROGRAM, complete_var, False, windows_expand_args, **extra
                )
            except Exception as exc:
                _in_own_words(exc, words)
                raise
            return int(done or 0)

        name = next((word for word in words if word in main.COMMANDS), None)
        code = main.guarded(work, Console(main.guess(words)), name)
        if standalone_mode:
            sys.exit(code)
        return code


def build(carry_out: Carry = main.execute) -> typer.Typer:
    """A typer app whose commands call ``carry_out`` with what was declared and what was said."""
    made = typer.Typer(
        cls=Group,
        name=PROGRAM,
        help=main.ABOUT,
        epilog="'vmpack COMMAND --help' tells the arguments of a command.",
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    made.callback(invoke_without_command=True)(_root())
    for name, summary in main.COMMANDS.items():
        command = main.load(name)
        about = escape(_paragraphs(command.about))
        made.command(name, help=about, short_help=escape(summary))(_callback(command, carry_out))
    return made


def respond(words: Sequence[str], shell: str | None = None) -> int:
    """Show the help or the completion script that ``words`` ask for; the exit code.

    ``shell`` names the one that completion is for; without it typer finds out.
    """
    if shell is None:
        return _ask(words)
    if shell not in SHELLS:
        raise UsageError(
            f"{shell!r} is none of {', '.join(SHELLS)}", field=words[-1], hint="name a shell"
        )
    before = os.environ.get(NAME_THE_SHELL)
    os.environ[NAME_THE_SHELL] = "1"
    try:
        return _ask([*words, shell])
    finally:
        if before is None:
            del os.environ[NAME_THE_SHELL]
        else:
            os.environ[NAME_THE_SHELL] = before


def _ask(words: Sequence[str]) -> int:
    try:
        # Past Group.main: the caller reports errors.
        return int(TyperGroup.main(_group(), list(words), PROGRAM, None, False) or 0)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1


def _group() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def _in_own_words(exc: Exception, words: Sequence[str]) -> None:
    """Where typer does not understand ``words``: raise the error that our own parser has for it."""
    if isinstance(exc, OSError) or not hasattr(exc, "format_message"):
        return
    main.understand(words)
    raise UsageError(str(exc.format_message()), hint="see 'vmpack --help'") from exc


def _root() -> Callable[..., None]:
    # typer declares the options of completion itself.
    arguments = (main.VERSION, *COMMON)

    def callback(ctx: typer.Context, **values: object) -> None:
        root = _with_names(arguments, values)
        if root.version:
            raise typer.Exit(main.show_version(root))
        if ctx.invoked_subcommand is None:
            main.understand(())
        ctx.obj = root

    context = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    return _signed(callback, [context, *map(_parameter, arguments)])


def _callback(command: Command, carry_out: Carry) -> Callable[..., None]:
    def callback(ctx: typer.Context, **values: object) -> NoReturn:
        said = {name: value for name, value in values.items() if value is not None}
        result = finish(command, said)
        main.inherit(result, ctx.obj)
        raise typer.Exit(carry_out(command, result))

    context = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    arguments = (*command.arguments, *COMMON)
    return _signed(callback, [context, *map(_parameter, arguments)])


def _with_names(arguments: Sequence[Argument], values: Mapping[str, object]) -> SimpleNamespace:
    return SimpleNamespace(**{each.name: values[each.name] for each in arguments})


def _signed(callback: Callable[..., None], parameters: Sequence[Parameter]) -> Callable[..., None]:
    """``callback`` with the signature that typer reads."""
    vars(callback)["__signature__"] = Signature(parameters)
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    return callback


def _parameter(argument: Argument) -> Parameter:
    """One declared argument as a parameter with typer's annotation.

    Values stay strings: :func:`finish` converts them, with our own words for what is wrong.
    """
    annotation, default = _type_of(argument)
    settings: dict[str, Any] = {"help": escape(argument.help), "show_default": False}
    if argument.metavar or argument.is_switch:
        settings["metavar"] = argument.metavar
    if not argument.flags:
        how = typer.Argument(**settings)
    else:
        if argument in COMMON:
            settings["rich_help_panel"] = COMMON_PANEL
        how = typer.Option(*argument.flags, **settings)
    return Parameter(
        argument.name,
        Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, how],
    )


def _type_of(argument: Argument) -> tuple[Any, Any]:
    """The type and the default that make typer take what the declaration says."""
    if argument.is_switch:
        return bool, False
    if argument.many:
        return list[str] | None, None
    if not argument.flags and not argument.optional:
        return str, Parameter.empty
    if argument.choices:
        return _choices(StrEnum, argument) | None, None
    return str | None, None


def _choices(kind: Any, argument: Argument) -> Any:
    """The enumeration of an argument's choices; made at run time, so mypy cannot follow."""
    return kind(argument.name, {each: each for each in argument.choices})


def _paragraphs(text: str) -> str:
    """``text`` with the line breaks inside of paragraphs gone: typer breaks lines itself."""
    return "\n\n".join(" ".join(each.split("\n")) for each in text.split("\n\n"))


app = build()
"""All of the command line. Calling it ends the process with the command's exit code."""
