"""From the words of a command line to a command's values, or to an error that says what is wrong.

Small on purpose: loading typer takes longer than ``vmpack info`` may. :mod:`vmpack.cli.typer_app`
reads the same declarations, and a test holds the two to each other. The rules are getopt's: options
and arguments may be mixed, ``--name=value``, ``-nvalue`` and ``-qv`` work, ``--`` ends the options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace

from vmpack.cli.options import COMMON, HELP, Argument, Command
from vmpack.errors import UsageError


def parse(command: Command, words: Sequence[str]) -> SimpleNamespace:
    """``words`` (after the command's name) as values; raises :class:`UsageError`.

    ``help`` is true when they ask for help; nothing else is looked at then.
    """
    if asks_for_help(words):
        return SimpleNamespace(help=True)
    arguments = (*command.arguments, *COMMON)
    hint = f"see 'vmpack {command.name} --help'"
    options, plain = split(words, arguments, hint)
    placed = _place([each for each in arguments if not each.flags], plain, hint)
    return finish(command, {**options, **placed})


def parse_root(
    arguments: Sequence[Argument], words: Sequence[str]
) -> tuple[SimpleNamespace, list[str]]:
    """What stands before the command's name, and the rest; raises :class:`UsageError`."""
    hint = "see 'vmpack --help'"
    options, rest = split(words, arguments, hint, mixed=False)
    return _namespace(arguments, options, hint), rest


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether ``-h`` or ``--help`` stands among the options."""
    before = words[: words.index("--")] if "--" in words else words
    return any(flag in before for flag in HELP.flags)


def finish(command: Command, values: Mapping[str, object]) -> SimpleNamespace:
    """The command's values from the words that stand for them: defaults, choices, conversions.

    ``values`` has for each name that was said a string, a list of strings or ``True``. Raises
    :class:`UsageError`. typer's parser ends here, too.
    """
    arguments = (*command.arguments, *COMMON)
    return _namespace(arguments, values, f"see 'vmpack {command.name} --help'")


def split(
    words: Sequence[str], arguments: Sequence[Argument], hint: str, *, mixed: bool = True
) -> tuple[dict[str, object], list[str]]:
    """The options that are said, by name, and the plain words; raises :class:`UsageError`.

    Without ``mixed`` the first plain word ends the options.
    """
    known = {flag: each for each in (*arguments, HELP) for flag in each.flags}
    found: dict[str, object] = {}
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            for argument, value in _said(word, known, rest, hint):
                _keep(found, argument, value)
            continue
        plain.append(word)
        if not mixed:
            break
    return found, [*plain, *rest]


def _said(
    word: str, known: Mapping[str, Argument], rest: Iterator[str], hint: str
) -> Iterator[tuple[Argument, str | None]]:
    """The options that one word stands for, each with its value; ``None`` for a switch."""
    if word.startswith("--"):
        flag, equals, text = word.partition("=")
        argument = _known(flag, known, hint)
        if not argument.is_switch:
            yield argument, text if equals else _next(argument, rest, hint)
        elif equals:
            raise UsageError("takes no value", field=argument.shown, hint=hint)
        else:
            yield argument, None
        return
    for end, letter in enumerate(word[1:], 2):
        argument = _known(f"-{letter}", known, hint)
        if not argument.is_switch:
            yield argument, word[end:] or _next(argument, rest, hint)
            return
        yield argument, None


def _known(flag: str, known: Mapping[str, Argument], hint: str) -> Argument:
    if flag not in known:
        raise UsageError(f"no such option: {flag}", hint=did_you_mean(flag, known) or hint)
    return known[flag]


def _next(argument: Argument, rest: Iterator[str], hint: str) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError("a value is missing", field=argument.shown, hint=hint)
    return value


def _keep(found: dict[str, object], argument: Argument, value: str | None) -> None:
    if argument.many:
        values = found.setdefault(argument.name, [])
        assert isinstance(values, list)
        values.append(value)
    else:
        found[argument.name] = True if value is None else value


def _place(arguments: Sequence[Argument], words: list[str], hint: str) -> dict[str, object]:
    """The words by the arguments that they stand for; raises if they do not fit."""
    placed: dict[str, object] = {}
    for argument in arguments:
        if argument.many:
            placed[argument.name], words = words, []
        elif words:
            placed[argument.name], *words = words
        elif not argument.optional:
            raise UsageError(f"{argument.metavar} is missing", hint=hint)
    if words:
        raise UsageError(f"unexpected argument: {words[0]}", hint=hint)
    return placed


def _namespace(
    arguments: Sequence[Argument], values: Mapping[str, object], hint: str
) -> SimpleNamespace:
    flags = {flag for each in (*arguments, HELP) for flag in each.flags}
    result = SimpleNamespace(help=bool(values.get("help")))
    for argument in arguments:
        said = values.get(argument.name)
        value: object
        if argument.is_switch:
            value = bool(said)
        elif isinstance(said, (list, tuple)):
            value = [_converted(argument, str(text), flags, hint) for text in said]
        elif said is None:
            value = [] if argument.many else argument.default
        else:
            value = _converted(argument, str(said), flags, hint)
        setattr(result, argument.name, value)
    return result


def _converted(argument: Argument, text: str, flags: set[str], hint: str) -> object:
    if argument.flags and text.partition("=")[0] in flags:
        # "-o --force": nobody means a file of that name.
        raise UsageError(
            f"a value is missing: {text} is an option itself", field=argument.shown, hint=hint
        )
    if argument.choices and text not in argument.choices:
        if argument.name == "output" and "-o" in flags:
            hint = "--output takes human or json; the place to write to is given with -o"
        choices = ", ".join(argument.choices)
        raise UsageError(f"{text!r} is none of {choices}", field=argument.shown, hint=hint)
    try:
        return argument.convert(text)
    except UsageError as exc:
        raise UsageError(exc.message, field=argument.shown, hint=exc.hint) from exc


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint with the names that resemble ``word``, if there are any."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None
