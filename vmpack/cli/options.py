"""What commands are made of, and the options that they share (each means the same everywhere).

A command declares its arguments as data: the parser, typer (``--help``, shell completion) and the
tables of ``specs/cli-v1.md`` all read the one declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vmpack.errors import UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console


class Argument(NamedTuple):
    """One argument (``flags`` empty) or option of a command."""

    name: str
    """The attribute of the parsed namespace."""
    help: str
    flags: tuple[str, ...] = ()
    metavar: str = ""
    """What stands for the value; an option without one is a switch."""
    choices: tuple[str, ...] = ()
    convert: Callable[[str], object] = str
    """Raises :class:`UsageError`, which gets the flag as its ``field``."""
    default: object = None
    many: bool = False
    """May be repeated (an option), or stands for any number of words (an argument)."""
    optional: bool = False

    @property
    def shown(self) -> str:
        """How messages name it: the longest flag, or the metavar."""
        return max(self.flags, key=len) if self.flags else self.metavar

    @property
    def is_switch(self) -> bool:
        """An option that takes no value."""
        return bool(self.flags) and not self.metavar and not self.choices


class Command(NamedTuple):
    """One command: its arguments, and what it does with them."""

    name: str
    about: str
    """Paragraphs for ``--help``."""
    arguments: tuple[Argument, ...]
    run: Callable[[Console, SimpleNamespace], int | None]
    """Parsed arguments in, exit code out (``None`` is 0); errors are raised."""


def option(*flags: str, name: str, help: str, **more: Any) -> Argument:  # noqa: A002  typer's word
    """An option with these flags."""
    return Argument(name, help, flags, **more)


def whole(text: str) -> int:
    """A positive whole number."""
    if not text.isascii() or not text.isdigit() or int(text[:9]) == 0 or len(text) > 9:
        raise UsageError(f"{text!r} is not a positive whole number")
    return int(text)


def integer(text: str) -> int:
    """A whole number, negative ones included."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise UsageError(f"{text!r} is not a whole number")
    return int(text)


def size(text: str) -> int:
    """Bytes: ``4096``, ``64K``, ``1.5G``."""
    from vmpack.units import parse_size

    try:
        return parse_size(text)
    except UsageError as exc:
        # The flag's name, which the parser adds, says it better.
        raise UsageError(exc.message.removeprefix("size: "), hint=exc.hint) from exc


def seconds(text: str) -> float:
    """A time: ``90``, ``1.5``, ``5m``, ``2h``, at most a week."""
    import re

    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh]?)", text)
    value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0
    if not 0 < value <= 7 * 24 * 3600:
        raise UsageError(
            f"{text!r} is not a time", hint="write seconds, or a number with s, m or h"
        )
    return value


OUTPUT = option(
    "--output",
    name="output",
    choices=("human", "json"),
    help="form of the result on stdout (default: human)",
)
PROGRESS = option(
    "--progress",
    name="progress",
    choices=("auto", "none", "json"),
    help="progress on stderr: a bar on a terminal, nothing, or JSON lines (default: auto)",
)
QUIET = option("-q", "--quiet", name="quiet", help="say nothing but errors and what was asked for")
VERBOSE = option("-v", "--verbose", name="verbose", help="say more about errors: their causes")
HELP = option("-h", "--help", name="help", help="show this message and exit")
COMMON = (OUTPUT, PROGRESS, QUIET, VERBOSE)
"""Every command has these; they may stand before its name, too."""

PATH = Argument("path", "an image, a bundle, or a disk of a bundle (app.vmpack#root)", (), "PATH")
FORMAT = option(
    "-f",
    "--format",
    name="format",
    metavar="FORMAT",
    help="the image's format; raw is never guessed from content",
)
OUTPUT_FORMAT = option(
    "-O", "--output-format", name="output_format", metavar="FORMAT", help="the format to write"
)
FORMAT_OPTION = option(
    "-o",
    name="options",
    metavar="K=V",
    many=True,
    help="option of the format to write (repeat, or separate by commas); K alone is K=on",
)
ALLOW_BACKING = option(
    "--allow-backing",
    name="allow_backing",
    help="follow backing files within the image's own folder",
)
BACKING_DIR = option(
    "--allow-backing-dir",
    name="backing_dirs",
    metavar="DIR",
    many=True,
    help="follow backing files within DIR as well (repeat)",
)
PARENT = option(
    "--parent",
    name="parents",
    metavar="FILE",
    many=True,
    help="the image's backing file or parent, whatever name it gives (repeat for its own parent,"
    " nearest first)",
)
MAX_SIZE = option(
    "--max-size",
    name="max_size",
    metavar="SIZE",
    convert=size,
    help="refuse a source whose virtual disk is larger",
)
FORCE = option("--force", name="force", help="replace what is at the output already")
LEVEL = option(
    "--level",
    name="level",
    metavar="N",
    convert=integer,
    help="compression level: 1 is fastest (default: 3, and 5 where deflate compresses)",
)
ACCEL = option(
    "--accel",
    name="accel",
    choices=("auto", "kvm", "tcg"),
    default="auto",
    help="how the guest's CPU is run: KVM, QEMU's emulation, or KVM only where it works"
    " (default: auto, which is that)",
)
STATE = option(
    "--state",
    name="state",
    metavar="DIR",
    help="the folder of what the machine wrote: run keeps it there and goes on from it the next"
    " time, pack makes a bundle with it",
)
TIMEOUT = option(
    "--timeout",
    name="timeout",
    metavar="TIME",
    convert=seconds,
    help="end the guest after TIME: seconds, or a number with m or h; those in which this host"
    " had no CPU for it do not count",
)
QEMU_ARG = option(
    "--qemu-arg",
    name="qemu_args",
    metavar="ARG",
    many=True,
    help="an argument for QEMU itself (repeat); reports then say that the machine is not the"
    " bundle's alone",
)
DISK = option(
    "--disk",
    name="disks",
    metavar="ID=PATH",
    many=True,
    help="the image of the disk that the config calls ID (repeat)",
)
IDENTITY = option(
    "--identity",
    name="identity",
    choices=("keep", "new", "derive"),
    default="keep",
    help="what becomes of MAC addresses and UUIDs (default: keep)",
)
STRICT = option("--strict", name="strict", help="refuse a machine of which a field would be lost")
REPORT = option(
    "--report",
    name="report",
    metavar="FILE",
    help="write what became of each field to FILE, as JSON",
)
MANIFEST = option(
    "--manifest",
    name="manifest",
    choices=("sha256", "sha1", "none"),
    help="digests in an OVF's manifest (default: sha256)",
)
NO_LINT = option(
    "--no-lint",
    name="no_lint",
    help="do not look for what stands in the machine's way at the target (vmpack lint)",
)
OVF_VERSION = option(
    "--ovf-version",
    name="ovf_version",
    choices=("1.1", "2.0"),
    help="version of an OVF (default: 1.1, which every importer reads)",
)
DIGEST = option("--digest", name="digest", help="compute the digest of the disk's content")
NO_VERIFY = option(
    "--no-verify", name="no_verify", help="do not prove the content that was written"
)


VERIFY_BOOT = option(
    "--verify-boot",
    name="verify_boot",
    help="boot what was written, as the target would show it, and end as vmpack verify does",
)


def target_options(arguments: SimpleNamespace) -> dict[str, str]:
    """The options of a hypervisor as target that were given."""
    given = {"manifest": arguments.manifest, "ovf-version": arguments.ovf_version}
    return {name: value for name, value in given.items() if value is not None}


def pairs(values: Sequence[str], *, flag: str, what: str) -> dict[str, str]:
    """``KEY=VALUE`` options as a mapping; raises :class:`UsageError` for anything else."""
    found: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{text!r} is not {what}", field=flag, hint=f"write {flag} {what}")
        if key in found:
            raise UsageError(f"{key!r} is given twice", field=flag)
        found[key] = value
    return found


def format_options(values: Sequence[str]) -> dict[str, str]:
    """``-o k=v``, repeated or with commas as qemu-img has it (a doubled comma is a comma).

    A bare ``k`` is ``k=on``.
    """
    parts: list[str] = []
    for text in values:
        pieces = text.replace(",,", "\0").split(",")
        parts.extend(piece.replace("\0", ",") for piece in pieces)
    parts = [f"{part}=on" if part and "=" not in part else part for part in parts]
    return pairs(parts, flag="-o", what="KEY=VALUE")


def backing(arguments: SimpleNamespace) -> dict[str, Any]:
    """What names of other files may be followed, as the library takes it; a folder implies both."""
    folders = tuple(arguments.backing_dirs)
    return {
        "allow_backing": arguments.allow_backing or bool(folders),
        "backing_dirs": folders,
        "parents": tuple(arguments.parents),
    }
