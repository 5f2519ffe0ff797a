"""QEMU's own tools as the oracle: every installed qemu-img, and windows into bundles."""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.build.cache import hosts_dir
from tests.support.tools import find_tool, run

Spec = str | os.PathLike[str] | Mapping[str, Any]
"""What to open: a path, or a block node as JSON (for bundles, and to pin the driver)."""


@dataclass(frozen=True)
class QemuImg:
    """One installed qemu-img. ``prefix`` is the argv that starts it; paths need no mapping."""

    name: str
    version: tuple[int, ...]
    prefix: tuple[str, ...]

    def run(
        self, *args: Spec, timeout_s: float = 60, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``qemu-img args``; a mapping becomes a ``json:`` file name."""
        words = [filename(arg) for arg in args]
        return run([*self.prefix, *words], timeout_s=timeout_s, check=check, stdin=stdin)

    def json(self, *args: Spec) -> Any:
        """The JSON that ``qemu-img args --output=json`` prints."""
        return json.loads(self.run(args[0], "--output=json", *args[1:]).stdout)

    def assert_clean(self, spec: Spec, *, fmt: str | None = None) -> None:
        """``qemu-img check`` finds no error and no leak."""
        done = self.run("check", *_format(fmt, spec), spec, check=False)
        text = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{self.name}: check ended with {done.returncode}\n{text}"

    def assert_identical(
        self, a: Spec, b: Spec, *, fmt_a: str | None = None, fmt_b: str | None = None
    ) -> None:
        """``qemu-img compare --strict`` sees the same content and the same size."""
        formats = [*_format(fmt_a, a), *_format(fmt_b, b, "-F")]
        done = self.run("compare", *formats, a, b, check=False, timeout_s=300)
        text = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{self.name}: compare ended with {done.returncode}\n{text}"
        assert "size mismatch" not in text.lower(), f"{self.name}: {text}"


def _format(fmt: str | None, spec: Spec, flag: str = "-f") -> list[str]:
    # A json: name carries its driver: -f beside it would wrap it in a second one.
    return [] if fmt is None or isinstance(spec, Mapping) else [flag, fmt]


def filename(spec: Spec) -> str:
    """``spec`` as qemu-img takes it on its command line."""
    if isinstance(spec, Mapping):
        return "json:" + json.dumps(spec)
    return os.fspath(spec)


def window(path: str | os.PathLike[str], offset: int, size: int) -> dict[str, Any]:
    """The block node that opens the disk at ``[offset, offset + size)`` of a bundle.

    Read-only on all three layers: a view opened writable destroys its bundle. On a block device
    the innermost layer is QEMU's ``host_device``.
    """
    device = stat.S_ISBLK(os.stat(path).st_mode)
    return {
        "driver": "qcow2",
        "read-only": True,
        "backing": None,
        "file": {
            "driver": "raw",
            "offset": offset,
            "size": size,
            "read-only": True,
            "file": {
                "driver": "host_device" if device else "file",
                "filename": os.path.abspath(os.fspath(path)),
                "read-only": True,
            },
        },
    }


def image(path: str | os.PathLike[str], driver: str) -> dict[str, Any]:
    """The block node of an image whose format is known: never probed, opened read-only."""
    file = {"driver": "file", "filename": os.path.abspath(os.fspath(path)), "read-only": True}
    return {"driver": driver, "read-only": True, "file": file}


def qemu_io(spec: Spec, *commands: str, timeout_s: float = 60) -> str:
    """What ``qemu-io`` prints for commands such as ``read -P 0 0 512``; opened read-only."""
    program = find_tool("qemu-io")
    assert program is not None, "qemu-io comes with qemu-img in Debian's qemu-utils"
    words = [word for command in commands for word in ("-c", command)]
    done = run([program, "-r", *words, filename(spec)], timeout_s=timeout_s)
    return done.stdout.decode(errors="replace")


@functools.cache
def qemu_imgs() -> tuple[QemuImg, ...]:
    """Every qemu-img here: the machine's own first, then those that `make hosts` built."""
    found = []
    own = find_tool("qemu-img")
    if own is not None:
        found.append(_identify("machine", (own,)))
    found.extend(
        _identify(root.name, loader_prefix(root, "usr/bin/qemu-img"))
        for root in sorted(hosts_dir().glob("*"))
        if not root.name.startswith(".") and (root / "usr/bin/qemu-img").exists()
    )
    return tuple(found)


def loader_prefix(root: Path, program: str) -> tuple[str, ...]:
    """argv that runs a program of another Debian root with that root's own libraries.

    No chroot, so paths mean the same to it as to everybody else, and no privilege is needed.
    """
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "usr/lib"]
    return (
        os.fspath(root / "usr/lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        ":".join(os.fspath(folder) for folder in libraries),
        os.fspath(root / program),
    )


def _identify(name: str, prefix: tuple[str, ...]) -> QemuImg:
    text = run([*prefix, "--version"]).stdout.decode()
    match = re.search(r"version (\d+(?:\.\d+)*)", text)
    assert match is not None, f"{prefix[-1]} says {text!r}"
    version = tuple(int(part) for part in match[1].split("."))
    return QemuImg(f"{name}-{match[1]}", version, prefix)
