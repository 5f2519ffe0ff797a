"""From a command's declaration to argparse, and from argparse's complaints to our own errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from vmpack.cli.options import COMMON, Argument, Command
from vmpack.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse that raises :class:`UsageError` in place of printing and exiting."""

    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)
        field, text = match.groups() if match else (None, message)
        if field is not None:
            field = max(field.split("/"), key=len)
        missing = text.removeprefix("the following arguments are required: ")
        if missing != text:
            text = f"{missing} is missing"
        raise UsageError(text, field=field, hint=self.hint(field))

    def hint(self, field: str | None = None) -> str:
        """Where to look next, or what one usually meant."""
        if field == "--output" and any("-o" in action.option_strings for action in self._actions):
            return "--output takes human or json; the place to write to is given with -o"
        return f"see '{self.prog} --help'"


def build(command: Command) -> Parser:
    """The parser of ``command``, common options included; its help tells everything."""
    parser = _options_parser(command)
    words = parser.add_argument_group("arguments")
    # Words are told first, as they stand first in the mind.
    groups = parser._action_groups
    groups.insert(0, groups.pop())
    for argument in command.arguments:
        if not argument.flags:
            nargs = "*" if argument.many else "?" if argument.optional else None
            words.add_argument(
                argument.name, metavar=argument.metavar, nargs=nargs, help=argument.help
            )
    return parser


def parse(command: Command, words: Sequence[str]) -> argparse.Namespace:
    """``words`` (after the command's name) as a namespace; raises :class:`UsageError`.

    Options and arguments may be mixed; what follows ``--`` is arguments.
    """
    end = words.index("--") if "--" in words else len(words)
    parser = _options_parser(command)
    _reject_unknown(parser, words[:end], (*command.arguments, *COMMON))
    namespace, rest = parser.parse_known_args(words[:end])
    plain = [argument for argument in command.arguments if not argument.flags]
    _place(plain, [*rest, *words[end + 1 :]], namespace, parser.hint())
    return namespace


def _options_parser(command: Command) -> Parser:
    parser = _parser(f"vmpack {command.name}", command.about)
    options = parser.add_argument_group("options")
    for argument in command.arguments:
        if argument.flags:
            _add(options, argument)
    everywhere = parser.add_argument_group("in every command")
    for argument in COMMON:
        _add(everywhere, argument)
    _add_help(everywhere)
    return parser


def _place(
    arguments: Sequence[Argument], words: list[str], into: argparse.Namespace, hint: str
) -> None:
    """Give the words to the arguments, in order; raises :class:`UsageError` if they do not fit."""
    for argument in arguments:
        value: object = argument.default
        if argument.many:
            value, words = [_converted(argument, word) for word in words], []
        elif words:
            value, *words = _converted(argument, words[0]), *words[1:]
        elif not argument.optional:
            raise UsageError(f"{argument.metavar} is missing", hint=hint)
        setattr(into, argument.name, value)
    if words:
        raise UsageError(f"unexpected argument: {words[0]}", hint=hint)


def parse_root(arguments: Sequence[Argument], words: Sequence[str]) -> argparse.Namespace:
    """What stands before the command's name, and ``rest``; raises :class:`UsageError`."""
    valued = [flag for a in arguments if not a.is_switch for flag in a.flags]
    ahead: list[str] = []
    for word in words:
        if not word.startswith("-") and not (ahead and ahead[-1] in valued):
            break
        ahead.append(word)
    parser = _root_parser(arguments, "")
    _reject_unknown(parser, ahead, arguments)
    namespace = parser.parse_args(ahead)
    namespace.rest = list(words[len(ahead) :])
    return namespace


def root_help(arguments: Sequence[Argument], about: str, commands: Mapping[str, str]) -> str:
    """The text of ``vmpack --help``."""
    lines = "\n".join(f"  {name:<10} {summary}" for name, summary in commands.items())
    parser = _root_parser(arguments, f"{about}\n\ncommands:\n{lines}")
    parser.usage = "vmpack COMMAND [ARGUMENT ...]"
    parser.epilog = "'vmpack COMMAND --help' tells the arguments of a command."
    return parser.format_help()


def _root_parser(arguments: Sequence[Argument], about: str) -> Parser:
    parser = _parser("vmpack", about)
    options = parser.add_argument_group("options")
    for argument in arguments:
        _add(options, argument)
    _add_help(options)
    return parser


def _parser(prog: str, about: str) -> Parser:
    return Parser(
        prog=prog,
        description=about,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=32
        ),
        allow_abbrev=False,
        add_help=False,
    )


def _add_help(group: Any) -> None:
    group.add_argument("-h", "--help", action="store_true", help="show this message and exit")


def _add(group: Any, argument: Argument) -> None:
    """One option as argparse has it."""
    settings: dict[str, Any] = {"dest": argument.name, "help": argument.help}
    if argument.is_switch:
        settings |= {"action": "store_true"}
    else:
        settings |= {"type": partial(_converted, argument), "default": argument.default}
        if argument.choices:
            settings["choices"] = argument.choices
        if argument.metavar:
            settings["metavar"] = argument.metavar
        if argument.many:
            settings |= {"action": "append", "default": []}
    group.add_argument(*argument.flags, **settings)


def _converted(argument: Argument, text: str) -> object:
    try:
        return argument.convert(text)
    except UsageError as exc:
        raise UsageError(exc.message, field=argument.shown, hint=exc.hint) from exc


def _reject_unknown(parser: Parser, words: Sequence[str], arguments: Sequence[Argument]) -> None:
    """Name an unknown option before anything else: what follows from it would only confuse."""
    known = [flag for argument in arguments for flag in argument.flags] + ["-h", "--help"]
    for word in words:
        if word == "--":
            return
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if word.startswith("-") and word != "-" and name not in known:
            shown = name if name.startswith("--") else word
            raise UsageError(
                f"no such option: {shown}", hint=did_you_mean(shown, known) or parser.hint()
            )


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the names that resemble ``word``, if there are any."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None
