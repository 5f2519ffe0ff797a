"""The XML of a domain that a libvirt of this host, or one that it can reach, has defined.

Through ``virsh``: vmpack neither links libvirt nor needs it otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from urllib.parse import unquote, urlsplit

from vmpack.binary import escape
from vmpack.errors import InputError, UnsafeError, UsageError
from vmpack.hypervisors.base import MAX_CONFIG, ConfigSource

TIMEOUT_S = 60
_HINT = "libvirt:///NAME, or libvirt+URI#NAME such as libvirt+qemu:///session#NAME"
_OFF = "shut off"


def fetch(address: str) -> ConfigSource:
    """The inactive XML of the domain at ``address``, its volumes as the files that they are.

    ``libvirt:///NAME`` is of ``LIBVIRT_DEFAULT_URI`` or the system's libvirt;
    ``libvirt:URI#NAME`` names another. Raises :class:`UsageError` for a bad address,
    :class:`InputError` when there is no virsh or no such domain, and :class:`UnsafeError` for a
    domain that runs: its disks change while they are read.
    """
    uri, name = _parts(address)
    state = _virsh(uri, "domstate", "--domain", name, path=address).decode(errors="replace").strip()
    if state != _OFF:
        raise UnsafeError(
            f"is {escape(state[:40]) or 'in no known state'}: its disks may change while they are"
            " read",
            path=address,
            hint="shut it down first: virsh shutdown; a crashed or saved one needs a clean start",
        )
    text = _virsh(uri, "dumpxml", "--inactive", "--domain", name, path=address)
    return ConfigSource(name, _with_files(uri, text, address))


def _parts(address: str) -> tuple[str, str]:
    """``(connection URI or nothing, domain)``."""
    rest = address.removeprefix("libvirt:")
    if rest.startswith("///"):
        uri, name = os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"), unquote(rest[3:])
    else:
        uri, mark, name = rest.rpartition("#")
        name = unquote(name)
        if not mark or not urlsplit(uri).scheme.startswith("qemu"):
            raise UsageError("is no address of a domain", path=address, hint=_HINT)
    if not name or "/" in name or "\0" in name or not _is_uri(uri):
        raise UsageError("names no domain", path=address, hint=_HINT)
    return uri, name


def _is_uri(uri: str) -> bool:
    """A URI of QEMU's driver on this host; another host's files are not here."""
    return re.fullmatch(r"qemu(\+unix)?:///(system|session)(\?socket=/[^\s&?#]+)?", uri) is not None


def _virsh(uri: str, *words: str, path: str) -> bytes:
    program = shutil.which("virsh")
    if program is None:
        raise InputError(
            "virsh is not installed",
            path=path,
            hint="install it (Debian, Ubuntu: libvirt-clients), or save the XML elsewhere with"
            " virsh dumpxml --inactive and pack that file",
        )
    try:
        done = subprocess.run(  # noqa: S603 - a list of words, no shell
            [program, "--quiet", "--connect", uri, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise InputError(
            f"virsh did not answer: {escape(str(exc)[:200])}", path=path, hint="is libvirtd up?"
        ) from exc
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"virsh said: {escape(said[-1][:300]) if said else done.returncode}",
            path=path,
            hint="virsh --connect URI list --all shows what there is",
        )
    if len(done.stdout) > MAX_CONFIG:
        raise UnsafeError(f"{len(done.stdout)} bytes of XML", path=path)
    return done.stdout


def _with_files(uri: str, text: bytes, path: str) -> bytes:
    """The XML with each storage volume as the file or device that it is on this host."""
    from xml.etree.ElementTree import tostring

    from vmpack.hypervisors import xmlsafe

    root = xmlsafe.parse(text, path=path)
    changed = False
    for disk in root.findall("devices/disk[@type='volume']"):
        source = disk.find("source")
        if source is None or not source.get("pool") or not source.get("volume"):
            continue
        words = ("vol-path", "--pool", source.get("pool", ""), "--vol", source.get("volume", ""))
        place = _virsh(uri, *words, path=path).decode(errors="replace").strip()
        disk.set("type", "file")
        source.attrib = {"file": place}
        changed = True
    return tostring(root, encoding="utf-8") if changed else text
