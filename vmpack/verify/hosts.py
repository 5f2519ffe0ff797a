"""The hosts file: where else than here a bundle can be verified.

Profile: specs/hosts-v1.md. A host is a QEMU of this machine (a program, or that of another root),
an accelerator, or another machine that ssh reaches. The file is its user's own: it names programs
that are run.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vmpack.binary import escape
from vmpack.errors import InputError, QemuMissingError, UsageError

if TYPE_CHECKING:
    from vmpack.runner.options import Qemu, RunOptions

__all__ = ["HERE", "Host", "Place", "Ssh", "find_hosts", "hosts_file", "read_hosts"]

HERE = "here"
"""The host that needs no file: this machine, with its first QEMU."""
FILE = "hosts.toml"
PROGRAM = "usr/bin/qemu-system-x86_64"
LOADERS = (
    "lib64/ld-linux-x86-64.so.2",
    "usr/lib64/ld-linux-x86-64.so.2",
    "usr/lib/ld-linux-x86-64.so.2",
    "lib/ld-musl-x86_64.so.1",
)
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "lib")

Place = Literal["here", "qemu", "root", "ssh"]


@dataclass(frozen=True, slots=True)
class Ssh:
    """Another machine, as OpenSSH's client is told of it; vmpack is there, too."""

    target: str
    """``[USER@]HOST``, or an alias of the client's own configuration."""
    port: int | None = None
    identity: str | None = None
    """Path of the private key; the client's own choice when ``None``."""
    config: str | None = None
    """Path of a configuration file to take instead of the user's."""
    vmpack: str = "vmpack"
    """How vmpack is started there."""
    folder: str | None = None
    """Folder there that keeps the bundles; ``None``: one of vmpack's in the user's cache."""


@dataclass(frozen=True, slots=True)
class Host:
    """A place to verify a bundle at."""

    name: str
    accel: Literal["auto", "kvm", "tcg"] | None = None
    """``None``: what was asked for on the command line."""
    qemu: str | None = None
    """Path of a QEMU of this machine."""
    root: str | None = None
    """Folder of another system's root, whose QEMU is run, with its firmware."""
    ssh: Ssh | None = None

    def find_qemu(self) -> Qemu:
        """The QEMU of a host that is this machine.

        Raises :class:`QemuMissingError` and :class:`QemuDiedError`.
        """
        from vmpack.runner.qemu import find_qemu

        if self.qemu is not None:
            return find_qemu((self.qemu,))
        return find_qemu(None if self.root is None else root_prefix(Path(self.root)))

    def options(self, asked: RunOptions) -> RunOptions:
        """``asked`` with this host's own accelerator."""
        from dataclasses import replace

        return asked if self.accel is None else replace(asked, accel=self.accel)


def root_prefix(root: Path) -> tuple[str, ...]:
    """Words that start the QEMU of another root with that root's own loader and libraries.

    No chroot: paths mean the same to it as to everybody else, and no privilege is needed. Raises
    :class:`QemuMissingError`.
    """
    root = Path(os.path.abspath(root))
    program = root / PROGRAM
    if root == Path("/"):
        return (str(program),)
    if not program.is_file():
        what = f"has no {PROGRAM}" if root.is_dir() else "is no folder"
        raise QemuMissingError(
            f"the root {escape(str(root))} {what}",
            path=str(root),
            field="root",
            hint="name the root of a system with QEMU in it; `make hosts` builds some",
        )
    loader = next((path for path in map(root.joinpath, LOADERS) if _inside(path, root)), None)
    if loader is None:
        raise QemuMissingError(
            f"the root {escape(str(root))} has no loader of x86-64 Linux",
            path=str(root),
            field="root",
            hint="name its QEMU with qemu = instead, if it runs without the root's libraries",
        )
    folders = [str(root / name) for name in LIBRARIES if (root / name).is_dir()]
    return (str(loader), "--library-path", ":".join(folders), str(program))


def _inside(path: Path, root: Path) -> bool:
    """Whether it is a file of that root: an absolute link there means this machine's file."""
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def hosts_file(named: str | os.PathLike[str] | None = None) -> Path | None:
    """The file that is meant: ``named``, else ``hosts.toml`` here, else the user's own."""
    if named is not None:
        return Path(named)
    return next((path for path in _places() if path.is_file()), None)


def _places() -> tuple[Path, Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(FILE), Path(home) / "vmpack" / FILE


def read_hosts(path: str | os.PathLike[str]) -> dict[str, Host]:
    """The hosts of a file, by name, in its order; :data:`HERE` first.

    Raises :class:`UsageError` with the field and what was probably meant, and :class:`InputError`.
    """
    from vmpack.verify.hosts_model import read

    return {HERE: Host(HERE), **read(path)}


def find_hosts(names: Sequence[str], file: str | os.PathLike[str] | None = None) -> list[Host]:
    """The hosts of those names, in that order; none named is this machine alone.

    A file is only read for names other than :data:`HERE`. Raises :class:`UsageError` for a name
    that nobody defined or that comes twice.
    """
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is named twice", field="--on", hint="name each host once")
    if not set(names) - {HERE}:
        return [Host(HERE)]
    path = hosts_file(file)
    if path is None:
        places = " and ".join(str(place) for place in _places())
        raise UsageError(
            f"there is no hosts file that could define {escape(names[0])}",
            field="--on",
            hint=f"looked for {places}; name one with --hosts FILE",
        )
    known = read_hosts(path)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, known, 1, 0.5)
        raise UsageError(
            f"no host is called {escape(unknown)}",
            path=str(path),
            field="--on",
            hint=f"did you mean {near[0]}?" if near else f"known there: {', '.join(known)}",
        )
    return [known[name] for name in names]


def resolved(path: str, folder: Path) -> str:
    """A path of the file: ``~`` is the user's home, a relative one starts at the file's folder."""
    return os.path.abspath(folder / os.path.expanduser(path))


def require_file(path: Path) -> None:
    """Raise :class:`InputError` for a hosts file that is a folder."""
    if path.is_dir():
        raise InputError("is a folder", path=str(path), hint=f"name a file: {path / FILE}")
