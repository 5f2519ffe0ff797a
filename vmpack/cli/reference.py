"""The generated parts of ``specs/cli-v1.md``: options and exit codes, from the code that has them.

``python -m vmpack.cli.reference specs/cli-v1.md`` brings the page up to date; a test compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vmpack.cli.errors import exit_code
from vmpack.cli.main import ROOT_OPTIONS, load
from vmpack.cli.options import COMMON, Argument
from vmpack.errors import VmpackError

BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def exit_code_table() -> str:
    """The kinds of error with their exit codes and meanings, as a Markdown table."""
    lines = [
        "| kind | exit code | under `check` | under `compare` | meaning |",
        "|---|---|---|---|---|",
    ]
    for cls in _error_classes():
        codes = [exit_code(cls(""), command) for command in (None, "check", "compare")]
        meaning = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| {' | '.join([f'`{cls.kind}`', *map(str, codes), meaning])} |")
    return "\n".join(lines) + "\n"


def _error_classes() -> list[type[VmpackError]]:
    """One class for each kind, in order of exit code and kind."""
    found: dict[str, type[VmpackError]] = {}
    pending = list(VmpackError.__subclasses__())
    while pending:
        cls = pending.pop(0)
        if cls.__module__.startswith("vmpack."):
            found.setdefault(cls.kind, cls)
        pending += cls.__subclasses__()
    return sorted(found.values(), key=lambda cls: (cls.exit_code, cls.kind))


def options_table(name: str) -> str:
    """The arguments of a command (or of ``common`` and ``root``) as a Markdown table."""
    if name == "common":
        arguments: tuple[Argument, ...] = COMMON
    elif name == "root":
        arguments = tuple(each for each in ROOT_OPTIONS if each not in COMMON)
    else:
        arguments = load(name).arguments
    lines = ["| argument | meaning |", "|---|---|"]
    lines += [f"| {_shown(argument)} | {argument.help} |" for argument in arguments]
    return "\n".join(lines) + "\n"


def _shown(argument: Argument) -> str:
    value = argument.metavar or "\\|".join(argument.choices)
    if not argument.flags:
        word = f"{value}..." if argument.many else value
        return f"`[{word}]`" if argument.optional or argument.many else f"`{word}`"
    return ", ".join(f"`{flag} {value}`" if value else f"`{flag}`" for flag in argument.flags)


def refresh(page: str) -> str:
    """``page`` with its generated blocks as the code has them now."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        text = exit_code_table() if name == "exit-codes" else options_table(name)
        return f"{match[1]}{text}{match[3]}"

    return BLOCK.sub(block, page)


def _main() -> None:
    path = Path(sys.argv[1])
    path.write_text(refresh(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main()
