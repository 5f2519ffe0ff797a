"""The manifest of an OVF package: a digest of each file, a line each.

Source: DSP0243, "OVF package" (manifest file). Profile: specs/hypervisors/ova.md, OVF-MF-*.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Mapping, Sequence

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError

ALGORITHMS = {
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
}
"""Digest algorithms and how many hexadecimal digits each has."""
MAX_LINES = 65536
_LINE = re.compile(r"\s*([A-Za-z0-9-]{1,20})\s*\((.{1,1024})\)\s*=\s*([0-9A-Fa-f]{1,128})\s*")


def parse(data: bytes, *, path: str) -> dict[str, tuple[str, str]]:
    """File name -> (algorithm, hex digest).

    ``SHA256(x)= h`` and ``SHA256 (x) = h``, any line ends, OpenSSL 3's ``SHA2-256``. Raises
    :class:`DamagedError` for any other line, :class:`UnsupportedError` for another algorithm.
    """
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise DamagedError(f"has more than {MAX_LINES} lines", path=path, clause="OVF-MF-1")
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad(path, number, f"{escape(line[:80])!r} is no digest of a file")
        algorithm = _algorithm(match[1], path)
        name, digest = match[2].strip(), match[3].lower()
        if len(digest) != ALGORITHMS[algorithm]:
            raise _bad(path, number, f"a {algorithm} has {ALGORITHMS[algorithm]} digits")
        known = found.get(name)
        if known is not None and known[0] == algorithm and known[1] != digest:
            raise _bad(path, number, f"{escape(name)!r} has two digests")
        if known is None or ALGORITHMS[known[0]] < ALGORITHMS[algorithm]:
            found[name] = algorithm, digest
    return found


def _algorithm(word: str, path: str) -> str:
    name = word.lower().replace("sha2-", "sha").replace("-", "")
    if name not in ALGORITHMS:
        raise UnsupportedError(
            f"the manifest has digests of {word}, which vmpack cannot check",
            path=path,
            clause="OVF-MF-1",
            hint=f"known are {', '.join(ALGORITHMS)}; without the .mf nothing is checked",
        )
    return name


def _bad(path: str, number: int, message: str) -> DamagedError:
    return DamagedError(
        f"line {number} of the manifest: {message}",
        path=path,
        clause="OVF-MF-1",
        hint="write it again with: openssl sha256 FILE..., or remove the .mf",
    )


def require_config(
    manifest: Mapping[str, tuple[str, str]], name: str, data: bytes, *, path: str
) -> None:
    """The config itself is what the manifest says."""
    if name not in manifest:
        return
    algorithm, wanted = manifest[name]
    digest = hashlib.new(algorithm, data).hexdigest()
    if digest != wanted:
        raise DamagedError(
            f"its {algorithm} is {digest}, the manifest says {wanted}",
            path=path,
            clause="OVF-MF-2",
            hint="the file was changed after it was exported: copy it again, or remove the .mf",
        )


def text(algorithm: str, digests: Sequence[tuple[str, str]]) -> bytes:
    """A manifest of ``(name, hex digest)``: no space before the parenthesis, for VMware."""
    return "".join(f"{algorithm.upper()}({name})= {digest}\n" for name, digest in digests).encode()
